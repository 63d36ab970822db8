"""The tries of one answer: which target is asked next and when, and what its breaker and the metrics learn of it.

What follows a failure is `retrying`'s table; here it meets the targets of a request, which are asked in turn, and their
breakers.
"""

from __future__ import annotations

import logging
import time

from .breakers import Breakers
from .cancel import Cancel
from .errors import (
    Cancelled,
    Draining,
    ProviderAuth,
    ProviderRejected,
    RequestError,
    SchemaViolated,
    SluicewayError,
)
from .outcomes import Outcome, attempted, breaker_turned
from .retrying import FAILURES_OF_A_TARGET, Move, move_after, pause_s
from .settings import Retry
from .targets import Target

log = logging.getLogger("sluiceway")


class Tries:
    """`enter` before each; then `goes_on_after` what it failed with, or `judge(None)`.

    `began` is when the request came, of `time.monotonic`. The tries are written into `outcome`.
    """

    def __init__(
        self, target: Target, breakers: Breakers, retry: Retry, cancel: Cancel, outcome: Outcome, began: float
    ) -> None:
        self._targets = (target, *target.fallbacks)
        self._at = 0  # which of them is being tried
        self._tries = 0  # of that one
        self._breakers = breakers
        self._breaker = breakers.of(target.name)
        self._entered = 0  # what the breaker gave for the last try
        self._retry = retry
        self._cancel = cancel
        self._outcome = outcome
        self._began = began
        self._answering = False
        self._judged = True  # whether the books know what became of the last try
        self._rest_until = 0.0  # the pause before the next try, of `time.monotonic`
        self._logged: list[SluicewayError] = []
        self._passed: SluicewayError | None = None  # the failure that the last move to another target followed

    @property
    def target(self) -> Target:
        return self._targets[self._at]

    @property
    def _has_next(self) -> bool:
        return self._at + 1 < len(self._targets)

    def enter(self) -> Target:
        """The target of the next try: the first that may be tried. Raises what there is to say where none may."""
        if self._cancel.error is not None:
            raise self._cancel.error
        while True:
            self._breaker = self._breakers.of(self.target.name)
            if (entered := self._breaker.enter()) is not None:
                break
            refusal = self._breaker.refusal()
            if not self._has_next:
                raise refusal
            self._passed = refusal
            self._next()
        self._entered = entered
        self._tries += 1
        self._judged = self._answering = False
        return self.target

    def rested(self, until: float) -> bool:
        """Whether the pause is over, by then (of `time.monotonic`) at the latest; a cancel ends it."""
        if self._rest_until:
            if not self._cancel.wait(min(until, self._rest_until)) and time.monotonic() < self._rest_until:
                return False
            self._rest_until = 0.0
        return True

    def goes_on_after(self, error: SluicewayError, *, delivered: bool = False, recovering: bool = False) -> bool:
        """Whether another try follows a failed one, after its pause. `delivered`: a part of its answer was; then
        somebody else is asked to go on, and the same target only where nobody else may be. `recovering`: it was asked
        to go on with what another has answered."""
        asked = not self._judged  # or all breakers are open
        self.judge(error)
        if not asked or isinstance(error, Cancelled | Draining):
            return False
        # What a fallback can't be asked (its protocol lacks a field) is nothing that the caller did wrong.
        move = Move.NEXT if self._at and isinstance(error, RequestError) else move_after(error)
        if recovering and type(error) is ProviderRejected:
            move = Move.NEXT  # the request was not refused before
        if move is Move.STOP:
            return False
        if delivered and any(not self._breakers.of(one.name).is_open for one in self._targets[self._at + 1 :]):
            move = Move.NEXT
        pause = pause_s(error, self._tries, self._retry) if move is Move.AGAIN else None
        if pause is not None and (
            self._breaker.is_open or time.monotonic() - self._began + pause >= self.target.timeouts.total_s
        ):
            pause = None
        if pause is None and not self._has_next:
            return False
        self.log(error)
        if not isinstance(error, RequestError):
            self._passed = error
        if pause is None:
            self._next()
            pause = 0.0
        self._rest_until = time.monotonic() + pause
        return True

    def again(self, error: SluicewayError) -> None:
        """Another try at the same target follows at once, in another way: the one that failed is none of its tries."""
        self.answering()
        self.judge(error)
        self.log(error)
        self._tries -= 1

    def told(self, error: SluicewayError) -> SluicewayError:
        """What the caller is told at the end of all tries: the last failure, but not what only a fallback minded."""
        return self._passed if self._passed is not None and isinstance(error, RequestError) else error

    def _next(self) -> None:
        self._at, self._tries = self._at + 1, 0

    def answering(self) -> None:
        """The answer of the try has begun: the target is there, and a probe may go on for minutes. So what breaks off
        afterwards opens no breaker."""
        if not self._answering:
            self._answering = True
            self._learn(None)

    def judge(self, error: SluicewayError | None) -> None:
        """Tell the books what became of the try, once; None: its answer is whole."""
        if self._judged:
            return
        self._judged = True
        if not self._answering:
            self._learn(error)
        if isinstance(error, RequestError):
            return  # what can't be asked of this target was not sent: no try
        target = self.target
        self._outcome.attempts += 1
        self._outcome.provider, self._outcome.model = target.provider, target.model
        attempted(target.provider, target.model, "ok" if error is None else error.code)

    def _learn(self, error: SluicewayError | None) -> None:
        target, breaker = self.target, self._breaker
        before = breaker.is_open
        if error is None or isinstance(error, SchemaViolated):
            breaker.succeeded(self._entered)
        elif isinstance(error, FAILURES_OF_A_TARGET):
            breaker.failed(self._entered, error)
        else:
            breaker.nothing_learnt(self._entered)
        if breaker.is_open is not before:
            log.warning("%s %s: its breaker %s", self._outcome.request_id, target.name, "closes" if before else "opens")
            breaker_turned(target.provider, target.model, breaker.is_open)

    def log(self, error: SluicewayError) -> None:
        if isinstance(error, Cancelled | Draining):
            return  # nothing has failed
        if any(error is logged for logged in self._logged):
            return  # of an earlier try, and told again
        self._logged.append(error)
        # A key the provider refuses stays refused until a person acts: that one is loud.
        level = logging.ERROR if isinstance(error, ProviderAuth) else logging.WARNING
        log.log(level, "%s %s code=%s: %s", self._outcome.request_id, self.target.name, error.code, error.logged)
