"""From a wire's frames to the bytes of a chunked HTTP/1.1 response, with the oddities of real providers and proxies.

Everything here is bytes in, bytes out. Normally one SSE message is one HTTP chunk, sent with one write.
"""

import http
from collections.abc import Iterator, Mapping
from itertools import cycle, repeat

from .behaviour import Behaviour
from .wires import Frame

LAST_CHUNK = b"0\r\n\r\n"
# Odd and small: a multi-byte character, a line end or a chunk's JSON is cut somewhere within a few events.
_ODD_SIZES = (1, 3, 7, 13, 5, 29, 11)


def head(status: int, content_type: str, headers: Mapping[str, str], length: int | None = None) -> bytes:
    """A response's head; without `length` the body is chunked."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:  # 529 and the like
        phrase = "Unknown"
    fields = {"Content-Type": content_type, **headers}
    fields |= {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Framer:
    """Frames in, HTTP chunks out. `feed` what the wire says, in order; `finish` gives what `split` still holds back."""

    def __init__(self, behaviour: Behaviour, unknown: Frame) -> None:
        self._comments = behaviour.comments
        self._unknown = unknown
        self._newline = "\r\n" if behaviour.crlf else "\n"
        self._sizes: Iterator[int] | None = None
        if behaviour.drip:
            self._sizes = repeat(1)
        elif behaviour.split:
            self._sizes = cycle(_ODD_SIZES)
        self._size = next(self._sizes) if self._sizes else 0
        self._held = b""
        self._fed = 0

    def feed(self, frame: Frame) -> list[bytes]:
        """The HTTP chunks of one frame, and of the noise that goes before it."""
        self._fed += 1
        chunks = []
        fields = []
        if self._comments:
            match self._fed % 3:
                case 1:
                    chunks += self._cut(f": OPENROUTER PROCESSING{self._newline * 2}".encode())
                case 2:
                    # Inside the block: a block with no data in it breaks openai-python (WIRE.md section 0, rule 3).
                    fields = ["x-trace: 00-4bf9-01", "retry: 3000", "lonely"]
                case _:
                    chunks += self._cut(self._message(self._unknown, []))
        return chunks + self._cut(self._message(frame, fields))

    def finish(self) -> list[bytes]:
        """The rest of the body so far, before a silence, a fault or the end."""
        held, self._held = self._held, b""
        return [_chunk(held)] if held else []

    def _message(self, frame: Frame, fields: list[str]) -> bytes:
        names = [f"event: {frame.event}"] if frame.event else []
        return self._newline.join([*fields, *names, f"data: {frame.data}", "", ""]).encode()

    def _cut(self, data: bytes) -> list[bytes]:
        if self._sizes is None:
            return [_chunk(data)]
        data = self._held + data
        chunks = []
        start = 0
        while len(data) - start >= self._size:
            chunks.append(_chunk(data[start : start + self._size]))
            start += self._size
            self._size = next(self._sizes)
        self._held = data[start:]
        return chunks


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
