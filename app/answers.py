"""One answer from beginning to end: let in, asked for until somebody gives it, read, counted, and ended exactly once,
whatever ends it.

    admission   a place, or 503
    watch       the client leaves                      -> cancel
    attempts    a target is tried; until the answer has begun, what fails is followed by the next try (`retrying`,
                `breakers`), and nobody hears of it
    books       counted
    close       everything is given back, and the outcome told: a line in the log, the metrics
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from .attempts import Attempt
from .books import Books
from .cancel import Cancel
from .clock import Clock
from .errors import Cancelled, Draining, Internal, ProviderAuth, RequestError, ServiceError, SluicewayError
from .events import TERMINAL, Batch, Event, Failed, Finished, Started, Usage
from .house import House
from .outcomes import Outcome, attempted, breaker_turned, closed, opened, report_soon
from .request import ChatRequest
from .response import ClientWatch
from .retrying import FAILURES_OF_A_TARGET, Move, move_after, pause_s
from .targets import Target

log = logging.getLogger("sluiceway")


class Answer:
    """Made once the request is understood; raises `Overloaded` where there is no place for it.

    `read(until)` until a batch has ended: None is "nothing by then" (of `time.monotonic`). The first one says something
    of the answer. It never raises what a provider, or the way to it, does: that is the `Failed` of the last batch, and
    is logged here. `close` at any time and more than once; where the answer has not ended, it is cancelled. What `read`
    does raise is a defect of ours: `fail` first, or it passes for the client's departure.
    """

    def __init__(
        self,
        house: House,
        request: ChatRequest,
        target: Target,
        *,
        format: str,
        request_id: str,
        environ: Mapping[str, Any],
    ) -> None:
        self._house = house
        self._request = request
        self._targets = (target, *target.fallbacks)
        self._at = 0  # which of them is being tried
        self._tries = 0  # of that one
        self._rest_until = 0.0  # the pause before the next try, of `time.monotonic`
        self._began = time.monotonic()
        self._books = Books(request, self._elapsed_s)
        self._cancel = Cancel()
        self._attempt: Attempt | None = None
        self._breaker = house.breakers.of(target.name)
        self._entered = 0  # what the breaker gave for the last try
        self._judged = True  # whether the books know what became of the last try
        self._held: Batch | None = None  # what was read before the answer has begun
        self._begun = False
        self._passed: SluicewayError | None = None  # the failure that the last move to another target followed
        self._last: Finished | Failed | None = None
        self._closed = False
        self._outcome = Outcome(
            request_id=request_id, format=format, provider=target.provider, model=target.model, outcome="rejected"
        )
        try:
            house.admission.enter(self._cancel)
        except ServiceError as exc:
            self._outcome.code = exc.code
            report_soon(self._outcome)
            raise
        opened()
        self._watch = ClientWatch(environ, self._client_left)

    @property
    def _target(self) -> Target:
        return self._targets[self._at]

    def _client_left(self) -> None:
        self._cancel.set(Cancelled("the client has left"))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def read(self, until: float) -> Batch | None:
        attempt = self._attempt
        if not self._begun or attempt is None:
            return self._begin(until)
        batch = attempt.read(until)
        return None if batch is None else self._counted(batch)

    def _begin(self, until: float) -> Batch | None:
        """Try until a try says something of the answer, or there is nothing left to try."""
        while True:
            if self._rest_until and not self._rested(until):
                return None
            try:
                batch = (self._attempt or self._open()).read(until)
            except SluicewayError as exc:
                batch = Batch([Failed(error=self._cancel.error or exc)], None, True)
            if batch is None:
                return None
            batch = self._held = batch if self._held is None else _joined(self._held, batch)
            last = batch.events[-1] if batch.events else None
            if self._delivers(batch):
                self._learn(None)
            elif isinstance(last, Failed):
                if self._goes_on_after(last.error):
                    continue
                # An answer that never began has nothing to say but this.
                batch = Batch([Failed(error=self._told(last.error))], None if batch.frames is None else b"", True)
            else:
                continue
            self._begun, self._held = True, None
            return self._counted(batch)

    def _delivers(self, batch: Batch) -> bool:
        """Whether to hand on what was read so far: then nothing of it can be taken back. An answer in one piece is
        handed on when it is whole."""
        if not self._request.stream:
            return batch.ended and isinstance(batch.events[-1], Finished)
        return any(_says_something(event) for event in batch.events)

    def _open(self) -> Attempt:
        """The next try, at the first target that may be tried."""
        if self._cancel.error is not None:
            raise self._cancel.error
        while True:
            self._breaker = self._house.breakers.of(self._target.name)
            if (entered := self._breaker.enter()) is not None:
                break
            refusal = self._breaker.refusal()
            if self._at + 1 == len(self._targets):
                raise refusal
            self._passed = refusal
            self._at, self._tries = self._at + 1, 0
        self._entered = entered
        self._tries += 1
        self._judged = False
        target, times = self._target, self._target.timeouts
        self._attempt = Attempt(
            self._house.providers[target.provider],
            self._request,
            target,
            Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s, since=self._began),
            self._cancel,
            request_id=self._outcome.request_id,
        )
        return self._attempt

    def _goes_on_after(self, error: SluicewayError) -> bool:
        """Whether another try follows a failed one: then its pause is set, and nothing is left of this one."""
        asked = not self._judged  # or all breakers are open
        self._judge(error)
        if not asked or isinstance(error, Cancelled | Draining):
            return False
        # What a fallback can't be asked (its protocol lacks a field) is nothing that the caller did wrong.
        move = Move.NEXT if self._at and isinstance(error, RequestError) else move_after(error)
        if move is Move.STOP:
            return False
        settings = self._house.settings
        pause = pause_s(error, self._tries, settings.retry) if move is Move.AGAIN else None
        if pause is not None and (self._breaker.is_open or self._elapsed_s() + pause >= self._target.timeouts.total_s):
            pause = None
        if pause is None and self._at + 1 == len(self._targets):
            return False
        self._log(error)
        if not isinstance(error, RequestError):
            self._passed = error
        if pause is None:
            self._at, self._tries, pause = self._at + 1, 0, 0.0
        self._rest_until = time.monotonic() + pause
        self._held = None
        if self._attempt is not None:
            self._attempt.close()
            self._attempt = None
        return True

    def _told(self, error: SluicewayError) -> SluicewayError:
        """What the caller is told at the end of all tries: the last failure, but not what only a fallback minded."""
        return self._passed if self._passed is not None and isinstance(error, RequestError) else error

    def _rested(self, until: float) -> bool:
        """Whether the pause is over, by then at the latest; a cancel ends it."""
        if not self._cancel.wait(min(until, self._rest_until)) and time.monotonic() < self._rest_until:
            return False
        self._rest_until = 0.0
        return True

    def _judge(self, error: SluicewayError | None) -> None:
        """Tell the books what became of the try, once; None: its answer is whole."""
        if self._judged:
            return
        self._judged = True
        self._learn(error)
        if isinstance(error, RequestError):
            return  # what can't be asked of this target was not sent: no try
        target = self._target
        self._outcome.attempts += 1
        self._outcome.provider, self._outcome.model = target.provider, target.model
        attempted(target.provider, target.model, "ok" if error is None else error.code)

    def _learn(self, error: SluicewayError | None) -> None:
        """Tell the breaker: None is a success, and so is an answer that has begun, as a probe may go on for minutes."""
        target, breaker = self._target, self._breaker
        before = breaker.is_open
        if error is None:
            breaker.succeeded(self._entered)
        elif isinstance(error, FAILURES_OF_A_TARGET):
            breaker.failed(self._entered, error)
        else:
            breaker.nothing_learnt(self._entered)
        if breaker.is_open is not before:
            log.warning("%s %s: its breaker %s", self._outcome.request_id, target.name, "closes" if before else "opens")
            breaker_turned(target.provider, target.model, breaker.is_open)

    def _counted(self, batch: Batch) -> Batch:
        if batch.events:
            batch.events = self._books.feed(batch.events)
            if batch.ended:
                last = batch.events[-1]
                if isinstance(last, Failed):
                    last.error.request_id = self._outcome.request_id
                    self._log(last.error)
                if isinstance(last, TERMINAL):
                    self._last = last
        return batch

    def _log(self, error: SluicewayError) -> None:
        if isinstance(error, Cancelled | Draining):
            return  # nothing has failed
        # A key the provider refuses stays refused until a person acts: that one is loud.
        level = logging.ERROR if isinstance(error, ProviderAuth) else logging.WARNING
        log.log(level, "%s %s code=%s: %s", self._outcome.request_id, self._target.name, error.code, error.message)

    def fail(self, error: SluicewayError) -> None:
        """The answer ends with `error`, whatever was read of it."""
        self._last = Failed(error=error)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._last is None:  # the server gives up a body whose client can't be written to
            self._client_left()
        try:
            self._watch.close()
            if self._attempt is not None:
                self._attempt.close()
        finally:
            self._house.admission.leave(self._cancel)
            closed()
            self._settle()
            report_soon(self._outcome)

    def _settle(self) -> None:
        """What became of it, from how it ended and what was counted."""
        outcome, books, cancelled = self._outcome, self._books, self._cancel.error
        if isinstance(self._last, Finished):
            outcome.outcome = "finished"
            self._judge(None)
        elif cancelled is not None:
            outcome.outcome = "cancelled"
            outcome.code = cancelled.code
            outcome.cancelled_by = "drain" if isinstance(cancelled, Draining) else "client"
            outcome.cancel_s = time.monotonic() - self._cancel.at
            self._judge(cancelled)
        else:
            error = self._last.error if self._last is not None else Internal("")
            outcome.outcome = "error"
            outcome.code = error.code
            self._judge(error)
        outcome.duration_s = self._elapsed_s()
        outcome.ttft_s = books.ttft_s
        outcome.chunks = books.chunks
        if (usage := books.usage()) is not None:
            outcome.input_tokens = usage.input_tokens
            outcome.output_tokens = usage.output_tokens
            outcome.usage_source = usage.source


def _says_something(event: Event) -> bool:
    return not isinstance(event, Started | Usage | Failed)


def _joined(first: Batch, more: Batch) -> Batch:
    first.events += more.events
    first.ended = more.ended
    if first.frames is not None and more.frames is not None:
        first.frames += more.frames
    return first
