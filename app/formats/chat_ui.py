"""What the two formats of chat front ends share: our public fields beside their own, their pictures, and that they
always stream. A front end adds fields of its own to a body, so unknown ones are passed over."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Annotated, Any, ClassVar

import pydantic

from ..errors import InvalidRequest, SluicewayError
from ..request import ChatRequest, Image
from .base import Body, WholeAnswer, error_object, json_bytes
from .public import read_choice, read_schema, read_shape

Name = Annotated[str, pydantic.Field(min_length=1)]


class LenientBody(Body):
    model_config = pydantic.ConfigDict(extra="ignore")


class PublicFields(LenientBody):
    model: Name | None = None
    system: str | None = None
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], pydantic.Field(max_length=16)] | None = None
    tools: Any = None
    tool_choice: Any = None
    resumable: bool | None = None
    shape: Any = None
    response_format: Any = None

    def words(self, where: str = "") -> dict[str, Any]:
        """The fields of a `ChatRequest` that are said so; `where` is what stands before their names."""
        schema = read_schema(self.response_format, f"{where}response_format")
        return {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "tool_choice": read_choice(self.tool_choice, f"{where}tool_choice"),
            "schema": schema,
            "partials": schema is not None,
            "shape": read_shape(self.shape, f"{where}shape"),
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


def json_text(value: Any) -> str:
    return json_bytes(value).decode()
