"""A `ChatRequest` of another protocol as a Messages body.

user        tool results first, as the protocol wants them behind their calls; then text and images
assistant   thoughts that this protocol has signed, or redacted; text; calls. An unsigned thought, or one that another
                has sealed, is refused there and stays out; and so does a text of nothing but white space
    effort      as `output_config`, with `adaptive` thinking, so that what it thinks is told
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..request import ChatRequest, Image, Message, Part, Reasoning, Text, ToolCall, ToolResult

# `max_tokens` is required here and optional elsewhere.
DEFAULT_MAX_TOKENS = 4096


def payload(request: ChatRequest) -> dict[str, Any]:
    """All but the model and how it is to stream; the prefill is not in it."""
    body = {
        "system": request.system,
        "messages": [{"role": message.role, "content": _content(message)} for message in request.messages],
        "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
        "tools": [_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in request.tools] or None,
        "tool_choice": _choice(request),
        "metadata": {"user_id": request.user} if request.user else None,
        **_thinking(request),
    }
    return {name: value for name, value in body.items() if value is not None}


def own(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A client's own messages, without the thoughts that OpenAI has sealed, of turns that a model of its has answered;
    and without a message of which nothing is left."""
    kept: list[dict[str, Any]] = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list) and any(map(_sealed_by_openai, content)):
            content = [block for block in content if not _sealed_by_openai(block)]
            if not content:
                continue
            message = {**message, "content": content}
        kept.append(message)
    return kept


def _sealed_by_openai(block: Any) -> bool:
    match block:
        case {"type": "thinking", "signature": str(sealed)} | {"type": "redacted_thinking", "data": str(sealed)}:
            return Reasoning(signature=sealed).sealed_by_openai
        case _:
            return False


def _content(message: Message) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in message.parts):
        return message.text
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    rest = [part for part in message.parts if not isinstance(part, ToolResult)]
    return [block for part in (*results, *rest) if (block := _block(part)) is not None] or message.text


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text} if text.strip() else None
        case Image(url=url, media_type=media_type, data=data):
            source = {"type": "url", "url": url} if url else {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "image", "source": source}
        case Reasoning() if part.sealed_by_openai:
            return None
        case Reasoning(redacted=redacted) if redacted:
            return {"type": "redacted_thinking", "data": redacted}
        case Reasoning(text=text, signature=signature):
            return {"type": "thinking", "thinking": text, "signature": signature} if signature else None
        case ToolCall(call_id=call_id, name=name, arguments=arguments):
            return {"type": "tool_use", "id": _id(call_id), "name": name, "input": _input(arguments)}
        case ToolResult(call_id=call_id, parts=parts, failed=failed):
            shown = [block for inner in parts if (block := _block(inner)) is not None]
            only = parts[0] if len(parts) == 1 else None
            result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(call_id)}
            result["content"] = only.text if isinstance(only, Text) else shown
            return {**result, "is_error": True} if failed else result


def _id(call_id: str) -> str:
    """Other protocols' ids may hold what this one refuses."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", call_id)


def _input(arguments: str) -> Any:
    """An object here; what a model wrote wrongly is shown under one key, not dropped."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"_invalid_json": arguments}


def _tool(name: str, description: str | None, parameters: Any, strict: bool | None) -> dict[str, Any]:
    schema = parameters or {"type": "object", "properties": {}}
    tool = {"name": name, "description": description, "input_schema": schema, "strict": strict or None}
    return {key: value for key, value in tool.items() if value is not None}


_CHOICES = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}


def _choice(request: ChatRequest) -> dict[str, Any] | None:
    choice, one_at_a_time = request.tool_choice, request.parallel_tool_calls is False
    if not request.tools or (choice is None and not one_at_a_time):
        return None
    mode = "auto" if choice is None else choice.mode
    chosen: dict[str, Any] = {"type": _CHOICES[mode]}
    if mode == "tool" and choice is not None:
        chosen["name"] = choice.name
    if one_at_a_time and mode != "none":
        chosen["disable_parallel_tool_use"] = True
    return chosen


def _thinking(request: ChatRequest) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.schema is not None:
        config["format"] = {"type": "json_schema", "schema": request.schema.schema}
    if request.effort == "none":
        return {"thinking": {"type": "disabled"}, "output_config": config or None}
    if request.effort is not None:
        config["effort"] = "low" if request.effort == "minimal" else request.effort
        return {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": config}
    return {"output_config": config or None}
