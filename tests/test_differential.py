"""The same text through two ways: the official SDKs' own objects, and our readers and what we relay.

For every recording, and for generated streams of both protocols in any legal SSE framing and any chunks:

    what the SDK reads from the provider  ==  what our reader's events say
                                          ==  what the SDK reads from the bytes that we send on

Text, reasoning, tool calls, finish reason and usage are compared, and the fields that only the SDK's user knows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from test_readers import DIALECTS, OURS, RECORDED

from app.books import Books
from app.events import (
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.formats import FORMATS
from app.providers import anthropic_reader, openai_chat_reader, openai_responses_reader
from app.providers.anthropic_reader import AnthropicReader
from app.providers.openai_chat_reader import OpenAIChatReader
from app.providers.openai_responses_reader import OpenAIResponsesReader
from app.request import ChatRequest, Message

OPENAI, RESPONSES, ANTHROPIC = "openai_chat", "openai_responses", "anthropic_messages"
REQUEST = ChatRequest(dialect="native", messages=(Message.of("user", "Hi there"),))
MESSAGES: list[Any] = [{"role": "user", "content": "Hi there"}]


class Answer(NamedTuple):
    """`finish` is in our words, None where the answer failed; `usage` is (input, output)."""

    text: str
    reasoning: str
    calls: list[tuple[str, str, str]]
    finish: str | None
    usage: tuple[int, int] | None


# The old way: the SDK reads.


class Body(httpx2.SyncByteStream):
    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks


class Wire(httpx2.BaseTransport):
    """Answers every request with `chunks`."""

    chunks: list[bytes] = []  # noqa: RUF012  set anew for every request

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(self.chunks))


WIRE = Wire()


@pytest.fixture(scope="module", autouse=True)
def clients() -> Iterator[None]:
    """One client of each SDK, since making one costs more than a stream does."""
    with httpx2.Client(transport=WIRE) as http:
        SDKS.gpt = openai.OpenAI(api_key="any", base_url="http://wire/v1", max_retries=0, http_client=http)
        SDKS.claude = anthropic.Anthropic(api_key="any", base_url="http://wire", max_retries=0, http_client=http)
        yield


class SDKS:
    gpt: openai.OpenAI
    claude: anthropic.Anthropic


Read = tuple[Answer, list[Any]]


def openai_sdk(chunks: list[bytes]) -> Read:
    """The answer, and the fields of every chunk that the SDK does not know."""
    WIRE.chunks = chunks
    text: list[str] = []
    refused = False
    reasoning: list[str] = []
    calls: list[tuple[str, str, list[str]]] = []
    at: dict[int, int] = {}
    finish = usage = None
    extras: list[Any] = []
    try:
        with SDKS.gpt.chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
            for chunk in stream:
                if chunk.usage and chunk.usage.completion_tokens is not None:
                    usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                for choice in chunk.choices:
                    delta = choice.delta or ChoiceDelta()  # Azure's last word on its filter comes without one
                    extras.append((chunk.model_extra, choice.model_extra, delta.model_extra, chunk.model))
                    said: Any = delta.content
                    if isinstance(said, list):  # Mistral's
                        text += [part["text"] for part in said if part["type"] == "text"]
                        reasoning += [
                            inner["text"] for part in said if part["type"] == "thinking" for inner in part["thinking"]
                        ]
                    else:
                        text.append(said or delta.refusal or "")
                        refused = refused or bool(delta.refusal and not said)
                    thought = getattr(delta, "reasoning_content", None)
                    reasoning.append(thought or getattr(delta, "reasoning", None) or "")
                    for call in delta.tool_calls or ():
                        if call.id and call.id not in [known for known, _, _ in calls]:  # Gemini: each at index 0
                            at[call.index] = len(calls)
                            calls.append((call.id, (call.function and call.function.name) or "", []))
                        if call.function and call.function.arguments:
                            calls[at[call.index]][2].append(call.function.arguments)
                    finish = finish or choice.finish_reason
    except openai.APIError:
        finish = None
    reason = openai_chat_reader.FINISH_REASONS[finish] if finish else None
    if reason == "stop":  # Gemini's after a call; OpenAI's own after a refusal
        reason = "content_filter" if refused else "tool_calls" if calls else "stop"
    made = [(call_id, name, "".join(arguments) or "{}") for call_id, name, arguments in calls]
    return Answer("".join(text), "".join(reasoning), made if reason else [], reason, usage), extras


def anthropic_sdk(chunks: list[bytes]) -> Read:
    WIRE.chunks = chunks
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[tuple[str, str, list[str]]] = []
    at: dict[int, int] = {}
    finish = input_tokens = output_tokens = None
    extras: list[Any] = []
    ended = False
    try:
        with SDKS.claude.messages.create(model="m", max_tokens=9, messages=MESSAGES, stream=True) as stream:
            for event in stream:
                extras.append((event.type, event.model_extra))
                match event.type:
                    case "message_start":
                        input_tokens = event.message.usage.input_tokens
                    case "content_block_start":
                        block = event.content_block
                        if block.type == "tool_use":
                            at[event.index] = len(calls)
                            calls.append((block.id, block.name, []))
                        text.append(block.text if block.type == "text" else "")
                    case "content_block_delta":
                        delta = event.delta
                        extras.append(delta.to_dict())
                        text.append(delta.text if delta.type == "text_delta" else "")
                        reasoning.append(delta.thinking if delta.type == "thinking_delta" else "")
                        if delta.type == "input_json_delta" and event.index in at:
                            calls[at[event.index]][2].append(delta.partial_json)
                    case "message_delta":
                        finish = event.delta.stop_reason
                        if event.usage.input_tokens is not None:
                            input_tokens = event.usage.input_tokens
                        output_tokens = event.usage.output_tokens
                    case "message_stop":
                        ended = True
    except anthropic.APIError:
        assert not ended
    reason = anthropic_reader.STOP_REASONS[finish] if finish and ended else None
    made = [(call_id, name, "".join(arguments) or "{}") for call_id, name, arguments in calls]
    usage = None if output_tokens is None else (input_tokens or 0, output_tokens)
    return Answer("".join(text), "".join(reasoning), made if reason else [], reason, usage), extras


def responses_sdk(chunks: list[bytes]) -> Read:
    """The answer, and every event as it is, but for one that says that the answer has failed."""
    WIRE.chunks = chunks
    text: list[str] = []
    reasoning: list[str] = []
    thinking: Any = None
    calls: dict[int, tuple[str, str, list[str]]] = {}
    whole: set[int] = set()
    reason = usage = None
    refused = False
    extras: list[Any] = []
    try:
        with SDKS.gpt.responses.create(model="m", input="Hi there", stream=True) as stream:
            for event in stream:
                if event.type == "response.failed":
                    reason = None
                else:
                    extras.append(event.to_dict(warnings=False))
                match event.type:
                    case "response.output_text.delta" | "response.refusal.delta":
                        text.append(event.delta)
                        refused = refused or bool(event.delta and event.type == "response.refusal.delta")
                    case "response.reasoning_summary_text.delta":
                        thinking = event.output_index if event.delta else thinking
                        reasoning.append(event.delta)
                    case "response.reasoning_summary_part.added" if event.summary_index:
                        reasoning.append("\n\n" if thinking == event.output_index else "")
                    case "response.output_item.added" if event.item.type == "function_call":
                        calls[event.output_index] = (event.item.call_id, event.item.name, [])
                    case "response.function_call_arguments.delta":
                        calls[event.output_index][2].append(event.delta)
                    case "response.output_item.done":
                        whole.add(event.output_index)
                    case "response.completed":
                        reason = "content_filter" if refused else "tool_calls" if calls else "stop"
                    case "response.incomplete":
                        why = event.response.incomplete_details
                        reason = openai_responses_reader.INCOMPLETE[str(why and why.reason)]
                    case _:
                        pass
                if event.type in ("response.completed", "response.incomplete", "response.failed"):
                    said = event.response.usage
                    usage = (said.input_tokens, said.output_tokens) if said else None
    except openai.APIError:
        reason = None
    made = [(calls[at][0], calls[at][1], "".join(calls[at][2]) or "{}") for at in calls if reason or at in whole]
    return Answer("".join(text), "".join(reasoning), made, reason, usage), extras


SDK = {OPENAI: openai_sdk, RESPONSES: responses_sdk, ANTHROPIC: anthropic_sdk}
READERS = {RESPONSES: OpenAIResponsesReader, ANTHROPIC: AnthropicReader}

# The fast path: our reader, and what it relays.


def ours(wire: str, chunks: list[bytes], *, include_usage: bool) -> tuple[Answer, list[bytes]]:
    """The answer that the events tell, and the bytes that are sent on."""
    reader = (
        OpenAIChatReader(OURS, relay=True, relay_usage=include_usage)
        if wire == OPENAI
        else READERS[wire](OURS, relay=True)
    )
    request = ChatRequest(dialect="native", messages=REQUEST.messages, include_usage=include_usage)
    books, encoder = Books(request, lambda: 0.0), FORMATS[wire]().encoder(request)
    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[str, tuple[str, list[str]]] = {}
    ended: list[tuple[str, str, str]] = []
    finish = usage = None
    written: list[bytes] = []
    for chunk in [*chunks, None]:
        said = reader.finish() if chunk is None else reader.feed(chunk)
        for event in said:
            match event:
                case TextDelta(text=piece):
                    text.append(piece)
                case ReasoningDelta(text=piece):
                    reasoning.append(piece)
                case ToolCallStarted(call_id=call_id, name=name):
                    calls[call_id] = (name, [])
                case ToolCallDelta(call_id=call_id, arguments=arguments):
                    calls[call_id][1].append(arguments)
                case ToolCallEnded(call_id=call_id, name=name, arguments=arguments):
                    assert calls[call_id] == (name, calls[call_id][1])
                    assert "".join(calls[call_id][1]) == arguments
                    ended.append((call_id, name, arguments))
                case Usage(input_tokens=input_tokens, output_tokens=output_tokens):
                    usage = (input_tokens, output_tokens)
                case Finished(reason=reason):
                    finish = reason
                case Failed():
                    finish = None
        counted = books.feed(said)
        written.append(encoder.relay(reader.frames or b"", counted))
    order = list(calls)
    ended.sort(key=lambda call: order.index(call[0]))
    return Answer("".join(text), "".join(reasoning), ended, finish, usage), written


def without_null_usage(value: Any) -> Any:
    """A null `usage` says nothing, wherever it stands: the relay takes it out of any object."""
    if isinstance(value, dict):
        return {name: without_null_usage(inner) for name, inner in value.items() if (name, inner) != ("usage", None)}
    if isinstance(value, list | tuple):
        return [without_null_usage(inner) for inner in value]
    return value


def check(wire: str, sdk_chunks: list[bytes], our_chunks: list[bytes]) -> None:
    """`our_chunks` may be framed as it pleases, `sdk_chunks` so that the SDK can read them."""
    theirs, extras = SDK[wire](sdk_chunks)
    for include_usage in (False, True):
        told, written = ours(wire, our_chunks, include_usage=include_usage)
        assert told == theirs
        again, extras_again = SDK[wire](written)
        assert again[:-1] == theirs[:-1]
        if wire == RESPONSES and theirs.finish is None:
            assert again.usage is None, "it is in the frame that fails, and an error has no place for it"
        elif wire in (RESPONSES, ANTHROPIC) or (include_usage and theirs.usage is not None):
            assert again.usage == theirs.usage
        else:
            assert (again.usage is not None) == (include_usage and theirs.finish is not None)
        if wire == OPENAI:  # the usage chunk, or an estimate, has no choices, and is in neither
            assert without_null_usage(extras_again) == without_null_usage(extras)
        else:
            assert extras_again == extras


@pytest.mark.parametrize("name", DIALECTS)
def test_recordings(name: str) -> None:
    body = (RECORDED / f"{name}.sse").read_bytes()
    for size in (1, 7, 100, len(body)):
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        check(name.partition("/")[0], chunks, chunks)


# Generated streams: what is said, how its JSON is written, how that is framed, how the bytes come.

some = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

LOADED = st.sampled_from(
    [
        *("\u2028", "\u2029", "\x85", "\x00", "\x0b", "\x1c", "\ufeff", "\u200d", "\r\n", "\n\n", '"', "\\", "😀"),
        *("data: ", "\n\ndata: {}", '","usage":null', ',"usage":null', '"model":"x"', "[DONE]", "event: error", "\x7f"),
    ]
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.lists(LOADED, max_size=4).map("".join), LOADED
)
SAID = ("usage", "error", "choices", "model", "delta", "content", "type", "finish_reason", "text", "id", "x y")
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(SAID), inner, max_size=3)),
    max_leaves=6,
)
# Beside the fields of the protocol, at any place, under names that no SDK knows.
unknown = st.one_of(st.just({}), st.dictionaries(st.sampled_from(["x_one", "x_two", "x: y"]), nested, max_size=2))
counts = st.integers(0, 10**9)


@st.composite
def openai_values(draw: st.DrawFn) -> list[Any]:
    """The chunks of one answer, as JSON values and the text `[DONE]`."""
    model = draw(st.sampled_from(["m", "a/b", "é"]))
    head: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 9, "model": model}
    null_usage = draw(st.sampled_from([{}, {"usage": None}]))
    spelling = draw(st.sampled_from(["reasoning_content", "reasoning"]))

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta | draw(unknown), "finish_reason": finish_reason} | draw(unknown)
        return {**head, "choices": [choice], **null_usage, **draw(unknown)}

    values = [chunk({"role": "assistant", "content": draw(st.sampled_from(["", None]))})]
    for _ in range(draw(st.integers(0, 8))):
        match draw(st.integers(0, 4)):
            case 0:
                values.append(chunk({spelling: draw(texts)}))
            case 1:
                values.append(chunk({"content": draw(texts), spelling: draw(texts)}))
            case _:
                values.append(chunk({"content": draw(texts)}))
    names = draw(st.lists(texts, max_size=3))
    for index, name in enumerate(names):
        function = {"name": name, "arguments": draw(texts)}
        begun = {"index": index, "id": f"call{index}", "type": "function", "function": function}
        values.append(chunk({"tool_calls": [begun]}))
    for _ in range(draw(st.integers(0, 4)) if names else 0):
        more = {"index": draw(st.integers(0, len(names) - 1)), "function": {"arguments": draw(texts)}}
        values.append(chunk({"tool_calls": [more]} | draw(unknown)))
    reason = draw(st.sampled_from(["tool_calls", "stop", "length"] if names else ["stop", "length", "content_filter"]))
    values.append(chunk({}, reason))
    usage = {"prompt_tokens": draw(counts), "completion_tokens": draw(counts), "total_tokens": 1} | draw(unknown)
    match draw(st.sampled_from(["none", "own", "last", "every"])):
        case "own":
            values.append(head | {"choices": [], "usage": usage})
        case "last":
            values[-1]["usage"] = usage
        case "every":
            for value in values:
                value["usage"] = usage
        case _:
            pass
    return values + ["[DONE]"] * draw(st.integers(0, 1))


@st.composite
def anthropic_values(draw: st.DrawFn) -> list[Any]:
    """The events of one answer, as JSON values."""
    usage = {"input_tokens": draw(counts), "output_tokens": 1} | draw(unknown)
    message = {"id": "c", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    values: list[Any] = [{"type": "message_start", "message": message | draw(unknown)}]
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "text", "thinking", "tool_use", "hologram"]))
        block: dict[str, Any] = {"type": kind} | draw(unknown)
        deltas: list[dict[str, Any]] = []
        pieces = draw(st.lists(texts, max_size=5))
        match kind:
            case "text":
                block["text"] = draw(st.sampled_from(["", "Hi"]))
                deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
            case "thinking":
                block |= {"thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
                deltas.append({"type": "signature_delta", "signature": draw(texts)})
            case "tool_use":
                block |= {"id": f"toolu_{index}", "name": draw(texts), "input": {}}
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            case _:
                deltas = [{"type": "hologram_delta", "light": piece} for piece in pieces]
        values.append({"type": "content_block_start", "index": index, "content_block": block} | draw(unknown))
        for delta in deltas:
            said = {"type": "content_block_delta", "index": index, "delta": delta | draw(unknown)}
            values.append(said | draw(unknown))
            if draw(st.integers(0, 5)) == 0:
                values.append({"type": "ping"} | draw(unknown))
        values.append({"type": "content_block_stop", "index": index} | draw(unknown))
    stop = {"stop_reason": draw(st.sampled_from(sorted(anthropic_reader.STOP_REASONS))), "stop_sequence": None}
    counted = {"output_tokens": draw(counts)} | draw(st.sampled_from([{}, {"input_tokens": 7}])) | draw(unknown)
    values.append({"type": "message_delta", "delta": stop | draw(unknown), "usage": counted} | draw(unknown))
    return [*values, {"type": "message_stop"} | draw(unknown)]


@st.composite
def responses_values(draw: st.DrawFn) -> list[Any]:
    """The events of one answer, as JSON values."""
    output: list[Any] = []
    values: list[Any] = []

    def event(kind: str, **fields: Any) -> None:
        values.append({"type": f"response.{kind}", "sequence_number": len(values)} | fields | draw(unknown))

    def response(status: str, **fields: Any) -> dict[str, Any]:
        head = {"id": "c", "object": "response", "created_at": 9, "model": "m", "status": status, "output": [*output]}
        return head | fields | draw(unknown)

    event("created", response=response("in_progress"))
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["message", "message", "refusal", "reasoning", "function_call", "hologram"]))
        pieces = draw(st.lists(texts, max_size=5))
        place: dict[str, Any] = {"item_id": f"i{index}", "output_index": index}
        item: dict[str, Any] = {"id": f"i{index}", "type": kind} | draw(unknown)
        match kind:
            case "message" | "refusal":
                item |= {"type": "message", "role": "assistant", "status": "completed"}
                word = "text" if kind == "message" else "refusal"
                part = {"type": "output_text" if kind == "message" else kind, word: ""} | draw(unknown)
                event("output_item.added", output_index=index, item=item | {"content": []})
                event("content_part.added", **place, content_index=0, part=part)
                for piece in pieces:
                    event(f"{part['type']}.delta", **place, content_index=0, delta=piece)
                item["content"] = [part | {word: "".join(pieces)}]
            case "reasoning":
                event("output_item.added", output_index=index, item=item | {"summary": []})
                for at, piece in enumerate(pieces):
                    event("reasoning_summary_part.added", **place, summary_index=at, part={"text": ""})
                    event("reasoning_summary_text.delta", **place, summary_index=at, delta=piece)
                item["summary"] = [{"type": "summary_text", "text": piece} for piece in pieces]
                item |= draw(st.sampled_from([{}, {"encrypted_content": "E"}]))
            case "function_call":
                item |= {"call_id": f"call{index}", "name": draw(texts)}
                event("output_item.added", output_index=index, item=item | {"arguments": ""})
                for piece in pieces:
                    event("function_call_arguments.delta", **place, delta=piece)
                item["arguments"] = "".join(pieces)
            case _:
                event("output_item.added", output_index=index, item=item)
                event("hologram.delta", **place, delta=draw(nested))
        event("output_item.done", output_index=index, item=item)
        output.append(item)
    usage = draw(st.none() | st.builds(lambda a, b: {"input_tokens": a, "output_tokens": b}, counts, counts))
    match draw(st.sampled_from(["completed", "completed", "max_output_tokens", "content_filter", "failed"])):
        case "completed":
            event("completed", response=response("completed", usage=usage))
        case "failed":
            error = {"code": "server_error", "message": "no"}
            event("failed", response=response("failed", usage=usage, error=error))
        case why:
            event("incomplete", response=response("incomplete", usage=usage, incomplete_details={"reason": why}))
    return values


VALUES = {OPENAI: openai_values(), RESPONSES: responses_values(), ANTHROPIC: anthropic_values()}


class Hand:
    """Writes values as JSON, and JSON as SSE, in one of the ways that are legal; the same seed writes the same.

    `tidy` leaves out the legal SSE on which the SDKs err. Both lose the first field behind a byte order mark. openai's
    makes a frame of a block without data (`id`, `retry` or `event` alone, an empty `data`), decodes its "" and raises
    JSONDecodeError; it never forgets an `id`, so after one any further blank line does that. Line ends of CR alone are
    read by both.
    """

    def __init__(self, seed: int, *, tidy: bool) -> None:
        self._random = random.Random(seed)  # noqa: S311  not for secrets
        self._tidy = tidy
        self._plain = self._random.random() < 0.4  # compact, in the order given: what the one decode is for
        self._spaces = ("",) if self._plain else self._random.choice([("",), ("", " "), ("", " ", "\t", "\n", "\r")])
        self._ends = self._random.choice([("\n",), ("\n",), ("\r\n",), ("\r",), ("\n", "\r\n")])
        self._colon = "data: " if self._plain else self._random.choice(["data: ", "data:"])
        self._noise = 0.0 if self._plain else self._random.choice([0.0, 0.0, 0.3])

    def json(self, value: Any) -> str:
        gap = self._gap
        match value:
            case dict():
                items = list(value.items())
                if not self._plain:
                    self._random.shuffle(items)
                inner = [f"{gap()}{self.json(key)}{gap()}:{gap()}{self.json(said)}{gap()}" for key, said in items]
                return "{" + ",".join(inner) + "}"
            case list():
                return "[" + ",".join(f"{gap()}{self.json(inner)}{gap()}" for inner in value) + "]"
            case _:
                return json.dumps(value, ensure_ascii=self._random.random() < 0.3)

    def _gap(self) -> str:
        # A CR would end the line, so a gap of CR or LF is where the next data line begins.
        return "\n" if (space := self._random.choice(self._spaces)) == "\r" else space

    def body(self, values: list[Any]) -> bytes:
        lines: list[str] = []
        noisy = self._noise and not self._tidy
        if noisy:
            lines += self._random.choice([[], [""], [":", ""], ["retry: 3", ""]])
        for value in values:
            data = [f"{self._colon}{line}" for line in (value if value == "[DONE]" else self.json(value)).split("\n")]
            name = [f"event: {value['type']}"] if value != "[DONE]" and "type" in value else []
            fields = [*data, *name] if not self._plain and self._random.random() < 0.3 else [*name, *data]
            self._strew(fields, [": x", ":", "x: data", "datax"])
            if noisy:
                self._strew(fields, ["id: 1", "retry: 7", "id"])
            lines += [*fields, ""]
            if noisy and self._random.random() < self._noise:
                lines += self._random.choice([[""], [": x", ""], ["id: 7", ""], ["event: x", ""], ["data:", ""]])
        text = "".join(line + self._random.choice(self._ends) for line in lines)
        return ("\ufeff" if noisy and self._random.random() < 0.5 else "").encode() + text.encode()

    def _strew(self, fields: list[str], noise: list[str]) -> None:
        if self._random.random() < self._noise:
            fields.insert(self._random.randrange(len(fields) + 1), self._random.choice(noise))


def cut(body: bytes, places: list[int]) -> list[bytes]:
    """The body in chunks: cut at these places, or, for a single one, in pieces of that size."""
    if len(places) == 1:
        size = places[0] % 64 + 1
        return [body[at : at + size] for at in range(0, len(body), size)]
    marks = sorted({0, len(body), *(place % (len(body) + 1) for place in places)})
    return [body[start:end] for start, end in pairwise(marks)]


cuts = st.lists(st.integers(0, 2**20), max_size=12)


@pytest.mark.parametrize("wire", SDK)
@some
@given(st.data(), st.integers(0, 2**32), cuts, cuts)
def test_generated_streams(wire: str, drawn: st.DataObject, seed: int, places: list[int], others: list[int]) -> None:
    values = drawn.draw(VALUES[wire])
    tidy, wild = Hand(seed, tidy=True).body(values), Hand(seed, tidy=False).body(values)
    check(wire, cut(tidy, places), cut(wild, others))


@pytest.mark.parametrize("wire", SDK)
@pytest.mark.parametrize("size", [1_009, 65_536, 3_000_001])
@pytest.mark.parametrize("filler", ["x", '"\\\n', "\u2028é😀"])
def test_frames_of_megabytes(wire: str, size: int, filler: str) -> None:
    text = filler * (2_000_000 // len(filler.encode()))
    if wire == OPENAI:
        deltas = [{"index": 0, "delta": {"content": piece}} for piece in ("a", text, "b", text)]
        values: list[Any] = [
            *({"choices": [delta]} for delta in deltas),
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            "[DONE]",
        ]
    elif wire == RESPONSES:
        deltas = [{"type": "response.output_text.delta", "delta": piece} for piece in ("a", text, "b", text)]
        values = [{"type": "response.created", "response": {"id": "c"}}, *deltas]
        values.append({"type": "response.completed", "response": {"id": "c", "output": []}})
    else:
        message = {"id": "c", "type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
        values = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
                for piece in ("a", text, "b", text)
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
    body = "".join(
        (f"event: {value['type']}\n" if "type" in value else "")
        + f"data: {value if value == '[DONE]' else json.dumps(value, ensure_ascii=False)}\n\n"
        for value in values
    ).encode()
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    check(wire, chunks, chunks)
