"""The wire formats: what each reads as a request, and writes as an answer, whole or in a stream, and as an error.

`recorded/written/` holds one answer (`ANSWER`) as each format writes it, byte by byte: read these files for what a
client gets. The rules that all of them obey, and why, are WIRE section 0's.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from app import errors
from app.errors import InvalidRequest, MethodNotAllowed, ProviderOverloaded, RateLimited, SluicewayError
from app.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    IllegalOrder,
    Order,
    ReasoningDelta,
    ReasoningEnded,
    Source,
    Started,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.formats import FORMATS
from app.formats.base import WholeAnswer, json_bytes
from app.providers.anthropic_reader import AnthropicReader
from app.providers.openai_chat_reader import OpenAIChatReader
from app.providers.openai_responses_reader import OpenAIResponsesReader
from app.providers.sse import FrameSplitter, read_frames
from app.request import ChatRequest, Message, Schema, Shape, Text, Tool, ToolCall, ToolChoice, ToolResult

WRITTEN = Path(__file__).parent / "recorded" / "written"
SSE = [name for name in FORMATS if FORMATS[name]().mimetype == "text/event-stream"]
SIMPLE = ["plain_text", "text_sse", "token_sse", "meta_sse"]
NATIVE = ["native", "ndjson"]
UI = ["ai_sdk", "agui"]

many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
every_format = pytest.mark.parametrize("name", list(FORMATS))

USER = {"role": "user", "content": "Hi"}
HI = (Message.of("user", "Hi"),)
CALLS = {
    "role": "assistant",
    "tool_calls": [{"call_id": "c1", "name": "clock", "arguments": {"zone": "UTC"}}],
}
RESULT = {"role": "tool", "call_id": "c1", "result": {"time": "12:00"}}


def parsed(name: str, body: dict[str, Any], **headers: str) -> ChatRequest:
    return FORMATS[name]().parse(body, headers)


def refused(name: str, body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        parsed(name, body)
    return refusal.value


def written(name: str, *batches: list[Event], include_usage: bool = True) -> bytes:
    """The batches in a format's bytes."""
    body = {"threadId": "t1", "runId": "r1", "messages": []}
    request = ChatRequest(dialect="native", body=body, messages=HI, include_usage=include_usage)
    encoder = FORMATS[name]().encoder(request)
    return b"".join(encoder.feed(batch) for batch in batches)


IMAGE_IN_DETAIL = {"type": "image_url", "image_url": {"url": "x", "detail": "low"}}


class TestOpenAIRequests:
    def test_the_least(self) -> None:
        body = {"messages": [USER]}
        assert parsed("openai_chat", body) == ChatRequest(dialect="openai", body=body, messages=HI, stream=False)

    def test_everything_that_other_protocols_know_too(self) -> None:
        body = {
            "model": "gpt-5",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": ""},
            ],
            "max_tokens": 5,
            "temperature": 2,
            "top_p": 0.5,
            "stop": "END",
            "n": 1,
            "stream": True,
            "stream_options": {"include_usage": True, "include_obfuscation": False},
        }
        assert parsed("openai_chat", body) == ChatRequest(
            dialect="openai",
            body=body,
            model="gpt-5",
            messages=(Message.of("user", "Hi"), Message.of("assistant", "Hello"), Message.of("user", "")),
            system="Be brief.\n\nBe kind.",
            max_tokens=5,
            temperature=2.0,
            top_p=0.5,
            stop=("END",),
            stream=True,
            include_usage=True,
        )

    def test_null_is_not_given(self) -> None:
        names = ("model", "max_tokens", "temperature", "top_p", "stop", "n", "stream", "stream_options", "tools")
        body = {"messages": [USER], **dict.fromkeys(names)}
        assert parsed("openai_chat", body) == ChatRequest(dialect="openai", body=body, messages=HI, stream=False)

    def test_the_newer_name_of_max_tokens_goes_first(self) -> None:
        body = {"messages": [USER], "max_completion_tokens": 7, "max_tokens": 5}
        assert parsed("openai_chat", body).max_tokens == 7

    @pytest.mark.parametrize(
        ("fields", "foreign"),
        [
            ({"seed": 1, "tools": [{"type": "function"}]}, ("seed", "tools[0]")),
            ({"seed": None, "tools": [], "metadata": {}}, ()),
            ({"logprobs": False, "presence_penalty": 0, "store": False, "service_tier": "auto"}, ()),
            ({"logprobs": True, "presence_penalty": 0.5}, ("logprobs", "presence_penalty")),
            ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, ("tools[0]",)),
            ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, ("tool_choice",)),
            ({"response_format": {"type": "json_object"}}, ("response_format",)),
            ({"reasoning_effort": "ultra"}, ("reasoning_effort",)),
            ({"messages": [USER, {"role": "system", "content": "late"}]}, ("messages[1].role",)),
            (
                {"messages": [USER, {"role": "function", "name": "f", "content": "4"}]},
                ("messages[1].name", "messages[1].role"),
            ),
            ({"messages": [{**USER, "name": "bob"}]}, ("messages[0].name",)),
            (
                {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "A"}]}]},
                ("messages[1].tool_calls[0]",),
            ),
            # As OpenAI's own message comes back from a client that appends it to the conversation.
            ({"messages": [{"role": "assistant", "content": "Hi", "refusal": None, "annotations": []}, USER]}, ()),
            (
                {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}]},
                ("messages[0].content[0]",),
            ),
            (
                {"messages": [{"role": "user", "content": [IMAGE_IN_DETAIL]}]},
                ("messages[0].content[0].image_url.detail",),
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": 1}]}]},
                ("messages[0].content[0].cache_control",),
            ),
        ],
    )  # fmt: skip
    def test_what_only_this_protocol_knows_is_noted_by_name(
        self, fields: dict[str, Any], foreign: tuple[str, ...]
    ) -> None:
        """It goes to a provider of this protocol unchanged; to another one the request is refused, naming the first."""
        assert parsed("openai_chat", {"messages": [USER], **fields}).foreign == foreign

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": "Hi"}, "messages"),
            ({"messages": ["Hi"]}, "messages[0]"),
            ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0]"),
            ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
            ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
            ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages[0].content[0].type"),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
            ({"messages": [USER], "model": ""}, "model"),
            ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
            ({"messages": [USER], "max_tokens": "5"}, "max_tokens"),
            ({"messages": [USER], "max_tokens": True}, "max_tokens"),
            ({"messages": [USER], "max_completion_tokens": 1.5}, "max_completion_tokens"),
            ({"messages": [USER], "temperature": 2.1}, "temperature"),
            ({"messages": [USER], "temperature": "1"}, "temperature"),
            ({"messages": [USER], "top_p": -0.1}, "top_p"),
            ({"messages": [USER], "stop": 5}, "stop"),
            ({"messages": [USER], "stop": ["a", 5]}, "stop[1]"),
            ({"messages": [USER], "stream": "true"}, "stream"),
            ({"messages": [USER], "stream_options": True}, "stream_options"),
            ({"messages": [USER], "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
            ({"messages": [USER], "n": 2}, "n"),
            ({"messages": [USER], "n": 0}, "n"),
        ],
    )  # fmt: skip
    def test_a_refusal_names_its_field(self, body: dict[str, Any], param: str) -> None:
        error = refused("openai_chat", body)
        assert error.param == param
        assert error.message.startswith(param)


class TestAnthropicRequests:
    def test_the_least(self) -> None:
        body = {"messages": [USER]}
        assert parsed("anthropic_messages", body) == ChatRequest(
            dialect="anthropic", body=body, messages=HI, stream=False, include_usage=True
        )

    def test_everything_that_other_protocols_know_too(self) -> None:
        body = {
            "model": "claude-sonnet-4-5",
            "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": "Hello"},
            ],
            "max_tokens": 5,
            "temperature": 1,
            "top_p": 0.5,
            "stop_sequences": ["END"],
            "stream": True,
        }
        headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x", "x-api-key": "k"}
        assert parsed("anthropic_messages", body, **headers) == ChatRequest(
            dialect="anthropic",
            body=body,
            headers={"anthropic-version": "2023-06-01", "anthropic-beta": "x"},
            model="claude-sonnet-4-5",
            messages=(Message.of("user", "Hi"), Message.of("assistant", "Hello")),
            system="Be brief.",
            max_tokens=5,
            temperature=1.0,
            top_p=0.5,
            stop=("END",),
            stream=True,
            include_usage=True,
        )

    @pytest.mark.parametrize(
        ("fields", "foreign"),
        [
            ({"thinking": {"type": "enabled"}, "tools": [], "metadata": None}, ("thinking",)),
            ({"system": [{"type": "text", "text": "x", "cache_control": {"ttl": "1h"}}]}, ()),
            ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, ("tools[0]",)),
            ({"top_k": 5, "service_tier": "auto"}, ("top_k",)),
            ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, ("messages[0].content[0]",)),
            ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, ("messages[0].content[0]",)),
            ({"system": [{"type": "image"}]}, ("system[0]",)),
            ({"messages": [USER, {"role": "system", "content": "late"}]}, ("messages[1].role",)),
            ({"messages": [{**USER, "name": "bob"}]}, ("messages[0].name",)),
            ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, ("messages[0].content[0]",)),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "citations": []}]}]}, ()),
        ],
    )  # fmt: skip
    def test_what_only_this_protocol_knows_is_noted_by_name(
        self, fields: dict[str, Any], foreign: tuple[str, ...]
    ) -> None:
        assert parsed("anthropic_messages", {"messages": [USER], **fields}).foreign == foreign

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages[0].content[0].type"),
            ({"messages": [USER], "system": 5}, "system"),
            ({"messages": [USER], "system": ["x"]}, "system[0]"),
            ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
            ({"messages": [USER], "temperature": 1.1}, "temperature"),
            ({"messages": [USER], "stop_sequences": "END"}, "stop_sequences"),
            ({"messages": [USER], "stream": 1}, "stream"),
            ({"messages": [USER], "model": ""}, "model"),
        ],
    )
    def test_a_refusal_names_its_field(self, body: dict[str, Any], param: str) -> None:
        error = refused("anthropic_messages", body)
        assert error.param == param
        assert error.message.startswith(param)


@pytest.mark.parametrize("name", NATIVE)
class TestNativeRequests:
    @pytest.mark.parametrize("body", [{"prompt": "Hi"}, {"message": "Hi"}, {"messages": [USER]}])
    def test_three_ways_to_ask_the_same(self, name: str, body: dict[str, Any]) -> None:
        assert parsed(name, body) == ChatRequest(dialect="native", messages=HI)

    def test_every_public_field(self, name: str) -> None:
        body = {
            "model": "openai/gpt-5",
            "messages": [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Hello"}],
            "max_tokens": 5,
            "temperature": 0,
            "top_p": 1,
            "stop": ["END"],
            "stream": False,
            "format": "ndjson",
            "shape": "token",
            "resumable": False,
        }
        assert parsed(name, body) == ChatRequest(
            dialect="native",
            model="openai/gpt-5",
            messages=(*HI, Message.of("assistant", "Hello")),
            system="Be brief.",
            max_tokens=5,
            temperature=0.0,
            top_p=1.0,
            stop=("END",),
            stream=False,
        )

    def test_a_conversation_with_tools_in_it(self, name: str) -> None:
        """The events of an answer's calls and results can be put back as they came."""
        call = {"type": "tool_call", "call_id": "c2", "name": "clock", "arguments": '{"zone": '}
        spoken = {**CALLS, "content": "Let me see.", "tool_calls": [*CALLS["tool_calls"], call]}
        failed = {"role": "tool", "call_id": "c2", "name": "clock", "error": "no JSON"}
        tools = ["clock", {"name": "search", "parameters": {"type": "object"}}, "clock"]
        body = {"messages": [USER, spoken, RESULT, failed], "tools": tools, "tool_choice": {"name": "clock"}}
        asked = parsed(name, body)
        assert asked.messages == (
            *HI,
            Message(
                "assistant",
                (Text("Let me see."), ToolCall("c1", "clock", '{"zone":"UTC"}'), ToolCall("c2", "clock", '{"zone": ')),
            ),
            Message(
                "user",
                (ToolResult("c1", (Text('{"time":"12:00"}'),)), ToolResult("c2", (Text("no JSON"),), failed=True)),
            ),
        )
        assert asked.tools == (Tool("search", parameters={"type": "object"}),)
        assert asked.served == ("clock",)
        assert asked.tool_choice == ToolChoice("tool", "clock")

    @pytest.mark.parametrize(
        "said",
        [
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
        ],
    )
    def test_the_answer_s_json_and_its_shape(self, name: str, said: Any) -> None:
        asked = parsed(name, {"prompt": "a", "response_format": said, "shape": {"unit": "block", "max_wait_ms": 50}})
        assert asked.schema == Schema({"type": "object"}, "n", strict=True)
        assert asked.partials
        assert asked.shape == Shape("block", 0, 50)
        bare = parsed(name, {"prompt": "a", "response_format": {"type": "object"}, "shape": "sentence"})
        assert bare.schema == Schema({"type": "object"})
        assert bare.shape == Shape("sentence")
        assert parsed(name, {"prompt": "a", "response_format": {"type": "text"}}) == parsed(name, {"prompt": "a"})

    def test_one_stop_is_a_list_of_one(self, name: str) -> None:
        assert parsed(name, {"prompt": "Hi", "stop": "END"}).stop == ("END",)

    @pytest.mark.parametrize(
        ("body", "param", "message"),
        [
            ({}, "messages", "give one of messages, prompt or message; found none of them"),
            ({"prompt": "a", "message": "b"}, "message", "give one of messages, prompt or message; found prompt and "),
            ({"prompt": ""}, "prompt", "prompt: "),
            ({"messages": []}, "messages", "messages: "),
            ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "messages[0].role: "),
            ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].call_id", "messages[0].call_id is "),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "messages[0].c"),
            ({"messages": [{**USER, "nick": "bob"}]}, "messages[0].nick", "unknown field 'messages[0].nick'"),
            ({"messages": [{**USER, "name": "bob"}]}, "messages[0]", "messages[0]: call_id, name, "),
            ({"messages": [{**USER, "tool_calls": []}]}, "messages[0].tool_calls", "messages[0].tool_calls: only an "),
            ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content", "messages[1].content is required"),
            ({"messages": [USER, CALLS]}, "messages[1]", "messages[1]: the tool call 'c1' has no result"),
            ({"messages": [USER, CALLS, {**RESULT, "call_id": "c2"}]}, "messages[2]", "messages[2]: 'c2' is no "),
            ({"messages": [USER, CALLS, {**RESULT, "error": "x"}]}, "messages[2].result", "messages[2]: give one of "),
            ({"messages": [USER, {"role": "system", "content": "x"}]}, "messages[1]", "messages[1]: a system message "),
            ({"messages": [{"role": "system", "content": "x"}]}, "messages", "messages: a user message is required"),
            ({"messages": [{"role": "system", "content": "x"}, USER], "system": "y"}, "system", "give the system "),
            ({"prompt": "a", "max_tokns": 5}, "max_tokns", "unknown field 'max_tokns'; known: format, max_tokens, "),
            # The client's own word, whatever it looks like to pydantic.
            ({"prompt": "a", "max-tokens": 5}, "max-tokens", "unknown field 'max-tokens'; known: format, max_tokens, "),
            ({"prompt": "a", "list": 5}, "list", "unknown field 'list'; known: format, "),
            ({"prompt": "a", "": 5}, None, "unknown field ''; known: format, "),
            ({"prompt": "a", "max_tokens": "5"}, "max_tokens", "max_tokens: "),
            ({"prompt": "a", "temperature": 3}, "temperature", "temperature: "),
            ({"prompt": "a", "top_p": 0}, "top_p", "top_p: "),
            ({"prompt": "a", "stop": [5]}, "stop[0]", "stop[0]: "),
            ({"prompt": "a", "stop": ["x"] * 17}, "stop", "stop: "),
            ({"prompt": "a", "stream": "no"}, "stream", "stream: "),
            ({"prompt": "a", "format": "xml"}, "format", "format: should be 'sse' or 'ndjson'"),
            ({"prompt": "a", "shape": "sentences"}, "shape", "shape: should be "),
            ({"prompt": "a", "shape": 5}, "shape", "shape: should be "),
            ({"prompt": "a", "shape": {"unit": "word"}}, "shape.unit", "shape.unit: "),
            ({"prompt": "a", "shape": {"min_chars": -1}}, "shape.min_chars", "shape.min_chars: "),
            ({"prompt": "a", "shape": {"max_wait_ms": 0}}, "shape.max_wait_ms", "shape.max_wait_ms: "),
            ({"prompt": "a", "shape": {"size": 1}}, "shape.size", "shape: unknown field 'size'; "),
            ({"prompt": "a", "response_format": "json"}, "response_format", "response_format: should be "),
            ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format", "response_format: say "),
            (
                {"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {}}},
                "response_format.json_schema.schema",
                "response_format.json_schema.schema is required",
            ),
            ({"prompt": "a", "tool_choice": "any"}, "tool_choice", "tool_choice: should be "),
            ({"prompt": "a", "tool_choice": {}}, "tool_choice.name", "tool_choice.name is required"),
            ({"prompt": "a", "resumable": True, "stream": False}, "resumable", "resumable: "),
            ({"prompt": "a", "tools": "clock"}, "tools", "tools: should be an array"),
            ({"prompt": "a", "tools": [5]}, "tools[0]", "tools[0]: should be an object, or the name of one "),
        ],
    )  # fmt: skip
    def test_a_refusal_names_its_field(self, name: str, body: dict[str, Any], param: str, message: str) -> None:
        error = refused(name, body)
        assert error.param == param
        assert error.message.startswith(message)

    def test_a_misspelt_field_is_guessed(self, name: str) -> None:
        assert refused(name, {"prompt": "a", "max_tokns": 5}).message.endswith("Did you mean 'max_tokens'?")


@pytest.mark.parametrize("name", SIMPLE)
class TestSimpleRequests:
    @pytest.mark.parametrize(
        "body",
        [
            {"prompt": "Hi", "system": "Be brief."},
            {"message": "Hi", "system_prompt": "Be brief."},
            {"messages": [USER], "system": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, USER]},
        ],
    )
    def test_the_ways_to_ask_the_same(self, name: str, body: dict[str, Any]) -> None:
        assert parsed(name, {**body, "model": "m", "max_tokens": 5}) == ChatRequest(
            dialect="native", messages=HI, system="Be brief.", model="m", max_tokens=5
        )

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "prompt"),
            ({"prompt": "a", "messages": [USER]}, "messages"),
            ({"prompt": 5}, "prompt"),
            ({"message": ""}, "message"),
            ({"messages": "Hi"}, "messages"),
            ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
            ({"prompt": "a", "system": "x", "system_prompt": "y"}, "system_prompt"),
            ({"messages": [{"role": "system", "content": "x"}, USER], "system": "y"}, "system"),
            ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
            ({"prompt": "a", "model": ""}, "model"),
            ({"prompt": "a", "temperature": 1}, "temperature"),
        ],
    )
    def test_a_refusal_names_its_field(self, name: str, body: dict[str, Any], param: str) -> None:
        assert refused(name, body).param == param


COUNTED = Usage(input_tokens=9, output_tokens=7)
ANSWER: list[Event] = [
    Started(id="a1", model="m", provider="p", created=1763720000, input_tokens=9),
    ReasoningDelta(text="Hm"),
    TextDelta(text='Hé 😀 "\\\n'),
    TextDelta(text="\u2028\u2029\x85\x0b"),
    ToolCallStarted(call_id="A", name="get_weather"),
    ToolCallDelta(call_id="A", arguments='{"city": '),
    ToolCallStarted(call_id="B", name="get_time"),
    ToolCallDelta(call_id="B", arguments="{}"),
    TextDelta(text="!"),
    ToolCallDelta(call_id="A", arguments='"Zürich"}'),
    ToolCallEnded(call_id="A", name="get_weather", arguments='{"city": "Zürich"}'),
    ToolCallEnded(call_id="B", name="get_time", arguments="{}"),
    COUNTED,
    Finished(reason="tool_calls", usage=COUNTED, timings=Timings(ttft_s=0.5, duration_s=1.25)),
]
STARTED, HELLO = ANSWER[0], TextDelta(text="Hello")


@every_format
def test_an_answer_is_written_so(name: str) -> None:
    (file,) = WRITTEN.glob(f"{name}.*")
    assert written(name, ANSWER) == file.read_bytes()


def test_every_recording_has_its_format() -> None:
    assert sorted(file.stem for file in WRITTEN.iterdir()) == sorted(FORMATS)


def test_openai_writes_usage_only_if_asked_for() -> None:
    asked = written("openai_chat", ANSWER)
    usage_chunk = next(frame for frame in asked.split(b"\n\n") if b'"choices":[]' in frame) + b"\n\n"
    assert written("openai_chat", ANSWER, include_usage=False) == asked.replace(usage_chunk, b"").replace(
        b',"usage":null', b""
    )


@pytest.mark.parametrize(
    ("reason", "openai", "anthropic"),
    [
        ("stop", "stop", "end_turn"),
        ("length", "length", "max_tokens"),
        ("tool_calls", "tool_calls", "tool_use"),
        ("content_filter", "content_filter", "refusal"),
        ("cancelled", "stop", "end_turn"),
    ],
)
def test_every_finish_reason_has_its_word(reason: FinishReason, openai: str, anthropic: str) -> None:
    end: list[Event] = [STARTED, Finished(reason=reason)]
    assert f'"finish_reason":"{openai}"'.encode() in written("openai_chat", end)
    assert f'"stop_reason":"{anthropic}"'.encode() in written("anthropic_messages", end)
    assert f'"reason":"{reason}"'.encode() in written("native", end)


def test_anthropic_names_the_stop_sequence() -> None:
    body = written("anthropic_messages", [STARTED, Finished(reason="stop", stop_sequence="###")])
    assert b'"delta":{"stop_reason":"stop_sequence","stop_sequence":"###"}' in body


# Answers: any legal order, tool calls interleaved in every way, any characters.

texts = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["\u2028", "\x85\u2029", "data: x\n\n", "\r\n", "\ufeff", "😀"]
)
tokens = st.integers(0, 10**6)


RARE = ("refusal", "signed", "redacted", "source")


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    ids = st.lists(texts | st.sampled_from(["text", "thinking", "call_0"]), unique=True, max_size=4)
    to_begin = list(draw(ids))
    fragments: dict[str, list[str]] = {}  # of the open calls
    names = defaultdict(lambda: draw(texts))
    events: list[Event] = [
        Started(id=draw(texts), model=draw(texts), provider="p", created=draw(st.integers(1, 2**40)))
    ]

    def end(call_id: str) -> Iterator[Event]:
        if not fragments[call_id]:
            fragments[call_id] = ["{}"]
            yield ToolCallDelta(call_id=call_id, arguments="{}")
        yield ToolCallEnded(call_id=call_id, name=names[call_id], arguments="".join(fragments.pop(call_id)))

    for step in draw(
        st.lists(st.sampled_from(["text", "reasoning", "begin", "fragment", "fragment", "end", *RARE]), max_size=20)
    ):
        if step == "text":
            events.append(TextDelta(text=draw(texts)))
        elif step == "reasoning":
            events.append(ReasoningDelta(text=draw(texts)))
        elif step == "refusal":
            events.append(TextDelta(text=draw(texts), refusal=True))
        elif step == "signed" and isinstance(events[-1], ReasoningDelta):
            events.append(ReasoningEnded(signature=draw(texts)))
        elif step == "redacted":
            events.append(ReasoningEnded(redacted=draw(texts)))
        elif step == "source":
            events.append(Source(url=draw(texts), title=draw(st.just("") | texts)))
        elif step == "begin" and to_begin:
            call_id = to_begin.pop()
            fragments[call_id] = []
            events.append(ToolCallStarted(call_id=call_id, name=names[call_id]))
        elif step == "fragment" and fragments:
            call_id = draw(st.sampled_from(sorted(fragments)))
            fragments[call_id].append(draw(texts))
            events.append(ToolCallDelta(call_id=call_id, arguments=fragments[call_id][-1]))
        elif step == "end" and fragments:
            events += end(draw(st.sampled_from(sorted(fragments))))
    for call_id in sorted(fragments):
        events += end(call_id)
    cached, written, thought = draw(tokens), draw(tokens), draw(tokens)
    usage = Usage(
        input_tokens=draw(tokens) + cached + written,
        output_tokens=draw(tokens) + thought,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=thought,
    )
    reason: FinishReason = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter", "cancelled"]))
    timings = Timings(ttft_s=draw(st.none() | st.floats(0, 9)), duration_s=draw(st.floats(0, 9)))
    sequence = draw(st.none() | texts) if reason == "stop" else None
    return [*events, usage, Finished(reason=reason, usage=usage, timings=timings, stop_sequence=sequence)]


@st.composite
def endings(draw: st.DrawFn) -> list[Event]:
    """An answer, or its beginning and a failure."""
    events = draw(answers())
    if draw(st.booleans()):
        return events
    return [*events[: draw(st.integers(0, len(events) - 1))], Failed(error=ProviderOverloaded(draw(texts)))]


@many
@given(endings())
def test_the_answers_of_these_tests_are_legal(events: list[Event]) -> None:
    order = Order()
    for event in events:
        order.check(event)


@every_format
@many
@given(events=endings(), data=st.data())
def test_batching_changes_no_byte(name: str, events: list[Event], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(events)))
    whole = written(name, events)
    assert written(name, *([event] for event in events)) == whole
    assert written(name, events[:at], events[at:]) == whole


# WIRE section 0: one data line a frame and a blank line at its end, `\n`, no BOM; `id:` on native frames alone.
FRAME = {
    "openai_chat": rb"data: [^\r\n]+\n\n",
    "openai_responses": rb"event: (?:response\.[a-z_.]+|error)\ndata: \{[^\r\n]+\}\n\n",
    "anthropic_messages": rb"event: [a-z_]+\ndata: \{[^\r\n]+\}\n\n",
    "native": rb"(?:id: [1-9][0-9]*\n(?:event: error\n)?)?data: [^\r\n]+\n\n",
    "text_sse": rb"(?:event: error\n)?data: [^\r\n]+\n\n",
    "token_sse": rb"data: [^\r\n]+\n\n",
    "meta_sse": rb"data: \{[^\r\n]+\}\n\n",
    "ai_sdk": rb"data: [^\r\n]+\n\n",
    "agui": rb"data: \{[^\r\n]+\}\n\n",
}


@pytest.mark.parametrize("name", SSE)
@many
@given(events=endings())
def test_frames_that_no_client_stumbles_over(name: str, events: list[Event]) -> None:
    body = written(name, events)
    assert re.fullmatch(rb"(?:%s)*" % FRAME[name], body)
    splitter = FrameSplitter()
    frames = read_frames(splitter.feed(body))
    assert splitter.finish() == b""
    assert len(frames) == len(re.findall(FRAME[name], body))
    for frame in frames:
        assert frame.data == b"[DONE]" or isinstance(json.loads(frame.data), dict)
    # What `str.splitlines` splits at, for clients that read lines so; and nothing else is lost by it.
    assert len(body.decode().splitlines()) == body.count(b"\n")


@many
@given(endings())
def test_ndjson_is_one_object_a_line_numbered_from_1(events: list[Event]) -> None:
    lines = written("ndjson", events).decode().splitlines()
    said = [event for event in events if not isinstance(event, ReasoningEnded | Source)]
    assert [json.loads(line)["event_id"] for line in lines] == list(range(1, len(said) + 1))


@many
@given(events=endings())
def test_native_sse_and_ndjson_say_the_same(events: list[Event]) -> None:
    frames = read_frames(written("native", events))
    objects = [json.loads(line) for line in written("ndjson", events).splitlines()]
    said = [{key: value for key, value in each.items() if key != "event_id"} for each in objects]
    assert [json.loads(frame.data) for frame in frames[:-1]] == said
    assert frames[-1].data == b"[DONE]"


def folded(events: list[Event]) -> WholeAnswer:
    answer = WholeAnswer()
    answer.feed(events)
    return answer


def ended(answer: WholeAnswer) -> FinishReason:
    """How OpenAI's protocols say `stop` and mean more."""
    return "content_filter" if answer.refused else "tool_calls" if answer.calls else "stop"


def calls(answer: WholeAnswer) -> list[ToolCallEnded]:
    return sorted(answer.calls, key=lambda call: call.call_id)


@many
@given(answers())
def test_what_is_written_for_openai_is_read_back(events: list[Event]) -> None:
    told, body = folded(events), written("openai_chat", events)
    reader = OpenAIChatReader(Started(id="ours", model="ours", provider="p", created=7))
    read = folded(reader.feed(body) + reader.finish())
    assert (read.text, read.reasoning, calls(read)) == (told.text, told.reasoning, calls(told))
    assert (read.thoughts, read.sources, read.refused) == (told.thoughts, told.sources, told.refused)
    assert read.usage == replace(told.usage, cache_write_tokens=0)  # of which this protocol does not speak
    assert read.start == told.start
    assert told.finish is not None
    # This protocol has no word for `cancelled`, and a provider's `stop` after a call is read as `tool_calls`.
    reason = "stop" if told.finish.reason == "cancelled" else told.finish.reason
    assert read.finish == Finished(reason=ended(told) if reason == "stop" else reason)


@many
@given(answers())
def test_what_is_written_for_responses_is_read_back(events: list[Event]) -> None:
    told, body = folded(events), written("openai_responses", events)
    reader = OpenAIResponsesReader(Started(id="ours", model="ours", provider="p", created=7))
    read = folded(reader.feed(body) + reader.finish())
    assert (read.text, read.reasoning, calls(read), read.usage) == (told.text, told.reasoning, calls(told), told.usage)
    assert read.start == told.start
    assert told.finish is not None
    # This protocol has no word for `cancelled`, and says `tool_calls` by the calls alone.
    reason = told.finish.reason if told.finish.reason in ("length", "content_filter") else "stop"
    assert read.finish == Finished(reason=ended(told) if reason == "stop" else reason)


@many
@given(answers())
def test_what_is_written_for_anthropic_is_read_back(events: list[Event]) -> None:
    told, body = folded(events), written("anthropic_messages", events)
    reader = AnthropicReader(Started(id="ours", model="ours", provider="p", created=7))
    read = folded(reader.feed(body) + reader.finish())
    assert (read.text, read.reasoning, calls(read)) == (told.text, told.reasoning, calls(told))
    assert read.thoughts == told.thoughts
    assert read.usage == replace(told.usage, reasoning_tokens=0)  # of which this protocol does not speak
    assert told.start is not None
    assert read.start == Started(id=told.start.id, model=told.start.model, provider="p", created=7)
    assert told.finish is not None
    reason: FinishReason = "stop" if told.finish.reason == "cancelled" else told.finish.reason
    assert read.finish == Finished(reason=reason, stop_sequence=told.finish.stop_sequence)


@many
@given(answers())
def test_anthropic_blocks_are_opened_and_closed_one_after_the_other(events: list[Event]) -> None:
    open_block, following = None, 0
    for frame in read_frames(written("anthropic_messages", events)):
        data = json.loads(frame.data)
        assert data["type"] == frame.event.decode()
        if data["type"] == "content_block_start":
            assert (open_block, data["index"]) == (None, following)
            open_block, following = data["index"], following + 1
        elif data["type"].startswith("content_block"):
            assert data["index"] == open_block
            open_block = None if data["type"] == "content_block_stop" else open_block
    assert open_block is None


@many
@given(endings())
def test_the_simple_formats_lose_no_character(events: list[Event]) -> None:
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    objects = {
        name: [json.loads(frame.data) for frame in read_frames(written(name, events)) if frame.data[:1] == b"{"]
        for name in ("text_sse", "token_sse", "meta_sse")
    }
    assert "".join(said.get("text", "") for said in objects["text_sse"]) == text
    assert "".join(said["token"] for said in objects["token_sse"]) == text
    assert "".join(said["text"] for said in objects["token_sse"]) == text
    assert "".join(said.get("token", "") for said in objects["meta_sse"]) == text
    assert written("plain_text", events).decode().startswith(text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("\u2028", rb"\u2028"), ("\u2029", rb"\u2029"), ("\x85", rb"\u0085"), ("\\\u2028\\u2028", rb"\\\u2028\\u2028")],
)
def test_line_ends_of_unicode_are_escaped(text: str, escaped: bytes) -> None:
    assert json_bytes({text: [text]}) == b'{"%s":["%s"]}' % (escaped, escaped)


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_is_ours_for_any_text(value: Any) -> None:
    data = json_bytes(value)
    assert json.loads(data) == value
    assert len(data.decode().splitlines()) == 1


class TestCallsAsObjects:
    """A call's arguments are the model's text; formats that show them as an object show what can't be one as it is."""

    @pytest.mark.parametrize(
        ("text", "native", "anthropic"),
        [
            ('{"a": [1, 2.5]}', '{"a":[1,2.5]}', '{"a":[1,2.5]}'),
            ('{\n  "a": "\u2028"\n}', '{"a":"\\u2028"}', '{"a":"\\u2028"}'),
            ('{"a": 18446744073709551616}', '{"a":18446744073709551616}', '{"a":18446744073709551616}'),
            ("[1]", "[1]", '{"_invalid_json":"[1]"}'),
            ("5", "5", '{"_invalid_json":"5"}'),
            ('{"a": ', '"{\\"a\\": "', '{"_invalid_json":"{\\"a\\": "}'),
            ('{"a": NaN}', '"{\\"a\\": NaN}"', '{"_invalid_json":"{\\"a\\": NaN}"}'),
            (r'{"a": "\ud800"}', r'"{\"a\": \"\\ud800\"}"', r'{"_invalid_json":"{\"a\": \"\\ud800\"}"}'),
        ],
    )  # fmt: skip
    def test_in_a_stream_and_whole(self, text: str, native: str, anthropic: str) -> None:
        call: list[Event] = [
            ToolCallStarted(call_id="A", name="f"),
            ToolCallDelta(call_id="A", arguments=text),
            ToolCallEnded(call_id="A", name="f", arguments=text),
        ]
        said = f'{{"type":"tool_call","call_id":"A","name":"f","arguments":{native}}}'.encode()
        assert b"data: " + said + b"\n\n" in written("native", [STARTED, *call])
        answer = folded([STARTED, *call, Finished(reason="tool_calls")])
        request = parsed("native", {"prompt": "Hi"})
        assert said in json_bytes(FORMATS["native"]().whole(request, answer))
        whole = json_bytes(FORMATS["anthropic_messages"]().whole(request, answer))
        assert f'{{"type":"tool_use","id":"A","name":"f","input":{anthropic}}}'.encode() in whole

    @pytest.mark.parametrize("depth", range(900, 1100, 10))
    def test_nested_too_deep_to_be_read_is_a_text(self, depth: int) -> None:
        """Around the depth where reading, and then writing one level deeper, gives up: neither may raise."""
        text = "[" * depth + "]" * depth
        end = ToolCallEnded(call_id="A", name="f", arguments=text)
        assert text.encode() in written("native", [STARTED, ToolCallStarted(call_id="A", name="f"), end])


class TestWhole:
    """An answer that is not streamed."""

    def whole(self, name: str, events: list[Event]) -> Any:
        return json.loads(json_bytes(FORMATS[name]().whole(parsed("native", {"prompt": "Hi"}), folded(events))))

    def test_openai(self) -> None:
        weather = {"name": "get_weather", "arguments": '{"city": "Zürich"}'}
        assert self.whole("openai_chat", ANSWER) == {
            "id": "a1",
            "object": "chat.completion",
            "created": 1763720000,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": 'Hé 😀 "\\\n\u2028\u2029\x85\x0b!',
                        "refusal": None,
                        "reasoning_content": "Hm",
                        "tool_calls": [
                            {"id": "A", "type": "function", "function": weather},
                            {"id": "B", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
                        ],
                    },
                    "logprobs": None,
                    "finish_reason": "tool_calls",
                }
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
        }

    def test_anthropic(self) -> None:
        assert self.whole("anthropic_messages", ANSWER) == {
            "id": "a1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": ""},
                {"type": "text", "text": 'Hé 😀 "\\\n\u2028\u2029\x85\x0b!'},
                {"type": "tool_use", "id": "A", "name": "get_weather", "input": {"city": "Zürich"}},
                {"type": "tool_use", "id": "B", "name": "get_time", "input": {}},
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 7},
        }

    @pytest.mark.parametrize("name", NATIVE)
    def test_native(self, name: str) -> None:
        counted = {"input_tokens": 9, "output_tokens": 7, "source": "provider"}
        assert self.whole(name, ANSWER) == {
            "id": "a1",
            "model": "m",
            "provider": "p",
            "created": 1763720000,
            "text": 'Hé 😀 "\\\n\u2028\u2029\x85\x0b!',
            "reasoning": "Hm",
            "tool_calls": [
                {"type": "tool_call", "call_id": "A", "name": "get_weather", "arguments": {"city": "Zürich"}},
                {"type": "tool_call", "call_id": "B", "name": "get_time", "arguments": {}},
            ],
            "finish": {
                "type": "finish",
                "reason": "tool_calls",
                "usage": counted,
                "timings": {"ttft_s": 0.5, "duration_s": 1.25},
            },
        }

    def test_nothing_said_is_an_empty_text_and_only_a_call_is_no_text(self) -> None:
        nothing: list[Event] = [STARTED, COUNTED, Finished(reason="stop", usage=COUNTED)]
        only_calls = [event for event in ANSWER if not isinstance(event, TextDelta | ReasoningDelta)]
        assert self.whole("openai_chat", nothing)["choices"][0]["message"]["content"] == ""
        assert self.whole("openai_chat", only_calls)["choices"][0]["message"]["content"] is None
        assert self.whole("anthropic_messages", nothing)["content"] == [{"type": "text", "text": ""}]
        assert [block["type"] for block in self.whole("anthropic_messages", only_calls)["content"]] == ["tool_use"] * 2

    def test_a_failure_is_raised(self) -> None:
        error = ProviderOverloaded("x")
        with pytest.raises(ProviderOverloaded) as raised:
            folded([STARTED, HELLO, Failed(error=error)])
        assert raised.value is error

    def test_half_an_answer_is_none(self) -> None:
        with pytest.raises(IllegalOrder):
            folded([STARTED, HELLO]).known()

    @pytest.mark.parametrize("name", [*SIMPLE, *UI])
    def test_these_formats_have_no_whole_form(self, name: str) -> None:
        with pytest.raises(NotImplementedError):
            self.whole(name, ANSWER)


# Every code of the tree: its class, its status, and its words in the two protocols that have their own.
CODES: dict[str, tuple[type[SluicewayError], int, str, str]] = {
    "invalid_request": (errors.InvalidRequest, 400, "invalid_request_error", "invalid_request_error"),
    "unauthorized": (errors.Unauthorized, 401, "authentication_error", "authentication_error"),
    "not_found": (errors.NotFound, 404, "invalid_request_error", "not_found_error"),
    "payload_too_large": (errors.PayloadTooLarge, 413, "invalid_request_error", "request_too_large"),
    "rate_limited": (errors.RateLimited, 429, "rate_limit_error", "rate_limit_error"),
    "overloaded": (errors.Overloaded, 503, "api_error", "overloaded_error"),
    "draining": (errors.Draining, 503, "api_error", "overloaded_error"),
    "cancelled": (errors.Cancelled, 499, "invalid_request_error", "invalid_request_error"),
    "internal": (errors.Internal, 500, "api_error", "api_error"),
    "provider_not_configured": (errors.ProviderNotConfigured, 503, "api_error", "api_error"),
    "provider_auth": (errors.ProviderAuth, 502, "api_error", "api_error"),
    "provider_rejected": (errors.ProviderRejected, 400, "invalid_request_error", "invalid_request_error"),
    "context_length_exceeded": (errors.ContextLengthExceeded, 400, "invalid_request_error", "invalid_request_error"),
    "content_filtered": (errors.ContentFiltered, 400, "invalid_request_error", "invalid_request_error"),
    "provider_rate_limited": (errors.ProviderRateLimited, 429, "rate_limit_error", "rate_limit_error"),
    "provider_overloaded": (errors.ProviderOverloaded, 503, "api_error", "overloaded_error"),
    "provider_unavailable": (errors.ProviderUnavailable, 502, "api_error", "api_error"),
    "first_token_timeout": (errors.FirstTokenTimeout, 504, "api_error", "timeout_error"),
    "idle_timeout": (errors.IdleTimeout, 504, "api_error", "timeout_error"),
    "total_timeout": (errors.TotalTimeout, 504, "api_error", "timeout_error"),
    "stream_broken": (errors.StreamBroken, 502, "api_error", "api_error"),
}
RETRYABLE = {
    *("rate_limited", "overloaded", "draining", "provider_rate_limited", "provider_overloaded"),
    *("provider_unavailable", "first_token_timeout", "idle_timeout", "stream_broken"),
}
every_code = pytest.mark.parametrize("code", list(CODES))


def tree(cls: type[SluicewayError]) -> Iterator[type[SluicewayError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_every_code_of_the_tree_is_tried() -> None:
    assert {cls.code for cls in tree(SluicewayError)} == set(CODES)


class TestErrors:
    MESSAGE = 'no \u2028 "such" thing'

    def error(self, code: str) -> SluicewayError:
        cls, status, _, _ = CODES[code]
        error = cls(self.MESSAGE)
        assert (error.code, error.http_status, error.retryable) == (code, status, code in RETRYABLE)
        return error

    @every_code
    def test_before_the_first_byte(self, code: str) -> None:
        """As the JSON body of an HTTP status."""
        error = self.error(code)
        _, status, openai, anthropic = CODES[code]
        native = {
            "error": {
                "code": code,
                "message": self.MESSAGE,
                "retryable": code in RETRYABLE,
                "status": status,
                "request_id": "r-1",
            }
        }
        error.request_id = "r-1"
        bodies = {name: FORMATS[name]().error(error) for name in FORMATS}
        assert bodies == {
            **dict.fromkeys([*NATIVE, *SIMPLE, *UI], native),
            **{
                name: {"error": {"message": self.MESSAGE, "type": openai, "param": None, "code": code}}
                for name in ("openai_chat", "openai_responses")
            },
            "anthropic_messages": {
                "type": "error",
                "error": {"type": anthropic, "message": self.MESSAGE},
                "request_id": "r-1",
            },
        }

    @every_code
    def test_in_the_stream_it_is_the_last_there_is(self, code: str) -> None:
        error = self.error(code)
        _, status, openai, anthropic = CODES[code]
        said = r'"message":"no \u2028 \"such\" thing"'
        retryable = str(code in RETRYABLE).lower()
        native = f'"type":"error","code":"{code}",{said},"retryable":{retryable},"status":{status}}}'
        last = {
            "openai_chat": f'data: {{"error":{{{said},"type":"{openai}","param":null,"code":"{code}"}}}}\n\n',
            # With the error as an object: of the flat one of the documentation openai-python tells nobody (WIRE 3).
            "openai_responses": 'event: error\ndata: {"type":"error","sequence_number":5,'
            f'"error":{{{said},"type":"{openai}","param":null,"code":"{code}"}}}}\n\n',
            "anthropic_messages": f'event: error\ndata: {{"type":"error","error":{{"type":"{anthropic}",{said}}}}}\n\n',
            "native": f"id: 3\nevent: error\ndata: {{{native}\n\ndata: [DONE]\n\n",
            "ndjson": f'{{"event_id":3,{native}\n',
            "plain_text": '\n[Error: no \u2028 "such" thing]\n',
            "text_sse": f'event: error\ndata: {{{said},"code":"{code}"}}\n\n',
            "token_sse": 'data: {"token":"","text":"","done":true,"error":'
            rf'"no \u2028 \"such\" thing","code":"{code}"}}' + "\n\ndata: [DONE]\n\n",
            "meta_sse": f'data: {{"event":"error",{said}}}\n\n',
            "ai_sdk": 'data: {"type":"text-end","id":"text-1"}\n\n'
            r'data: {"type":"error","errorText":"no \u2028 \"such\" thing"}' + "\n\ndata: [DONE]\n\n",
            "agui": 'data: {"type":"TEXT_MESSAGE_END","messageId":"a1"}\n\n'
            f'data: {{"type":"RUN_ERROR",{said},"code":"{code}"}}\n\n',
        }
        begun: list[Event] = [STARTED, HELLO]
        for name in FORMATS:
            assert written(name, begun, [Failed(error=error)]) == written(name, begun) + last[name].encode(), name

    def test_it_ends_with_what_the_provider_calls_the_request(self) -> None:
        """Where the provider has said so, and the format's errors are objects of ours or of a protocol."""
        error = ProviderOverloaded("busy")
        error.provider_request_id = "req_1"
        told = b'"provider_request_id":"req_1"}'
        bodies = {name: json_bytes(FORMATS[name]().error(error)) for name in FORMATS}
        assert [name for name in FORMATS if told + b"}" not in bodies[name]] == []
        streams = {name: written(name, [Failed(error=error)]) for name in FORMATS}
        assert {name for name in FORMATS if told in streams[name]} == {
            *NATIVE,
            *("openai_chat", "openai_responses", "anthropic_messages"),
        }
        assert [name for name in SIMPLE if b"req_1" in streams[name]] == []

    @every_format
    def test_also_as_the_first_and_only_event(self, name: str) -> None:
        """The answer could fail after the headers and before anything was said."""
        body = written(name, [Failed(error=ProviderOverloaded("busy"))])
        assert b"busy" in body
        assert name != "plain_text" or body == b"[Error: busy]\n"

    @every_format
    def test_also_over_an_open_call(self, name: str) -> None:
        before = ANSWER[:10]
        failed = written(name, [*before, Failed(error=ProviderOverloaded("busy"))])
        assert failed.startswith(written(name, before))
        assert failed.count(b"busy") == 1

    def test_in_plain_text_an_error_has_a_line_of_its_own(self) -> None:
        failed = Failed(error=ProviderOverloaded("busy"))
        assert written("plain_text", [STARTED, TextDelta(text="a\n"), failed]) == b"a\n[Error: busy]\n"
        assert written("plain_text", [STARTED, TextDelta(text="a"), failed]) == b"a\n[Error: busy]\n"

    def test_the_field_is_named_where_the_format_has_a_place_for_it(self) -> None:
        error = InvalidRequest("n: only one", param="n")
        assert FORMATS["openai_chat"]().error(error)["error"]["param"] == "n"
        assert FORMATS["native"]().error(error)["error"]["param"] == "n"
        assert FORMATS["text_sse"]().error(error)["error"]["param"] == "n"

    def test_headers_say_when_to_try_again_in_whole_seconds(self) -> None:
        assert RateLimited("x", retry_after_s=1.2).headers == {"Retry-After": "2"}
        assert RateLimited("x").headers == {"Retry-After": "1"}
        assert MethodNotAllowed("x", allow=["GET", "HEAD"]).headers == {"Allow": "GET, HEAD"}
        assert InvalidRequest("x").headers == {}


@pytest.mark.parametrize("name", ["anthropic-version", "anthropic-beta"])
def test_a_header_of_the_protocol_that_cannot_be_sent_on_is_refused(name: str) -> None:
    body = {"messages": [USER], "max_tokens": 5}
    with pytest.raises(InvalidRequest, match=name):
        parsed("anthropic_messages", body, **{name: "b\xe9ta"})
