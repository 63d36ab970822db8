"""An iteration beside its caller: in a thread here, and once more in a process where gevent makes it a greenlet."""

from __future__ import annotations

import contextvars
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.task import AHEAD, Iteration, Killed

ROOT = Path(__file__).parent.parent


def all_of(iteration: Iteration[int]) -> list[int]:
    taken: list[int] = []
    while iteration.wait(time.monotonic() + 20) and (pieces := iteration.take()):
        taken += pieces
    assert iteration.ended
    return taken


def test_everything_comes_in_its_order() -> None:
    iteration = Iteration(lambda: iter(range(5 * AHEAD)))
    assert all_of(iteration) == list(range(5 * AHEAD))
    assert iteration.error is None
    assert (iteration.wait(math.inf), iteration.take()) == (True, [])


def test_it_is_only_a_little_ahead() -> None:
    given: list[int] = []
    held = threading.Event()

    def pieces() -> Iterator[int]:
        for n in range(3 * AHEAD):
            if n == AHEAD:
                held.set()  # asked for one more, behind what has its place
            given.append(n)
            yield n

    iteration = Iteration(pieces)
    assert iteration.wait(time.monotonic() + 20)
    assert not held.wait(0.2)
    assert len(given) == AHEAD
    assert all_of(iteration) == list(range(3 * AHEAD))


def test_what_it_raises_comes_behind_its_pieces() -> None:
    def pieces() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    iteration = Iteration(pieces)
    assert all_of(iteration) == [1]
    assert isinstance(iteration.error, LookupError)


def test_what_begins_it_may_raise() -> None:
    iteration: Iteration[int] = Iteration(lambda: iter([1 // 0]))
    assert all_of(iteration) == []
    assert isinstance(iteration.error, ZeroDivisionError)


def test_nothing_in_time_is_no_end() -> None:
    go = threading.Event()

    def pieces() -> Iterator[int]:
        go.wait(20)
        yield 1

    iteration = Iteration(pieces)
    assert not iteration.wait(time.monotonic() + 0.01)
    assert not iteration.wait(0.0)
    assert not iteration.ended
    go.set()
    assert all_of(iteration) == [1]


def test_it_runs_in_its_callers_context() -> None:
    who = contextvars.ContextVar("who", default=0)
    who.set(5)

    def pieces() -> Iterator[int]:
        yield who.get()
        who.set(6)

    assert all_of(Iteration(pieces)) == [5]
    assert who.get() == 5


@pytest.mark.parametrize("taken", [0, AHEAD])
def test_a_killed_one_is_closed_where_it_was_iterated(taken: int) -> None:
    """At its next piece; here it waits for room for it, or is about to give one."""
    closed: list[threading.Thread] = []
    over = threading.Event()

    def pieces() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread())
            over.set()

    iteration = Iteration(pieces)
    assert iteration.wait(time.monotonic() + 20)
    if taken:
        iteration.take()
    iteration.kill()
    iteration.kill()
    assert over.wait(20)
    assert closed[0] is not threading.current_thread()
    assert iteration.ended
    assert isinstance(iteration.error, Killed)


def test_a_killed_one_wakes_who_waits() -> None:
    never = threading.Event()

    def pieces() -> Iterator[int]:
        never.wait(20)
        yield 1

    iteration = Iteration(pieces)
    threading.Timer(0.05, iteration.kill).start()
    assert iteration.wait(time.monotonic() + 20)
    assert iteration.take() == []
    assert isinstance(iteration.error, Killed)
    never.set()


def test_the_same_under_gevent() -> None:
    patched = "from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    tests = [f"{__file__}::{name}" for name in globals() if name.startswith("test_") and "gevent" not in name]
    done = subprocess.run(
        [sys.executable, "-c", patched, "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
