"""What the readers of all SSE protocols share: frames in, a definite end out.

A protocol's reader says how one frame reads (`_read`) and why the answer ended (`_finished`). That the end comes
exactly once, whatever the provider does, is settled here: a frame that is not JSON breaks the answer, because text may
have been in it, unless the finish reason is known already; so does a body that ends before the answer did.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import msgspec

from ..errors import ProviderError, StreamBroken
from ..events import Event, Failed, Finished, Started, ToolCallDelta, ToolCallEnded, ToolCallStarted, Usage
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

    def ended(self) -> list[Event]:
        # A call without arguments streams no fragment (Anthropic: one empty one); its JSON is the empty object. Said
        # as a fragment too, because some formats write nothing but those, and a client can't parse "".
        rest: list[Event] = [] if self.fragments else [self.add("{}")]
        return [*rest, ToolCallEnded(call_id=self.call_id, name=self.name, arguments="".join(self.fragments))]


class FrameReader(ABC):
    """A `base.Reader`. `start` is the identity used where the provider's own frames name none."""

    def __init__(self, start: Started, *, secret: str = "") -> None:
        self.answered = False
        self._start: Started | None = start  # None once `Started` has been given
        self._provider = start.provider
        self._secret = secret
        self._frames = FrameSplitter()
        self._open_calls: dict[str, OpenCall] = {}
        self._call_ids: set[str] = set()
        self._ended = False

    def feed(self, chunk: bytes) -> list[Event]:
        events: list[Event] = []
        if not self._ended:
            try:
                self._read_all(self._frames.feed(chunk), events)
            except FrameTooLarge:
                self._settle(StreamBroken("the provider sent a single event that is too large"), events)
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
            # Relays that keep a connection alive by `data:` or `data: : keepalive`, where a comment was meant.
            if not frame.data.strip() or frame.data.startswith(b":"):
                continue
            try:
                try:
                    self._read(frame, events)
                except UNREADABLE:
                    self._read(frame._replace(data=_well_formed(frame.data)), events)
            except UNREADABLE:
                self._settle(StreamBroken("the provider sent a frame that can't be read; try again"), events)

    @abstractmethod
    def _read(self, frame: Frame, events: list[Event]) -> None:
        """Add what `frame` says; raises one of `UNREADABLE`, and adds nothing, where it is not the protocol's JSON."""

    @abstractmethod
    def _finished(self) -> Finished:
        """How a whole answer ended."""

    @abstractmethod
    def _counted(self) -> Usage | None:
        """The usage of the answer so far, if the provider has said it."""

    def _begin_call(self, said_id: str | None, name: str | None, events: list[Event]) -> OpenCall:
        """A call under the provider's id, or under one of ours: some name none, or the same for two calls."""
        number = len(self._call_ids)
        call_id = said_id
        while not call_id or call_id in self._call_ids:
            call_id = f"call_{number}"
            number += 1
        self._call_ids.add(call_id)
        call = self._open_calls[call_id] = OpenCall(call_id, name or "")
        events.append(call.started())
        return call

    def _end_call(self, call: OpenCall, events: list[Event]) -> None:
        del self._open_calls[call.call_id]
        events += call.ended()

    def _settle(self, error: ProviderError, events: list[Event]) -> None:
        """The stream can't go on: a success where the answer itself is whole, otherwise `error`."""
        if self.answered:
            self._finish(events)
        else:
            self._fail(error, events)

    def _finish(self, events: list[Event]) -> None:
        self._ended = True
        for call in list(self._open_calls.values()):
            self._end_call(call, events)
        if (usage := self._counted()) is not None:
            events.append(usage)
        events.append(self._finished())

    def _fail(self, error: ProviderError, events: list[Event]) -> None:
        self._ended = True
        if self._start is None and (usage := self._counted()) is not None:
            events.append(usage)
        events.append(Failed(error=error))

    def _fail_as_said(self, body: Any, events: list[Event]) -> None:
        """The provider's own error, inside the stream: `body` is what its frame says, whole."""
        kind, message = error_parts(body)
        # OpenRouter and vLLM have the HTTP status for a code, which it was too late to send.
        status = next((int(word) for word in kind.split() if re.fullmatch("[45][0-9]{2}", word)), None)
        self._settle(
            provider_failure(self._provider, status=status, kind=kind, message=message, secret=self._secret), events
        )


# A JSON escape of half a character; the other branches pass over whole pairs, and over the escaped backslash before
# what only looks like one.
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL)


def _well_formed(data: bytes) -> bytes:
    """`data` with U+FFFD for what is no Unicode: bytes that are no UTF-8 (as the SSE rules ask), and half emoji, from
    servers that cut a string between two UTF-16 units."""
    text = data.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], text)
