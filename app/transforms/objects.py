"""The JSON value that a text grows into, told as it grows; held against its schema when it is whole.

Each partial value is what its text so far can only grow into: strings, arrays and objects as far as they have come; a
number when its end has been seen (`[1, 12` may go on to be 120), a literal when it is whole; a key when its value has
begun. Behind white space, a byte order mark and nothing else: a text before the JSON, or a fence around it, is not what
was asked for. Nor is a key that an object has twice: a value that was told would have to be taken back.

To read the text from its beginning for each token would cost its square. So it is read when it has grown by a 32nd
since it was read last, which bounds the sum of all partials by 33 times the text; and at the end of a batch, not in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from math import inf
from typing import Any

import jiter

from ..errors import SchemaViolated
from ..events import (
    Event,
    Failed,
    Finished,
    ObjectPartial,
    Recovered,
    TextDelta,
    ToolCallStarted,
    ToolOutput,
    Usage,
)
from ..json_schema import Checker
from ..request import Schema


class Objects:
    """As `Transform`. What is whole is held against the schema where the model has come to its own end by saying
    something: not behind a limit, a refusal or a call that the client is to answer.

    Usage is held until the end, which it belongs to: the last value comes before it.
    """

    due = inf

    def __init__(self, schema: Schema, streamed: bool) -> None:
        self._schema = schema
        self._streamed = streamed
        self._text = Growing()
        self._pieces: list[str] = []  # of the text, not in it yet
        self._chars = 0  # of both
        self._before = 0  # characters of what was said before the last tool call: no part of the value
        self._next = 1  # the characters at which the text is read again
        self._told: Any = _NOTHING
        self._called = False  # nothing was said since a tool was called
        self._refused = False
        self._held: list[Event] = []

    def feed(self, events: list[Event], now: float) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if isinstance(event, TextDelta):
                self._pieces.append(event.text)
                self._chars += len(event.text)
                if event.refusal:
                    self._refused = True
            elif isinstance(event, Usage):
                self._held.append(event)
                continue
            elif isinstance(event, Finished | Failed):
                return [*out, *self._ended(event)]
            elif isinstance(event, ToolCallStarted | ToolOutput):
                self._begin_anew()
            elif isinstance(event, Recovered):
                self._cut(event.kept_chars)
            out.append(event)
        if self._chars >= self._next:
            out += self._grown()
        return out

    def release(self, now: float) -> list[Event]:
        return []

    def _grown(self) -> list[Event]:
        """What has become of the value since it was told."""
        if self._refused:
            return []
        self._next = self._chars + max(1, self._chars // 32)
        value = self._whole_text().value()
        if value is _NOTHING or value == self._told:
            return []
        self._told = value
        return [ObjectPartial(partial=value)]

    def _whole_text(self) -> Growing:
        self._text.add("".join(self._pieces))
        self._pieces.clear()
        return self._text

    def _ended(self, end: Finished | Failed) -> list[Event]:
        usage, self._held = self._held, []
        if not isinstance(end, Finished) or end.reason != "stop" or self._refused or (self._called and not self._chars):
            return [*self._grown(), *usage, end]
        text = self._whole_text()
        try:
            value = text.whole()
        except ValueError as exc:
            wrong: str | None = f"it is no JSON: {exc}"
        else:
            wrong = Checker(self._schema.schema).violation(value, self._chars)
        if wrong is None:
            last = [] if self._told is not _NOTHING and value == self._told else [ObjectPartial(partial=value)]
            return [*last, *usage, end]
        if self._streamed:
            return [*usage, Failed(error=SchemaViolated(f"{wrong}. The text stands as it was sent"))]
        return [*usage, Failed(error=SchemaViolated(wrong, text=str(text)))]

    def _begin_anew(self) -> None:
        """What follows a call is said anew."""
        self._before += self._chars
        self._begin_with("")
        self._called = True

    def _cut(self, kept: int) -> None:
        kept -= self._before
        if kept < self._chars:
            self._refused = False
            self._before += min(0, kept)
            self._begin_with(str(self._whole_text())[: max(0, kept)])

    def _begin_with(self, text: str) -> None:
        self._text = Growing()
        self._pieces[:] = [text]
        self._chars = len(text)
        self._next = max(1, self._chars)
        self._told = _NOTHING


class Growing:
    """JSON text that comes in pieces. To add all of it costs as much as the text is long, whatever the pieces."""

    def __init__(self) -> None:
        self._data = bytearray()  # UTF-8
        self._in_string = False  # where it ends
        self._may_overflow = False

    def __str__(self) -> str:
        return self._data.decode()

    def add(self, text: str) -> None:
        data, at = self._data, len(self._data)
        data += text.encode()
        if not self._may_overflow:
            self._may_overflow = _MAY_OVERFLOW.search(data, max(0, at - _LOOK_BACK)) is not None
        while (quote := data.find(b'"', at)) >= 0:
            self._in_string = _is_escaped(data, quote) if self._in_string else True
            at = quote + 1

    def value(self) -> Any:
        """As far as it is known; `_NOTHING` where nothing is, or where it is no JSON."""
        data = bytes(self._data)
        if not self._in_string:
            before = data.rstrip(_OF_NUMBERS)
            if data[len(before) : len(before) + 1] not in (b"e", b"E"):  # of a literal
                data = before
        try:
            return self._finite(jiter.from_json(data.removeprefix(_BOM), partial_mode="trailing-strings", **_STRICTLY))
        except ValueError:
            return _NOTHING

    def whole(self) -> Any:
        """Raises `ValueError`, which quotes nothing."""
        try:
            return self._finite(jiter.from_json(bytes(self._data).removeprefix(_BOM), **_STRICTLY))
        except ValueError as exc:
            raise ValueError(_QUOTED_KEY.sub("duplicate key", str(exc))) from None

    def _finite(self, value: Any) -> Any:
        if self._may_overflow and not _is_finite(value):
            raise ValueError("a number is out of range")
        return value


_STRICTLY: Any = {"catch_duplicate_keys": True, "allow_inf_nan": False, "cache_mode": "keys"}
_NOTHING: Any = object()
_BOM = b"\xef\xbb\xbf"
_OF_NUMBERS = b"0123456789+-.eE"
_QUOTED_KEY = re.compile(r'Detected duplicate key ".*"', re.DOTALL)

# `1e999` is read as an infinity, which no JSON can pass on. No number without one of these is.
_MAY_OVERFLOW = re.compile(rb"[0-9.][eE]\+?[0-9]{3}|[0-9]{200}")
_LOOK_BACK = 200


def _is_escaped(data: bytearray, at: int) -> bool:
    first = at
    while first and data[first - 1] == 0x5C:
        first -= 1
    return (at - first) % 2 == 1


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_is_finite, inner))
