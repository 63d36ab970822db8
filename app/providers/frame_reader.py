"""What the readers of all SSE protocols share: frames in, a definite end out.

A protocol's reader says how one frame reads (`_read`) and what an answer's end consists of (`_end`). That the end comes
exactly once, whatever the provider does, is settled here: a frame that is not JSON breaks the answer, because text may
have been in it, unless the finish reason is known already; so does a body that ends before the answer did.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import msgspec

from ..errors import ProviderError, StreamBroken
from ..events import Event, Failed, Started, ToolCallDelta, ToolCallEnded, ToolCallStarted, Usage
from .base import error_parts, provider_failure
from .sse import Frame, FrameSplitter, FrameTooLarge

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class OpenCall:
    """A tool call whose arguments are still coming."""

    __slots__ = ("call_id", "fragments", "name")

    def __init__(self, call_id: str, name: str) -> None:
        self.call_id = call_id
        self.name = name
        self.fragments: list[str] = []

    def started(self) -> ToolCallStarted:
        return ToolCallStarted(call_id=self.call_id, name=self.name)

    def add(self, fragment: str) -> ToolCallDelta:
        self.fragments.append(fragment)
        return ToolCallDelta(call_id=self.call_id, arguments=fragment)

    def ended(self) -> ToolCallEnded:
        # A call without arguments streams no fragment; its JSON is the empty object.
        return ToolCallEnded(call_id=self.call_id, name=self.name, arguments="".join(self.fragments) or "{}")


class FrameReader(ABC):
    """A `base.Reader`. `start` is the identity used where the provider's own frames name none."""

    def __init__(self, start: Started, *, secret: str = "") -> None:
        self.answered = False
        self._start: Started | None = start  # None once `Started` has been given
        self._provider = start.provider
        self._secret = secret
        self._frames = FrameSplitter()
        self._calls: dict[int, OpenCall] = {}
        self._ended = False

    def feed(self, chunk: bytes) -> list[Event]:
        events: list[Event] = []
        if not self._ended:
            try:
                self._read_all(self._frames.feed(chunk), events)
            except FrameTooLarge:
                self._fail(StreamBroken("the provider sent a single event that is too large"), events)
        return events

    def finish(self, error: ProviderError | None = None) -> list[Event]:
        events: list[Event] = []
        if not self._ended:
            self._read_all(self._frames.finish() if error is None else (), events)
        if not self._ended:
            ended_early = StreamBroken("the provider's stream ended before the answer did; try again")
            self._settle(error or ended_early, events)
        return events

    def _read_all(self, frames: Iterable[Frame], events: list[Event]) -> None:
        for frame in frames:
            if self._ended:
                return
            try:
                self._read(frame, events)
            except UNREADABLE:
                self._settle(StreamBroken("the provider sent a frame that can't be read; try again"), events)

    @abstractmethod
    def _read(self, frame: Frame, events: list[Event]) -> None:
        """Add what `frame` says; raises one of `UNREADABLE` for a frame that is not the protocol's JSON."""

    @abstractmethod
    def _end(self, events: list[Event]) -> None:
        """Add the end of a whole answer: calls that are still open, usage, `Finished`. Called once."""

    @abstractmethod
    def _counted(self) -> Usage | None:
        """What the provider has said of usage so far."""

    def _settle(self, error: ProviderError, events: list[Event]) -> None:
        """The stream can't go on: a success where the answer itself is whole, otherwise `error`."""
        if self.answered:
            self._finish(events)
        else:
            self._fail(error, events)

    def _finish(self, events: list[Event]) -> None:
        self._ended = True
        self._end(events)

    def _fail(self, error: ProviderError, events: list[Event]) -> None:
        self._ended = True
        if self._start is None and (usage := self._counted()) is not None:
            events.append(usage)
        events.append(Failed(error=error))

    def _fail_as_said(self, error: Any, events: list[Event]) -> None:
        """The provider's own error object, inside the stream."""
        kind, message = error_parts({"error": error})
        self._fail(
            provider_failure(self._provider, status=None, kind=kind, message=message, secret=self._secret), events
        )
