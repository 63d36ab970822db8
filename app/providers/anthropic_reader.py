"""Anthropic Messages stream to events.

    message_start, (content_block_start, content_block_delta*, content_block_stop)*, message_delta, message_stop

`ping` comes anywhere and says nothing. Usage is cumulative: `message_start` has the input, `message_delta` the final
output; the output that `message_start` names is a placeholder (1 to 4 tokens), and no count of an answer that breaks
before its `message_delta`. Event types and block types we do not know are passed over, as the protocol asks of its
readers (docs: "new event types may be added, and your code should handle unknown event types gracefully").
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import StreamBroken
from ..events import Event, Finished, FinishReason, ReasoningDelta, ReasoningEnded, Source, Started, TextDelta, Usage
from .frame_reader import FrameReader, OpenCall
from .sse import Frame

STOP_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _Usage(msgspec.Struct, gc=False):
    """`input_tokens` are without those that were read from the cache or written to it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    data: Any = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Any = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Data(msgspec.Struct, gc=False):
    """The data of every event in one struct: only the fields we read."""

    type: str | None = None
    index: int | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class _Type(msgspec.Struct, gc=False):
    type: str | None = None


_decoder = msgspec.json.Decoder(_Data)
_decode = _decoder.decode
_decode_type = msgspec.json.Decoder(_Type).decode
_decode_any = msgspec.json.Decoder().decode

_READ = (None, "text", "thinking", "redacted_thinking", "tool_use")

AFTER_START = frozenset(
    {"content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}
)
KNOWN = AFTER_START | {"message_start", "error"}


class AnthropicReader(FrameReader):
    _decode_lines = staticmethod(_decoder.decode_lines)
    PLAIN = b"event: content_block_delta\ndata: "
    END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    def __init__(self, start: Started, *, secret: str = "", relay: bool = False) -> None:
        super().__init__(start, secret=secret, relay=relay)
        self._reason: FinishReason = "stop"
        self._stop_sequence: str | None = None
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._cached_tokens = 0
        self._cache_write_tokens = 0
        self._signatures: dict[int, str] = {}  # of the open thinking blocks that have one, by index
        self._blocks: dict[int, OpenCall] = {}  # the tool calls among the open blocks, by index

    def _read_plain(self, datas: list[_Data], events: list[Event]) -> int:
        if self._start is not None:
            return 0
        add = events.append
        for at, data in enumerate(datas):
            delta = data.delta
            if data.type != "content_block_delta" or delta is None or data.error is not None:
                return at
            if delta.type == "text_delta":
                if delta.text:
                    add(TextDelta(text=delta.text))
            else:
                self._read_delta(data.index or 0, delta, events)
        return len(datas)

    def _read(self, frame: Frame, events: list[Event]) -> Frame | None:
        if frame.event == b"error":
            self._fail_as_said(_decode_any(frame.data), events)
            return None
        try:
            data = _decode(frame.data)
        except msgspec.ValidationError:
            # An event of the future may have one of these fields with another type.
            if _decode_type(frame.data).type in KNOWN:
                raise
            return frame if frame.event else None
        index = data.index or 0
        if data.type == "error" or (data.type is None and data.error):  # the latter from a proxy in between
            self._fail_as_said({"error": data.error}, events)
            return None
        if data.type == "message_start":
            self._open(data.message or _Message(), events)
        elif self._start is not None:
            if data.type in AFTER_START:
                self._fail(StreamBroken("the provider's stream began in the middle; try again"), events)
                return None
        elif data.type == "content_block_delta":
            self._read_delta(index, data.delta or _Delta(), events)
        elif data.type == "content_block_start":
            self._open_block(index, data.content_block or _Block(), events)
        elif data.type == "content_block_stop":
            if call := self._blocks.pop(index, None):
                self._end_call(call, events)
            elif signature := self._signatures.pop(index, ""):
                events.append(ReasoningEnded(signature=signature))
        elif data.type == "message_delta":
            self._count(data.usage)
            if data.delta is not None and data.delta.stop_reason:
                self.answered = True
                self._reason = STOP_REASONS.get(data.delta.stop_reason, "stop")
                self._stop_sequence = data.delta.stop_sequence
        elif data.type == "message_stop":
            self._finish(events)
        if frame.event:
            return frame
        # Clients pass over what has no name. A provider that names nothing is given the names it means.
        return Frame(data.type.encode(), frame.data) if data.type in KNOWN else None

    def _open(self, message: _Message, events: list[Event]) -> None:
        start = self._start
        if start is None:
            return
        self._start = None
        if message.usage is not None:
            self._input_tokens = message.usage.input_tokens
            self._count_cached(message.usage)
        events.append(
            Started(
                id=message.id or start.id,
                model=message.model or start.model,
                provider=start.provider,
                created=start.created,
                input_tokens=self._all_input(),
            )
        )

    def _count(self, usage: _Usage | None) -> None:
        if usage is not None:
            self._input_tokens = self._input_tokens if usage.input_tokens is None else usage.input_tokens
            self._output_tokens = self._output_tokens if usage.output_tokens is None else usage.output_tokens
            self._count_cached(usage)

    def _count_cached(self, usage: _Usage) -> None:
        if usage.cache_read_input_tokens is not None:
            self._cached_tokens = usage.cache_read_input_tokens
        if usage.cache_creation_input_tokens is not None:
            self._cache_write_tokens = usage.cache_creation_input_tokens

    def _all_input(self) -> int:
        return (self._input_tokens or 0) + self._cached_tokens + self._cache_write_tokens

    def _open_block(self, index: int, block: _Block, events: list[Event]) -> None:
        if block.type == "text" and block.text:
            events.append(TextDelta(text=block.text))
        elif block.type == "thinking" and block.thinking:
            events.append(ReasoningDelta(text=block.thinking))
        elif block.type == "redacted_thinking" and isinstance(block.data, str) and block.data:
            events.append(ReasoningEnded(redacted=block.data))
        elif block.type not in _READ:
            self.opaque = True
        elif block.type == "tool_use":
            # Whole at once, from servers that do not stream arguments. First: it may be nested too deep to be encoded.
            arguments = msgspec.json.encode(block.input).decode() if block.input else ""
            if unclosed := self._blocks.get(index):
                self._end_call(unclosed, events)
            call = self._blocks[index] = self._begin_call(block.id, block.name, events)
            if arguments:
                events.append(call.add(arguments))

    def _read_delta(self, index: int, delta: _Delta, events: list[Event]) -> None:
        if delta.type == "text_delta" and delta.text:
            events.append(TextDelta(text=delta.text))
        elif delta.type == "thinking_delta" and delta.thinking:
            events.append(ReasoningDelta(text=delta.thinking))
        elif delta.type == "signature_delta" and delta.signature:
            self._signatures[index] = self._signatures.get(index, "") + delta.signature
        elif delta.type == "citations_delta":
            match delta.citation:
                case {"url": str(url), **rest}:
                    events.append(Source(url=url, title=str(rest.get("title") or "")))
                case _:
                    pass  # of a document that the client has sent
        elif delta.type == "input_json_delta" and delta.partial_json and (call := self._blocks.get(index)):
            events.append(call.add(delta.partial_json))

    def _counted(self) -> Usage | None:
        if self._output_tokens is None:
            return None
        return Usage(
            input_tokens=self._all_input(),
            output_tokens=self._output_tokens,
            cached_tokens=self._cached_tokens,
            cache_write_tokens=self._cache_write_tokens,
        )

    def _finished(self) -> Finished:
        return Finished(reason=self._reason, stop_sequence=self._stop_sequence)
