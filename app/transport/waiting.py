"""Waiting for a socket, so that a wait can be timed, resumed and ended from elsewhere.

Two ways behind one shape, chosen when the connection is made: under gevent the greenlet sleeps in the hub on one
watcher that lives as long as its connection; under threads the thread sleeps in `poll`.

What the gevent way saves a token (bare relays, 200 paced streams, nginx 29 us in the same run): gevent's own `recv`
tries, fails, waits and tries again, with a timer made and stopped each time: 53 us. Waiting first, on a lasting
watcher: 43 us. The timer here is armed once; where it rings early, because the wait has been renewed meanwhile, it is
armed again for the rest.

And for a stream of small pieces nobody need be woken for each: `each` deals with them in the hub. (The same relays: 62
to 49 us, as no greenlet's stack is copied to and fro.)
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gevent import monkey


class Waiter(Protocol):
    def readable(self, deadline: float) -> bool:
        """True once the socket can be read, or has ended (also when we ended it: `shutdown`, from anywhere, ends the
        wait); False at the deadline (of `time.monotonic`)."""

    def each(self, step: Callable[[], float], until: float) -> None:
        """Call `step` in the event loop each time the socket can be read, or has ended, as long as that happens by
        `until`, which each call gives anew (of `time.monotonic`; 0.0 ends it). It must neither wait nor raise. Where
        there is no such loop this returns at once."""

    def wake(self) -> None:
        """Whoever waits, wakes as if there were something to read. A thread does so at its deadline."""

    def close(self) -> None: ...


def waiter_for(sock: socket.socket) -> Waiter:
    return GeventWaiter(sock) if monkey.is_module_patched("socket") else PollWaiter(sock)


_READY, _LATE = object(), object()


class GeventWaiter:
    __slots__ = ("_due", "_greenlet", "_hub", "_io", "_rings", "_timer")

    def __init__(self, sock: socket.socket) -> None:
        self._hub: Any = gevent.get_hub()
        self._io: Any = self._hub.loop.io(sock.fileno(), 1)  # 1: readable
        self._timer: Any = None
        self._rings = 0.0  # when the armed timer rings
        self._due = 0.0  # when the wait under way is over
        self._greenlet: Any = None

    def readable(self, deadline: float) -> bool:
        return self._wait(deadline, gevent.getcurrent().switch, _READY)

    def each(self, step: Callable[[], float], until: float) -> None:
        self._wait(until, self._stepped, step)

    def _stepped(self, step: Callable[[], float]) -> None:
        self._due = due = step()
        if not due:
            self._io.stop()
            self._greenlet.switch(_READY)
        elif due < self._rings:
            self._arm(due - time.monotonic())

    def _wait(self, until: float, *callback: Any) -> bool:
        """Sleep until somebody says `_READY`, or `_LATE`, with `callback` called when the socket can be read."""
        self._due = until
        if self._timer is None or until < self._rings:
            self._arm(until - time.monotonic())
        self._greenlet = gevent.getcurrent()
        self._io.start(*callback)
        try:
            while True:
                said = self._hub.switch()
                if said is _LATE:
                    return False
                if said is _READY:
                    return True
        finally:
            self._io.stop()
            self._greenlet = None

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._rings = time.monotonic() + seconds
        self._timer = self._hub.loop.timer(max(seconds, 0.0))
        self._timer.start(self._ring, update=True)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _ring(self) -> None:
        self._disarm()
        if self._greenlet is None:
            return  # nobody waits; the next wait arms it
        left = self._due - time.monotonic()
        # Never early: before the answer's clock rings, a silence passes for one that its caller allows.
        if left > 0.0:
            self._arm(left)
        else:
            self._greenlet.switch(_LATE)

    def wake(self) -> None:
        if self._greenlet is not None:
            self._hub.loop.run_callback(self._woken)

    def _woken(self) -> None:
        if self._greenlet is not None:  # by nobody else since
            self._greenlet.switch(_READY)

    def close(self) -> None:
        """Whoever waits, wakes as if there were something to read."""
        if self._greenlet is not None:
            self._hub.loop.run_callback(self._greenlet.switch, _READY)
        self._disarm()
        self._io.stop()
        self._io.close()


class PollWaiter:
    __slots__ = ("_poll",)

    def __init__(self, sock: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)

    def readable(self, deadline: float) -> bool:
        return bool(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def each(self, step: Callable[[], float], until: float) -> None:
        pass

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass
