"""HTTP/1.1 without IO: a request to bytes, and the bytes of a response to its head and body (llhttp does the parsing).

What a server may send is bounded: `MAX_HEAD_BYTES` for the head, and as much again for anything that is neither head
nor body (chunk extensions, trailers), so that nobody fills our memory or time with bytes that say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools

MAX_HEAD_BYTES = 64 * 1024


class ProtocolError(Exception):
    """What was sent, or is to be sent, is not HTTP/1.1 as we speak it."""


def request_bytes(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """The whole request in one piece, so that one segment carries it."""
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers]
    for line in lines:
        if b"\r" in line or b"\n" in line:
            raise ProtocolError("a header or the target holds a line break")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class ResponseParser:
    """One response: `feed` bytes, then read `head_complete`, `status`, `headers`, `take()` and `complete`.

    Interim (1xx) responses are passed over. `reusable` says, once `complete`, whether the connection may carry another
    exchange. A body without length or chunks ends where the connection ends: `feed_eof` tells.
    """

    __slots__ = (
        "_idle_bytes",
        "_length_known",
        "_no_body",
        "_parser",
        "_progress",
        "body",
        "complete",
        "head_complete",
        "headers",
        "reason",
        "reusable",
        "status",
    )

    def __init__(self, method: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._idle_bytes = 0
        self._progress = False
        self.body: list[bytes] = []  # what `take` has not taken yet
        self._length_known = False
        self._no_body = method == "HEAD"
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.complete = False
        self.reusable = False

    def feed(self, data: bytes) -> None:
        """Raises `ProtocolError`; the connection is of no use then."""
        if self.complete:
            self.reusable = False  # more than the response: whatever it is, it is not an answer to what comes next
            return
        self._progress = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if isinstance(exc.__context__, ProtocolError):  # our own, raised in a callback below
                raise exc.__context__ from None
            if not self.complete:  # what follows a complete response is judged above
                raise ProtocolError(f"the response is not valid HTTP ({type(exc).__name__})") from None
            self.reusable = False
        if self._progress:
            self._idle_bytes = 0
        else:
            self._idle_bytes += len(data)
            if self._idle_bytes > MAX_HEAD_BYTES:
                raise ProtocolError("the response's head, or what stands between its chunks, is too large")

    def feed_eof(self) -> None:
        """The connection has ended. Raises `ProtocolError` unless that is this body's proper end."""
        if self.complete:
            return
        if not self.head_complete:
            raise ProtocolError("the server disconnected without a response")
        if self._length_known:
            raise ProtocolError("the server disconnected in the middle of the response")
        self.complete = True
        self.reusable = False

    def take(self) -> bytes:
        """The body bytes since the last call."""
        body = self.body
        if not body:
            return b""
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return data

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_complete:  # later ones are trailers
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200:
            if self.status == 101:
                raise ProtocolError("the server switched protocols")
            self.headers.clear()
            self.reason = b""
            return
        names = {name.lower(): value.lower() for name, value in self.headers}
        self._length_known = b"content-length" in names or b"chunked" in names.get(b"transfer-encoding", b"")
        self.head_complete = self._progress = True
        if self._no_body:
            self.complete = True  # and never reusable: llhttp would take for its body whatever came with it

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.body.append(data)
            self._progress = True

    def on_message_complete(self) -> None:
        if self.complete or not self.head_complete:
            return  # the end of an interim response
        self.complete = True
        self.reusable = self._parser.should_keep_alive()
