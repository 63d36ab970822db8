"""OpenAI Responses through `openai.OpenAI`, called so that the raw body comes back (see openai.py).

What this protocol wants and others do not say: nothing is to be stored (`store: false`), since the client has not asked
for it; then thoughts come back only if they are asked for in their encrypted form, which models that do not think
refuse. A function's schema is taken strictly unless it says otherwise. There are no stop sequences, and no model goes
on with an assistant's message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import openai

from ..cancel import Cancel
from ..clock import Clock
from ..events import Started
from ..request import ChatRequest, Image, Message, Part, Reasoning, Text, Tool, ToolCall, ToolChoice, ToolResult
from ..settings import ProviderSettings
from ..targets import Target
from ..transport import clocked, http_client
from .base import HttpUpstream, Upstream, refuse, refuse_foreign
from .openai_responses_reader import OpenAIResponsesReader
from .prepared import Prepared


class _Client(Prepared, openai.OpenAI):
    straight = True


class OpenAIResponses:
    """A `base.Provider`. `key` may be empty: some servers of this protocol ask for none."""

    def __init__(self, name: str, settings: ProviderSettings, key: str) -> None:
        self.name = name
        self._key = key
        self._http = http_client(settings.base_url)
        self._client = _Client(
            api_key=key or "none",
            base_url=settings.base_url,  # None: the SDK's own
            max_retries=0,
            http_client=self._http,
        )

    def open(self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str) -> Upstream:
        payload = self.payload(request, target)

        def ask() -> Any:
            return self._client.ask(
                "/responses",
                payload,
                headers={"X-Request-ID": request_id},
                timeout=clocked(clock, cancel, connect_s=target.timeouts.connect_s),
                stream_cls=openai.Stream[object],
            )

        own_id = f"resp_{os.urandom(16).hex()}"
        start = Started(id=own_id, model=target.model, provider=self.name, created=int(time.time()))
        reader = OpenAIResponsesReader(
            start,
            secret=self._key,
            relay=request.relayable("openai_responses"),
            relay_end=request.dialect == "openai_responses" and not request.stream,
        )
        return HttpUpstream(
            self.name,
            self._http,
            ask,
            openai.OpenAIError,
            reader,
            clock,
            cancel,
            id_header="x-request-id",
            secret=self._key,
        )

    def prefill(self, text: str) -> str:
        return ""  # the last message is one more that was said, whoever said it

    def close(self) -> None:
        self._client.close()

    def payload(self, request: ChatRequest, target: Target) -> dict[str, Any]:
        """The body to send: the client's own where it speaks this protocol, otherwise the common part of it."""
        if request.dialect == "openai_responses":
            body = dict(request.body)
        else:
            refuse_foreign(request, target)
            if request.stop:
                refuse("stop_sequences" if request.dialect == "anthropic" else "stop", target)
            body = {name: value for name, value in _common(request).items() if value is not None}
        return {**body, "model": target.model, "stream": True}


def _common(request: ChatRequest) -> dict[str, Any]:
    thinks = request.effort not in (None, "none")
    parts = [part for message in request.messages for part in message.parts]
    thought = any(isinstance(part, Reasoning) and part.sealed_by_openai for part in parts)
    return {
        "instructions": request.system,
        "input": [item for message in request.messages for item in _items(message)],
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "text": _text(request),
        "reasoning": {"effort": request.effort, **({"summary": "auto"} if thinks else {})} if request.effort else None,
        "user": request.user,
        "store": False,
        "include": ["reasoning.encrypted_content"] if thinks or thought else None,
    }


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """A message as items: what was said together stays so, between the calls, their results and the thoughts."""
    said: list[Text | Image] = []
    for part in message.parts:
        if isinstance(part, Text | Image):
            said.append(part)
            continue
        yield from _message(message, said)
        said = []
        yield from _item(part)
    yield from _message(message, said)


def _message(message: Message, said: list[Text | Image]) -> Iterator[dict[str, Any]]:
    if message.role == "user" and said:
        yield {"type": "message", "role": "user", "content": [_content(part) for part in said]}
    elif said:
        text = "".join(part.text for part in said if isinstance(part, Text))
        yield {"type": "message", "role": "assistant", "content": text}


def _content(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    return {"type": "input_image", "image_url": part.as_url, "detail": "auto"}


def _item(part: Part) -> Iterator[dict[str, Any]]:
    match part:
        case ToolCall(call_id=call_id, name=name, arguments=arguments):
            yield {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        case ToolResult(call_id=call_id, told=parts):
            texts = [shown.text for shown in parts if isinstance(shown, Text)]
            output = "".join(texts) if len(texts) == len(parts) else [_content(shown) for shown in parts]
            yield {"type": "function_call_output", "call_id": call_id, "output": output}
        case Reasoning(text=text, signature=signature, redacted=redacted) if part.sealed_by_openai:
            # Without its encrypted form the provider, which keeps nothing, does not know a thought again.
            summary = [{"type": "summary_text", "text": text}] if text else []
            yield {"type": "reasoning", "summary": summary, "encrypted_content": signature or redacted}


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
        "strict": bool(tool.strict),
        **({"description": tool.description} if tool.description is not None else {}),
    }


def _tool_choice(choice: ToolChoice | None) -> str | dict[str, str] | None:
    if choice is None:
        return None
    return {"type": "function", "name": choice.name} if choice.mode == "tool" else choice.mode


def _text(request: ChatRequest) -> dict[str, Any] | None:
    schema = request.schema
    if schema is None:
        return None
    said = {"description": schema.description, "strict": schema.strict}
    optional = {name: value for name, value in said.items() if value is not None}
    return {"format": {"type": "json_schema", "name": schema.name, "schema": schema.schema, **optional}}
