"""What providers send, and which events it is: whole, byte by byte, and cut in two at every position.

`recorded/` holds streams in the dialects of real providers (shortened, ids made up; the comment on top says what is
particular), and `DIALECTS` the events of each. The variations on them are in `OPENAI`, `RESPONSES` and `ANTHROPIC`, one
idea a row.
Two things hold for any bytes at all, and `read` asserts them every time: the order of the events is legal, and there is
one terminal event. A failure is shown by its error's class.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import (
    ContentFiltered,
    ContextLengthExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    ProviderAuth,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    StreamBroken,
)
from app.events import (
    Event,
    Failed,
    Finished,
    Order,
    ReasoningDelta,
    ReasoningEnded,
    Source,
    Started,
    State,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.providers.anthropic_reader import AnthropicReader
from app.providers.openai_chat_reader import OpenAIChatReader
from app.providers.openai_responses_reader import OpenAIResponsesReader
from app.providers.sse import MAX_FRAME_BYTES
from app.testing import answer
from app.testing.answers import CallArguments, CallStarted, Reasoning, Text
from app.testing.behaviour import parse
from app.testing.framing import Framer
from app.testing.wires import WIRES, Call
from app.testing.wires.anthropic import SIGNATURE

RECORDED = Path(__file__).parent / "recorded"
READERS = {
    "openai_chat": OpenAIChatReader,
    "openai_responses": OpenAIResponsesReader,
    "anthropic_messages": AnthropicReader,
}

# The identity the reader is given, for what the provider's frames leave open.
OURS = Started(id="ours", model="asked", provider="p", created=7)

Seen = list[Event | type[ProviderError]]


def read(wire: str, *chunks: bytes, error: ProviderError | None = None, **options: Any) -> Seen:
    """The events of a body that came in these chunks, and broke with `error` if one is given."""
    return shown(events_of(wire, *chunks, error=error, **options))


def events_of(wire: str, *chunks: bytes, error: ProviderError | None = None, **options: Any) -> list[Event]:
    reader = READERS[wire](OURS, **options)
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    events += reader.finish(error)
    order = Order()
    for event in events:
        order.check(event)
    assert order.state is State.ENDED, "a stream ends by one terminal event"
    assert reader.feed(b"data: {}\n\n") + reader.finish() == [], "nothing follows it"
    return events


def shown(events: list[Event]) -> Seen:
    return [type(event.error) if isinstance(event, Failed) else event for event in events]  # type: ignore[misc]


def one_by_one(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def text(*pieces: str) -> list[Event]:
    return [TextDelta(text=piece) for piece in pieces]


def reasoning(*pieces: str) -> list[Event]:
    return [ReasoningDelta(text=piece) for piece in pieces]


def begun(call_id: str, name: str, *fragments: str) -> list[Event]:
    """A call up to its last fragment."""
    return [ToolCallStarted(call_id=call_id, name=name), *more(call_id, *fragments)]


def more(call_id: str, *fragments: str) -> list[Event]:
    return [ToolCallDelta(call_id=call_id, arguments=fragment) for fragment in fragments]


def ended(call_id: str, name: str, arguments: str) -> list[Event]:
    return [ToolCallEnded(call_id=call_id, name=name, arguments=arguments)]


def usage(input_tokens: int, output_tokens: int, **more: int) -> list[Event]:
    return [Usage(input_tokens=input_tokens, output_tokens=output_tokens, **more)]


def stop(reason: Any = "stop", stop_sequence: str | None = None) -> list[Event]:
    return [Finished(reason=reason, stop_sequence=stop_sequence)]


class Case(NamedTuple):
    name: str
    wire: str
    body: bytes
    events: Seen


DIALECTS: dict[str, Seen] = {
    "openai_chat/openai_text": [
        Started(id="chatcmpl-D1", model="gpt-5-2025-08-07", provider="p", created=1763720000),
        *text("Grüezi", " 東京 👩‍💻"),
        *usage(9, 7),
        *stop(),
    ],
    "openai_chat/openai_tools": [
        Started(id="chatcmpl-T1", model="gpt-5", provider="p", created=1763720001),
        *begun("call_A", "get_weather", '{"city":"Zür', 'ich"}'),
        *begun("call_B", "get_time", "{}"),
        *ended("call_A", "get_weather", '{"city":"Zürich"}'),
        *ended("call_B", "get_time", "{}"),
        *stop("tool_calls"),
    ],
    "openai_chat/azure_filtered": [
        Started(id="chatcmpl-Az", model="gpt-4o", provider="p", created=1763720002),
        *text("It is"),
        *stop("content_filter"),
    ],
    "openai_chat/deepseek_reasoning": [
        Started(id="4f1d", model="deepseek-reasoner", provider="p", created=1763720003),
        *reasoning("Two and", " two."),
        *text("4"),
        *usage(11, 6),
        *stop(),
    ],
    "openai_chat/vllm_reasoning": [
        Started(id="chatcmpl-9a", model="Qwen/Qwen3-8B", provider="p", created=1763720004),
        *reasoning("Hmm."),
        *text("Yes"),
        *usage(14, 4),
        *stop("length"),
    ],
    "openai_chat/mistral_thinking": [
        Started(id="c3c77283055240cb", model="magistral-medium-2509", provider="p", created=1762355135),
        *reasoning("A greeting", ", then."),
        *text("Hello", "!"),
        *usage(5, 10),
        *stop(),
    ],
    "openai_chat/gemini_tools": [
        Started(id="6WdaaOX4", model="gemini-3-flash", provider="p", created=1763720005),
        *begun("function-call-1", "get_weather", '{"location":', '"Sydney"}'),
        *begun("function-call-2", "get_weather", '{"location":"Perth"}'),
        *ended("function-call-1", "get_weather", '{"location":"Sydney"}'),
        *ended("function-call-2", "get_weather", '{"location":"Perth"}'),
        *usage(107, 31),
        *stop("tool_calls"),
    ],
    "openai_chat/openrouter_error": [
        Started(id="gen-1763720006-aB", model="moonshotai/kimi-k2", provider="p", created=1763720006),
        *text("The answer"),
        ProviderRateLimited,
    ],
    "openai_responses/text": [
        Started(id="resp_R1", model="gpt-5-2025-08-07", provider="p", created=1763720007),
        *text("Grüezi", " 東京 👩‍💻"),
        *usage(1200, 15, cached_tokens=1024),
        *stop(),
    ],
    "openai_responses/thinking_tools": [
        Started(id="resp_R2", model="o4-mini", provider="p", created=1763720007),
        *reasoning("**Wea", "ther**", "\n\n", "A tool, then."),
        ReasoningEnded(signature="gAAAAAwhole"),
        *begun("call_A", "get_weather", '{"city":"Zür', 'ich"}'),
        *ended("call_A", "get_weather", '{"city":"Zürich"}'),
        *begun("call_B", "get_time", "{}"),
        *ended("call_B", "get_time", "{}"),
        *usage(60, 150, reasoning_tokens=128),
        *stop("tool_calls"),
    ],
    "openai_responses/web_search": [
        Started(id="resp_R3", model="gpt-5", provider="p", created=1763720007),
        *text("It is sunny."),
        Source(url="https://example.org/w", title="Weather"),
        *usage(300, 40),
        *stop("length"),
    ],
    "openai_responses/failed": [
        Started(id="resp_R4", model="gpt-5", provider="p", created=1763720007),
        *text("The answer"),
        *usage(5, 2),
        ProviderOverloaded,
    ],
    "anthropic_messages/text": [
        Started(id="msg_01A", model="claude-sonnet-4-5", provider="p", created=7, input_tokens=25),
        *text("Grüezi", " 東京 👩‍💻"),
        *usage(25, 15),
        *stop(),
    ],
    "anthropic_messages/thinking_tools": [
        Started(id="msg_01B", model="claude-opus-4-7", provider="p", created=7, input_tokens=472),
        *reasoning("Weather, so", " a tool."),
        ReasoningEnded(signature="EqQBCgIYAhIM1gbcDa9GJwZA2b3h"),
        ReasoningEnded(redacted="EmwKAhgBEgy3va3pzix"),
        *text("Let me look."),
        *begun("toolu_01T", "get_weather", '{"location":', ' "Zürich"}'),
        *ended("toolu_01T", "get_weather", '{"location": "Zürich"}'),
        *begun("toolu_01U", "get_time", "{}"),
        *ended("toolu_01U", "get_time", "{}"),
        *usage(472, 89),
        *stop("tool_calls"),
    ],
    "anthropic_messages/web_search": [
        Started(id="msg_01C", model="claude-opus-4-7", provider="p", created=7, input_tokens=2679),
        Source(url="https://example.com", title="Weather"),
        *text("It is sunny."),
        *usage(10682, 510),
        *stop(),
    ],
    "anthropic_messages/overloaded": [
        Started(id="msg_01D", model="claude-sonnet-4-5", provider="p", created=7, input_tokens=25),
        *text("Hello"),
        ProviderOverloaded,  # and no usage: message_start's one output token is no count of what has come
    ],
}


def recorded(name: str) -> Case:
    return Case(name, name.partition("/")[0], (RECORDED / f"{name}.sse").read_bytes(), DIALECTS[name])


def test_every_recording_has_its_events() -> None:
    assert {f"{wire}/{path.stem}" for wire in READERS for path in (RECORDED / wire).iterdir()} == set(DIALECTS)


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def chunk(delta: Any = None, finish_reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish_reason}
    return data({"id": "c", "created": 9, "model": "m", "choices": [choice], **fields})


def calls(*deltas: dict[str, Any]) -> bytes:
    return chunk({"tool_calls": list(deltas)})


def function(name: str | None = None, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    """A tool call's delta with just these fields."""
    said = {"name": name, "arguments": arguments}
    return {**fields, "function": {key: value for key, value in said.items() if value is not None}}


def tokens(prompt_tokens: Any, completion_tokens: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}


C = Started(id="c", model="m", provider="p", created=9)


def hi(*then: Event | type[ProviderError]) -> Seen:
    """The events of `HI`, and what comes then."""
    return [C, *text("Hi"), *then]


HI = chunk({"role": "assistant", "content": "Hi"})
STOP = chunk(finish_reason="stop")
A, B = '{"a":1}', '{"b":2}'
ONE_CALL: Seen = [C, *begun("A", "f", A), *ended("A", "f", A), *stop("tool_calls")]
TWO_CALLS: Seen = [
    C,
    *[*begun("A", "f", A), *begun("B", "f", B), *ended("A", "f", A), *ended("B", "f", B)],
    *stop("tool_calls"),
]

OPENAI: dict[str, tuple[bytes, Seen]] = {
    # The frame of an answer
    "as little as can be": (data({"choices": [{"delta": {"content": "Hi"}}]}) + DONE, [OURS, *text("Hi"), *stop()]),
    "every optional field is null": (
        data({"id": None, "created": None, "model": None, "usage": None, "error": None, "choices": None})
        + data({"id": None, "choices": [{"index": None, "delta": None, "finish_reason": None}]})
        + chunk(dict.fromkeys(("role", "content", "refusal", "reasoning", "reasoning_content", "tool_calls")))
        + chunk({"content": "Hi", "tool_calls": []}, id=None, model=None, created=None)
        + calls({"index": 0, "id": None, "function": None})
        + calls({"index": 0, "id": "x", "function": {"name": None, "arguments": None}})
        + STOP
        + DONE,
        [
            OURS,
            *text("Hi"),
            *begun("call_0", ""),
            *more("call_0", "{}"),
            *ended("call_0", "", "{}"),
            *stop("tool_calls"),
        ],
    ),
    "created is a float": (
        chunk({"content": "Hi"}, created=1763720000.75) + STOP + DONE,
        [
            Started(id="c", model="m", provider="p", created=1763720000),
            *text("Hi"),
            *stop(),
        ],
    ),
    "names of the first chunk that has any": (
        chunk({"content": "Hi"}, id="", model="", created=0) + HI + STOP + DONE,
        [OURS, *text("Hi", "Hi"), *stop()],
    ),
    "CRLF": ((HI + STOP + DONE).replace(b"\n", b"\r\n"), hi(*stop())),
    "CR": ((HI + STOP + DONE).replace(b"\n", b"\r"), hi(*stop())),
    "byte order mark": (b"\xef\xbb\xbf" + HI + STOP + DONE, hi(*stop())),
    "one JSON in many data lines": (
        b'data: {"id":"c","created":9,\ndata:"model":"m","choices":[\ndata: {"delta":{"content":"Hi"}}]}\n\n'
        + STOP
        + DONE,
        hi(*stop()),
    ),
    "comments, unknown events, unknown fields, blocks without data": (
        b': OPENROUTER PROCESSING\n\n: ping\nevent: ping\ndata: {"type":"ping"}\n\nid: 7\n\nretry: 3\n\n'
        + HI
        + b"event: heartbeat\n\n"
        + data({"object": "provider.heartbeat", "choices": []})
        + b"x-trace: 00\nid: 8\n"
        + STOP
        + DONE,
        hi(*stop()),
    ),
    "data frames for keep-alive: empty, blank, a comment": (
        b"data:\n\n" + HI + b"data: \n\ndata: : keepalive\n\n" + STOP + b"data\n\n" + DONE,
        hi(*stop()),
    ),
    "another choice is not ours": (
        chunk(choices=[{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]) + HI + STOP + DONE,
        hi(*stop()),
    ),
    "a heartbeat before the first chunk names nothing yet": (
        data({"object": "provider.heartbeat", "choices": []}) + HI + STOP + DONE,
        hi(*stop()),
    ),
    # Text
    "text of every plane, and line ends that are none here": (
        chunk({"content": 'é 語 😀 a\u2028b\u2029c\x85d\x0be\r\nf \\n "q" \x00'}) + STOP + DONE,
        [C, *text('é 語 😀 a\u2028b\u2029c\x85d\x0be\r\nf \\n "q" \x00'), *stop()],
    ),
    "escaped text": (
        rb'data: {"id":"c","created":9,"model":"m","choices":[{"delta":{"content":"\ud83d\ude00 \u8a9e \\ud83d"}}]}'
        + b"\n\n"
        + STOP
        + DONE,
        [C, *text("😀 語 \\ud83d"), *stop()],
    ),
    "an emoji cut between its UTF-16 halves": (
        rb'data: {"id":"c","created":9,"model":"m","choices":[{"delta":{"content":"\\ud83d a\ud83d"}}]}'
        + b"\n\n"
        + rb'data: {"choices":[{"delta":{"content":"\uDE00\ud83d\ude00 b"}}]}'
        + b"\n\n"
        + STOP
        + DONE,
        [C, *text("\\ud83d a\ufffd", "\ufffd😀 b"), *stop()],
    ),
    "bytes that are no UTF-8": (
        chunk({"content": "a?b"}).replace(b"?", b"\xff") + STOP + DONE,
        [C, *text("a\ufffdb"), *stop()],
    ),
    "an empty text is no event": (chunk({"content": ""}) + HI + STOP + DONE, hi(*stop())),
    "a refusal is text": (
        chunk({"refusal": "I can't."}) + STOP + DONE,
        [C, TextDelta(text="I can't.", refusal=True), *stop("content_filter")],
    ),
    "a source": (
        HI
        + chunk({"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A"}}]})
        + chunk({"annotations": [{"type": "file_citation"}, 5]})
        + STOP
        + DONE,
        hi(Source(url="https://a.example", title="A"), *stop()),
    ),
    "a signed thought and one in cipher": (
        chunk({"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]})
        + chunk({"reasoning_details": [{"type": "reasoning.text", "signature": "c2ln"}]})
        + chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "eHl6"}, {"type": "odd"}, None]})
        + chunk({"reasoning_details": "odd"})
        + STOP
        + DONE,
        [C, *reasoning("Hm"), ReasoningEnded(signature="c2ln"), ReasoningEnded(redacted="eHl6"), *stop()],
    ),
    "text and finish reason in one chunk": (chunk({"content": "Hi"}, "length") + DONE, hi(*stop("length"))),
    "text after the finish reason is none": (HI + STOP + HI + DONE, hi(*stop())),
    # Reasoning
    "reasoning_content": (
        chunk({"reasoning_content": "Hm"}) + HI + STOP + DONE,
        [C, *reasoning("Hm"), *text("Hi"), *stop()],
    ),
    "reasoning": (chunk({"reasoning": "Hm"}) + HI + STOP + DONE, [C, *reasoning("Hm"), *text("Hi"), *stop()]),
    "both spellings are one": (
        chunk({"reasoning": "Hm", "reasoning_content": "Hm"}) + STOP + DONE,
        [C, *reasoning("Hm"), *stop()],
    ),
    "reasoning and text in one delta": (
        chunk({"content": "Hi", "reasoning": "Hm"}) + STOP + DONE,
        [C, *reasoning("Hm"), *text("Hi"), *stop()],
    ),
    "parts of a type of the future": (
        chunk({"content": [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "Hi"}]}) + STOP + DONE,
        hi(*stop()),
    ),
    # Finish reasons
    **{
        f"finish reason {said}": (HI + chunk(finish_reason=said) + DONE, hi(*stop(ours)))
        for said, ours in {
            "stop": "stop",
            "length": "length",
            "tool_calls": "tool_calls",
            "function_call": "tool_calls",
            "content_filter": "content_filter",
            "model_length": "length",
            "sensitive": "content_filter",
            "eos": "stop",
        }.items()
    },
    **{
        f"finish reason {said} is a failure": (
            HI + chunk({"content": "!"}, said) + DONE,
            [C, *text("Hi", "!"), StreamBroken],
        )
        for said in ("error", "abort", "insufficient_system_resource", "network_error")
    },
    "a failure is said once, though two choices bring it": (
        HI + chunk(choices=[{"finish_reason": "error"}, {"finish_reason": "error"}]),
        hi(StreamBroken),
    ),
    "the first finish reason counts": (HI + STOP + chunk(finish_reason="length") + DONE, hi(*stop())),
    "no finish reason, but [DONE]": (HI + DONE, hi(*stop())),
    "no finish reason, but a call and [DONE]": (
        calls(function("f", A, index=0, id="A")) + DONE,
        ONE_CALL,
    ),
    "stop after a call (forced by name, or Gemini's)": (
        calls(function("f", A, index=0, id="A")) + STOP + DONE,
        ONE_CALL,
    ),
    "length after a call stays": (
        calls(function("f", "{", index=0, id="A")) + chunk(finish_reason="length") + DONE,
        [C, *begun("A", "f", "{"), *ended("A", "f", "{"), *stop("length")],
    ),
    # Usage
    "usage on a chunk of its own": (
        HI + STOP + data({"choices": [], "usage": tokens(3, 4)}) + DONE,
        hi(*usage(3, 4), *stop()),
    ),
    "usage on the finish chunk": (
        HI + chunk(finish_reason="stop", usage=tokens(3, 4)) + DONE,
        hi(*usage(3, 4), *stop()),
    ),
    "usage on every chunk, the last counts": (
        chunk({"content": "Hi"}, usage=tokens(3, 1)) + chunk(finish_reason="stop", usage=tokens(3, 2)) + DONE,
        hi(*usage(3, 2), *stop()),
    ),
    "usage before anything else": (data({"usage": tokens(3, 4)}) + HI + STOP + DONE, hi(*usage(3, 4), *stop())),
    "usage that counts nothing is none": (
        HI + chunk(finish_reason="stop", usage={}) + data({"choices": [], "usage": tokens(3, None)}) + DONE,
        hi(*stop()),
    ),
    "usage in floats, and without a prompt": (
        HI + STOP + data({"choices": [], "usage": tokens(None, 4.0)}) + DONE,
        hi(*usage(0, 4), *stop()),
    ),
    # Tool calls
    "two calls, one after the other": (
        calls(function("f", A, index=0, id="A")) + calls(function("f", B, index=1, id="B")) + STOP + DONE,
        TWO_CALLS,
    ),
    "two calls in one delta": (
        calls(function("f", A, index=0, id="A"), function("f", B, index=1, id="B")) + STOP + DONE,
        TWO_CALLS,
    ),
    "two calls, interleaved": (
        calls(function("f", "", index=0, id="A", type="function"), function("g", "", index=1, id="B", type="function"))
        + calls(function(None, '{"a"', index=0))
        + calls(function(None, '{"b"', index=1))
        + calls(function(None, ":2}", index=1), function(None, ":1}", index=0))
        + STOP
        + DONE,
        [
            C,
            *begun("A", "f"),
            *begun("B", "g"),
            *more("A", '{"a"'),
            *more("B", '{"b"', ":2}"),
            *more("A", ":1}"),
            *ended("A", "f", A),
            *ended("B", "g", B),
            *stop("tool_calls"),
        ],
    ),
    "id, name and type repeated in every delta": (
        calls(function("f", '{"a"', index=0, id="A", type="function"))
        + calls(function("f", ":1}", index=0, id="A", type="function"))
        + STOP
        + DONE,
        [C, *begun("A", "f", '{"a"', ":1}"), *ended("A", "f", A), *stop("tool_calls")],
    ),
    "the name repeated in every delta, the id only once": (
        calls(function("f", '{"a"', index=0, id="A")) + calls(function("f", ":1}", index=0)) + STOP + DONE,
        [C, *begun("A", "f", '{"a"', ":1}"), *ended("A", "f", A), *stop("tool_calls")],
    ),
    "another id with every delta": (
        calls(function("f", '{"a"', index=0, id="A")) + calls(function(None, ":1}", index=0, id="A2")) + STOP + DONE,
        [C, *begun("A", "f", '{"a"', ":1}"), *ended("A", "f", A), *stop("tool_calls")],
    ),
    "every call has the index 0": (
        calls(function("f", A, index=0, id="A"))
        + calls(function("f", "", index=0, id="B"))
        + calls(function(None, B, index=0))
        + STOP
        + DONE,
        TWO_CALLS,
    ),
    "every call has the index 0, and its id in every delta": (
        calls(function("f", '{"a"', index=0, id="A"))
        + calls(function("f", '{"b"', index=0, id="B"))
        + calls(function("f", ":1}", index=0, id="A"))
        + calls(function("f", ":2}", index=0, id="B"))
        + STOP
        + DONE,
        [
            C,
            *begun("A", "f", '{"a"'),
            *begun("B", "f", '{"b"'),
            *more("A", ":1}"),
            *more("B", ":2}"),
            *ended("A", "f", A),
            *ended("B", "f", B),
            *stop("tool_calls"),
        ],
    ),
    "no index": (calls(function("f", A, id="A")) + calls(function("f", B, id="B")) + STOP + DONE, TWO_CALLS),
    "no index, in one delta": (calls(function("f", A, id="A"), function("f", B, id="B")) + STOP + DONE, TWO_CALLS),
    "no index, arguments in pieces": (
        calls(function("f", "{", id="A"))
        + calls(function(None, '"a":1}'))
        + calls(function("f", B, id="B"))
        + STOP
        + DONE,
        [
            C,
            *begun("A", "f", "{", '"a":1}'),
            *begun("B", "f", B),
            *ended("A", "f", A),
            *ended("B", "f", B),
            *stop("tool_calls"),
        ],
    ),
    "an index only at first": (
        calls(function("f", "{", index=0, id="A")) + calls(function(None, '"a":1}')) + STOP + DONE,
        [C, *begun("A", "f", "{", '"a":1}'), *ended("A", "f", A), *stop("tool_calls")],
    ),
    "neither index nor id": (
        calls(function("f", A, id="")) + calls(function("f", B)) + STOP + DONE,
        [
            C,
            *begun("call_0", "f", A),
            *begun("call_1", "f", B),
            *ended("call_0", "f", A),
            *ended("call_1", "f", B),
            *stop("tool_calls"),
        ],
    ),
    "one id for two calls": (
        calls(function("f", A, index=0, id="A"), function("f", B, index=1, id="A")) + STOP + DONE,
        [
            C,
            *begun("A", "f", A),
            *begun("call_1", "f", B),
            *ended("A", "f", A),
            *ended("call_1", "f", B),
            *stop("tool_calls"),
        ],
    ),
    "an id that is ours for another": (
        calls(function("f", A, index=0, id="call_1"), function("f", B, index=1)) + STOP + DONE,
        [
            C,
            *begun("call_1", "f", A),
            *begun("call_2", "f", B),
            *ended("call_1", "f", A),
            *ended("call_2", "f", B),
            *stop("tool_calls"),
        ],
    ),
    "a call without arguments has the empty object": (
        calls(function("f", "", index=0, id="A")) + STOP + DONE,
        [C, *begun("A", "f", "{}"), *ended("A", "f", "{}"), *stop("tool_calls")],
    ),
    "text, a call, text": (
        HI + calls(function("f", A, index=0, id="A")) + HI + STOP + DONE,
        hi(*begun("A", "f", A), *text("Hi"), *ended("A", "f", A), *stop("tool_calls")),
    ),
    # Errors in the stream (WIRE 2.3)
    "an error object": (
        HI + data({"error": {"message": "boom", "type": "server_error", "code": None}}),
        hi(ProviderOverloaded),
    ),
    "an error under its name": (
        HI + b"event: error\n" + data({"error": {"message": "boom", "type": "x"}}),
        hi(ProviderUnavailable),
    ),
    "an error that is a text": (HI + data({"error": "boom"}) + DONE, hi(ProviderUnavailable)),
    "an error, flat": (HI + b"event: error\n" + data({"message": "boom"}), hi(ProviderUnavailable)),
    "an error, flat, of an event we know": (
        HI + b"event: error\n" + data({"message": "slow down", "code": "rate_limit_exceeded"}),
        hi(ProviderRateLimited),
    ),
    "an error whose data is no JSON": (HI + b"event: error\ndata: boom\n\n", hi(StreamBroken)),
    "an error that says nothing is none": (
        data({"error": {}}) + chunk({"content": "Hi"}, error="") + STOP + DONE,
        hi(*stop()),
    ),
    "an error as the first event": (
        data({"error": {"message": "m", "type": "invalid_request_error"}}),
        [ProviderRejected],
    ),
    "an error after the finish reason changes nothing": (HI + STOP + data({"error": {"message": "boom"}}), hi(*stop())),
    "an error, and what the provider counted until then": (
        chunk({"content": "Hi"}, usage=tokens(3, 1)) + data({"error": "boom"}),
        hi(*usage(3, 1), ProviderUnavailable),
    ),
    "an error over an open call": (
        calls(function("f", "{", index=0, id="A")) + data({"error": "boom"}),
        [C, *begun("A", "f", "{"), ProviderUnavailable],
    ),
    "nothing is read behind an error": (data({"error": "boom"}) + HI + STOP + DONE, [ProviderUnavailable]),
    # Streams that break
    "empty": (b"", [StreamBroken]),
    "only comments": (b": ping\n\n: ping\n\n", [StreamBroken]),
    "only [DONE]": (DONE, [StreamBroken]),
    "a whole JSON body instead of a stream": (b'{"id":"c","choices":[{"message":{"content":"Hi"}}]}', [StreamBroken]),
    "a page of HTML": (b"<!doctype html>\n<title>Sign in</title>\n\n<p>data: {}\n", [StreamBroken]),
    "the end in the middle": (HI, hi(StreamBroken)),
    "the end in the middle of a frame": (HI + HI[:40], hi(StreamBroken)),
    "the end in the middle of a call": (
        calls(function("f", "{", index=0, id="A")),
        [C, *begun("A", "f", "{"), StreamBroken],
    ),
    "the last blank line is missing": ((HI + STOP + DONE).rstrip(), hi(*stop())),
    "[DONE] is missing": (HI + STOP, hi(*stop())),
    "[DONE] and the last blank line are missing": ((HI + STOP).rstrip(), hi(*stop())),
    "the end in the middle of the usage": (HI + STOP + data({"choices": [], "usage": tokens(3, 4)})[:30], hi(*stop())),
    "a frame that is no JSON": (HI + b'data: {"choices":[{"del\n\n' + HI + STOP + DONE, hi(StreamBroken)),
    "a frame that is no object": (HI + b"data: 5\n\n" + STOP + DONE, hi(StreamBroken)),
    "content that is no text": (HI + chunk({"content": {"x": 1}}) + STOP + DONE, hi(StreamBroken)),
    "a frame that is no JSON after the finish reason": (HI + STOP + b"data: {\n\n" + DONE, hi(*stop())),
    "nothing is read behind [DONE]": (HI + STOP + DONE + HI + data({"error": "boom"}), hi(*stop())),
}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + data({"type": kind, **fields})


def block(index: int, content_block: Any, *deltas: Any) -> bytes:
    """A content block: its start, its deltas, its stop."""
    body = event("content_block_start", index=index, content_block=content_block)
    body += b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
    return body + event("content_block_stop", index=index)


def said(piece: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": piece}


def json_said(piece: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": piece}


def message_delta(stop_reason: str | None = "end_turn", stop_sequence: str | None = None, **fields: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": stop_reason, "stop_sequence": stop_sequence}, **fields)


TEXT = {"type": "text", "text": ""}
M = Started(id="c", model="m", provider="p", created=7, input_tokens=3)


def hey(*then: Event | type[ProviderError]) -> Seen:
    """The events of `BEGIN` and `HEY`, and what comes then."""
    return [M, *text("Hi"), *then]


BEGIN = event("message_start", message={"id": "c", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}})
HEY = block(0, TEXT, said("Hi"))
END = message_delta(usage={"output_tokens": 4}) + event("message_stop")
WHOLE = hey(*usage(3, 4), *stop())
TWO_USES: Seen = [
    M,
    *[*begun("A", "f", A), *ended("A", "f", A), *begun("B", "f", B), *ended("B", "f", B)],
    *[*usage(3, 4), *stop()],
]


def tool_use(call_id: str | None, name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}, **fields}


ANTHROPIC: dict[str, tuple[bytes, Seen]] = {
    # The frame of an answer
    "as little as can be": (
        data({"type": "message_start"})
        + data({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}})
        + data({"type": "message_stop"}),
        [OURS, *text("Hi"), *stop()],
    ),
    "every optional field is null": (
        event("message_start", message={"id": None, "model": None, "usage": None})
        + event("content_block_start", index=None, content_block=None)
        + event("content_block_delta", index=None, delta=None)
        + block(0, {"type": "text", "text": None}, {"type": "text_delta", "text": None}, said("Hi"))
        + message_delta(None, usage=None)
        + event("message_delta", delta=None)
        + message_delta(usage={"output_tokens": None})
        + event("message_stop"),
        [OURS, *text("Hi"), *stop()],
    ),
    "CRLF": ((BEGIN + HEY + END).replace(b"\n", b"\r\n"), WHOLE),
    "CR": ((BEGIN + HEY + END).replace(b"\n", b"\r"), WHOLE),
    "byte order mark": (b"\xef\xbb\xbf" + BEGIN + HEY + END, WHOLE),
    "without event names": ((BEGIN + HEY + END).replace(b"event: ", b"x: "), WHOLE),
    "pings, comments, keep-alive and events of the future": (
        event("ping")
        + b": hello\n\n"
        + BEGIN
        + event("ping")
        + b"data: \n\n"
        + event("message_paused", delta="x", message=5)
        + event("x", index="zero", content_block=[], error=None, usage=7)
        + HEY
        + data({"hello": 1})
        + data({"type": None})
        + END,
        WHOLE,
    ),
    "a second message_start is passed over": (BEGIN + BEGIN + HEY + END, WHOLE),
    "[DONE] after the end": (BEGIN + HEY + END + DONE, WHOLE),
    "nothing is read behind message_stop": (BEGIN + HEY + END + HEY + event("error", error={"type": "x"}), WHOLE),
    # Blocks
    "text of every plane": (
        BEGIN + block(0, TEXT, said("é 語 😀 a\u2028b\u2029c\x85d\x0be\r\nf")) + END,
        [M, *text("é 語 😀 a\u2028b\u2029c\x85d\x0be\r\nf"), *usage(3, 4), *stop()],
    ),
    "a text that begins in its block's start": (BEGIN + block(0, {"type": "text", "text": "Hi"}) + END, WHOLE),
    "thinking that begins in its block's start": (
        BEGIN + block(0, {"type": "thinking", "thinking": "H"}, {"type": "thinking_delta", "thinking": "m"}) + END,
        [M, *reasoning("H", "m"), *usage(3, 4), *stop()],
    ),
    "blocks and deltas of the future": (
        BEGIN + block(0, {"type": "hologram", "id": "h"}, {"type": "hologram_delta", "text": "no"}) + HEY + END,
        WHOLE,
    ),
    "indices that do not start at 0": (BEGIN + block(4, TEXT, said("Hi")) + END, WHOLE),
    "a block that is never stopped": (
        BEGIN
        + event("content_block_start", index=0, content_block=TEXT)
        + event("content_block_delta", index=0, delta=said("Hi"))
        + END,
        WHOLE,
    ),
    # Tool calls
    "two calls": (
        BEGIN
        + block(0, tool_use("A", "f"), json_said(""), json_said(A))
        + block(1, tool_use("B", "f"), json_said(B))
        + END,
        TWO_USES,
    ),
    "calls whole in their start": (
        BEGIN + block(0, tool_use("A", "f", input={"a": 1})) + block(1, tool_use("B", "f", input={"b": 2})) + END,
        TWO_USES,
    ),
    "two calls in open blocks, interleaved": (
        BEGIN
        + event("content_block_start", index=0, content_block=tool_use("A", "f"))
        + event("content_block_start", index=1, content_block=tool_use("B", "g"))
        + event("content_block_delta", index=1, delta=json_said(B))
        + event("content_block_delta", index=0, delta=json_said(A))
        + event("content_block_stop", index=0)
        + event("content_block_stop", index=1)
        + END,
        [
            M,
            *begun("A", "f"),
            *begun("B", "g"),
            *more("B", B),
            *more("A", A),
            *ended("A", "f", A),
            *ended("B", "g", B),
            *usage(3, 4),
            *stop(),
        ],
    ),
    "a call that is never stopped": (
        BEGIN
        + event("content_block_start", index=0, content_block=tool_use("A", "f"))
        + event("content_block_delta", index=0, delta=json_said(A))
        + END,
        [M, *begun("A", "f", A), *ended("A", "f", A), *usage(3, 4), *stop()],
    ),
    "a block over an open one": (
        BEGIN
        + event("content_block_start", index=0, content_block=tool_use("A", "f"))
        + block(0, tool_use("B", "f"), json_said(B))
        + END,
        [
            M,
            *begun("A", "f", "{}"),
            *ended("A", "f", "{}"),
            *begun("B", "f", B),
            *ended("B", "f", B),
            *usage(3, 4),
            *stop(),
        ],
    ),
    "one id for two calls, and none": (
        BEGIN
        + block(0, tool_use("A", "f"), json_said(A))
        + block(1, tool_use("A", "f"), json_said(B))
        + block(2, tool_use(None, "g"), json_said("{}"))
        + END,
        [
            M,
            *begun("A", "f", A),
            *ended("A", "f", A),
            *begun("call_1", "f", B),
            *ended("call_1", "f", B),
            *begun("call_2", "g", "{}"),
            *ended("call_2", "g", "{}"),
            *usage(3, 4),
            *stop(),
        ],
    ),
    # The end
    **{
        f"stop reason {theirs}": (
            BEGIN + HEY + message_delta(theirs, usage={"output_tokens": 4}) + event("message_stop"),
            hey(*usage(3, 4), *stop(ours)),
        )
        for theirs, ours in {
            "end_turn": "stop",
            "max_tokens": "length",
            "tool_use": "tool_calls",
            "pause_turn": "stop",
            "refusal": "content_filter",
            "model_context_window_exceeded": "length",
            "of_the_future": "stop",
        }.items()
    },
    "a stop sequence": (
        BEGIN + HEY + message_delta("stop_sequence", "###", usage={"output_tokens": 4}) + event("message_stop"),
        hey(*usage(3, 4), *stop("stop", "###")),
    ),
    "the input is counted at the end": (
        event("message_start", message={"id": "c", "model": "m", "usage": {"input_tokens": 0, "output_tokens": 0}})
        + HEY
        + message_delta(usage={"input_tokens": 30, "output_tokens": 4})
        + event("message_stop"),
        [Started(id="c", model="m", provider="p", created=7), *text("Hi"), *usage(30, 4), *stop()],
    ),
    "the output is counted nowhere": (BEGIN + HEY + message_delta() + event("message_stop"), hey(*stop())),
    "message_delta is missing": (BEGIN + HEY + event("message_stop"), hey(*stop())),
    "message_stop is missing": (BEGIN + HEY + message_delta(usage={"output_tokens": 4}), WHOLE),
    "message_stop has no blank line": ((BEGIN + HEY + END).rstrip(), WHOLE),
    "[DONE] instead of message_stop": (BEGIN + HEY + message_delta(usage={"output_tokens": 4}) + DONE, WHOLE),
    # Errors in the stream
    "an error": (
        BEGIN + HEY + event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        hey(ProviderOverloaded),
    ),
    "an error without its name": (
        BEGIN + HEY + data({"type": "error", "error": {"type": "rate_limit_error"}}),
        hey(ProviderRateLimited),
    ),
    "an error without its type": (
        BEGIN + HEY + b"event: error\n" + data({"error": {"type": "rate_limit_error"}}),
        hey(ProviderRateLimited),
    ),
    "an error, flat": (BEGIN + HEY + event("error", message="boom"), hey(ProviderUnavailable)),
    "an error that is a text": (BEGIN + HEY + event("error", error="boom"), hey(ProviderUnavailable)),
    "an error as the first event": (
        event("error", error={"type": "authentication_error", "message": "no"}),
        [ProviderAuth],
    ),
    "an error after the stop reason changes nothing": (
        BEGIN + HEY + message_delta(usage={"output_tokens": 4}) + event("error", error={"type": "api_error"}),
        WHOLE,
    ),
    "an error over an open call": (
        BEGIN
        + event("content_block_start", index=0, content_block=tool_use("A", "f"))
        + event("error", error={"type": "overloaded_error"}),
        [M, *begun("A", "f"), ProviderOverloaded],
    ),
    # Streams that break
    "empty": (b"", [StreamBroken]),
    "only pings": (event("ping") * 2, [StreamBroken]),
    "only [DONE]": (DONE, [StreamBroken]),
    "the beginning is missing": (HEY + END, [StreamBroken]),
    "the end in the middle": (BEGIN + HEY, hey(StreamBroken)),
    "the end in the middle of a frame": (BEGIN + HEY + END[:40], hey(StreamBroken)),
    "a frame that is no JSON": (
        BEGIN + HEY + b'event: content_block_delta\ndata: {"type":"con\n\n' + END,
        hey(StreamBroken),
    ),
    "a delta that is no delta": (
        BEGIN + HEY + event("content_block_delta", index=0, delta="x") + END,
        hey(StreamBroken),
    ),
    "a frame that is no JSON after the stop reason": (
        BEGIN + HEY + message_delta(usage={"output_tokens": 4}) + b"data: {\n\n",
        WHOLE,
    ),
}


def response(kind: str, **fields: Any) -> bytes:
    """An event of the response's life."""
    said = {"id": "c", "created_at": 9, "model": "m", **fields}
    return event(f"response.{kind}", response=said)


def item_added(index: int, item: Any) -> bytes:
    return event("response.output_item.added", output_index=index, item=item)


def item_done(index: int, item: Any) -> bytes:
    return event("response.output_item.done", output_index=index, item=item)


def delta(kind: str, piece: str, index: int = 0, **fields: Any) -> bytes:
    return event(f"response.{kind}.delta", output_index=index, delta=piece, **fields)


def arguments(piece: str, index: int, **fields: Any) -> bytes:
    return delta("function_call_arguments", piece, index, **fields)


def called(call_id: str | None, name: str, said: str = "", item_id: str | None = None) -> dict[str, Any]:
    return {"type": "function_call", "id": item_id, "call_id": call_id, "name": name, "arguments": said}


def counts(input_tokens: Any, output_tokens: Any) -> dict[str, Any]:
    return {"usage": {"input_tokens": input_tokens, "output_tokens": output_tokens}}


CREATED = response("created")
SAID = delta("output_text", "Hi", item_id="M", content_index=0, logprobs=[])
COMPLETED = response("completed", **counts(3, 4))
FINE = hi(*usage(3, 4), *stop())
MESSAGE = {"type": "message", "id": "M", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
TWO_ITEMS: Seen = [
    C,
    *[*begun("A", "f", A), *ended("A", "f", A), *begun("B", "f", B), *ended("B", "f", B)],
    *[*usage(3, 4), *stop("tool_calls")],
]

RESPONSES: dict[str, tuple[bytes, Seen]] = {
    # The frame of an answer
    "as little as can be": (
        data({"type": "response.created"})
        + data({"type": "response.output_text.delta", "delta": "Hi"})
        + data({"type": "response.completed"}),
        [OURS, *text("Hi"), *stop()],
    ),
    "every optional field is null": (
        event("response.created", response=None)
        + response("in_progress", id=None, created_at=None, model=None, usage=None, output=None, error=None)
        + item_added(0, None)
        + item_done(0, None)
        + event("response.output_item.added", output_index=None, item=MESSAGE)
        + event("response.output_text.delta", delta=None, output_index=None, error=None)
        + event("response.output_text.annotation.added", annotation=None)
        + event("response.function_call_arguments.delta", delta=None, item_id=None)
        + SAID
        + event("response.completed", response={"usage": None, "output": None, "incomplete_details": None}),
        [OURS, *text("Hi"), *stop()],
    ),
    "created is a float": (
        response("created", created_at=1763720000.75) + SAID + COMPLETED,
        [Started(id="c", model="m", provider="p", created=1763720000), *text("Hi"), *usage(3, 4), *stop()],
    ),
    "CRLF": ((CREATED + SAID + COMPLETED).replace(b"\n", b"\r\n"), FINE),
    "CR": ((CREATED + SAID + COMPLETED).replace(b"\n", b"\r"), FINE),
    "byte order mark": (b"\xef\xbb\xbf" + CREATED + SAID + COMPLETED, FINE),
    "without event names": ((CREATED + SAID + COMPLETED).replace(b"event: ", b"x: "), FINE),
    "comments, keep-alive, events and items of the future": (
        b": ping\n\n"
        + event("keepalive")
        + response("queued")
        + event("response.shell_call_output_content.delta", delta={"stdout": "no"}, output_index="x")
        + event("response.x", item=[], response=7, usage=7, annotation=5)
        + item_added(0, {"type": "hologram", "id": 5, "arguments": {"a": 1}, "content": "no", "summary": 7})
        + delta("hologram", "no")
        + item_done(0, {"type": "hologram", "id": 5, "arguments": {"a": 1}, "content": "no", "summary": 7})
        + data({"hello": 1})
        + data({"type": None})
        + SAID
        + COMPLETED,
        FINE,
    ),
    "created only once": (CREATED + CREATED + response("in_progress") + SAID + COMPLETED, FINE),
    "[DONE] after the end": (CREATED + SAID + COMPLETED + DONE, FINE),
    "nothing is read behind the end": (CREATED + SAID + COMPLETED + SAID + event("error", error={"type": "x"}), FINE),
    # Text
    "text of every plane": (
        CREATED + delta("output_text", "é 語 😀 a\u2028b\u2029c\x85d\x0be\r\nf") + COMPLETED,
        [C, *text("é 語 😀 a\u2028b\u2029c\x85d\x0be\r\nf"), *usage(3, 4), *stop()],
    ),
    "a refusal says so": (
        CREATED + delta("refusal", "I can't.") + COMPLETED,
        [C, TextDelta(text="I can't.", refusal=True), *usage(3, 4), *stop("content_filter")],
    ),
    "an empty delta is no event": (CREATED + delta("output_text", "") + SAID + COMPLETED, FINE),
    "the ends of parts repeat what was said": (
        CREATED
        + item_added(0, {**MESSAGE, "content": []})
        + SAID
        + event("response.output_text.done", output_index=0, text="Hi")
        + event("response.content_part.done", output_index=0, part={"type": "output_text", "text": "Hi"})
        + item_done(0, MESSAGE)
        + response("completed", output=[MESSAGE], **counts(3, 4)),
        FINE,
    ),
    "a message that comes whole": (CREATED + item_done(0, MESSAGE) + COMPLETED, FINE),
    "a refusal that comes whole": (
        CREATED + item_done(0, {**MESSAGE, "content": [{"type": "refusal", "refusal": "No."}]}) + COMPLETED,
        [C, TextDelta(text="No.", refusal=True), *usage(3, 4), *stop("content_filter")],
    ),
    "an answer that comes whole": (
        CREATED + response("completed", output=[MESSAGE, called("A", "f", A), {"type": "x", "id": 5}], **counts(3, 4)),
        hi(*begun("A", "f", A), *ended("A", "f", A), *usage(3, 4), *stop("tool_calls")),
    ),
    "nothing but its last event": (response("completed", output=[MESSAGE], **counts(3, 4)), FINE),
    "a message with two parts, and two messages": (
        CREATED
        + SAID
        + delta("output_text", "!", content_index=1)
        + item_done(0, MESSAGE)
        + delta("output_text", "Ho", 1)
        + item_done(1, MESSAGE)
        + COMPLETED,
        hi(*text("!", "Ho"), *usage(3, 4), *stop()),
    ),
    "sources": (
        CREATED
        + SAID
        + event("response.output_text.annotation.added", annotation={"type": "url_citation", "url": "u"})
        + event("response.output_text.annotation.added", annotation={"type": "file_citation", "file_id": "f"})
        + COMPLETED,
        hi(Source(url="u"), *usage(3, 4), *stop()),
    ),
    # Reasoning
    "the thought itself, of open models": (
        CREATED + delta("reasoning_text", "Hm", content_index=0) + delta("output_text", "Hi", 1) + COMPLETED,
        [C, *reasoning("Hm"), *text("Hi"), *usage(3, 4), *stop()],
    ),
    "a thought that comes whole": (
        CREATED
        + item_done(0, {"type": "reasoning", "summary": [{"text": "H"}, {"text": "m"}], "encrypted_content": "E"})
        + SAID
        + COMPLETED,
        [C, *reasoning("H\n\nm"), ReasoningEnded(signature="E"), *text("Hi"), *usage(3, 4), *stop()],
    ),
    "a thought that only the provider can read": (
        CREATED + item_done(0, {"type": "reasoning", "summary": [], "encrypted_content": "E"}) + SAID + COMPLETED,
        [C, ReasoningEnded(redacted="E"), *text("Hi"), *usage(3, 4), *stop()],
    ),
    "a thought that nobody can read": (
        CREATED + item_done(0, {"type": "reasoning", "summary": []}) + SAID + COMPLETED,
        FINE,
    ),
    # Function calls
    "calls one after the other": (
        CREATED
        + (
            item_added(0, called("A", "f", item_id="x"))
            + arguments(A, 0, item_id="x")
            + item_done(0, called("A", "f", A))
        )
        + (
            item_added(1, called("B", "f", item_id="y"))
            + arguments(B, 1, item_id="y")
            + item_done(1, called("B", "f", B))
        )
        + COMPLETED,
        TWO_ITEMS,
    ),
    "calls at the same time": (
        CREATED
        + item_added(0, called("A", "f", item_id="x"))
        + item_added(1, called("B", "f", item_id="y"))
        + arguments(B, 1, item_id="y")
        + arguments(A, 0, item_id="x")
        + item_done(1, called("B", "f", B, "y"))
        + item_done(0, called("A", "f", A, "x"))
        + COMPLETED,
        [
            C,
            *[*begun("A", "f"), *begun("B", "f", B), *more("A", A), *ended("B", "f", B), *ended("A", "f", A)],
            *[*usage(3, 4), *stop("tool_calls")],
        ],
    ),
    "calls told apart by their items' ids alone": (
        CREATED
        + item_added(0, called("A", "f", item_id="x"))
        + item_added(0, called("B", "f", item_id="y"))
        + arguments(A, 0, item_id="x")
        + item_done(0, called("A", "f", A, "x"))
        + arguments(B, 0, item_id="y")
        + item_done(0, called("B", "f", B, "y"))
        + COMPLETED,
        [
            C,
            *[*begun("A", "f"), *begun("B", "f"), *more("A", A), *ended("A", "f", A), *more("B", B)],
            *[*ended("B", "f", B), *usage(3, 4), *stop("tool_calls")],
        ],
    ),
    "calls told apart by their index alone": (
        CREATED
        + (item_added(0, called("A", "f")) + arguments(A, 0) + item_done(0, called("A", "f", A)))
        + (item_added(1, called("B", "f")) + arguments(B, 1) + item_done(1, called("B", "f", B)))
        + COMPLETED,
        TWO_ITEMS,
    ),
    "calls that come whole": (
        CREATED + item_done(0, called("A", "f", A)) + item_done(1, called("B", "f", B)) + COMPLETED,
        TWO_ITEMS,
    ),
    "arguments that come whole": (
        CREATED
        + item_added(0, called("A", "f"))
        + event("response.function_call_arguments.done", output_index=0, arguments=A)
        + item_done(0, called("A", "f", A))
        + (item_added(1, called("B", "f")) + item_done(1, called("B", "f", B)))
        + COMPLETED,
        TWO_ITEMS,
    ),
    "arguments that are said again, whole": (
        CREATED
        + item_added(0, called("A", "f"))
        + arguments(A, 0)
        + event("response.function_call_arguments.done", output_index=0, arguments=A)
        + response("completed"),
        [C, *begun("A", "f", A), *ended("A", "f", A), *stop("tool_calls")],
    ),
    "a call without arguments": (
        CREATED + item_added(0, called("A", "f")) + item_done(0, called("A", "f")) + response("completed"),
        [C, *begun("A", "f", "{}"), *ended("A", "f", "{}"), *stop("tool_calls")],
    ),
    "a call with its item's id alone, and one without any": (
        CREATED + item_done(0, called(None, "f", A, "x")) + item_done(1, called(None, "f", B)) + response("completed"),
        [
            C,
            *[*begun("x", "f", A), *ended("x", "f", A), *begun("call_1", "f", B), *ended("call_1", "f", B)],
            *stop("tool_calls"),
        ],
    ),
    "two calls of one id": (
        CREATED + item_done(0, called("A", "f", A)) + item_done(1, called("A", "f", B)) + response("completed"),
        [
            C,
            *[*begun("A", "f", A), *ended("A", "f", A), *begun("call_1", "f", B), *ended("call_1", "f", B)],
            *stop("tool_calls"),
        ],
    ),
    "arguments of no call": (CREATED + SAID + arguments(A, 7, item_id="?") + COMPLETED, FINE),
    # Finish reasons
    **{
        f"incomplete by {said}": (
            CREATED + SAID + response("incomplete", incomplete_details={"reason": said}, **counts(3, 4)),
            hi(*usage(3, 4), *stop(ours)),
        )
        for said, ours in {
            "max_output_tokens": "length",
            "content_filter": "content_filter",
            "steered": "stop",
            None: "stop",
        }.items()
    },
    "incomplete over an open call": (
        CREATED
        + item_added(0, called("A", "f"))
        + arguments("{", 0)
        + response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
        [C, *begun("A", "f", "{"), *ended("A", "f", "{"), *stop("length")],
    ),
    # Usage
    "usage in detail": (
        CREATED
        + SAID
        + response(
            "completed",
            usage={
                "input_tokens": 9.0,
                "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
                "output_tokens": 7,
                "output_tokens_details": {"reasoning_tokens": 4},
            },
        ),
        hi(*usage(9, 7, cached_tokens=5, cache_write_tokens=2, reasoning_tokens=4), *stop()),
    ),
    "usage with nulls": (
        CREATED
        + SAID
        + response("completed", usage={"input_tokens": None, "output_tokens": 7, "input_tokens_details": None}),
        hi(*usage(0, 7), *stop()),
    ),
    # Errors in the stream
    "an error": (
        CREATED + SAID + event("error", error={"type": "tokens", "code": "rate_limit_exceeded", "message": "x"}),
        hi(ProviderRateLimited),
    ),
    "an error, flat": (CREATED + SAID + event("error", code="server_error", message="x"), hi(ProviderOverloaded)),
    "an error, flat, with a null object": (
        CREATED + SAID + event("error", error=None, code="server_error", message="x"),
        hi(ProviderOverloaded),
    ),
    "an error without its name": (
        CREATED + SAID + data({"type": "error", "code": "rate_limit_exceeded", "message": "x"}),
        hi(ProviderRateLimited),
    ),
    "an error of a proxy": (CREATED + SAID + data({"error": {"message": "x", "code": 502}}), hi(ProviderOverloaded)),
    "an error that is a text": (CREATED + SAID + data({"error": "boom"}), hi(ProviderUnavailable)),
    "an error as the first event": (
        event("error", error={"type": "invalid_request_error", "message": "m"}),
        [ProviderRejected],
    ),
    "an error whose data is no JSON": (CREATED + SAID + b"event: error\ndata: boom\n\n", hi(StreamBroken)),
    "an error over an open call": (
        CREATED + item_added(0, called("A", "f")) + arguments("{", 0) + event("error", error={"type": "server_error"}),
        [C, *begun("A", "f", "{"), ProviderOverloaded],
    ),
    "an error after the end changes nothing": (CREATED + SAID + COMPLETED + event("error", error={"type": "x"}), FINE),
    **{
        f"failed by {said}": (CREATED + SAID + response("failed", error={"code": said, "message": "x"}), hi(ours))
        for said, ours in {
            "server_error": ProviderOverloaded,
            "rate_limit_exceeded": ProviderRateLimited,
            "invalid_prompt": ProviderRejected,
            "image_file_not_found": ProviderRejected,
            "failed_to_download_image": ProviderRejected,
            "bio_policy": ProviderRejected,
            "image_content_policy_violation": ContentFiltered,
            "vector_store_timeout": ProviderUnavailable,
        }.items()
    },
    "failed without a word": (CREATED + SAID + response("failed", error=None), hi(ProviderUnavailable)),
    "failed at once": (response("failed", error={"code": "server_error", "message": "x"}), [ProviderOverloaded]),
    # Streams that break
    "empty": (b"", [StreamBroken]),
    "only comments": (b": ping\n\n: ping\n\n", [StreamBroken]),
    "only [DONE]": (DONE, [StreamBroken]),
    "a whole JSON body instead of a stream": (b'{"id":"c","object":"response","output":[]}', [StreamBroken]),
    "the beginning is missing": (SAID + COMPLETED, [StreamBroken]),
    "the end in the middle": (CREATED + SAID, hi(StreamBroken)),
    "[DONE] in the middle": (CREATED + SAID + DONE, hi(StreamBroken)),
    "the end before the last event": (CREATED + SAID + item_done(0, MESSAGE), hi(StreamBroken)),
    "the last blank line is missing": ((CREATED + SAID + COMPLETED).rstrip(), FINE),
    "a frame that is no JSON": (CREATED + SAID + b'data: {"type":"response.out\n\n' + COMPLETED, hi(StreamBroken)),
    "a delta that is no text": (CREATED + SAID + delta("output_text", {"x": 1}) + COMPLETED, hi(StreamBroken)),  # type: ignore[arg-type]
    "an item that is none": (CREATED + SAID + item_done(0, [1]) + COMPLETED, hi(StreamBroken)),
    "a call that is none": (
        CREATED + SAID + item_done(0, {"type": "function_call", "arguments": {}}) + COMPLETED,
        hi(StreamBroken),
    ),
}


CASES = [
    *(recorded(name) for name in DIALECTS),
    *(Case(f"openai: {name}", "openai_chat", *case) for name, case in OPENAI.items()),
    *(Case(f"responses: {name}", "openai_responses", *case) for name, case in RESPONSES.items()),
    *(Case(f"anthropic: {name}", "anthropic_messages", *case) for name, case in ANTHROPIC.items()),
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "_") for case in CASES])


@every_case
def test_whole(case: Case) -> None:
    assert read(case.wire, case.body) == case.events


@every_case
def test_byte_by_byte(case: Case) -> None:
    assert read(case.wire, *one_by_one(case.body)) == case.events


@every_case
def test_cut_in_two_at_every_position(case: Case) -> None:
    for at in range(len(case.body)):
        assert read(case.wire, case.body[:at], case.body[at:]) == case.events, f"cut at {at}"


@every_case
def test_broken_off_at_every_position(case: Case) -> None:
    """It fails, and keeps what came before; or the answer was whole already, and only its usage may be missing."""
    *said, last = [event for event in case.events if not isinstance(event, Usage)]
    for at in range(len(case.body)):
        *kept, end = [event for event in read(case.wire, case.body[:at]) if not isinstance(event, Usage)]
        assert kept == (said if isinstance(end, Finished) else said[: len(kept)]), f"broken off at {at}"
        assert end == last or isinstance(end, type), f"broken off at {at}"


@pytest.mark.parametrize("wire", READERS)
@pytest.mark.parametrize("inner", [b"[" * 5000, b'{"a":' * 5000, b"[" * 5000 + b"]" * 5000])
@pytest.mark.parametrize(
    "frame",
    [
        b"data: %s",
        b'data: {"error":%s}',
        b'event: error\ndata: {"error":%s}',
        b'data: {"choices":[{"delta":{"content":%s}}]}',
        b'data: {"type":"content_block_start","content_block":{"type":"tool_use","input":%s}}',
    ],
)
def test_nested_beyond_all_measure(wire: str, inner: bytes, frame: bytes) -> None:
    assert read(wire, BEGIN + frame % inner + b"\n\n")[-1:] == [StreamBroken]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"type": "server_error", "message": "x"}, ProviderOverloaded),
        ({"type": "tokens", "code": "rate_limit_exceeded", "message": "x"}, ProviderRateLimited),
        ({"type": "insufficient_quota", "message": "x"}, ProviderRateLimited),
        ({"type": "invalid_request_error", "code": "invalid_api_key", "message": "x"}, ProviderAuth),
        ({"type": "invalid_request_error", "code": "context_length_exceeded", "message": "x"}, ContextLengthExceeded),
        ({"code": "content_filter", "message": "x"}, ContentFiltered),
        ({"type": "invalid_request_error", "message": "x"}, ProviderRejected),
        # An HTTP status as the code, from those who could not send it any more (OpenRouter, vLLM, llama.cpp)
        ({"code": 400, "type": "BadRequestError", "message": "x"}, ProviderRejected),
        ({"code": 401, "message": "x"}, ProviderAuth),
        ({"code": 408, "message": "x"}, ProviderUnavailable),
        ({"code": 429, "message": "x"}, ProviderRateLimited),
        ({"code": "429", "message": "x"}, ProviderRateLimited),
        ({"code": 502, "message": "x"}, ProviderOverloaded),
        ({"code": 1234, "message": "x"}, ProviderUnavailable),
        ({"message": None, "type": None, "code": None}, ProviderUnavailable),
        ({"message": ["x"], "type": {"a": 1}, "code": [2]}, ProviderUnavailable),
        ([1, 2], ProviderUnavailable),
        (True, ProviderUnavailable),
    ],
)  # fmt: skip
def test_an_openai_error_object_is_one_of_our_errors(error: Any, expected: type[ProviderError]) -> None:
    assert read("openai_chat", data({"error": error})) == [expected]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("invalid_request_error", ProviderRejected),
        ("authentication_error", ProviderAuth),
        ("permission_error", ProviderAuth),
        ("not_found_error", ProviderRejected),
        ("request_too_large", ProviderRejected),
        ("rate_limit_error", ProviderRateLimited),
        ("timeout_error", ProviderUnavailable),
        ("api_error", ProviderOverloaded),
        ("overloaded_error", ProviderOverloaded),
        ("of_the_future", ProviderUnavailable),
    ],
)
def test_an_anthropic_error_type_is_one_of_our_errors(kind: str, expected: type[ProviderError]) -> None:
    assert read("anthropic_messages", event("error", error={"type": kind, "message": "x"})) == [expected]


@pytest.mark.parametrize("wire", READERS)
def test_the_error_names_the_provider_and_what_it_said_without_its_key(wire: str) -> None:
    body = b"event: error\n" + data(
        {"type": "error", "error": {"type": "overloaded_error", "message": "key KEY-1 at http://10.0.0.7:80/x is busy"}}
    )
    *_, last = events_of(wire, body, secret="KEY-1")
    assert isinstance(last, Failed)
    assert "'p'" in last.error.message
    assert "key [key] at [url] is busy" in last.error.message


@pytest.mark.parametrize(
    ("wire", "began", "done"),
    [
        ("openai_chat", HI, STOP),
        ("openai_responses", CREATED + SAID, response("completed")),
        ("anthropic_messages", BEGIN + HEY, message_delta()),
    ],
    ids=list(READERS),
)
class TestTheConnectionBreaks:
    """`finish(error)`: reading the body failed, or a clock has rung."""

    @pytest.mark.parametrize("error", [IdleTimeout, FirstTokenTimeout, StreamBroken])
    def test_the_answer_fails_with_that_error(
        self, wire: str, began: bytes, done: bytes, error: type[ProviderError]
    ) -> None:
        assert read(wire, error=error("x")) == [error]
        assert read(wire, began, error=error("x"))[-1] is error

    def test_half_a_frame_is_not_read_any_more(self, wire: str, began: bytes, done: bytes) -> None:
        assert read(wire, began + done.rstrip(), error=IdleTimeout("x"))[-1] is IdleTimeout

    def test_after_the_finish_reason_nothing_that_breaks_matters(self, wire: str, began: bytes, done: bytes) -> None:
        assert read(wire, began + done, error=IdleTimeout("x"))[-1:] == stop()
        assert read(wire, began + done, b"data: " + b"x" * MAX_FRAME_BYTES)[-1:] == stop()

    def test_a_frame_without_end_breaks_the_answer(self, wire: str, began: bytes, done: bytes) -> None:
        assert read(wire, began, b"data: " + b"x" * MAX_FRAME_BYTES)[-1] is StreamBroken

    def test_answered_says_that_only_the_tail_is_open(self, wire: str, began: bytes, done: bytes) -> None:
        reader = READERS[wire](OURS)
        reader.feed(began)
        assert reader.answered is False
        reader.feed(done)
        assert reader.answered is True


def test_keep_model_names_the_model_as_we_know_it() -> None:
    assert read("openai_chat", HI + STOP + DONE, keep_model=True)[0] == Started(
        id="c", model="asked", provider="p", created=9
    )


def test_events_come_with_the_read_that_completes_their_frame() -> None:
    reader = OpenAIChatReader(OURS)
    assert reader.feed(HI[:-1]) == []
    assert reader.feed(HI[-1:]) == [C, *text("Hi")]
    assert reader.feed(HI + HI + STOP) == text("Hi", "Hi")
    assert reader.feed(DONE) == stop()


OF_PATH = {
    "/v1/chat/completions": "openai_chat",
    "/v1/responses": "openai_responses",
    "/v1/messages": "anthropic_messages",
}


@pytest.mark.parametrize("path", WIRES)
@pytest.mark.parametrize("manner", ["", "-crlf", "-comments", "-split", "-drip", "-crlf-comments-split"])
@pytest.mark.parametrize("model", ["fake-n12-uni-think3", "fake-n2-tool2-uni", "fake-md", "fake-n3-len"])
def test_the_fake_providers_answers_come_through(path: str, manner: str, model: str) -> None:
    told = answer(model + manner)
    behaviour = parse(model + manner)
    wire = WIRES[path]
    call = Call(behaviour, {"stream_options": {"include_usage": True}}, id="1", created=9, key="")
    framer = Framer(behaviour, wire.unknown_frame())
    sent = [part for frame in wire.frames(call, told) for part in framer.feed(frame)] + framer.finish()
    seen = read(OF_PATH[path], *(unchunked(part) for part in sent))

    expected: list[Event] = []
    thinks = False
    for delta in told.deltas:
        if thinks and not isinstance(delta, Reasoning):
            thinks = False
            expected.append(ReasoningEnded(signature=SIGNATURE))
        thinks = isinstance(delta, Reasoning) and path == "/v1/messages"
        match delta:
            case Reasoning(text=piece):
                expected += reasoning(piece)
            case Text(text=piece):
                expected += text(piece)
            case CallStarted(id=call_id, name=name):
                expected += begun(call_id, name)
            case CallArguments(index, fragment):
                expected += more(told.tool_calls[index].id, fragment)
    assert [event for event in seen[1:-2] if not isinstance(event, ToolCallEnded)] == expected
    ends = [event for event in seen if isinstance(event, ToolCallEnded)]
    assert ends == [end for made in told.tool_calls for end in ended(*made)]
    thought = 0 if path == "/v1/messages" else told.reasoning_tokens  # which does not say how many
    counted = Usage(input_tokens=told.input_tokens, output_tokens=told.output_tokens, reasoning_tokens=thought)
    assert seen[-2:] == [counted, *stop(told.finish_reason)]


def unchunked(part: bytes) -> bytes:
    """An HTTP chunk's data."""
    size, _, rest = part.partition(b"\r\n")
    return rest[: int(size, 16)]


many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

wires = st.sampled_from(list(READERS))
# JSON of any shape under the names that the readers know: what a type error is made of.
NAMES = (
    "id", "model", "created", "choices", "usage", "error", "index", "delta", "finish_reason", "content", "refusal",
    "reasoning", "tool_calls", "function", "name", "arguments", "prompt_tokens", "completion_tokens", "type", "code",
    "message", "content_block", "text", "thinking", "input", "partial_json", "stop_reason", "input_tokens",
    "output_tokens", "signature", "data", "citation", "url", "title", "annotations", "url_citation",
    "reasoning_details", "prompt_tokens_details", "cached_tokens", "cache_read_input_tokens", "response", "item",
    "item_id", "output_index", "call_id", "summary", "part", "annotation",
)  # fmt: skip
WORDS = (
    "", "Hi", "A", "stop", "error", "text", "tool_use", "text_delta", "input_json_delta", "message_start",
    "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop", "thinking",
    "redacted_thinking", "signature_delta", "citations_delta", "url_citation", "reasoning.text", "reasoning.encrypted",
    "response.created", "response.output_item.added", "response.output_item.done", "response.output_text.delta",
    "response.function_call_arguments.delta", "response.completed", "function_call", "message", "reasoning",
)  # fmt: skip
words = st.sampled_from(WORDS)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-1, 3), st.just(sys.maxsize * 9), st.floats(), words)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A body of ours with some of it doubled, dropped, overwritten, or swapped for another's."""
    body = draw(st.sampled_from(CASES)).body
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 80)))
        other = draw(st.sampled_from(CASES)).body
        at = draw(st.integers(0, len(other)))
        filling = draw(
            st.one_of(st.just(b""), st.just(body[start:end] * 2), st.just(other[at : at + 80]), st.binary(max_size=4))
        )
        body = body[:start] + filling + body[end:]
    return body


@st.composite
def calls_that_agree_with_nothing(draw: st.DrawFn) -> bytes:
    """A tool call's index, id and name, on either wire, without any order."""
    index = draw(st.integers(0, 2))
    said_id = draw(st.sampled_from(["", "A", "B", "call_0", "call_1", None]))
    begun_there = event("content_block_start", index=index, content_block=tool_use(said_id, "f"))
    return (
        begun_there
        if draw(st.booleans())
        else calls(
            function(draw(st.sampled_from(["f", None])), "x", index=draw(st.sampled_from([index, None])), id=said_id)
        )
    )


# Frames of both protocols, well formed, in any order, and meaning anything. Most are of the other one, or of none.
frames = st.one_of(
    st.sampled_from([HI, STOP, HEY, END, event("content_block_stop", index=0), block(0, tool_use("A", "f"))]),
    st.sampled_from([SAID, COMPLETED, item_done(0, MESSAGE), item_added(0, called("A", "f")), arguments(A, 0)]),
    calls_that_agree_with_nothing(),
    values.map(data),
    values.map(chunk),
    values.map(lambda value: calls(value, value)),
    st.builds(
        lambda kind, value: event(kind, delta=value, content_block=value, usage=value, item=value, response=value),
        words,
        values,
    ),
)


BEGUN = {"openai_chat": HI, "openai_responses": CREATED, "anthropic_messages": BEGIN}


def check_any(wire: str, body: bytes, size: int) -> None:
    """Legal events and one end, which `read` asserts, and the same ones in chunks of `size`."""
    assert read(wire, *(body[at : at + size] for at in range(0, len(body), size))) == read(wire, body)


@many
@given(wires, st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_give_legal_events_and_one_end(wire: str, body: bytes, size: int) -> None:
    check_any(wire, body, size)


@many
@given(wires, mutated(), st.integers(1, 50))
def test_any_mutation_does(wire: str, body: bytes, size: int) -> None:
    check_any(wire, body, size)


@many
@given(wires, st.lists(frames, max_size=12), st.integers(1, 50))
def test_any_frames_do(wire: str, body: list[bytes], size: int) -> None:
    check_any(wire, BEGUN[wire] + b"".join(body), size)


@many
@given(wires, st.lists(calls_that_agree_with_nothing(), max_size=12))
def test_any_tool_calls_do(wire: str, body: list[bytes]) -> None:
    check_any(wire, BEGUN[wire] + b"".join(body) + STOP + END, 50)
