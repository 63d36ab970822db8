"""An answer whose events go through transforms on their way to a reader, or to a journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from .errors import SluicewayError
from .events import Batch, Event, Failed
from .request import ChatRequest
from .response import Batches
from .transforms import Transform, transforms_of


class Source(Batches, Protocol):
    """An `Answer`, or something like it."""

    @property
    def request_id(self) -> str: ...

    @property
    def limits(self) -> dict[str, str]: ...

    def cancel(self, error: SluicewayError) -> None: ...


def shaped(source: Source, request: ChatRequest) -> Source:
    """As the request wants it."""
    transforms = transforms_of(request)
    return Shaped(source, transforms) if transforms else source


class Shaped:
    """What a transform makes of an end is the end: where it finds that the answer is not what was asked for, that has
    failed."""

    def __init__(self, source: Source, transforms: Sequence[Transform]) -> None:
        self._source = source
        self._transforms = transforms
        self._silent = False  # `each` has ended so: the next `read` is late already
        self.fail = source.fail
        self.cancel = source.cancel
        self.close = source.close

    @property
    def request_id(self) -> str:
        return self._source.request_id

    @property
    def limits(self) -> dict[str, str]:
        return self._source.limits

    @property
    def _due(self) -> float:
        return min(transform.due for transform in self._transforms)

    def read(self, until: float) -> Batch | None:
        if self._silent:
            self._silent, until = False, 0.0
        while True:
            due = self._due
            batch = self._source.read(min(until, due))
            now = time.monotonic()
            if batch is not None:
                batch = self._through(batch, now)
            elif now >= due:
                batch = Batch(self._released(now))
            if batch is not None and (batch.events or batch.ended):
                return batch
            if now >= until:
                return None

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None:
        """Not while something is held that has its time: `read` keeps that. Silence is that nothing is said here,
        whatever comes from the source."""
        if self._due != inf:
            return
        silent = time.monotonic() + silence_s

        def pass_on(batch: Batch) -> bool:
            nonlocal silent
            now = time.monotonic()
            batch = self._through(batch, now)
            if batch.events:
                silent = now + silence_s
                if not deliver(batch):
                    return False
            return now < silent and self._due == inf

        self._source.each(pass_on, silence_s)
        self._silent = time.monotonic() >= silent

    def _through(self, batch: Batch, now: float) -> Batch:
        events = batch.events
        for transform in self._transforms:
            events = transform.feed(events, now)
        if batch.ended and isinstance(last := events[-1], Failed) and last is not batch.events[-1]:
            last.error.request_id = self.request_id
            self._source.fail(last.error)
        return Batch(events, None, batch.ended)

    def _released(self, now: float) -> list[Event]:
        """What is due in a transform goes through those behind it."""
        events: list[Event] = []
        for transform in self._transforms:
            events = transform.feed(events, now) if events else []
            events += transform.release(now)
        return events
