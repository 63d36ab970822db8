"""OpenAI Responses stream to events (WIRE section 3).

    response.created, (response.output_item.added, its parts and deltas, response.output_item.done)*,
    response.completed | response.incomplete | response.failed | error

An answer is a list of items: messages, reasoning, function calls, and what the provider's own tools did, of which no
event of ours tells. The last event is finish reason, usage and end in one: a stream without it broke off. Items of
other servers may come whole, without deltas, and calls without `item_id`; both are read. Several parts of a thought's
summary are paragraphs of one. Event types and item types we do not know are passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import StreamBroken
from ..events import Event, Finished, FinishReason, ReasoningDelta, ReasoningEnded, Source, Started, TextDelta, Usage
from .frame_reader import FrameReader, OpenCall
from .sse import Frame

INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}


class _Reason(msgspec.Struct, gc=False):
    reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | float | None = None
    cache_write_tokens: int | float | None = None
    reasoning_tokens: int | float | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | float | None = None
    output_tokens: int | float | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None


class _Response(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    created_at: int | float | None = None
    output: list[msgspec.Raw] | None = None
    usage: _Usage | None = None
    incomplete_details: _Reason | None = None
    error: Any = None


class _Annotation(msgspec.Struct, gc=False):
    type: str | None = None
    url: str | None = None
    title: str | None = None


_NOTHING = msgspec.Raw()


class _Data(msgspec.Struct, gc=False):
    """The data of every event in one struct: only the fields we read."""

    type: str | None = None
    delta: str | None = None
    item_id: str | None = None
    output_index: int | None = None
    summary_index: int | None = None
    item: msgspec.Raw = _NOTHING
    arguments: str | None = None
    annotation: _Annotation | None = None
    response: _Response | None = None
    error: Any = None


class _Type(msgspec.Struct, gc=False):
    type: str | None = None


_decoder = msgspec.json.Decoder(_Data)
_decode = _decoder.decode
_decode_type = msgspec.json.Decoder(_Type).decode
_decode_any = msgspec.json.Decoder().decode

TEXT = "response.output_text.delta"
REASONING = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
AFTER_START = REASONING | {
    TEXT,
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.annotation.added",
    "response.refusal.delta",
    "response.reasoning_summary_part.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
}
BEGINS = frozenset({"response.created", "response.queued", "response.in_progress"})
ENDS = frozenset({"response.completed", "response.incomplete"})
KNOWN = AFTER_START | BEGINS | ENDS | {"response.failed", "error"}

_READ = frozenset({"message", "reasoning", "function_call"})
_decode_read = msgspec.json.Decoder(_Item).decode


def _decode_item(raw: msgspec.Raw) -> _Item | None:
    """An item; of a type that is not read here nothing but that; None where there is none."""
    if bytes(raw) in (b"", b"null"):
        return None
    kind = _decode_type(raw).type
    return _decode_read(raw) if kind in _READ else _Item(type=kind)


class OpenAIResponsesReader(FrameReader):
    """`relay_end`: only the last frame is for the client, which has the whole answer in it."""

    _decode_lines = staticmethod(_decoder.decode_lines)
    PLAIN = b"event: response.output_text.delta\ndata: "

    def __init__(self, start: Started, *, secret: str = "", relay: bool = False, relay_end: bool = False) -> None:
        super().__init__(start, secret=secret, relay=relay or relay_end)
        self._relay_end = relay_end
        self._reason: FinishReason = "stop"
        self._usage: Usage | None = None
        self._refused = False
        self._said: set[int] = set()  # the items, by index, of whose text something has come
        self._spoke = False  # whether any item has come
        # The open calls, by what their deltas name them.
        self._at_index: dict[int, OpenCall] = {}
        self._by_item: dict[str, OpenCall] = {}

    def _relay(self, frames: bytes) -> None:
        if self.answered or not self._relay_end:
            super()._relay(frames)

    def _read_plain(self, datas: list[_Data], events: list[Event]) -> int:
        if self._start is not None:
            return 0
        add, said = events.append, self._said.add
        for at, data in enumerate(datas):
            if data.type != TEXT or data.error is not None:
                return at
            if text := data.delta:
                add(TextDelta(text=text))
                said(data.output_index or 0)
        return len(datas)

    def _read(self, frame: Frame, events: list[Event]) -> Frame | None:
        if frame.event == b"error":
            self._fail_by(_decode_any(frame.data), events)
            return None
        try:
            data = _decode(frame.data)
        except msgspec.ValidationError:
            # An event of the future may have one of these fields with another type.
            if (kind := _decode_type(frame.data).type) is None or kind in KNOWN:
                raise
            return frame
        if data.type == "error" or (data.type is None and data.error):  # the latter from a proxy in between
            self._fail_by(_decode_any(frame.data), events)
            return None
        response = data.response or _Response()
        if data.type == "response.failed":
            self._count(response.usage)
            self._fail_as_said({"error": response.error}, events)
            return None
        if data.type in BEGINS or data.type in ENDS:
            whole = [item for raw in response.output or () if (item := _decode_item(raw))] if self._silent() else []
            self._open(response, events)
            if data.type in ENDS:
                self._end(response, whole, events)
        elif data.type in AFTER_START:
            if self._start is not None:
                self._fail(StreamBroken("the provider's stream began in the middle; try again"), events)
                return None
            self._read_piece(data.type or "", data, events)
        return None if data.type is None else frame

    def _fail_by(self, said: Any, events: list[Event]) -> None:
        """An `error` event: its words are in an object of that name, or, as documented, beside the type."""
        if isinstance(said, dict) and said.get("error") is None:
            said = {name: value for name, value in said.items() if name != "error"}
        self._fail_as_said(said, events)

    def _open(self, response: _Response, events: list[Event]) -> None:
        start = self._start
        if start is None:
            return
        self._start = None
        events.append(
            Started(
                id=response.id or start.id,
                model=response.model or start.model,
                provider=start.provider,
                created=int(response.created_at or 0) or start.created,
            )
        )

    def _read_piece(self, kind: str, data: _Data, events: list[Event]) -> None:
        index, item = data.output_index or 0, _decode_item(data.item)
        if kind == "response.output_item.added" and item is not None:
            self._spoke = True
            self.opaque = self.opaque or item.type not in _READ
            if item.type == "function_call":
                self._begin_item(index, item, events)
        elif kind == "response.output_item.done" and item is not None:
            self._end_item(index, item, events)
        elif kind in REASONING and data.delta:
            self._said.add(index)
            events.append(ReasoningDelta(text=data.delta))
        elif kind == "response.reasoning_summary_part.added":
            if data.summary_index and index in self._said:
                events.append(ReasoningDelta(text="\n\n"))
        elif kind.startswith("response.function_call_arguments"):
            call = self._call(index, data.item_id)
            # Whole only where it did not come in pieces.
            fragment = data.delta if kind.endswith("delta") or (call and call.fragments) else data.arguments
            if call is not None and fragment:
                events.append(call.add(fragment))
        elif kind == "response.output_text.annotation.added":
            cited = data.annotation
            if cited is not None and cited.type == "url_citation" and cited.url:
                events.append(Source(url=cited.url, title=cited.title or ""))
        elif data.delta:
            self._said.add(index)
            self._refused = self._refused or kind != TEXT
            events.append(TextDelta(text=data.delta, refusal=kind != TEXT))

    def _call(self, index: int, item_id: str | None) -> OpenCall | None:
        return self._by_item.get(item_id or "") or self._at_index.get(index)

    def _begin_item(self, index: int, item: _Item, events: list[Event]) -> OpenCall:
        call = self._begin_call(item.call_id or item.id, item.name, events)
        self._at_index[index] = call
        if item.id:
            self._by_item[item.id] = call
        return call

    def _end_item(self, index: int, item: _Item, events: list[Event]) -> None:
        self._spoke = True
        self.opaque = self.opaque or item.type not in _READ
        if item.type == "function_call":
            call = self._call(index, item.id) or self._begin_item(index, item, events)
            if item.arguments and not call.fragments:
                events.append(call.add(item.arguments))
            self._end_call(call, events)
            self._at_index = {at: open_call for at, open_call in self._at_index.items() if open_call is not call}
            self._by_item = {at: open_call for at, open_call in self._by_item.items() if open_call is not call}
        elif item.type == "reasoning":
            text = "\n\n".join(part.text for part in item.summary or item.content or () if part.text)
            if text and index not in self._said:
                events.append(ReasoningDelta(text=text))
            if signed := item.encrypted_content:
                thought = bool(text) or index in self._said
                events.append(ReasoningEnded(signature=signed) if thought else ReasoningEnded(redacted=signed))
        elif item.type == "message" and index not in self._said:
            for part in item.content or ():
                if said := part.text or part.refusal:
                    self._refused = self._refused or not part.text
                    events.append(TextDelta(text=said, refusal=not part.text))
        self._said.discard(index)  # another item may follow at the same index, where a server counts none

    def _silent(self) -> bool:
        return not self._spoke and not self._said

    def _end(self, response: _Response, whole: list[_Item], events: list[Event]) -> None:
        for index, item in enumerate(whole):
            self._end_item(index, item, events)
        self._count(response.usage)
        why = response.incomplete_details
        if why is not None and why.reason:
            self._reason = INCOMPLETE.get(why.reason, "stop")
        self.answered = True
        self._finish(events)

    def _count(self, said: _Usage | None) -> None:
        if said is None or said.output_tokens is None:
            return
        read, written = said.input_tokens_details or _Details(), said.output_tokens_details or _Details()
        self._usage = Usage(
            input_tokens=int(said.input_tokens or 0),
            output_tokens=int(said.output_tokens),
            cached_tokens=int(read.cached_tokens or 0),
            cache_write_tokens=int(read.cache_write_tokens or 0),
            reasoning_tokens=int(written.reasoning_tokens or 0),
        )

    def _counted(self) -> Usage | None:
        return self._usage

    def _finished(self) -> Finished:
        if self._reason != "stop":
            return Finished(reason=self._reason)
        # Its own word for a refusal is a part of its own, where others have a reason.
        return Finished(reason="content_filter" if self._refused else "tool_calls" if self._call_ids else "stop")
