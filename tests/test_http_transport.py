"""The transport against servers that do as they like: bodies whole or a typed error, in bounded time and memory."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest
from conftest import ROOT, eventually, free_port, within

from app.transport.client import Transport
from app.transport.connection import Connection
from app.transport.http1 import MAX_HEAD_BYTES, ProtocolError, ResponseParser, request_bytes

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

WHOLE = {
    # what is sent, the body it has, whether the connection may go on
    "chunked": (CHUNKED, b"helloabc", True),
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + CHUNKED, b"helloabc", True),
    "trailers": (OPEN + b"1\r\na\r\n0\r\nTrailer: x\r\n\r\n", b"a", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", b"abc", False),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", False),
    "to the end": (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc", False),
    "a second one": (CHUNKED + CHUNKED, b"helloabc", False),
    "garbage after": (CHUNKED + b"\x00garbage", b"helloabc", False),
}

BROKEN = {
    "no last chunk": OPEN + b"5\r\nhello\r\n",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    "bad chunk size": OPEN + b"zz\r\nhello",
    "negative chunk size": OPEN + b"-5\r\nhello",
    "overflowing chunk size": OPEN + b"f" * 20 + b"\r\nhello",
    "length and chunks": OPEN.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"5\r\nhello\r\n0\r\n\r\n",
    "other protocol": b"SSH-2.0-OpenSSH\r\n",
    "upgrade": b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
}


def parsed(data: bytes, step: int) -> tuple[ResponseParser, bytes]:
    parser, body = ResponseParser("POST"), b""
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step])
        body += parser.take()
    parser.feed_eof()
    return parser, body


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("name", WHOLE)
def test_a_response_is_the_same_however_it_is_cut(name: str, step: int) -> None:
    data, body, reusable = WHOLE[name]
    parser, got = parsed(data, step)
    assert (got, parser.complete, parser.reusable) == (body, True, reusable)


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_response_is_an_error(name: str, step: int) -> None:
    with pytest.raises(ProtocolError):
        parsed(BROKEN[name], step)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", OPEN + b"5;", OPEN + b"1\r\na\r\n0\r\nTrailer: "])
def test_bytes_that_say_nothing_are_bounded(start: bytes) -> None:
    parser = ResponseParser("POST")
    parser.feed(start)
    fed = 0

    def feed_on() -> None:
        nonlocal fed
        while True:
            parser.feed(b"x" * 1000)
            fed += 1000

    with pytest.raises(ProtocolError, match="too large"):
        feed_on()
    assert fed <= MAX_HEAD_BYTES


def test_a_line_break_in_a_header_is_not_sent() -> None:
    with pytest.raises(ProtocolError):
        request_bytes("POST", b"/", [(b"X-Id", b"a\r\nHost: evil")], b"")


Script = Callable[[socket.socket, int], None]


@contextmanager
def serving(script: Script) -> Iterator[tuple[str, list[int]]]:
    """A server that runs `script(connection, number)` for each connection; gives its URL and the numbers so far."""
    listener = socket.create_server(("127.0.0.1", 0))
    numbers: list[int] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            numbers.append(len(numbers))
            threading.Thread(target=run, args=(connection, numbers[-1]), daemon=True).start()

    def run(connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            script(connection, number)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", numbers
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def request_read(connection: socket.socket) -> bool:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return False
        data += piece
    return True


def each_answered(answer: bytes) -> Script:
    def script(connection: socket.socket, number: int) -> None:
        while request_read(connection):
            connection.sendall(answer)

    return script


def test_a_connection_is_used_again_after_a_whole_body() -> None:
    with serving(each_answered(CHUNKED)) as (url, numbers), httpx2.Client(transport=Transport()) as client:
        assert [client.get(url).content for _ in range(5)] == [b"helloabc"] * 5
        assert numbers == [0]


@pytest.mark.parametrize("name", ["a second one", "garbage after", "close"])
def test_a_connection_is_not_used_again_after_anything_else(name: str) -> None:
    data, body, _ = WHOLE[name]
    with serving(each_answered(data)) as (url, numbers), httpx2.Client(transport=Transport()) as client:
        assert [client.get(url).content for _ in range(3)] == [body] * 3
        assert numbers == [0, 1, 2]


def test_what_an_idle_connection_receives_makes_it_unfit() -> None:
    sent = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        request_read(connection)
        connection.sendall(CHUNKED)
        if number == 0:
            go_on.wait(10)
            connection.sendall(CHUNKED)  # nobody asked for it
            sent.set()
        request_read(connection)

    go_on = threading.Event()
    with serving(script) as (url, numbers), httpx2.Client(transport=Transport()) as client:
        assert client.get(url).content == b"helloabc"
        go_on.set()
        assert sent.wait(10)
        assert client.get(url).content == b"helloabc"
        assert numbers == [0, 1]


def test_a_body_left_unread_closes_its_connection() -> None:
    with (
        serving(each_answered(OPEN + b"5\r\nhello\r\n")) as (url, numbers),
        httpx2.Client(transport=Transport()) as client,
    ):
        for _ in range(2):
            with client.stream("GET", url):
                pass
        assert numbers == [0, 1]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_a_typed_error_and_its_connection_is_gone(name: str) -> None:
    def script(connection: socket.socket, number: int) -> None:
        request_read(connection)
        connection.sendall(CHUNKED if number else BROKEN[name])

    with serving(script) as (url, numbers), httpx2.Client(transport=Transport()) as client:
        with pytest.raises(httpx2.TransportError):
            client.get(url)
        assert client.get(url).content == b"helloabc"
        assert numbers == [0, 1]


def test_nobody_there_is_a_connect_error() -> None:
    with httpx2.Client(transport=Transport()) as client:
        with pytest.raises(httpx2.ConnectError):
            client.get(f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(httpx2.ConnectError):
            client.get("http://no-such-host.invalid/")
        with pytest.raises(httpx2.UnsupportedProtocol):
            client.get("ftp://127.0.0.1/")


def test_a_head_that_drips_is_ended_by_the_clock() -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not ended.wait(0.02):
            connection.sendall(b"x")

    ended = threading.Event()
    with serving(script) as (url, _), httpx2.Client(transport=Transport(), timeout=0.3) as client:
        with pytest.raises(httpx2.ReadTimeout):
            client.get(url)
        ended.set()


def timed_reads(connection: Connection, go_on: Callable[[], None]) -> list[bytes]:
    """A read that runs out of time, and what comes when reading goes on."""
    connection.send("GET", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 5)
    connection.read_head(within(5))
    got = [connection.read(within(5))]
    with pytest.raises(httpx2.ReadTimeout):
        connection.read(within(0.05))
    go_on()
    while piece := connection.read(within(5)):
        got.append(piece)
    return got


def check_going_on_and_aborting() -> None:
    """Run under threads by a test, and under gevent by another in a process of its own."""
    go_on = threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        request_read(connection)
        if number == 0:
            connection.sendall(OPEN + b"5\r\nhello\r\n3\r\na")
            go_on.wait(10)
            connection.sendall(b"bc\r\n0\r\n\r\n")
        elif number == 2:
            connection.sendall(OPEN + b"1\r\na\r\n")
        left.append(connection.recv(1))  # b"": the other side is gone

    left: list[bytes] = []
    with serving(script) as (url, _):
        port = int(url.rsplit(":", 1)[1].strip("/"))
        first = Connection()
        first.connect("127.0.0.1", port, None, 5)
        assert b"".join(timed_reads(first, go_on.set)) == b"helloabc"
        assert first.reusable
        first.close()
        for phase in ("waiting for the head", "in the middle of the body"):
            connection = Connection()
            connection.connect("127.0.0.1", port, None, 5)
            connection.send("GET", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 5)
            if phase != "waiting for the head":
                connection.read_head(within(5))
                assert connection.read(within(5)) == b"a"
            timer = threading.Timer(0.05, connection.abort)
            timer.start()
            wait = connection.read_head if phase == "waiting for the head" else connection.read
            with pytest.raises(httpx2.TransportError):
                wait(30)
            timer.join()
            connection.close()
            connection.close()
            assert not connection.reusable
        eventually(lambda: left == [b""] * 3, what="the end of every connection at the server")


def test_reads_go_on_and_abort_ends_them_under_threads() -> None:
    check_going_on_and_aborting()


def test_reads_go_on_and_abort_ends_them_under_gevent() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_http_transport as t; t.check_going_on_and_aborting(); print('done')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "done\n", ran.stderr
