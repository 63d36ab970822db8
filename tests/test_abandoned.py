"""A stream that an app begins and does not hand over ends with its request, and costs no other client anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from callers import ASKED, Caller, Watched, request_bytes, settled
from callers import watched as under_watch
from conftest import Service, eventually
from test_routes import Door

from app.testing import FakeProvider, answer

PATHS = {"/instead": b"HTTP/1.1 200 ", "/aborted": b"HTTP/1.1 403 ", "/failing": b"HTTP/1.1 500 "}
STREAM = next(door for door in ASKED if (door.name, door.provider) == ("streams", "openai"))


@pytest.fixture(scope="module")
def careless(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Watched]:
    one = under_watch(start_service, fake_provider_server.env, app="tests.careless:app")
    yield one
    one.service.stop()


def at(path: str) -> Door:
    return replace(STREAM, path=path)


def abandoned(careless: Watched, path: str, *, kept: bool) -> Caller:
    """A caller who was answered without the stream that was begun for it; its connection is kept, or closed by us."""
    headers = {} if kept else {"Connection": "close"}
    caller = Caller(careless.address, request_bytes(at(path), "fake-n1000-i20", headers=headers))
    caller.read_until(b"\r\n\r\n")
    assert caller.received.startswith(PATHS[path])
    if not kept:
        caller.read_to_the_end()
    return caller


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "closed"])
@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_is_not_handed_over_ends(
    careless: Watched, fake_provider: FakeProvider, path: str, kept: bool
) -> None:
    with abandoned(careless, path, kept=kept):
        pass
    fake_provider.wait_for(lambda stats: stats.requests == 1 and stats.open_streams == 0)
    eventually(lambda: careless.holds()["open_streams"] == 0, what="no place taken")


@pytest.mark.parametrize("path", PATHS)
def test_the_next_clients_departure_is_noticed(careless: Watched, fake_provider: FakeProvider, path: str) -> None:
    """It may get the number of a descriptor that was watched for the one before."""
    for _ in range(3):
        with abandoned(careless, path, kept=False):
            pass
    fake_provider.reset()
    for _ in range(6):
        gone = fake_provider.stats().aborted
        with Caller(careless.address, request_bytes(STREAM, "fake-stall3", "next")) as caller:
            caller.read_until(b'"text"')
            settled(fake_provider.requests[-1].at)
            caller.leave("close")
            fake_provider.wait_for(lambda stats, gone=gone: stats.aborted == gone + 1)


def test_the_next_stream_of_a_kept_connection_is_watched(careless: Watched, fake_provider: FakeProvider) -> None:
    with abandoned(careless, "/instead", kept=True) as caller:
        caller.read_until(b"something else")
        fake_provider.reset()
        caller.sock.sendall(request_bytes(STREAM, "fake-stall3", "next"))
        caller.read_until(b'"text"')
        settled(fake_provider.requests[-1].at)
        caller.leave("close")
        fake_provider.wait_for(lambda stats: stats.aborted == 1)


@pytest.mark.parametrize("path", ["/noted", "/wrapped"])
def test_a_stream_in_a_body_of_the_apps_own_is_whole(careless: Watched, fake_provider: FakeProvider, path: str) -> None:
    model = "fake-n9-i20"
    with Caller(careless.address, request_bytes(at(path), model, headers={"Connection": "close"})) as caller:
        caller.read_to_the_end()
    lines = caller.body.decode().split("\n")
    assert "".join(STREAM.line_text(line) or "" for line in lines) == answer(model).text
    assert caller.body.endswith(b"data: [DONE]\n\n")
    fake_provider.wait_for(lambda stats: stats.completed == 1)
    eventually(lambda: careless.holds()["open_streams"] == 0, what="no place taken")


@pytest.mark.parametrize("path", ["/noted", "/wrapped"])
def test_its_client_may_leave(careless: Watched, fake_provider: FakeProvider, path: str) -> None:
    with Caller(careless.address, request_bytes(at(path), "fake-n9-stall3")) as caller:
        caller.read_until(b'"text"')
        settled(fake_provider.requests[-1].at)
        caller.leave("close")
        fake_provider.wait_for(lambda stats: stats.aborted == 1)
    eventually(lambda: careless.holds()["open_streams"] == 0, what="no place taken")
