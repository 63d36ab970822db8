"""OpenAI Responses: what a request says, in the words that every protocol knows.

`input` is a text, or a list of items, each of a type of its own: messages, reasoning, function calls and their results.
One turn of the assistant's comes as several items, and becomes one `Message`. What an item says about itself because it
once was an answer (its id, its status, its sources) is no request, and no obstacle to another protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic

from ..errors import InvalidRequest
from ..request import (
    ChatRequest,
    Effort,
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from .base import Body, OpenBody, foreign_fields, validated

# Fields that only this protocol knows, with the values that ask for nothing another one does not do anyway.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "include": (["reasoning.encrypted_content"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream_options": ({"include_obfuscation": False},),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
NEUTRAL_REASONING = {"summary": ("auto",), "generate_summary": ("auto",), "context": ("auto",), "mode": ("standard",)}
NEUTRAL_TOOL = {"defer_loading": (False,), "allowed_callers": (["direct"],)}
NEUTRAL_CALL = {"async": (False,), "caller": ({"type": "direct"},)}

# An answer's own words about its items and parts, which come back with them.
OF_AN_ANSWER = ("id", "status", "phase", "annotations", "logprobs")

_EFFORTS: tuple[str, ...] = get_args(Effort)
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,", re.ASCII)


class ContentPart(OpenBody):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> ContentPart:
        if self.type in _TEXTS and self.text is None:
            raise ValueError(f"a part of type {self.type!r} needs text")
        return self


class MessageItem(OpenBody):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]


class FunctionCallItem(OpenBody):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(OpenBody):
    type: Literal["function_call_output"]
    call_id: str | None = None
    output: str | list[ContentPart]


class ReasoningItem(OpenBody):
    type: Literal["reasoning"]
    summary: list[ContentPart]
    content: list[ContentPart] | None = None
    encrypted_content: str | None = None


class FunctionTool(OpenBody):
    type: Literal["function"]
    name: Annotated[str, pydantic.Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(OpenBody):
    type: str


class JSONSchemaFormat(OpenBody):
    type: Literal["json_schema"]
    name: Annotated[str, pydantic.Field(min_length=1)]
    schema_: Annotated[dict[str, Any], pydantic.Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextConfig(OpenBody):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningConfig(OpenBody):
    effort: str | None = None


class ChosenTool(OpenBody):
    type: str
    name: str | None = None


class ResponsesBody(OpenBody):
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    model: Annotated[str, pydantic.Field(min_length=1)] | None = None
    max_output_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    user: str | None = None
    safety_identifier: str | None = None
    stream: bool | None = None


_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ITEMS: dict[str, type[MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "reasoning": ReasoningItem,
}
# Where the input is, if it is not in `input`.
_ELSEWHERE = ("previous_response_id", "conversation", "prompt")


def parse(body: Mapping[str, Any]) -> ChatRequest:
    """Raises `InvalidRequest` naming the field."""
    asked = validated(ResponsesBody, body)
    if not asked.input and asked.input != "" and not any(body.get(name) for name in _ELSEWHERE):
        given = "should not be empty" if asked.input is not None else "is required"
        raise InvalidRequest(f"input {given}; send a text, or a list of items", param="input")
    foreign = _foreign(asked.model_extra, "", NEUTRAL)
    said = _Conversation(foreign)
    if isinstance(asked.input, str):
        said.messages.append(Message.of("user", asked.input))
    else:
        for at, item in enumerate(asked.input or ()):
            said.take(item, f"input[{at}]")
    text, reasoning = asked.text or TextConfig(), asked.reasoning or ReasoningConfig()
    foreign += _foreign(text.model_extra, "text.", {})
    if text.verbosity not in (None, "medium"):
        foreign.append("text.verbosity")
    foreign += _foreign(reasoning.model_extra, "reasoning.", NEUTRAL_REASONING)
    effort: Any = reasoning.effort
    if effort is not None and effort not in _EFFORTS:
        foreign.append("reasoning.effort")
        effort = None
    return ChatRequest(
        dialect="openai_responses",
        body=body,
        messages=tuple(said.messages),
        system="\n\n".join(filter(None, [asked.instructions, *said.systems])) or None,
        model=asked.model,
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        tools=tuple(_tools(asked.tools or [], foreign)),
        tool_choice=_tool_choice(asked.tool_choice, foreign),
        parallel_tool_calls=asked.parallel_tool_calls,
        schema=_schema(text.format, foreign),
        effort=effort,
        user=asked.safety_identifier or asked.user,
        stream=bool(asked.stream),
        include_usage=True,
        foreign=tuple(foreign),
    )


class _Conversation:
    """The items so far, as system texts and messages; what has no word here goes on the `foreign` list."""

    def __init__(self, foreign: list[str]) -> None:
        self.systems: list[str] = []
        self.messages: list[Message] = []
        self._foreign = foreign

    def take(self, said: Mapping[str, Any], where: str) -> None:
        kind = said.get("type")
        if kind is None and ("role" in said or "id" not in said):  # without a role it is a reference to an item
            kind = "message"
        model = _ITEMS.get(kind) if isinstance(kind, str) else None
        if model is None:
            if kind is not None and not isinstance(kind, str):
                raise InvalidRequest(f"{where}.type: should be a string", param=f"{where}.type")
            self._foreign.append(where)
            return
        item = _validated_at(where, model, said)
        self._foreign += _foreign(item.model_extra, f"{where}.", NEUTRAL_CALL)
        match item:
            case MessageItem(role="system" | "developer"):
                self.systems.append(self._text(item.content, f"{where}.content"))
                if self.messages:
                    self._foreign.append(f"{where}.role")
            case MessageItem(role="assistant"):
                parts = self._parts(item.content, f"{where}.content", "assistant")
                last = self.messages[-1] if self.messages else None
                anew = last is None or last.role != "assistant" or isinstance(last.parts[-1], Text)
                self._say("assistant", parts or [Text("")], anew=anew)
            case MessageItem():
                self._say("user", self._parts(item.content, f"{where}.content", "user"), anew=True)
            case FunctionCallItem():
                self._say("assistant", [ToolCall(item.call_id, item.name, item.arguments)])
            case FunctionCallOutputItem(call_id=None):
                self._foreign.append(where)
            case FunctionCallOutputItem():
                parts = self._parts(item.output, f"{where}.output", "user")
                shown = tuple(part for part in parts if isinstance(part, Text | Image))
                last = self.messages[-1] if self.messages else None
                results = last is not None and all(isinstance(part, ToolResult) for part in last.parts)
                self._say("user", [ToolResult(item.call_id or "", shown)], anew=not results)
            case ReasoningItem():
                text = "\n\n".join(part.text or "" for part in item.summary or item.content or ())
                signed = item.encrypted_content or ""
                if text:
                    self._say("assistant", [Reasoning(text=text, signature=signed)])
                elif signed:
                    self._say("assistant", [Reasoning(redacted=signed)])

    def _say(self, role: Role, parts: list[Part], *, anew: bool = False) -> None:
        if not anew and self.messages and self.messages[-1].role == role:
            self.messages[-1] = Message(role, (*self.messages[-1].parts, *parts))
        else:
            self.messages.append(Message(role, tuple(parts)))

    def _text(self, content: str | list[ContentPart], where: str) -> str:
        parts = self._parts(content, where, "system")
        return "".join(part.text for part in parts if isinstance(part, Text))

    def _parts(self, content: str | list[ContentPart], where: str, role: str) -> list[Part]:
        if isinstance(content, str):
            return [Text(content)]
        parts: list[Part] = []
        for at, part in enumerate(content):
            here = f"{where}[{at}]"
            if part.type in _TEXTS:
                self._foreign += _foreign(part.model_extra, f"{here}.", {})
                parts.append(Text(part.text or ""))
            elif part.type == "refusal" and role == "assistant":
                parts.append(Text(part.refusal or part.text or ""))
            elif part.type == "input_image" and part.image_url and role == "user":
                self._foreign += _foreign(part.model_extra, f"{here}.", {})
                if part.detail not in (None, "auto"):
                    self._foreign.append(f"{here}.detail")
                parts.append(_image(part.image_url))
            else:
                self._foreign.append(here)
        return parts


def _image(url: str) -> Image:
    if found := _DATA_URL.match(url):
        return Image(media_type=found[1], data=url[found.end() :])
    return Image(url=url)


def _tools(said: list[dict[str, Any]], foreign: list[str]) -> list[Tool]:
    tools: list[Tool] = []
    for at, tool in enumerate(said):
        if tool.get("type") != "function":
            if not isinstance(tool.get("type"), str):
                raise InvalidRequest(f"tools[{at}].type: should be a string, as 'function'", param=f"tools[{at}].type")
            foreign.append(f"tools[{at}]")
            continue
        own = _validated_at(f"tools[{at}]", FunctionTool, tool)
        foreign += _foreign(own.model_extra, f"tools[{at}].", NEUTRAL_TOOL)
        tools.append(Tool(own.name, own.description, own.parameters, own.strict))
    return tools


def _tool_choice(said: str | dict[str, Any] | None, foreign: list[str]) -> ToolChoice | None:
    match said:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(said)
        case str():
            raise InvalidRequest("tool_choice: should be 'auto', 'none', 'required' or an object", param="tool_choice")
    chosen = _validated_at("tool_choice", ChosenTool, said)
    if chosen.type == "function" and chosen.name is None:
        raise InvalidRequest("tool_choice.name is required", param="tool_choice.name")
    if chosen.type == "function" and chosen.name:
        return ToolChoice("tool", chosen.name)
    foreign.append("tool_choice")
    return None


def _schema(said: dict[str, Any] | None, foreign: list[str]) -> Schema | None:
    if said is None:
        return None
    kind = _validated_at("text.format", TextFormat, said).type
    if kind == "json_schema":
        form = _validated_at("text.format", JSONSchemaFormat, said)
        foreign += _foreign(form.model_extra, "text.format.", {})
        return Schema(form.schema_, form.name, form.description, form.strict)
    if kind != "text":
        foreign.append("text.format")
    return None


def _foreign(extra: Mapping[str, Any] | None, where: str, neutral: Mapping[str, tuple[Any, ...]]) -> list[str]:
    return [
        f"{where}{name}"
        for name in foreign_fields(extra)
        if (extra or {})[name] not in neutral.get(name, ()) and not (where and name in OF_AN_ANSWER)
    ]


BodyT = TypeVar("BodyT", bound=Body)


def _validated_at(where: str, model: type[BodyT], said: Mapping[str, Any]) -> BodyT:
    """`validated`, with the place in the body where `said` stands."""
    try:
        return validated(model, said)
    except InvalidRequest as exc:
        if exc.param is None:
            raise InvalidRequest(f"{where}: {exc.message}", param=where) from None
        raise InvalidRequest(f"{where}.{exc.message}", param=f"{where}.{exc.param}") from None
