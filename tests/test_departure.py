"""Whoever leaves ends the answer: the provider's connection is closed at once, whatever the client's way of leaving,
the route, what stands between, and however far the answer had come.

Both ends of a departure are seen here, by one clock: the client leaves from this process, and the fake provider, a
thread of it, sees its connection end. `pytest -s` shows how long they took.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from callers import (
    ASKED,
    STREAMED,
    WAYS,
    WHOLE,
    Address,
    Caller,
    Watched,
    percentile,
    request_bytes,
    running,
    settled,
    shown,
)
from callers import watched as under_watch
from conftest import Service, eventually, free_port
from test_nginx import Nginx, nginx_binary, start_nginx
from test_routes import Door, tokens

from app.testing import FakeProvider, answer

__all__ = ["nginx_binary", "start_nginx"]  # fixtures

SOON_S = 10.0  # by when every departure must have been noticed; how quickly it is, is asserted apart
P50_MS, P99_MS = 200.0, 1000.0  # ten times what is promised: a busy machine is no defect

# How far an answer has come when its client leaves -> the model that makes it stay there.
PHASES = {
    "before the headers": "fake-slow60000",
    "before a token": "fake-stall0",
    "between two tokens": "fake-n9-stall3",
    "streaming": "fake-n1000-i20",
}
HELD = "after the hold"  # `hold_s` is over and the status line is out, but no token has come
AT_ONCE = "at once"  # the request is hardly sent

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: sluiceway\r\n\r\n"


class Case(NamedTuple):
    door: Door
    way: str
    phase: str
    address: Address
    name: str

    def ask(self) -> Caller:
        model = PHASES.get(self.phase, PHASES["before a token"])
        return Caller(self.address, request_bytes(self.door, model, self.name))

    def mark(self) -> bytes:
        """What a client has of the answer in this phase, if it can have anything."""
        if self.door in WHOLE or self.phase in (AT_ONCE, "before the headers", "before a token"):
            return b""
        if self.phase == HELD:
            return b"\r\n\r\n"
        return tokens(PHASES[self.phase])[2].strip().encode()


numbers = itertools.count()


def cases(doors: Iterable[Door], phase: str, address: Address) -> list[Case]:
    return [
        Case(door, way, phase, address, f"{next(numbers)}:{door}:{way}".replace(" ", "-"))
        for way in WAYS
        for door in doors
    ]


@contextlib.contextmanager
def opened(group: list[Case], provider: FakeProvider) -> Iterator[list[Caller]]:
    """Their answers, each as far as its phase."""
    before = provider.stats().requests
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(case.ask()) for case in group]
        waiting = sum(case.phase != AT_ONCE for case in group)
        provider.wait_for(lambda stats: stats.requests >= before + waiting)
        for case, caller in zip(group, callers, strict=True):
            caller.read_until(case.mark())
        settled(time.monotonic())
        yield callers


def one_by_one(group: list[Case], provider: FakeProvider, tries: int = 3) -> list[float]:
    """How long each departure took, in ms, with nobody else leaving at the same time.

    One that took long leaves again: a machine that stood still meanwhile does so for another the next time, and a
    departure that is not noticed, never is.
    """
    took: list[float] = []
    late: list[Case] = []
    missed: list[str] = []
    with opened(group, provider) as callers:
        for case, caller in zip(group, callers, strict=True):
            gone = provider.stats().aborted
            left_at = caller.leave(case.way)
            try:
                provider.wait_for(lambda stats, gone=gone: stats.aborted > gone, timeout_s=SOON_S)
            except AssertionError:
                missed.append(case.name)
                assert len(missed) < 3, f"unnoticed: {missed}"
                continue
            departure = provider.departures[-1]
            assert departure.request.headers["x-request-id"] == case.name, "another's connection was closed"
            assert departure.at >= left_at, "it was closed before"
            took.append((departure.at - left_at) * 1000)
            if took[-1] > P99_MS and tries > 1:
                print(f"\n{case.name}: {took.pop():.0f} ms, once more")
                late.append(case)
        assert not missed, f"unnoticed: {missed}"
        for case, caller in zip(group, callers, strict=True):
            if case.way == "half-close":  # it can still read, and is told that this is over
                caller.read_to_the_end()
    return took + one_by_one(late, provider, tries - 1) if late else took


def in_groups(of: list[Case], size: int) -> Iterator[list[Case]]:
    for start in range(0, len(of), size):
        yield of[start : start + size]


class Figures:
    """All that was measured, printed at the end."""

    def __init__(self) -> None:
        self._all: dict[str, list[float]] = {}

    def add(self, what: str, took: list[float]) -> None:
        self._all.setdefault(what, []).extend(took)
        print(f"\n{what}: {shown(took)}")

    def __str__(self) -> str:
        matrix = [ms for what, took in self._all.items() if " | " in what for ms in took]
        return f"\nthe whole matrix, one at a time: {shown(matrix)}" if matrix else ""


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    figures = Figures()
    yield figures
    print(figures)


@pytest.fixture(scope="module")
def unix_socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app") / "sock"


@pytest.fixture(scope="module")
def watched(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, unix_socket: Path
) -> Iterator[Watched]:
    one = under_watch(start_service, fake_provider_server.env, "--workers", "1", "--bind", f"unix:{unix_socket}")
    yield one
    one.service.stop()


@pytest.fixture(scope="module")
def nginx(start_nginx: Callable[..., Nginx], watched: Watched) -> Nginx:
    return start_nginx(f"127.0.0.1:{watched.service.port}")


def quick(took: list[float]) -> None:
    assert percentile(took, 50) <= P50_MS
    assert percentile(took, 99) <= P99_MS


@pytest.mark.parametrize("way_there", ["direct", "nginx"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_departure_ends_the_providers_answer(
    watched: Watched, nginx: Nginx, fake_provider: FakeProvider, figures: Figures, phase: str, way_there: str
) -> None:
    address = watched.address if way_there == "direct" else ("127.0.0.1", nginx.port)
    took: list[float] = []
    # Few at a time where they stream, as these figures are of a worker with little to do.
    for group in in_groups(cases(ASKED, phase, address), 10 if phase == "streaming" else 75):
        took += one_by_one(group, fake_provider)
    figures.add(f"{phase} | {way_there}", took)
    quick(took)
    watched.assert_no_complaint()


def test_a_departure_through_nginx_over_a_unix_socket(
    watched: Watched,
    start_nginx: Callable[..., Nginx],
    unix_socket: Path,
    fake_provider: FakeProvider,
    figures: Figures,
) -> None:
    nginx = start_nginx(f"unix:{unix_socket}")
    chat = [door for door in ASKED if door.name in ("chat", "chat-whole") and door.provider == "openai"]
    took: list[float] = []
    for phase in PHASES:
        took += one_by_one(cases(chat, phase, ("127.0.0.1", nginx.port)), fake_provider)
    figures.add("any phase | nginx, unix socket", took)
    quick(took)
    watched.assert_no_complaint()


def test_a_departure_after_the_status_line_and_before_a_token(
    start_service: Callable[..., Service],
    start_nginx: Callable[..., Nginx],
    fake_provider: FakeProvider,
    figures: Figures,
) -> None:
    held = under_watch(start_service, {**fake_provider.env, "SLUICEWAY_SERVER__HOLD_S": "0.1"}, app="wsgi:app")
    nginx = start_nginx(f"127.0.0.1:{held.service.port}")
    for way_there, port in (("direct", held.service.port), ("nginx", nginx.port)):
        took = one_by_one(cases(STREAMED, HELD, ("127.0.0.1", port)), fake_provider)
        figures.add(f"{HELD} | {way_there}", took)
        quick(took)
    held.assert_no_complaint()
    held.service.stop()


# Many at once


def mixed(number: int, chance: random.Random, addresses: list[Address], doors: list[Door]) -> list[Case]:
    """Departures of every kind, half of them behind each address; a quarter before the headers, in part at once."""
    phases = [AT_ONCE, "before the headers", *("before a token", "between two tokens", "streaming") * 2]
    return [
        Case(
            chance.choice(doors),
            chance.choice(WAYS),
            chance.choice(phases),
            addresses[index % len(addresses)],
            f"mixed:{next(numbers)}",
        )
        for index in range(number)
    ]


def all_together(group: list[Case], provider: FakeProvider, chance: random.Random) -> list[float]:
    """Leave one after the other without waiting; how long each took that the provider had heard of, in ms."""
    with opened(group, provider) as callers:
        order = list(range(len(group)))
        chance.shuffle(order)
        left_at = {group[index].name: callers[index].leave(group[index].way) for index in order}
        known = len({request.headers["x-request-id"] for request in provider.requests} & left_at.keys())
        assert known >= sum(case.phase != AT_ONCE for case in group)
        provider.wait_for(lambda stats: stats.open_streams == 0, timeout_s=SOON_S)
    return [
        (departure.at - left_at[name]) * 1000
        for departure in provider.departures
        if (name := departure.request.headers["x-request-id"]) in left_at
    ]


def test_a_thousand_departures_leave_nothing_behind(
    watched: Watched, nginx: Nginx, fake_provider: FakeProvider, figures: Figures
) -> None:
    chance = random.Random(20261121)  # noqa: S311
    addresses: list[Address] = [watched.address, ("127.0.0.1", nginx.port)]
    all_together(mixed(50, chance, addresses, ASKED), fake_provider, chance)  # what is made once, is made now
    eventually(lambda: watched.holds()["open_streams"] == 0)
    at_start = watched.holds()

    took: list[float] = []
    for _ in range(10):
        took += all_together(mixed(100, chance, addresses, ASKED), fake_provider, chance)
    figures.add("1,000 of every kind, 100 at a time", took)

    assert fake_provider.stats().open_streams == 0
    eventually(lambda: watched.holds()["open_streams"] == 0, what="no open stream")
    for held in ("descriptors", "greenlets"):
        eventually(lambda held=held: watched.holds()[held] <= at_start[held], what=f"{held} as at the start")
    watched.assert_no_complaint()


# Beside others


def test_departures_from_a_worker_with_500_paced_streams(
    start_service: Callable[..., Service], fake_provider: FakeProvider, figures: Figures
) -> None:
    port = free_port()
    env = {**fake_provider.env, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}  # the paced ones have their own
    busy = under_watch(start_service, env, app="wsgi:app")
    chance = random.Random(20261121)  # noqa: S311
    paced = {"model": "openai/bench-n100000-i100", "prompt": "go on"}

    def open_streams() -> int:
        count: int = requests.get(f"http://127.0.0.1:{port}/stats", timeout=10).json()["open"]
        return count

    load = ("bench.load", f"{busy.service.url}/v1/streams", "--body", json.dumps(paced))
    with running("bench.provider", "--port", str(port)):
        with running(*load, "--streams", "500", "--tokens", "100000"):
            eventually(lambda: connected(port) and open_streams() == 500, within_s=90, what="500 open streams")
            took: list[float] = []
            doors = [door for door in ASKED if door.provider == "anthropic"]
            for _ in range(5):
                took += one_by_one(
                    [case for case in mixed(50, chance, [busy.address], doors) if case.phase != AT_ONCE], fake_provider
                )
            assert open_streams() == 500, "nobody else was touched"
        figures.add("beside 500 paced streams, one at a time", took)
        assert percentile(took, 99) <= 2000
        eventually(lambda: open_streams() == 0, what="the end of the paced streams")  # all gone in one moment
    busy.assert_no_complaint()
    busy.service.stop()


def connected(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


# On a connection that is kept


@pytest.mark.parametrize("way", WAYS)
def test_a_departure_is_seen_behind_a_request_that_waits_for_its_turn(
    watched: Watched, fake_provider: FakeProvider, way: str
) -> None:
    """A pipelined request can be read all the time: it neither hides the departure nor keeps the worker busy."""
    with Caller(watched.address, request_bytes(STREAMED[0], PHASES["between two tokens"])) as caller:
        caller.read_until(b"data: ")
        caller.sock.sendall(HEALTHZ)
        before = watched.holds()
        settled(time.monotonic() + 0.95)
        used_s = watched.holds()["cpu_s"] - before["cpu_s"]
        assert used_s <= 0.4, "of a second of silence"
        caller.leave(way)
        fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_a_request_that_waited_is_answered_and_the_next_stream_is_watched(
    watched: Watched, fake_provider: FakeProvider
) -> None:
    with Caller(watched.address, request_bytes(STREAMED[0], "fake-n9-i20")) as caller:
        caller.read_until(b"data: ")
        caller.sock.sendall(HEALTHZ)
        caller.read_until(b'{"status":"ok"}')
        assert b"[DONE]" in caller.received, "one after the other"
        caller.sock.sendall(request_bytes(STREAMED[1], PHASES["before a token"]))
        fake_provider.wait_for(lambda stats: stats.requests == 2)
        settled(time.monotonic())
        caller.leave("close")
        fake_provider.wait_for(lambda stats: stats.aborted == 1)


# Without gunicorn and without gevent


def test_a_departure_from_flasks_own_server(fake_provider: FakeProvider, figures: Figures) -> None:
    port = free_port()
    command = ("flask", "--app", "wsgi:app", "run", "--port", str(port))
    doors = [door for door in ASKED if door.name in ("chat", "chat-whole") and door.provider == "openai"]
    took: list[float] = []
    with running(*command, env=fake_provider.env):
        eventually(lambda: connected(port), within_s=180, what="flask run")
        for phase in PHASES:
            took += one_by_one(cases(doors, phase, ("127.0.0.1", port)), fake_provider)
    figures.add("any phase, flask run", took)
    quick(took)


# Whoever stays


def test_who_stays_has_a_whole_answer_while_others_leave(watched: Watched, fake_provider: FakeProvider) -> None:
    """Connections to the provider are used again: a departure ends its own stream and never the one that follows it.

    Those who leave do so at any moment of a short answer, before it has begun and after it has ended too.
    """
    model = "fake-n3-i1"
    until = time.monotonic() + 3
    whole = answer(model).text

    def stay(door: Door) -> int:
        answers = 0
        while time.monotonic() < until:
            headers = {"Connection": "close"}
            with Caller(watched.address, request_bytes(door, model, headers=headers)) as caller:
                caller.read_to_the_end()
            said = caller.received if door in WHOLE else caller.body
            assert all(word.encode() in said for word in whole.split()), (str(door), caller.received)
            answers += 1
        return answers

    def leave(seed: int) -> int:
        chance = random.Random(seed)  # noqa: S311
        departures = 0
        while time.monotonic() < until:
            with Caller(watched.address, request_bytes(chance.choice(ASKED), model)) as caller:
                threading.Event().wait(chance.random() * 0.012)
                caller.leave(chance.choice(WAYS))
            departures += 1
            threading.Event().wait(0.02)  # without a pause these alone would keep the worker busy
        return departures

    staying = [door for door in ASKED if door.name in ("chat", "messages", "chat-whole", "ndjson")]
    with ThreadPoolExecutor(16) as pool:
        stayed = [pool.submit(stay, door) for door in staying]
        left = [pool.submit(leave, seed) for seed in range(4)]
    print(f"\n{sum(one.result() for one in stayed)} answers, {sum(one.result() for one in left)} departures")
    eventually(lambda: watched.holds()["open_streams"] == 0, what="no open stream")
    assert fake_provider.wait_for(lambda stats: stats.open_streams == 0).faults == 0
    watched.assert_no_complaint()
