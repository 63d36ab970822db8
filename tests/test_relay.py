"""A provider's own frames, passed on to a client of the same protocol: unchanged, but for what such a client must not
see.

What goes through and what does not is `TABLE`, one idea a row. Two things hold for any bytes at all, and are asserted
over every recording and every variation of test_readers.py: how a body is cut changes nothing, and what was relayed
reads back as the same answer. Over HTTP our route is held against the provider itself, asked the same.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple

import anthropic
import msgspec
import openai
import pytest
import requests
from conftest import Service
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_readers import (
    BEGIN,
    CASES,
    CREATED,
    DONE,
    END,
    HEY,
    HI,
    OURS,
    READERS,
    SAID,
    STOP,
    TEXT,
    Case,
    Seen,
    block,
    chunk,
    data,
    event,
    every_case,
    message_delta,
    mutated,
    one_by_one,
    said,
    shown,
    tokens,
)

from app.books import Books
from app.errors import ProviderError
from app.events import Event, Failed, Finished, Started, TextDelta, Usage
from app.formats import FORMATS
from app.providers.frame_reader import FrameReader
from app.providers.openai_chat_reader import OpenAIChatReader
from app.providers.sse import read_frames
from app.request import ChatRequest, Message
from app.testing import FakeProvider, answer

OPENAI, RESPONSES, ANTHROPIC = "openai_chat", "openai_responses", "anthropic_messages"


def relayed(wire: str, *chunks: bytes, error: ProviderError | None = None, **options: Any) -> tuple[Seen, bytes]:
    """The events of a body that came in these chunks, and the frames that a client gets; taken after every chunk."""
    reader = READERS[wire](OURS, relay=True, **options)
    events: list[Event] = []
    frames = b""
    for read in [*chunks, None]:
        events += reader.finish(error) if read is None else reader.feed(read)
        frames += reader.frames or b""
    return shown(events), frames


def sent(wire: str, *chunks: bytes, include_usage: bool) -> tuple[list[Event], bytes]:
    """The counted events of a body that came in these chunks, and what the service sends for it."""
    request = ChatRequest(dialect="native", messages=(Message.of("user", "Hi there"),), include_usage=include_usage)
    options = {"relay_usage": include_usage} if wire == OPENAI else {}
    reader = READERS[wire](OURS, relay=True, **options)
    books = Books(request, lambda: 0.0)
    encoder = FORMATS[wire]().encoder(request)
    events: list[Event] = []
    body = b""
    for read in [*chunks, None]:
        counted = books.feed(reader.finish() if read is None else reader.feed(read))
        frames = reader.frames
        assert frames is not None
        events += counted
        if counted or frames:
            body += encoder.relay(frames, counted)
    return events, body


def read_back(wire: str, body: bytes) -> list[Event]:
    reader: FrameReader = READERS[wire](OURS)
    return reader.feed(body) + reader.finish()


def content(events: list[Event]) -> list[Event | type[Failed]]:
    """What the two sides of a relay have in common: usage apart, and a failure without its words."""
    plain = [
        msgspec.structs.replace(event, usage=None, timings=None) if isinstance(event, Finished) else event
        for event in events
        if not isinstance(event, Usage)
    ]
    return [Failed if isinstance(event, Failed) else event for event in plain]


def count(events: list[Event]) -> list[tuple[int, int]]:
    return [(event.input_tokens, event.output_tokens) for event in events if isinstance(event, Usage)]


class Row(NamedTuple):
    """`told` is what the provider sends, `shown` the frames of it that a client gets, `events` what we read."""

    wire: str
    told: bytes
    shown: bytes
    options: dict[str, Any] = {}  # noqa: RUF012  a NamedTuple's default, never written to


def raw(text: str | bytes) -> bytes:
    """A frame of these very characters."""
    return b"data: " + (text.encode() if isinstance(text, str) else text) + b"\n\n"


ASKED: dict[str, Any] = {"relay_usage": True}
OURSELVES: dict[str, Any] = {"keep_model": True}
WHOLE = HI + STOP
RICH = chunk(
    {"content": "Hi", "annotations": [{"type": "x"}]},
    service_tier="default",
    system_fingerprint="fp_1",
    x_groq={"id": "req_1", "usage": {"total_time": 0.1}},
    choices=[
        {
            "index": 0,
            "delta": {"content": "Hi"},
            "logprobs": {"content": [{"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}]},
            "finish_reason": None,
        }
    ],
)
SIGNED = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Hm"},
    {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbc"},
)
CITED = block(1, {**TEXT, "citations": []}, {"type": "citations_delta", "citation": {"cited_text": "x"}}, said("Hi"))
LONG = "9" * 40

TABLE: dict[str, Row] = {
    # Unchanged
    "a plain answer": Row(OPENAI, WHOLE + DONE, WHOLE),
    "logprobs and fields of the future": Row(OPENAI, HI + RICH + STOP + DONE, HI + RICH + STOP),
    "usage that was asked for": Row(
        OPENAI,
        chunk({"content": "Hi"}, usage=None) + STOP + data({"choices": [], "usage": tokens(3, 4)}) + DONE,
        chunk({"content": "Hi"}, usage=None) + STOP + data({"choices": [], "usage": tokens(3, 4)}),
        ASKED,
    ),
    "signatures and citations": Row(ANTHROPIC, BEGIN + SIGNED + CITED + END, BEGIN + SIGNED + CITED + END),
    "events of the future": Row(
        ANTHROPIC,
        BEGIN + event("ping") + event("x", delta="y", usage=7) + HEY + END,
        BEGIN + event("ping") + event("x", delta="y", usage=7) + HEY + END,
    ),
    "numbers as they were written": Row(
        OPENAI,
        raw('{"choices":[{"delta":{"content":"a"}}],"x":[1.0,1e999,-0.0,@]}'.replace("@", LONG)) + WHOLE + DONE,
        raw('{"choices":[{"delta":{"content":"a"}}],"x":[1.0,1e999,-0.0,@]}'.replace("@", LONG)) + WHOLE,
    ),
    # Framing
    "comments, ids, retry and unknown fields end here": Row(
        OPENAI,
        b": ping\n\nid: 1\n" + HI + b"retry: 5\nx-trace: 0\n" + STOP + b"id: 2\n\n" + DONE,
        WHOLE,
    ),
    "on Anthropic's wire too": Row(
        ANTHROPIC,
        b": ping\n\n" + BEGIN + b"id: 1\nretry: 5\n" + HEY + b"data:\n\ndata: : keepalive\n\n" + END,
        BEGIN + HEY + END,
    ),
    "names of OpenAI frames end here": Row(OPENAI, b"event: message\n" + HI + STOP + DONE, WHOLE),
    "named frames that are no chunk end here": Row(OPENAI, HI + event("heartbeat") + STOP + DONE, WHOLE),
    "CRLF becomes LF": Row(OPENAI, (WHOLE + DONE).replace(b"\n", b"\r\n"), WHOLE),
    "CR becomes LF": Row(ANTHROPIC, (BEGIN + HEY + END).replace(b"\n", b"\r"), BEGIN + HEY + END),
    "data: without its blank": Row(OPENAI, (WHOLE + DONE).replace(b"data: ", b"data:"), WHOLE),
    "the data before its name": Row(
        ANTHROPIC,
        BEGIN + b'data: {"type":"ping"}\nevent: ping\n\n' + HEY + END,
        BEGIN + event("ping") + HEY + END,
    ),
    "one JSON in many lines": Row(
        OPENAI,
        b'data: {"choices":\ndata:[{"delta":\ndata: {"content":"Hi"}}]}\n\n' + STOP + DONE,
        b'data: {"choices":\ndata: [{"delta":\ndata: {"content":"Hi"}}]}\n\n' + STOP,
    ),
    "a byte order mark": Row(OPENAI, b"\xef\xbb\xbf" + WHOLE + DONE, WHOLE),
    "the last blank line is missing": Row(ANTHROPIC, (BEGIN + HEY + END).rstrip(), BEGIN + HEY + END),
    "events without a name get theirs": Row(
        ANTHROPIC,
        (BEGIN + HEY + END).replace(b"event: ", b"x: ") + event("ping"),
        BEGIN + HEY + END,
    ),
    "nothing goes through behind the end": Row(ANTHROPIC, BEGIN + HEY + END + HEY + event("ping"), BEGIN + HEY + END),
    "an end that is missing": Row(
        ANTHROPIC, BEGIN + HEY + message_delta(), BEGIN + HEY + message_delta() + event("message_stop")
    ),
    # Usage that the client did not ask for
    "null usage is cut out": Row(
        OPENAI,
        chunk({"content": "Hi"}, usage=None, x=1) + chunk({"content": "!"}, usage=None) + STOP + DONE,
        chunk({"content": "Hi"}, x=1) + chunk({"content": "!"}) + STOP,
    ),
    "as the first chunk has it": Row(
        OPENAI,
        raw('{"id": "c", "choices": [{"delta": {}}], "usage": null}') * 2 + STOP + DONE,
        raw('{"id": "c", "choices": [{"delta": {}}]}') * 2 + STOP,
    ),
    "what looks like it in a text stays": Row(
        OPENAI, chunk({"content": ',"usage":null, "usage": null'}) + STOP + DONE,
        chunk({"content": ',"usage":null, "usage": null'}) + STOP,
    ),
    "a chunk for usage alone is left out": Row(
        OPENAI, WHOLE + data({"choices": [], "usage": tokens(3, 4)}) + DONE, WHOLE
    ),
    "usage that stands on a chunk with content is cut out of it, the rest stays as it was written": Row(
        OPENAI,
        raw('{"x":1e999, "usage": {"completion_tokens":4} , "choices": [ {"delta":{"content":"Hi"}} ],"y":1.50}')
        + STOP + DONE,
        raw('{"x":1e999,"choices":[ {"delta":{"content":"Hi"}} ],"y":1.50}') + STOP,
    ),
    # Text
    "bytes that are no UTF-8, where we read": Row(
        OPENAI, chunk({"content": "a?b"}).replace(b"?", b"\xff") + STOP + DONE, chunk({"content": "a\ufffdb"}) + STOP
    ),
    "bytes that are no UTF-8, where we do not": Row(
        OPENAI, chunk({"content": "a"}, x="?").replace(b"?", b"\xe2\x80") + STOP + DONE,
        chunk({"content": "a"}, x="\ufffd") + STOP,
    ),
    "bytes that are no UTF-8, beside a usage that is cut out": Row(
        OPENAI,
        chunk({"content": "a"}, x="?", usage=tokens(3, 4)).replace(b"?", b"\xff") + STOP + DONE,
        chunk({"content": "a"}, x="\ufffd") + STOP,
    ),
    "bytes that are no UTF-8, in a key beside a usage that is cut out": Row(
        OPENAI,
        chunk({"content": "a"}, None, **{"?": 1, "usage": tokens(3, 4)}).replace(b"?", b"\xff") + STOP + DONE,
        chunk({"content": "a"}, None, **{"\ufffd": 1}) + STOP,
    ),
    "bytes that are no UTF-8, in an event's name": Row(
        ANTHROPIC,
        BEGIN + event("?x").replace(b"?", b"\xff") + HEY + END,
        BEGIN + event("\ufffdx") + HEY + END,
    ),
    "half an emoji, where we read": Row(
        OPENAI,
        raw(r'{"choices":[{"delta":{"content":"\\ud83d \ud83d"}}]}') + STOP + DONE,
        raw(r'{"choices":[{"delta":{"content":"\\ud83d \ufffd"}}]}') + STOP,
    ),
    "half an emoji, where we do not": Row(
        OPENAI,
        raw(r'{"choices":[{"delta":{"content":"Hi"},"logprobs":{"content":[{"token":"\ude00"}]}}]}') + STOP + DONE,
        raw(r'{"choices":[{"delta":{"content":"Hi"},"logprobs":{"content":[{"token":"\ufffd"}]}}]}') + STOP,
    ),
    "half an emoji in an Anthropic text": Row(
        ANTHROPIC,
        BEGIN + HEY.replace(b'"Hi"', rb'"Hi\ud83d"') + END,
        BEGIN + HEY.replace(b'"Hi"', rb'"Hi\ufffd"') + END,
    ),
    # Errors: what is left of them is an event
    "an error": Row(OPENAI, HI + data({"error": {"message": "boom"}}) + STOP + DONE, HI),
    "an error on a chunk with content": Row(OPENAI, HI + chunk({"content": "x"}, error="boom") + DONE, HI),
    "an error under its name": Row(OPENAI, HI + b"event: error\n" + data({"message": "boom"}), HI),
    "an Anthropic error": Row(ANTHROPIC, BEGIN + HEY + event("error", error={"type": "api_error"}), BEGIN + HEY),
    "an error without a name": Row(ANTHROPIC, BEGIN + HEY + data({"type": "error", "error": "boom"}), BEGIN + HEY),
    "an error with neither name nor type": Row(ANTHROPIC, BEGIN + HEY + data({"error": {"message": "x"}}), BEGIN + HEY),
    "an error in no form we know": Row(ANTHROPIC, BEGIN + HEY + data({"message": "boom", "code": 5}), BEGIN + HEY),
    "an error after the answer": Row(
        ANTHROPIC,
        BEGIN + HEY + message_delta() + event("error", error={"type": "api_error"}),
        BEGIN + HEY + message_delta() + event("message_stop"),
    ),
    "a frame that is no JSON": Row(OPENAI, HI + b"data: {\n\n" + HI + DONE, HI),
    "the finish reason of an answer that was broken off is none": Row(
        OPENAI,
        HI + raw('{"choices":[{"delta":{"content":"!"},"finish_reason": "error" ,"x":1.50}],"y":1}'),
        HI + raw('{"choices":[{"delta":{"content":"!"},"finish_reason":null,"x":1.50}],"y":1}'),
    ),
    # The embedded model
    "our name of the model": Row(
        OPENAI,
        chunk({"role": "assistant"}, model="/srv/m.gguf") + chunk({"content": "Hi"}, model='a"\\"b') + STOP + DONE,
        (chunk({"role": "assistant"}) + chunk({"content": "Hi"}) + STOP).replace(b'"model":"m"', b'"model":"asked"'),
        OURSELVES,
    ),
    "a model in a text is none": Row(
        OPENAI, chunk({"content": '"model":"m"'}) + STOP + DONE,
        (chunk({"content": "%s"}) + STOP).replace(b'"model":"m"', b'"model":"asked"')
        .replace(b"%s", rb'\"model\":\"m\"'),
        OURSELVES,
    ),
}  # fmt: skip
every_row = pytest.mark.parametrize("row", list(TABLE.values()), ids=[name.replace(" ", "_") for name in TABLE])


@every_row
def test_what_a_client_gets_of_it(row: Row) -> None:
    assert relayed(row.wire, row.told, **row.options)[1] == row.shown


@every_row
def test_what_a_client_gets_of_it_is_the_same_however_it_is_cut(row: Row) -> None:
    whole = relayed(row.wire, row.told, **row.options)
    assert relayed(row.wire, *one_by_one(row.told), **row.options) == whole
    for at in range(len(row.told)):
        assert relayed(row.wire, row.told[:at], row.told[at:], **row.options) == whole, f"cut at {at}"


@every_row
def test_relaying_changes_no_event(row: Row) -> None:
    without = READERS[row.wire](OURS, **row.options)
    events = shown(without.feed(row.told) + without.finish())
    assert relayed(row.wire, row.told, **row.options)[0] == events
    assert without.frames is None
    ends = [event for event in events if isinstance(event, Finished | type)]
    assert len(ends) == 1


@pytest.mark.parametrize("unread", ['"\ufffd"', "1e999", "[" * 600 + "]" * 600], ids=["utf-8", "number", "nested"])
@pytest.mark.parametrize("reason", [None, "abort"])
@pytest.mark.parametrize("relay", [False, True])
def test_a_field_that_nobody_reads_doubles_no_text(unread: str, reason: str | None, relay: bool) -> None:
    """Cutting the usage, or the finish reason, out of a frame may fail, and then the frame is read once more."""
    told = chunk({"content": "Hi"}, reason, usage=tokens(3, 4), x="?").replace(b'"?"', unread.encode())
    told = told.replace("\ufffd".encode(), b"\xff")
    reader = OpenAIChatReader(OURS, relay=relay)
    events = reader.feed(told + STOP + DONE)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hi"]
    assert [type(event) for event in events if isinstance(event, Finished | Failed)] == [Failed if reason else Finished]


@every_case
def test_frames_and_events_are_the_same_however_the_body_is_cut(case: Case) -> None:
    for options in (ASKED, {}, OURSELVES) if case.wire == OPENAI else ({},):
        whole = relayed(case.wire, case.body, **options)
        assert options is OURSELVES or whole[0] == case.events
        assert relayed(case.wire, *one_by_one(case.body), **options) == whole
        for at in range(len(case.body)):
            assert relayed(case.wire, case.body[:at], case.body[at:], **options) == whole, f"cut at {at}"


@pytest.mark.parametrize("include_usage", [False, True], ids=["", "usage"])
@every_case
def test_what_is_sent_reads_back_as_the_same_answer(case: Case, include_usage: bool) -> None:
    events, body = sent(case.wire, case.body, include_usage=include_usage)
    assert not {"\u2028", "\u2029", "\x85"} & set(body.decode()), "escaped, since line readers split there"
    again = read_back(case.wire, body)
    assert content(again) == content(events)
    if case.wire == RESPONSES and isinstance(case.events[-1], type):
        assert count(again) == [], "it is in the frame that fails, and an error has no place for it"
    elif case.wire in (RESPONSES, ANTHROPIC):
        assert count(again) == count([event for event in case.events if isinstance(event, Usage)])
    elif include_usage:
        assert count(again) == count(events)
    else:
        assert count(again) == []


def test_batches_of_one_read_and_of_many_are_written_alike() -> None:
    for case in CASES:
        for include_usage in (False, True):
            _, whole = sent(case.wire, case.body, include_usage=include_usage)
            assert sent(case.wire, *one_by_one(case.body), include_usage=include_usage)[1] == whole, case.name


# Any bytes.

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
wires = st.sampled_from(list(READERS))

# What a saturated read is made of, whole and in pieces that are nearly that: the one decode of plain frames must not
# take two lines for two frames, nor pass over one, nor read as a delta what has the shape of one and more to say.
NAME = b"event: content_block_delta\n"
NAMED = b"event: response.output_text.delta\n"
SAID_TEXT = b'{"type":"response.output_text.delta","output_index":0,"delta":"x"}'
DELTA = b'{"choices":[{"delta":{"content":"x"}}]}'
TEXT_DELTA = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}'
JSONS = (
    *(DELTA, DELTA, TEXT_DELTA, TEXT_DELTA, b"{}", b"5", b'{"error":"x"}', b'{"usage":null}', b'{"type":"ping"}'),
    *(b'{"choices":[{"delta":{"content":"a\xe2\x80\xa8"}}],"x":"\xff"}', b'{"choices":[{"delta":{"content":"\xff"}}]}'),
    *(b'{"choices":[{"delta":{"reasoning":"r"}}]}', b'{"choices":[{"index":1,"delta":{"content":"no"}}]}'),
    *(b'{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}', b'{"choices":[{"delta":{"refusal":"x"}}]}'),
    *(b'{"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":1}}', b'{"choices":[{}],"usage":null}'),
    *(b'{"choices":[{"delta":{"content":[{"text":"x"}]}}]}', b'{"choices":[{"delta":{"content":"x"}}],"error":"x"}'),
    *(b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"A","function":{"name":"f"}}]}}]}', b'{"choices":[]}'),
    *(
        b'{"choices":[{"delta":{}},{"delta":{"content":"x"}}]}',
        b'{"type":"ping","delta":{"type":"text_delta","text":"y"}}',
    ),
    *(b'{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"x"}}', b'{"type":"message_stop"}'),
    *(SAID_TEXT, b'{"type":"response.output_text.delta","delta":"x","error":"x"}', b'{"type":"response.completed"}'),
    *(b'{"type":"response.refusal.delta","delta":"x"}', b'{"type":"response.reasoning_text.delta","delta":"x"}'),
    *(b'{"type":"message_delta","delta":{"stop_reason":"end_turn"}}', b'{"type":"content_block_delta"}', b"[DONE]"),
)
jsons = st.sampled_from(JSONS)
plain = st.builds(lambda name, said: name + b"data: " + said + b"\n\n", st.sampled_from([b"", NAME, NAMED]), jsons)
pieces = st.one_of(
    st.sampled_from(
        [b"data: ", b"data:", b"data: \n\n", b"data", NAME, NAMED, b"event: error\n", b": x\n", b"id: 1\n"]
    ),
    st.sampled_from([b" ", b"\n", b"\n\n", b"\n\n\n", b"\r", b"\r\n", b'"', b"\xff", b"\xe2\x80\xa8"]),
    jsons,
    jsons.map(lambda said: said + b"\n\n"),
)
SATURATED = {
    OPENAI: b"data: " + DELTA + b"\n\n",
    RESPONSES: NAMED + b"data: " + SAID_TEXT + b"\n\n",
    ANTHROPIC: NAME + b"data: " + TEXT_DELTA + b"\n\n",
}
soup = st.lists(st.one_of(plain, plain, pieces), max_size=10).map(b"".join)
BEGUN = {OPENAI: HI, RESPONSES: CREATED, ANTHROPIC: BEGIN}


def check_any(wire: str, body: bytes, size: int) -> None:
    """Of an answer that has begun: the events and frames of one read are those of its frames one by one, and of any
    chunks; and what is sent is text."""
    begun = BEGUN[wire]
    frame_by_frame = READERS[wire](OURS, relay=True)
    frame_by_frame.PLAIN = b"none is"
    one_way: list[Event] = []
    frames = b""
    for read in (begun, body, None):
        one_way += frame_by_frame.finish() if read is None else frame_by_frame.feed(read)
        frames += frame_by_frame.frames or b""
    want = shown(one_way), frames
    assert relayed(wire, begun, body) == want
    assert relayed(wire, begun, *(body[at : at + size] for at in range(0, len(body), size))) == want

    counted, sent_body = sent(wire, begun, body, include_usage=True)
    lines = sent_body.decode().split("\n")  # all UTF-8
    assert all(not line or line.startswith(("data: ", "event: ")) for line in lines), "nothing but frames"
    assert all(len(line.splitlines()) == 1 for line in lines if line.startswith("data")), "no line end but LF"
    assert content(read_back(wire, sent_body)) == content(counted)


@pytest.mark.parametrize("wire", READERS)
@pytest.mark.parametrize("name", [b"", NAME, NAMED], ids=["", "named", "responses"])
def test_every_kind_of_frame_behind_plain_ones(wire: str, name: bytes) -> None:
    for first in JSONS:
        for second in JSONS:
            odd = b"".join(name + b"data: " + said + b"\n\n" for said in (first, second))
            check_any(wire, SATURATED[wire] * 2 + odd + SATURATED[wire], 1000)


@many
@given(wires, soup, st.integers(0, 3), st.integers(1, 500))
def test_pieces_of_frames_read_and_relay_the_same_however_they_come(
    wire: str, body: bytes, before: int, size: int
) -> None:
    check_any(wire, SATURATED[wire] * before + body, size)


@many
@given(wires, mutated(), st.integers(1, 500))
def test_any_mutation_does(wire: str, body: bytes, size: int) -> None:
    check_any(wire, body, size)


@many
@given(wires, st.lists(plain, max_size=9), st.integers(0, 3000), st.sampled_from([b"\n", b" ", b"x", b"{}", b"\n{}\n"]))
def test_bytes_that_do_not_belong_among_plain_frames(wire: str, body: list[bytes], at: int, odd: bytes) -> None:
    text = SATURATED[wire] * 3 + b"".join(body)
    at %= len(text) + 1
    check_any(wire, text[:at] + odd + text[at:], 1000)


def test_a_saturated_read_is_decoded_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not frame by frame, which would be correct too, and slow."""
    saturated = {
        OPENAI: chunk({"content": "x"}),
        RESPONSES: SAID.replace(b"Hi", b"x"),
        ANTHROPIC: event("content_block_delta", delta=said("x")),
    }
    for wire, frame in saturated.items():
        reader = READERS[wire](OURS, relay=True)
        reader.feed(BEGUN[wire])
        monkeypatch.setattr(reader, "_read_blocks", lambda *_: pytest.fail("frame by frame"))
        assert reader.feed(frame * 300) == [TextDelta(text="x")] * 300
        assert reader.frames == frame * 300


# Over HTTP, against the provider asked directly.

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
providers = pytest.mark.parametrize("provider", list(PATHS))
MESSAGES: list[Any] = [{"role": "user", "content": "say it"}]
CONTENTS = [
    *("fake-n12", "fake-n16-uni-think3", "fake-n3-tool2-think2", "fake-tool1", "fake-n9-len", "fake-md", "fake-n0"),
    *("fake-big200", "fake-echo", "fake-n5-uni-split", "fake-n3-tool2-uni-drip", "fake-n7-uni-crlf"),
]


class Frame(NamedTuple):
    """One frame as a client sees it; `data` is the JSON value, or the text `[DONE]`."""

    event: str
    data: Any


def frames(body: bytes) -> list[Frame]:
    """What differs from one request to the next (ids, and the second it began in) is made equal."""
    return [Frame(name.decode(), _levelled(said)) for name, said in read_frames(body.replace(b"\r\n", b"\n"))]


def _levelled(said: bytes) -> Any:
    if said == b"[DONE]":
        return "[DONE]"
    value = json.loads(said)
    for holder in (value, value.get("message", {})):
        for name in ("id", "created"):
            if name in holder:
                holder[name] = name
    return value


def body_of(url: str, path: str, model: str, **more: Any) -> bytes:
    asked = {"model": model, "messages": MESSAGES, "max_tokens": 99, "stream": True, **more}
    keys = {"Authorization": "Bearer sk-any-key", "anthropic-version": "2023-06-01"}
    response = requests.post(url + path, json=asked, headers=keys, timeout=20)
    assert response.status_code == 200, response.text
    return response.content


@pytest.fixture(scope="module")
def ask_both(server: Service, fake_provider_server: FakeProvider) -> Callable[..., tuple[list[Frame], list[Frame]]]:
    """(what our route streams, what the provider itself does) for the same body."""

    def ask(provider: str, model: str, **more: Any) -> tuple[list[Frame], list[Frame]]:
        path = PATHS[provider]
        ours = body_of(server.url, path, f"{provider}/{model}", **more)
        return frames(ours), frames(body_of(fake_provider_server.url, path, model, **more))

    return ask


AskBoth = Callable[..., tuple[list[Frame], list[Frame]]]
USAGE = {"stream_options": {"include_usage": True}}


@providers
@pytest.mark.parametrize("model", CONTENTS)
def test_our_route_streams_what_the_provider_does(ask_both: AskBoth, provider: str, model: str) -> None:
    ours, theirs = ask_both(provider, model)
    assert ours == theirs
    models = [frame.data.get("message", frame.data).get("model") for frame in ours if frame.data != "[DONE]"]
    assert {name for name in models if name} == {model}, "the provider's name, not the one that was asked for"


@pytest.mark.parametrize("model", CONTENTS)
@pytest.mark.parametrize("options", [USAGE, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
def test_with_usage_and_without(ask_both: AskBoth, model: str, options: dict[str, Any]) -> None:
    ours, theirs = ask_both("openai", model, **options)
    assert ours == theirs
    keys = [key for frame in ours if frame.data != "[DONE]" for key in frame.data]
    assert ("usage" in keys) == (options is USAGE)


@providers
def test_comments_unknown_fields_and_named_chunks_end_here(ask_both: AskBoth, provider: str) -> None:
    ours, theirs = ask_both(provider, "fake-n12-comments-crlf")
    assert ours == [frame for frame in theirs if frame.event != "provider.heartbeat"]


@providers
@pytest.mark.parametrize("fault", ["err5", "bad5", "cut5", "eof5", "rst5", "err5-leak", "err5-split", "bad5-crlf"])
def test_a_failure_in_the_middle(
    server: Service, fake_provider_server: FakeProvider, provider: str, fault: str
) -> None:
    """Everything up to it, as the provider sent it, and then our own error, once."""
    path, model = PATHS[provider], f"fake-n9-i1-{fault}"
    *before, last = frames(body_of(server.url, path, f"{provider}/{model}"))
    whole = body_of(fake_provider_server.url, path, "fake-n9-i1").replace(b'"fake-n9-i1"', f'"{model}"'.encode())
    begun = 1 if provider == "openai" else 3  # the role; the message, its block and a ping
    assert before == frames(whole)[: begun + 5]
    if provider == "openai":
        assert last.event == ""
        assert last.data["error"]["code"] in ("stream_broken", "provider_overloaded")
    else:
        assert last.event == last.data["type"] == "error"
        assert last.data["error"]["type"] in ("api_error", "overloaded_error")


@providers
@pytest.mark.parametrize("tokens", [0, 5])
def test_secrets_of_an_error_are_not_passed_on(
    server: Service, fake_provider_server: FakeProvider, provider: str, tokens: int
) -> None:
    key = fake_provider_server.env["OPENAI_API_KEY"]
    asked: dict[str, Any] = {"model": f"{provider}/fake-n9-i1-err{tokens}-leak", "messages": MESSAGES, "stream": True}
    body = requests.post(server.url + PATHS[provider], json=asked, timeout=20).content
    assert b"refused key" in body, "it is said, but for these"
    for secret in (key, "10.0.0.7", "internal/v1"):
        assert secret.encode() not in body


@providers
def test_an_end_that_the_provider_left_out_is_written(ask_both: AskBoth, provider: str) -> None:
    ours, theirs = ask_both(provider, "fake-n9-nodone")
    ends = {"openai": Frame("", "[DONE]"), "anthropic": Frame("message_stop", {"type": "message_stop"})}
    assert ours == [*theirs, ends[provider]]


@pytest.mark.parametrize("model", ["fake-n9-nousage", "fake-n9-nousage-nodone"])
def test_usage_that_the_provider_left_out_is_estimated_for_who_asked(ask_both: AskBoth, model: str) -> None:
    ours, theirs = ask_both("openai", model, **USAGE)
    *before, estimate, end = ours
    assert before == [frame for frame in theirs if frame.data != "[DONE]"]
    assert end == Frame("", "[DONE]")
    assert estimate.data["choices"] == []
    assert estimate.data["model"] == model
    assert estimate.data["usage"]["prompt_tokens"] == 2
    assert estimate.data["usage"]["completion_tokens"] == -(-len(answer(model).text) // 4)
    ours, theirs = ask_both("openai", model)
    assert ours == [*(frame for frame in theirs if frame.data != "[DONE]"), Frame("", "[DONE]")]


def test_anthropic_without_usage_stays_without(ask_both: AskBoth) -> None:
    ours, theirs = ask_both("anthropic", "fake-n9-nousage")
    assert ours == theirs


@pytest.mark.parametrize("model", CONTENTS)
@pytest.mark.parametrize("options", [{}, USAGE], ids=["", "usage"])
def test_the_openai_sdk_reads_what_it_reads_from_the_provider(
    server: Service, fake_provider_server: FakeProvider, model: str, options: dict[str, Any]
) -> None:
    def chunks(base_url: str, model: str) -> list[dict[str, Any]]:
        with (
            openai.OpenAI(base_url=base_url, api_key="sk-any-key", max_retries=0) as client,
            client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **options) as stream,
        ):
            return [chunk.to_dict() | {"id": "", "created": 0} for chunk in stream]

    assert chunks(f"{server.url}/v1", f"openai/{model}") == chunks(fake_provider_server.openai_base_url, model)


@pytest.mark.parametrize("model", CONTENTS)
def test_the_anthropic_sdk_reads_what_it_reads_from_the_provider(
    server: Service, fake_provider_server: FakeProvider, model: str
) -> None:
    def events(base_url: str, model: str) -> list[Any]:
        with (
            anthropic.Anthropic(base_url=base_url, api_key="sk-any-key", max_retries=0) as client,
            client.messages.stream(model=model, max_tokens=99, messages=MESSAGES) as stream,
        ):
            seen: list[Any] = [told.to_dict() for told in stream]
            final: dict[str, Any] = stream.get_final_message().to_dict()
        for holder in (*seen, {"message": final}):
            holder.get("message", {})["id"] = ""
        return [*seen, final]

    assert events(server.url, f"anthropic/{model}") == events(fake_provider_server.anthropic_base_url, model)


# Over HTTP, from a provider that says exactly what it is told to.


class Teller(BaseHTTPRequestHandler):
    """Answers with the body that the model is named after; a provider of both protocols, and the embedded model."""

    bodies: ClassVar[dict[str, bytes]] = {
        **{case.name.replace(" ", "_"): case.body for case in CASES},
        "weights": chunk({"role": "assistant"}, model="/srv/weights.gguf") * 2
        + chunk({"content": "Hi"}, model="/srv/weights.gguf", timings={"predicted_ms": 1.5}) * 3
        + chunk(finish_reason="stop", model="/srv/weights.gguf")
        + data({"choices": [], "model": "/srv/weights.gguf", "usage": tokens(3, 4)})
        + DONE,
        "rich": HI + RICH + STOP + DONE,
        "signed": BEGIN + SIGNED + CITED + END,
    }

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(self.bodies[asked["model"]])

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def told(start_service: Callable[..., Service]) -> Iterator[Service]:
    """The service in front of `Teller`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Teller) as teller:
        threading.Thread(target=teller.serve_forever, daemon=True).start()
        port = teller.server_address[1]
        url = f"http://127.0.0.1:{port}"
        service = start_service(
            {
                "OPENAI_BASE_URL": f"{url}/v1",
                "OPENAI_API_KEY": "sk-any-key",
                "ANTHROPIC_BASE_URL": url,
                "ANTHROPIC_API_KEY": "sk-any-key",
                "SLUICEWAY_PROVIDERS__RESPONSES__KIND": "openai_responses",
                "SLUICEWAY_PROVIDERS__RESPONSES__BASE_URL": f"{url}/v1",
                "SLUICEWAY_LOCAL__ENABLED": "true",
                "SLUICEWAY_LOCAL__PORT": str(port),
                "SLUICEWAY_MODELS__QUICK__TARGET": "openai/rich",
                "SLUICEWAY_MODELS__DEEP__TARGET": "anthropic/signed",
            }
        )
        yield service
        service.stop()
        teller.shutdown()


def test_the_embedded_model_is_named_ours_in_every_frame(told: Service) -> None:
    for options in ({}, USAGE):
        body = body_of(told.url, PATHS["openai"], "local/weights", **options)
        values = [frame.data for frame in frames(body) if frame.data != "[DONE]"]
        assert [value["model"] for value in values] == ["weights"] * (7 if options else 6)
        assert b"/srv/" not in body
        assert [value["timings"] for value in values if "timings" in value] == [{"predicted_ms": 1.5}] * 3


def test_an_alias_does_not_change_the_model(told: Service) -> None:
    assert body_of(told.url, PATHS["openai"], "quick") == HI + RICH + STOP + DONE
    assert body_of(told.url, PATHS["anthropic"], "deep") == BEGIN + SIGNED + CITED + END


def test_fields_that_we_do_not_know_reach_the_official_clients(told: Service) -> None:
    with (
        openai.OpenAI(base_url=f"{told.url}/v1", api_key="any", max_retries=0) as gpt,
        gpt.chat.completions.create(model="openai/rich", messages=MESSAGES, stream=True, logprobs=True) as chunks,
    ):
        _, rich, _ = list(chunks)
    logprobs = rich.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(token.token, token.logprob, token.bytes) for token in logprobs.content] == [("Hi", -0.25, [72, 105])]
    assert rich.system_fingerprint == "fp_1"
    assert rich.model_extra == {"x_groq": {"id": "req_1", "usage": {"total_time": 0.1}}}
    with (
        anthropic.Anthropic(base_url=told.url, api_key="any", max_retries=0) as claude,
        claude.messages.create(model="anthropic/signed", max_tokens=9, messages=MESSAGES, stream=True) as events,
    ):
        deltas = [told.delta for told in events if told.type == "content_block_delta"]
    assert [delta.signature for delta in deltas if delta.type == "signature_delta"] == ["EqQBCgIYAhIM1gbc"]
    assert [delta.to_dict() for delta in deltas if delta.type == "citations_delta"] == [
        {"type": "citations_delta", "citation": {"cited_text": "x"}}
    ]


@every_case
def test_every_answer_comes_over_http_as_the_parts_write_it(told: Service, case: Case) -> None:
    """Reader, books and encoder as the service puts them together; a failure before the first word has a status."""
    provider, path, said = {
        OPENAI: ("openai", "/v1/chat/completions", {"messages": MESSAGES}),
        RESPONSES: ("responses", "/v1/responses", {"input": "say it"}),
        ANTHROPIC: ("anthropic", "/v1/messages", {"messages": MESSAGES}),
    }[case.wire]
    asked: dict[str, Any] = {"model": f"{provider}/{case.name.replace(' ', '_')}", "stream": True, **said}
    response = requests.post(told.url + path, json=asked, timeout=20)
    if all(isinstance(event, Started | Usage | type) for event in case.events):
        assert response.status_code >= 400
        return
    assert response.status_code == 200
    counted, _ = sent(case.wire, case.body, include_usage=False)
    # The first tells who began it when, which the service does where the provider names none.
    assert content(read_back(case.wire, response.content))[1:] == content(counted)[1:]
