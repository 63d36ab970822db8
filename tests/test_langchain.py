"""LangChain models and chains behind the service: the packages of OpenAI and Anthropic against the fake provider, and
runnables of our own (chains.py)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from callers import Caller, shown
from conftest import ROOT, Service, eventually, silences_end
from test_departure_upstream import nobody as nobody
from test_routes import DONE, frames
from test_threads import FlaskServer

from app import SettingsError, create_app
from app.errors import ProviderRateLimited
from app.providers.langchain import failure
from app.testing import FakeProvider, answer, text_after

KEY = "sk-fake-provider-key-0001"
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def configuration(provider: FakeProvider, nowhere: int) -> str:
    tables: dict[str, dict[str, Any]] = {
        "langchain": {
            "base_url": provider.openai_base_url,
            "api_key_env": "OPENAI_API_KEY",
            "default_model": "fake-n5",
        },
        "claude": {
            "model_class": "langchain_anthropic:ChatAnthropic",
            "base_url": provider.anthropic_base_url,
            "api_key_env": "ANTHROPIC_API_KEY",
            "default_model": "fake-n5",
        },
        "responses": {
            "base_url": provider.openai_base_url,
            "api_key_env": "OPENAI_API_KEY",
            "default_model": "fake-n5",
            "options": {"use_responses_api": True},
        },
        "prompted": {
            "model_class": "tests.chains.prompted",
            "base_url": provider.openai_base_url,
            "api_key_env": "OPENAI_API_KEY",
            "default_model": "fake-n5",
            "options": {"tone": "kind"},
        },
        "hand": {"model_class": "tests.chains:answer", "default_model": "made"},
        "parrot": {"model_class": "tests.chains:Parrot"},
        "nobody": {"base_url": "http://127.0.0.1:9/v1", "default_model": "fake-n5"},
        "nowhere": {"base_url": f"http://127.0.0.1:{nowhere}/v1"},
    }
    return (
        "".join(
            f"[providers.{name}]\n"
            + "".join(f"{key} = {_toml(value)}\n" for key, value in {"kind": "langchain", **table}.items())
            for name, table in tables.items()
        )
        + silences_end("langchain", "claude", "responses")
        + ALIASES
    )


ALIASES = """
[models.backed]
target = "langchain/fake-e503"
fallbacks = ["claude/fake-n6"]
[models.broken]
target = "langchain/fake-n9-cut4"
fallbacks = ["openai/fake-n9"]
recovery = "restart"
[models."langchain/fake-n8-stall5"]
target = "langchain/fake-n8-stall5"
first_token_s = 5.0
idle_s = 5.0
[models."nowhere/fake-n1"]
target = "nowhere/fake-n1"
connect_s = 0.5
"""


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture(scope="module")
def env(fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory, nobody: int) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("langchain")
    file = folder / "sluiceway.toml"
    file.write_text(configuration(fake_provider_server, nobody))
    return {
        **fake_provider_server.env,
        "SLUICEWAY_CONFIG": str(file),
        "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2",
        "SLUICEWAY_SERVER__HOLD_S": "0.5",
        "SLUICEWAY_STORE__URL": f"sqlite:///{folder / 'streams.db'}",
    }


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], env: dict[str, str]) -> Service:
    return start_service(env, app="tests.watched:app")


MESSAGES = [{"role": "user", "content": "hi"}]


def ask(service: Service, model: str, prompt: str = "hi", *, stream: bool = False, **more: Any) -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream, **more}
    return requests.post(f"{service.url}/v1/chat/completions", json=body, timeout=30)


def streamed_text(response: requests.Response) -> str:
    return "".join(
        chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks(response) if chunk.get("choices")
    )


def chunks(response: requests.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]


MODELS = ("langchain", "responses", "claude", "prompted")  # whose upstream is the fake provider
CHAT_MODELS = ("langchain", "responses", "claude")


# What is answered


@pytest.mark.parametrize("model", [*(f"{name}/fake-n5" for name in MODELS), None])
def test_the_door(service: Service, model: str | None) -> None:
    asked = {"message": "hi", "system": "Be brief.", **({} if model is None else {"model": model.partition("/")[2]})}
    response = requests.post(f"{service.url}/langchain/stream", json=asked, timeout=20)
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *tokens, last, done = frames(response.content)
    assert done == DONE
    assert [token.data["token"] for token in tokens] == [delta.text for delta in answer("fake-n5").deltas]  # type: ignore[union-attr]
    assert last.data == {"token": "", "text": "", "done": True}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_text(service: Service, fake_provider: FakeProvider, name: str, stream: bool) -> None:
    model = "fake-n16-uni"
    response = ask(
        service, f"{name}/{model}", stream=stream, stream_options={"include_usage": True} if stream else None
    )
    assert response.status_code == 200, response.text
    if stream:
        last = chunks(response)[-1]
        assert (streamed_text(response), last["model"]) == (text_after(model, 16), model)
        assert response.content.endswith(b"data: [DONE]\n\n")
        usage = last["usage"]
    else:
        whole = response.json()
        assert whole["choices"][0]["message"]["content"] == text_after(model, 16)
        assert whole["choices"][0]["finish_reason"] == "stop"
        usage = whole["usage"]
    if name != "prompted":  # its parser gives nothing but the text
        assert usage == {"prompt_tokens": 25, "completion_tokens": 16, "total_tokens": 41}
    assert fake_provider.stats().requests == 1


@pytest.mark.parametrize("name", CHAT_MODELS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_tool_calls(service: Service, fake_provider: FakeProvider, name: str, stream: bool) -> None:
    tool = {"name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {}}}
    more = {
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": "required",
        "parallel_tool_calls": True,
        "stream_options": {"include_usage": True} if stream else None,
    }
    response = ask(service, f"{name}/fake-tool2", stream=stream, **more)
    assert response.status_code == 200, response.text
    calls: dict[str, list[str]] = {}
    if stream:
        for chunk in chunks(response):
            for said in chunk["choices"][0]["delta"].get("tool_calls", []) if chunk["choices"] else []:
                calls.setdefault(said["index"], []).append(said["function"]["arguments"])
        assert all(len(fragments) > 2 for fragments in calls.values()), "the arguments came in one piece"
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(response) if chunk["choices"]][
            -1
        ] == "tool_calls"
        found = ["".join(fragments) for fragments in calls.values()]
        assert chunks(response)[-1]["usage"]["completion_tokens"] == answer("fake-tool2").output_tokens
    else:
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["get_weather"] * 2
        found = [call["function"]["arguments"] for call in choice["message"]["tool_calls"]]
    assert [json.loads(arguments)["days"] for arguments in found] == [1, 2]
    sent = fake_provider.requests[0].body
    if name == "claude":
        assert sent["tool_choice"] == {"type": "any", "disable_parallel_tool_use": False}
        assert sent["tools"] == [{"name": "get_weather", "description": "d", "input_schema": tool["parameters"]}]
    elif name == "responses":
        assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", True)
        assert sent["tools"] == [{"type": "function", **tool}]
    else:
        assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", True)
        assert sent["tools"] == [{"type": "function", "function": tool}]


@pytest.mark.parametrize("name", CHAT_MODELS)
def test_a_tool_of_the_services_own(service: Service, fake_provider: FakeProvider, name: str) -> None:
    """The model asks, it runs here, and the model goes on with what it gave."""
    body = {"prompt": "hi", "model": f"{name}/fake-n3-tool1-once", "tools": ["clock"]}
    response = requests.post(f"{service.url}/v1/streams", json=body, timeout=20)
    events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
    kinds = [event["type"] for event in events]
    assert kinds.count("tool_call") == kinds.count("tool_result") == 1
    assert events[-1]["reason"] == "stop", events[-1]
    asked, again = fake_provider.requests
    call_id = events[kinds.index("tool_result")]["call_id"]
    assert call_id not in json.dumps(asked.body)
    assert call_id in json.dumps(again.body)


def test_thoughts_and_their_signature(service: Service) -> None:
    response = requests.post(
        f"{service.url}/v1/messages",
        json={"model": "claude/fake-n3-think2", "max_tokens": 9, "messages": MESSAGES, "stream": False},
        timeout=20,
    )
    thought, said = response.json()["content"]
    assert (thought["type"], said["text"]) == ("thinking", text_after("fake-n3-think2", 3))
    assert thought["thinking"]
    assert thought["signature"]
    usage = ask(service, "langchain/fake-n3-think2").json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("say Hello wait 0.01 say you", "Hello you "),
        ("chunk Hello dict you", "Hello you "),
        ("system", "system:Be brief."),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_runnable_of_ones_own(service: Service, prompt: str, text: str, stream: bool) -> None:
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    response = ask(service, "hand/made", stream=stream, messages=system)
    said = streamed_text(response) if stream else response.json()["choices"][0]["message"]["content"]
    assert said == text


def test_a_chat_model_of_ones_own(service: Service) -> None:
    assert streamed_text(ask(service, "parrot/any", "one two", stream=True)) == "one two "


# What is asked

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ],
    },
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    {"role": "user", "content": "And now?"},
]


def test_a_conversation_on_openais_wire(service: Service, fake_provider: FakeProvider) -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["END"],
        "reasoning_effort": "low",
        "user": "u1",
    }
    assert ask(service, "langchain/fake-n2", messages=CONVERSATION, **options).status_code == 200
    sent = fake_provider.requests[0].body
    assert sent.pop("messages") == CONVERSATION
    assert sent.pop("max_completion_tokens") == options.pop("max_tokens")
    assert sent == {"model": "fake-n2", "stream": True, "stream_options": {"include_usage": True}, **options}


def test_a_conversation_on_anthropics_wire(service: Service, fake_provider: FakeProvider) -> None:
    thought = {"type": "thinking", "thinking": "Hm", "signature": "Eu"}
    body = {
        "model": "claude/fake-n2",
        "max_tokens": 7,
        "system": "Be brief.",
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "messages": [
            {"role": "user", "content": "Look"},
            {
                "role": "assistant",
                "content": [
                    thought,
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "no cat", "is_error": True},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    }
    assert requests.post(f"{service.url}/v1/messages", json=body, timeout=20).status_code == 200
    sent = fake_provider.requests[0].body
    assert {name: sent[name] for name in ("model", "max_tokens", "system", "stop_sequences", "metadata")} == {
        **{name: body[name] for name in ("max_tokens", "system", "stop_sequences", "metadata")},
        "model": "fake-n2",
    }
    asked, looked, answered = sent["messages"]
    assert asked["content"] == "Look"
    assert looked["content"][0] == thought
    assert looked["content"][-1] == {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}}
    result = answered["content"][0]
    assert (result["tool_use_id"], result["is_error"], result["content"]) == ("c1", True, "Error: no cat")
    assert answered["content"][1] == {"type": "text", "text": "And now?"}


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("name", CHAT_MODELS)
def test_a_schema(service: Service, fake_provider: FakeProvider, name: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    response = ask(service, f"{name}/fake-n4", stream=True, response_format=wanted)
    assert streamed_text(response) == text_after("fake-n4", 4)
    sent = fake_provider.requests[0].body
    if name == "claude":
        assert sent["output_config"]["format"] == {"type": "json_schema", "schema": SCHEMA}
    elif name == "responses":
        assert sent["text"]["format"] == {"type": "json_schema", **wanted["json_schema"]}
    else:
        assert sent["response_format"] == wanted
    whole = ask(service, f"{name}/fake-n4-len", response_format=wanted).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["message"]["content"] == text_after("fake-n4-len", 4)


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("langchain/fake-n2", "seed", 5),
        ("hand/made", "temperature", 0.5),
        ("hand/made", "max_tokens", 5),
        ("hand/made", "stop", ["x"]),
        ("hand/made", "tools", [{"type": "function", "function": {"name": "t"}}]),
        ("hand/made", "response_format", {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}),
        ("hand/made", "reasoning_effort", "low"),
        ("hand/made", "user", "u1"),
        ("parrot/any", "temperature", 0.5),
        ("parrot/any", "tools", [{"type": "function", "function": {"name": "t"}}]),
        ("parrot/any", "response_format", {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}),
        ("parrot/any", "user", "u1"),
    ],
)
def test_what_can_not_be_sent_is_refused_by_name(service: Service, model: str, field: str, value: Any) -> None:
    response = ask(service, model, **{field: value})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_request", field)
    assert error["message"].startswith(f"{field} can't be sent to {model!r}")


def test_another_name_than_the_runnables_is_unknown(service: Service) -> None:
    response = ask(service, "hand/mad")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == (
        "unknown model 'hand/mad'; known: hand/made. Did you mean 'hand/made'?"
    )


# What fails

BEFORE = [
    ("fake-e401-leak", 502, "provider_auth"),
    ("fake-e429-ra3-leak", 429, "provider_rate_limited"),
    ("fake-e500-leak", 503, "provider_overloaded"),
    ("fake-e529-leak", 503, "provider_overloaded"),
    ("fake-e408-leak", 502, "provider_unavailable"),
    ("fake-e404-leak", 400, "provider_rejected"),
    ("fake-ctx", 400, "context_length_exceeded"),
    ("fake-refuse", 502, "provider_unavailable"),
    ("fake-err0-leak", 503, "provider_overloaded"),
    ("fake-slow9000", 504, "first_token_timeout"),
    ("fake-f9000", 504, "first_token_timeout"),
]
AFTER = [
    ("fake-n9-err5-leak", "provider_overloaded"),
    ("fake-n9-cut5", "stream_broken"),
    ("fake-n9-rst5", "stream_broken"),
    ("fake-n9-eof5", "stream_broken"),
    ("fake-stall5", "idle_timeout"),
]


def assert_clean(service: Service, response: requests.Response) -> None:
    for text in (response.text, service.log):
        assert KEY not in text
        assert "10.0.0.7" not in text
        assert "Traceback" not in text


@pytest.mark.parametrize("name", CHAT_MODELS)
@pytest.mark.parametrize(("model", "status", "code"), BEFORE)
def test_a_failure_before_the_first_token(
    service: Service, fake_provider: FakeProvider, name: str, model: str, status: int, code: str
) -> None:
    response = ask(service, f"{name}/{model}", stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    if model == "fake-e429-ra3-leak":
        assert response.headers["Retry-After"] == "3"
        assert re.fullmatch("req_fake.*", response.json()["error"]["provider_request_id"])
    assert fake_provider.stats().requests == 1, "the package has tried again"
    assert_clean(service, response)


@pytest.mark.parametrize("name", CHAT_MODELS)
@pytest.mark.parametrize(("model", "code"), AFTER)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_failure_behind_the_first_token(
    service: Service, fake_provider: FakeProvider, name: str, model: str, code: str, stream: bool
) -> None:
    response = ask(service, f"{name}/{model}", stream=stream)
    if stream:
        *_, last = chunks(response)
        assert streamed_text(response) == text_after(model, 5)
        assert last["error"]["code"] == code
    else:
        assert response.json()["error"]["code"] == code
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    assert fake_provider.stats().requests == 1
    assert_clean(service, response)


def test_nobody_listens(service: Service) -> None:
    response = ask(service, "nobody/fake-n5")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_unavailable")
    assert response.json()["error"]["message"] == "provider 'nobody' can't be reached; try again"


def test_a_chain_that_raises(service: Service) -> None:
    """Its own words are for the log, without what looks like a key or an address."""
    said = "provider 'hand' failed (LookupError); the service's log says more"
    before = len(service.log)
    response = ask(service, "hand/made", "raise", stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_unavailable")
    assert response.json()["error"]["message"] == said
    response = ask(service, "hand/made", "say Hello raise", stream=True)
    assert streamed_text(response) == "Hello "
    assert chunks(response)[-1]["error"]["message"] == said
    logged = service.log[before:]
    assert (
        len(re.findall(r"hand: LookupError at \S+chains\.py:\d+ in _answer: no row for key \[key\] at \[url\]", logged))
        == 2
    )
    assert "sk-made-up" not in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize("prompt", ["odd", "nothing"])
def test_a_chain_without_an_answer(service: Service, prompt: str) -> None:
    response = ask(service, "hand/made", prompt)
    assert response.json()["error"]["code"] == "stream_broken"
    assert "no answer in it" in response.json()["error"]["message"]


def test_a_fallback_and_a_recovery(service: Service, fake_provider: FakeProvider) -> None:
    assert streamed_text(ask(service, "backed", stream=True)) == text_after("fake-n6", 6)
    body = {"model": "broken", "messages": MESSAGES}
    response = requests.post(f"{service.url}/v1/streams", json=body, timeout=20)
    events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
    assert "".join(event["text"] for event in events if event["type"] == "text") == text_after("fake-n9", 9)
    assert events[-1]["reason"] == "stop"
    assert [request.body["model"] for request in fake_provider.requests[-2:]] == ["fake-n9-cut4", "fake-n9"]


# How it goes on

PHASES = {
    "before the headers": ("fake-slow60000", b""),
    "before a token": ("fake-f60000", b""),
    "between two tokens": ("fake-n99-i60000", b"content"),
    "while it streams": ("fake-n100000-i20", b"content"),
}


def request_bytes(model: str, prompt: str = "hi", *, stream: bool = True) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_leaves_ends_the_upstream(
    service: Service, fake_provider: FakeProvider, name: str, phase: str
) -> None:
    model, mark = PHASES[phase]
    took: list[float] = []
    for _ in range(5):
        gone = fake_provider.stats().aborted
        with Caller(("127.0.0.1", service.port), request_bytes(f"{name}/{model}")) as caller:
            fake_provider.wait_for(lambda stats: stats.open_streams == 1)
            caller.read_until(mark)
            left_at = caller.leave("close")
        fake_provider.wait_for(lambda stats, gone=gone: stats.aborted > gone)
        took.append((fake_provider.departures[-1].at - left_at) * 1000)
    print(f"\n{name}, {phase}: {shown(took)}")
    eventually(lambda: worker(service)["open_streams"] == 0)


def worker(service: Service) -> dict[str, Any]:
    held: dict[str, Any] = requests.get(f"{service.url}/worker", timeout=10).json()
    return held


@pytest.mark.parametrize("prompt", ["wait 3600", "say a wait 3600", "forever"])
def test_a_client_that_leaves_ends_a_runnable(service: Service, prompt: str) -> None:
    ask(service, "hand/made", "say a")
    eventually(lambda: worker(service)["open_streams"] == 0)
    before = worker(service)["greenlets"]
    callers = [Caller(("127.0.0.1", service.port), request_bytes("hand/made", prompt)) for _ in range(5)]
    eventually(lambda: worker(service)["open_streams"] == 5)
    for caller in callers:
        caller.leave("close")
    eventually(lambda: worker(service)["open_streams"] == 0)
    eventually(lambda: worker(service)["greenlets"] <= before, what="the end of the greenlets")


def test_a_client_that_leaves_while_it_connects(service: Service) -> None:
    ask(service, "hand/made", "say a")
    eventually(lambda: worker(service)["open_streams"] == 0)
    before = worker(service)["greenlets"]
    callers = [Caller(("127.0.0.1", service.port), request_bytes("nowhere/fake-n5")) for _ in range(5)]
    eventually(lambda: worker(service)["open_streams"] == 5)
    for caller in callers:
        caller.leave("close")
    eventually(lambda: worker(service)["open_streams"] == 0)
    eventually(lambda: worker(service)["greenlets"] <= before, what="the end of the greenlets")


def test_the_clock_of_a_connection(service: Service) -> None:
    response = ask(service, "nowhere/fake-n1")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_unavailable")
    assert response.json()["error"]["message"] == ("provider 'nowhere' did not accept a connection in time; try again")


def test_a_stream_that_is_resumed_and_stopped(service: Service, fake_provider: FakeProvider) -> None:
    body = {"prompt": "hi", "model": "langchain/fake-n5000-i20", "resumable": True}
    with requests.post(f"{service.url}/v1/streams", json=body, stream=True, timeout=20) as left:
        where = service.url + left.headers["Location"]
        next(left.iter_content(100))
    with requests.get(where, params={"after": "3"}, stream=True, timeout=20) as read:
        assert requests.delete(where, timeout=20).status_code in (200, 202, 204)
        assert b'"reason":"cancelled"' in read.content
    fake_provider.wait_for(lambda stats: stats.aborted == 1)
    assert fake_provider.stats().requests == 1


def test_heartbeats_while_it_waits(service: Service) -> None:
    for name in CHAT_MODELS:
        response = ask(service, f"{name}/fake-n3-f1500-i400", stream=True)
        assert streamed_text(response) == text_after("fake-n3-f1500-i400", 3)
        assert response.text.count(": ping\n") >= 2
    assert ask(service, "hand/made", "wait 1 say Hello", stream=True).text.count(": ping\n") >= 1


@pytest.mark.parametrize("name", [*MODELS, "hand"])
def test_fifty_at_once(service: Service, fake_provider: FakeProvider, name: str) -> None:
    model, prompt = f"{name}/fake-n20-i50", "hi"
    if name == "hand":
        model, prompt = "hand/made", "wait 0.5 say a " * 2
    began = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        texts = list(pool.map(lambda _: streamed_text(ask(service, model, prompt, stream=True)), range(50)))
    print(f"\n{name}: 50 streams of 1 s in {time.monotonic() - began:.1f} s")
    assert set(texts) == {"a a " if name == "hand" else text_after("fake-n20-i50", 20)}


def test_a_reader_who_falls_behind_holds_the_runnable_up(service: Service) -> None:
    """What it is ahead is little, whatever it would give."""
    before = worker(service)["resident_bytes"]
    with Caller(("127.0.0.1", service.port), request_bytes("hand/made", "forever")) as caller:
        caller.read_until(b"more")
        eventually(lambda: stands_still(service), within_s=30, what="the end of what it does")
        assert worker(service)["resident_bytes"] - before < 64 << 20


def stands_still(service: Service) -> bool:
    used = worker(service)["cpu_s"]
    return bool(worker(service)["cpu_s"] - used < 0.1)


# Without gevent


@pytest.fixture(scope="module", params=["gthread", "flask run"])
def threaded(
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    env: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service | FlaskServer]:
    folder = tmp_path_factory.mktemp("threads")
    own = {**env, "SLUICEWAY_STORE__URL": f"sqlite:///{folder / 'streams.db'}", "SLUICEWAY_RETRY__ATTEMPTS": "1"}
    server: Service | FlaskServer
    if request.param == "gthread":
        server = start_service(own, "--config", os.devnull, "--worker-class", "gthread", "--threads", "64")
    else:
        server = FlaskServer(own, folder / "log")
    yield server
    server.stop()


@pytest.mark.parametrize("name", MODELS)
def test_threads_stream_through_heartbeats(threaded: Service, name: str) -> None:
    response = ask(threaded, f"{name}/fake-n3-f1200-i300", stream=True)
    assert streamed_text(response) == text_after("fake-n3-f1200-i300", 3)
    assert ": ping\n" in response.text
    assert ask(threaded, f"{name}/fake-n3").json()["choices"][0]["message"]["content"] == text_after("fake-n3", 3)


def test_threads_fail_as_well(threaded: Service, fake_provider: FakeProvider) -> None:
    assert ask(threaded, "langchain/fake-e429", stream=True).json()["error"]["code"] == "provider_rate_limited"
    assert chunks(ask(threaded, "claude/fake-n9-cut5", stream=True))[-1]["error"]["code"] == "stream_broken"
    assert chunks(ask(threaded, "langchain/fake-stall5", stream=True))[-1]["error"]["code"] == "idle_timeout"
    assert ask(threaded, "hand/made", "raise").json()["error"]["code"] == "provider_unavailable"


def test_fifty_at_once_on_threads(threaded: Service, fake_provider: FakeProvider) -> None:
    with ThreadPoolExecutor(50) as pool:
        asked = pool.map(lambda _: streamed_text(ask(threaded, "langchain/fake-n9-i50", stream=True)), range(50))
        assert set(asked) == {text_after("fake-n9-i50", 9)}


def test_a_thread_ends_the_upstream_at_the_next_piece(threaded: Service, fake_provider: FakeProvider) -> None:
    """Nobody can end a thread: its next piece does, or the model's own timeout."""
    with Caller(("127.0.0.1", threaded.port), request_bytes("langchain/fake-n100000-i20")) as caller:
        caller.read_until(b"content")
        caller.leave("close")
    fake_provider.wait_for(lambda stats: stats.aborted == 1)
    with Caller(("127.0.0.1", threaded.port), request_bytes("langchain/fake-n8-stall5")) as caller:
        caller.read_until(b"content")
        caller.leave("close")
    fake_provider.wait_for(lambda stats: stats.aborted == 2, timeout_s=30)


# The configuration


def table(**keys: Any) -> dict[str, Any]:
    return {"SLUICEWAY": {"providers": {"mine": {"kind": "langchain", **keys}}, "local": {"enabled": True}}}


WHERE = "app.config['SLUICEWAY']: providers.mine."


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_class": "chat"}, "model_class = 'chat': should be a dotted path: 'package.module:name'"),
        ({"model_class": 5}, "model_class = 5: should be text"),
        (
            {"model_class": "langchain_opnai:ChatOpenAI"},
            "model_class = 'langchain_opnai:ChatOpenAI': langchain_opnai is not installed: pip install langchain-opnai",
        ),
        (
            {"model_class": "chanes.answer"},
            "model_class = 'chanes.answer': there is no module 'chanes': is it installed, or its folder on the path?",
        ),
        (
            {"model_class": "langchain_openai:ChatOpenAi"},
            "model_class = 'langchain_openai:ChatOpenAi': langchain_openai has no 'ChatOpenAi'. "
            "Did you mean 'ChatOpenAI'?",
        ),
        (
            {"model_class": "tests.chains:number"},
            "model_class = 'tests.chains:number': should lead to a chat model's class, a runnable, or a function, not "
            "a int",
        ),
        (
            {"model_class": "tests.chains:makes_a_number"},
            "model_class = 'tests.chains:makes_a_number': should make a chat model or another runnable, not a int",
        ),
        (
            {"model_class": "tests.chains:needs_a_folder", "options": {"folder": "/var"}},
            "model_class = 'tests.chains:needs_a_folder': can't be made: OSError: no such folder: /var",
        ),
        (
            {"model_class": "tests.chains:needs_a_folder"},
            "model_class = 'tests.chains:needs_a_folder': can't be made: TypeError: needs_a_folder() missing 1 "
            "required positional argument: 'folder'",
        ),
        (
            {"model_class": "tests.chains:answer", "options": {"temperature": 0}},
            "options.temperature: tests.chains:answer has no such argument; it takes none",
        ),
        (
            {"model_class": "tests.chains:answer", "base_url": "http://gpu:8000/v1"},
            "base_url = 'http://gpu:8000/v1': tests.chains:answer has no such argument; see its options",
        ),
        (
            {"base_url": "http://gpu:8000/v1", "options": {"temprature": 0}},
            "options.temprature: langchain_openai:ChatOpenAI has no such argument; did you mean 'temperature'?",
        ),
        (
            {"base_url": "http://gpu:8000/v1", "default_model": "m", "options": {"temperature": "hot"}},
            "options.temperature: Input should be a valid number, unable to parse string as a number",
        ),
        ({"options": 5}, "options: should be a table"),
        ({"kind": "openai", "options": {"x": 5}}, 'options: should stand where kind = "langchain"'),
        (
            {"kind": "openai", "model_class": "a:b"},
            "model_class = 'a:b': should stand where kind = \"langchain\"",
        ),
    ],
)
def test_a_mistake_stops_the_start(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(table(**keys))
    assert str(caught.value) == WHERE + said


def test_without_a_key_the_door_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    app = create_app({"SLUICEWAY": {"local": {"enabled": True}}})
    response = app.test_client().post("/langchain/stream", json={"message": "hi"})
    assert response.status_code == 503
    assert response.json is not None
    assert response.json["error"]["code"] == "provider_not_configured"
    assert response.json["error"]["message"] == (
        "provider 'langchain' has no key; set OPENAI_API_KEY, or name a model_class of yours in "
        "[providers.langchain], and restart"
    )
    app.extensions["sluiceway"].close()


def test_openais_key_goes_to_no_class_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-0001")
    config = {"SLUICEWAY": {"providers": {"langchain": {"model_class": "tests.chains:parrot"}}}}
    app = create_app(config)
    settings = app.extensions["sluiceway"].house.settings
    assert settings.providers["langchain"].api_key_env is None
    assert settings.keys == {"openai": "sk-openai-0001"}
    app.extensions["sluiceway"].close()


# A machine without LangChain, and one that has it and is not asked

WITHOUT = """
import sys
if "without" in sys.argv:
    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0].startswith("langchain"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Nothing())
from app import SettingsError, create_app
from app.errors import ProviderRateLimited
from app.providers.langchain import failure
try:
    app = create_app()
except SettingsError as exc:
    print(exc)
    sys.exit()
print([name for name in sys.modules if name.startswith("langchain")])
response = app.test_client().post("/langchain/stream", json={"message": "hi"})
print(response.status_code, response.json["error"]["code"] if response.is_json else response.text)
print(response.json["error"]["message"] if response.is_json else "")
print([one["id"] for one in app.test_client().get("/v1/models").json["data"]])
"""


def started(env: dict[str, str], *args: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "SLUICEWAY_"))}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *args],
        cwd=ROOT,
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_langchain_is_not_needed() -> None:
    models = "['openai/gpt-5']"
    assert started({"OPENAI_API_KEY": KEY}, "without") == [
        "[]",
        "503 provider_not_configured",
        "provider 'langchain' can't be used: LangChain is not installed: pip install langchain-core, and the package "
        "of the model",
        models,
    ]
    assert started({"OPENAI_API_KEY": KEY, "SLUICEWAY_PROVIDERS__LANGCHAIN__DEFAULT_MODEL": "gpt-5"}, "without") == [
        "environment SLUICEWAY_PROVIDERS__LANGCHAIN__DEFAULT_MODEL: providers.langchain.model_class = "
        "'langchain_openai:ChatOpenAI': LangChain is not installed: pip install langchain-core, and the package of the "
        "model"
    ]


def test_with_a_key_it_needs_no_configuration(fake_provider: FakeProvider) -> None:
    """What exists without a file is asked as OpenAI is, and imports nothing until then."""
    loaded, answered, _, models = started({**fake_provider.env, "SLUICEWAY_RETRY__ATTEMPTS": "1"})
    assert loaded == "[]"
    assert answered == "400 provider_rejected"  # the fake provider has no gpt-5
    assert fake_provider.requests[0].body["model"] == "gpt-5"
    assert "langchain" not in models


@pytest.mark.parametrize("headers", [{"x-request-id": "Zürich", "retry-after": "3"}, {"retry-after": "东京"}, None])
def test_a_refusal_is_told_whatever_its_headers_are(headers: dict[str, str] | None) -> None:
    """A byte beyond ASCII is legal in a header (RFC 9110, 5.5)."""
    response = requests.Response()
    response.status_code = 429
    response.headers = headers  # type: ignore[assignment]
    refused = failure("p", requests.HTTPError("no", response=response), begun=False, secret="")
    assert isinstance(refused, ProviderRateLimited)
    assert refused.retry_after_s == (3.0 if headers and headers["retry-after"] == "3" else 1.0)
    assert refused.provider_request_id == ""
