"""OpenAI Chat Completions stream to events (WIRE facts: the order and the variants below, measured 2026-11-21).

    role chunk, content chunks, a chunk with finish_reason, [choices:[] + usage], `[DONE]`

Variants in the wild, all read: reasoning as `reasoning_content` (DeepSeek, older vLLM) or `reasoning` (vLLM >= 0.11);
usage on the finish chunk, or on every chunk (the last counts); names and ids of tool calls repeated in every delta;
no `[DONE]`; errors as `data: {"error": {...}}`, as `{"error": "text"}`, or under `event: error`, flat.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import StreamBroken
from ..events import Event, Finished, FinishReason, ReasoningDelta, Started, TextDelta, Usage
from .frame_reader import FrameReader, OpenCall
from .sse import Frame

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    """Only the fields we read: decoding costs by what is named, not by what was sent."""

    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_any = msgspec.json.Decoder().decode


class OpenAIChatReader(FrameReader):
    """`keep_model`: the model is named as we know it, not as the server reports it (a file path, from llama.cpp)."""

    def __init__(self, start: Started, *, secret: str = "", keep_model: bool = False) -> None:
        super().__init__(start, secret=secret)
        self._keep_model = keep_model
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None

    def _read(self, frame: Frame, events: list[Event]) -> None:
        if frame.data.startswith(b"[DONE]"):
            if self._start is None:
                self._finish(events)
            else:
                self._fail(StreamBroken("the provider's stream was empty; try again"), events)
            return
        chunk = _decode(frame.data)
        if chunk.error is None and frame.event == b"error":
            chunk.error = _decode_any(frame.data)
        if chunk.error is not None:
            self._fail_as_said(chunk.error, events)
            return
        if self._start is not None and (chunk.choices or chunk.id):
            self._open(chunk, self._start, events)
        if chunk.usage is not None:
            self._usage = Usage(
                input_tokens=chunk.usage.prompt_tokens or 0, output_tokens=chunk.usage.completion_tokens or 0
            )
        for choice in chunk.choices or ():
            if not choice.index:  # we never ask for a second choice; 0 and absent are the first
                self._read_choice(choice, events)

    def _open(self, chunk: _Chunk, start: Started, events: list[Event]) -> None:
        self._start = None
        events.append(
            Started(
                id=chunk.id or start.id,
                model=start.model if self._keep_model else chunk.model or start.model,
                provider=start.provider,
                created=int(chunk.created or 0) or start.created,
            )
        )

    def _read_choice(self, choice: _Choice, events: list[Event]) -> None:
        delta = choice.delta
        if delta is not None and not self.answered:
            if reasoning := delta.reasoning_content or delta.reasoning:
                events.append(ReasoningDelta(text=reasoning))
            if text := delta.content or delta.refusal:
                events.append(TextDelta(text=text))
            for call in delta.tool_calls or ():
                self._read_call(call, events)
        if choice.finish_reason and not self.answered:
            self.answered = True
            # A reason this table does not know is still an end: the provider has said all it will.
            self._reason = FINISH_REASONS.get(choice.finish_reason, "stop")

    def _read_call(self, call: _ToolCall, events: list[Event]) -> None:
        function = call.function or _Function()
        index = len(self._calls) if call.index is None else call.index
        known = self._calls.get(index)
        if known is None or (call.id and call.id != known.call_id):
            if known is not None:  # some providers give every call the index 0 and only another id
                index = max(self._calls) + 1
            taken = {open_call.call_id for open_call in self._calls.values()}
            call_id = call.id if call.id and call.id not in taken else f"call_{index}"
            known = self._calls[index] = OpenCall(call_id, function.name or "")
            events.append(known.started())
        if function.arguments:
            events.append(known.add(function.arguments))

    def _counted(self) -> Usage | None:
        return self._usage

    def _end(self, events: list[Event]) -> None:
        events += [call.ended() for call in self._calls.values()]
        if self._usage is not None:
            events.append(self._usage)
        # `[DONE]` without a finish reason: some servers send none. They said the stream is complete, so it is.
        events.append(Finished(reason=self._reason or ("tool_calls" if self._calls else "stop")))
