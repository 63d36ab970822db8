"""The transport against real sockets: scripted servers, good and hostile, under threads and again under gevent.

`test_all_of_it_under_gevent` runs this file once more in a process that is patched; there every thread of these tests
is a greenlet and the transport waits in the hub.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import ROOT, eventually, free_port, within
from gevent import monkey

from app.cancel import Cancel
from app.clock import Clock
from app.transport import clocked, http_client, pool
from app.transport.client import Transport
from app.transport.connection import Connection
from app.transport.http1 import MAX_HEAD_BYTES, ProtocolError, ResponseParser, request_bytes

UNDER_GEVENT = monkey.is_module_patched("socket")
SOON_S = 8.0  # what is said to happen at once
LONG_S = 30.0  # a limit that no test reaches

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        self.sock = sock
        self.server = server
        self._buffer = b""

    def request(self) -> bytes:
        """The next request with its body; b"" where the client has gone."""
        while b"\r\n\r\n" not in self._buffer:
            if not (data := self.sock.recv(65536)):
                return b""
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
        while len(rest) < length:
            rest += self.sock.recv(65536)
        self._buffer = rest[length:]
        self.server.requests.append(head + b"\r\n\r\n" + rest[:length])
        return self.server.requests[-1]

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def until_the_client_ends(self) -> None:
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.server.ended.set()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], None]


class Server:
    """Runs `script` on every connection, each in a thread; then closes it. `accepted` counts them."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.host = "127.0.0.1"
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/"
        self.accepted = 0
        self.handshakes = 0
        self.requests: list[bytes] = []
        self.ended = threading.Event()  # a script saw the client go
        self.go = threading.Event()  # a script waits for it, a test sets it
        self.closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self.closed.is_set():
                sock.close()
                return
            self.accepted += 1
            sock.settimeout(LONG_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        sock: socket.socket = raw
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(raw, server_side=True)
                self._open.add(sock)
                self.handshakes += 1
            self._script(Peer(sock, self))
        except OSError:
            pass  # the client has gone, or the test is over
        finally:
            sock.close()
            raw.close()
            self._open.discard(raw)
            self._open.discard(sock)

    def close(self) -> None:
        self.closed.set()
        self.go.set()
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 20):
            pass  # wakes accept(), under threads and under gevent
        self._threads[0].join(LONG_S)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(script: Script, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(script, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(transport=Transport(), timeout=LONG_S) as client:
        yield client


def answering(*answers: bytes) -> Script:
    """One answer a request, the last for all that follow, on a connection that stays."""

    def script(peer: Peer) -> None:
        served = 0
        while peer.request():
            peer.send(answers[min(served, len(answers) - 1)])
            served += 1
        peer.server.ended.set()

    return script


def once(*pieces: bytes) -> Script:
    """One answer, and the end."""

    def script(peer: Peer) -> None:
        peer.request()
        for piece in pieces:
            peer.send(piece)

    return script


def drip(sock: Peer, data: bytes, every_s: float) -> None:
    """Byte by byte, until the test lets it go: then the rest at once."""
    for at in range(len(data)):
        if sock.server.go.wait(every_s):
            sock.send(data[at:])
            return
        sock.send(data[at : at + 1])


def connected(server: Server, tls: ssl.SSLContext | None = None) -> Connection:
    connection = Connection()
    connection.connect(server.host, server.port, tls, LONG_S)
    return connection


def asking(server: Server, tls: ssl.SSLContext | None = None) -> Connection:
    connection = connected(server, tls)
    connection.send("GET", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", LONG_S)
    return connection


def whole(connection: Connection) -> bytes:
    connection.read_head(within(LONG_S))
    return b"".join(iter(lambda: connection.read(within(LONG_S)), b""))


class Timed:
    """`with Timed(limit_s): ...` fails where the block took longer."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        took = time.monotonic() - self._began
        assert took < self._limit_s, f"took {took:.2f} s"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- the parser, without IO: (bytes, method, body, reusable); a body without length ends with the connection

RESPONSES = {
    "content-length": (HELLO, "GET", b"hello", True),
    "empty": (OK + b"content-length: 0\r\n\r\n", "GET", b"", True),
    "chunked": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "GET", b"hello world", True),
    "chunked with extensions and trailers": (
        CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0\r\nx-check: 1\r\n\r\n',
        "GET",
        b"abc",
        True,
    ),
    "close-delimited": (OK + b"\r\nto the end", "GET", b"to the end", False),
    "close-delimited, other coding": (OK + b"transfer-encoding: gzip\r\n\r\nbytes", "GET", b"bytes", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nold", "GET", b"old", False),
    "HTTP/1.0 with length": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold", "GET", b"old", False),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nold",
        "GET",
        b"old",
        True,
    ),
    "connection: close": (OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok", "GET", b"ok", False),
    "HEAD": (OK + b"content-length: 500\r\n\r\n", "HEAD", b"", False),
    "HEAD chunked": (CHUNKED, "HEAD", b"", False),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b"", True),
    "304 with length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 500\r\n\r\n", "GET", b"", True),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, "POST", b"hello", True),
    "103 and 100 before": (
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + HELLO,
        "GET",
        b"hello",
        True,
    ),
}

BROKEN = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "chunk size no number": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk size overflowing": CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk size empty": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
    "last chunk missing": CHUNKED + b"5\r\nhello\r\n",
    "cut in a chunk": CHUNKED + b"5\r\nhel",
    "content-length short": OK + b"content-length: 9\r\n\r\nhello",
    "content-length negative": OK + b"content-length: -5\r\n\r\nhello",
    "content-length overflowing": OK + b"content-length: 99999999999999999999999\r\n\r\nhello",
    "two content-lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "length and chunks": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": CHUNKED[:-2] + b"content-length: 5\r\n\r\n0\r\n\r\n",
    "space before the colon": OK + b"content-length : 5\r\n\r\nhello",
    "NUL in a header": OK + b"x: a\0b\r\ncontent-length: 5\r\n\r\nhello",
    "status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 5\r\n\r\nhello",
    "only a 100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-len",
    "nothing": b"",
}

BEYOND_THE_END = {
    "garbage": HELLO + b"garbage",
    "a longer body than said": HELLO + b", world",
    "a second response": HELLO + HELLO,
    "after chunks": CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + HELLO,
    "a body after a 204": b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
}


def parsed(pieces: list[bytes], method: str = "GET") -> ResponseParser:
    """Fed piece by piece, then the end where it is not complete; the body stands joined in `take()`."""
    parser = ResponseParser(method)
    for piece in pieces:
        parser.feed(piece)
    parser.feed_eof()
    return parser


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two at every position."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    yield from ([data[:i], data[i:]] for i in range(1, len(data)))


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_the_same_wherever_it_is_cut(name: str) -> None:
    data, method, body, reusable = RESPONSES[name]
    first = parsed([data], method)
    assert first.status == int(data.rpartition(b"HTTP/1.")[2][2:5])
    for pieces in cuts(data):
        parser = parsed(pieces, method)
        said = (parser.status, parser.reason, parser.headers, parser.complete)
        assert said == (first.status, first.reason, first.headers, True), pieces
        assert (parser.take(), parser.reusable) == (body, reusable), pieces


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_refused_wherever_it_is_cut(name: str) -> None:
    for pieces in cuts(BROKEN[name]):
        with pytest.raises(ProtocolError):
            parsed(pieces)


@pytest.mark.parametrize("name", BEYOND_THE_END)
def test_bytes_beyond_the_end_are_not_given_and_end_the_connections_use(name: str) -> None:
    for pieces in cuts(BEYOND_THE_END[name]):
        parser = parsed(pieces)
        assert (parser.take() in (b"hello", b""), parser.reusable) == (True, False), pieces


def test_a_body_that_comes_with_the_answer_to_head_is_dropped() -> None:
    for pieces in cuts(HELLO):
        parser = parsed(pieces, "HEAD")
        assert (parser.take(), parser.complete, parser.reusable) == (b"", True, False)


def test_why_a_response_is_refused_is_said() -> None:
    with pytest.raises(ProtocolError, match="switched protocols"):
        parsed([BROKEN["101"]])
    with pytest.raises(ProtocolError, match="without a response"):
        parsed([b""])
    with pytest.raises(ProtocolError, match="in the middle of the response"):
        parsed([BROKEN["last chunk missing"]])


def test_interim_headers_are_not_the_responses() -> None:
    parser = parsed([RESPONSES["103 and 100 before"][0]])
    assert (parser.status, parser.reason, parser.headers) == (200, b"OK", [(b"content-length", b"5")])


def test_trailers_are_not_headers() -> None:
    assert parsed([RESPONSES["chunked with extensions and trailers"][0]]).headers == [
        (b"transfer-encoding", b"chunked")
    ]


ENDLESS = {
    "header line": (OK + b"x: ", b"a" * 65536),
    "status line": (b"HTTP/1.1 200 ", b"a" * 65536),
    "many headers": (OK, b"x: a\r\n" * 10_000),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "chunk extension": (CHUNKED + b"5;", b"a" * 65536),
    "trailer line": (CHUNKED + b"0\r\nx: ", b"a" * 65536),
    "trailers": (CHUNKED + b"0\r\n", b"x: a\r\n" * 10_000),
    "zeros of a chunk size": (CHUNKED, b"0" * 65536),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_neither_head_nor_body_is_bounded(name: str) -> None:
    start, more = ENDLESS[name]
    parser = ResponseParser("GET")
    fed = 0
    with pytest.raises(ProtocolError):  # noqa: PT012
        parser.feed(start)
        while fed < 100_000_000:
            fed += len(more)
            parser.feed(more)
    assert fed <= 3 * MAX_HEAD_BYTES


# --- requests


def test_a_request_is_one_piece() -> None:
    data = request_bytes("POST", b"/v1", [(b"Host", b"a"), (b"X", b"1")], b"{}")
    assert data == b"POST /v1 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n{}"


@pytest.mark.parametrize("bad", [b"a\r\nx: y", b"a\ny", b"a\r"])
def test_a_line_break_in_a_header_or_the_target_is_refused(bad: bytes) -> None:
    for target, name, value in ((bad, b"a", b"b"), (b"/", bad, b"b"), (b"/", b"a", bad)):
        with pytest.raises(ProtocolError):
            request_bytes("GET", target, [(name, value)], b"")


def test_a_header_with_a_line_break_opens_no_connection(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(answering(HELLO))
    with pytest.raises(httpx2.LocalProtocolError):
        client.get(server.url, headers={"x": "a\r\nhost: evil"})
    assert server.accepted == 0


def test_a_body_from_a_generator_is_sent_by_its_length(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(answering(HELLO))
    assert client.post(server.url, content=iter([b"one", b"two"])).text == "hello"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert (b"content-length: 6" in head.lower(), b"chunked" in head.lower(), body) == (True, False, b"onetwo")


def test_a_large_request_arrives_whole(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(answering(HELLO))
    body = os.urandom(3_000_000)
    assert client.post(server.url, content=body).text == "hello"
    assert server.requests[0].endswith(body)


# --- over a socket


@pytest.mark.parametrize("name", RESPONSES)
def test_every_kind_of_response_over_a_socket(name: str, client: httpx2.Client, serve: Callable[..., Server]) -> None:
    data, method, body, reusable = RESPONSES[name]
    stays = reusable or method == "HEAD"
    server = serve(answering(data) if stays else once(data))
    for _ in range(3):
        assert client.request(method, server.url).content == body
    assert server.accepted == (1 if reusable else 3)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_a_typed_error_and_its_connection_is_gone(
    name: str, client: httpx2.Client, serve: Callable[..., Server]
) -> None:
    server = serve(once(BROKEN[name]))
    for _ in range(2):
        with Timed(5), pytest.raises(httpx2.RemoteProtocolError):
            client.get(server.url)
    assert server.accepted == 2


@pytest.mark.parametrize("name", BEYOND_THE_END)
def test_a_connection_with_bytes_beyond_the_end_is_never_used_again(
    name: str, client: httpx2.Client, serve: Callable[..., Server]
) -> None:
    server = serve(answering(BEYOND_THE_END[name]))
    for _ in range(3):
        assert client.get(server.url).text in ("hello", "")
    assert server.accepted == 3


def test_all_chunks_of_one_read_are_one_piece(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(answering(CHUNKED + b"".join(b"1\r\n%d\r\n" % i for i in range(10)) + b"0\r\n\r\n"))
    with client.stream("GET", server.url) as response:
        assert list(response.extensions["body"]) == [b"0123456789"]


def test_a_piece_is_given_when_it_comes(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + b"3\r\none\r\n")
        peer.server.go.wait(LONG_S)
        peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    server = serve(script)
    with client.stream("GET", server.url) as response:
        pieces = iter(response.extensions["body"])
        assert next(pieces) == b"one"
        server.go.set()
        assert list(pieces) == [b"two"]


def test_an_answer_not_read_to_its_end_closes_the_connection(
    client: httpx2.Client, serve: Callable[..., Server]
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + b"3\r\none\r\n")
        peer.until_the_client_ends()

    server = serve(script)
    for count in (1, 2):
        with client.stream("GET", server.url) as response:
            assert next(iter(response.extensions["body"])) == b"one"
        response.close()  # again
        assert server.ended.wait(SOON_S)
        server.ended.clear()
        assert server.accepted == count


@pytest.mark.parametrize("stray", [b"", HELLO, b"\r\n"], ids=["end", "response", "line break"])
def test_an_idle_connection_that_is_not_silent_is_not_used(
    stray: bytes, client: httpx2.Client, serve: Callable[..., Server]
) -> None:
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HELLO)
        peer.server.go.wait(LONG_S)
        if stray:
            peer.send(stray)
        else:
            peer.sock.shutdown(socket.SHUT_WR)
        sent.set()
        peer.until_the_client_ends()

    server = serve(script)
    transport = client._transport
    assert isinstance(transport, Transport)
    assert client.get(server.url).text == "hello"
    [idle] = transport._pool._idle[("http", server.host, server.port)]
    assert idle.fit
    server.go.set()
    eventually(lambda: sent.is_set() and not idle.fit)
    assert client.get(server.url).text == "hello"
    assert server.accepted == 2
    assert server.ended.wait(SOON_S)


def test_an_idle_connection_grows_old(
    client: httpx2.Client, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answering(HELLO))
    client.get(server.url)
    monkeypatch.setattr(pool, "IDLE_S", 0.0)
    client.get(server.url)
    assert server.accepted == 2
    assert server.ended.wait(SOON_S)


def test_idle_connections_are_bounded_and_the_oldest_go(
    client: httpx2.Client, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE", 2)
    server = serve(answering(HELLO))
    transport = client._transport
    assert isinstance(transport, Transport)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(client.stream("GET", server.url)).read()
    assert server.accepted <= 5
    origin = ("http", server.host, server.port)
    taken = [connected(server) for _ in range(4)]
    for connection in taken:
        connection.send("GET", b"GET / HTTP/1.1\r\n\r\n", LONG_S)
        assert whole(connection) == b"hello"
        transport._pool.give_back(origin, connection)
    assert list(transport._pool._idle[origin]) == taken[-2:]


def test_after_close_nothing_stays(serve: Callable[..., Server]) -> None:
    server = serve(answering(HELLO))
    before = open_files()
    transport = Transport()
    with httpx2.Client(transport=transport) as client:
        client.get(server.url)
        response = client.send(client.build_request("GET", server.url), stream=True)
    response.read()  # still at work when the client was closed
    response.close()
    transport.close()
    eventually(lambda: open_files() <= before, what="all files closed")


# --- time


def test_slow_headers_end_by_the_clock(serve: Callable[..., Server]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        drip(peer, OK + b"x: a\r\n" * 5000, every_s=0.02)

    server = serve(script)
    clock = Clock(first_token_s=0.3, idle_s=LONG_S, total_s=LONG_S)
    with http_client(server.url) as client, Timed(SOON_S), pytest.raises(httpx2.ReadTimeout):
        client.get(server.url, timeout=clocked(clock, Cancel(), connect_s=LONG_S))


def test_a_body_of_empty_progress_ends_by_the_clock(serve: Callable[..., Server]) -> None:
    """Bytes that are no body (a chunk's extension, drop by drop) do not make a read longer."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED)
        drip(peer, b"5;" + b"a" * 5000, every_s=0.02)

    connection = asking(serve(script))
    connection.read_head(within(LONG_S))
    with Timed(SOON_S), pytest.raises(httpx2.ReadTimeout):
        connection.read(within(0.3))
    connection.close()


def test_the_clock_is_asked_at_every_read(serve: Callable[..., Server]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + b"3\r\none\r\n")
        peer.until_the_client_ends()

    server = serve(script)
    clock = Clock(first_token_s=LONG_S, idle_s=0.2, total_s=LONG_S)
    with (
        http_client(server.url) as client,
        client.stream("GET", server.url, timeout=clocked(clock, Cancel(), connect_s=LONG_S)) as response,
    ):
        pieces = iter(response.extensions["body"])
        assert next(pieces) == b"one"
        clock.token_seen()
        with Timed(SOON_S), pytest.raises(httpx2.ReadTimeout):
            next(pieces)


def test_a_read_that_ran_out_of_time_goes_on(serve: Callable[..., Server]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        for piece in (b"HTTP/1.1 200", b" OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\no", b"ne\r\n", b"0\r\n\r\n"):
            peer.send(piece)
            peer.server.go.wait(LONG_S)
            peer.server.go.clear()

    server = serve(script)
    connection = asking(server)
    for _ in range(2):
        with pytest.raises(httpx2.ReadTimeout):
            connection.read_head(within(0.05))
    server.go.set()
    assert connection.read_head(within(LONG_S)).status == 200
    assert connection.read(within(LONG_S)) == b"o"
    for _ in range(3):
        with Timed(SOON_S), pytest.raises(httpx2.ReadTimeout):
            connection.read(within(0.05))
    server.go.set()
    assert connection.read(within(LONG_S)) == b"ne"
    with pytest.raises(httpx2.ReadTimeout):
        connection.read(within(0.0))
    server.go.set()
    assert connection.read(within(LONG_S)) == b""
    assert connection.reusable
    connection.close()


def test_a_request_nobody_reads_ends_in_time(serve: Callable[..., Server]) -> None:
    connection = connected(serve(lambda peer: peer.server.go.wait(LONG_S) and None))
    with Timed(SOON_S), pytest.raises(httpx2.WriteTimeout):
        connection.send("POST", b"a" * 50_000_000, 0.2)
    connection.close()


# --- connecting


def test_refused(client: httpx2.Client) -> None:
    with pytest.raises(httpx2.ConnectError, match="refused"):
        client.get(f"http://127.0.0.1:{free_port()}/")


def test_a_name_that_does_not_exist(client: httpx2.Client) -> None:
    with pytest.raises(httpx2.ConnectError):
        client.get("http://no-such-name.invalid/")


@pytest.mark.parametrize("host", ["a" * 300, "\N{SNOWMAN}" * 80, ".", "a..b"])
def test_a_host_that_can_be_none(host: str) -> None:
    with pytest.raises(httpx2.ConnectError):
        Connection().connect(host, 80, ssl.create_default_context(), LONG_S)


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """A port that neither accepts nor refuses."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        poll = select.poll()
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            poll.register(filler.fileno(), select.POLLOUT)
        eventually(lambda: 0 < len(poll.poll(50)) < 8, what="a full backlog")
        yield listener.getsockname()[1]


def test_a_connection_that_is_not_accepted_in_time(client: httpx2.Client, full_backlog: int) -> None:
    with Timed(SOON_S), pytest.raises(httpx2.ConnectTimeout):
        client.get(f"http://127.0.0.1:{full_backlog}/", timeout=httpx2.Timeout(LONG_S, connect=0.2))


# --- resets


def resetting(*before: bytes, read: bool = True) -> Script:
    def script(peer: Peer) -> None:
        if read:
            peer.request()
        for piece in before:
            peer.send(piece)
            peer.server.go.wait(LONG_S)
        peer.reset()

    return script


@pytest.mark.parametrize("before", [[], [OK[:9]], [CHUNKED], [CHUNKED + b"3\r\none\r\n"], [OK + b"\r\nto the"]])
def test_a_reset_in_every_phase_is_a_typed_error(before: list[bytes], serve: Callable[..., Server]) -> None:
    server = serve(resetting(*before))
    connection = asking(server)
    server.go.set()
    with Timed(SOON_S), pytest.raises(httpx2.NetworkError):
        whole(connection)
    assert not connection.reusable
    connection.close()


def test_a_reset_before_the_request(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(resetting(read=False))
    with Timed(SOON_S), pytest.raises(httpx2.NetworkError):
        client.get(server.url)


# --- hostile


@pytest.mark.parametrize("name", ["header line", "chunk extension", "trailers"])
def test_endless_bytes_are_refused_in_bounded_time_and_memory(
    name: str, client: httpx2.Client, serve: Callable[..., Server]
) -> None:
    start, more = ENDLESS[name]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        for _ in range(100_000_000 // len(more)):
            peer.send(more)

    server = serve(script)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Timed(5), pytest.raises(httpx2.RemoteProtocolError, match="too large"):
        client.get(server.url)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000


@pytest.mark.parametrize("then", ["more", "the end", "silence"])
def test_a_refusal_stays_a_refusal_whatever_its_body_does(then: str, serve: Callable[..., Server]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 9000000000\r\n\r\nno")
        if then == "silence":
            peer.until_the_client_ends()
        while then == "more":
            peer.send(b"a" * 65536)

    server = serve(script)
    clock = Clock(first_token_s=2.0, idle_s=LONG_S, total_s=LONG_S)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with http_client(server.url) as client, Timed(SOON_S):
        request = client.build_request("GET", server.url, timeout=clocked(clock, Cancel(), connect_s=LONG_S))
        response = client.send(request, stream=True)
        assert (response.status_code, response.headers["retry-after"], response.read()) == (429, "7", b"")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000


# --- abort


def waits(thread: threading.Thread) -> bool:
    """Whether the thread sleeps in one of the transport's waits. Greenlets: they do once they have given way to us."""
    if UNDER_GEVENT:
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name in ("readable", "_reach")


def aborted(connection: Connection, work: Callable[[], object], under_way: Callable[[], Any]) -> Exception:
    """What `work` raised when its connection was aborted from here, at once, while it waited."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except httpx2.HTTPError as exc:
            raised.append(exc)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    eventually(under_way)
    eventually(lambda: waits(thread))
    with Timed(SOON_S):
        connection.abort()
        thread.join(LONG_S)
    connection.abort()  # again, and after close
    connection.close()
    return raised[0]


def test_abort_while_connecting(full_backlog: int) -> None:
    connection = Connection()
    work = lambda: connection.connect("127.0.0.1", full_backlog, None, LONG_S)  # noqa: E731
    assert isinstance(aborted(connection, work, lambda: connection._sock), httpx2.ConnectError)


def test_abort_in_the_tls_handshake(serve: Callable[..., Server]) -> None:
    hello = threading.Event()

    def script(peer: Peer) -> None:
        peer.sock.recv(1)
        hello.set()
        peer.until_the_client_ends()

    server, connection = serve(script), Connection()
    work = lambda: connection.connect(server.host, server.port, ssl.create_default_context(), LONG_S)  # noqa: E731
    assert isinstance(aborted(connection, work, hello.is_set), httpx2.ConnectError)
    assert server.ended.wait(SOON_S)


def test_abort_while_waiting_for_headers(serve: Callable[..., Server]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.until_the_client_ends()

    server = serve(script)
    connection = asking(server)
    error = aborted(connection, lambda: connection.read_head(within(LONG_S)), lambda: server.requests)
    assert isinstance(error, httpx2.ReadError)
    assert server.ended.wait(SOON_S)


def in_the_middle(peer: Peer) -> None:
    peer.request()
    peer.send(CHUNKED + b"3\r\none\r\n")
    peer.until_the_client_ends()


def test_abort_in_the_middle_of_a_body(serve: Callable[..., Server]) -> None:
    server = serve(in_the_middle)
    connection = asking(server)
    connection.read_head(within(LONG_S))
    assert connection.read(within(LONG_S)) == b"one"
    error = aborted(connection, lambda: connection.read(within(LONG_S)), lambda: True)
    assert isinstance(error, httpx2.ReadError)
    assert server.ended.wait(SOON_S)


def test_abort_between_two_reads_fails_the_next(serve: Callable[..., Server]) -> None:
    server = serve(in_the_middle)
    connection = asking(server)
    connection.read_head(within(LONG_S))
    assert connection.read(within(LONG_S)) == b"one"
    connection.abort()
    with Timed(SOON_S), pytest.raises(httpx2.ReadError):
        connection.read(within(LONG_S))
    assert not connection.reusable
    connection.close()
    connection.close()
    assert server.ended.wait(SOON_S)


def raise_at_the_end(connection: Connection) -> None:
    while connection.read(within(LONG_S)):
        pass


if monkey.is_module_patched("socket"):

    def test_close_while_another_waits_ends_the_wait(serve: Callable[..., Server]) -> None:
        """Under gevent, where a wait is a watcher that `close` takes away; a thread's `poll` is ended by `abort`."""
        server = serve(in_the_middle)
        connection = asking(server)
        connection.read_head(within(LONG_S))
        assert connection.read(within(LONG_S)) == b"one"
        threading.Timer(0.05, connection.close).start()
        with Timed(SOON_S), pytest.raises(httpx2.ReadError):
            connection.read(within(LONG_S))


@pytest.mark.parametrize("rest", [b"zz\r\n", b"-1\r\n", b"3\r\nthree!"])
def test_what_came_in_one_read_before_broken_bytes_is_given_first(serve: Callable[..., Server], rest: bytes) -> None:
    server = serve(once(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n" + rest))
    connection = asking(server)
    connection.read_head(within(LONG_S))
    read = connection.read(within(LONG_S))
    while len(read) < 6:  # the kernel may bring it in two reads
        read += connection.read(within(LONG_S))
    assert read.startswith(b"onetwo")
    for _ in range(2):  # and stays so
        with pytest.raises(httpx2.RemoteProtocolError):
            raise_at_the_end(connection)
    assert not connection.reusable
    connection.close()


# --- many at a time


def test_a_hundred_at_a_time_over_one_pool_and_no_file_left(serve: Callable[..., Server]) -> None:
    server = serve(answering(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"))
    before, said, failed = open_files(), [], []
    with httpx2.Client(transport=Transport(), timeout=LONG_S) as client:

        def ask() -> None:
            try:
                said.extend(client.get(server.url).text for _ in range(5))
            except Exception as exc:
                failed.append(exc)

        threads = [threading.Thread(target=ask) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
    assert failed == []
    assert said == ["hello"] * 500
    assert server.accepted <= 100
    eventually(lambda: open_files() <= before, what="all files closed")


def test_failed_exchanges_leave_no_file_open(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(once(BROKEN["chunk size no number"]))
    with contextlib.suppress(httpx2.HTTPError):
        client.get(server.url)
    eventually(lambda: not server._open)
    before = open_files()
    for url in (server.url, f"http://127.0.0.1:{free_port()}/", f"https://127.0.0.1:{server.port}/"):
        for _ in range(5):
            with pytest.raises(httpx2.HTTPError):
                client.get(url, timeout=httpx2.Timeout(LONG_S, connect=0.05))
    eventually(lambda: open_files() <= before, what="all files closed")


# --- TLS


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and good, wrong_host, expired (of that authority) and unknown (of none): .key and .pem."""
    folder = tmp_path_factory.mktemp("tls")
    try:
        openssl(folder, "version")
    except OSError:
        pytest.skip("openssl is not installed")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
        "copy_extensions=copy\n[p]\ncommonName=supplied\n"
    )
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    authority = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(folder, *new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", *authority)
    for name, host, until in (
        ("good", "IP:127.0.0.1,DNS:localhost", "20400101000000Z"),
        ("wrong_host", "DNS:other.example", "20400101000000Z"),
        ("expired", "IP:127.0.0.1", "20200102000000Z"),
    ):
        alt = f"subjectAltName={host}"
        openssl(folder, *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", "-addext", alt)
        signed = ("-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", f"{name}.csr")
        dates = ("-startdate", "20200101000000Z", "-enddate", until)
        openssl(folder, "ca", "-batch", "-notext", *signed, "-out", f"{name}.pem", *dates)
    alone = ("-addext", "subjectAltName=IP:127.0.0.1")
    openssl(folder, *new, "-x509", "-keyout", "unknown.key", "-out", "unknown.pem", "-subj", "/CN=unknown", *alone)
    return folder


@pytest.fixture
def trusting(certificates: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificates / "ca.pem"))


def identity(certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def test_many_requests_over_tls_shake_hands_once(
    certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    server = serve(answering(HELLO), identity(certificates, "good"))
    with httpx2.Client(transport=Transport(trusting)) as client:
        for host in ("127.0.0.1", "localhost"):
            for _ in range(20):
                assert client.get(f"https://{host}:{server.port}/").text == "hello"
    assert server.handshakes == 2
    assert len(server.requests) == 40


@pytest.mark.parametrize(
    ("name", "said"), [("wrong_host", "mismatch"), ("unknown", "self-signed certificate"), ("expired", "expired")]
)
def test_a_wrong_certificate_is_refused_before_a_request_is_sent(
    name: str, said: str, certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    server = serve(answering(HELLO), identity(certificates, name))
    with httpx2.Client(transport=Transport(trusting)) as client:
        for _ in range(2):
            with pytest.raises(httpx2.ConnectError, match=said):
                client.post(server.url, content=b"secret")
    server.close()
    assert server.requests == []


def test_plain_http_behind_https_is_a_connect_error(client: httpx2.Client, serve: Callable[..., Server]) -> None:
    server = serve(lambda peer: peer.send(HELLO))
    with pytest.raises(httpx2.ConnectError):
        client.get(server.url.replace("http:", "https:"))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_over_tls_is_complete(
    chunked: bool, certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    body = os.urandom(5_000_000)
    parts = [body[i : i + 9999] for i in range(0, len(body), 9999)]
    framed = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    data = framed if chunked else OK + b"content-length: %d\r\n\r\n" % len(body) + body
    server = serve(answering(data), identity(certificates, "good"))
    with httpx2.Client(transport=Transport(trusting), timeout=LONG_S) as client:
        for _ in range(2):
            assert client.post(server.url, content=body).content == body
    assert server.handshakes == 1
    assert server.requests[0].endswith(body)


def between(port: int, onward: Callable[[Peer, bytes], None]) -> Script:
    """Passes everything to `port`, and what comes back through `onward`."""

    def script(peer: Peer) -> None:
        with socket.create_connection(("127.0.0.1", port), LONG_S) as inner:

            def upward() -> None:
                with contextlib.suppress(OSError):
                    while data := peer.sock.recv(65536):
                        inner.sendall(data)
                with contextlib.suppress(OSError):
                    inner.shutdown(socket.SHUT_RDWR)

            thread = threading.Thread(target=upward)
            thread.start()
            try:
                while data := inner.recv(65536):
                    onward(peer, data)
            finally:
                with contextlib.suppress(OSError):
                    peer.sock.shutdown(socket.SHUT_RDWR)
                thread.join(LONG_S)

    return script


def byte_by_byte(peer: Peer, data: bytes) -> None:
    for at in range(len(data)):
        peer.send(data[at : at + 1])


def test_half_tls_records_are_waited_for(
    certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    inner = serve(answering(OK + b"content-length: 3000\r\n\r\n" + b"x" * 3000), identity(certificates, "good"))
    outer = serve(between(inner.port, byte_by_byte))
    with httpx2.Client(transport=Transport(trusting), timeout=LONG_S) as client:
        for _ in range(2):
            assert client.get(outer.url.replace("http:", "https:")).content == b"x" * 3000
    assert outer.accepted == 1


def test_a_tls_record_drop_by_drop_ends_by_the_clock_and_goes_on(
    certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK + b"content-length: 3000\r\n\r\n")
        peer.server.go.wait(LONG_S)
        peer.send(b"x" * 3000)
        peer.request()

    slow = threading.Event()

    def onward(peer: Peer, data: bytes) -> None:
        if slow.is_set():
            drip(peer, data, every_s=0.02)
        else:
            peer.send(data)

    inner = serve(script, identity(certificates, "good"))
    outer = serve(between(inner.port, onward))
    connection = asking(outer, trusting)
    assert connection.read_head(within(LONG_S)).status == 200
    slow.set()
    inner.go.set()
    with Timed(SOON_S), pytest.raises(httpx2.ReadTimeout):
        connection.read(within(0.3))
    outer.go.set()
    assert b"".join(iter(lambda: connection.read(within(LONG_S)), b"")) == b"x" * 3000
    assert connection.reusable
    connection.close()


def test_a_handshake_drop_by_drop_ends_in_time(
    certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    inner = serve(answering(HELLO), identity(certificates, "good"))
    outer = serve(between(inner.port, lambda peer, data: drip(peer, data, every_s=0.02)))
    with Timed(SOON_S), pytest.raises(httpx2.ConnectTimeout):
        Connection().connect(outer.host, outer.port, trusting, 0.3)


def test_abort_in_the_middle_of_a_body_over_tls(
    certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    server = serve(in_the_middle, identity(certificates, "good"))
    connection = asking(server, trusting)
    connection.read_head(within(LONG_S))
    assert connection.read(within(LONG_S)) == b"one"
    error = aborted(connection, lambda: connection.read(within(LONG_S)), lambda: True)
    assert isinstance(error, httpx2.ReadError)
    assert server.ended.wait(SOON_S)


def test_a_request_nobody_reads_over_tls_ends_in_time(
    certificates: Path, trusting: ssl.SSLContext, serve: Callable[..., Server]
) -> None:
    server = serve(lambda peer: peer.server.go.wait(LONG_S) and None, identity(certificates, "good"))
    connection = connected(server, trusting)
    with Timed(SOON_S), pytest.raises(httpx2.WriteTimeout):
        connection.send("POST", b"a" * 50_000_000, 0.2)
    connection.close()


# --- and under gevent

PATCHED = "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"

if not UNDER_GEVENT:

    def test_all_of_it_under_gevent() -> None:
        args = ["-q", "-p", "no:cacheprovider", "--no-header", __file__]
        run = subprocess.run(
            [sys.executable, "-c", PATCHED, *args], cwd=ROOT, capture_output=True, text=True, timeout=110
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
