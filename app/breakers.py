"""A target that keeps failing is left alone for a while: a breaker a target, shared by a worker's streams.

closed      every stream may try
open        after so many failures in a row: none may, for `cooldown_s`
probing     then one may; its success closes the breaker, its failure opens it again
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .errors import SluicewayError
from .settings import Breaker as BreakerSettings


class Breaker:
    """`enter` before a try; after it `succeeded`, `failed`, or `nothing_learnt`, with what `enter` gave. No locks: none
    of it waits.

    A try that was let in before the breaker last turned tells how the target was then. What it says is not listened to:
    else those that time out after the breaker has opened would put the probe off, and one that was left over from
    before would close it.
    """

    __slots__ = ("_cooldown_s", "_era", "_in_a_row", "_last", "_limit", "_now", "_opened_at", "_probing")

    def __init__(self, settings: BreakerSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = settings.failures
        self._cooldown_s = settings.cooldown_s
        self._now = now
        self._era = 0  # rises whenever it opens, and with each probe
        self._in_a_row = 0
        self._opened_at: float | None = None  # None: closed
        self._probing = False
        self._last: tuple[type[SluicewayError], str] | None = None

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def enter(self) -> int | None:
        """Whether a try may be made now: None, or what to hand in with its result."""
        if self._opened_at is not None:
            if self._probing or self._now() < self._opened_at + self._cooldown_s:
                return None
            self._probing = True
            self._era += 1
        return self._era

    def succeeded(self, entered: int) -> None:
        if entered == self._era:
            self._in_a_row = 0
            self._opened_at = None
            self._probing = False

    def failed(self, entered: int, error: SluicewayError) -> None:
        if entered != self._era:
            return
        self._last = type(error), error.message  # not itself: by its traceback it holds a whole answer
        self._in_a_row += 1
        if self._probing or self._in_a_row >= self._limit:
            self._open()

    def nothing_learnt(self, entered: int) -> None:
        """The try was given up, or failed by what is no fault of the target's."""
        if entered == self._era and self._probing:
            self._open()  # one probe a cooldown, whatever becomes of it

    def _open(self) -> None:
        self._opened_at = self._now()
        self._probing = False
        self._era += 1

    def refusal(self) -> SluicewayError:
        """The error of a request that nobody may try: as the last one's that did, with the time until the next may."""
        last = self._last
        left_s = max(1.0, (self._opened_at or 0.0) + self._cooldown_s - self._now())
        if last is None:
            raise RuntimeError("a breaker opens by failures")
        kind, message = last
        said = f"{message} (it has failed repeatedly, and is left alone for a while)"
        return kind(said, retry_after_s=left_s)


class Breakers:
    """By target name; made when first asked for. Bounded, as names come from clients: beyond `MAX` those that are
    closed are forgotten, and where none is, the oldest."""

    MAX = 1000

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._known: dict[str, Breaker] = {}

    def of(self, target: str) -> Breaker:
        if (known := self._known.get(target)) is None:
            if len(self._known) >= self.MAX:
                self._known = {name: breaker for name, breaker in self._known.items() if breaker.is_open}
            if len(self._known) >= self.MAX:
                del self._known[next(iter(self._known))]
            known = self._known[target] = Breaker(self._settings)
        return known
