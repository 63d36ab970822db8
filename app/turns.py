"""One call of a model: asked for until somebody answers, and joined where an answer breaks off.

tries       a target is asked; until the answer has begun, what fails is followed by the next try, and nobody hears
            of it
recovery    where it breaks off afterwards, the next try goes on with it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from .attempts import Attempt
from .books import Books
from .cancel import Cancel
from .clock import Clock
from .errors import (
    Cancelled,
    ContentFiltered,
    ContextLengthExceeded,
    ProviderRejected,
    ServiceError,
    SluicewayError,
    Stopped,
)
from .events import Batch, Event, Failed, Finished, Started, Usage
from .house import House
from .outcomes import Outcome
from .recovery import Splice
from .request import ChatRequest
from .targets import Target
from .tries import Tries


class Broke(NamedTuple):
    """The try whose answer broke off last."""

    target: Target
    error: SluicewayError


class Turn:
    """`read(until)` until a batch has ended, as `Answer.read`. What it gives was passed through `count`, and the last
    batch through `end`, which may take the end from it: there is another turn, then.

    `books` are the answer's, of which this turn begins. `began` is when the request came, of `time.monotonic`.
    """

    def __init__(
        self,
        house: House,
        request: ChatRequest,
        target: Target,
        *,
        cancel: Cancel,
        outcome: Outcome,
        books: Books,
        began: float,
        tells_recovery: bool,
        count: Callable[[list[Event]], list[Event]],
        end: Callable[[Batch], Batch],
    ) -> None:
        self._house = house
        self._request = request
        self._recovery = target.recovery
        self._cancel = cancel
        self._outcome = outcome
        self._books = books
        self._began = began
        self._tells_recovery = tells_recovery
        self._count = count
        self._end = end
        self.tries = Tries(target, house.breakers, house.settings.retry, cancel, outcome, began)
        self._attempt: Attempt | None = None
        self._held: Batch | None = None  # what was read of a try that has not said anything yet
        self._frames: list[bytes] = []  # the same of an answer in one piece
        self._begun = False  # whether the try under way has
        self._broke: Broke | None = None
        self._splice: Splice | None = None
        self._refuses_prefill: Target | None = None
        self._ahead: Batch | Exception | None = None  # what `each` has left for `read`
        self._over = False

    def read(self, until: float) -> Batch | None:
        if (ahead := self._ahead) is not None:
            self._ahead = None
            if isinstance(ahead, Exception):
                raise ahead
            return None if ahead is _NOTHING else self._ended(ahead, until)
        attempt = self._attempt
        if not self._begun or attempt is None:
            return self._begin(until)
        batch = attempt.read(until)
        if batch is None:
            return None
        return self._ended(batch, until) if batch.ended else self._tell(batch)

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None:
        """Have what comes delivered from the event loop, where that can be done: to wake somebody for each token costs
        as much as the token. It goes on as long as `deliver`, which must not wait, says so; as something comes at least
        every `silence_s`; and as what comes is no more than a part of the answer. What stopped it, `read` gives."""
        attempt = self._attempt
        if attempt is None or not self._begun or self._over or self._ahead is not None:
            return
        clock, count = attempt.clock, self._count
        silent = time.monotonic() + silence_s

        def step() -> float:
            nonlocal silent
            try:
                if time.monotonic() >= clock.due:
                    return 0.0
                batch = attempt.read(0.0)
                if batch is not None:
                    if batch.ended:
                        self._ahead = batch
                        return 0.0
                    batch.events = count(batch.events)
                    if not deliver(batch):
                        return 0.0
                    silent = time.monotonic() + silence_s
            except Exception as exc:
                self._ahead = exc
                return 0.0
            return min(silent, clock.due)

        try:
            attempt.each(step, min(silent, clock.due))
        except Exception as exc:
            self._ahead = exc
        if self._ahead is None and time.monotonic() >= silent:
            self._ahead = _NOTHING

    @property
    def limits(self) -> dict[str, str]:
        """Of the try under way, as `Upstream.limits`."""
        return {} if self._attempt is None else self._attempt.limits

    def _begin(self, until: float) -> Batch | None:
        """Try until a try says something of the answer, or there is nothing left to try."""
        while True:
            if not self.tries.rested(until):
                return None
            try:
                batch = (self._attempt or self._open()).read(until)
            except SluicewayError as exc:
                batch = Batch([Failed(error=self._cancel.error or exc)], None, True)
            if batch is None:
                return None
            if self._request.stream and any(_says_something(event) for event in batch.events):
                self.tries.answering()
            if self._splice is not None and self._broke is not None:
                read = batch.events
                batch.events = self._splice.feed(read)
                if self._splice.differs:  # another answer than what was delivered, and no way to tell the client
                    self.tries.judge(Cancelled("it is another answer"))
                    self._forget(Batch(read))
                    return self._tell(Batch([Failed(error=self._broke.error)], None, True))
            if not self._request.stream:
                self._frames.append(batch.frames or b"")
                batch.frames = None if batch.frames is None else b""
            batch = self._held = batch if self._held is None else _joined(self._held, batch)
            last = batch.events[-1] if batch.events else None
            if not self._delivers(batch):
                if not isinstance(last, Failed):
                    continue
                if self._goes_on_after(last.error, batch):
                    continue
                self.tries.log(last.error)
                told = Failed(error=self._told(last.error))
                if self._request.stream:  # an answer that never began has nothing to say but this
                    self._books.spend(batch.events)
                    batch = Batch([told], None if batch.frames is None else b"", True)
                else:
                    batch = Batch([*batch.events[:-1], told], None, True)
            self._begun, self._held = True, None
            if batch.frames is not None and self._frames:
                batch.frames = b"".join(self._frames)
            return self._ended(batch, until) if batch.ended else self._tell(batch)

    def _delivers(self, batch: Batch) -> bool:
        """Whether to hand on what was read so far: then nothing of it can be taken back. An answer in one piece is
        handed on when it is whole."""
        if not self._request.stream:
            return batch.ended and isinstance(batch.events[-1], Finished)
        if self._splice is None and self._attempt is not None and self._attempt.opaque:
            return True
        return any(_says_something(event) for event in batch.events)

    def _open(self) -> Attempt:
        """The next try, at the first target that may be tried."""
        target, request = self.tries.enter(), self._request
        provider = self._house.providers[target.provider]
        if (broke := self._broke) is not None:
            text = self._books.text or ""
            prefill = ""
            if self._recovery == "continue" and target.prefill and target is not self._refuses_prefill:
                prefill = provider.prefill(text)
            request = request.recovering(prefill, self._books.turn_chunks)
            self._splice = Splice(
                text,
                self._books.reasoning,
                from_=broke.target.name,
                to=target.name,
                tells=self._tells_recovery,
                prefill=prefill or None,
            )
        times = target.timeouts
        self._attempt = Attempt(
            provider,
            request,
            target,
            Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s, since=self._began),
            self._cancel,
            request_id=self._outcome.request_id,
        )
        return self._attempt

    def _goes_on_after(self, error: SluicewayError, batch: Batch) -> bool:
        """Whether another try follows one that failed before it said anything: then nothing is left of this one."""
        splice = self._splice
        if splice is not None and splice.prefilled and _about_the_prefill(error):
            self._refuses_prefill = self.tries.target
            self.tries.again(error)
        elif not self.tries.goes_on_after(error, recovering=self._broke is not None):
            return False
        self._forget(batch)
        return True

    def _ended(self, batch: Batch, until: float) -> Batch | None:
        """The last batch of a try. Where that broke off in the middle of its answer, another goes on with it."""
        last = batch.events[-1]
        if not isinstance(last, Failed):
            return self._tell(batch)
        events: list[Event] = [event for event in batch.events if not isinstance(event, _AT_THE_END)]
        if isinstance(self._cancel.error, Stopped):
            return self._tell(Batch([*self._started(events), Finished(reason="cancelled")], None, True))
        said = self._tell(Batch(events, batch.frames))
        if self._recovers_from(last.error):
            self._forget(batch)
            return said if said.events or said.frames else self._begin(until)
        end = self._tell(Batch([event for event in batch.events if isinstance(event, _AT_THE_END)], None, True))
        return Batch(said.events + end.events, said.frames, True)

    def _started(self, events: list[Event]) -> list[Event]:
        """`events` of an answer that was stopped, and may not have begun."""
        if self._books.begun or (events and isinstance(events[0], Started)):
            return events
        target = self.tries.target
        start = Started(
            id=self._outcome.request_id, model=target.model, provider=target.provider, created=int(time.time())
        )
        return [start, *events]

    def _recovers_from(self, error: SluicewayError) -> bool:
        """Not behind a tool call: the client may have acted on it. Nor behind what only the client understands, or
        where more was said than is kept."""
        if self._recovery == "off" or not self._request.stream or not self._begun:
            return False
        if self._attempt is None or self._attempt.opaque or self._books.called or self._books.text is None:
            return False
        broke = Broke(self.tries.target, error)
        if not self.tries.goes_on_after(error, delivered=True):
            return False
        self._broke = broke
        return True

    def _forget(self, batch: Batch) -> None:
        """Close the try, whose answer is not to be gone on with, and keep of it only what it cost."""
        self._books.spend(batch.events)
        self._held = self._splice = None
        self._frames.clear()
        self._begun = False
        if self._attempt is not None:
            self._attempt.close()
            self._attempt = None

    def _told(self, error: SluicewayError) -> SluicewayError:
        """What the caller is told at the end of all tries: how an answer broke off, whatever came after that."""
        if self._broke is not None and not isinstance(error, ServiceError):
            return self._broke.error
        return self.tries.told(error)

    def _tell(self, batch: Batch) -> Batch:
        if batch.ended:
            self._over = True
            return self._end(batch)
        if batch.events:
            batch.events = self._count(batch.events)
        return batch

    @property
    def broke(self) -> Broke | None:
        return self._broke

    def close(self) -> None:
        """Of the try under way, at any time."""
        if self._attempt is not None:
            self._attempt.close()


def _about_the_prefill(error: SluicewayError) -> bool:
    """Whether a refusal may be one of the prefill: what else there is to refuse was not refused before."""
    return isinstance(error, ProviderRejected) and not isinstance(error, ContextLengthExceeded | ContentFiltered)


_NOTHING = Batch([])  # nothing came in time

_AT_THE_END = (Usage, Failed)


def _says_something(event: Event) -> bool:
    return not isinstance(event, Started | Usage | Failed)


def _joined(first: Batch, more: Batch) -> Batch:
    first.events += more.events
    first.ended = more.ended
    if first.frames is not None and more.frames is not None:
        first.frames += more.frames
    return first
