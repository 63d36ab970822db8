"""Anthropic Messages: requests read, answers written as a stream of events or whole.

The `event:` line is mandatory (both official SDKs skip events without it), block indices start at 0, an opened block
carries its empty `text` or `thinking`, `message_delta` carries the usage (`input_tokens` too: langchain-anthropic
reads it nowhere else), and there is no `[DONE]`. A failure is `event: error`, on which the SDKs raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, assert_never

import msgspec

from ..errors import SluicewayError
from ..events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ObjectPartial,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolOutput,
    Usage,
)
from ..request import ChatRequest
from .anthropic_body import read_body
from .base import (
    Encoder,
    HeaderLookup,
    WholeAnswer,
    arguments_object,
    data_frame,
    line_safe,
    provider_named,
)
from .merged import merged_message

STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "cancelled": "end_turn",
}

# The protocol's own `error.type` stands for our code.
ERROR_TYPES = {
    "unauthorized": "authentication_error",
    "not_found": "not_found_error",
    "payload_too_large": "request_too_large",
    "rate_limited": "rate_limit_error",
    "provider_rate_limited": "rate_limit_error",
    "overloaded": "overloaded_error",
    "draining": "overloaded_error",
    "provider_overloaded": "overloaded_error",
    "first_token_timeout": "timeout_error",
    "idle_timeout": "timeout_error",
    "total_timeout": "timeout_error",
}


class AnthropicMessages:
    name: ClassVar[str] = "anthropic_messages"
    mimetype: ClassVar[str] = "text/event-stream"
    tells_recovery: ClassVar[bool] = False

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        return read_body(body, headers)

    def encoder(self, request: ChatRequest) -> Encoder:
        return AnthropicMessagesEncoder()

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        start, finish = answer.known()
        if answer.frames is not None:
            return {**_message(start, []), "usage": usage_object(answer.usage), **merged_message(answer.frames)}
        content: list[dict[str, Any]] = []
        for thought in answer.thoughts:
            if thought.redacted:
                content.append({"type": "redacted_thinking", "data": thought.redacted})
            else:
                content.append({"type": "thinking", "thinking": thought.text, "signature": thought.signature})
        if answer.text or not answer.calls:
            content.append({"type": "text", "text": answer.text})
        content += [
            {"type": "tool_use", "id": call.call_id, "name": call.name, "input": arguments_object(call.arguments)}
            for call in answer.calls
        ]
        return {**_message(start, content), **_stop(finish), "usage": usage_object(answer.usage)}

    def error(self, error: SluicewayError) -> Any:
        return error_object(error)


def _message(start: Started, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": start.id,
        "type": "message",
        "role": "assistant",
        "model": start.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(finish: Finished) -> dict[str, str | None]:
    reason = "stop_sequence" if finish.stop_sequence is not None else STOP_REASONS[finish.reason]
    return {"stop_reason": reason, "stop_sequence": finish.stop_sequence}


def usage_object(usage: Usage) -> dict[str, int]:
    """In this protocol what is read from the cache or written to it is no part of `input_tokens`."""
    counted = {
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.cached_tokens or usage.cache_write_tokens:
        counted["cache_read_input_tokens"] = usage.cached_tokens
        counted["cache_creation_input_tokens"] = usage.cache_write_tokens
    return counted


def error_object(error: SluicewayError) -> dict[str, Any]:
    general = "invalid_request_error" if error.http_status < 500 else "api_error"
    kind = ERROR_TYPES.get(error.code, general)
    told = {"type": kind, "message": error.message, **provider_named(error)}
    body: dict[str, Any] = {"type": "error", "error": told}
    return {**body, "request_id": error.request_id} if error.request_id else body


class _BlockType(msgspec.Struct):
    type: str | None = None


class _Block(msgspec.Struct):
    """What a frame says that opens or closes a block."""

    index: int | None = None
    content_block: _BlockType | None = None


_decode_block = msgspec.json.Decoder(_Block).decode

# What a block of each kind is when it opens.
_TEXT = {"type": "text", "text": ""}
_THINKING = {"type": "thinking", "thinking": "", "signature": ""}


class AnthropicMessagesEncoder(Encoder):
    """At most one block is open at a time; a piece of another kind closes it and opens its own.

    A tool call's block stays open until the call has ended. Other providers interleave parallel calls, so what
    belongs to another block meanwhile is held, in order, and written when the call has ended: a call has no end of
    its own on the OpenAI wire, so there that is the end of the answer.
    """

    HEARTBEAT = b'event: ping\ndata: {"type": "ping"}\n\n'  # the protocol's own; it may stand anywhere

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None  # the type of the open block
        self._call: str | None = None  # the tool call whose block is open
        self._held: list[Event] = []

    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            self._take(event, out)
        return b"".join(out)

    def relay(self, frames: bytes, events: list[Event]) -> bytes:
        frames = line_safe(frames)
        if b"event: content_block_st" in frames:
            self._follow(frames)
        return frames + self.feed(events[-1:]) if events and isinstance(events[-1], Failed) else frames

    def _follow(self, frames: bytes) -> None:
        """Know which block a provider has open, in case that somebody else goes on with its answer."""
        for frame in frames.split(b"\n\n"):
            if frame.startswith(b"event: content_block_st"):
                name, _, data = frame.partition(b"\ndata: ")
                said = _decode_block(data.replace(b"\ndata: ", b"\n"))
                self._index = said.index or 0
                block = said.content_block or _BlockType()
                self._open = block.type or "text" if name.endswith(b"start") else None

    def _take(self, event: Event, out: list[bytes]) -> None:
        if self._call is not None and not isinstance(event, Failed) and getattr(event, "call_id", None) != self._call:
            self._held.append(event)
            return
        match event:
            case TextDelta(text=text):
                self._switch(_TEXT, out)
                self._delta({"type": "text_delta", "text": text}, out)
            case ReasoningDelta(text=text):
                self._switch(_THINKING, out)
                self._delta({"type": "thinking_delta", "thinking": text}, out)
            case ReasoningEnded(redacted=redacted) if redacted:
                self._close(out)
                self._switch({"type": "redacted_thinking", "data": redacted}, out)
                self._close(out)
            case ReasoningEnded(signature=signature):
                self._switch(_THINKING, out)
                self._delta({"type": "signature_delta", "signature": signature}, out)
                self._close(out)
            case Source():
                pass  # a citation here names a place in the text, which nobody else's sources have
            case Started():
                usage = {"input_tokens": event.input_tokens, "output_tokens": 0}
                out.append(_frame("message_start", {"message": {**_message(event, []), "usage": usage}}))
            case ToolCallStarted(call_id=call_id, name=name):
                self._switch({"type": "tool_use", "id": call_id, "name": name, "input": {}}, out)
                self._call = call_id
            case ToolCallDelta(arguments=arguments):
                self._delta({"type": "input_json_delta", "partial_json": arguments}, out)
            case ToolCallEnded():
                self._close(out)
                self._call = None
                held, self._held = self._held, []
                for waiting in held:
                    self._take(waiting, out)
            case ToolOutput() | ObjectPartial():
                pass  # nobody asks for them in this protocol
            case Recovered():
                pass  # the message goes on
            case Usage():
                pass  # it stands in message_delta: see Finished
            case Finished(usage=said):
                self._close(out)
                usage = usage_object(said or Usage(input_tokens=0, output_tokens=0))
                out.append(_frame("message_delta", {"delta": _stop(event), "usage": usage}))
                out.append(_frame("message_stop", {}))
            case Failed(error=error):
                out.append(b"event: error\n" + data_frame(error_object(error)))
            case _:
                assert_never(event)

    def _switch(self, block: dict[str, Any], out: list[bytes]) -> None:
        """Open `block`, unless text or thinking just goes on (a call's block has been closed by the call's end)."""
        if self._open != block["type"]:
            self._close(out)
            self._open = block["type"]
            self._index += 1
            out.append(_frame("content_block_start", {"index": self._index, "content_block": block}))

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            self._open = None
            out.append(_frame("content_block_stop", {"index": self._index}))

    def _delta(self, delta: dict[str, Any], out: list[bytes]) -> None:
        out.append(_frame("content_block_delta", {"index": self._index, "delta": delta}))


def _frame(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\n" + data_frame({"type": name, **data})
