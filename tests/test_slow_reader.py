"""A client that reads slower than its stream comes: it costs the worker no memory and no other client a moment, and
when it leaves, the stream ends, although there is always something left to write to it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import requests
from callers import WAYS, Address, Caller, Watched, percentile, running
from callers import watched as under_watch
from conftest import Service, eventually, free_port
from test_nginx import Nginx, nginx_binary, start_nginx

__all__ = ["nginx_binary", "start_nginx"]  # fixtures

ENDLESS = {"model": "openai/bench-n500000000", "prompt": "go on"}
PAGE_MS = 100.0  # what is promised of /healthz beside all this, and five times of it is asserted
GROWTH_BYTES = 8 * 1024 * 1024


class Provider(NamedTuple):
    """A provider that is always quicker, in a process of its own."""

    url: str

    def stats(self) -> dict[str, int]:
        said: dict[str, int] = requests.get(f"{self.url}/stats", timeout=10).json()
        return said

    def open_streams(self) -> int:
        return self.stats()["open"]

    def stands_still(self) -> bool:
        """Whether it has nothing to do, as nobody takes any more of what it has to say."""
        before = self.stats()["tokens"]
        threading.Event().wait(0.3)
        return self.stats()["tokens"] == before


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    port = free_port()
    one = Provider(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return one.open_streams() == 0
        return False

    with running("bench.provider", "--port", str(port)):
        eventually(answers)
        yield one


@pytest.fixture(scope="module")
def watched(start_service: Callable[..., Service], provider: Provider) -> Iterator[Watched]:
    one = under_watch(start_service, {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": f"{provider.url}/v1"})
    yield one
    one.assert_no_complaint()
    one.service.stop()


def endless(address: Address) -> Caller:
    body = json.dumps(ENDLESS)
    head = f"POST /v1/streams HTTP/1.1\r\nHost: sluiceway\r\nContent-Length: {len(body)}\r\n\r\n"
    return Caller(address, f"{head}{body}".encode())


class Reader:
    """Takes 1 KB a second, in a thread."""

    def __init__(self, caller: Caller) -> None:
        self.bytes = 0
        self._caller = caller
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self._stop.wait(1.0):
            self.bytes += len(self._caller.sock.recv(1024))

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()


def pages_ms(session: requests.Session, url: str) -> list[float]:
    """How long each page took that was asked for within 4 s, one after the other."""
    took: list[float] = []
    until = time.monotonic() + 4
    while time.monotonic() < until:
        asked_at = time.monotonic()
        assert session.get(f"{url}/healthz", timeout=30).status_code == 200
        took.append((time.monotonic() - asked_at) * 1000)
    return took


def test_a_slow_reader_costs_no_memory_and_nobody_a_moment(watched: Watched, provider: Provider) -> None:
    with endless(watched.address) as warm:
        warm.read_until(b"@")
    eventually(lambda: provider.open_streams() == 0)
    at_start = watched.holds()["resident_bytes"]

    with endless(watched.address) as caller, Reader(caller) as reader:
        eventually(lambda: reader.bytes >= 7 * 1024, what="7 s of slow reading")
        grown = watched.holds()["resident_bytes"] - at_start
        print(f"\na slow reader, 7 s: the worker grew by {grown / 1e6:.2f} MB")
        assert grown <= GROWTH_BYTES

        # Beside a stream whose client takes all that comes.
        load = ("bench.load", f"{watched.service.url}/v1/streams", "--body", json.dumps(ENDLESS))
        with running(*load, "--streams", "1", "--tokens", "500000000"), requests.Session() as session:
            eventually(lambda: provider.open_streams() == 2)
            for tries in range(1, 4):  # a machine that has other things to do has fewer of them the next time
                took = pages_ms(session, watched.service.url)
                p95 = percentile(took, 95)
                print(f"/healthz beside both: p50 {percentile(took, 50):.1f} ms, p95 {p95:.1f} ms of {len(took)}")
                if p95 <= 5 * PAGE_MS:
                    break
                assert tries < 3, "others wait for the slow reader"
        grown = watched.holds()["resident_bytes"] - at_start
        print(f"after that: grown by {grown / 1e6:.2f} MB")
        assert grown <= GROWTH_BYTES
    eventually(lambda: provider.open_streams() == 0)


def test_a_client_that_reads_nothing_leaves(
    watched: Watched, provider: Provider, start_nginx: Callable[..., Nginx]
) -> None:
    """The worker hangs in a write then, and hears of it all the same."""
    nginx = start_nginx(f"127.0.0.1:{watched.service.port}")
    eventually(lambda: provider.open_streams() == 0)
    at_start = watched.holds()
    for address in (watched.address, ("127.0.0.1", nginx.port)):
        with contextlib.ExitStack() as stack:
            callers = [stack.enter_context(endless(address)) for _ in WAYS]
            eventually(lambda: provider.open_streams() == len(WAYS))
            eventually(provider.stands_still, within_s=30, what="full buffers on all the way")
            for left, (caller, way) in enumerate(zip(callers, WAYS, strict=True), start=1):
                caller.leave(way)
                eventually(
                    lambda left=left: provider.open_streams() == len(WAYS) - left,
                    within_s=20,  # nobody has waited for `write_timeout_s`
                    what=f"the end of a stream after a {way}",
                )
        eventually(lambda: watched.holds()["open_streams"] == 0, what="no open stream")
    eventually(lambda: watched.holds()["descriptors"] <= at_start["descriptors"], what="no descriptor left")
    eventually(lambda: watched.holds()["greenlets"] <= at_start["greenlets"], what="no greenlet left")
