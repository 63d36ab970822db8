"""Who is let in, and how all are asked to leave: the open streams of one worker.

Beyond `max_streams` a stream is refused at once, with 503 and a Retry-After: a client can go elsewhere with that, but
not with a connection that hangs. Answers that are not streamed hold a place too, since they cost as much.

A worker that is to end `drain`s: it says so (`/readyz`), goes on for a while, and then has every stream `end`, each
with its own last event. In between it refuses nobody, as what reaches it then was sent before anybody could know.
"""

from __future__ import annotations

from .cancel import Cancel, Hook
from .errors import Draining, Overloaded


class Admission:
    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._open: set[Cancel] = set()
        self._seated: set[Hook] = set()
        self.draining = False
        self.ended = False

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def check(self) -> None:
        """Raises `Overloaded` where there is no place, `Draining` once all had to end."""
        if self.ended:
            raise _draining()
        if len(self._open) >= self._max_streams:
            raise Overloaded(
                f"{self._max_streams} streams are open here, as many as one worker takes; try again in a moment"
            )

    def enter(self, cancel: Cancel) -> None:
        """Take a place for a stream. Raises what `check` raises."""
        self.check()
        self._open.add(cancel)

    def leave(self, cancel: Cancel) -> None:
        self._open.discard(cancel)

    def sit(self, leave: Hook) -> None:
        """Take a seat; `leave` is called when the worker is about to end, and again when all have to. It does not wait.
        Raises `Overloaded` where there is no seat, `Draining` once all had to end."""
        if self.ended:
            raise _draining()
        if len(self._seated) >= self._max_streams:
            raise Overloaded(
                f"{self._max_streams} WebSockets are open here, as many as one worker takes; try again in a moment"
            )
        self._seated.add(leave)

    def rise(self, leave: Hook) -> None:
        self._seated.discard(leave)

    def drain(self) -> None:
        """From now on the worker is about to end."""
        self.draining = True
        for leave in tuple(self._seated):
            leave()

    def end(self) -> None:
        """End every open stream, and whatever still comes."""
        if not self.draining:
            self.drain()
        self.ended = True
        for cancel in tuple(self._open):
            cancel.set(_draining())
        for leave in tuple(self._seated):
            leave()


def _draining() -> Draining:
    return Draining("the server is restarting; send the request again")
