"""The contract of the room: what stands between an answer and its encoder, and gives other events than it gets."""

from __future__ import annotations

from typing import Protocol

from ..events import Event


class Transform(Protocol):
    """Of one answer; no IO, and no clock but the one it is shown: `now` is of `time.monotonic`.

    `feed` gives what can be said now, and keeps the rest; behind the terminal event nothing is kept. `due` is when
    something that is kept must leave (infinity: it may wait for what completes it), and `release` gives what is due.
    A `Finished` may become a `Failed`: the answer then is one that has failed.
    """

    due: float

    def feed(self, events: list[Event], now: float, /) -> list[Event]: ...

    def release(self, now: float, /) -> list[Event]: ...
