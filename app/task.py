"""A call beside the caller, who waits for it a while, does something else, and waits again.

For what can't be left in the middle and taken up later: a read of a transport that is not ours. It runs in a greenlet
of its own, or, without gevent, in a thread.
"""

from __future__ import annotations

import contextvars
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent
from gevent import monkey

T = TypeVar("T")


class Killed(Exception):
    """The task was ended before its call had returned."""


class Task(Generic[T]):
    """Runs `call` at once, in the caller's context (`contextvars`). What it gives after `kill` goes to `unwanted`."""

    __slots__ = ("_error", "_greenlet", "_over", "_unwanted", "_value", "done")

    def __init__(self, call: Callable[[], T], unwanted: Callable[[T], object] | None = None) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._value: Any = None
        self._unwanted = unwanted
        self._over = threading.Event()
        self._greenlet: gevent.Greenlet[..., Any] | None = None
        run = contextvars.copy_context().run
        if monkey.is_module_patched("threading"):
            self._greenlet = gevent.spawn(run, self._run, call)
        else:
            threading.Thread(target=run, args=(self._run, call), daemon=True).start()

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
