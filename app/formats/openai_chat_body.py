"""A Chat Completions request, read: what every protocol knows becomes a `ChatRequest`, and the rest is named.

The body itself goes to a provider of this protocol unchanged, so nothing here is refused that such a provider might
know: what has no word of ours is `foreign`, and only a provider of another protocol refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

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
from .base import OpenBody, foreign_fields, image_at, validated


class ImageURL(OpenBody):
    url: str
    detail: str | None = None


class ContentPart(OpenBody):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageURL | None = None


class CalledFunction(OpenBody):
    name: str
    arguments: str = ""


class CalledTool(OpenBody):
    type: str = "function"
    id: str | None = None
    function: CalledFunction | None = None


class ChatCompletionMessage(OpenBody):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None

    @pydantic.model_validator(mode="after")
    def _content_where_needed(self) -> ChatCompletionMessage:
        if self.content is None and self.role not in ("assistant", "function"):
            raise ValueError(f"a {self.role} message needs content")
        return self


class StreamOptions(OpenBody):
    include_usage: bool | None = None


class Function(OpenBody):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolParam(OpenBody):
    type: str
    function: Function | None = None


class NamedFunction(OpenBody):
    name: str


class NamedTool(OpenBody):
    type: str
    function: NamedFunction | None = None


class JSONSchema(OpenBody):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, pydantic.Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(OpenBody):
    type: str
    json_schema: JSONSchema | None = None


class ChatCompletionBody(OpenBody):
    messages: Annotated[list[ChatCompletionMessage], pydantic.Field(min_length=1)]
    model: Annotated[str, pydantic.Field(min_length=1)] | None = None
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, pydantic.Field(ge=1)] | None = None
    tools: list[ToolParam] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    safety_identifier: str | None = None


# What asks for nothing, so no other protocol need know it.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "store": (False,),
    "service_tier": ("auto",),
    "modalities": (["text"],),
}


def read_body(body: Mapping[str, Any]) -> ChatRequest:
    """Raises `InvalidRequest`, which names the field."""
    asked = validated(ChatCompletionBody, body)
    if asked.n is not None and asked.n > 1:
        raise InvalidRequest("n: only one choice is answered; send the request again for another", param="n")
    foreign = foreign_fields(asked.model_extra, neutral=NEUTRAL)
    system, messages = _conversation(asked.messages, foreign)
    effort = asked.reasoning_effort
    if effort is not None and effort not in get_args(Effort):
        foreign.append("reasoning_effort")
    return ChatRequest(
        dialect="openai",
        body=body,
        messages=messages,
        system=system,
        model=asked.model,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        tools=_tools(asked.tools or [], foreign),
        tool_choice=_choice(asked.tool_choice, foreign),
        parallel_tool_calls=asked.parallel_tool_calls,
        schema=_schema(asked.response_format, foreign),
        effort=effort if effort in get_args(Effort) else None,  # type: ignore[arg-type]
        user=asked.safety_identifier or asked.user,
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        foreign=tuple(foreign),
    )


def _conversation(asked: list[ChatCompletionMessage], foreign: list[str]) -> tuple[str | None, tuple[Message, ...]]:
    systems: list[str] = []
    messages: list[Message] = []
    for at, message in enumerate(asked):
        where = f"messages[{at}]"
        if message.model_extra:
            foreign += foreign_fields(message.model_extra, f"{where}.")
        if message.role == "user" and isinstance(message.content, str):  # nearly all of them
            messages.append(Message.of("user", message.content))
            continue
        parts = _content(message.content, f"{where}.content", foreign)
        match message.role:
            case "system" | "developer":
                systems.append("".join(part.text for part in parts if isinstance(part, Text)))
                if messages:
                    foreign.append(f"{where}.role")
            case "user":
                messages.append(Message("user", tuple(parts)))
            case "assistant":
                messages.append(Message("assistant", (*_thoughts(message), *parts, *_calls(message, where, foreign))))
            case "tool":
                _add_result(messages, ToolResult(message.tool_call_id or "", tuple(_shown(parts))))
            case _:
                foreign.append(f"{where}.role")
    return "\n\n".join(systems) or None, tuple(messages)


def _content(content: str | list[ContentPart] | None, where: str, foreign: list[str]) -> list[Text | Image]:
    if content is None or isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Text | Image] = []
    for at, part in enumerate(content):
        here = f"{where}[{at}]"
        if part.type == "image_url" and part.image_url is not None:
            foreign += foreign_fields(part.image_url.model_extra, f"{here}.image_url.")
            if part.image_url.detail not in (None, "auto"):
                foreign.append(f"{here}.image_url.detail")
            parts.append(image_at(part.image_url.url))
        elif part.type in ("text", "refusal"):
            parts.append(Text((part.text if part.type == "text" else part.refusal) or ""))
        else:
            foreign.append(here)
            continue
        foreign += foreign_fields(part.model_extra, f"{here}.")
    return parts


def _thoughts(message: ChatCompletionMessage) -> list[Part]:
    """As they were told: signed ones in `reasoning_details`, in the form of OpenRouter's; otherwise only their text."""
    thoughts: list[Part] = []
    for detail in message.reasoning_details or ():
        match detail:
            case {"type": "reasoning.text", "text": str(text)}:
                thoughts.append(Reasoning(text=text, signature=str(detail.get("signature") or "")))
            case {"type": "reasoning.encrypted", "data": str(data)}:
                thoughts.append(Reasoning(redacted=data))
            case _:
                pass
    if not thoughts and message.reasoning_content:
        thoughts.append(Reasoning(text=message.reasoning_content))
    return thoughts


def _calls(message: ChatCompletionMessage, where: str, foreign: list[str]) -> list[Part]:
    calls: list[Part] = [Text(message.refusal)] if message.refusal else []
    for at, call in enumerate(message.tool_calls or ()):
        if call.function is None or not call.id:
            foreign.append(f"{where}.tool_calls[{at}]")
        else:
            calls.append(ToolCall(call.id, call.function.name, call.function.arguments))
    return calls


def _shown(parts: list[Text | Image]) -> list[Text | Image]:
    return parts or [Text("")]


def _add_result(messages: list[Message], result: ToolResult) -> None:
    """The results of one turn's calls are one message."""
    last = messages[-1] if messages else None
    if last is not None and last.role == "user" and all(isinstance(part, ToolResult) for part in last.parts):
        messages[-1] = Message("user", (*last.parts, result))
    else:
        messages.append(Message("user", (result,)))


def _tools(asked: list[ToolParam], foreign: list[str]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for at, tool in enumerate(asked):
        function = tool.function
        if tool.type != "function" or function is None:
            foreign.append(f"tools[{at}]")
            continue
        foreign += foreign_fields(tool.model_extra, f"tools[{at}].")
        foreign += foreign_fields(function.model_extra, f"tools[{at}].function.")
        tools.append(Tool(function.name, function.description, function.parameters, function.strict))
    return tuple(tools)


def _choice(asked: str | NamedTool | None, foreign: list[str]) -> ToolChoice | None:
    match asked:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(asked)
        case NamedTool(type="function", function=NamedFunction(name=name)):
            return ToolChoice("tool", name)
        case _:
            foreign.append("tool_choice")
            return None


def _schema(asked: ResponseFormat | None, foreign: list[str]) -> Schema | None:
    if asked is None or asked.type == "text":
        return None
    wanted = asked.json_schema
    if asked.type != "json_schema" or wanted is None or wanted.schema_ is None:
        foreign.append("response_format")
        return None
    foreign += foreign_fields(wanted.model_extra, "response_format.json_schema.")
    return Schema(wanted.schema_, wanted.name, wanted.description, wanted.strict)
