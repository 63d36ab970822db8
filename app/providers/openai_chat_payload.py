"""A `ChatRequest` of another protocol as a Chat Completions body.

user        text and images; each tool result is a message of its own, before them. A `tool` message holds no image:
            those follow in a message of the user's
assistant   text and calls; its thoughts are for the model that had them, and stay out
"""

from __future__ import annotations

from typing import Any

from ..request import ChatRequest, Image, Message, Text, ToolCall, ToolChoice, ToolResult


def payload(request: ChatRequest, max_tokens_field: str) -> dict[str, Any]:
    """All but the model and how it is to stream; the prefill is not in it."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
    for message in request.messages:
        messages += _user(message) if message.role == "user" else [_assistant(message)]
    tools = [_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in request.tools]
    body = {
        "messages": messages,
        max_tokens_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "tools": tools or None,
        "tool_choice": _choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls if tools else None,
        "response_format": _response_format(request),
        "reasoning_effort": request.effort,
        "user": request.user,
    }
    return {name: value for name, value in body.items() if value is not None}


def _user(message: Message) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    rest: list[Text | Image] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            text = "".join(shown.text for shown in part.told if isinstance(shown, Text))
            messages.append({"role": "tool", "tool_call_id": part.call_id, "content": text})
            rest += [shown for shown in part.parts if isinstance(shown, Image)]
        elif isinstance(part, Text | Image):
            rest.append(part)
    if rest or not messages:
        messages.append({"role": "user", "content": _content(rest)})
    return messages


def _content(parts: list[Text | Image]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": part.as_url}}
        for part in parts
    ]


def _assistant(message: Message) -> dict[str, Any]:
    calls = [
        {"id": part.call_id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    if not calls:
        return {"role": "assistant", "content": message.text}
    return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def _tool(name: str, description: str | None, parameters: Any, strict: bool | None) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _choice(choice: ToolChoice | None) -> Any:
    if choice is None:
        return None
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "tool" else choice.mode


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    wanted = request.schema
    if wanted is None:
        return None
    about = {"name": wanted.name, "description": wanted.description, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {key: value for key, value in about.items() if value is not None}}
