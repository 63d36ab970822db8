"""The books of one answer: what was delivered, what was billed, how long it took; and that the order was kept.

Every batch passes through. `Finished` leaves with usage and timings in it, and a provider that named no usage gets an
estimate from the text, marked as one: four characters a token, the rule of thumb for English, wrong by a factor of
two or three for other scripts, and far better than nothing for a bill that has to be explained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from .events import (
    Event,
    Finished,
    Order,
    ReasoningDelta,
    Recovered,
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
        self._texts: list[str] = []  # the answer's text so far, in pieces
        self._length = 0  # of those
        self._before = 0  # the same of earlier turns
        self._reasonings: list[str] = []
        self._earlier_calls = 0  # of earlier turns
        self._kept = True  # else only its length
        self._chars = 0  # of tool calls, and of what earlier turns thought
        self.chunks = 0  # batches with something of the answer in them
        self._chunks_before = 0
        self._input_tokens = 0
        self.ttft_s: float | None = None
        self._usage: Usage | None = None
        self._spent: Usage | None = None  # what tries cost that broke off
        self._paid = 0  # characters that were delivered when that was said last

    @property
    def text(self) -> str | None:
        """What was delivered of the turn's text; None where that was more than is kept."""
        return _joined(self._texts) if self._kept else None

    @property
    def reasoning(self) -> str:
        return _joined(self._reasonings)

    @property
    def begun(self) -> bool:
        return self._order.state is not State.NEW

    @property
    def called(self) -> bool:
        """Whether a tool call was delivered, or begun, in this turn."""
        return self._order.calls > self._earlier_calls

    @property
    def turn_chunks(self) -> int:
        """Of `chunks`, those of this turn."""
        return self.chunks - self._chunks_before

    def next_turn(self, events: list[Event]) -> None:
        """The model may be asked again for what follows; `events` is how the turn ended, with its usage."""
        if any(isinstance(event, Usage) for event in events):
            self.spend(events)
        else:
            self.spend([self._estimate()])
        self._before += self._length
        self._length = 0
        self._kept = True
        self._texts.clear()
        self._chars += sum(map(len, self._reasonings))
        self._reasonings.clear()
        self._earlier_calls = self._order.calls
        self._chunks_before = self.chunks

    def spend(self, events: list[Event]) -> None:
        """The usage in what was read of a try whose answer is not this one, or not all of it."""
        for event in events:
            if isinstance(event, Usage):
                self._spent = _sum(self._spent, event)
                self._paid = self._said()

    def feed(self, events: list[Event]) -> list[Event]:
        if self.ttft_s is not None and self._order.state is State.OPEN:
            texts = self._texts
            before = len(texts)
            length = 0
            for event in events:
                if type(event) is not TextDelta:
                    del texts[before:]
                    break
                texts.append(event.text)
                length += len(event.text)
            else:  # nothing but text: nearly all batches
                self._length += length
                if before > _PIECES or self._length > MAX_KEPT:
                    self._tidy()
                self.chunks += 1
                return events
        kept: list[Event] = []
        spoke = False
        for event in events:
            match event:
                case TextDelta(text=text):
                    self._texts.append(text)
                    self._length += len(text)
                    spoke = True
                case ReasoningDelta(text=text):
                    self._reasonings.append(text)
                    spoke = True
                case ToolCallDelta(arguments=text):
                    self._chars += len(text)
                    spoke = True
                case ToolCallStarted():
                    self._token_seen()
                case Recovered(kept_chars=stands, exact=False):
                    self._texts = [_joined(self._texts)[: stands - self._before]]
                    self._length = len(self._texts[0])
                case Started(input_tokens=tokens):
                    self._input_tokens = tokens
                case Usage():
                    event = self._usage = _sum(self._spent, event)
                case Finished():
                    if self._usage is None:
                        self._usage = self.usage() or self._estimate()
                        self._order.check(self._usage)
                        kept.append(self._usage)
                    timings = Timings(ttft_s=self.ttft_s, duration_s=round(self._elapsed_s(), 4))
                    event = msgspec.structs.replace(event, usage=self._usage, timings=timings)
                case _:
                    pass
            if spoke:
                self._token_seen()
            self._order.check(event)
            kept.append(event)
        self.chunks += spoke
        return kept

    def _tidy(self) -> None:
        if self._length > MAX_KEPT:
            self._kept = False
            self._texts.clear()
        else:
            _joined(self._texts)

    def _token_seen(self) -> None:
        if self.ttft_s is None:
            self.ttft_s = round(self._elapsed_s(), 4)

    def usage(self) -> Usage | None:
        """Of the answer so far: the provider's, else an estimate; None where it said nothing."""
        if self._usage is None and self._said() > self._paid:
            return _sum(self._spent, self._estimate())
        return self._usage or self._spent

    def _said(self) -> int:
        return self._chars + self._before + self._length + sum(map(len, self._reasonings))

    def _estimate(self) -> Usage:
        asked = len(self._request.system or "") + sum(len(message.text) for message in self._request.messages)
        return Usage(
            # Anthropic names the input at the start, so an answer that breaks its last count has half of the truth.
            input_tokens=self._input_tokens or _tokens(asked),
            output_tokens=_tokens(max(0, self._said() - self._paid)),
            source="estimated",
        )


# Characters of an answer that are kept, to go on with it where it breaks off; models say less.
MAX_KEPT = 500_000

# A long answer takes ten times its length in small pieces.
_PIECES = 200


def _joined(pieces: list[str]) -> str:
    """All of them, which are one then."""
    pieces[:] = ["".join(pieces)]
    return pieces[0]


def _sum(spent: Usage | None, usage: Usage) -> Usage:
    if spent is None:
        return usage
    source: Literal["provider", "estimated"] = (
        "estimated" if "estimated" in (spent.source, usage.source) else "provider"
    )
    return Usage(source=source, **{name: getattr(spent, name) + getattr(usage, name) for name in _TOKENS})


_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


def _tokens(chars: int) -> int:
    return math.ceil(chars / CHARS_PER_TOKEN)
