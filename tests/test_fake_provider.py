"""The fake provider, seen through the official SDKs, `requests` and bare sockets. Read it as the grammar's manual."""

import contextlib
import email.utils
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import anthropic
import httpx2
import openai
import pytest
import requests

from app import testing
from app.testing import GRAMMAR, FakeProvider, Stats, UnknownPart, answer, grammar, text_after

# The fixtures taken by name: this file has a server of its own, whatever else a session points at the shared one.
fake_provider_server = testing.fake_provider_server
fake_provider = testing.fake_provider

KEY = "sk-test-0123456789abcdef"
PROMPT = 'Say it back:  naïve\u2028東京 \\ "quoted"\nand a second line '
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
PATHS = [CHAT, RESPONSES, MESSAGES]
STOP_REASONS = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


@dataclass
class Heard:
    """What came out of an SDK, up to the exception if there was one. Finish reasons in OpenAI's words."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, SimpleNamespace] = field(default_factory=dict)
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: Exception | None = None

    @property
    def tool_calls(self) -> tuple[tuple[str, str, str], ...]:
        return tuple((call.id, call.name, call.arguments) for call in self.calls.values())

    def call(self, index: int, call_id: str, name: str, arguments: str = "") -> None:
        self.calls[index] = SimpleNamespace(id=call_id, name=name, arguments=arguments)


class Client(Protocol):
    """One SDK: `stream` never raises, `whole` does."""

    path: str

    def stream(self, model: str, prompt: str = PROMPT, **options: Any) -> Heard: ...

    def whole(self, model: str, prompt: str = PROMPT, **options: Any) -> Heard: ...


class OpenAIClient:
    path = CHAT

    def __init__(self, sdk: openai.OpenAI) -> None:
        self.sdk = sdk

    def stream(self, model: str, prompt: str = PROMPT, **options: Any) -> Heard:
        heard = Heard()
        asked = {"stream_options": {"include_usage": True}, **self._asked(model, prompt), **options}
        try:
            with self.sdk.chat.completions.create(stream=True, **asked) as chunks:
                for chunk in chunks:
                    self._hear(heard, chunk)
        except (openai.OpenAIError, ValueError) as exc:
            heard.error = exc
        return heard

    def whole(self, model: str, prompt: str = PROMPT, **options: Any) -> Heard:
        completion = self.sdk.chat.completions.create(**self._asked(model, prompt), **options)
        message = completion.choices[0].message
        heard = Heard(message.content or "", getattr(message, "reasoning_content", ""))
        for index, call in enumerate(message.tool_calls or []):
            heard.call(index, call.id, call.function.name, call.function.arguments)
        heard.finish_reason = completion.choices[0].finish_reason
        if completion.usage:
            heard.input_tokens, heard.output_tokens = completion.usage.prompt_tokens, completion.usage.completion_tokens
        return heard

    def _asked(self, model: str, prompt: str) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": prompt}]}

    def _hear(self, heard: Heard, chunk: Any) -> None:
        if chunk.usage:
            heard.input_tokens, heard.output_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        for choice in chunk.choices:
            heard.text += choice.delta.content or ""
            heard.reasoning += getattr(choice.delta, "reasoning_content", "")
            heard.finish_reason = choice.finish_reason or heard.finish_reason
            for call in choice.delta.tool_calls or []:
                if call.id:
                    heard.call(call.index, call.id, call.function.name)
                heard.calls[call.index].arguments += call.function.arguments


class AnthropicClient:
    path = MESSAGES

    def __init__(self, sdk: anthropic.Anthropic) -> None:
        self.sdk = sdk

    def stream(self, model: str, prompt: str = PROMPT, **options: Any) -> Heard:
        heard = Heard()
        try:
            with self.sdk.messages.create(stream=True, **self._asked(model, prompt), **options) as events:
                for event in events:
                    self._hear(heard, event)
        # The SDK lets its transport's errors through once the body runs (WIRE.md section 4).
        except (anthropic.AnthropicError, httpx2.HTTPError, ValueError) as exc:
            heard.error = exc
        return heard

    def whole(self, model: str, prompt: str = PROMPT, **options: Any) -> Heard:
        message = self.sdk.messages.create(**self._asked(model, prompt), **options)
        heard = Heard(finish_reason=STOP_REASONS[message.stop_reason or ""])
        for index, block in enumerate(message.content):
            match block.type:
                case "text":
                    heard.text += block.text
                case "thinking":
                    heard.reasoning += block.thinking
                    assert block.signature
                case "tool_use":
                    heard.call(index, block.id, block.name, json.dumps(block.input, ensure_ascii=False))
        if message.usage:
            heard.input_tokens, heard.output_tokens = message.usage.input_tokens, message.usage.output_tokens
        return heard

    def _asked(self, model: str, prompt: str) -> dict[str, Any]:
        return {"model": model, "max_tokens": 1000, "messages": [{"role": "user", "content": prompt}]}

    def _hear(self, heard: Heard, event: Any) -> None:
        match event.type:
            case "content_block_start" if event.content_block.type == "tool_use":
                heard.call(event.index, event.content_block.id, event.content_block.name)
            case "content_block_delta":
                heard.text += getattr(event.delta, "text", "")
                heard.reasoning += getattr(event.delta, "thinking", "")
                if event.delta.type == "input_json_delta":
                    heard.calls[event.index].arguments += event.delta.partial_json
            case "message_delta":
                heard.finish_reason = STOP_REASONS[event.delta.stop_reason]
                if event.usage:
                    heard.input_tokens, heard.output_tokens = event.usage.input_tokens, event.usage.output_tokens


@pytest.fixture(scope="module")
def openai_client(fake_provider_server: FakeProvider) -> Iterator[OpenAIClient]:
    with openai.OpenAI(base_url=fake_provider_server.openai_base_url, api_key=KEY, max_retries=0, timeout=10) as sdk:
        yield OpenAIClient(sdk)


@pytest.fixture(scope="module")
def anthropic_client(fake_provider_server: FakeProvider) -> Iterator[AnthropicClient]:
    url = fake_provider_server.anthropic_base_url
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=10) as sdk:
        yield AnthropicClient(sdk)


@pytest.fixture(params=["openai", "anthropic"])
def client(request: pytest.FixtureRequest, fake_provider: FakeProvider) -> Client:
    """Every test that takes it runs over both wires."""
    found: Client = request.getfixturevalue(f"{request.param}_client")
    return found


# A bare connection: everything the SDKs hide.


def asking(path: str, model: str, **options: Any) -> dict[str, Any]:
    said = {"input": PROMPT} if path == RESPONSES else {"messages": [{"role": "user", "content": PROMPT}]}
    body = {"model": model, "stream": True, "max_tokens": 1000, **said}
    if path == RESPONSES:
        body["max_output_tokens"] = body.pop("max_tokens")
    return {"url": path, "json": body | options, "headers": {"x-api-key": KEY, "anthropic-version": "2023-06-01"}}


class RawConnection:
    """A socket that sends a request and reads the response piece by piece, as it stands on the wire."""

    def __init__(self, provider: FakeProvider) -> None:
        address = provider.url.removeprefix("http://").split(":")
        self.sock = socket.create_connection((address[0], int(address[1])), timeout=10)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> "RawConnection":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def post(self, path: str, model: str, **options: Any) -> None:
        asked = asking(path, model, **options)
        body = json.dumps(asked["json"]).encode()
        headers = "".join(f"{name}: {value}\r\n" for name, value in asked["headers"].items())
        self.sock.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    def head(self) -> str:
        lines = iter(self.file.readline, b"")
        return b"".join(iter(lambda: next(lines, b"\r\n"), b"\r\n")).decode()

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body; EOFError where the line ends before the last one."""
        while size_line := self.file.readline():
            size = int(size_line, 16)
            data = self.file.read(size + 2)
            if size == 0:
                return
            yield data[:-2]
        raise EOFError("the connection ended before the last chunk")


@pytest.fixture
def raw(fake_provider: FakeProvider) -> Iterator[RawConnection]:
    with RawConnection(fake_provider) as connection:
        yield connection


def deltas_in(stream: bytes) -> str:
    """The text in the events of any wire, read from the bytes."""
    text = ""
    for line in stream.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data: {"):
            with contextlib.suppress(ValueError):
                event = json.loads(line.removeprefix(b"data: "))
                if str(event.get("type")).startswith("response."):
                    text += event["delta"] if event["type"] == "response.output_text.delta" else ""
                    continue
                for choice in event.get("choices", [{"delta": event.get("delta", {})}]):
                    text += choice["delta"].get("content") or choice["delta"].get("text") or ""
    return text


# What is said.

CONTENT = [
    "fake",
    "fake-n0",
    "fake-n20",
    "other-n20",
    "fake-n40-i0.5",
    "fake-f20-slow10",
    "fake-uni",
    "fake-n40-uni",
    "fake-echo",
    "fake-n3-echo",
    "fake-by3",
    "fake-n2-by5-tool1",
    "fake-md",
    "fake-big200",
    "fake-think4",
    "fake-tool2",
    "fake-n5-tool1-think2",
    "fake-len",
    "fake-tool1-len",
]
MANNERS = ["crlf", "drip", "split", "comments", "crlf-split-comments", "drip-comments"]


@pytest.mark.parametrize("model", CONTENT + [f"fake-n10-uni-think3-{manner}" for manner in MANNERS])
def test_a_stream_says_the_answer_word_for_word(client: Client, fake_provider: FakeProvider, model: str) -> None:
    heard = client.stream(model)
    expected = answer(model, PROMPT)
    assert heard.error is None
    assert (heard.text, heard.reasoning, heard.tool_calls) == (expected.text, expected.reasoning, expected.tool_calls)
    assert heard.finish_reason == expected.finish_reason
    assert (heard.input_tokens, heard.output_tokens) == (expected.input_tokens, expected.output_tokens)
    assert fake_provider.stats().completed == 1


@pytest.mark.parametrize("model", CONTENT)
def test_without_streaming_the_answer_is_the_same(client: Client, fake_provider: FakeProvider, model: str) -> None:
    heard = client.whole(model)
    expected = answer(model, PROMPT)
    assert (heard.text, heard.reasoning, heard.tool_calls) == (expected.text, expected.reasoning, expected.tool_calls)
    assert heard.finish_reason == expected.finish_reason
    assert (heard.input_tokens, heard.output_tokens) == (expected.input_tokens, expected.output_tokens)
    assert fake_provider.stats().completed == 1


def test_the_answer_is_known_beforehand() -> None:
    assert answer("fake-n20").text == answer("fake-n20").text
    assert len(answer("fake-n20").text.split()) == answer("fake-n20").output_tokens == 20
    assert answer("fake-n30").text.startswith(answer("fake-n20").text)
    assert answer("other-n20").text != answer("fake-n20").text
    assert answer("fake-n20-i5-cut3").text == answer("fake-n20").text, "a fault changes what arrives, not what is said"
    assert answer("fake-echo", "say  this ").text == "say  this "
    assert [delta.text for delta in answer("fake-by4", "say  this ").deltas] == ["say ", " thi", "s "]
    assert answer("fake-len").finish_reason == "length"
    assert answer("fake-tool2").finish_reason == "tool_calls"
    assert len(answer("fake-big200").text) == 200 * 1024
    assert answer("fake-n3-big2").output_tokens == 3


def test_text_after_counts_content_tokens_only() -> None:
    whole = answer("fake-n20").text
    assert text_after("fake-n20", 0) == ""
    assert text_after("fake-n20", 5) == " ".join(whole.split()[:5])
    assert text_after("fake-n20-think3", 5) == text_after("fake-n20", 5)
    assert text_after("fake-n20", 99) == whole


def test_uni_holds_every_character_that_breaks_readers() -> None:
    text = answer("fake-uni").text
    for character in ["é", "👩‍💻", "東", "\u2028", "\u0085", '"', "\\", "\n"]:
        assert character in text


def test_md_is_hostile() -> None:
    text = answer("fake-md").text
    for trap in ["<script>", "onerror=", "](javascript:", "```python\n", "|------|"]:
        assert trap in text
    assert answer("fake-md").output_tokens > 80


def test_tool_calls_use_the_offered_names_and_once_ends_the_loop(client: Client) -> None:
    function = {"name": "clock", "parameters": {"type": "object"}}
    if client.path == CHAT:
        tools: list[Any] = [{"type": "function", "function": function}]
        called: dict[str, Any] = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}
    else:
        tools = [{"name": "clock", "input_schema": {"type": "object"}}]
        called = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "clock", "input": {}}]}
    said = {"role": "user", "content": [{"type": "text", "text": "what "}, {"type": "text", "text": "time?"}]}

    model = "fake-tool1-once"
    first = client.stream(model, tools=tools)
    assert first.tool_calls == answer(model, tools=["clock"]).tool_calls
    assert first.calls.popitem()[1].name == "clock"
    second = client.stream(model, extra_body={"messages": [said, called]})
    assert second.tool_calls == ()
    assert second.text == answer(model, step=1).text == answer("fake").text
    third = client.stream("fake-tool1", extra_body={"messages": [said, called]})
    assert third.tool_calls == answer("fake-tool1", step=1).tool_calls != answer("fake-tool1").tool_calls
    assert client.stream("fake-echo", extra_body={"messages": [said]}).text == "what time?"


def test_openai_events_are_what_openai_sends(raw: RawConnection) -> None:
    raw.post(CHAT, "fake-n2", stream_options={"include_usage": True})
    head = raw.head().lower()
    assert head.startswith("http/1.1 200 ok")
    assert "content-type: text/event-stream; charset=utf-8" in head
    events = list(raw.chunks())
    assert events[-1] == b"data: [DONE]\n\n"
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": text_after("fake", 1)},
        {"content": text_after("fake", 2).removeprefix(text_after("fake", 1))},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert [choice["logprobs"] for choice in choices] == [None] * 4
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 27


def test_openai_sends_no_usage_unless_asked(raw: RawConnection) -> None:
    raw.post(CHAT, "fake-n2")
    raw.head()
    assert not any(b"usage" in event for event in raw.chunks())


def test_anthropic_events_are_what_anthropic_sends(raw: RawConnection) -> None:
    raw.post(MESSAGES, "fake-n2-think1-tool1")
    raw.head()
    events = [re.fullmatch(r"event: (\w+)\ndata: (.*)\n\n", event.decode()) for event in raw.chunks()]
    names = [event[1] for event in events if event]
    values = [json.loads(event[2]) for event in events if event]
    assert [value["type"] for value in values] == names
    fragments = len(re.findall(".{1,7}", answer("fake-tool1").tool_calls[0].arguments))
    block = ["content_block_start", "content_block_delta", "content_block_delta"]
    assert names == [
        "message_start",
        *("content_block_start", "ping", "content_block_delta", "content_block_delta", "content_block_stop"),
        *(*block, "content_block_stop"),
        *(*block, *["content_block_delta"] * (fragments - 1), "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    kinds = [value["delta"]["type"] for value in values if value["type"] == "content_block_delta"]
    assert kinds[:4] == ["thinking_delta", "signature_delta", "text_delta", "text_delta"]
    assert [value["index"] for value in values if value["type"] == "content_block_stop"] == [0, 1, 2]
    assert values[0]["message"]["usage"]["output_tokens"] == 1
    assert values[-2]["usage"] == {
        "input_tokens": 25,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 3 + fragments,
    }


def test_responses_events_are_what_openai_sends(raw: RawConnection) -> None:
    raw.post(RESPONSES, "fake-n2-think1-tool1")
    raw.head()
    events = [re.fullmatch(r"event: ([a-z_.]+)\ndata: (.*)\n\n", event.decode()) for event in raw.chunks()]
    names = [event[1] for event in events if event]
    values = [json.loads(event[2]) for event in events if event]
    assert [value["type"] for value in values] == names
    assert [value["sequence_number"] for value in values] == list(range(len(values)))
    fragments = len(re.findall(".{1,7}", answer("fake-tool1").tool_calls[0].arguments))
    thought, text, call = "reasoning_summary", "output_text", "function_call_arguments"
    assert [name.removeprefix("response.") for name in names] == [
        *("created", "in_progress"),
        *("output_item.added", f"{thought}_part.added", f"{thought}_text.delta"),
        *(f"{thought}_text.done", f"{thought}_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", f"{text}.delta", f"{text}.delta"),
        *(f"{text}.done", "content_part.done", "output_item.done"),
        *("output_item.added", *[f"{call}.delta"] * fragments, f"{call}.done", "output_item.done"),
        "completed",
    ]
    whole = [value["item"] for value in values if value["type"] == "response.output_item.done"]
    assert values[-1]["response"]["output"] == whole
    assert [(item["type"], item["id"]) for item in whole] == [
        (value["item"]["type"], value["item"]["id"])
        for value in values
        if value["type"] == "response.output_item.added"
    ]
    assert len({value["response"]["id"] for value in values if "response" in value}) == 1
    usage = values[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (25, 3 + fragments)
    assert usage["output_tokens_details"] == {"reasoning_tokens": 1}


def test_responses_say_the_same_streamed_and_whole(openai_client: OpenAIClient, fake_provider: FakeProvider) -> None:
    for model in CONTENT:
        whole = openai_client.sdk.responses.create(model=model, input=PROMPT)
        with openai_client.sdk.responses.create(model=model, input=PROMPT, stream=True) as events:
            *_, last = events
        assert last.type in ("response.completed", "response.incomplete")
        for response in (whole, last.response):
            assert response.output_text == answer(model, PROMPT).text
            calls = [item for item in response.output if item.type == "function_call"]
            assert [(call.call_id, call.name, call.arguments) for call in calls] == list(answer(model).tool_calls)
            assert response.status == ("incomplete" if "-len" in model else "completed")
    assert fake_provider.stats().completed == 2 * len(CONTENT)


def test_responses_tool_calls_end_with_once(openai_client: OpenAIClient) -> None:
    tools: list[Any] = [{"type": "function", "name": name, "parameters": {}, "strict": True} for name in ("a", "b")]
    said: list[Any] = [{"role": "user", "content": PROMPT}]
    first = openai_client.sdk.responses.create(model="fake-tool2-once", input=said, tools=tools)
    assert [item.name for item in first.output if item.type == "function_call"] == ["a", "b"]
    said += [item.to_dict() for item in first.output]
    said += [{"type": "function_call_output", "call_id": "x", "output": "1"}] * 2
    second = openai_client.sdk.responses.create(model="fake-tool2-once", input=said, tools=tools)
    assert [item.type for item in second.output] == ["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": ["hi"]},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"input": "hi", "stop": ["END"]},
        {"input": "hi", "max_tokens": 5},
    ],
)
def test_bodies_that_responses_would_refuse_are_refused(fake_provider: FakeProvider, body: dict[str, Any]) -> None:
    response = requests.post(
        fake_provider.url + RESPONSES, json={"model": "fake", **body}, headers={"Authorization": "Bearer k"}, timeout=10
    )
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_the_sdk_helpers_follow_the_stream(openai_client: OpenAIClient, anthropic_client: AnthropicClient) -> None:
    """The helpers check far more of the protocol than the plain streams do."""
    said: list[Any] = [{"role": "user", "content": PROMPT}]
    with openai_client.sdk.chat.completions.stream(model="fake-n5-tool2", messages=said) as chat:
        completion = chat.get_final_completion()
    assert completion.choices[0].message.content == answer("fake-n5-tool2").text
    assert len(completion.choices[0].message.tool_calls or []) == 2
    with anthropic_client.sdk.messages.stream(model="fake-n5-tool2-think2", max_tokens=99, messages=said) as events:
        message = events.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]


# How it is sent.


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("manner", ["", "-drip", "-split"])
def test_chunks_are_events_unless_told_otherwise(raw: RawConnection, path: str, manner: str) -> None:
    raw.post(path, f"fake-n20-uni{manner}")
    raw.head()
    chunks = list(raw.chunks())
    assert deltas_in(b"".join(chunks)) == answer("fake-n20-uni").text
    match manner:
        case "":
            assert all(chunk.endswith(b"\n\n") and chunk.count(b"data: ") == 1 for chunk in chunks)
        case "-drip":
            assert {len(chunk) for chunk in chunks} == {1}
        case "-split":
            broken = [chunk for chunk in chunks if b"\xef\xbf\xbd" in chunk.decode(errors="replace").encode()]
            assert broken, "some character is cut in two"
            assert any(b"\n\n" in chunk[:-2] for chunk in chunks), "some chunk holds the end of one event and more"


@pytest.mark.parametrize("path", PATHS)
def test_crlf_ends_every_line(raw: RawConnection, path: str) -> None:
    raw.post(path, "fake-n3-crlf-comments")
    raw.head()
    body = b"".join(raw.chunks())
    assert body.count(b"\n") == body.count(b"\r\n") > 10


@pytest.mark.parametrize("path", PATHS)
def test_comments_come_with_unknown_fields_and_events(raw: RawConnection, path: str) -> None:
    raw.post(path, "fake-n9-comments")
    raw.head()
    body = b"".join(raw.chunks())
    assert b": OPENROUTER PROCESSING\n\n" in body
    assert b"\nx-trace: " in body
    assert re.search(rb"\nevent: (response\.)?provider.heartbeat\n", body)
    assert deltas_in(body) == answer("fake-n9").text


@pytest.mark.parametrize("path", PATHS)
def test_nodone_ends_without_the_last_event(raw: RawConnection, client: Client, path: str) -> None:
    raw.post(path, "fake-n3-nodone")
    raw.head()
    body = b"".join(raw.chunks())
    assert b"[DONE]" not in body
    assert b"message_stop" not in body
    heard = client.stream("fake-n3-nodone")
    assert (heard.text, heard.finish_reason) == (answer("fake-n3").text, "stop")


def test_nousage_gives_no_numbers(client: Client) -> None:
    for heard in (client.stream("fake-n3-nousage"), client.whole("fake-n3-nousage")):
        assert heard.text == answer("fake-n3").text
        assert (heard.input_tokens, heard.output_tokens) == (None, None)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])  # Responses says a text again at the end of each thing it is in
def test_big_is_a_single_event_of_two_megabytes(raw: RawConnection, path: str) -> None:
    raw.post(path, "fake-big2048")
    raw.head()
    chunks = list(raw.chunks())
    assert deltas_in(b"".join(chunks)) == answer("fake-big2048").text
    assert [len(chunk) > 2 * 1024 * 1024 for chunk in chunks].count(True) == 1


# When it is sent.


@pytest.mark.parametrize("path", PATHS)
def test_slow_delays_the_headers_f_the_first_token_i_the_others(raw: RawConnection, path: str) -> None:
    asked = time.monotonic()
    raw.post(path, "fake-n5-slow30-f80-i20")
    raw.head()
    headed = time.monotonic() - asked
    body = raw.chunks()
    first = next(body)
    first_came = time.monotonic() - asked
    assert deltas_in(first + b"".join(body)) == answer("fake-n5").text
    ended = time.monotonic() - asked
    assert headed >= 0.03
    assert first_came >= 0.08
    assert ended >= 0.16


@pytest.mark.parametrize("path", PATHS)
def test_a_tenth_of_a_millisecond_is_not_rounded_up(raw: RawConnection, path: str) -> None:
    took_s = []
    while not took_s or (min(took_s) >= 0.9 and len(took_s) < 5):  # whole milliseconds would make it a second each time
        asked = time.monotonic()
        raw.post(path, "fake-n1000-i0.1")
        raw.head()
        assert deltas_in(b"".join(raw.chunks())) == answer("fake-n1000").text
        took_s.append(time.monotonic() - asked)
    assert 0.1 <= min(took_s) < 0.9, took_s


def test_an_error_can_be_late(client: Client) -> None:
    asked = time.monotonic()
    heard = client.stream("fake-slow50-e503")
    assert time.monotonic() - asked >= 0.05
    assert isinstance(heard.error, openai.APIStatusError | anthropic.APIStatusError)


# Errors before the first byte.

OPENAI_ERRORS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    408: openai.APIStatusError,
    409: openai.ConflictError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
    529: openai.InternalServerError,
}
ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",
    529: "overloaded_error",
}


@pytest.mark.parametrize("status", OPENAI_ERRORS)
def test_e_is_an_openai_error(openai_client: OpenAIClient, fake_provider: FakeProvider, status: int) -> None:
    for stream in (True, False):
        with pytest.raises(OPENAI_ERRORS[status]) as caught:
            openai_client.sdk.chat.completions.create(**openai_client._asked(f"fake-e{status}", ""), stream=stream)
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict)
        assert caught.value.body.keys() == {"message", "type", "param", "code"}
    assert fake_provider.stats().faults == 2


@pytest.mark.parametrize("status", ANTHROPIC_ERRORS)
def test_e_is_an_anthropic_error(anthropic_client: AnthropicClient, fake_provider: FakeProvider, status: int) -> None:
    for stream in (True, False):
        with pytest.raises(anthropic.APIStatusError) as caught:
            anthropic_client.sdk.messages.create(**anthropic_client._asked(f"fake-e{status}", ""), stream=stream)
        assert caught.value.status_code == status
        assert caught.value.type == ANTHROPIC_ERRORS[status]
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["type"] == "error"
        assert caught.value.body["request_id"] == caught.value.response.headers["request-id"]
    assert fake_provider.stats().faults == 2


def status_error(heard: Heard) -> Any:
    assert isinstance(heard.error, openai.APIStatusError | anthropic.APIStatusError)
    return heard.error


def test_ra_and_rad_say_when_to_come_back(client: Client) -> None:
    assert status_error(client.stream("fake-e429-ra3")).response.headers["retry-after"] == "3"
    date = status_error(client.stream("fake-e503-rad60")).response.headers["retry-after"]
    assert 50 < email.utils.parsedate_to_datetime(date).timestamp() - time.time() <= 60
    assert "retry-after" not in status_error(client.stream("fake-e429")).response.headers


def test_ctx_is_the_providers_own_refusal(client: Client) -> None:
    error = status_error(client.stream("fake-ctx"))
    assert error.status_code == 400
    if isinstance(error, openai.APIStatusError):
        assert error.code == "context_length_exceeded"
    else:
        assert error.type == "invalid_request_error"
        assert "prompt is too long: " in error.message


def test_filter_is_the_providers_own_refusal(client: Client) -> None:
    error = status_error(client.stream("fake-filter"))
    assert error.status_code == 400
    if isinstance(error, openai.APIStatusError):
        assert error.code == "content_filter"
    else:
        assert "content filtering policy" in error.message


def test_leak_puts_the_key_and_an_internal_address_into_errors(client: Client) -> None:
    for model in ("fake-e500-leak", "fake-n9-err3-leak"):
        heard = client.stream(model)
        assert KEY in str(heard.error)
        assert "http://10.0.0.7:8000/internal" in str(heard.error)


def test_refuse_closes_without_a_byte(client: Client, fake_provider: FakeProvider) -> None:
    heard = client.stream("fake-refuse")
    assert isinstance(heard.error, openai.APIConnectionError | anthropic.APIConnectionError)
    assert fake_provider.stats().faults == 1


@pytest.mark.parametrize("path", PATHS)
def test_html_is_a_page_with_status_200(fake_provider: FakeProvider, path: str) -> None:
    asked = asking(path, "fake-html")
    response = requests.post(fake_provider.url + asked.pop("url"), **asked, timeout=10)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<!doctype html>")
    assert fake_provider.stats().faults == 1


def test_empty_is_a_stream_without_events(client: Client, raw: RawConnection, fake_provider: FakeProvider) -> None:
    raw.post(client.path, "fake-empty")
    assert "text/event-stream" in raw.head()
    assert list(raw.chunks()) == []
    assert client.stream("fake-empty") == Heard()
    assert fake_provider.stats().faults == 2


# Faults inside the stream.

STREAM_FAULTS = ["cut5", "eof5", "rst5", "err5", "cut5-drip", "rst5-split", "err5-think3", "eof5-uni"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_exactly_five_tokens_arrive_before_a_fault(raw: RawConnection, path: str, fault: str) -> None:
    model = f"fake-n20-{fault}"
    raw.post(path, model)
    raw.head()
    body = b""
    with contextlib.suppress(EOFError, ConnectionResetError):
        for chunk in raw.chunks():
            body += chunk
    assert deltas_in(body) == text_after(model, 5)
    assert not any(end in body for end in (b'"finish_reason":"stop"', b"end_turn", b"[DONE]", b"message_stop"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["fake-stall5", "fake-stall5-split", "fake-n30-stall5-think2"])
def test_stall_is_silence_after_whole_events(
    raw: RawConnection, fake_provider: FakeProvider, path: str, model: str
) -> None:
    raw.post(path, model)
    raw.head()
    body = b""
    for chunk in raw.chunks():
        body += chunk
        if body.endswith(b"\n\n") and deltas_in(body) == text_after(model, 5):
            break
    raw.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        raw.sock.recv(1)
    assert fake_provider.stats().open_streams == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("after", [0, 5])
def test_cut_lacks_the_last_chunk(raw: RawConnection, fake_provider: FakeProvider, path: str, after: int) -> None:
    raw.post(path, f"fake-cut{after}")
    raw.head()
    with pytest.raises(EOFError):
        list(raw.chunks())
    assert fake_provider.stats().faults == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("after", [0, 5])
def test_rst_is_a_reset(raw: RawConnection, fake_provider: FakeProvider, path: str, after: int) -> None:
    raw.post(path, f"fake-rst{after}")
    raw.head()
    with pytest.raises(ConnectionResetError):
        list(raw.chunks())
    assert fake_provider.stats().faults == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("after", [0, 5])
def test_eof_ends_the_body_properly_and_the_connection_lives(raw: RawConnection, path: str, after: int) -> None:
    raw.post(path, f"fake-eof{after}")
    raw.head()
    assert deltas_in(b"".join(raw.chunks())) == text_after("fake", after)
    raw.post(path, "fake")
    assert "200 OK" in raw.head()


@pytest.mark.parametrize("path", PATHS)
def test_err_is_an_event_then_a_proper_end(raw: RawConnection, fake_provider: FakeProvider, path: str) -> None:
    for after in (5, 0):
        raw.post(path, f"fake-err{after}")
        raw.head()
        *events, last = raw.chunks()
        assert json.loads(last.split(b"data: ")[1])["error"]["message"]
        assert last.startswith(b"event: error\n") == (path != CHAT)
        assert bool(events) == (after > 0), "err0 is the very first event"
    assert fake_provider.stats().faults == 2


@pytest.mark.parametrize("path", PATHS)
def test_bad_is_one_broken_frame_and_the_stream_goes_on(
    raw: RawConnection, fake_provider: FakeProvider, path: str
) -> None:
    raw.post(path, "fake-n9-bad5")
    raw.head()
    events = list(raw.chunks())
    broken = []
    for event in events:
        data = event.decode().split("data: ")[1]
        try:
            json.loads(data)
        except ValueError:
            broken.append(data)
    assert [data for data in broken if "[DONE]" not in data] == [broken[0]]
    assert broken[0].startswith("{")
    assert deltas_in(b"".join(events)) == answer("fake-n9").text
    assert fake_provider.stats().completed == 1


def test_the_sdks_meet_every_fault_after_the_tokens(client: Client) -> None:
    def after_five(fault: str) -> Exception | None:
        heard = client.stream(f"fake-n20-{fault}")
        assert heard.text == text_after("fake-n20", 5)
        assert heard.finish_reason is None
        return heard.error

    by_openai = client.path == CHAT
    assert after_five("eof5") is None, "both SDKs take a clean end for a success"
    assert isinstance(after_five("cut5"), openai.APIConnectionError if by_openai else httpx2.RemoteProtocolError)
    assert isinstance(after_five("rst5"), openai.APIConnectionError if by_openai else httpx2.NetworkError)
    assert isinstance(after_five("err5"), openai.APIError if by_openai else anthropic.APIStatusError)
    assert isinstance(after_five("bad5"), ValueError)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", ["cut", "rst", "eof", "bad", "err"])
def test_faults_strike_the_json_of_an_answer_without_streaming(
    fake_provider: FakeProvider, path: str, fault: str
) -> None:
    asked = asking(path, f"fake-{fault}5", stream=False)
    url = fake_provider.url + asked.pop("url")
    match fault:
        case "cut" | "rst":
            with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
                requests.post(url, **asked, timeout=10)
        case "eof" | "bad":
            with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
                requests.post(url, **asked, timeout=10).json()
        case _:
            assert requests.post(url, **asked, timeout=10).status_code == 500
    assert fake_provider.stats().faults == 1


def test_times_fails_so_often_and_then_is_well(client: Client, fake_provider: FakeProvider) -> None:
    model = "fake-n20-e503-times2"
    assert [client.stream(model).text for _ in range(3)] == ["", "", answer(model).text]
    assert client.stream("fake-n20-cut5-times1").text == text_after("fake-n20", 5)
    assert client.stream("fake-n20-cut5-times1").text == answer("fake-n20").text
    fake_provider.reset()
    assert status_error(client.stream(model)).status_code == 503


# Prefills.


def prefilled(*said: str, blocks: bool = False) -> dict[str, Any]:
    """The option of an SDK's call that ends its conversation with these texts of the assistant's."""
    content = [{"type": "text", "text": text} for text in said] if blocks else "".join(said)
    return {"messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": content}]}


def hear(client: Client, stream: bool, model: str, *said: str, blocks: bool = False) -> Heard:
    return (client.stream if stream else client.whole)(model, extra_body=prefilled(*said, blocks=blocks))


def pieces(model: str, prefill: str) -> list[str]:
    """The text of an answer's deltas."""
    return [delta.text for delta in answer(model, PROMPT, prefill=prefill).deltas if hasattr(delta, "text")]


@pytest.mark.parametrize("stream", [True, False])
def test_a_prefill_changes_nothing_unless_asked(client: Client, stream: bool) -> None:
    heard = hear(client, stream, "fake-n20-think2", text_after("fake-n20", 5))
    assert (heard.text, heard.reasoning) == (answer("fake-n20").text, answer("fake-think2").reasoning)


@pytest.mark.parametrize("model", ["fake", "fake-uni", "fake-echo", "fake-by3", "fake-md", "fake-n3-big1"])
def test_cont_sends_exactly_the_rest_from_every_position(model: str) -> None:
    text = answer(model, PROMPT).text
    tokens = pieces(model, "")
    assert pieces(f"{model}-cont", "") == tokens
    for position in range(1, len(text) + 1):
        rest = pieces(f"{model}-cont", text[:position])
        assert "".join(rest) == text[position:]
        assert all(rest), "no empty delta"
        assert rest[1:] == tokens[len(tokens) - len(rest) + 1 :], "only the first one is cut"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("held", [text_after("fake-n20", 5), answer("fake-n20").text[:33], answer("fake-n20").text])
def test_cont_goes_on_where_the_prefill_ends(
    client: Client, fake_provider: FakeProvider, stream: bool, held: str
) -> None:
    model = "fake-n20-think2-cont"
    expected = answer(model, prefill=held)
    assert held + expected.text == answer("fake-n20").text
    for heard in (hear(client, stream, model, held), hear(client, stream, model, held[:9], held[9:], blocks=True)):
        assert heard.error is None
        assert (heard.text, heard.reasoning, heard.finish_reason) == (expected.text, "", "stop")
        assert heard.output_tokens == expected.output_tokens == len(pieces(model, held))
    assert fake_provider.stats().completed == 2


@pytest.mark.parametrize("stream", [True, False])
def test_cont_begins_with_the_white_space_that_a_prefill_has_lost(client: Client, stream: bool) -> None:
    text = answer("fake-md").text
    held = text.partition("\n\n")[0]
    assert hear(client, stream, "fake-md-cont", held).text == text.removeprefix(held)
    assert answer("fake-md-cont", prefill=held).text.startswith("\n\n")
    assert answer("fake-md-cont", prefill=held + "\n").text == text.removeprefix(held + "\n"), "the text's own"
    assert answer("fake-md-cont", prefill=held + " ").text == text.removeprefix(held), "not the text's own"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("part", ["cont", "again3"])
def test_a_prefill_that_does_not_begin_the_answer_gets_all_of_it(client: Client, stream: bool, part: str) -> None:
    model = f"fake-n20-think2-{part}"
    for held in ("", "Something else", text_after("fake-n20", 5) + "?", answer("fake-n20").text + " more"):
        heard = hear(client, stream, model, held)
        assert (heard.text, heard.reasoning) == (answer("fake-n20").text, answer(model).reasoning)
    assert heard.reasoning
    assert (client.stream if stream else client.whole)(model).text == answer("fake-n20").text, "without any"


@pytest.mark.parametrize("stream", [True, False])
def test_cont_calls_tools_as_usual(client: Client, stream: bool) -> None:
    heard = hear(client, stream, "fake-n5-tool2-cont", text_after("fake-n5", 3))
    expected = answer("fake-n5-tool2")
    assert text_after("fake-n5", 3) + heard.text == expected.text
    assert (heard.tool_calls, heard.finish_reason) == (expected.tool_calls, "tool_calls")


def test_what_the_assistant_said_before_is_no_prefill(client: Client) -> None:
    held = text_after("fake", 5)
    asked = prefilled(held)["messages"]
    again = {"messages": [*asked, asked[0]]}
    assert client.stream("fake-cont", extra_body=again).text == answer("fake").text
    assert client.stream("fake-noprefill", extra_body=again).text == answer("fake").text
    called = {"role": "assistant", "content": [{"type": "text", "text": held}, {"type": "tool_use", "id": "1"}]}
    assert client.stream("fake-cont", extra_body={"messages": [asked[0], called]}).text == answer("fake").text


@pytest.mark.parametrize("stream", [True, False])
def test_again_says_the_last_tokens_of_the_prefill_again(client: Client, stream: bool) -> None:
    text = answer("fake-n20").text
    overlap = text_after("fake-n20", 8).removeprefix(text_after("fake-n20", 5))
    held = text_after("fake-n20", 8)
    assert hear(client, stream, "fake-n20-think2-again3", held).text == overlap + text.removeprefix(held)
    assert hear(client, stream, "fake-n20-again3", held[:-2]).text == overlap + text.removeprefix(held), "a cut one too"
    assert hear(client, stream, "fake-n20-again3", text).text == text.removeprefix(text_after("fake-n20", 17))
    assert hear(client, stream, "fake-n20-again3", text_after("fake-n20", 2)).text == text, "it holds no three"
    assert hear(client, stream, "fake-n20-again0", held[:-2]).text == text.removeprefix(held[:-2]), "like cont"


@pytest.mark.parametrize("part", ["cont", "again3"])
def test_faults_count_the_tokens_of_this_response(client: Client, part: str) -> None:
    model, held = f"fake-n20-{part}-cut5", text_after("fake-n20", 7)
    assert client.stream(model).text == text_after("fake-n20", 5)
    heard = hear(client, True, model, held)
    assert heard.error is not None
    assert heard.text == text_after(model, 5, prefill=held)
    sent_before = 7 if part == "cont" else 4
    assert text_after("fake-n20", sent_before) + heard.text == text_after("fake-n20", sent_before + 5)


def test_times_takes_no_manner_towards_a_prefill_back(client: Client) -> None:
    held = client.stream("fake-n20-cut5-times1-cont").text
    rest = hear(client, True, "fake-n20-cut5-times1-cont", held)
    assert (held + rest.text, rest.error) == (answer("fake-n20").text, None)
    held = client.stream("fake-n20-cut5-times1-again3").text
    overlap = held.removeprefix(text_after("fake-n20", 2))
    assert held + hear(client, True, "fake-n20-cut5-times1-again3", held).text.removeprefix(overlap) == (
        answer("fake-n20").text
    )
    held = client.stream("fake-n20-cut5-times1-noprefill").text
    assert status_error(hear(client, True, "fake-n20-cut5-times1-noprefill", held)).status_code == 400


@pytest.mark.parametrize("held", ["Once upon", "Once upon "])
@pytest.mark.parametrize("blocks", [True, False])
def test_noprefill_is_the_providers_own_refusal(
    client: Client, fake_provider: FakeProvider, held: str, blocks: bool
) -> None:
    error = status_error(hear(client, True, "fake-noprefill", held, blocks=blocks))
    assert error.status_code == 400
    if isinstance(error, openai.APIStatusError):
        assert (error.type, error.code, error.param) == ("invalid_request_error", "unsupported_value", "messages")
        assert "does not support 'assistant' as the last role" in error.message
    else:
        assert error.type == "invalid_request_error"
        assert "This model does not support assistant message prefill. The conversation must end" in error.message
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
        hear(client, False, "fake-noprefill", held, blocks=blocks)
    assert fake_provider.stats().faults == 2
    assert client.stream("fake-noprefill").text == client.whole("fake-noprefill").text == answer("fake").text


@pytest.mark.parametrize("model", ["fake", "fake-cont", "fake-again3", "fake-e503", "fake-refuse", "fake-slow60000"])
@pytest.mark.parametrize("end", [" ", "\n", "\t\n"])
def test_anthropic_refuses_white_space_at_the_end_of_a_prefill(
    anthropic_client: AnthropicClient, fake_provider: FakeProvider, model: str, end: str
) -> None:
    for blocks in (True, False):
        error = status_error(hear(anthropic_client, True, model, "Once upon", end, blocks=blocks))
        assert (error.status_code, error.type) == (400, "invalid_request_error")
        assert "messages: final assistant content cannot end with trailing whitespace" in error.message
    assert fake_provider.stats().faults == 2


def test_openai_takes_white_space_at_the_end_of_a_prefill(openai_client: OpenAIClient) -> None:
    held = text_after("fake", 5)
    assert hear(openai_client, True, "fake-cont", f"{held} ").text == answer("fake").text.removeprefix(f"{held} ")


# Leaving.

WAITS = ["stall0", "stall5", "stall5-drip", "f60000", "i60000", "slow60000", "n9000-i1"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("wait", WAITS)
def test_leaving_is_noticed_at_once_in_every_phase(
    raw: RawConnection, fake_provider: FakeProvider, path: str, wait: str
) -> None:
    raw.post(path, f"fake-{wait}")
    if not wait.startswith("slow"):
        assert "200 OK" in raw.head()
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    raw.close()
    stats = fake_provider.wait_for(lambda stats: stats.aborted == 1)
    assert stats == Stats(requests=1, connections=1, aborted=1)


def test_a_departure_says_whose_request_and_when(fake_provider: FakeProvider) -> None:
    with RawConnection(fake_provider) as stays, RawConnection(fake_provider) as leaves:
        stays.post(CHAT, "fake-stall3")
        leaves.post(MESSAGES, "fake-stall2")
        fake_provider.wait_for(lambda stats: stats.open_streams == 2)
        assert fake_provider.departures == []
        left_at = time.monotonic()
        leaves.close()
        fake_provider.wait_for(lambda stats: stats.aborted == 1)
        (departure,) = fake_provider.departures
        assert departure.request in fake_provider.requests
        assert departure.request.body["model"] == "fake-stall2"
        assert left_at <= departure.at <= time.monotonic()
    fake_provider.reset()
    assert fake_provider.departures == []


def test_a_reset_by_the_client_is_a_leaving_too(raw: RawConnection, fake_provider: FakeProvider) -> None:
    raw.post(CHAT, "fake-stall3")
    raw.head()
    raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_a_client_that_reads_nothing_and_leaves_is_noticed(raw: RawConnection, fake_provider: FakeProvider) -> None:
    raw.post(CHAT, "fake-n500-big200")  # 100 MB: more than any socket buffer holds
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    raw.close()
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_an_sdk_stream_closed_early_is_aborted(
    openai_client: OpenAIClient, anthropic_client: AnthropicClient, fake_provider: FakeProvider
) -> None:
    said: list[Any] = [{"role": "user", "content": "hi"}]
    with openai_client.sdk.chat.completions.create(model="fake-stall5", messages=said, stream=True) as chunks:
        next(iter(chunks))
    fake_provider.wait_for(lambda stats: stats.aborted == 1)
    with anthropic_client.sdk.messages.create(model="fake-stall5", max_tokens=9, messages=said, stream=True) as events:
        next(iter(events))
    fake_provider.wait_for(lambda stats: stats.aborted == 2)


# Many at once.


def test_two_hundred_sdk_streams_at_once(openai_client: OpenAIClient, fake_provider: FakeProvider) -> None:
    models = [f"m{index}-n10-i5-uni" for index in range(200)]
    with ThreadPoolExecutor(len(models)) as pool:
        heard = list(pool.map(openai_client.stream, models))
    assert [one.error for one in heard] == [None] * 200
    assert [one.text for one in heard] == [answer(model).text for model in models]
    assert fake_provider.stats().completed == 200


def test_three_hundred_streams_stand_open_and_are_missed_at_once(fake_provider: FakeProvider) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(RawConnection(fake_provider)) for _ in range(300)]
        for index, connection in enumerate(connections):
            connection.post(PATHS[index % 2], "fake-stall2")
        fake_provider.wait_for(lambda stats: stats.open_streams == 300)
        for connection in connections:
            assert "200 OK" in connection.head()
    stats = fake_provider.wait_for(lambda stats: stats.aborted == 300)
    assert stats == Stats(requests=300, connections=300, aborted=300)


# At the door.


@pytest.mark.parametrize("stream", [True, False])
def test_another_key_is_refused_in_the_wires_own_shape(stream: bool) -> None:
    said: list[Any] = [{"role": "user", "content": "hi"}]
    with FakeProvider(api_key=KEY) as provider:
        wrong = "sk-wrong-0123456789-last"
        with openai.OpenAI(base_url=provider.openai_base_url, api_key=wrong, max_retries=0) as sdk:
            with pytest.raises(openai.AuthenticationError, match=r"sk-wrong\*{12}last") as caught:
                sdk.chat.completions.create(model="fake", messages=said, stream=stream)
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                sdk.models.list()
        with anthropic.Anthropic(base_url=provider.anthropic_base_url, api_key=wrong, max_retries=0) as sdk2:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                sdk2.messages.create(model="fake", max_tokens=9, messages=said, stream=stream)
            assert refused.value.type == "authentication_error"
        with openai.OpenAI(base_url=provider.openai_base_url, api_key=KEY, max_retries=0) as right:
            assert right.chat.completions.create(model="fake", messages=said).choices
        assert provider.stats() == Stats(requests=4, connections=3, completed=1, faults=3)


def test_a_key_is_needed_and_any_will_do(fake_provider: FakeProvider) -> None:
    body: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    for headers, status in [({}, 401), ({"x-api-key": "a"}, 200), ({"Authorization": "Bearer b"}, 200)]:
        response = requests.post(fake_provider.url + CHAT, json=body, headers=headers, timeout=10)
        assert response.status_code == status
    assert [request.key for request in fake_provider.requests] == ["", "a", "b"]


def test_models_are_listed_for_both(openai_client: OpenAIClient, anthropic_client: AnthropicClient) -> None:
    assert [model.id for model in openai_client.sdk.models.list()] == ["fake"]
    assert [model.id for model in anthropic_client.sdk.models.list()] == ["fake"]


def test_an_unknown_part_is_named_and_the_grammar_listed(client: Client) -> None:
    error = status_error(client.stream("fake-n20-stal5"))
    assert error.status_code == 400
    assert "unknown part 'stal5' in model 'fake-n20-stal5'. Did you mean 'stall5'?" in error.message
    assert all(f"{part.example}: {part.meaning}" in error.message for part in GRAMMAR)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("gpt-4o", "unknown part '4o'"),
        ("fake-n", "'n' in model 'fake-n' is written like 'n20'"),
        ("fake-n0.5", "'n0.5' in model 'fake-n0.5' is written like 'n20'"),
        ("fake-uni3", "'uni3' in model 'fake-uni3' is written like 'uni'"),
        ("fake-n1-n2", "'n' stands twice"),
        ("fake-md-echo", "md and echo in model 'fake-md-echo' each choose the text"),
        ("fake-cont-noprefill", "cont and noprefill in model 'fake-cont-noprefill' each choose what becomes"),
        ("fake-again", "'again' in model 'fake-again' is written like 'again3'"),
        ("fake-e200", "e200 in model 'fake-e200' is not an error status"),
        ("fake-", "unknown part ''"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused(model: str, complaint: str) -> None:
    with pytest.raises(UnknownPart, match=re.escape(complaint)):
        answer(model)


def test_bodies_the_providers_would_refuse_are_refused(fake_provider: FakeProvider) -> None:
    def refused(path: str, *missing: str) -> str:
        asked = asking(path, "fake")
        for name in missing:
            asked["json"].pop(name, None)
            asked["headers"].pop(name, None)
        response = requests.post(fake_provider.url + asked.pop("url"), **asked, timeout=10)
        assert response.status_code == 400
        return str(response.json()["error"]["message"])

    assert "names a model" in refused(CHAT, "model")
    assert refused(CHAT, "messages") == "Missing required parameter: 'messages'."
    assert refused(MESSAGES, "max_tokens") == "max_tokens: Field required"
    assert refused(MESSAGES, "anthropic-version") == "anthropic-version: header is required"
    assert refused(MESSAGES, "messages") == "messages: at least one message is required"
    headers = {"x-api-key": KEY}
    assert requests.post(fake_provider.url + CHAT, data=b"\xff{", headers=headers, timeout=10).status_code == 400
    assert fake_provider.requests[-1].body == b"\xff{"


def test_unknown_paths_and_wrong_methods(fake_provider: FakeProvider) -> None:
    missing = requests.post(fake_provider.url + "/v1/nothing", timeout=10)
    assert missing.status_code == 404
    assert missing.json()["error"].keys() == {"message", "type", "param", "code"}
    wrong = requests.get(fake_provider.url + MESSAGES, timeout=10)
    assert (wrong.status_code, wrong.headers["allow"], wrong.json()["type"]) == (405, "POST", "error")


# HTTP itself.


def test_one_connection_serves_many_requests(raw: RawConnection, fake_provider: FakeProvider) -> None:
    for path in [*PATHS, CHAT]:
        raw.post(path, "fake-n3")
        raw.head()
        assert deltas_in(b"".join(raw.chunks())) == answer("fake-n3").text
    assert fake_provider.stats() == Stats(requests=4, connections=1, completed=4)


def test_a_chunked_request_body_is_read(fake_provider: FakeProvider) -> None:
    body = json.dumps({"model": "fake-echo", "messages": [{"role": "user", "content": "sent in pieces"}]}).encode()
    pieces = iter([body[:7], body[7:20], body[20:]])
    response = requests.post(fake_provider.url + CHAT, data=pieces, headers={"x-api-key": KEY}, timeout=10)
    assert response.json()["choices"][0]["message"]["content"] == "sent in pieces"


def test_expect_100_continue_is_answered(raw: RawConnection) -> None:
    raw.sock.sendall(b"POST /v1/nothing HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert raw.head().startswith("HTTP/1.1 100")
    raw.sock.sendall(b"{}")
    assert raw.head().startswith("HTTP/1.1 404")


def test_connection_close_is_obeyed(fake_provider: FakeProvider) -> None:
    connection = http.client.HTTPConnection(fake_provider.url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/v1/models", headers={"x-api-key": KEY, "Connection": "close"})
        assert connection.getresponse().read()
        assert connection.sock.recv(1) == b""


@pytest.mark.parametrize(
    "garbage", [b"hello\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_what_is_not_http_1_1_gets_a_400(raw: RawConnection, garbage: bytes) -> None:
    raw.sock.sendall(garbage)
    assert raw.head().startswith("HTTP/1.1 400")
    raw.file.read()  # to the end: the connection closes


# What it saw.


def test_requests_are_kept_as_they_came(openai_client: OpenAIClient, fake_provider: FakeProvider) -> None:
    before = time.monotonic()
    openai_client.stream("fake-n3", "hello")
    (seen,) = fake_provider.requests
    assert (seen.method, seen.path, seen.key) == ("POST", CHAT, KEY)
    assert seen.headers["content-type"] == "application/json"
    assert seen.body["messages"] == [{"role": "user", "content": "hello"}]
    assert before <= seen.at <= time.monotonic()


def test_stats_are_served_and_do_not_count_themselves(client: Client, fake_provider: FakeProvider) -> None:
    client.stream("fake-n3")
    client.stream("fake-e500")
    numbers = requests.get(f"{fake_provider.url}/stats", timeout=10).json()
    connections = numbers.pop("connections")
    assert connections <= 3, "the SDK may come in on a kept connection"
    assert numbers == {"requests": 2, "open_streams": 0, "completed": 1, "aborted": 0, "faults": 1}


def test_wait_for_says_where_things_stand(fake_provider: FakeProvider) -> None:
    assert fake_provider.wait_for(lambda stats: stats.requests == 0) == Stats()
    with pytest.raises(AssertionError, match=r"not within 0\.01 s.*requests=0"):
        fake_provider.wait_for(lambda stats: stats.requests == 1, timeout_s=0.01)


def test_reset_cuts_what_runs_and_forgets_it(raw: RawConnection, fake_provider: FakeProvider) -> None:
    raw.post(CHAT, "fake-stall1")
    raw.head()
    fake_provider.reset()
    with pytest.raises((EOFError, ConnectionResetError)):
        list(raw.chunks())
    assert fake_provider.stats() == Stats()
    assert fake_provider.requests == []
    with RawConnection(fake_provider) as next_test:
        next_test.post(CHAT, "fake-n2")
        next_test.head()
        list(next_test.chunks())
    assert fake_provider.stats() == Stats(requests=1, connections=1, completed=1)


def test_close_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    provider = FakeProvider()
    with contextlib.ExitStack() as stack:
        for model in ("fake-stall1", "fake-n500-big200", "fake-f60000"):  # waiting, blocked in a write, waiting
            connection = stack.enter_context(RawConnection(provider))
            connection.post(CHAT, model)
        idle = stack.enter_context(RawConnection(provider))
        provider.wait_for(lambda stats: stats.open_streams == 3 and stats.connections == 4)
        provider.close()
        provider.close()
        assert set(threading.enumerate()) <= before
        assert idle.sock.recv(1) == b""
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{provider.url}/stats", timeout=10)


# How it ships.


def test_env_points_the_sdks_here(fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    said: list[Any] = [{"role": "user", "content": "hi"}]
    with openai.OpenAI() as sdk:
        assert sdk.chat.completions.create(model="fake", messages=said).choices
    with anthropic.Anthropic() as sdk2:
        assert sdk2.messages.create(model="fake", max_tokens=9, messages=said).content
    assert {request.key for request in fake_provider.requests} == {fake_provider.env["OPENAI_API_KEY"]}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder where `sluiceway` holds the fake provider and nothing else, as proof that it needs nothing else."""
    package = tmp_path / "sluiceway"
    assert testing.__file__
    shutil.copytree(Path(testing.__file__).parent, package / "testing", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    return tmp_path


def test_it_runs_as_a_process_of_its_own(installed: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "sluiceway.testing", "--port", "0", "--api-key", KEY],
        cwd=installed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stderr
        url = process.stdout.readline().split()[3].rstrip(",")
        printed = [process.stdout.readline() for _ in range(9 + len(GRAMMAR) - 1)]
        assert f"export OPENAI_BASE_URL={url}/v1\n" in printed
        assert f"export ANTHROPIC_API_KEY={KEY}\n" in printed
        assert grammar().splitlines()[0] + "\n" in printed
        assert requests.get(f"{url}/v1/models", headers={"x-api-key": KEY}, timeout=10).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_it_is_a_pytest_plugin(installed: Path) -> None:
    (installed / "conftest.py").write_text(
        "from sluiceway.testing import answer\npytest_plugins = ['sluiceway.testing']\n"
    )
    (installed / "test_it.py").write_text(
        "import urllib.request\n"
        "def test_one(fake_provider):\n"
        "    urllib.request.urlopen(fake_provider.url + '/stats').close()\n"
        "    assert fake_provider.stats().connections == 1\n"
        "def test_two(fake_provider):\n"
        "    assert fake_provider.stats().connections == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-q", "."],
        cwd=installed,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
