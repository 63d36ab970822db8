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
from collections.abc import Mapping
from typing import Any

from .admission import Admission
from .attempts import Attempt
from .books import Books
from .cancel import Cancel
from .clock import Clock
from .errors import Cancelled, Draining, ProviderAuth, SluicewayError
from .events import Batch, Failed
from .providers import Provider
from .request import ChatRequest
from .response import ClientWatch
from .targets import Target
from .task import Task

log = logging.getLogger("sluiceway")


class Answer:
    """Made once the request is understood; raises `Overloaded` where there is no place for it.

    `read(until)` until a batch has ended: None is "nothing by then" (of `time.monotonic`). It never raises what a
    provider, or the way to it, does: that is the `Failed` of the last batch, and is logged here. `close` at any time
    and more than once; where the answer has not ended, it is cancelled.
    """

    def __init__(
        self,
        provider: Provider,
        admission: Admission,
        request: ChatRequest,
        target: Target,
        *,
        request_id: str,
        environ: Mapping[str, Any],
    ) -> None:
        times = target.timeouts
        self._provider = provider
        self._admission = admission
        self._request = request
        self._target = target
        self._request_id = request_id
        self._clock = Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s)
        self._books = Books(request, self._clock.elapsed_s)
        self._cancel = Cancel()
        self._attempt: Attempt | None = None
        self._last: Batch | None = None
        self._closed = False
        admission.enter(self._cancel)
        self._watch = ClientWatch(environ, self._client_left)
        self._opening = Task(self._open)

    def _client_left(self) -> None:
        self._cancel.set(Cancelled("the client has left"))

    def _open(self) -> Attempt:
        attempt = Attempt(
            self._provider, self._request, self._target, self._clock, self._cancel, request_id=self._request_id
        )
        if self._closed:  # nobody has waited for it
            attempt.close()
        return attempt

    def read(self, until: float) -> Batch | None:
        attempt = self._attempt
        if attempt is None:
            if not self._opening.wait(until):
                return None
            try:
                attempt = self._attempt = self._opening.result()
            except SluicewayError as exc:
                return self._counted(Batch([Failed(error=exc)], None, True))
        batch = attempt.read(until)
        return None if batch is None else self._counted(batch)

    def _counted(self, batch: Batch) -> Batch:
        if batch.events:
            batch.events = self._books.feed(batch.events)
            if batch.ended:
                self._last = batch
                if isinstance(last := batch.events[-1], Failed):
                    last.error.request_id = self._request_id
                    self._log(last.error)
        return batch

    def _log(self, error: SluicewayError) -> None:
        if isinstance(error, Cancelled | Draining):
            return  # nothing has failed
        # A key the provider refuses stays refused until a person acts: that one is loud.
        level = logging.ERROR if isinstance(error, ProviderAuth) else logging.WARNING
        log.log(level, "%s %s code=%s: %s", self._request_id, self._target.name, error.code, error.message)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._last is None:  # the server gives up a body whose client can't be written to
            self._client_left()
        self._watch.close()
        if self._attempt is not None:
            self._attempt.close()
        self._admission.leave(self._cancel)
