"""OpenAI Chat Completions: requests read, answers written as a stream of chunks or whole.

What real clients need is more than the schema says (measured by leaving out one field at a time, WIRE): `object` on
every chunk, `role` on the first, `choices` also on the usage chunk, `finish_reason` set once, `type: "function"` and
the name on a tool call's first delta and never again. Errors are `data: {"error": {...}}`, the one shape on which
every client raises; `id:` lines, named events and anything after the error would break some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, assert_never

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
from ..request import ChatRequest, Reasoning
from .base import (
    DONE,
    Encoder,
    HeaderLookup,
    WholeAnswer,
    data_frame,
    json_bytes,
    line_safe,
    provider_named,
)
from .merged import merged_chat
from .openai_chat_body import read_body

# An answer that was stopped on purpose has no word of its own in this protocol.
FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "cancelled": "stop",
}

# `error.type` where it is not the general one of the status class.
ERROR_TYPES = {
    "unauthorized": "authentication_error",
    "rate_limited": "rate_limit_error",
    "provider_rate_limited": "rate_limit_error",
}


class OpenAIChat:
    name: ClassVar[str] = "openai_chat"
    mimetype: ClassVar[str] = "text/event-stream"
    tells_recovery: ClassVar[bool] = False

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        return read_body(body)

    def encoder(self, request: ChatRequest) -> Encoder:
        return OpenAIChatEncoder(include_usage=request.include_usage)

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        start, finish = answer.known()
        if answer.frames is not None:
            known = {"id": start.id, "created": start.created, "model": start.model}
            return {**known, "usage": usage_object(answer.usage), **merged_chat(answer.frames)}
        said, refusal = (None, answer.text) if answer.refused else (answer.text or None, None)
        message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": refusal}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if details := [_detail(thought) for thought in answer.thoughts if thought.signature or thought.redacted]:
            message["reasoning_details"] = details
        if answer.sources:
            message["annotations"] = [_annotation(source) for source in answer.sources]
        if answer.calls:
            message["tool_calls"] = [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls
            ]
        elif said is None and refusal is None:
            message["content"] = ""
        return {
            "id": start.id,
            "object": "chat.completion",
            "created": start.created,
            "model": start.model,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISH_REASONS[finish.reason]}
            ],
            "usage": usage_object(answer.usage),
        }

    def error(self, error: SluicewayError) -> Any:
        return {"error": error_object(error)}


def _detail(thought: Reasoning) -> dict[str, str]:
    """A thought that has to come back with the next turn. The protocol has no place for one; this is OpenRouter's."""
    if thought.redacted:
        return {"type": "reasoning.encrypted", "data": thought.redacted}
    return {"type": "reasoning.text", "text": thought.text, "signature": thought.signature}


def _annotation(source: Source) -> dict[str, Any]:
    return {"type": "url_citation", "url_citation": {"url": source.url, "title": source.title}}


def usage_object(usage: Usage) -> dict[str, Any]:
    """Details only where there are any."""
    counted: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    if usage.cached_tokens:
        counted["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens:
        counted["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return counted


def error_object(error: SluicewayError) -> dict[str, Any]:
    general = "invalid_request_error" if error.http_status < 500 else "api_error"
    return {
        "message": error.message,
        "type": ERROR_TYPES.get(error.code, general),
        "param": error.param,
        "code": error.code,
        **provider_named(error),
    }


class OpenAIChatEncoder(Encoder):
    """The bytes around a text delta are the same in every chunk of an answer, so they are made once."""

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._before = b""
        self._after = (
            b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null' if include_usage else b"") + b"}\n\n"
        )
        self._calls: dict[str, int] = {}
        self._thought: list[str] = []

    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case TextDelta(text=text, refusal=refusal):
                    name = b'{"refusal":' if refusal else b'{"content":'
                    out.append(self._before + name + json_bytes(text) + b"}" + self._after)
                case ReasoningDelta(text=text):
                    self._thought.append(text)
                    out.append(self._delta({"reasoning_content": text}))
                case ReasoningEnded(signature=signature, redacted=redacted):
                    thought = Reasoning("" if redacted else "".join(self._thought), signature, redacted)
                    self._thought.clear()
                    out.append(self._delta({"reasoning_details": [_detail(thought)]}))
                case Source():
                    out.append(self._delta({"annotations": [_annotation(event)]}))
                case Started():
                    self._begin(event.id, event.created, event.model)
                    out.append(self._delta({"role": "assistant", "content": ""}))
                case ToolCallStarted(call_id=call_id, name=name):
                    self._calls[call_id] = index = len(self._calls)
                    function = {"name": name, "arguments": ""}
                    out.append(self._call({"index": index, "id": call_id, "type": "function", "function": function}))
                case ToolCallDelta(call_id=call_id, arguments=arguments):
                    out.append(self._call({"index": self._calls[call_id], "function": {"arguments": arguments}}))
                case ToolCallEnded():
                    pass  # its fragments have all been sent
                case ToolOutput() | ObjectPartial():
                    pass  # nobody asks for them in this protocol
                case Recovered(model=model):
                    self._begin(self._head["id"], self._head["created"], model)
                case Usage():
                    pass  # it follows the finish reason here: see Finished
                case Finished(reason=reason, usage=usage):
                    out.append(self._chunk([{**_NO_DELTA, "finish_reason": FINISH_REASONS[reason]}], None))
                    if self._include_usage and usage is not None:
                        out.append(self._chunk([], usage))
                    out.append(DONE)
                case Failed(error=error):
                    out.append(data_frame({"error": error_object(error)}))
                case _:
                    assert_never(event)
        return b"".join(out)

    def relay(self, frames: bytes, events: list[Event]) -> bytes:
        """The end mark, and a usage that the provider left out, are written here; its frames hold all else."""
        if not frames.isascii():
            frames = line_safe(frames)
        if not events or (type(events[0]) is TextDelta and type(events[-1]) is TextDelta):
            return frames
        if isinstance(first := events[0], Started):
            self._begin(first.id, first.created, first.model)
        match events[-1]:
            case Finished(usage=usage):
                estimated = self._include_usage and usage is not None and usage.source == "estimated"
                return b"".join((frames, self._chunk([], usage) if estimated else b"", DONE))
            case Failed():
                return frames + self.feed(events[-1:])
            case _:
                return frames

    def _begin(self, id: str, created: int, model: str) -> None:
        self._head: dict[str, Any] = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._before = b"data: " + json_bytes(self._head)[:-1] + b',"choices":[{"index":0,"delta":'

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._before + json_bytes(delta) + self._after

    def _call(self, call: dict[str, Any]) -> bytes:
        return self._delta({"tool_calls": [call]})

    def _chunk(self, choices: list[dict[str, Any]], usage: Usage | None) -> bytes:
        chunk: dict[str, Any] = {**self._head, "choices": choices}
        if self._include_usage:
            chunk["usage"] = None if usage is None else usage_object(usage)
        return data_frame(chunk)


_NO_DELTA: dict[str, Any] = {"index": 0, "delta": {}, "logprobs": None}
