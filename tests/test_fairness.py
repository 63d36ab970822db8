"""Streams that come quicker than we can pass them on leave the others their turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests
from conftest import ROOT, Service, eventually, free_port

STREAMS = 4


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a provider that is always quicker: what it says is rendered once and written by the megabyte."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.provider", "--port", str(port)], cwd=ROOT)
    address = f"127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return requests.get(f"http://{address}/stats", timeout=10).ok
        except requests.ConnectionError:
            return False

    try:
        eventually(answers)
        yield address
    finally:
        process.kill()
        process.wait()


@contextmanager
def saturating(service: Service) -> Iterator[None]:
    """Four endless streams, and a client of another process that takes all they bring."""
    body = {"model": "openai/bench-n500000000", "messages": [{"role": "user", "content": "go on"}], "stream": True}
    command = [sys.executable, "-m", "bench.load", f"{service.url}/v1/chat/completions", "--body", json.dumps(body)]
    client = subprocess.Popen([*command, "--streams", str(STREAMS), "--tokens", "500000000"], cwd=ROOT)
    try:
        yield
        assert client.poll() is None, "the streams ended too early to show anything"
    finally:
        client.kill()
        client.wait()


def open_streams(provider: str) -> int:
    count: int = requests.get(f"http://{provider}/stats", timeout=30).json()["open"]
    return count


@pytest.mark.parametrize("way", ["straight", "through a proxy"])
def test_others_are_answered_beside_streams_that_never_pause(
    provider: str, way: str, start_service: Callable[..., Service]
) -> None:
    here = f"http://{provider}/v1"
    env = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": here}
    if way == "through a proxy":  # which is the provider itself: it does not mind the name in the request line
        env |= {"OPENAI_BASE_URL": "http://provider.invalid/v1", "HTTP_PROXY": f"http://{provider}"}
    service = start_service(env)
    with saturating(service):
        eventually(lambda: open_streams(provider) == STREAMS, what="four open streams")
        for _ in range(20):
            assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200
        chat = {"model": "openai/bench-n20-i5", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        answer = requests.post(f"{service.url}/v1/chat/completions", json=chat, timeout=30)
        assert answer.content.count(b"@") == 40  # of 20 tokens, a mark each
        assert open_streams(provider) == STREAMS
    service.stop()
    eventually(lambda: open_streams(provider) == 0, what="the end of the streams")


def longest_turn(provider: str, way: str) -> int:
    """The most bytes that a stream took while no other greenlet had a turn, of 30 MB that it took in all."""
    env = {**os.environ, "HTTP_PROXY": f"http://{provider}"}
    base_url = f"http://{provider}/v1" if way == "straight" else "http://provider.invalid/v1"
    how = ["alone"] if way == "httpx2 alone" else []
    command = [sys.executable, "-m", "gevent.monkey", "--module", "tests.longest_turn", base_url, *how]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("way", ["straight", "through a proxy"])
def test_a_stream_takes_64_kb_and_then_it_is_the_next_ones_turn(provider: str, way: str) -> None:
    assert longest_turn(provider, way) <= 2 * 64 * 1024  # one read more than the budget, which it fills at the end


def test_which_is_our_doing(provider: str) -> None:
    """The same stream by httpx2 alone, as every loop over an SDK's stream reads it, keeps the worker for megabytes."""
    assert longest_turn(provider, "httpx2 alone") > 1024 * 1024
