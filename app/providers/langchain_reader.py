"""What a LangChain `.stream()` gives, to events. Nothing of LangChain is imported: pieces are read by their fields.

    str                          text (a chain that ends in a StrOutputParser, a completion model)
    message or message chunk     of the assistant: content, tool_call_chunks, usage_metadata, response_metadata
    dict                         what a chain calls its answer (`ANSWERS`), one of the two above; other keys are not it

`content` is text, or a list of blocks, which every package writes in its own way (langchain-core 1.7, langchain-openai
1.7, langchain-anthropic 1.7; read 2026-11-22):

    {"type": "text", "text", "citations"?, "annotations"?}
    {"type": "thinking", "thinking", "signature"?}, {"type": "redacted_thinking", "data"}    Anthropic
    {"type": "reasoning", "summary": [{"text"}], "encrypted_content"?}                       OpenAI's Responses
    {"type": "reasoning", "reasoning", "extras"?: {"signature"}}                             output_version="v1"
    {"type": "refusal", "refusal"}

or, beside a text, as `additional_kwargs["reasoning_content"]` (DeepSeek, xAI) and `["refusal"]`. Usage is added up, as
LangChain does when it adds chunks. An iteration that ends has ended well, whatever the finish reason; but LangChain
takes a connection that just closes for the end of an answer, so models that always name a reason (`NAMING`) owe one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..errors import SluicewayError, StreamBroken
from ..events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnded,
    Source,
    Started,
    TextDelta,
    Usage,
)
from .frame_reader import OpenCall
from .openai_chat_reader import BROKEN_OFF

# What chains call their answer: retrieval chains, agents, LLMChain, and messages as dicts.
ANSWERS = ("answer", "output", "text", "content")

# `model_provider` of the models that name a finish reason in every whole answer.
NAMING = frozenset({"openai", "anthropic"})

_REASON_FIELDS = ("finish_reason", "stop_reason", "stopReason", "done_reason", "status")

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "completed": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "sensitive": "content_filter",
}

_NOT_THE_ANSWER = ("human", "system", "tool", "function", "remove", "HumanMessage", "SystemMessage", "ToolMessage")

# Blocks of which something is read elsewhere: tool calls stand in `tool_call_chunks` as well.
_KNOWN_BLOCKS = frozenset(
    {"text", "thinking", "redacted_thinking", "reasoning", "refusal", "tool_use", "input_json_delta", "tool_call_chunk"}
    | {"tool_call", "invalid_tool_call", "function_call"}
)


class LangChainReader:
    """A `base.Reader` of lists of pieces. `start` is the identity where the pieces name none. `one_model`: a finish
    reason ends the whole answer; in a chain several models may have their say."""

    def __init__(self, start: Started, *, one_model: bool) -> None:
        self.answered = False
        self.opaque = False
        self.frames: bytes | None = None
        self._start: Started | None = start
        self._one_model = one_model
        self._ended = False
        self._reason: FinishReason | None = None
        self._stop_sequence: str | None = None
        self._broken: str | None = None  # the reason by which the model broke off
        self._owes_reason = False
        self._refused = False
        self._said = False  # anything at all that was understood
        self._unknown: set[str] = set()  # what was not: keys of dicts, or types
        self._usage: dict[str, int] | None = None
        self._signature = ""  # of the thought that is open
        self._calls: dict[str, OpenCall] = {}
        self._at_index: dict[Any, OpenCall] = {}

    def feed(self, pieces: list[Any]) -> list[Event]:
        events: list[Event] = []
        try:
            for piece in () if self._ended else pieces:
                self._read(piece, events)
        except Exception:  # a message may hold whatever somebody's package puts into it
            events += self.finish(StreamBroken("the provider gave a message that can't be read; try again"))
        return events

    def finish(self, error: SluicewayError | None = None) -> list[Event]:
        events: list[Event] = []
        if self._ended:
            return events
        self._ended = True
        error = None if self.answered else error or self._incomplete()
        if error is None:
            self._seal(events)
            for call in self._calls.values():
                events += call.ended()
        elif self._start is not None:
            return [Failed(error=error)]
        if (usage := self._counted()) is not None:
            events.append(usage)
        events.append(self._finished() if error is None else Failed(error=error))
        return events

    def _incomplete(self) -> SluicewayError | None:
        """What is wrong with an answer whose iteration has just ended."""
        if self._broken is not None:
            return StreamBroken(f"the provider broke the answer off ({self._broken}); try again")
        if not self._said:
            seen = f": there was {', '.join(sorted(self._unknown)[:10])}" if self._unknown else ""
            return StreamBroken(f"the provider's stream had no answer in it{seen}")
        if self._owes_reason and self._reason is None:
            return StreamBroken("the provider's stream ended before the answer did; try again")
        return None

    def _read(self, piece: Any, events: list[Event]) -> None:
        if isinstance(piece, str):
            self._begin(None, None, events)
            self._say(piece, events)
        elif isinstance(piece, Mapping):
            found = next((piece[name] for name in ANSWERS if piece.get(name) is not None), None)
            if isinstance(found, str) or hasattr(found, "content"):
                self._read(found, events)
            else:
                self._unknown.update(f"a dict with {name!r}" for name in list(piece)[:10])
        elif hasattr(piece, "content"):
            if not str(getattr(piece, "type", "")).startswith(_NOT_THE_ANSWER):
                self._read_message(piece, events)
        else:
            self._unknown.add(f"a {type(piece).__name__}")

    def _begin(self, named: Any, model: Any, events: list[Event]) -> None:
        self._said = True
        start, self._start = self._start, None
        if start is not None:
            known_id = named if isinstance(named, str) and named else start.id
            known_model = model if isinstance(model, str) and model else start.model
            events.append(msgspec.structs.replace(start, id=known_id, model=known_model))

    def _read_message(self, message: Any, events: list[Event]) -> None:
        about = _mapping(getattr(message, "response_metadata", None))
        beside = _mapping(getattr(message, "additional_kwargs", None))
        self._begin(getattr(message, "id", None), about.get("model_name"), events)
        if about.get("model_provider") in NAMING:
            self._owes_reason = True
        if isinstance(thought := beside.get("reasoning_content"), str) and thought:
            events.append(ReasoningDelta(text=thought))
        content = message.content
        if isinstance(content, str):
            self._say(content, events)
        else:
            for block in content if isinstance(content, list) else ():
                self._read_block(block, events)
        if isinstance(refusal := beside.get("refusal"), str):
            self._refuse(refusal, events)
        for call in _calls(message):
            self._read_call(call, events)
        self._count(_mapping(getattr(message, "usage_metadata", None)))
        self._read_reason(about)

    def _say(self, text: str, events: list[Event]) -> None:
        if text:
            self._seal(events)
            events.append(TextDelta(text=str(text)))  # LangChain has a subclass of its own

    def _refuse(self, text: str, events: list[Event]) -> None:
        if text:
            self._refused = True
            events.append(TextDelta(text=str(text), refusal=True))

    def _read_block(self, block: Any, events: list[Event]) -> None:
        match block:
            case str(text) | {"type": "text", "text": str(text)}:
                self._say(text, events)
            case {"type": "thinking", **rest}:
                self._think(rest.get("thinking"), rest.get("signature"), events)
            case {"type": "reasoning", "reasoning": str(text), **rest}:
                self._think(text, _mapping(rest.get("extras")).get("signature"), events)
            case {"type": "reasoning", **rest}:
                for part in _list(rest.get("summary")):
                    self._think(_mapping(part).get("text"), None, events)
                self._redact(rest.get("encrypted_content"), events)
            case {"type": "redacted_thinking", **rest}:
                self._redact(rest.get("data"), events)
            case {"type": "refusal", "refusal": str(text)}:
                self._refuse(text, events)
            case {"type": str(kind)} if kind not in _KNOWN_BLOCKS:
                self.opaque = True
            case _:
                pass
        if isinstance(block, Mapping):
            cited = map(_mapping, (*_list(block.get("citations")), *_list(block.get("annotations"))))
            events += [Source(url=one["url"], title=str(one.get("title") or "")) for one in cited if one.get("url")]

    def _think(self, text: Any, signature: Any, events: list[Event]) -> None:
        if isinstance(text, str) and text:
            self._seal(events)
            events.append(ReasoningDelta(text=str(text)))
        if isinstance(signature, str):
            self._signature += signature

    def _redact(self, sealed: Any, events: list[Event]) -> None:
        if isinstance(sealed, str) and sealed:
            self._seal(events)
            events.append(ReasoningEnded(redacted=sealed))

    def _seal(self, events: list[Event]) -> None:
        """What follows a signature is no more of the thought that it signs."""
        if self._signature:
            events.append(ReasoningEnded(signature=self._signature))
            self._signature = ""

    def _read_call(self, said: Mapping[str, Any], events: list[Event]) -> None:
        """As OpenAI's deltas: an index, or an id, or neither, says which call it is; a name begins one."""
        index, named, name, arguments = said.get("index"), said.get("id"), said.get("name"), said.get("args")
        call = self._at_index.get(index)
        if call is not None and named and named in self._calls:
            call = self._calls[named]
        elif call is not None and name and (named or index is None):
            call = None
        if call is None:
            self._seal(events)
            call_id, number = named, len(self._calls)
            while not isinstance(call_id, str) or not call_id or call_id in self._calls:
                call_id, number = f"call_{number}", number + 1
            call = self._calls[call_id] = OpenCall(call_id, str(name or ""))
            self._at_index[index] = self._at_index[None] = call
            events.append(call.started())
        if isinstance(arguments, str) and arguments:
            events.append(call.add(arguments))

    def _count(self, usage: Mapping[str, Any]) -> None:
        if not usage:
            return
        cached, more = _mapping(usage.get("input_token_details")), _mapping(usage.get("output_token_details"))
        written = [count for name, count in cached.items() if name == "cache_creation" or name.startswith("ephemeral_")]
        said = {
            "input_tokens": usage.get("input_tokens"),
            "output_tokens": usage.get("output_tokens"),
            "cached_tokens": cached.get("cache_read"),
            "cache_write_tokens": sum(map(_number, written)),
            "reasoning_tokens": more.get("reasoning"),
        }
        before = self._usage or {}
        self._usage = {name: before.get(name, 0) + _number(count) for name, count in said.items()}

    def _read_reason(self, about: Mapping[str, Any]) -> None:
        said = next((value for name in _REASON_FIELDS if isinstance(value := about.get(name), str) and value), "")
        if said == "incomplete":  # OpenAI's Responses
            said = str(_mapping(about.get("incomplete_details")).get("reason") or "length")
        reason = said.lower()
        if reason in BROKEN_OFF:
            self._broken = said
        elif reason and not reason.endswith("_unspecified") and reason != "in_progress":
            # One that this table does not know is still an end: the model has said all it will.
            self._reason = FINISH_REASONS.get(reason, "stop")
            self._broken = None
            self.answered = self._one_model
            if isinstance(matched := about.get("stop_sequence"), str):
                self._stop_sequence = matched

    def _counted(self) -> Usage | None:
        return None if self._usage is None else Usage(**self._usage)  # type: ignore[arg-type]

    def _finished(self) -> Finished:
        reason = self._reason or "stop"
        if self._refused and reason == "stop":
            reason = "content_filter"
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        return Finished(reason=reason, stop_sequence=self._stop_sequence)


def _calls(message: Any) -> Iterator[Mapping[str, Any]]:
    """The calls of a message in the shape of its chunks'."""
    chunks = getattr(message, "tool_call_chunks", None)
    if chunks is not None:
        yield from map(_mapping, chunks)
        return
    for call in _list(getattr(message, "tool_calls", None)):
        yield {**call, "args": msgspec.json.encode(call.get("args") or {}).decode()}
    for call in _list(getattr(message, "invalid_tool_calls", None)):
        yield _mapping(call)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int) or (isinstance(value, float) and value.is_integer()) else 0
