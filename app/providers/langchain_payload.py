"""A `ChatRequest` as LangChain's messages, and as what a chat model takes beside them.

user        text and images; each tool result is a `ToolMessage`, before them. Not every package takes an image in one:
            those follow in a message of the user's
assistant   text and calls; thoughts only for Anthropic's class, which wants its signed ones back

temperature, max_tokens, top_p, effort   fields of the model, of which a copy is asked: a field is what every package
            reads, and what is no field would be dropped in silence
stop        an argument of `.stream()` that all have
tools       by `bind_tools`
schema, user   arguments of the call, which go into the body: of packages known to pass them on

What a model has no place for is refused by name; a chain takes nothing but the messages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable

from ..errors import InvalidRequest
from ..request import ChatRequest, Image, Message, Part, Reasoning, Text, Tool, ToolCall, ToolResult
from ..targets import Target
from .base import refuse, refuse_foreign
from .failures import scrub

# What a client calls a field, where its protocol has another name for it.
_NAMES = {
    "anthropic": {
        "stop": "stop_sequences",
        "schema": "output_config",
        "effort": "output_config",
        "user": "metadata",
        "parallel_tool_calls": "tool_choice",
    },
    "openai": {"schema": "response_format", "effort": "reasoning_effort"},
    "openai_responses": {"max_tokens": "max_output_tokens", "schema": "text", "effort": "reasoning"},
    "native": {"schema": "response_format"},
}

# What models' fields are called; the first that a class has is it.
_FIELDS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "max_tokens": ("max_tokens", "max_output_tokens", "max_completion_tokens", "max_new_tokens", "num_predict"),
    "effort": ("reasoning_effort",),
}


def asking(
    model: Runnable[Any, Any], request: ChatRequest, target: Target, config: Mapping[str, Any]
) -> Callable[[], Iterator[Any]]:
    """What begins the answer, a `.stream()`; until it is called nothing is sent. Raises `InvalidRequest`."""
    refuse_foreign(request, target)
    messages = _messages(request, thoughts=_is_of(model, "langchain_anthropic"))
    if not isinstance(model, BaseChatModel):
        for name in ("temperature", "top_p", "max_tokens", "effort", "stop", "tools", "schema", "user"):
            if getattr(request, name) not in (None, ()):
                _refuse(name, request, target)
        return lambda: model.stream(messages, dict(config))  # type: ignore[arg-type]
    more = _more(model, request, target)
    adjusted = _adjusted(model, request, target)
    ready = _with_tools(adjusted, request, target) if request.tools else adjusted
    return lambda: ready.stream(messages, dict(config), **more)  # type: ignore[arg-type]


def _refuse(name: str, request: ChatRequest, target: Target) -> None:
    refuse(_NAMES[request.dialect].get(name, name), target)


def _is_of(model: object, package: str) -> bool:
    """Whether a model's class, or one that it is made of, is a package's."""
    return any(base.__module__.partition(".")[0] == package for base in type(model).__mro__)


def _adjusted(model: BaseChatModel, request: ChatRequest, target: Target) -> BaseChatModel:
    fields = type(model).model_fields
    update: dict[str, Any] = {}
    for name, known in _FIELDS.items():
        value = getattr(request, name)
        if value is None:
            continue
        if name == "effort" and _is_of(model, "langchain_anthropic"):
            update |= _thinking(model, value)
            continue
        field = next((field for field in known if field in fields), None)
        if field is None:
            _refuse(name, request, target)
        else:
            update[field] = value
    return model.model_copy(update=update) if update else model


def _thinking(model: BaseChatModel, effort: str) -> dict[str, Any]:
    """As anthropic_payload, of which this is the same in LangChain's words."""
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    chosen: dict[str, Any] = {"reasoning_effort": "low" if effort == "minimal" else effort}
    if getattr(model, "thinking", None) is None:
        chosen["thinking"] = {"type": "adaptive", "display": "summarized"}
    return chosen


def _more(model: BaseChatModel, request: ChatRequest, target: Target) -> dict[str, Any]:
    """The arguments of the call."""
    more: dict[str, Any] = {}
    if request.stop:
        more["stop"] = list(request.stop)
    if (schema := request.schema) is not None:
        openais = _is_of(model, "langchain_openai")
        known = openais or _is_of(model, "langchain_anthropic") or bool((model.profile or {}).get("structured_output"))
        # OpenAI's SDK parses what comes then, and wants to know all tools strictly.
        if not known or (openais and not all(tool.strict for tool in request.tools)):
            _refuse("schema", request, target)
        about = {"name": schema.name, "description": schema.description, "strict": schema.strict}
        said = {name: value for name, value in about.items() if value is not None}
        more["response_format"] = {"type": "json_schema", "json_schema": {**said, "schema": dict(schema.schema)}}
    if request.user is not None:
        if _is_of(model, "langchain_openai"):
            more["user"] = request.user
        elif _is_of(model, "langchain_anthropic"):
            more["metadata"] = {"user_id": request.user}
        else:
            _refuse("user", request, target)
    return more


def _with_tools(model: BaseChatModel, request: ChatRequest, target: Target) -> Runnable[Any, Any]:
    chosen: dict[str, Any] = {}
    none = False
    if (choice := request.tool_choice) is not None:
        none = choice.mode == "none"
        if none and _is_of(model, "langchain_anthropic"):
            chosen["tool_choice"] = {"type": "none"}
        else:
            chosen["tool_choice"] = {"tool": choice.name, "required": "any"}.get(choice.mode, choice.mode)
    if request.parallel_tool_calls is not None and not none:
        if "parallel_tool_calls" in inspect.signature(model.bind_tools).parameters:
            chosen["parallel_tool_calls"] = request.parallel_tool_calls
        elif not request.parallel_tool_calls:
            _refuse("parallel_tool_calls", request, target)
    try:
        return model.bind_tools([_tool(tool) for tool in request.tools], **chosen)
    except NotImplementedError:
        refuse("tools", target)
    except Exception as exc:  # a schema that the package can't turn into the provider's
        raise InvalidRequest(f"tools can't be sent to {target.name!r}: {scrub(str(exc))}", param="tools") from exc


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": dict(tool.parameters or {"type": "object", "properties": {}}),
    }
    return {"type": "function", "function": function if tool.strict is None else {**function, "strict": tool.strict}}


def _messages(request: ChatRequest, *, thoughts: bool) -> list[BaseMessage]:
    messages: list[BaseMessage] = [SystemMessage(request.system)] if request.system else []
    for message in request.messages:
        messages += _user(message) if message.role == "user" else [_assistant(message, thoughts=thoughts)]
    if request.prefill:
        last = messages[-1] if messages else None
        if isinstance(last, AIMessage) and isinstance(last.content, str) and not last.tool_calls:
            messages[-1] = AIMessage(last.content + request.prefill)
        else:
            messages.append(AIMessage(request.prefill))
    return messages


def _user(message: Message) -> list[BaseMessage]:
    messages: list[BaseMessage] = []
    rest: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            text = "".join(shown.text for shown in part.told if isinstance(shown, Text))
            status = "error" if part.failed else "success"
            messages.append(ToolMessage(text, tool_call_id=part.call_id, status=status))
            rest += [shown for shown in part.parts if isinstance(shown, Image)]
        else:
            rest.append(part)
    if rest or not messages:
        messages.append(HumanMessage(_content(rest)))
    return messages


def _content(parts: list[Part]) -> Any:
    if not any(isinstance(part, Image) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [
        {"type": "image_url", "image_url": {"url": part.as_url}}
        if isinstance(part, Image)
        else {"type": "text", "text": part.text}
        for part in parts
        if isinstance(part, Image) or (isinstance(part, Text) and part.text)
    ]


def _assistant(message: Message, *, thoughts: bool) -> AIMessage:
    calls: list[Any] = []
    invalid: list[Any] = []
    for part in message.parts:
        if isinstance(part, ToolCall):
            arguments = _arguments(part.arguments)
            if arguments is None:
                invalid.append({"name": part.name, "args": part.arguments, "id": part.call_id, "error": None})
            else:
                calls.append({"name": part.name, "args": arguments, "id": part.call_id})
    content: Any = message.text
    if thoughts and (signed := [block for part in message.parts if (block := _thought(part)) is not None]):
        content = [*signed, *([{"type": "text", "text": content}] if content else [])]
    return AIMessage(content, tool_calls=calls, invalid_tool_calls=invalid)


def _thought(part: Part) -> dict[str, Any] | None:
    if not isinstance(part, Reasoning) or part.sealed_by_openai:
        return None
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature} if part.signature else None


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
