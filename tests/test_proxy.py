"""Where HTTP_PROXY is set httpx2's own transport asks the provider, and its reads can't be taken up again: the same
holds there. (Departures on every way to a provider: test_departure_upstream.py.)
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests
from conftest import Service

from app.testing import FakeProvider, text_after


class ForwardProxy:
    """Sends every request to one address, whatever it names; `asked` are the names."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._to) as server, contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is server:
                        client.sendall(data)
                    else:
                        server.sendall(self._directed(data))

    def _directed(self, data: bytes) -> bytes:
        """A request as it goes to the server itself: with a path, where a proxy is given the whole URL."""
        line, _, rest = data.partition(b"\r\n")
        if line.count(b" ") != 2 or not line.endswith(b"HTTP/1.1"):
            return data  # more of a body
        method, url, version = line.split(b" ")
        self.asked.append(urlsplit(url).netloc.decode())
        return b" ".join((method, urlsplit(url).path, version)) + b"\r\n" + rest

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def proxy(fake_provider_server: FakeProvider) -> Iterator[ForwardProxy]:
    where = urlsplit(fake_provider_server.url)
    proxy = ForwardProxy((where.hostname or "", where.port or 0))
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def proxied(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, proxy: ForwardProxy
) -> Iterator[Service]:
    service = start_service(
        {
            **fake_provider_server.env,
            "OPENAI_BASE_URL": "http://provider.test/v1",
            "HTTP_PROXY": proxy.url,
            "NO_PROXY": "",
            "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2",
            "SLUICEWAY_SERVER__HOLD_S": "0.1",
            "SLUICEWAY_TIMEOUTS__IDLE_S": "3",
        }
    )
    yield service
    service.stop()


def body(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_text_comes_through_heartbeats(proxied: Service, proxy: ForwardProxy, fake_provider: FakeProvider) -> None:
    answer = requests.post(f"{proxied.url}/v1/chat/completions", json=body("fake-n4-i500-f700"), timeout=30).text
    data = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in data)
    assert text == text_after("fake-n4-i500-f700", 4)
    assert answer.count(": ping\n") >= 2, "in 2.2 s of silence, every 0.2 s"
    assert answer.endswith("data: [DONE]\n\n")
    assert set(proxy.asked) == {"provider.test"}


def test_the_stall_clock_rings_in_time(proxied: Service, fake_provider: FakeProvider) -> None:
    answer = requests.post(f"{proxied.url}/v1/chat/completions", json=body("fake-n9-stall3"), timeout=30).text
    assert json.loads(answer.splitlines()[-2].removeprefix("data: "))["error"]["code"] == "idle_timeout"
    assert answer.count(": ping\n") >= 2
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)


@pytest.mark.parametrize("behaviour", ["e429", "e503", "ctx", "err5", "cut5", "stall5"])
def test_a_failure_names_the_providers_request(proxied: Service, fake_provider: FakeProvider, behaviour: str) -> None:
    answer = requests.post(f"{proxied.url}/v1/chat/completions", json=body(f"fake-i1-{behaviour}"), timeout=30)
    last = answer.text if answer.status_code != 200 else answer.text.splitlines()[-2].removeprefix("data: ")
    assert json.loads(last)["error"]["provider_request_id"] == "req_fake000001"


@pytest.mark.parametrize("model", ["fake-f60000", "fake-n9-stall3", "fake-n100000-i20"])
def test_a_client_that_leaves_ends_the_upstream(proxied: Service, fake_provider: FakeProvider, model: str) -> None:
    sent = json.dumps(body(model)).encode()
    client = socket.create_connection(("127.0.0.1", proxied.port))
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(sent), sent))
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    assert client.recv(1000)
    client.close()
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    assert fake_provider.stats().aborted == 1
