"""A Messages request, read: what every protocol knows becomes a `ChatRequest`, and the rest is named (as
openai_chat_body.py).

`cache_control` is no obstacle to another protocol: the providers that know nothing of it cache by themselves, and the
answer is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
import pydantic

from ..errors import InvalidRequest
from ..request import (
    ChatRequest,
    Effort,
    Image,
    Message,
    Part,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from .base import HeaderLookup, OpenBody, foreign_fields, validated

# The protocol's own headers go along with its body to a provider that speaks it.
HEADERS = ("anthropic-version", "anthropic-beta")


class ImageSource(OpenBody):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class ResultBlock(OpenBody):
    type: str
    text: str | None = None
    source: ImageSource | None = None
    cache_control: Any = None


class Block(OpenBody):
    type: str
    text: str | None = None
    source: Any = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None
    cache_control: Any = None


class MessageParam(OpenBody):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolParam(OpenBody):
    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None


class ToolChoiceParam(OpenBody):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(OpenBody):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class Metadata(OpenBody):
    user_id: str | None = None


class OutputFormat(OpenBody):
    type: str
    schema_: Annotated[dict[str, Any] | None, pydantic.Field(alias="schema")] = None


class OutputConfig(OpenBody):
    effort: str | None = None
    format: OutputFormat | None = None


class MessagesBody(OpenBody):
    messages: Annotated[list[MessageParam], pydantic.Field(min_length=1)]
    model: Annotated[str, pydantic.Field(min_length=1)] | None = None
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    system: str | list[Block] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[ToolParam] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    metadata: Metadata | None = None
    cache_control: Any = None


NEUTRAL: dict[str, tuple[Any, ...]] = {"service_tier": ("auto", "standard_only"), "speed": ("standard",)}

# What a budget of thinking tokens comes to where there are only words for it; above the last it is "high". Nobody's
# standard: the protocols do not say.
_EFFORTS: tuple[tuple[int, Effort], ...] = ((2048, "low"), (8192, "medium"))


def read_body(body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
    """Raises `InvalidRequest`, which names the field."""
    asked = validated(MessagesBody, body)
    own = {name: value for name in HEADERS if (value := headers.get(name)) is not None}
    for name, value in own.items():
        if not value.isascii():
            raise InvalidRequest(f"the header {name} should be ASCII", param=name)
    foreign = foreign_fields(asked.model_extra, neutral=NEUTRAL)
    system = "".join(
        part.text for part in _content(asked.system, "system", foreign, ("text",)) if isinstance(part, Text)
    )
    messages: list[Message] = []
    for at, message in enumerate(asked.messages):
        where = f"messages[{at}]"
        if message.model_extra:
            foreign += foreign_fields(message.model_extra, f"{where}.")
        if message.role == "system":
            foreign.append(f"{where}.role")
        elif isinstance(message.content, str):
            messages.append(Message.of(message.role, message.content))
        else:
            parts = _content(message.content, f"{where}.content", foreign, _MAY_SAY[message.role])
            messages.append(Message(message.role, tuple(parts)))
    choice = asked.tool_choice
    return ChatRequest(
        dialect="anthropic",
        body=body,
        headers=own,
        messages=tuple(messages),
        system=system or None,
        model=asked.model,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=tuple(asked.stop_sequences or ()),
        tools=_tools(asked.tools or [], foreign),
        tool_choice=_choice(choice, foreign),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        schema=_schema(asked.output_config, foreign),
        effort=_effort(asked, foreign),
        user=_user(asked.metadata, foreign),
        stream=bool(asked.stream),
        include_usage=True,
        foreign=tuple(foreign),
    )


_MAY_SAY = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
}


def _content(content: str | list[Block] | None, where: str, foreign: list[str], known: tuple[str, ...]) -> list[Part]:
    """The parts of a content; blocks of a kind that is not `known` here, or not to us, go on the `foreign` list."""
    if content is None or isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Part] = []
    for at, block in enumerate(content):
        here = f"{where}[{at}]"
        if block.model_extra:
            foreign += foreign_fields(block.model_extra, f"{here}.", neutral=_CALLED_DIRECTLY)
        part = _part(block, here, foreign) if block.type in known else None
        if part is None:
            foreign.append(here)
        else:
            parts.append(part)
    return parts


_CALLED_DIRECTLY: dict[str, tuple[Any, ...]] = {"caller": ({"type": "direct"},)}


def _part(block: Block, here: str, foreign: list[str]) -> Part | None:
    match block.type:
        case "text":
            return Text(block.text or "")
        case "thinking":
            return Reasoning(text=block.thinking or "", signature=block.signature or "")
        case "redacted_thinking":
            return Reasoning(redacted=block.data or "")
        case "tool_use":
            arguments = msgspec.json.encode({} if block.input is None else block.input).decode()
            return ToolCall(block.id or "", block.name or "", arguments)
        case "tool_result":
            return ToolResult(block.tool_use_id or "", _result(block.content, here, foreign), bool(block.is_error))
        case "image":
            return _image(block.source)
        case _:
            return None


def _result(content: Any, here: str, foreign: list[str]) -> tuple[Text | Image, ...]:
    if not isinstance(content, list):
        return (Text(content if isinstance(content, str) else ""),)
    shown: list[Text | Image] = []
    for at, block in enumerate(content):
        match block:
            case {"type": "text", "text": str(text)}:
                shown.append(Text(text))
            case {"type": "image", "source": source} if (image := _image(source)) is not None:
                shown.append(image)
            case _:
                foreign.append(f"{here}.content[{at}]")
    return tuple(shown)


def _image(source: Any) -> Image | None:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return Image(media_type=media_type, data=data)
        case {"type": "url", "url": str(url)}:
            return Image(url=url)
        case _:
            return None


# The others stream a call's arguments as they come in any case; the AI SDK asks for it always.
_STREAMED_EAGERLY: dict[str, tuple[Any, ...]] = {"eager_input_streaming": (True, False)}


def _tools(asked: list[ToolParam], foreign: list[str]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for at, tool in enumerate(asked):
        if tool.type not in (None, "custom") or not tool.name:
            foreign.append(f"tools[{at}]")
            continue
        foreign += foreign_fields(tool.model_extra, f"tools[{at}].", neutral=_STREAMED_EAGERLY)
        tools.append(Tool(tool.name, tool.description, tool.input_schema, tool.strict))
    return tuple(tools)


def _choice(asked: ToolChoiceParam | None, foreign: list[str]) -> ToolChoice | None:
    if asked is None:
        return None
    match asked.type:
        case "auto" | "none":
            return ToolChoice(asked.type)
        case "any":
            return ToolChoice("required")
        case "tool" if asked.name:
            return ToolChoice("tool", asked.name)
        case _:
            foreign.append("tool_choice")
            return None


def _schema(asked: OutputConfig | None, foreign: list[str]) -> Schema | None:
    if asked is None:
        return None
    foreign += foreign_fields(asked.model_extra, "output_config.")
    wanted = asked.format
    if wanted is None:
        return None
    if wanted.type != "json_schema" or wanted.schema_ is None:
        foreign.append("output_config.format")
        return None
    return Schema(wanted.schema_, strict=True)


def _effort(asked: MessagesBody, foreign: list[str]) -> Effort | None:
    """How much to think: said in a word, or by a budget. What is left to the model (`adaptive`), or is this protocol's
    default (`disabled`), is nothing said."""
    if asked.output_config is not None and (word := asked.output_config.effort) is not None:
        if word in get_args(Effort):
            return word  # type: ignore[return-value]
        foreign.append("output_config.effort")
    thinking = asked.thinking
    if thinking is None or thinking.type in ("adaptive", "disabled"):
        return None
    if thinking.type == "enabled" and thinking.budget_tokens is not None:
        budget = thinking.budget_tokens
        return next((word for most, word in _EFFORTS if budget <= most), "high")
    foreign.append("thinking")
    return None


def _user(asked: Metadata | None, foreign: list[str]) -> str | None:
    if asked is None:
        return None
    foreign += foreign_fields(asked.model_extra, "metadata.")
    return asked.user_id
