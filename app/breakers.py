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
    """`enter` before a try; after it `succeeded`, `failed`, or `nothing_learnt`. No locks: none of it waits."""

    __slots__ = ("_cooldown_s", "_failures", "_in_a_row", "_last", "_limit", "_now", "_opened_at", "_probing")

    def __init__(self, settings: BreakerSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = settings.failures
        self._cooldown_s = settings.cooldown_s
        self._now = now
        self._in_a_row = 0
        self._opened_at: float | None = None  # None: closed
        self._probing = False
        self._last: SluicewayError | None = None

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    def enter(self) -> bool:
        """Whether a try may be made now."""
        if self._opened_at is None:
            return True
        if self._probing or self._now() < self._opened_at + self._cooldown_s:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        self._in_a_row = 0
        self._opened_at = None
        self._probing = False

    def failed(self, error: SluicewayError) -> None:
        self._last = error
        self._in_a_row += 1
        if self._opened_at is not None or self._in_a_row >= self._limit:
            self._opened_at = self._now()
            self._probing = False

    def nothing_learnt(self) -> None:
        """The try was given up, or failed by what is no fault of the target's."""
        if self._probing:
            self._probing = False
            self._opened_at = self._now()  # one probe a cooldown, whatever becomes of it

    def refusal(self) -> SluicewayError:
        """The error of a request that nobody may try: as the last one's that did, with the time until the next may."""
        last = self._last
        left_s = max(1.0, (self._opened_at or 0.0) + self._cooldown_s - self._now())
        if last is None:
            raise RuntimeError("a breaker opens by failures")
        said = f"{last.message} (it has failed repeatedly, and is left alone for a while)"
        return type(last)(said, retry_after_s=left_s)


class Breakers:
    """By target name; made when first asked for. Bounded: names come from clients."""

    MAX = 1000

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._known: dict[str, Breaker] = {}

    def of(self, target: str) -> Breaker:
        if (known := self._known.get(target)) is None:
            if len(self._known) >= self.MAX:
                self._known = {name: breaker for name, breaker in self._known.items() if breaker.is_open}
            known = self._known[target] = Breaker(self._settings)
        return known
