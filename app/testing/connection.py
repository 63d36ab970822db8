"""One HTTP/1.1 connection on a plain socket: read a request, write bytes, watch for the client's leaving.

By hand rather than `http.server`, because the point is what libraries hide: an unfinished chunked body, a reset, a
write that is exactly one chunk, the moment a client leaves while nobody writes.

A client that shuts down only its sending side counts as gone, as most servers in front of a model see it too.
"""

import contextlib
import json
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

# Where there is no POLLRDHUP (macOS) readable means the same here: our clients send nothing while they are being
# answered.
_GONE = getattr(select, "POLLRDHUP", select.POLLIN)


class Malformed(Exception):
    """The bytes are not an HTTP/1.1 request."""


class Departed(Exception):
    """The client closed before we were done."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was seen. `headers` have lower-case names; `body` is the JSON value, or raw bytes if it is not
    JSON.

    `at` is `time.monotonic()` when the last byte had been read.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float

    @property
    def key(self) -> str:
        """The API key, from `Authorization: Bearer` or `x-api-key`; "" without one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else self.headers.get("x-api-key", "")


class Connection:
    """Owned by the thread that serves it; only `interrupt` may be called from another."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._received = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, _GONE)  # POLLHUP and POLLERR come unasked

    def read_request(self) -> Request | None:
        """The next request, or None when the client has closed between two. Raises Malformed."""
        try:
            if not self._received and not self._receive():
                return None
            start, *lines = self._take_through(b"\r\n\r\n").decode("latin-1").split("\r\n")
            method, path, version = start.split(" ")
            headers: dict[str, str] = {}
            for line in filter(None, lines):
                name, colon, value = line.partition(":")
                if not colon:
                    raise Malformed(f"header without a colon: {line!r}")
                known = headers.get(name.lower())
                headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
            if version != "HTTP/1.1":
                raise Malformed(f"this server speaks HTTP/1.1, not {version}")
            if headers.get("expect", "").lower() == "100-continue":  # curl, for bodies over a megabyte
                self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = self._read_body(headers)
        except ValueError as exc:
            raise Malformed(str(exc)) from exc
        except OSError:
            return None
        return Request(method, path, headers, _json_or_bytes(body), time.monotonic())

    def send(self, data: bytes) -> None:
        """Write all of it, waiting as long as the client takes. Raises Departed."""
        try:
            self._sock.sendall(data)
        except OSError as exc:
            raise Departed from exc

    def wait(self, until: float | None) -> None:
        """Let `until` (`time.monotonic()`) pass; None waits for ever. Raises Departed as soon as the client is gone."""
        while True:
            left_s = None if until is None else max(until - time.monotonic(), 0.0)
            # poll() counts whole milliseconds; the rest is slept, or 0.5 ms between tokens would become 1.
            if self._poll.poll(None if left_s is None else int(left_s * 1000)):
                raise Departed
            if left_s is not None and left_s < 0.001:
                time.sleep(left_s)
                return

    def close(self, *, reset: bool = False) -> None:
        """End with FIN, or with RST. What was written arrives first (RST: what the client takes within a second)."""
        if reset:
            self._drain()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.interrupt()
        self._sock.close()

    def interrupt(self) -> None:
        """From any thread: the serving thread sees the connection end, whatever it waits for."""
        with contextlib.suppress(OSError):  # already closed, by either side
            self._sock.shutdown(socket.SHUT_RDWR)

    def _drain(self) -> None:
        """Wait until the kernel has sent everything: a reset throws away what is queued, and many small chunks are."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)  # writable now means: nothing is unsent
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        poll.poll(1000)

    def _read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self._take(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self._take_through(b"\r\n").split(b";")[0], 16):
            body += self._take(size)
            self._take(2)
        while self._take_through(b"\r\n") != b"\r\n":
            pass  # trailers
        return body

    def _take_through(self, mark: bytes) -> bytes:
        while mark not in self._received:
            if not self._receive():
                raise Malformed("the request ends in the middle")
        return self._take(self._received.index(mark) + len(mark))

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            if not self._receive():
                raise Malformed("the request ends in the middle")
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _receive(self) -> bool:
        data = self._sock.recv(65536)
        self._received += data
        return bool(data)


def _json_or_bytes(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body
