"""OpenAI Responses: requests read, answers written as a stream of events or whole.

    response.created, response.in_progress
    (response.output_item.added, its parts and deltas, response.output_item.done)*
    response.completed | response.incomplete | error

What real clients need (measured by leaving out one field at a time, WIRE section 3): every `added` before its deltas,
with empty `content` or `arguments` in it; `item_id`, `output_index` and `content_index` on each of them; one response
id from first to last, and in the last event the whole output again. An error is an event whose `error` is an object:
of the flat one that the documentation shows, openai-python tells nobody. There is no `[DONE]`.

A message or a thought is closed by whatever comes that is not its own; calls stay open beside it until they have ended,
since other providers interleave parallel ones, and `output_index` tells them apart. An item's id is made of the
response's and its index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, assert_never

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
from . import openai_responses_body
from .base import Encoder, HeaderLookup, WholeAnswer, json_bytes, line_safe
from .merged import data_of
from .openai_chat import error_object

# Why an answer is not complete. One that was stopped on purpose has no word of its own, and is what it is.
INCOMPLETE: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}

# What a response says of its request, and says if that did not: openai-python's model requires the first three.
ECHOED: dict[str, Any] = {
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


class OpenAIResponses:
    name: ClassVar[str] = "openai_responses"
    mimetype: ClassVar[str] = "text/event-stream"
    tells_recovery: ClassVar[bool] = False

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        return openai_responses_body.parse(body)

    def encoder(self, request: ChatRequest) -> Encoder:
        return OpenAIResponsesEncoder(request)

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        """What the last event of a stream says: the provider's own, where it speaks this protocol."""
        answer.known()
        if answer.frames is not None and (said := _whole_of(answer, answer.frames)) is not None:
            return said
        encoder = OpenAIResponsesEncoder(request)
        encoder.feed(answer.events)
        return encoder.response

    def error(self, error: SluicewayError) -> Any:
        return {"error": error_object(error)}


class _Last(msgspec.Struct):
    response: msgspec.Raw


class _Said(msgspec.Struct):
    output: list[msgspec.Raw] | None = None


def _whole_of(answer: WholeAnswer, frames: bytes) -> msgspec.Raw | None:
    """The response in the last frame; None where it lacks the output, which servers may say in its pieces alone."""
    last = frames.rstrip(b"\n").rpartition(b"\n\n")[2]
    data = data_of(last)
    try:
        said = _decode_last(data).response
        output = _decode_said(said).output
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return said if output or not (answer.text or answer.reasoning or answer.calls) else None


_decode_last = msgspec.json.Decoder(_Last).decode
_decode_said = msgspec.json.Decoder(_Said).decode


def usage_object(usage: Usage) -> dict[str, Any]:
    cached = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": cached,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


PartKind: TypeAlias = Literal["output_text", "refusal", "summary_text"]


class _Words(NamedTuple):
    """A part's events: of its delta, of its end, where that has the whole of it, and what its item's events call it."""

    delta: str
    ended: str
    whole: str
    part: str
    more: dict[str, Any]  # in the first two


_PARTS: dict[PartKind, _Words] = {
    "output_text": _Words(
        "response.output_text.delta", "response.output_text.done", "text", "response.content_part", {"logprobs": []}
    ),
    "refusal": _Words("response.refusal.delta", "response.refusal.done", "refusal", "response.content_part", {}),
    "summary_text": _Words(
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "text",
        "response.reasoning_summary_part",
        {},
    ),
}
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_PIECES = 200  # a long text takes ten times its length in small ones


class _Item:
    """One that is being said: a message's parts so far, a thought's, or a call's arguments.

    `part` is the kind of the one that is open, `at` its index, and `before` the bytes before each of its deltas, which
    are the same in all, so they are made once."""

    __slots__ = ("annotations", "at", "before", "id", "index", "kind", "part", "parts", "pieces", "texts")

    def __init__(self, kind: str, id: str, index: int) -> None:
        self.kind = kind
        self.id = id
        self.index = index
        self.parts: list[dict[str, Any]] = []
        self.part: PartKind | None = None
        self.at = 0
        self.texts: list[str] = []
        self.pieces: list[str] = []  # what came behind those
        self.annotations: list[dict[str, Any]] = []
        self.before = b""

    def place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}

    def place_of_part(self) -> dict[str, Any]:
        return {**self.place(), "content_index" if self.kind == "message" else "summary_index": self.at}

    def text(self) -> str:
        return "".join((*self.texts, *self.pieces))

    def add(self, text: str) -> None:
        self.pieces.append(text)
        if len(self.pieces) > _PIECES:
            self.texts.append("".join(self.pieces))
            self.pieces.clear()

    def open_part(self, kind: PartKind, at: int) -> None:
        self.part, self.at = kind, at
        self.texts, self.pieces, self.annotations = [], [], []
        words = _PARTS[kind]
        self.before = _before(words.delta, {**self.place_of_part(), **words.more})

    def shown(self, status: str) -> dict[str, Any]:
        """A message or a thought, as its own events show it."""
        if self.kind == "message":
            return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": self.parts}
        return {"id": self.id, "type": "reasoning", "summary": self.parts}


def _part(kind: PartKind, text: str, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    match kind:
        case "output_text":
            return {"type": kind, "text": text, "annotations": annotations, "logprobs": []}
        case "refusal":
            return {"type": kind, "refusal": text}
        case "summary_text":
            return {"type": kind, "text": text}
        case _:
            assert_never(kind)


def _before(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + json_bytes({"type": kind, **fields})[:-1] + b',"delta":'


class _Told(msgspec.Struct):
    """What a provider's own frame says about the items, where somebody else has to go on with them."""

    type: str = ""
    response: dict[str, Any] | None = None
    item: dict[str, Any] | None = None
    part: dict[str, Any] | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    delta: str = ""


_decode_told = msgspec.json.Decoder(_Told).decode
_SEQUENCE = re.compile(rb'"sequence_number":\s*([0-9]{1,18})')


class OpenAIResponsesEncoder(Encoder):
    """`response` is the response as the last event said it."""

    def __init__(self, request: ChatRequest) -> None:
        asked = request.body if request.dialect == "openai_responses" else {}
        self.response: dict[str, Any] = {
            name: usual if asked.get(name) is None else asked[name] for name, usual in ECHOED.items()
        }
        self._sequence = 0
        self._output: dict[int, dict[str, Any]] = {}  # the items that are complete, by their index
        self._items = 0  # that were begun
        self._open: _Item | None = None  # a message or a thought
        self._calls: dict[str, tuple[_Item, dict[str, Any]]] = {}  # the open ones, and how they began
        self._relayed = b""  # the last frames that were a provider's own

    def feed(self, events: list[Event]) -> bytes:
        if self._relayed:
            said = _SEQUENCE.findall(self._relayed)
            self._sequence = int(said[-1]) + 1 if said else self._sequence
            self._relayed = b""
        out: list[bytes] = []
        for event in events:
            match event:
                case TextDelta(text=text, refusal=refusal):
                    self._delta(self._part_opened("refusal" if refusal else "output_text", out), text, out)
                case ReasoningDelta(text=text):
                    self._delta(self._part_opened("summary_text", out), text, out)
                case ReasoningEnded(signature=signature, redacted=redacted):
                    self._end_thought(signature, redacted, out)
                case Source(url=url, title=title):
                    self._cite(url, title, out)
                case Started():
                    self._begin(event, out)
                case ToolCallStarted(call_id=call_id, name=name):
                    self._begin_call(call_id, name, out)
                case ToolCallDelta(call_id=call_id, arguments=arguments):
                    self._delta(self._calls[call_id][0], arguments, out)
                case ToolCallEnded(call_id=call_id):
                    self._end_call(call_id, "completed", out)
                case ToolOutput() | ObjectPartial():
                    pass  # nobody asks for them in this protocol
                case Recovered(model=model):
                    self.response["model"] = model
                case Usage():
                    pass  # it stands in the last event: see Finished
                case Finished(reason=reason, usage=usage):
                    self._finish(reason, usage, out)
                case Failed(error=error):
                    self._event("error", {"error": error_object(error)}, out)
                case _:
                    assert_never(event)
        return b"".join(out)

    def relay(self, frames: bytes, events: list[Event]) -> bytes:
        """The provider's frames say all there is to say, but a failure."""
        if not frames.isascii():
            frames = line_safe(frames)
        if frames:
            self._relayed = frames
        if b'"item"' in frames or b'"part"' in frames or b'"response"' in frames:
            self._follow(frames)
        elif (item := self._open) is not None:
            for event in events:
                if type(event) is TextDelta or type(event) is ReasoningDelta:
                    item.add(event.text)
        return frames + self.feed(events[-1:]) if events and isinstance(events[-1], Failed) else frames

    def _follow(self, frames: bytes) -> None:
        """Know which items a provider has said, and which it has open, in case that somebody else goes on."""
        for block in frames.split(b"\n\n"):
            try:
                told = _decode_told(data_of(block))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue  # an event of the future
            index, item, part = told.output_index, told.item, told.part
            match told.type:
                case "response.created" | "response.in_progress" if told.response is not None:
                    self.response = told.response
                case "response.output_item.added" if item is not None:
                    self._items = max(self._items, index + 1)
                    if item.get("type") in ("message", "reasoning"):
                        self._open = _Item(item["type"], str(item.get("id")), index)
                case "response.output_item.done" if item is not None:
                    self._items = max(self._items, index + 1)
                    self._output[index] = item
                    if self._open is not None and self._open.index == index:
                        self._open = None
                case _ if (said := self._open) is None or said.index != index:
                    pass
                case "response.content_part.added" if part is not None and part.get("type") in (
                    "output_text",
                    "refusal",
                ):
                    said.open_part(part["type"], told.content_index)
                case "response.reasoning_summary_part.added":
                    said.open_part("summary_text", told.summary_index)
                case "response.content_part.done" | "response.reasoning_summary_part.done" if part is not None:
                    said.parts.append(part)
                    said.part = None
                case kind if said.part is not None and kind == _PARTS[said.part].delta:
                    said.add(told.delta)

    def _begin(self, start: Started, out: list[bytes]) -> None:
        head = {"id": start.id, "object": "response", "created_at": start.created, "model": start.model}
        unknown: dict[str, Any] = {
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        self.response = {**head, **unknown, **self.response}
        self._event("response.created", {"response": self.response}, out)
        self._event("response.in_progress", {"response": self.response}, out)

    def _part_opened(self, kind: PartKind, out: list[bytes]) -> _Item:
        """The open item, with a part of this kind open in it."""
        if (item := self._open) is not None and item.part == kind:
            return item
        item = self._opened("reasoning" if kind == "summary_text" else "message", out)
        self._close_part(item, out)
        item.open_part(kind, len(item.parts))
        begun = {**item.place_of_part(), "part": _part(kind, "", [])}
        self._event(f"{_PARTS[kind].part}.added", begun, out)
        return item

    def _delta(self, item: _Item, text: str, out: list[bytes]) -> None:
        item.add(text)
        number = self._sequence
        self._sequence = number + 1
        out += (item.before, json_bytes(text), b',"sequence_number":', str(number).encode(), b"}\n\n")

    def _opened(self, kind: str, out: list[bytes]) -> _Item:
        """The open item, if it is of this kind; else a new one, and the other is closed."""
        if self._open is not None and self._open.kind == kind:
            return self._open
        self._close("completed", out)
        item = self._open = self._new(kind)
        self._event("response.output_item.added", {"output_index": item.index, "item": item.shown("in_progress")}, out)
        return item

    def _new(self, kind: str) -> _Item:
        own_id = f"{_PREFIXES[kind]}_{str(self.response.get('id')).removeprefix('resp_')}_{self._items}"
        item = _Item(kind, own_id, self._items)
        self._items += 1
        return item

    def _close_part(self, item: _Item, out: list[bytes]) -> None:
        if (kind := item.part) is None:
            return
        item.part = None
        words, place = _PARTS[kind], item.place_of_part()
        part = _part(kind, item.text(), item.annotations)
        item.parts.append(part)
        self._event(words.ended, {**place, words.whole: part[words.whole], **words.more}, out)
        self._event(f"{words.part}.done", {**place, "part": part}, out)

    def _close(self, status: str, out: list[bytes], **more: Any) -> None:
        if (item := self._open) is not None:
            self._open = None
            self._close_part(item, out)
            self._done(item, {**item.shown(status), **more}, out)

    def _done(self, item: _Item, shown: dict[str, Any], out: list[bytes]) -> None:
        self._output[item.index] = shown
        self._event("response.output_item.done", {"output_index": item.index, "item": shown}, out)

    def _end_thought(self, signature: str, redacted: str, out: list[bytes]) -> None:
        """Here both are the item's encrypted content; one without a text is an item of its own."""
        encrypted = signature or redacted
        if redacted:
            self._close("completed", out)
        self._opened("reasoning", out)
        self._close("completed", out, encrypted_content=encrypted)

    def _cite(self, url: str, title: str, out: list[bytes]) -> None:
        """At the end of the text so far: which words are from there, nobody says."""
        item = self._part_opened("output_text", out)
        end = len(item.text())
        cited = {"type": "url_citation", "start_index": end, "end_index": end, "url": url, "title": title}
        number = {"annotation_index": len(item.annotations)}
        item.annotations.append(cited)
        added = {**item.place_of_part(), **number, "annotation": cited}
        self._event("response.output_text.annotation.added", added, out)

    def _begin_call(self, call_id: str, name: str, out: list[bytes]) -> None:
        self._close("completed", out)
        item = self._new("function_call")
        item.before = _before("response.function_call_arguments.delta", item.place())
        begun = {"id": item.id, "type": "function_call", "call_id": call_id, "name": name}
        self._calls[call_id] = item, begun
        shown = {**begun, "status": "in_progress", "arguments": ""}
        self._event("response.output_item.added", {"output_index": item.index, "item": shown}, out)

    def _end_call(self, call_id: str, status: str, out: list[bytes]) -> None:
        item, begun = self._calls.pop(call_id)
        arguments = item.text()
        whole = {**item.place(), "name": begun["name"], "arguments": arguments}
        self._event("response.function_call_arguments.done", whole, out)
        self._done(item, {**begun, "status": status, "arguments": arguments}, out)

    def _finish(self, reason: FinishReason, usage: Usage | None, out: list[bytes]) -> None:
        why = INCOMPLETE.get(reason)
        status = "completed" if why is None else "incomplete"
        self._close(status, out)
        self.response = {
            **self.response,
            "status": status,
            "incomplete_details": None if why is None else {"reason": why},
            "output": [self._output[index] for index in sorted(self._output)],
            "usage": None if usage is None else usage_object(usage),
        }
        self._event(f"response.{status}", {"response": self.response}, out)

    def _event(self, kind: str, fields: dict[str, Any], out: list[bytes]) -> None:
        data = json_bytes({"type": kind, "sequence_number": self._sequence, **fields})
        out.append(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n")
        self._sequence += 1
