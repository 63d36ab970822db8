"""OpenAI Chat Completions stream to events (WIRE facts: the order and the variants below, measured 2026-11-21).

    role chunk, content chunks, a chunk with finish_reason, [choices:[] + usage], `[DONE]`

Variants in the wild, all read: reasoning as `reasoning_content` (DeepSeek, older vLLM) or `reasoning` (vLLM >= 0.11),
or content as a list of parts (Mistral's thinking models); usage on the finish chunk, or on every chunk (the last
counts); names and ids of tool calls repeated in every delta, indices left out or always 0 (Gemini); `stop` after a tool
call (Gemini, and OpenAI where the call was forced); no `[DONE]`; errors as `data: {"error": {...}}`, as
`{"error": "text"}`, under `event: error`, flat, or as a finish reason.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..errors import StreamBroken
from ..events import Event, Finished, FinishReason, ReasoningDelta, ReasoningEnded, Source, Started, TextDelta, Usage
from .frame_reader import FrameReader, OpenCall, decodable
from .sse import Frame

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",  # Zhipu
    "model_length": "length",  # Mistral
}
# The answer was broken off: OpenRouter and Mistral; vLLM and SGLang; DeepSeek; Zhipu.
BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource", "network_error"})


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(msgspec.Struct, gc=False):
    """`{"type": "text", "text"}`, or `{"type": "thinking", "thinking": [text parts]}`."""

    text: str | None = None
    thinking: list[_Part] | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None  # OpenRouter's: what is signed, or only for the provider
    annotations: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: Any = None  # what tool calls were before 2023-11; a client that asks so is relayed to


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """Only the fields we read: decoding costs by what is named, not by what was sent."""

    id: str | None = None
    model: str | None = None
    created: int | float | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


def _tokens(details: Any, name: str) -> int:
    """Nobody's answer breaks over a detail of its usage."""
    count = details.get(name) if isinstance(details, dict) else None
    return count if isinstance(count, int) else 0


_decoder = msgspec.json.Decoder(_Chunk)
_decode = _decoder.decode
_decode_any = msgspec.json.Decoder().decode
# Objects whose values stay as they were written: numbers beyond any float's range, too.
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_NULL = msgspec.Raw(b"null")


_NO_USAGE = (b',"usage":null', b', "usage": null')

# A key of the frame itself: inside a string its quotes would be escaped.
_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*"')


class OpenAIChatReader(FrameReader):
    """`keep_model`: the model is named as we know it, not as the server reports it (a file path, from llama.cpp).
    `relay_usage`: whether usage is for the client; our own books ask for it always.

    The end mark is not relayed: whoever writes the answer sets it, after what may have to come before it.
    """

    _decode_lines = staticmethod(_decoder.decode_lines)
    PLAIN = b"data: "

    def __init__(
        self,
        start: Started,
        *,
        secret: str = "",
        relay: bool = False,
        relay_usage: bool = False,
        keep_model: bool = False,
    ) -> None:
        super().__init__(start, secret=secret, relay=relay)
        self._relay_usage = relay_usage
        self._no_usage: bytes | None = None  # as this provider writes it; None before its first chunk
        self._keep_model = start.model if keep_model else None
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._refused = False
        # The call that a delta's index, or its id, means; under None the one begun last.
        self._at_index: dict[int | None, OpenCall] = {}
        self._by_id: dict[str, OpenCall] = {}

    def _relay(self, frames: bytes) -> None:
        if self.frames is None:
            return
        if not self._relay_usage:  # we asked for it, so most providers say null in every chunk, from the first on
            if self._no_usage is None:
                first = frames[: frames.find(b"\n\n")]
                self._no_usage = next((said for said in _NO_USAGE if said in first), b"")
            if self._no_usage:
                frames = frames.replace(self._no_usage, b"")
        if self._keep_model is not None:
            name = b'"model":' + msgspec.json.encode(self._keep_model)
            frames = _MODEL.sub(lambda _: name, frames)
        self.frames += frames if frames.isascii() else decodable(frames)

    def _read_plain(self, datas: list[_Chunk], events: list[Event]) -> int:
        if self._start is not None or self.answered:
            return 0
        add = events.append
        for at, chunk in enumerate(datas):
            choices = chunk.choices
            if chunk.usage is not None or chunk.error or not choices or len(choices) != 1:
                return at
            choice = choices[0]
            delta = choice.delta
            if choice.finish_reason or choice.index or delta is None:
                return at
            if delta.tool_calls or delta.refusal or delta.function_call or delta.reasoning_details or delta.annotations:
                return at
            text = delta.content
            if text is not None and type(text) is not str:
                return at
            if reasoning := delta.reasoning_content or delta.reasoning:
                add(ReasoningDelta(text=reasoning))
            if text:
                add(TextDelta(text=text))
        return len(datas)

    def _read(self, frame: Frame, events: list[Event]) -> Frame | None:
        if frame.data.startswith(b"[DONE]"):
            if self._start is None:
                self._finish(events)
            else:
                self._fail(StreamBroken("the provider's stream was empty; try again"), events)
            return None
        if frame.event == b"error":
            self._fail_as_said(_decode_any(frame.data), events)
            return None
        chunk = _decode(frame.data)
        if chunk.error:  # not `{}` or "": the official SDKs too ask for one that says something
            self._fail_as_said({"error": chunk.error}, events)
            return None
        shown = self._for_client(chunk, frame)  # first: it raises where the frame is no JSON in a place we do not read
        if self._start is not None and (chunk.choices or chunk.id):
            self._open(chunk, self._start, events)
        if chunk.usage is not None and chunk.usage.completion_tokens is not None:
            self._usage = Usage(
                input_tokens=int(chunk.usage.prompt_tokens or 0),
                output_tokens=int(chunk.usage.completion_tokens),
                cached_tokens=_tokens(chunk.usage.prompt_tokens_details, "cached_tokens"),
                reasoning_tokens=_tokens(chunk.usage.completion_tokens_details, "reasoning_tokens"),
            )
        for choice in chunk.choices or ():
            if not choice.index and not self._ended:  # we never ask for a second choice; 0 and absent are the first
                self._read_choice(choice, events)
        return None if shown is None else Frame(b"", shown)

    def _for_client(self, chunk: _Chunk, frame: Frame) -> bytes | None:
        """A chunk's data as it is relayed: without the usage that only we asked for, and without the finish reason of
        an answer that was broken off, which a client could take for its end."""
        choices = chunk.choices or []
        if frame.event and not choices and chunk.usage is None:
            return None  # somebody's own; in this protocol frames have no names, and clients trip over what is no chunk
        hide_usage = chunk.usage is not None and not self._relay_usage
        broken_off = any(choice.finish_reason in BROKEN_OFF and not choice.index for choice in choices)
        if self.frames is None or not (hide_usage or broken_off):
            return frame.data
        if not choices:
            return None
        shown = _decode_fields(frame.data)
        if hide_usage:
            del shown["usage"]
        if broken_off:
            broken = [{**choice, "finish_reason": _NULL} for choice in _decode_objects(shown["choices"])]
            shown["choices"] = msgspec.Raw(msgspec.json.encode(broken))
        return msgspec.json.encode(shown)

    def _open(self, chunk: _Chunk, start: Started, events: list[Event]) -> None:
        self._start = None
        events.append(
            Started(
                id=chunk.id or start.id,
                model=self._keep_model or chunk.model or start.model,
                provider=start.provider,
                created=int(chunk.created or 0) or start.created,
            )
        )

    def _read_choice(self, choice: _Choice, events: list[Event]) -> None:
        delta = choice.delta
        if delta is not None and not self.answered:
            self.opaque = self.opaque or bool(delta.function_call)
            if reasoning := delta.reasoning_content or delta.reasoning:
                events.append(ReasoningDelta(text=reasoning))
            if delta.reasoning_details:
                self._read_details(delta.reasoning_details, events)
            if isinstance(delta.content, list):
                self._read_parts(delta.content, events)
            elif text := delta.content or delta.refusal:
                self._refused = self._refused or not delta.content
                events.append(TextDelta(text=text, refusal=not delta.content))
            for call in delta.tool_calls or ():
                self._read_call(call, events)
            if delta.annotations:
                self._read_annotations(delta.annotations, events)
        if choice.finish_reason in BROKEN_OFF:
            broken = f"the provider broke the answer off ({choice.finish_reason}); try again"
            self._settle(StreamBroken(broken), events)
        elif choice.finish_reason and not self.answered:
            self.answered = True
            # A reason this table does not know is still an end: the provider has said all it will.
            self._reason = FINISH_REASONS.get(choice.finish_reason, "stop")

    def _read_parts(self, parts: list[_Part], events: list[Event]) -> None:
        for part in parts:
            if thought := "".join(inner.text or "" for inner in part.thinking or ()):
                events.append(ReasoningDelta(text=thought))
            if part.text:
                events.append(TextDelta(text=part.text))

    @staticmethod
    def _read_details(details: Any, events: list[Event]) -> None:
        for detail in details if isinstance(details, list) else ():
            match detail:
                case {"type": "reasoning.encrypted", "data": str(data)}:
                    events.append(ReasoningEnded(redacted=data))
                case {"type": "reasoning.text", "signature": str(signature)} if signature:
                    events.append(ReasoningEnded(signature=signature))
                case _:
                    pass  # its text stands in `reasoning` as well

    @staticmethod
    def _read_annotations(annotations: Any, events: list[Event]) -> None:
        for annotation in annotations if isinstance(annotations, list) else ():
            match annotation:
                case {"type": "url_citation", "url_citation": {"url": str(url), **rest}}:
                    events.append(Source(url=url, title=str(rest.get("title") or "")))
                case _:
                    pass

    def _read_call(self, said: _ToolCall, events: list[Event]) -> None:
        function = said.function or _Function()
        call = self._at_index.get(said.index)
        if call is not None and said.id in self._by_id:
            call = self._by_id[said.id]
        elif call is not None and function.name and (said.id or said.index is None):
            call = None  # a name with a new id, or with nothing else to tell calls apart by, begins another call
        if call is None:
            call = self._begin_call(said.id, function.name, events)
            self._at_index[said.index] = self._at_index[None] = call
            if said.id:
                self._by_id[said.id] = call
        if function.arguments:
            events.append(call.add(function.arguments))

    def _counted(self) -> Usage | None:
        return self._usage

    def _finished(self) -> Finished:
        # `[DONE]` without a finish reason: some servers send none. They said the stream is complete, so it is.
        reason = self._reason or "stop"
        if self._refused and reason == "stop":  # its own word for it is a field, where others have a reason
            reason = "content_filter"
        return Finished(reason="tool_calls" if reason == "stop" and self._call_ids else reason)
