"""The contract of the room, and what every format does alike: validate a body, frame JSON, wear an error.

A format's `parse` is given the decoded JSON body and raises `InvalidRequest` naming the field. Its encoder is fed
lists of events and gives bytes; it reads no clock and draws no ids, so the same events always give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
import pydantic

from ..errors import InvalidRequest, SluicewayError
from ..events import (
    Event,
    Failed,
    Finished,
    IllegalOrder,
    ObjectPartial,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    TextDelta,
    ToolCallEnded,
    ToolOutput,
    Usage,
)
from ..registry import nearest
from ..request import ChatRequest, Image, Reasoning


class Encoder(Protocol):
    """An answer's batches come with a provider's frames or without, and once they came without they go on so; after a
    terminal event none comes."""

    # A sign of life while nothing is said, allowed between any two pieces. No blank line after it: with one,
    # fetch-event-source reports an empty message, and OpenAI's client fails on it after an `id:` (WIRE).
    HEARTBEAT: ClassVar[bytes] = b": ping\n"

    # Of the response, beside those of every stream.
    HEADERS: ClassVar[Mapping[str, str]] = {}

    def feed(self, events: list[Event], /) -> bytes:
        """The events as bytes on the wire."""

    # Of the last event that was written, where the format numbers them.
    number: int = 0

    def relay(self, frames: bytes, events: list[Event], /) -> bytes:
        """A provider's own frames as bytes on the wire, in formats that are a provider's protocol too. `events` are the
        same, and tell what is not in the frames: a failure, and what comes with the end."""
        raise TypeError(f"{type(self).__name__} writes no provider's protocol")


class HeaderLookup(Protocol):
    """A request's headers, found by their names in lower case."""

    def get(self, name: str, /) -> str | None: ...


class Spoken(Protocol):
    """What an answer has to know of how it is written. `name` stands in the books. `tells_recovery`: its encoder can
    say that a part of what was said does not stand; others are never given a `Recovered` that is not exact."""

    name: ClassVar[str]
    tells_recovery: ClassVar[bool]


class Format(Spoken, Protocol):
    """`name` is the registry's; `mimetype` that of a streamed answer."""

    mimetype: ClassVar[str]

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest: ...

    def encoder(self, request: ChatRequest) -> Encoder: ...

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        """The JSON object of an answer that is not streamed."""

    def error(self, error: SluicewayError) -> Any:
        """The JSON object of an error before the first byte."""


class Resumable(Format, Protocol):
    """A format in which an answer can be taken up again, by an encoder that has never seen its request."""

    def seed(self, request: ChatRequest) -> Mapping[str, Any]:
        """What an encoder has to know of the request, as JSON."""

    def resumed(self, seed: Mapping[str, Any]) -> Encoder: ...


class After(Encoder):
    """Writes as `encoder` does what follows the event that it numbers `number`: fed the whole stream, it says nothing
    until then."""

    def __init__(self, encoder: Encoder, number: int) -> None:
        self._encoder = encoder
        self._number = number
        self.HEARTBEAT = encoder.HEARTBEAT  # type: ignore[misc]
        self.HEADERS = encoder.HEADERS  # type: ignore[misc]

    def feed(self, events: list[Event]) -> bytes:
        if self._encoder.number >= self._number:
            return self._encoder.feed(events)
        out: list[bytes] = []
        for event in events:
            data = self._encoder.feed([event])
            if self._encoder.number > self._number or (isinstance(event, Failed) and event.beside):
                out.append(data)
        return b"".join(out)


class WholeAnswer:
    """An answer folded from its events, for those who do not stream. `feed` raises the error of a `Failed`. `events`
    are all of them, for formats whose whole form keeps their order; `frames` is the same as a provider of the client's
    protocol wrote it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.frames: bytes | None = None
        self.start: Started | None = None
        self.finish: Finished | None = None
        self.usage = Usage(input_tokens=0, output_tokens=0, source="estimated")
        self.calls: list[ToolCallEnded] = []
        self.outputs: list[ToolOutput] = []
        self.object: Any = None  # the last state of it
        self.sources: list[Source] = []
        self.refused = False  # the text is a refusal
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._thoughts: list[Reasoning] = []
        self._thought: list[str] = []  # the one that is not ended

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def thoughts(self) -> list[Reasoning]:
        """The reasoning as the model has to be shown it again in the next turn."""
        rest = [Reasoning(text="".join(self._thought))] if self._thought else []
        return self._thoughts + rest

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.append(event)
            match event:
                case TextDelta(text=text, refusal=refusal):
                    self._text.append(text)
                    self.refused = self.refused or refusal
                case ReasoningDelta(text=text):
                    self._reasoning.append(text)
                    self._thought.append(text)
                case ReasoningEnded(redacted=redacted) if redacted:
                    self._thoughts = [*self.thoughts, Reasoning(redacted=redacted)]
                    self._thought.clear()
                case ReasoningEnded(signature=signature):
                    self._thoughts.append(Reasoning("".join(self._thought), signature))
                    self._thought.clear()
                case Source():
                    self.sources.append(event)
                case Started():
                    self.start = event
                case ToolCallEnded():
                    self.calls.append(event)
                case ToolOutput():
                    self.outputs.append(event)
                case ObjectPartial(partial=partial):
                    self.object = partial
                case Usage():
                    self.usage = event
                case Finished():
                    self.finish = event
                case Recovered(kept_chars=stands):
                    self._text = [self.text[:stands]]
                case Failed(error=error):
                    raise error
                case _:
                    pass  # the fragments of a call come again, whole, in its ToolCallEnded

    def known(self) -> tuple[Started, Finished]:
        """Start and finish of an answer that has come to its end."""
        if self.start is None or self.finish is None:
            raise IllegalOrder("an answer begins by Started and ends by Finished, or raises")
        return self.start, self.finish


class Body(pydantic.BaseModel):
    """Base of the request models: strict types (`"5"` is no number, `true` is no integer), unknown fields refused."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


class OpenBody(Body):
    """Of a protocol that others own: fields we do not know are its provider's, kept and passed on unchanged."""

    model_config = pydantic.ConfigDict(extra="allow")


BodyT = TypeVar("BodyT", bound=Body)


def validated(model: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    """`body` as `model`; raises `InvalidRequest` about the first field that is wrong."""
    try:
        return model.model_validate(body)
    except pydantic.ValidationError as exc:
        # The error in the deepest place says most: a union reports its every branch.
        problem = max(exc.errors(include_url=False), key=lambda found: len(found["loc"]))
        field = _field(problem["loc"])
        if problem["type"] == "missing":
            text = f"{field} is required"
        elif problem["type"] == "extra_forbidden":
            # The last part is the client's own word, whatever it looks like, and stands in `model` or deeper.
            where, name = _field(problem["loc"][:-1]), str(problem["loc"][-1])
            field = f"{where}.{name}" if where else name
            text = f"unknown field {field!r}" + ("" if where else f"; {nearest(name, model.model_fields)}")
        else:
            said = _WANTED.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            text = f"{field}: {said}" if field else said
        raise InvalidRequest(text, param=field or None) from None


# Where pydantic's own words speak of Python.
_WANTED = {
    "model_type": "should be an object",
    "dict_type": "should be an object",
    "list_type": "should be an array",
    "too_short": "should not be empty",
    "string_type": "should be a string",
    "string_too_short": "should not be empty",
    "int_type": "should be an integer",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
}


def _field(loc: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content")` -> `messages[0].content`; pydantic's names of union branches are left out."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in _BRANCHES:
            text += f".{part}" if text else part
    return text


# What pydantic puts into a location for the branch of a union it tried.
_BRANCHES = frozenset(
    {"str", "int", "float", "bool", "list", "dict", "none"}
    | {"TextPart", "ContentPart", "NamedTool", "ChosenTool", "Block", "UIMessage"}
)


def foreign_fields(
    extra: Mapping[str, Any] | None, where: str = "", *, neutral: Mapping[str, tuple[Any, ...]] = {}
) -> list[str]:
    """The paths of the fields (pydantic's `model_extra`) that only the client's protocol knows.

    Null and an empty list or object are no obstacle to another one: clients send a message back as they got it, and
    OpenAI's own have `annotations: []`. Nor is what asks for nothing, in its protocol's own table (`neutral`).
    """
    return [
        f"{where}{name}"
        for name, value in (extra or {}).items()
        if value not in (None, [], {}) and value not in neutral.get(name, ())
    ]


_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")


def image_at(url: str) -> Image:
    """An image by its URL, or in it: `data:image/png;base64,...`."""
    if (inside := _DATA_URL.match(url)) is not None:
        return Image(media_type=inside[1], data=url[inside.end() :])
    return Image(url=url)


_encode = msgspec.json.Encoder().encode


def json_bytes(value: Any) -> bytes:
    """Compact JSON that is `line_safe`."""
    return line_safe(_encode(value))


def line_safe(data: bytes) -> bytes:
    """JSON, or frames of it, with U+2028, U+2029 and U+0085 escaped: line readers that follow Unicode split there.

    The three can only stand inside strings, so replacing their UTF-8 bytes is enough (and costs one scan).
    """
    if data.isascii():
        return data
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data


def compact_json(text: str) -> msgspec.Raw | None:
    """JSON text that a model wrote, in one line, to stand inside other JSON as it is; None if it is no JSON."""
    try:
        return msgspec.Raw(_encode(msgspec.json.decode(text)))
    except (msgspec.MsgspecError, RecursionError):
        return None


def arguments_object(text: str) -> Any:
    """A call's arguments for a protocol in which they are an object; JSON that a model wrote wrongly, or that is none,
    is shown under one key, not dropped."""
    value = compact_json(text or "{}")
    return value if value is not None and bytes(value).startswith(b"{") else {"_invalid_json": text}


def data_frame(value: Any) -> bytes:
    """One SSE frame: the JSON of `value` in a single `data:` line."""
    return b"data: " + json_bytes(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def error_object(error: SluicewayError) -> dict[str, Any]:
    """The native shape of an error: `{code, message, retryable, status, request_id?, param?, provider_request_id?}`."""
    body: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "status": error.http_status,
    }
    if error.request_id:
        body["request_id"] = error.request_id
    if error.param:
        body["param"] = error.param
    return body | provider_named(error)


def provider_named(error: SluicewayError) -> dict[str, str]:
    """What an error says, in every shape, where its provider has named the request."""
    return {"provider_request_id": error.provider_request_id} if error.provider_request_id else {}
