"""The books of one answer: what was delivered, what was billed, how long it took; and that the order was kept.

Every batch passes through. `Finished` leaves with usage and timings in it, and a provider that named no usage gets an
estimate from the text, marked as one: four characters a token, the rule of thumb for English, wrong by a factor of
two or three for other scripts, and far better than nothing for a bill that has to be explained.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from .events import (
    Event,
    Finished,
    Order,
    ReasoningDelta,
    Started,
    State,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from .request import ChatRequest

CHARS_PER_TOKEN = 4


class Books:
    """`elapsed_s` counts from the request. `feed` raises `IllegalOrder` for what the order table does not allow."""

    def __init__(self, request: ChatRequest, elapsed_s: Callable[[], float]) -> None:
        self._request = request
        self._elapsed_s = elapsed_s
        self._order = Order()
        self._chars = 0
        self.chunks = 0  # batches with something of the answer in them
        self._input_tokens = 0
        self.ttft_s: float | None = None
        self._usage: Usage | None = None

    def feed(self, events: list[Event]) -> list[Event]:
        if self.ttft_s is not None and self._order.state is State.OPEN:
            chars = 0
            for event in events:
                if type(event) is not TextDelta:
                    break
                chars += len(event.text)
            else:  # nothing but text: nearly all batches
                self._chars += chars
                self.chunks += 1
                return events
        kept: list[Event] = []
        before = self._chars
        for event in events:
            match event:
                case TextDelta(text=text) | ReasoningDelta(text=text) | ToolCallDelta(arguments=text):
                    self._chars += len(text)
                    self._token_seen()
                case ToolCallStarted():
                    self._token_seen()
                case Started(input_tokens=tokens):
                    self._input_tokens = tokens
                case Usage():
                    self._usage = event
                case Finished():
                    if self._usage is None:
                        self._usage = self._estimate()
                        self._order.check(self._usage)
                        kept.append(self._usage)
                    timings = Timings(ttft_s=self.ttft_s, duration_s=round(self._elapsed_s(), 4))
                    event = msgspec.structs.replace(event, usage=self._usage, timings=timings)
                case _:
                    pass
            self._order.check(event)
            kept.append(event)
        self.chunks += self._chars > before
        return kept

    def _token_seen(self) -> None:
        if self.ttft_s is None:
            self.ttft_s = round(self._elapsed_s(), 4)

    def usage(self) -> Usage | None:
        """Of the answer so far: the provider's, else an estimate; None where it said nothing."""
        return self._usage or (self._estimate() if self._chars else None)

    def _estimate(self) -> Usage:
        asked = len(self._request.system or "") + sum(len(message.text) for message in self._request.messages)
        return Usage(
            # Anthropic names the input at the start, so an answer that breaks its last count has half of the truth.
            input_tokens=self._input_tokens or _tokens(asked),
            output_tokens=_tokens(self._chars),
            source="estimated",
        )


def _tokens(chars: int) -> int:
    return math.ceil(chars / CHARS_PER_TOKEN)
