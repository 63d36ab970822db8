"""Bytes to SSE frames: the splitter against the WHATWG rules, written down once more and as simply as they go.

`whatwg` below is that reference: the whole body at once, line by line, in the words of HTML 9.2.6. `FrameSplitter` has
to give the same frames however the body is cut, and differs in the two points that its docstring names.
"""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.providers.sse import Frame, FrameSplitter, FrameTooLarge, read_frames

BOM = b"\xef\xbb\xbf"

many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def whatwg(body: bytes) -> tuple[list[Frame], list[Frame]]:
    """(the frames of a body, the frame that its end leaves unfinished: none by the specification, given by us)"""
    *lines, last = re.split(rb"\r\n|\n|\r", body.removeprefix(BOM))
    frames: list[Frame] = []
    event, data = b"", b""

    def interpret(line: bytes) -> None:
        """One line that is not empty. `id` and `retry` would be read here: see the second divergence."""
        nonlocal event, data
        field, _, value = line.partition(b":")  # a comment is a line whose field has no name
        value = value[1:] if value.startswith(b" ") else value
        if field == b"event":
            event = value
        elif field == b"data":
            data += value + b"\n"

    def dispatch() -> list[Frame]:
        nonlocal event, data
        frame = [Frame(event, data.removesuffix(b"\n"))] if data else []
        event, data = b"", b""
        return frame

    for line in lines:
        if line:
            interpret(line)
        else:
            frames += dispatch()
    if last:
        interpret(last)
    return frames, dispatch()


def split(*chunks: bytes) -> tuple[list[Frame], list[Frame]]:
    """(what `feed` gave for the chunks, what `finish` gave)"""
    splitter = FrameSplitter()
    return [frame for chunk in chunks for frame in read_frames(splitter.feed(chunk))], read_frames(splitter.finish())


def cut(body: bytes, places: list[int]) -> list[bytes]:
    """`body` in pieces; two places that are the same make an empty piece."""
    ends = [*sorted(places), len(body)]
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def one_by_one(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


# What bodies are made of: whole lines and parts of lines, every line end, and what must not be taken for one.
LINES = (
    b"data: {}", b"data:", b"data", b"data: a: b", b"data:  two", b"event: error", b"event:", b"event", b"id: 1", b"id",
    b"retry: 30", b": comment", b":", b"x-trace: 7", b"dataX: 1", b" data: 1", b"DATA: 1", b"{}", b" ",
)  # fmt: skip
ENDS = (b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\r\n\r", b"\n\r\n")
TRAPS = (BOM, b"\xef\xbb", b"\xef", b"\x00", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\x0c", "語".encode(), b"\xff")
pieces = st.sampled_from(LINES + ENDS + TRAPS)
bodies = st.one_of(
    st.lists(pieces, max_size=24).map(b"".join),
    # Every other piece a line end, so that most examples have several frames.
    st.lists(st.tuples(pieces, st.sampled_from(ENDS)), max_size=16).map(
        lambda pairs: b"".join(piece + end for piece, end in pairs)
    ),
    st.binary(max_size=60),
)


@many
@given(bodies)
def test_a_whole_body_gives_the_frames_of_the_specification(body: bytes) -> None:
    assert split(body) == whatwg(body)


@many
@given(bodies)
def test_byte_by_byte_gives_the_same(body: bytes) -> None:
    assert split(*one_by_one(body)) == whatwg(body)


@many
@given(bodies, st.data())
def test_any_cutting_gives_the_same(body: bytes, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=6))
    assert split(*cut(body, places)) == whatwg(body)


MIXED = (
    BOM + b": hello\r\n\r\nevent: message_start\r\ndata: {\r\ndata: }\r\n\r\n"
    b"id: 7\rretry: 1\rdata:x\r\rdata\n\ndata:\ndata:\n\n\n\n: nothing\n\nevent: lonely\n\ndata: last"
)
FRAMES = [Frame(b"message_start", b"{\n}"), Frame(b"", b"x"), Frame(b"", b""), Frame(b"", b"\n")]


def test_every_rule_in_one_body_cut_at_every_position() -> None:
    for at in range(len(MIXED) + 1):
        assert split(MIXED[:at], MIXED[at:]) == (FRAMES, [Frame(b"", b"last")]), f"cut at {at}"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_frame_is_given_as_soon_as_its_blank_line_is_there(end: bytes) -> None:
    splitter = FrameSplitter()
    assert splitter.feed(b"data: 1" + end) == b""
    # The CR alone ends the line: waiting for the LF that may follow would hold the token back until the next one.
    assert splitter.feed(end[:1]) == b"data: 1\n\n"
    assert splitter.feed(end[1:] + b"data: 2" + end + end) == b"data: 2\n\n"


def test_line_ends_of_unicode_are_text() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh".encode()
    assert split(b"data: " + text + b"\n\n") == ([Frame(b"", text)], [])


class TestDivergences:
    """Where we differ from the specification on purpose."""

    @pytest.mark.parametrize("rest", [b"data: 1", b"data: 1\n", b"data: 1\r", b"data: 1\r\n"])
    def test_a_block_that_the_end_leaves_open_is_given_by_finish(self, rest: bytes) -> None:
        assert split(b"data: 0\n\n" + rest) == ([Frame(b"", b"0")], [Frame(b"", b"1")])

    @pytest.mark.parametrize("rest", [b"", b"\n", b": ping\n", b"event: message_stop", b"\xef\xbb", b"dat"])
    def test_but_not_where_it_has_no_data(self, rest: bytes) -> None:
        assert split(rest) == ([], [])

    def test_id_and_retry_are_not_kept(self) -> None:
        frames, _ = split(b"id: 5\nretry: 10\ndata: 1\n\ndata: 2\n\n")
        assert frames == [Frame(b"", b"1"), Frame(b"", b"2")]
        assert Frame._fields == ("event", "data")


class TestLimits:
    def test_a_frame_without_end_is_refused_beyond_16_mib(self) -> None:
        splitter = FrameSplitter()
        mib = bytes(1024 * 1024)
        assert [splitter.feed(mib) for _ in range(16)] == [b""] * 16
        with pytest.raises(FrameTooLarge):
            splitter.feed(b"1")

    def test_the_limit_is_of_one_frame_not_of_the_body(self) -> None:
        splitter = FrameSplitter()
        frame = b"data: " + bytes(1024 * 1024) + b"\n\n"
        assert [len(read_frames(splitter.feed(frame))) for _ in range(17)] == [1] * 17

    def test_the_cost_is_linear_in_the_bytes_however_small_the_chunks(self) -> None:
        def seconds(size: int) -> float:
            """CPU time for a frame of `size` bytes, each in a chunk of its own."""
            splitter = FrameSplitter()
            splitter.feed(b"data: ")
            before = time.process_time()
            for _ in range(size):
                splitter.feed(b"x")
            assert splitter.feed(b"\n\n") == b"data: " + b"x" * size + b"\n\n"
            return time.process_time() - before

        # Twice the bytes cost twice the time (measured: 2.0); looking again at all there is with each would make it 4.
        assert seconds(2 * 1024 * 1024) < 3 * seconds(1024 * 1024)
