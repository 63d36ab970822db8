"""One connection to a provider: made, written to, read with a time limit that can be renewed, closed from anywhere.

A read that runs out of time leaves the connection as it is: the next read goes on where this one stood. `abort` may
come from another greenlet or thread in every phase (connecting, waiting, in the middle of a body): it ends the socket,
and whoever waits on it fails at once. Only a name that is being looked up is looked up to the end first.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx2
from gevent import monkey

from .http1 import ProtocolError, ResponseParser
from .waiting import Waiter, waiter_for

READ_BYTES = 65536
SEND_BYTES = 16384

# The real one, under gevent too: asked with a timeout of 0 it does not wait, so it need not go through the hub.
_poll = monkey.get_original("select", "poll")
# The same: with AI_NUMERICHOST it asks nobody.
_getaddrinfo = monkey.get_original("socket", "getaddrinfo")


def _nothing(_size: int) -> bytes:
    return b""


def _addresses(host: str, port: int) -> list[Any]:
    """`getaddrinfo`; what is an address already is not handed to gevent's resolver threads."""
    with contextlib.suppress(OSError):
        found: list[Any] = _getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        return found
    return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)


class Connection:
    """One exchange at a time: `connect`, then per exchange `send`, `read_head`, `read` until it gives b""."""

    __slots__ = ("_aborted", "_broken", "_parser", "_readable", "_recv", "_sock", "_tls", "_waiter", "idle_since")

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._tls: ssl.SSLSocket | None = None  # the same, where it is one
        self._waiter: Waiter | None = None
        self._parser: ResponseParser | None = None
        self._recv: Callable[[int], bytes] = _nothing
        self._broken: ProtocolError | None = None
        self._aborted = False
        self._readable = False  # known already, so nothing is waited for
        self.idle_since = 0.0

    def connect(self, host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        """Raises httpx2's `ConnectTimeout` and `ConnectError`. `timeout_s` begins once the name is looked up."""
        try:
            self._establish(host, port, tls, timeout_s)
        except BaseException as exc:
            self.close()
            if isinstance(exc, TimeoutError):
                raise httpx2.ConnectTimeout("no connection in time") from exc
            if isinstance(exc, OSError | ValueError | OverflowError):  # a host or port can be no host or port
                raise httpx2.ConnectError(str(exc)) from exc
            raise

    def _establish(self, host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        addresses = _addresses(host, port)
        deadline = time.monotonic() + timeout_s
        sock = self._reach(addresses, deadline)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            # Without the handshake, which `abort` could not end: `wrap_socket` empties the socket it is given.
            self._sock = sock = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        sock.settimeout(0.0)
        # Under gevent the plain socket inside: it never blocks either, and gevent's own is a Python call more a token.
        self._recv = sock.recv if isinstance(sock, ssl.SSLSocket) else getattr(sock, "_sock", sock).recv
        self._waiter = waiter = waiter_for(sock)
        if isinstance(sock, ssl.SSLSocket):
            self._tls = sock
            self._shake_hands(sock, waiter, deadline)
        self._go_on()

    def _reach(self, addresses: list[Any], deadline: float) -> socket.socket:
        """The first address that accepts; each may take its share of the time that is left."""
        failure = OSError("the name has no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            self._sock = sock = socket.socket(family, kind, protocol)
            self._go_on()
            sock.settimeout(max(0.001, (deadline - time.monotonic()) / (len(addresses) - tried)))
            try:
                sock.connect(address)
            except OSError as exc:
                sock.close()
                failure = exc
            else:
                return sock
        raise failure

    def _shake_hands(self, sock: ssl.SSLSocket, waiter: Waiter, deadline: float) -> None:
        # Our own loop, because gevent's begins its timeout anew with every byte. It never has to wait for writing: what
        # a client says in a handshake fits into an empty send buffer.
        while True:
            self._go_on()
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                if time.monotonic() >= deadline or not waiter.readable(deadline):
                    raise TimeoutError from None

    def _go_on(self) -> None:
        if self._aborted:
            raise OSError("closed while connecting")

    def send(self, method: str, data: bytes, timeout_s: float) -> None:
        """Begin an exchange. Raises httpx2's `WriteTimeout` and `WriteError`."""
        sock = self._sock
        if self._aborted or sock is None:
            raise httpx2.ReadError("the connection is closed")
        self._parser = ResponseParser(method)
        self._broken = None
        deadline = time.monotonic() + timeout_s
        try:
            sent = self._send_some(sock, data)  # nearly always all of it, without a timer
            # In pieces of one TLS record, because `sendall` over TLS begins its timeout anew with each.
            for start in range(sent, len(data), SEND_BYTES):
                left = deadline - time.monotonic()
                if left <= 0.0:
                    raise TimeoutError
                sock.settimeout(left)
                sock.sendall(data[start : start + SEND_BYTES])
            sock.settimeout(0.0)  # from here on the waiter waits
        except TimeoutError as exc:
            raise httpx2.WriteTimeout("the request could not be sent in time") from exc
        except OSError as exc:
            raise httpx2.WriteError(str(exc)) from exc

    @staticmethod
    def _send_some(sock: socket.socket, data: bytes) -> int:
        """What the send buffer took at once (the socket does not block). Not over TLS: its writes may want to read."""
        if not isinstance(sock, ssl.SSLSocket):
            with contextlib.suppress(BlockingIOError):
                return sock.send(data)
        return 0

    def read_head(self, deadline: float) -> ResponseParser:
        """The parser once it knows status and headers. Raises `ReadTimeout` at `deadline` (of `time.monotonic`), after
        which it may be called again."""
        parser = self._parser
        while parser is None or not parser.head_complete:
            parser = self._feed(deadline)
        return parser

    def read(self, deadline: float) -> bytes:
        """What one read brought of the body, b"" at its end. Raises `ReadTimeout`, and may be called again then."""
        parser = self._parser
        while parser is None or not (parser.body or parser.complete):
            parser = self._feed(deadline)
        return parser.take()

    def each(self, step: Callable[[], float], until: float) -> None:
        """`Waiter.each`, for a `step` that reads with a deadline that is over: one read from the socket. Returns at
        once where there is something to read that the socket does not show."""
        waiter, parser, tls = self._waiter, self._parser, self._tls
        if waiter is None or parser is None:
            return

        def hidden() -> bool:
            return bool(parser.body or parser.complete or self._broken or (tls is not None and tls.pending()))

        def stepped() -> float:
            self._readable = True
            until = step()
            self._readable = False
            return 0.0 if hidden() else until

        if not hidden():
            waiter.each(stepped, until)

    def _feed(self, deadline: float) -> ResponseParser:
        """At most one read from the socket into the parser: over TLS, half a record is nothing yet."""
        parser, waiter = self._parser, self._waiter
        if parser is None or waiter is None or self._aborted:
            raise httpx2.ReadError("no request was sent" if parser is None else "the connection is closed")
        if self._broken is not None:
            raise httpx2.RemoteProtocolError(str(self._broken))
        try:
            # TLS may hold decrypted bytes that the socket no longer shows.
            if self._readable:
                self._readable = False
            elif self._tls is None or not self._tls.pending():
                if time.monotonic() >= deadline or not waiter.readable(deadline):
                    raise httpx2.ReadTimeout("nothing to read in time")
                if self._aborted:
                    raise httpx2.ReadError("the connection is closed")
            if data := self._recv(READ_BYTES):
                parser.feed(data)
            else:
                parser.feed_eof()
        except (BlockingIOError, ssl.SSLWantReadError, TimeoutError):
            pass
        except ProtocolError as exc:
            self._broken = exc
            if not parser.body:  # otherwise what came before it is given first
                raise httpx2.RemoteProtocolError(str(exc)) from exc
        except OSError as exc:
            raise httpx2.ReadError(str(exc)) from exc
        return parser

    @property
    def reusable(self) -> bool:
        """Whether the exchange is over and the connection fit for another."""
        parser = self._parser
        return not self._aborted and parser is not None and parser.complete and parser.reusable

    @property
    def fit(self) -> bool:
        """Whether an idle connection is still open and silent: an end, or bytes nobody asked for, make it unfit."""
        if self._sock is None:
            return False
        poll = _poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """End the connection under whoever is using it. From anywhere, more than once."""
        self._aborted = True
        if (sock := self._sock) is not None:
            with contextlib.suppress(OSError):
                # The plain one, for TLS too: SSLSocket's own lets a reader under way go on in plain text.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """By the owner, when nobody waits on it any more. More than once."""
        self._aborted = True
        self._recv = _nothing  # the plain socket would outlive gevent's in it
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.close()
        sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
