"""Tools that the service runs, at real chat front ends: their parts appear, and the conversation goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Service
from driving import Drivers, Seen, installed

from app.testing import FakeProvider, answer

DRIVER = "served_tools.mjs"
MODEL = "fake-tool2-once-n5"
TEXTS = [answer(MODEL, tools=["weather"]).text, answer(MODEL, step=1).text]


@pytest.fixture(scope="module")
def toolbox(
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    diary = tmp_path_factory.mktemp("toolbox") / "diary"
    env = {**fake_provider_server.env, "TOOLBOX_DIARY": str(diary)}
    service = start_service(env, app="tests.toolbox:app")
    yield service
    service.stop()


def drive(toolbox: Service, way: str, provider: str) -> Seen:
    if not installed(DRIVER):
        pytest.skip("the clients of Node.js are not installed: make clients")
    job = {"id": way, "way": way, "key": "", "leave_after": None, "url": toolbox.url}
    asked = {**job, "model": f"{provider}/{MODEL}", "tools": ["weather", "fails"], "chat": f"{way}-{provider}"}
    with Drivers({DRIVER: [asked]}, lambda _: True) as running:
        return running.seen(way)


def roles(body: dict[str, Any]) -> list[str]:
    return [message["role"] for message in body["messages"]]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_use_chat_shows_the_parts_of_a_tool_while_it_runs(
    toolbox: Service, fake_provider: FakeProvider, provider: str
) -> None:
    seen = drive(toolbox, "useChat", provider)
    assert seen["error"] is None
    weather, fails = (call[0] for call in seen["calls"][:2])
    assert [state for state in seen["states"] if weather in state] == [
        f"tool-weather {weather} {state}" for state in ("input-streaming", "input-available", "output-available")
    ]
    assert f"tool-fails {fails} output-error" in seen["states"]
    _, answered = seen["first"]
    parts = [part for part in answered["parts"] if part["type"] != "step-start"]
    assert [part["type"] for part in parts] == ["text", "tool-weather", "tool-fails", "text"]
    assert [part["text"] for part in parts if part["type"] == "text"] == TEXTS
    by_type = {part["type"]: part for part in parts}
    assert by_type["tool-weather"]["output"] == {**by_type["tool-weather"]["input"], "app": "toolbox"}
    assert by_type["tool-fails"]["errorText"] == "fails failed (RuntimeError)"
    assert [part["type"] for part in answered["parts"]].count("step-start") == 2
    assert seen["sent"] == 0, "the page has nothing to answer"
    # Another question: the provider is shown the steps as they were.
    assert [message["role"] for message in seen["messages"]] == ["user", "assistant"] * 2
    third = fake_provider.requests[2].body
    if provider == "openai":
        assert roles(third) == ["user", "assistant", "tool", "tool", "assistant", "user"]
    else:
        assert roles(third) == ["user", "assistant", "user", "assistant", "user"]
    assert TEXTS[1] in json.dumps(seen["messages"][-1]["parts"], ensure_ascii=False)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_ag_ui_s_client_takes_the_results_and_sends_them_back(
    toolbox: Service, fake_provider: FakeProvider, provider: str
) -> None:
    seen = drive(toolbox, "agui", provider)
    assert seen["error"] is None
    first = seen["first"]
    assert [message["role"] for message in first] == ["user", "assistant", "tool", "tool", "assistant"]
    spoken, weather, fails, said = first[1:]
    results = {message["toolCallId"]: message["content"] for message in (weather, fails)}
    named = {call["function"]["name"]: call["id"] for call in spoken["toolCalls"]}
    assert json.loads(results[named["weather"]])["app"] == "toolbox"
    assert results[named["fails"]] == "Error: fails failed (RuntimeError)"
    assert (spoken["content"], said["content"]) == tuple(TEXTS)
    assert len({message["id"] for message in seen["messages"]}) == len(seen["messages"])
    third = fake_provider.requests[2].body
    if provider == "openai":
        assert roles(third) == ["user", "assistant", "tool", "tool", "assistant", "user"]
    else:
        assert roles(third) == ["user", "assistant", "user", "assistant", "user"]
