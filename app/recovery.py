"""An answer that broke off, joined to the one that goes on with it: what the client has is never sent again, and
nothing is lost.

    whole      the next try answers from the beginning. As long as it says what was said it is held back; from there on
               it is the answer. Where it says something else, the client is told from which character on it counts, or,
               where its format has no word for that, the answer has failed: two halves of two answers are none.
    prefilled  the next try was given what was said, and goes on behind it. What it repeats of that is left out.

Text decides. Reasoning is no part of an answer: of a later try's there comes only what goes on where the first one's
broke off.
"""

from __future__ import annotations

from collections.abc import Iterator

from .events import Event, Failed, ReasoningDelta, ReasoningEnded, Recovered, Source, Started, TextDelta, Usage

# A model that was to go on, and first repeats where it stood, repeats some words. Less is alike by chance.
MIN_OVERLAP = 12
MIN_ANEW = 4  # for one that begins again with all it was given
MAX_OVERLAP = 2000


class Splice:
    """Of one try; `feed` it all batches until it has `joined`. `differs` says that it can't be joined.

    `text` and `reasoning` are what the client has, of the target `from_`; `prefill` is what the target `to` was given
    of the text (all but white space at its end), None where it answers from the beginning. `tells`: the client's format
    has a word for a text that is taken back.
    """

    def __init__(
        self, text: str, reasoning: str, *, from_: str, to: str, tells: bool, prefill: str | None = None
    ) -> None:
        self.joined = False
        self.differs = False
        self.prefilled = prefill is not None
        self._text = text
        self._reasoning = reasoning
        self._from = from_
        self._to = to
        self._tells = tells
        self._model = to
        self._repeated = 0  # characters of the text
        self._thought: int | None = 0  # characters of the reasoning; None: it was another one
        self._usage: list[Event] = []
        self._overlap = None if prefill is None else Overlap(prefill, text[len(prefill) :])

    def feed(self, events: list[Event]) -> list[Event]:
        """What of `events` the client is to get."""
        out: list[Event] = []
        for event in events:
            if self.joined:
                out.append(event)
            elif not self.differs:
                self._take(event, out)
        return out

    def _take(self, event: Event, out: list[Event]) -> None:
        match event:
            case Started(model=model):
                self._model = model
            case TextDelta(text=text):
                if self._overlap is not None:
                    self._say(self._overlap.feed(text), out)
                else:
                    self._repeat(text, out)
            case ReasoningDelta(text=text):
                self._think(text, out)
            case ReasoningEnded() | Source():
                pass  # of what was said already, or of nothing that was
            case Usage():
                self._usage.append(event)
            case Failed():
                out += [*self._usage, event]
            case _:  # it ends, or calls a tool
                if self._overlap is not None:
                    self._say(self._overlap.finish(), out)
                if not self.joined:
                    self._join(out)
                if not self.differs:
                    out += [*self._usage, event]

    def _repeat(self, text: str, out: list[Event]) -> None:
        here = self._text[self._repeated : self._repeated + len(text)]
        same = len(here) if text.startswith(here) else _alike(here, text)
        self._repeated += same
        if same < len(text):
            self._join(out)
            if not self.differs:
                out.append(TextDelta(text=text[same:]))

    def _think(self, text: str, out: list[Event]) -> None:
        if self._overlap is not None or self._thought is None:
            return
        here = self._reasoning[self._thought : self._thought + len(text)]
        if not text.startswith(here):
            self._thought = None
            return
        self._thought += len(here)
        if len(here) < len(text) and self._repeated == len(self._text):  # it broke off while it was thinking
            self._join(out)
            out.append(ReasoningDelta(text=text[len(here) :]))

    def _say(self, text: str, out: list[Event]) -> None:
        if text:
            self._repeated = len(self._text)
            self._join(out)
            out.append(TextDelta(text=text))

    def _join(self, out: list[Event]) -> None:
        """From here on it is the answer, or can't be."""
        kept = len(self._text) if self._overlap is not None else self._repeated
        exact = kept == len(self._text)
        if exact or self._tells:
            self.joined = True
            out.append(Recovered(from_=self._from, to=self._to, kept_chars=kept, model=self._model, exact=exact))
        else:
            self.differs = True


class Overlap:
    """What a prefilled model says, without what it repeats of the prefill's end; `cut` is the white space that the
    prefill lacks, which it may say again.

    Held back is only what stands in the prefill as well, and so may turn out to be a repetition."""

    def __init__(self, prefill: str, cut: str) -> None:
        self._prefill = prefill
        self._cut = cut
        self._held = ""
        self._places: list[int] | None = None  # in the prefill, where what is held may stand; None: not begun
        self._done = False

    def feed(self, text: str) -> str:
        if self._done:
            return text
        before = len(self._held)
        self._held += text
        if self._places is None:
            self._places = list(self._all_places())
        else:
            self._places = [at for at in self._places if self._agrees(at, before)]
        longest = len(self._prefill) - len(self._held)
        if any(at < longest for at in self._places):
            return ""  # it may go on repeating
        rest = self._rest()
        if self._cut and not rest.strip():
            return ""
        return self._settled(rest)

    def finish(self) -> str:
        return "" if self._done else self._settled(self._rest())

    def _all_places(self) -> Iterator[int]:
        """Near the end; and the beginning, for a model that begins again nevertheless."""
        prefill, held = self._prefill, self._held
        first = max(1, len(prefill) - MAX_OVERLAP)
        if self._agrees(0, 0):
            yield 0
        at = prefill.find(held, first)
        while at >= 0:
            yield at
            at = prefill.find(held, at + 1)
        for at in range(max(first, len(prefill) - len(held) + 1), len(prefill)):
            if self._agrees(at, 0):
                yield at

    def _agrees(self, at: int, since: int) -> bool:
        """Whether what is held from `since` on is what the prefill says there, as far as that goes."""
        there = self._prefill[at + since : at + len(self._held)]
        return self._held.startswith(there, since)

    def _rest(self) -> str:
        """What is held, without the longest repetition that is no chance."""
        for at in self._places or ():
            length = len(self._prefill) - at
            if at and self._is_a_line(at):
                continue
            least = MIN_OVERLAP if at else MIN_ANEW
            if least <= length <= len(self._held) and not _recurs(self._prefill, length):
                return self._held[length:]
        return self._held

    def _is_a_line(self, at: int) -> bool:
        """Whether what is repeated goes from one line break to another: of a row, or a refrain, there may be two."""
        again, rest = self._prefill[at:], self._held[len(self._prefill) - at :]
        begins = "\n" in (self._prefill[at - 1], again[0])
        return begins and "\n" in (again[-1], rest[:1])

    def _settled(self, rest: str) -> str:
        self._done = True
        self._held = ""
        return rest[_alike(rest, self._cut) :]


def _alike(one: str, other: str) -> int:
    """How many characters at the beginning of the two are the same."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def _recurs(text: str, length: int) -> bool:
    """Whether the last `length` characters are a pattern that comes again and again (a table, a list of zeros): then
    it may go on with the same again, and that is no repetition."""
    end = text[-length:]
    half = end[: (length + 1) // 2]
    at = end.find(half, 1)  # no other place can be the pattern's length: by Fine and Wilf the shortest one is the first
    if 0 < at <= length // 2 and end.startswith(end[at:]):
        return True
    return text.endswith(end, 0, -length)
