"""A stream holds none of the database connections of the app it runs in, neither while it waits for the model nor while
it answers: with Flask-SQLAlchemy, whose sessions last as long as the app's context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from callers import Caller, request_bytes
from callers import watched as under_watch
from conftest import Service
from test_routes import DOORS, Door

from app.testing import FakeProvider, answer

STREAMS = 50
LATE = "fake-n4-f1500-i500"  # the first token after 1.5 s: all have been asked by then, on a slow machine too


def at(name: str, path: str, **more: bool) -> Door:
    door = next(door for door in DOORS if door.name == name)
    return replace(door, path=path, more=more)


@pytest.fixture(scope="module")
def shop(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    file: Path = tmp_path_factory.mktemp("shop") / "db"
    watched = under_watch(start_service, {**fake_provider_server.env, "SHOP_DATABASE": str(file)}, app="tests.shop:app")
    yield watched.service
    watched.assert_no_complaint()
    watched.service.stop()


@pytest.mark.parametrize(
    "door",
    [
        pytest.param(at("streams", "/ask"), id="view"),
        pytest.param(at("streams", "/ask?after=1"), id="view-and-after-request"),
        pytest.param(at("chat", "/ai/v1/chat/completions"), id="mounted-door"),
        pytest.param(at("chat", "/ai/v1/chat/completions", stream=False), id="mounted-door-in-one-piece"),
    ],
)
def test_fifty_streams_hold_no_connection_of_a_pool_of_two(
    door: Door, shop: Service, fake_provider: FakeProvider
) -> None:
    def checked_out() -> int:
        count: int = requests.get(f"{shop.url}/pool", timeout=10).json()["checked_out"]
        return count

    assert checked_out() == 0
    with contextlib.ExitStack() as stack:
        asked = request_bytes(door, LATE, headers={"Connection": "close"})
        callers = [stack.enter_context(Caller(("127.0.0.1", shop.port), asked)) for _ in range(STREAMS)]
        fake_provider.wait_for(lambda stats: stats.requests == STREAMS)
        assert fake_provider.stats().open_streams == STREAMS, "nobody has waited for the pool"
        assert checked_out() == 0, "while they wait for the first token"
        if "stream" not in door.more:
            for caller in callers:
                caller.read_until(answer(LATE).text.split()[0].encode())
            assert fake_provider.stats().open_streams == STREAMS
            assert checked_out() == 0, "while they stream"
        for caller in callers:
            caller.read_to_the_end()
            assert caller.received.startswith(b"HTTP/1.1 200 ")
            assert answer(LATE).text.split()[-1].encode() in caller.received
    fake_provider.wait_for(lambda stats: stats.completed == STREAMS)
    assert checked_out() == 0
