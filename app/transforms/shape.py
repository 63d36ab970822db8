"""Text in units that a renderer can use: whole sentences, whole Markdown blocks, or tokens gathered into larger pieces.

Where a unit ends depends on the text alone, not on how the provider has cut it; only `max_wait_ms` lets a part of one
go. Held is nothing but text, and nothing beyond what ends it: every other event has what is held leave before it. Two
do not end a text: an `ObjectPartial` says how the same text reads as JSON, and passes; at `Recovered` the text that is
taken back is taken out of what is held, so that a reader hears nothing of what it never saw.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Protocol

import msgspec

from ..events import Event, ObjectPartial, Recovered, Source, TextDelta
from ..request import Shape
from .blocks import Blocks
from .sentences import Sentences


class Units(Protocol):
    """What a text is cut into; fed with the text, in any pieces. Gives where units end, as far as that is known by now:
    characters from the beginning of the text, rising. At its end there always is one."""

    def feed(self, text: str, /) -> list[int]: ...

    def finish(self) -> list[int]: ...


class Tokens:
    """As they come."""

    def __init__(self) -> None:
        self._length = 0

    def feed(self, text: str) -> list[int]:
        self._length += len(text)
        return [self._length]

    def finish(self) -> list[int]:
        return []


UNITS: dict[str, type[Units]] = {"token": Tokens, "sentence": Sentences, "block": Blocks}

# Characters; as `books.MAX_KEPT`: where there are more, no answer is taken back.
MAX_KEPT = 500_000


class Shaping:
    """As `Transform`. Of tokens without `min_chars` none is enough: they are gathered until `max_wait_ms`.

    A text ends where the model does something else than going on with it: thinks, calls a tool, refuses. Behind a
    `Source` it goes on.
    """

    def __init__(self, shape: Shape) -> None:
        self.due = inf
        self._unit = UNITS[shape.unit]
        self._units = self._unit()
        self._least = shape.min_chars or (inf if shape.unit == "token" else 0)
        self._wait_s = inf if shape.max_wait_ms is None else shape.max_wait_ms / 1000
        self._refusal = False
        self._begins = [0]  # where texts begin, counted in characters of all of them, as what follows
        self._told = 0
        self._length = 0
        self._held: list[str] = []  # what was not told
        self._came: deque[tuple[int, float]] = deque()  # up to where text that is held had come, and when
        self._kept: list[str] | None = None if self._unit is Tokens else []  # what was told

    def feed(self, events: list[Event], now: float) -> list[Event]:
        out: list[Event] = []
        for event in events:
            match event:
                case TextDelta(text=text, refusal=refusal):
                    if refusal is not self._refusal:
                        self._end(out)
                        self._refusal = refusal
                    if text:
                        self._take(text, now, out)
                case ObjectPartial():
                    out.append(event)
                case Recovered():
                    out.append(self._recover(event))
                case Source():
                    self._tell([self._length], out)
                    out.append(event)
                case _:
                    self._end(out)
                    out.append(event)
        if now >= self.due:
            self._tell([self._length], out)
        return out

    def release(self, now: float) -> list[Event]:
        out: list[Event] = []
        if now >= self.due:
            self._tell([self._length], out)
        return out

    def _take(self, text: str, now: float, out: list[Event]) -> None:
        self._length += len(text)
        self._held.append(text)
        if self._wait_s != inf:
            self._came.append((self._length, now))
            self.due = self._came[0][1] + self._wait_s
        if ends := self._units.feed(text):
            self._tell(self._enough(ends), out)

    def _enough(self, ends: list[int]) -> list[int]:
        """Of those ends, counted from the beginning of this text, the ones at which something is told."""
        enough: list[int] = []
        last = self._told
        for end in ends:
            end += self._begins[-1]
            if end - last >= max(self._least, 1):
                enough.append(end)
                last = end
        return enough

    def _end(self, out: list[Event]) -> None:
        """Of this text."""
        if self._held or self._length > self._begins[-1]:
            self._tell([*self._enough(self._units.finish()), self._length], out)
            self._units = self._unit()
            self._begins.append(self._length)

    def _tell(self, ends: list[int], out: list[Event]) -> None:
        if not ends or ends[-1] == self._told:
            return
        held = "".join(self._held)
        begin, at = self._told, 0
        for end in ends:
            if end > self._told:
                piece = held[at : end - begin]
                out.append(TextDelta(text=piece, refusal=self._refusal))
                if self._kept is not None:
                    self._kept.append(piece)
                self._told, at = end, end - begin
        self._held = [held[at:]] if at < len(held) else []
        if self._kept is not None and self._told > MAX_KEPT:
            self._kept = None
        came = self._came
        while came and came[0][0] <= self._told:
            came.popleft()
        self.due = came[0][1] + self._wait_s if came else inf

    def _recover(self, event: Recovered) -> Recovered:
        """As the reader is to hear it, who has not got what is held."""
        stands, told = event.kept_chars, self._told
        if stands < self._length:
            self._take_back(stands)
        return msgspec.structs.replace(event, kept_chars=min(stands, told), exact=stands >= told)

    def _take_back(self, stands: int) -> None:
        """All but the first `stands` characters."""
        told, held = self._told, "".join(self._held)
        self._held = [held[: stands - told]] if stands > told else []
        self._length = stands
        self._told = min(told, stands)
        while self._came and self._came[-1][0] > stands:
            _, since = self._came.pop()
            if (self._came[-1][0] if self._came else self._told) < stands:
                self._came.append((stands, since))
        self.due = self._came[0][1] + self._wait_s if self._came else inf
        while self._begins[-1] > stands:
            self._begins.pop()
        self._units = self._unit()
        if self._kept is None:
            self._begins.append(stands)
            return
        whole = "".join(self._kept)[: self._told]
        self._kept = [whole] if whole else []
        self._units.feed((whole + "".join(self._held))[self._begins[-1] :])
