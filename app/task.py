"""A call beside the caller, who waits for it a while, does something else, and waits again.

What is under an SDK's call (connecting, waiting for headers) can't be left in the middle and taken up later; so it runs
in a greenlet of its own, or, without gevent, in a thread.
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


class Task(Generic[T]):
    """Runs `call` at once, in the caller's context (`contextvars`). To end it from outside, end what it waits for."""

    __slots__ = ("_error", "_join", "_value", "done")

    def __init__(self, call: Callable[[], T]) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._value: Any = None
        run = contextvars.copy_context().run
        if monkey.is_module_patched("threading"):
            self._join: Callable[[float | None], object] = gevent.spawn(run, self._run, call).join
        else:
            thread = threading.Thread(target=run, args=(self._run, call), daemon=True)
            thread.start()
            self._join = thread.join

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._value = call()
        except BaseException as exc:
            self._error = exc
        self.done = True

    def wait(self, until: float) -> bool:
        """Whether it is done, by `until` (of `time.monotonic`) at the latest."""
        if not self.done:
            self._join(None if until == math.inf else max(0.0, until - time.monotonic()))
        return self.done

    def result(self) -> T:
        """Of one that is done: what the call gave. Raises what it raised."""
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value
