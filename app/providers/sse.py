"""Bytes to SSE frames (WHATWG HTML, 9.2.6), for the readers.

Line ends are CR, LF or CRLF, also split between two reads; `data` lines join with LF; comments and unknown fields are
passed over; a block without data is no frame; one leading BOM goes. Data stays bytes: whoever reads it decodes it. Two
divergences, on purpose:

* a block that the body's end leaves without its blank line is given by `finish` (the specification drops it): what a
  provider forgot to close is judged by what is in it, and half a JSON is still no frame;
* `id` and `retry` are not kept: they are instructions to a reconnecting EventSource, and we never reconnect.
"""

from __future__ import annotations

from typing import NamedTuple

# The largest single events seen are images in base64, a few MB. Beyond this a provider is sending something else.
MAX_FRAME_BYTES = 16 * 1024 * 1024


class Frame(NamedTuple):
    """One message on the wire: its `event:` name (empty: none) and its data."""

    event: bytes
    data: bytes


class FrameTooLarge(Exception):
    """More than `MAX_FRAME_BYTES` came without an end of frame."""


class FrameSplitter:
    """`feed(chunk) -> list[Frame]`, `finish()`. Linear in its input however small the chunks are."""

    __slots__ = ("_buffer", "_first", "_skip_lf")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._first = True
        self._skip_lf = False

    def feed(self, chunk: bytes) -> list[Frame]:
        if self._skip_lf and chunk:  # the LF of a CRLF whose CR ended the chunk before
            self._skip_lf = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        buffer = self._buffer
        searched = max(0, len(buffer) - 1)
        buffer += chunk
        if self._first:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                return []
            self._first = False
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
        end = buffer.rfind(b"\n\n", searched)
        if end < 0:
            if len(buffer) > MAX_FRAME_BYTES:
                raise FrameTooLarge
            return []
        blocks = bytes(buffer[:end]).split(b"\n\n")
        del buffer[: end + 2]
        return [frame for block in blocks if (frame := _frame(block)) is not None]

    def finish(self) -> list[Frame]:
        frame = _frame(bytes(self._buffer).rstrip(b"\n"))
        self._buffer.clear()
        return [] if frame is None else [frame]


def _frame(block: bytes) -> Frame | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # nearly every frame of an OpenAI stream
        return Frame(b"", block[6:])
    event = b""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return Frame(event, b"\n".join(data)) if data else None
