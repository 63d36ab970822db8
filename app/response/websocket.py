"""One WebSocket (RFC 6455), on the socket of a request that has been upgraded. wsproto knows the protocol, this file
the socket: waiting, pings, a client that does not read, the end.

    receive    one greenlet (or thread): the next message, pings answered on the way, until the end
    send       any: waits until the kernel has all of it, and `write_timeout_s` at most for a client that takes nothing
    push       the event loop too: does not wait; what the kernel does not take, the next `send` or `flush` does

Who reads is always there, so a client that leaves is seen at once, also in the middle of an answer; and whoever reads
never waits for somebody who is writing: a pong is left out while something else is still on its way (5.5.3: the latest
ping is the one to answer).

Not flask-sock, nor the simple-websocket under it: that has a thread a connection which reads ahead without a limit,
writes without a deadline, and knows no drain.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import math
import select
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flask import Response
from gevent import monkey
from wsproto.connection import SERVER, ConnectionState
from wsproto.connection import Connection as Protocol
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from ..transport.waiting import waiter_for
from .watch import socket_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# How long a client has for its part of the closing handshake. Within the 1.5 s that a worker has on QUIT.
CLOSE_S = 1.0

# Of one read: as frames of nothing, the smallest there are, it takes 11 ms, in which nobody else has a turn.
_READ = 2048

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Gone(Exception):
    """The connection is over: nothing can be sent any more."""


class WebSocket:
    """`until` and the like are of `time.monotonic`."""

    def __init__(
        self,
        sock: Any,
        read_ahead: bytes = b"",
        *,
        max_message_bytes: int,
        heartbeat_s: float,
        write_timeout_s: float,
    ) -> None:
        sock.settimeout(0.0)
        self._sock = sock
        self._waiter = waiter_for(sock)
        self._is_tls = hasattr(sock, "pending")
        self._protocol = Protocol(SERVER, trailing_data=read_ahead)
        # Between threads. Under gevent nothing in there gives up its turn, and a lock costs a third of a `push`.
        self._writing: contextlib.AbstractContextManager[Any] = (
            contextlib.nullcontext() if monkey.is_module_patched("threading") else threading.Lock()
        )
        self._unsent = bytearray()  # what the kernel did not take: a part of a frame, and whole ones
        self._pong: bytes | None = None  # the payload of a ping that is to be answered when all that is gone
        self._max_message_bytes = max_message_bytes
        self._message = io.StringIO()
        self._message_bytes = 0
        self._heartbeat_s = heartbeat_s
        self._write_timeout_s = write_timeout_s
        self._ping_at = time.monotonic() + heartbeat_s
        self._pinged_at = math.inf  # the first ping since anything came
        self._expires = math.inf
        self._ends_at = math.inf  # our close frame is sent, and this is how long the client's is waited for
        self._over = False  # nothing is read any more
        self.gone = False  # nothing can be sent any more

    @property
    def _open(self) -> bool:
        """Neither side has begun the closing handshake."""
        return self._protocol.state is ConnectionState.OPEN

    # Reading

    def receive(self) -> str | None:
        """The next message; None once there is none to come."""
        while True:
            for event in self._protocol.events():
                if (text := self._took(event)) is not None:
                    return text
            if self._over or not self._more():
                return None

    def _took(self, event: Event) -> str | None:
        match event:
            case TextMessage(data=data, message_finished=finished) if self._open:
                self._message_bytes += len(data) if data.isascii() else len(data.encode())
                if self._message_bytes > self._max_message_bytes:
                    limit = self._max_message_bytes
                    self.close(CloseReason.MESSAGE_TOO_BIG, f"more than {limit} bytes (server.max_body_bytes)")
                    return None
                self._message.write(data)
                if finished:
                    text, self._message, self._message_bytes = self._message.getvalue(), io.StringIO(), 0
                    self._expires = math.inf
                    return text
            case BytesMessage():
                self.close(CloseReason.UNSUPPORTED_DATA, "send text, not binary")
            case Ping(payload=payload) if self._open:
                self._answer_ping(bytes(payload))
            case CloseConnection(code=code, reason=reason):
                self._over = True
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    self._push(lambda: self._protocol.send(event.response()))
                else:  # the client's fault, unless it is its part of a handshake that we began
                    self.close(code, reason or "")
            case _:
                pass
        return None

    def _more(self) -> bool:
        """Read something, and ping where it is time to; False at the end."""
        while True:
            now = time.monotonic()
            if self._ends_at < math.inf:
                due = self._ends_at
                if now >= due:
                    return False
                self.flush_at_once()
            elif now >= self._expires:
                self.close(CloseReason.GOING_AWAY, "the server is restarting; connect again")
                continue
            else:
                if now >= self._pinged_at + self._write_timeout_s:  # a client that is there answers
                    return self._lost()
                if now >= self._ping_at:
                    self._ping(now)
                due = min(self._ping_at, self._expires, self._pinged_at + self._write_timeout_s)
            # Also where there is something: a client that sends without a pause leaves the others their turns. (Not by
            # a `sleep(0)`: gevent runs up to 50 of those before it looks at any socket again.)
            if not (self._is_tls and self._sock.pending()) and not self._waiter.readable(due):
                continue
            try:
                data = self._sock.recv(_READ)
            except _WOULD_BLOCK:
                continue
            except OSError:
                data = b""
            if not data:
                return self._lost()
            self._pinged_at = math.inf
            self._protocol.receive_data(data)
            return True

    def _ping(self, now: float) -> None:
        self._ping_at = now + self._heartbeat_s
        if not self._unsent:  # else there is sign of life enough
            self._pinged_at = min(self._pinged_at, now)
            self._push(lambda: self._protocol.send(Ping()))

    def _answer_ping(self, payload: bytes) -> None:
        if self._unsent:
            self._pong = payload
        else:
            self._push(lambda: self._protocol.send(Pong(payload=payload)))

    # Writing

    def push(self, texts: Iterable[bytes]) -> bool:
        """Send messages of UTF-8, as far as they go now; False where something is left for `flush`."""
        return self._push(lambda: b"".join(map(text_frame, texts)) if self._open else b"")

    def send(self, text: bytes) -> None:
        """Raises `Gone`."""
        if not self.push([text]):
            self.flush()

    def flush(self, within_s: float = math.inf) -> None:
        """Wait until nothing is left to be sent, `within_s` at most. Raises `Gone`, also for a client that takes
        nothing for `write_timeout_s`."""
        poll: Any = None
        began = took_at = time.monotonic()
        left = len(self._unsent)
        while not self.flush_at_once():
            now = time.monotonic()
            if len(self._unsent) != left:
                left, took_at = len(self._unsent), now
            if self.gone or now - began >= within_s:
                break
            if now - took_at >= self._write_timeout_s:
                self._lost()
                break
            if poll is None:
                poll = select.poll()
                poll.register(self._sock.fileno(), select.POLLOUT)
            # The kernel tells of room only when a third of its buffer is free, but takes more as soon as any is.
            poll.poll(min(self._write_timeout_s / 4, within_s, CLOSE_S) * 1000)
        if self.gone:
            raise Gone

    def flush_at_once(self) -> bool:
        return self._push(lambda: b"")

    def _push(self, made: Callable[[], bytes]) -> bool:
        """`made` in the order in which it is sent."""
        with self._writing:
            if self.gone:
                return False
            data = made()
            if self._unsent:
                self._unsent += data
                data = bytes(self._unsent)
                self._unsent.clear()
            elif not data:
                return True
            if self._sent(data) and self._pong is not None and self._open:
                payload, self._pong = self._pong, None
                self._sent(self._protocol.send(Pong(payload=payload)))
            return not self._unsent and not self.gone

    def _sent(self, data: bytes) -> bool:
        try:
            sent = self._sock.send(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self._lost()
            return False
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
        return not self._unsent

    def _lost(self) -> bool:
        """The connection is: whoever reads, wakes."""
        self.gone = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(2)
        return False

    # The end

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; whoever reads goes on with it."""
        if self._open:
            self._ends_at = time.monotonic() + CLOSE_S
            self._push(lambda: self._protocol.send(CloseConnection(code=code, reason=reason)))

    def expire(self, at: float) -> None:
        """Close it then, unless a message comes before."""
        self._expires = at
        self._waiter.wake()

    def hasten(self) -> None:
        """From now on a client that takes nothing is not waited for."""
        self._write_timeout_s = min(self._write_timeout_s, CLOSE_S)

    def end(self) -> None:
        """By who reads, when nobody else uses it any more: the server may close the socket after that."""
        self._waiter.close()
        with contextlib.suppress(Gone):
            self.flush(CLOSE_S)
        with contextlib.suppress(OSError):
            self._sock.shutdown(1)
        if self._ends_at < math.inf and not self.gone:
            # What the client is still sending is read: closed over it, the connection is reset, and our close frame,
            # which says why, may be lost with it (RFC 6455, 7.1.1).
            self._read_to_the_end(time.monotonic() + CLOSE_S)
        self._lost()

    def _read_to_the_end(self, until: float) -> None:
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        while (left := until - time.monotonic()) > 0:
            poll.poll(left * 1000)
            try:
                if not self._sock.recv(65536):
                    return
            except _WOULD_BLOCK:
                pass
            except OSError:
                return


def text_frame(text: bytes) -> bytes:
    """One whole message (RFC 6455, 5.2: not masked, by a server)."""
    length = len(text)
    if length < 126:
        return b"\x81%c%b" % (length, text)
    if length < 65536:
        return b"\x81\x7e" + struct.pack("!H", length) + text
    return b"\x81\x7f" + struct.pack("!Q", length) + text


# The upgrade


def is_key(key: str) -> bool:
    """Whether it is a client's `Sec-WebSocket-Key`: 16 bytes."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def accept(key: str) -> str:
    """RFC 6455, 4.2.2."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def can_upgrade(environ: Mapping[str, Any]) -> bool:
    """Whether this server lets go of a socket, and can answer others meanwhile."""
    return socket_of(environ) is not None and bool(environ.get("wsgi.multithread"))


class Upgraded(Response):
    """101, and then `talk` with the socket, in place of a body. Flask's contexts are gone by then, and the views' own
    resources given back.

    gunicorn writes the head itself, and ends the connection where its socket has been shut down. Flask's development
    server would add `Connection: close`, so we write; and the error at the end is how it is told that there is nothing
    more to write.
    """

    handed = False

    def __init__(self, key: str, talk: Callable[[Any, bytes], None], protocol: str | None = None) -> None:
        super().__init__(status=101)
        self._talk = talk
        del self.headers["Content-Type"]
        self.headers["Upgrade"] = "websocket"
        self.headers["Connection"] = "Upgrade"
        self.headers["Sec-WebSocket-Accept"] = accept(key)
        if protocol is not None:
            self.headers["Sec-WebSocket-Protocol"] = protocol

    def get_app_iter(self, environ: WSGIEnvironment) -> Talk:
        return Talk(self, environ)

    def talked(self, environ: WSGIEnvironment) -> Iterator[bytes]:
        self.handed = True
        sock = socket_of(environ)
        by_gunicorn = "gunicorn.socket" in environ
        if by_gunicorn:
            yield b""
        else:
            head = "".join(f"{name}: {value}\r\n" for name, value in self.get_wsgi_headers(environ))
            sock.sendall(f"HTTP/1.1 {self.status}\r\n{head}\r\n".encode("latin-1"))
        self._talk(sock, _read_ahead(environ))
        if not by_gunicorn:
            raise ConnectionAbortedError("the WebSocket is closed")


class Talk:
    """What the server iterates, and closes whether or not it has begun."""

    def __init__(self, response: Upgraded, environ: WSGIEnvironment) -> None:
        self._response = response
        self._environ = environ

    def __iter__(self) -> Iterator[bytes]:
        return self._response.talked(self._environ)

    def close(self) -> None:
        self._response.close()


def _read_ahead(environ: Mapping[str, Any]) -> bytes:
    """What the server has read of the socket behind the request: frames of a client that did not wait for the 101."""
    body = environ["wsgi.input"]
    unreader = getattr(getattr(body, "reader", None), "unreader", None)
    if unreader is not None:
        held: bytes = unreader.take_buffered()
        return held
    return b""
