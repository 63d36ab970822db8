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
    """Cuts a body between frames. `feed(chunk)` gives the bytes of the frames that it completed, each with its blank
    line and with line ends made LF (`read_frames` reads them), b"" where it completed none; `finish` what is left.

    Linear in its input however small the chunks are; a chunk that ends with a frame passes uncopied.
    """

    __slots__ = ("_first", "_kept", "_skip_lf")

    def __init__(self) -> None:
        self._kept = bytearray()  # the beginning of a frame whose end has not come
        self._first = True
        self._skip_lf = False

    def feed(self, chunk: bytes) -> bytes:
        kept = self._kept
        if not (kept or self._first or self._skip_lf or b"\r" in chunk) and chunk.endswith(b"\n\n"):
            return chunk  # whole frames, as nearly every read brings them
        if self._skip_lf and chunk:  # the LF of a CRLF whose CR ended the chunk before
            self._skip_lf = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._first:
            chunk = bytes(kept) + chunk
            kept.clear()
            if len(chunk) < 3 and _BOM.startswith(chunk):
                kept += chunk
                return b""
            self._first = False
            chunk = chunk.removeprefix(_BOM)
        end = chunk.rfind(b"\n\n") + 2
        if end < 2:
            if not (chunk.startswith(b"\n") and kept.endswith(b"\n")):
                kept += chunk
                if len(kept) > MAX_FRAME_BYTES:
                    raise FrameTooLarge
                return b""
            end = 1
        whole = chunk[:end]
        if kept:
            whole = b"".join((kept, whole))
            kept.clear()
        if end < len(chunk):
            kept += chunk[end:]
        return whole

    def finish(self) -> bytes:
        rest = bytes(self._kept).rstrip(b"\n")
        self._kept.clear()
        return rest + b"\n\n" if rest else b""


_BOM = b"\xef\xbb\xbf"


def blocks(text: bytes) -> list[bytes]:
    """What stands between the blank lines of whole frames."""
    return text.removesuffix(b"\n\n").split(b"\n\n")


def read_frames(text: bytes) -> list[Frame]:
    """The frames in what a splitter gave."""
    return [frame for block in blocks(text) if (frame := read_frame(block)) is not None]


def read_frame(block: bytes) -> Frame | None:
    """The frame of one block, None for one without data."""
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
