"""A worker takes so many streams and refuses the next at once, in its client's own words; all else still answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from callers import ASKED, WHOLE, Caller, Watched, request_bytes
from callers import watched as under_watch
from conftest import Service, eventually
from test_routes import Door

from app.testing import FakeProvider, answer

PLACES = 3
OPEN, CLOSED = "fake-stall3", "fake-n5"


@pytest.fixture(scope="module")
def small(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Watched]:
    env = {**fake_provider_server.env, "SLUICEWAY_SERVER__MAX_STREAMS": str(PLACES)}
    one = under_watch(start_service, env)
    yield one
    one.assert_no_complaint()
    one.service.stop()


@contextlib.contextmanager
def full(small: Watched, provider: FakeProvider, door: Door, model: str = OPEN) -> Iterator[list[Caller]]:
    """As many open streams as there are places."""
    eventually(lambda: small.holds()["open_streams"] == 0, what="no stream of the test before")
    before = provider.stats().requests
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(small.address, request_bytes(door, model))) for _ in range(PLACES)]
        provider.wait_for(lambda stats: stats.requests == before + PLACES)
        assert small.holds()["open_streams"] == PLACES
        yield callers


def ask(small: Watched, door: Door) -> requests.Response:
    with door.open(small.service, CLOSED) as response:
        assert response.content
    return response


def the(name: str) -> Door:
    return next(door for door in ASKED if door.name == name)


def test_one_too_many_is_refused_in_each_formats_own_shape(small: Watched, fake_provider: FakeProvider) -> None:
    with full(small, fake_provider, the("streams")):
        for door in ASKED:
            response = ask(small, door)  # while all the places are taken, and nobody has left: it waits for none
            assert response.status_code == 503, door
            assert response.headers["Content-Type"] == "application/json"
            assert int(response.headers["Retry-After"]) >= 1
            assert response.headers["X-Request-ID"]
            said: dict[str, Any] = response.json()
            error = said["error"]
            assert "streams" in error["message"]
            if door.path == "/v1/messages":
                assert (said["type"], error["type"]) == ("error", "overloaded_error")
            elif door.path == "/v1/chat/completions":
                assert error.keys() == {"message", "type", "param", "code"}
                assert error["code"] == "overloaded"
            else:
                assert (error["code"], error["retryable"], error["status"]) == ("overloaded", True, 503)
        assert fake_provider.stats().requests == PLACES, "no model was asked for what was refused"


def test_of_many_at_once_as_many_as_there_are_places_are_let_in(small: Watched, fake_provider: FakeProvider) -> None:
    eventually(lambda: small.holds()["open_streams"] == 0)
    with contextlib.ExitStack() as stack:
        asked = [request_bytes(door, OPEN) for door in ASKED * 4]
        callers = [stack.enter_context(Caller(small.address, request)) for request in asked]
        fake_provider.wait_for(lambda stats: stats.requests == PLACES)
        eventually(lambda: refused(callers) >= len(callers) - PLACES, what="an answer for each of the others")
        assert refused(callers) == len(callers) - PLACES
        assert fake_provider.stats().requests == PLACES


def refused(callers: list[Caller]) -> int:
    """How many have been, so far."""
    for caller in callers:
        caller.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            caller.received += caller.sock.recv(65536)
    return sum(caller.received.startswith(b"HTTP/1.1 503 ") for caller in callers)


def test_what_is_no_stream_still_answers(small: Watched, fake_provider: FakeProvider) -> None:
    with full(small, fake_provider, the("chat")):
        for path in ("/healthz", "/readyz", "/", "/v1/models", "/metrics"):
            response = requests.get(small.service.url + path, timeout=20)
            assert response.status_code == 200, path
        wrong = requests.post(f"{small.service.url}/v1/chat/completions", json={}, timeout=20)
        assert wrong.status_code == 400, "what could never be answered is not told to come again"


@pytest.mark.parametrize("door", [the("chat"), the("messages"), *WHOLE], ids=str)
def test_a_place_is_free_again_when_a_stream_ends(small: Watched, fake_provider: FakeProvider, door: Door) -> None:
    """By its client's leaving; an answer in one piece holds a place like any other."""
    with full(small, fake_provider, door, "fake-stall0") as callers:
        assert ask(small, the("token")).status_code == 503
        callers[0].leave("close")
        eventually(lambda: small.holds()["open_streams"] == PLACES - 1)
        assert answer(CLOSED).text.split()[0] in ask(small, the("plain")).text
        eventually(lambda: small.holds()["open_streams"] == PLACES - 1)


def test_a_place_is_free_again_when_an_answer_is_over(small: Watched, fake_provider: FakeProvider) -> None:
    """Also one that ended in an error, or was refused by the provider."""
    for door in ASKED:
        for model in ("fake-n3", "fake-cut2", "fake-e500", "fake-err0"):
            with door.open(small.service, model) as response:
                assert response.content
    assert fake_provider.stats().requests == 4 * len(ASKED)
    eventually(lambda: small.holds()["open_streams"] == 0)


def test_a_refused_client_may_use_its_connection_again(small: Watched, fake_provider: FakeProvider) -> None:
    with requests.Session() as session:
        url = f"{small.service.url}/v1/streams"
        with full(small, fake_provider, the("ndjson")):
            assert session.post(url, json={"prompt": "hi", "model": f"openai/{CLOSED}"}, timeout=20).status_code == 503
        eventually(lambda: small.holds()["open_streams"] == 0)
        assert session.post(url, json={"prompt": "hi", "model": f"openai/{CLOSED}"}, timeout=20).status_code == 200
