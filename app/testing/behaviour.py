"""How the fake provider behaves is said by the model's name, so a test needs no handle on the provider to ask for
trouble.

    fake-n30-i20-stall5-think2      30 tokens, 20 ms apart, 2 reasoning tokens first, silence after the 5th token

Parts are split by "-"; the first is free (it seeds the words, so that two targets can be told apart by their text).
Every part is one row of `GRAMMAR` and one field of `Behaviour`; the command line's help and the 400 for an unknown
part are printed from the same rows. A misspelt part is refused, never ignored: a test that asks for `stal5` would
otherwise pass for nothing.

A *token* here is one delta of content: a piece of text, or a fragment of a tool call's arguments. Reasoning is paced
but not counted, so `stall5` means five tokens of the answer, with and without `think2`, and `text_after(model, 5)` is
what arrived. Of several faults the earliest strikes; one past the answer's last token never does.

A *prefill* is the text of a request's last message where that is the assistant's. Without one of `cont`, `again3`,
`noprefill` it changes nothing: the answer comes from its beginning. A fault counts what this response sends, so
`cut5-cont` gives five tokens more to every prefilled request. White space at its end is a 400 from Anthropic, as in
life, whatever else the name asks for; `noprefill` refuses it in its own words.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

StreamFault = Literal["cut", "eof", "rst", "stall", "err", "bad"]


class UnknownPart(ValueError):
    """The model's name holds a part that is not in `GRAMMAR`, or not in this combination; the message says which."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A model name, read. Times count from when the request was read whole, `*_after` tokens; 0 is before any event."""

    model: str
    name: str
    tokens: int | None = None
    interval_s: float = 0.0
    first_token_s: float = 0.0
    headers_s: float = 0.0
    status: int | None = None
    retry_after_s: int | None = None
    retry_date_s: int | None = None
    context: bool = False
    filtered: bool = False
    cut_after: int | None = None
    eof_after: int | None = None
    rst_after: int | None = None
    stall_after: int | None = None
    err_after: int | None = None
    bad_after: int | None = None
    times: int | None = None
    html: bool = False
    empty: bool = False
    refuse: bool = False
    no_done: bool = False
    no_usage: bool = False
    unicode: bool = False
    echo: bool = False
    pieces: int | None = None
    markdown: bool = False
    big_kb: int | None = None
    think: int = 0
    tools: int = 0
    once: bool = False
    length: bool = False
    declines: bool = False
    crlf: bool = False
    drip: bool = False
    split: bool = False
    comments: bool = False
    leak: bool = False
    continues: bool = False
    repeats: int | None = None
    no_prefill: bool = False

    def stream_faults(self) -> list[tuple[int, StreamFault]]:
        """What goes wrong inside the stream, as (tokens before it, what), earliest first. All but `bad` end it."""
        faults: list[tuple[int | None, StreamFault]] = [
            (self.bad_after, "bad"),
            (self.err_after, "err"),
            (self.eof_after, "eof"),
            (self.cut_after, "cut"),
            (self.rst_after, "rst"),
            (self.stall_after, "stall"),
        ]
        return sorted(((after, fault) for after, fault in faults if after is not None), key=lambda pair: pair[0])

    def on_turn(self, turn: int) -> "Behaviour":
        """The behaviour towards the turn-th request (from 0) for this model: past `times` nothing is late or fails."""
        if self.times is None or turn < self.times:
            return self
        lasting = {part.field: getattr(self, part.field) for part in (*_CONTENT, *_MANNERS)}
        return Behaviour(self.model, self.name, **lasting)


@dataclass(frozen=True, slots=True)
class Part:
    """One row of the grammar. `read` turns the digits into the field's value; None marks a word without a number."""

    example: str
    field: str
    read: Callable[[str], Any] | None
    meaning: str

    @property
    def word(self) -> str:
        return self.example.rstrip("0123456789")


def _seconds(ms: str) -> float:
    return float(ms) / 1000


_CONTENT = (
    Part("n20", "tokens", int, "20 content tokens (default 16; echo, by and md: at most 20; big: 20 of them)"),
    Part("i20", "interval_s", _seconds, "20 ms between tokens, may be 0.5 (default 0)"),
    Part("think4", "think", int, "4 reasoning tokens first"),
    Part("tool2", "tools", int, "2 parallel tool calls (with n5: after 5 tokens of text)"),
    Part("once", "once", None, "with tool2: text as soon as the conversation holds a tool call already"),
    Part("len", "length", None, "finish reason length / max_tokens"),
    Part("decline", "declines", None, "the text is a refusal: in a field of its own, or (messages) by the stop reason"),
    Part("uni", "unicode", None, "multi-byte words: é, emoji, CJK, U+2028, U+0085, quotes, backslash, newline"),
    Part("echo", "echo", None, "the text is the last user message's text"),
    Part("by3", "pieces", int, "the text is the last user message's text, in pieces of 3 characters"),
    Part("md", "markdown", None, "a Markdown document with hostile HTML in it, in small tokens"),
    Part("big200", "big_kb", int, "one content token of 200 KB"),
)
_TROUBLE = (  # what `times2` takes back after two requests
    Part("f300", "first_token_s", _seconds, "300 ms from the request to the first token; headers go out before"),
    Part("slow2000", "headers_s", _seconds, "response headers late by 2000 ms"),
    Part("e429", "status", int, "HTTP error 429 before the first byte, any status from 400"),
    Part("ra3", "retry_after_s", int, "with e429: Retry-After: 3"),
    Part("rad3", "retry_date_s", int, "with e429: Retry-After as an HTTP date 3 s ahead"),
    Part("ctx", "context", None, "the provider's own 400 for a context length exceeded"),
    Part("filter", "filtered", None, "the provider's own 400 of its content filter"),
    Part("cut5", "cut_after", int, "FIN after 5 tokens, the chunked body unfinished"),
    Part("eof5", "eof_after", int, "clean end of the body after 5 tokens, no finish reason, no [DONE]"),
    Part("rst5", "rst_after", int, "TCP reset after 5 tokens"),
    Part("stall5", "stall_after", int, "silence after 5 tokens until the client leaves (0: headers, then silence)"),
    Part("err5", "err_after", int, "error event after 5 tokens, then a clean end (0: as the very first event)"),
    Part("bad5", "bad_after", int, "a frame that is not JSON after 5 tokens, then the stream goes on"),
    Part("html", "html", None, "200 with a text/html page"),
    Part("empty", "empty", None, "200 with an empty body"),
    Part("refuse", "refuse", None, "closes the connection without a byte of response"),
)
_MANNERS = (
    Part("times2", "times", int, "only the first 2 requests for this model name are late or fail, later ones do not"),
    Part("leak", "leak", None, "the message of e429, err5 holds the caller's API key and an internal URL"),
    Part("nodone", "no_done", None, "finish reason, but no [DONE] / message_stop (Responses has none)"),
    Part("nousage", "no_usage", None, "no usage anywhere"),
    Part("crlf", "crlf", None, "CRLF line ends"),
    Part("drip", "drip", None, "every byte its own HTTP chunk"),
    Part("split", "split", None, "HTTP chunks of odd sizes, across events and characters"),
    Part("comments", "comments", None, "comment lines, unknown fields, unknown event types in between"),
    Part("cont", "continues", None, "after a prefill that begins the answer only the rest, without reasoning"),
    Part("again3", "repeats", int, "like cont, but the last 3 tokens that the prefill holds are said again first"),
    Part("noprefill", "no_prefill", None, "the provider's own 400 for a prefill"),
)
GRAMMAR = (*_CONTENT, *_TROUBLE, *_MANNERS)
_BY_WORD = {part.word: part for part in GRAMMAR}
_RIVALS = (  # of each of these words one at most, and why
    (("uni", "echo", "by", "md", "big"), "each choose the text"),
    (("cont", "again", "noprefill"), "each choose what becomes of a prefill"),
)


def grammar() -> str:
    """The grammar as a table, one part a line."""
    return "\n".join(f"{part.example:<10}{part.meaning}" for part in GRAMMAR)


def parse(model: str) -> Behaviour:
    """Read a model name; raise UnknownPart."""
    name, *parts = model.split("-")
    values: dict[str, Any] = {}
    words = []
    for text in parts:
        matched = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)?", text)
        part = _BY_WORD.get(matched[1]) if matched else None
        if matched is None or part is None:
            raise _refusal(model, text)
        if part.field in values:
            raise UnknownPart(f"part {part.word!r} stands twice in model {model!r}")
        values[part.field] = _value(part, text, matched[2], model)
        words.append(part.word)
    for rivals, why in _RIVALS:
        chosen = [word for word in words if word in rivals]
        if len(chosen) > 1:
            raise UnknownPart(f"{' and '.join(chosen)} in model {model!r} {why}; keep one")
    if not 400 <= values.get("status", 400) <= 599:
        raise UnknownPart(f"e{values['status']} in model {model!r} is not an error status; write e400 to e599")
    return Behaviour(model, name, **values)


def _value(part: Part, text: str, number: str | None, model: str) -> Any:
    if part.read is None and number is None:
        return True
    try:
        if part.read is not None and number is not None:
            return part.read(number)
    except ValueError:  # int("0.5")
        pass
    raise UnknownPart(f"{text!r} in model {model!r} is written like {part.example!r}: {part.meaning}")


def _refusal(model: str, text: str) -> UnknownPart:
    near = difflib.get_close_matches(text.rstrip("0123456789."), _BY_WORD, n=1)
    guess = f" Did you mean {_BY_WORD[near[0]].example!r}?" if near else ""
    known = "; ".join(f"{part.example}: {part.meaning}" for part in GRAMMAR)
    return UnknownPart(f"unknown part {text!r} in model {model!r}.{guess} Known parts: {known}")
