"""A call, or an iteration, beside the caller, who waits for it a while, does something else, and waits again.

For what can't be left in the middle and taken up later: a read of a transport that is not ours, a generator of somebody
else's. It runs in a greenlet of its own, or, without gevent, in a thread.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import gevent
from gevent import monkey

T = TypeVar("T")


class Killed(Exception):
    """The task was ended before its call had returned."""


def _start(run: Callable[..., None], *args: object) -> gevent.Greenlet[..., Any] | None:
    """Have `run` called beside the caller, in the caller's context (`contextvars`); the greenlet, if it is one."""
    in_context = contextvars.copy_context().run
    if monkey.is_module_patched("threading"):
        return gevent.spawn(in_context, run, *args)
    threading.Thread(target=in_context, args=(run, *args), daemon=True).start()
    return None


class Task(Generic[T]):
    """Runs `call` at once, in the caller's context (`contextvars`). What it gives after `kill` goes to `unwanted`."""

    __slots__ = ("_error", "_greenlet", "_over", "_unwanted", "_value", "done")

    def __init__(self, call: Callable[[], T], unwanted: Callable[[T], object] | None = None) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._value: Any = None
        self._unwanted = unwanted
        self._over = threading.Event()
        self._greenlet = _start(self._run, call)

    def _run(self, call: Callable[[], T]) -> None:
        try:
            value = call()
        except BaseException as exc:  # not kept where nobody asks: it holds all that the call had open
            if not self.done:
                self._settle(None, exc)
            return
        if not self.done:
            self._settle(value, None)
        elif self._unwanted is not None:
            self._unwanted(value)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error, self.done = value, error, True
        self._over.set()

    def wait(self, until: float) -> bool:
        """Whether it is done, by `until` (of `time.monotonic`) at the latest."""
        if not self.done:
            self._over.wait(None if until == math.inf else max(0.0, until - time.monotonic()))
        return self.done

    def kill(self) -> None:
        """Nobody waits for it any more. A greenlet ends where it stands, and closes what it has open on its way out; a
        thread goes on to its end."""
        if not self.done:
            self._settle(None, Killed())
            if self._greenlet is not None:
                self._greenlet.kill(block=False)

    def result(self) -> T:
        """Of one that is done: what the call gave. Raises what it raised, or `Killed`."""
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value


# Pieces that an iteration may be ahead of its caller: one that does not wait for anything gives way to others then.
AHEAD = 64


class Iteration(Generic[T]):
    """Iterates what `begin` gives, at once and a little ahead, in the caller's context; what has come is taken in one
    go. The iterator is closed where it was iterated, by whatever it ends."""

    __slots__ = ("_came", "_greenlet", "_killed", "_pieces", "_room", "ended", "error")

    def __init__(self, begin: Callable[[], Iterable[T]]) -> None:
        self.ended = False
        self.error: BaseException | None = None  # by what it ended; known once all pieces are taken
        self._killed = False
        self._pieces: deque[T] = deque()
        self._came = threading.Event()
        self._room = threading.Event()
        self._greenlet = _start(self._run, begin)

    def _run(self, begin: Callable[[], Iterable[T]]) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(begin())
            try:
                for piece in iterator:
                    if self._killed:
                        break
                    self._pieces.append(piece)
                    self._came.set()
                    self._wait_for_room()
            finally:
                if (close := getattr(iterator, "close", None)) is not None:
                    close()
        except BaseException as exc:
            error = exc
        if not self._killed:  # it is not kept otherwise: it holds all that was open
            self.error, self.ended = error, True
            self._came.set()

    def _wait_for_room(self) -> None:
        while len(self._pieces) >= AHEAD and not self._killed:
            self._room.clear()
            if len(self._pieces) >= AHEAD and not self._killed:
                self._room.wait()

    def wait(self, until: float) -> bool:
        """Whether something has come, or it has ended, by `until` (of `time.monotonic`) at the latest."""
        while not self._pieces and not self.ended:
            self._came.clear()
            if self._pieces or self.ended:
                break
            left = None if until == math.inf else max(0.0, until - time.monotonic())
            if not self._came.wait(left):
                break
        return bool(self._pieces) or self.ended

    def take(self) -> list[T]:
        """What has come; nothing of it once it has ended."""
        taken = []
        while self._pieces:
            taken.append(self._pieces.popleft())
        self._room.set()
        return taken

    def kill(self) -> None:
        """Nobody wants more of it. A greenlet ends where it stands; a thread at the next piece."""
        if not self.ended and not self._killed:
            self._killed = True
            self.error, self.ended = Killed(), True
            self._came.set()
            self._room.set()
            if self._greenlet is not None:
                self._greenlet.kill(block=False)
