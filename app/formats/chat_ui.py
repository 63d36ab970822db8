"""What the two formats of chat front ends share: our public fields beside their own, their tools, their pictures, and
that they always stream. A front end adds fields of its own to a body, so unknown ones are passed over; those of ours
that this version can't serve are refused."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from ..errors import InvalidRequest, SluicewayError
from ..request import ChatRequest, Image, Message, Reasoning, Text, Tool, ToolCall, ToolChoice, ToolResult
from .base import Body, WholeAnswer, error_object, json_bytes

Name = Annotated[str, pydantic.Field(min_length=1)]


class LenientBody(Body):
    model_config = pydantic.ConfigDict(extra="ignore")


class ChosenTool(LenientBody):
    name: Name


class PublicFields(LenientBody):
    model: Name | None = None
    system: str | None = None
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], pydantic.Field(max_length=16)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenTool | None = None
    resumable: bool | None = None
    shape: Any = None
    response_format: Any = None

    def refuse_what_is_not_yet(self, where: str = "", *, resumable: bool = False) -> None:
        """`resumable`: whether this format's streams can be."""
        plainly = () if resumable else (("resumable", False),)
        for name, plain in (*plainly, ("shape", "token"), ("response_format", None)):
            if getattr(self, name) not in (None, plain):
                raise InvalidRequest(f"{where}{name}: not in this version; leave it out", param=f"{where}{name}")

    @property
    def words(self) -> dict[str, Any]:
        """The fields of a `ChatRequest` that are said so."""
        choice: ToolChoice | None = None
        if isinstance(chosen := self.tool_choice, ChosenTool):
            choice = ToolChoice("tool", chosen.name)
        elif chosen is not None:
            choice = ToolChoice(chosen)
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "tool_choice": choice,
        }


class ChatUI:
    """Base of the two; a subclass names itself, reads its body and brings its encoder."""

    name: ClassVar[str]
    mimetype: ClassVar[str] = "text/event-stream"
    tells_recovery: ClassVar[bool] = False

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        raise NotImplementedError("a chat front end is always streamed to")

    def error(self, error: SluicewayError) -> Any:
        """The native shape. Both clients make the body, as it is, the message of what they throw. A sentence alone
        would read better there, but an app could not tell `overloaded` from `unauthorized` by it, nor name the request.
        One that shows errors to people wants words of its own for the codes anyway."""
        return {"error": error_object(error)}


_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),")
_BASE64 = re.compile(r"[A-Za-z0-9+/]++={0,2}")


def picture(url: str, media_type: str | None, where: str) -> Image:
    """The image at a `data:` or `https:` URL; `where` is the field that has it."""
    if found := _DATA_URL.match(url):
        if not found[2].endswith(";base64"):
            raise InvalidRequest(f"{where}: a data: URL should be base64 (data:image/png;base64,...)", param=where)
        return picture_of(url[found.end() :], media_type or found[1], where)
    if not re.match(r"https?://[^\s/]", url):
        raise InvalidRequest(f"{where}: should be a data: or https: URL", param=where)
    only_pictures(media_type, where)
    return Image(url=url)


def picture_of(data: str, media_type: str, where: str) -> Image:
    only_pictures(media_type or "none", where)
    if not _BASE64.fullmatch(data):
        raise InvalidRequest(f"{where}: the data should be base64", param=where)
    return Image(media_type=media_type, data=data)


def only_pictures(media_type: str | None, where: str) -> None:
    if media_type is not None and not media_type.startswith("image/"):
        raise InvalidRequest(f"{where}: the media type {media_type!r} can't be sent; only images can", param=where)


def tool(value: Any, where: str, name: str | None = None) -> Tool:
    """A tool of the client's, from `{name, description?, parameters?, strict?}`, or the same under `function` as on
    OpenAI's wire. `name` stands for its own where they come as a mapping."""
    if not isinstance(value, Mapping):
        said = "a tool of the server's is not in this version; " if isinstance(value, str) else ""
        raise InvalidRequest(f"{where}: {said}should be an object", param=where)
    if isinstance(value.get("function"), Mapping):
        return tool(value["function"], f"{where}.function")
    name = value.get("name") if name is None else name
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where}.name: should be a string, and not empty", param=f"{where}.name")
    description, parameters, strict = (value.get(key) for key in ("description", "parameters", "strict"))
    for key, given, kind, wanted in (
        ("description", description, str, "a string"),
        ("parameters", parameters, Mapping, "an object, a JSON Schema"),
        ("strict", strict, bool, "true or false"),
    ):
        if given is not None and not isinstance(given, kind):
            raise InvalidRequest(f"{where}.{key}: should be {wanted}", param=f"{where}.{key}")
    return Tool(name=name, description=description or None, parameters=parameters, strict=strict)


class Names(dict[str, str]):
    """The answer's own ids -> those it bears at the client, which takes what has an id that it knows for the same thing
    again. There are servers that give the same ids in each answer, or few, so one that is in the conversation already
    (`taken`) gets a number."""

    def __init__(self, taken: Container[Any]) -> None:
        self._taken = taken

    def __missing__(self, said: str) -> str:
        name, number = said, 2
        while name in self._taken:
            name, number = f"{said}-{number}", number + 1
        self[said] = name
        return name


class Conversation:
    """The messages, as they are read one after the other. Providers refuse a call without its result, and a result
    without its call; so does this, and can say where."""

    def __init__(self) -> None:
        self.systems: list[str] = []
        self._messages: list[Message] = []
        self._open: dict[str, str] = {}  # calls without a result, and where they stand
        self._results: list[ToolResult] = []

    def system(self, text: str, where: str) -> None:
        if self._messages or self._results:
            raise InvalidRequest(f"{where}: a system message must come before the others", param=where)
        self.systems.append(text)

    def user(self, parts: list[Text | Image]) -> None:
        self._settle()
        self._messages.append(Message("user", tuple(parts)))

    def assistant(self, parts: list[Text | Reasoning | ToolCall], where: str) -> None:
        self._settle()
        # A thought alone is no message to any provider: an answer that was broken off, or nothing but a display.
        if any(not isinstance(part, Reasoning) for part in parts):
            self._messages.append(Message("assistant", tuple(parts)))
            self._open = {part.call_id: where for part in parts if isinstance(part, ToolCall)}

    def result(self, result: ToolResult, where: str) -> None:
        if self._open.pop(result.call_id, None) is None:
            raise InvalidRequest(f"{where}: {result.call_id!r} is no tool call that waits for a result", param=where)
        self._results.append(result)

    def finish(self) -> tuple[Message, ...]:
        self._settle()
        if not self._messages:
            raise InvalidRequest("messages: a user message is required", param="messages")
        return tuple(self._messages)

    def _settle(self) -> None:
        for call_id, where in self._open.items():
            raise InvalidRequest(f"{where}: the tool call {call_id!r} has no result; add it, then go on", param=where)
        if self._results:
            self._messages.append(Message("user", tuple(self._results)))
            self._results = []


def json_text(value: Any) -> str:
    return json_bytes(value).decode()
