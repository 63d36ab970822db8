"""One answer from beginning to end: let in, opened, read, counted, and ended exactly once, whatever ends it.

admission   a place, or 503
watch       the client leaves                      -> cancel
task        the provider is asked, beside us, so that heartbeats go on meanwhile
attempt     batches, each what one upstream read completed
books       counted
close       everything is given back, and the outcome told
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from .admission import Admission
from .attempts import Attempt
from .books import Books
from .cancel import Cancel
from .clock import Clock
from .errors import Cancelled, Draining, Internal, ProviderAuth, ServiceError, SluicewayError
from .events import TERMINAL, Batch, Failed, Finished
from .outcomes import Outcome, attempted, closed, opened, report_soon
from .providers import Provider
from .request import ChatRequest
from .response import ClientWatch
from .targets import Target

log = logging.getLogger("sluiceway")


class Answer:
    """Made once the request is understood; raises `Overloaded` where there is no place for it.

    `read(until)` until a batch has ended: None is "nothing by then" (of `time.monotonic`). It never raises what a
    provider, or the way to it, does: that is the `Failed` of the last batch, and is logged here. `close` at any time
    and more than once; where the answer has not ended, it is cancelled. What `read` does raise is a defect of ours:
    `fail` first, or it passes for the client's departure.
    """

    def __init__(
        self,
        provider: Provider,
        admission: Admission,
        request: ChatRequest,
        target: Target,
        *,
        format: str,
        request_id: str,
        environ: Mapping[str, Any],
    ) -> None:
        times = target.timeouts
        self._provider = provider
        self._admission = admission
        self._request = request
        self._target = target
        self._clock = Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s)
        self._books = Books(request, self._clock.elapsed_s)
        self._cancel = Cancel()
        self._attempt: Attempt | None = None
        self._last: Finished | Failed | None = None
        self._closed = False
        self._outcome = Outcome(
            request_id=request_id, format=format, provider=target.provider, model=target.model, outcome="rejected"
        )
        try:
            admission.enter(self._cancel)
        except ServiceError as exc:
            self._outcome.code = exc.code
            report_soon(self._outcome)
            raise
        opened()
        self._watch = ClientWatch(environ, self._client_left)

    def _client_left(self) -> None:
        self._cancel.set(Cancelled("the client has left"))

    def read(self, until: float) -> Batch | None:
        try:
            attempt = self._attempt or self._open()
            batch = attempt.read(until)
        except SluicewayError as exc:
            batch = Batch([Failed(error=exc)], None, True)
        return None if batch is None else self._counted(batch)

    def _open(self) -> Attempt:
        self._attempt = Attempt(
            self._provider,
            self._request,
            self._target,
            self._clock,
            self._cancel,
            request_id=self._outcome.request_id,
        )
        return self._attempt

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
            self._admission.leave(self._cancel)
            closed()
            self._settle()
            report_soon(self._outcome)

    def _settle(self) -> None:
        """What became of it, from how it ended and what was counted."""
        outcome, books, cancelled = self._outcome, self._books, self._cancel.error
        if isinstance(self._last, Finished):
            outcome.outcome = "finished"
        elif cancelled is not None:
            outcome.outcome = "cancelled"
            outcome.code = cancelled.code
            outcome.cancelled_by = "drain" if isinstance(cancelled, Draining) else "client"
            outcome.cancel_s = time.monotonic() - self._cancel.at
        else:
            outcome.outcome = "error"
            outcome.code = self._last.error.code if self._last is not None else Internal.code
        outcome.duration_s = self._clock.elapsed_s()
        outcome.ttft_s = books.ttft_s
        outcome.chunks = books.chunks
        outcome.attempts = 1
        if (usage := books.usage()) is not None:
            outcome.input_tokens = usage.input_tokens
            outcome.output_tokens = usage.output_tokens
            outcome.usage_source = usage.source
        attempted(outcome.provider, outcome.model, outcome.code or "ok")
