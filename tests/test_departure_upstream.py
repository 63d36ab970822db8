"""A departure ends what is under way to the provider, whatever that is: connecting, a handshake, a tunnel through a
proxy, a body that is compressed.

The providers here are witnesses: they say what they are told to, then nothing, and note when their client has closed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from callers import ASKED, WAYS, Caller, Watched, request_bytes, settled, shown
from callers import watched as under_watch
from conftest import Service, eventually
from test_routes import Door

SOON_S = 20.0  # 30 is what connecting may take

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
TOKEN = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"Hello"},"finish_reason":null}]}\n\n'
)
PLAIN_TOKEN = HEAD + b"\r\n%x\r\n%b\r\n" % (len(TOKEN), TOKEN)


def zipped(data: bytes) -> bytes:
    gzip = zlib.compressobj(wbits=31)
    return gzip.compress(data) + gzip.flush(zlib.Z_SYNC_FLUSH)


ZIPPED = zipped(TOKEN)
ZIPPED_TOKEN = HEAD + b"Content-Encoding: gzip\r\n\r\n%x\r\n%b\r\n" % (len(ZIPPED), ZIPPED)


class Witness:
    """Says `said` to every connection once it has heard something, and sees it close."""

    def __init__(self) -> None:
        self.said = b""
        self.heard = 0
        self.closed_at: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._listener.accept()[0]], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                if not sock.recv(65536):
                    return
                sock.sendall(self.said)
                self.heard += 1
                while sock.recv(65536):
                    pass
            except OSError:
                pass
            self.closed_at.append(time.monotonic())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


# A way to a provider -> what it is configured as, and what the witness at its end says before it falls silent.
ROUTES = {
    "plain": ("plain", PLAIN_TOKEN),
    "compressed": ("plain", ZIPPED_TOKEN),
    "a TLS handshake": ("secret", b""),
    "a proxy, before the headers": ("proxied", b""),
    "a proxy, before a token": ("proxied", HEAD + b"\r\n"),
    "a proxy, between two tokens": ("proxied", PLAIN_TOKEN),
    "a proxy, compressed": ("proxied", ZIPPED_TOKEN),
    "a proxy's tunnel": ("tunnelled", b""),
    "a TLS handshake in a proxy's tunnel": ("tunnelled", b"HTTP/1.1 200 OK\r\n\r\n"),
}


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    one = Witness()
    yield one
    one.close()


@pytest.fixture(scope="module")
def nobody() -> Iterator[int]:
    """A port where nobody accepts: to connect takes for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listener.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


@pytest.fixture(scope="module")
def watched(
    start_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory, witness: Witness, nobody: int
) -> Iterator[Watched]:
    here = f"127.0.0.1:{witness.port}"
    addresses = {
        "plain": f"http://{here}/v1",
        "secret": f"https://{here}/v1",
        "proxied": "http://provider.invalid/v1",
        "tunnelled": "https://provider.invalid/v1",
        "nobody": f"http://127.0.0.1:{nobody}/v1",
    }
    file: Path = tmp_path_factory.mktemp("upstream") / "sluiceway.toml"
    tables = [f'[providers.{name}]\nkind = "openai"\nbase_url = "{url}"' for name, url in addresses.items()]
    file.write_text("\n".join(tables))
    proxy = f"http://{here}"
    env = {
        "SLUICEWAY_CONFIG": str(file),
        "SLUICEWAY_TIMEOUTS__CONNECT_S": "30",
        "SLUICEWAY_LOCAL__ENABLED": "false",
        "GEVENT_THREADPOOL_IDLE_TASK_TIMEOUT": "0.2",  # of name lookups; else a greenlet waits 5 s for more
    }
    one = under_watch(start_service, {**env, "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1"})
    with Caller(one.address, request_bytes(the("streams", "plain"), "m")):  # what is made once, is made now
        eventually(lambda: witness.heard == 1)
    yield one
    one.service.stop()


def the(name: str, provider: str) -> Door:
    door = next(door for door in ASKED if door.name == name)
    return replace(door, provider=provider)


@pytest.mark.parametrize("asked", ["streams", "chat-whole"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_departure_ends_every_way_to_a_provider(watched: Watched, witness: Witness, route: str, asked: str) -> None:
    provider, witness.said = ROUTES[route]
    eventually(lambda: watched.holds()["open_streams"] == 0)
    at_start = watched.holds()
    took: list[float] = []
    for way in WAYS:
        heard, closed = witness.heard, len(witness.closed_at)
        with Caller(watched.address, request_bytes(the(asked, provider), "m")) as caller:
            eventually(lambda heard=heard: witness.heard > heard, what="the request")
            if b"Hello" in witness.said and asked == "streams":
                caller.read_until(b"Hello")
            settled(time.monotonic())
            left_at = caller.leave(way)
            eventually(
                lambda closed=closed: len(witness.closed_at) > closed,
                within_s=SOON_S,
                what=f"the end of the provider's connection after a {way}",
            )
        took.append((witness.closed_at[-1] - left_at) * 1000)
    print(f"\n{route}, {asked}: {shown(took)}")
    eventually(lambda: watched.holds()["open_streams"] == 0, what="no open stream")
    eventually(lambda: watched.holds()["descriptors"] <= at_start["descriptors"], what="no descriptor left")
    eventually(lambda: watched.holds()["greenlets"] <= at_start["greenlets"], what="no greenlet left")
    watched.assert_no_complaint()


@pytest.mark.parametrize("asked", ["streams", "chat-whole"])
def test_a_departure_ends_connecting(watched: Watched, asked: str) -> None:
    eventually(lambda: watched.holds()["open_streams"] == 0)
    at_start = watched.holds()
    for way in WAYS:
        with Caller(watched.address, request_bytes(the(asked, "nobody"), "m")) as caller:
            eventually(lambda: watched.holds()["open_streams"] == 1)
            settled(time.monotonic())
            assert watched.holds()["open_streams"] == 1, "it is connecting still"
            caller.leave(way)
            eventually(lambda: watched.holds()["open_streams"] == 0, within_s=SOON_S, what="no open stream")
    eventually(lambda: watched.holds()["descriptors"] <= at_start["descriptors"], what="no descriptor left")
    eventually(lambda: watched.holds()["greenlets"] <= at_start["greenlets"], what="no greenlet left")
    watched.assert_no_complaint()
