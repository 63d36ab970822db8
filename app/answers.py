"""One answer from beginning to end: let in, asked for until somebody gives it, read, counted, and ended exactly once,
whatever ends it.

    admission   a place, or 503
    watch       the client leaves                      -> cancel
    turn        a model is asked; where it calls tools of ours, they run, and another turn goes on with what they gave
    books       counted
    close       everything is given back, and the outcome told: a line in the log, the metrics
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .books import Books
from .cancel import Cancel
from .clock import Clock
from .errors import Cancelled, Draining, Internal, ServiceError, SluicewayError, Stopped
from .events import TERMINAL, Batch, Event, Failed, Finished
from .house import House
from .outcomes import Outcome, closed, opened, report_soon
from .request import ChatRequest
from .response import ClientWatch
from .steps import Steps
from .targets import Target
from .tools import ServedTool
from .turns import Turn


class Answer:
    """Made once the request is understood; raises `Overloaded` where there is no place for it.

    `read(until)` until a batch has ended: None is "nothing by then" (of `time.monotonic`). The first one says something
    of the answer. It never raises what a provider, or the way to it, does: that is the `Failed` of the last batch, and
    is logged here. `close` at any time and more than once; where the answer has not ended, it is cancelled. What `read`
    does raise is a defect of ours: `fail` first, or it passes for the client's departure.

    `tells_recovery`: the client's format has a word for a text that is taken back. `served` are the tools of ours that
    the request has among its own.
    """

    def __init__(
        self,
        house: House,
        request: ChatRequest,
        target: Target,
        *,
        format: str,
        tells_recovery: bool,
        request_id: str,
        environ: Mapping[str, Any],
        served: Mapping[str, ServedTool] = MappingProxyType({}),
    ) -> None:
        self._house = house
        self._target = target
        self._tells_recovery = tells_recovery
        self._began = time.monotonic()
        self._books = Books(request, self._elapsed_s)
        self._cancel = Cancel()
        self._outcome = Outcome(
            request_id=request_id, format=format, provider=target.provider, model=target.model, outcome="rejected"
        )
        self._steps: Steps | None = None
        if served:
            total_s = target.timeouts.total_s
            self._clock = Clock(first_token_s=math.inf, idle_s=math.inf, total_s=total_s, since=self._began)
            self._steps = Steps(
                request,
                served,
                max_turns=house.settings.tools.max_steps,
                cancel=self._cancel,
                around=house.around,
                request_id=request_id,
            )
        self._turn = self._turn_of(request)
        self._last: Finished | Failed | None = None
        self._closed = False
        try:
            house.admission.enter(self._cancel)
        except ServiceError as exc:
            self._outcome.code = exc.code
            report_soon(self._outcome)
            raise
        opened()
        self._watch = ClientWatch(environ, self._client_left)

    def _client_left(self) -> None:
        self._cancel.set(Cancelled("the client has left"))

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def read(self, until: float) -> Batch | None:
        steps = self._steps
        if steps is not None and steps.running is not None:
            return self._outputs(steps, until)
        return self._turn.read(until)

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None:
        """As `Turn.each`; not while tools run."""
        if self._steps is None or self._steps.running is None:
            self._turn.each(deliver, silence_s)

    @property
    def limits(self) -> dict[str, str]:
        """Of the try under way, as `Upstream.limits`."""
        return self._turn.limits

    def _turn_of(self, request: ChatRequest) -> Turn:
        return Turn(
            self._house,
            request,
            self._target,
            cancel=self._cancel,
            outcome=self._outcome,
            books=self._books,
            began=self._began,
            tells_recovery=self._tells_recovery,
            count=self._books.feed if self._steps is None else self._count,
            end=self._end,
        )

    def _count(self, events: list[Event]) -> list[Event]:
        return self._books.feed(events if self._steps is None else self._steps.feed(events))

    def _end(self, batch: Batch) -> Batch:
        """The last batch of a turn, which is the answer's last one unless tools of ours were called in it."""
        if self._steps is not None:
            batch, spent = self._steps.end(batch)
            if not batch.ended:
                self._turn.tries.judge(None)
                self._turn.close()
                batch.events = self._books.feed(batch.events)
                self._books.next_turn(spent)
                return batch
        return self._told(batch)

    def _told(self, batch: Batch) -> Batch:
        """The answer's last batch."""
        batch.events = self._books.feed(batch.events)
        last = batch.events[-1]
        if isinstance(last, Failed):
            last.error.request_id = self._outcome.request_id
            self._turn.tries.log(last.error)
        if isinstance(last, TERMINAL):
            self._last = last
        return batch

    def _outputs(self, steps: Steps, until: float) -> Batch | None:
        """What tools of ours gave by then. When all have, the model goes on."""
        batch = steps.read(min(until, self._clock.due))
        if batch is not None and batch.ended:
            return self._told(batch)
        if (error := self._cancel.error or self._clock.alarm()) is not None:
            steps.close()
            end = Finished(reason="cancelled") if isinstance(error, Stopped) else Failed(error=error)
            return self._told(Batch([*(batch.events if batch else ()), end], None, True))
        if batch is None:
            return None
        batch.events = self._books.feed(batch.events)
        if steps.running is None:
            self._turn = self._turn_of(steps.request)
        return batch

    def fail(self, error: SluicewayError) -> Failed:
        """The answer ends with `error`, whatever was read of it."""
        self._last = Failed(error=error)
        return self._last

    def cancel(self, error: SluicewayError) -> None:
        """From anywhere: it ends, which `read` then tells. One that is `Stopped` ends by a `finish`."""
        self._cancel.set(error)

    @property
    def request_id(self) -> str:
        return self._outcome.request_id

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._last is None:  # the server gives up a body whose client can't be written to
            self._client_left()
        try:
            self._watch.close()
            if self._steps is not None:
                self._steps.close()
            self._turn.close()
        finally:
            self._house.admission.leave(self._cancel)
            closed()
            self._settle()
            report_soon(self._outcome)

    def _settle(self) -> None:
        """What became of it, from how it ended and what was counted."""
        outcome, books, cancelled = self._outcome, self._books, self._cancel.error
        if isinstance(self._last, Finished) and self._last.reason != "cancelled":
            outcome.outcome = "finished"
            self._turn.tries.judge(None)
        elif isinstance(cancelled, Cancelled | Draining):
            outcome.outcome = "cancelled"
            outcome.code = cancelled.code
            outcome.cancelled_by = _by(cancelled)
            outcome.cancel_s = time.monotonic() - self._cancel.at
            self._turn.tries.judge(cancelled)
        else:
            error = self._last.error if isinstance(self._last, Failed) else cancelled or Internal("")
            outcome.outcome = "error"
            outcome.code = error.code
            self._turn.tries.judge(error)
            if (broke := self._turn.broke) is not None and error is broke.error:  # its text is what was delivered
                outcome.provider, outcome.model = broke.target.provider, broke.target.model
        outcome.duration_s = self._elapsed_s()
        outcome.ttft_s = books.ttft_s
        outcome.chunks = books.chunks
        if (usage := books.usage()) is not None:
            outcome.input_tokens = usage.input_tokens
            outcome.output_tokens = usage.output_tokens
            outcome.usage_source = usage.source


def _by(cancelled: SluicewayError) -> str:
    """Who has cancelled an answer, for the log."""
    if isinstance(cancelled, Stopped):
        return cancelled.by
    return "drain" if isinstance(cancelled, Draining) else "client"
