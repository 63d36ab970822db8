"""A model calls tools of ours: they run while the stream goes on, the model gets what they gave, and answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from callers import Caller, Watched
from callers import watched as under_watch
from conftest import Service, eventually
from test_routes import frames

from app.testing import FakeProvider, answer

WIRES = ("openai", "anthropic")


# The second turn's answer breaks off; the first turn, of six fragments of a call, is too short for that.
BREAKS = "fake-tool1-once-cut8"
FALLBACKS = f"""
[models.goes_on]
target = "openai/{BREAKS}"
fallbacks = ["anthropic/fake-tool1-once"]

[models.comes_later]
target = "openai/fake-tool1-once-f5000"
fallbacks = ["anthropic/fake-tool1-once"]
first_token_s = 0.2
"""


class Toolbox(NamedTuple):
    watched: Watched
    diary: Path

    @property
    def url(self) -> str:
        return self.watched.service.url

    def ask(self, model: str, *tools: Any, **more: Any) -> list[dict[str, Any]]:
        """The native events of an answer."""
        body = {"model": model, "prompt": "Hi", "tools": list(tools), "format": "ndjson", **more}
        response = requests.post(f"{self.url}/v1/streams", json=body, timeout=60)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines() if line]

    def logged(self, request_id: str) -> dict[str, Any]:
        """The line of the log about that stream."""
        found: list[dict[str, Any]] = []

        def ended() -> bool:
            lines = self.watched.service.log.splitlines()
            streams = (json.loads(line) for line in lines if line.startswith('{"'))
            found[:] = [stream for stream in streams if stream["request_id"] == request_id]
            return bool(found)

        eventually(ended, what="the stream's line in the log")
        return found[0]

    def wrote(self, line: str) -> Callable[[], bool]:
        return lambda: self.diary.exists() and line in self.diary.read_text().splitlines()


@pytest.fixture(scope="module")
def served(
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Toolbox]:
    diary = tmp_path_factory.mktemp("toolbox") / "diary"
    settings = diary.with_name("sluiceway.toml")
    settings.write_text(FALLBACKS)
    env = {
        **fake_provider_server.env,
        "SLUICEWAY_CONFIG": str(settings),
        "TOOLBOX_DIARY": str(diary),
        "SLUICEWAY_TOOLS__MAX_STEPS": "3",
        "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2",
    }
    watched = under_watch(start_service, env, app="tests.toolbox:app")
    yield Toolbox(watched, diary)
    watched.service.stop()


@pytest.fixture
def toolbox(served: Toolbox, fake_provider: FakeProvider) -> Toolbox:
    served.diary.unlink(missing_ok=True)
    return served


def of_type(events: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] in kinds]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, each once where it comes several times in a row."""
    told = [event["type"] for event in events]
    return [kind for at, kind in enumerate(told) if at == 0 or kind != told[at - 1]]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in of_type(events, "text"))


def results_sent(body: dict[str, Any]) -> dict[str, str]:
    """What a provider was told that the calls gave, by call id, in either protocol."""
    told: dict[str, str] = {}
    for message in body["messages"]:
        if message["role"] == "tool":
            told[message["tool_call_id"]] = message["content"]
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block["type"] == "tool_result":
                content = block["content"]
                text = content if isinstance(content, str) else "".join(part["text"] for part in content)
                told[block["tool_use_id"]] = f"Error: {text}" if block.get("is_error") else text
    return told


@pytest.mark.parametrize("wire", WIRES)
def test_calls_run_at_the_same_time_and_the_model_goes_on_with_their_results(
    toolbox: Toolbox, fake_provider: FakeProvider, wire: str
) -> None:
    model = "fake-tool2-once-n5"
    events = toolbox.ask(f"{wire}/{model}", "together", tool_choice="required")
    assert kinds(events)[0] == "start"
    assert kinds(events)[-4:] == ["tool_result", "text", "usage", "finish"]
    assert [event["event_id"] for event in events] == list(range(1, len(events) + 1))
    calls, results = of_type(events, "tool_call"), of_type(events, "tool_result")
    gave = {call["call_id"]: f"{call['arguments']['days']} days in {call['arguments']['city']}" for call in calls}
    assert len(gave) == 2
    assert {result["call_id"]: result["result"] for result in results} == gave
    assert {result["name"] for result in results} == {"together"}
    first, second = fake_provider.requests
    assert [tool.get("function", tool)["name"] for tool in first.body["tools"]] == ["together"]
    assert second.body["tools"] == first.body["tools"]
    assert results_sent(second.body) == gave
    assert first.body["tool_choice"] in ("required", {"type": "any"})
    assert second.body["tool_choice"] in ("auto", {"type": "auto"}), "or it would have to call again"
    assert text_of(events) == answer(model, tools=["together"]).text + answer(model, step=1).text
    usage = of_type(events, "usage")[0]
    assert (usage["input_tokens"], usage["source"]) == (50, "provider"), "of both turns"
    assert events[-1]["reason"] == "stop"
    assert events[-1]["usage"]["output_tokens"] == usage["output_tokens"]


@pytest.mark.parametrize("wire", WIRES)
def test_one_fails_and_one_is_slow(toolbox: Toolbox, fake_provider: FakeProvider, wire: str) -> None:
    model = "fake-tool2-once"
    events = toolbox.ask(f"{wire}/{model}", "slow", "fails")
    slow, fails = of_type(events, "tool_call")
    told = [(event["call_id"], event["error"]) for event in of_type(events, "tool_result")]
    late = "slow took longer than 0.3 s, and was stopped"
    assert told == [(fails["call_id"], "fails failed (RuntimeError)"), (slow["call_id"], late)], "as they come"
    sent = results_sent(fake_provider.requests[1].body)
    assert list(sent) == [slow["call_id"], fails["call_id"]], "in the order of the calls"
    assert all(text.startswith("Error: ") for text in sent.values())
    assert text_of(events) == answer(model, step=1).text
    assert events[-1]["reason"] == "stop"
    eventually(toolbox.wrote("slow ended"), what="the end of the slow tool")
    assert "hunter2" not in json.dumps(events) + json.dumps(sent)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("refuses", " is not on the map"),
        ("no_json", "no_json gave a object, which can't be written as JSON"),
        ("too_much", "at most 1000000 can be passed on"),
        ("leaves", "leaves failed (SystemExit)"),
        ("counts", "the arguments of counts are wrong: days: Input should be a valid string"),
        ("clock", "the arguments of clock are wrong: city: Extra inputs are not permitted"),
    ],
)
def test_no_tool_breaks_a_stream(toolbox: Toolbox, fake_provider: FakeProvider, tool: str, said: str) -> None:
    events = toolbox.ask("openai/fake-tool1-once", tool)
    (result,) = of_type(events, "tool_result")
    assert said in result["error"]
    assert said in results_sent(fake_provider.requests[1].body)[result["call_id"]]
    assert events[-1]["reason"] == "stop"
    assert text_of(events) == answer("fake-tool1-once", step=1).text


@pytest.mark.parametrize("wire", WIRES)
def test_the_number_of_steps_has_a_limit_that_is_told(toolbox: Toolbox, fake_provider: FakeProvider, wire: str) -> None:
    events = toolbox.ask(f"{wire}/fake-tool1", "weather")
    results = of_type(events, "tool_result")
    assert [event["call_id"] for event in of_type(events, "tool_call")] == [event["call_id"] for event in results]
    assert ["result" in result for result in results] == [True, True, False]
    assert results[-1]["error"].endswith("asked 3 times, all that an answer may (tools.max_steps)")
    assert kinds(events)[-2:] == ["usage", "finish"]
    assert events[-1]["reason"] == "tool_calls"
    assert len(fake_provider.requests) == 3


def test_calls_of_the_clients_own_tools_end_the_answer(toolbox: Toolbox, fake_provider: FakeProvider) -> None:
    mine = {"name": "mine", "parameters": {"type": "object"}}
    model = "openai/fake-tool2-once"
    events = toolbox.ask(model, mine, "weather")
    ours = next(call for call in of_type(events, "tool_call") if call["name"] == "weather")
    theirs = next(call for call in of_type(events, "tool_call") if call["name"] == "mine")
    (result,) = of_type(events, "tool_result")
    assert result["call_id"] == ours["call_id"]
    assert events[-1]["reason"] == "tool_calls"
    assert len(fake_provider.requests) == 1
    # What came is put back as it came, with the client's own result beside it.
    fields = ("call_id", "name", "arguments")
    calls = [{name: call[name] for name in fields} for call in of_type(events, "tool_call")]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "call_id": ours["call_id"], "result": result["result"]},
        {"role": "tool", "call_id": theirs["call_id"], "result": {"done": True}},
    ]
    more = toolbox.ask(model, mine, "weather", prompt=None, messages=messages)
    assert text_of(more) == answer("fake-tool2-once", step=1).text
    assert results_sent(fake_provider.requests[1].body)[theirs["call_id"]] == '{"done":true}'


def test_heartbeats_while_a_tool_runs(toolbox: Toolbox) -> None:
    body = {"model": "openai/fake-tool1-once", "prompt": "Hi", "tools": ["slow"]}
    response = requests.post(f"{toolbox.url}/v1/streams", json=body, timeout=60)
    before, _, after = response.content.partition(b'"type":"tool_result"')
    assert b": ping\n" in before.rpartition(b'"type":"tool_call"')[2]
    assert frames(after.partition(b"\n\n")[2])[-2].data["reason"] == "stop"


def post(path: str, body: dict[str, Any], request_id: str = "any") -> bytes:
    data = json.dumps(body).encode()
    said = ("Host: x", f"X-Request-ID: {request_id}", "Content-Type: application/json", f"Content-Length: {len(data)}")
    return "\r\n".join([f"POST {path} HTTP/1.1", *said, "", ""]).encode() + data


WAITING = {"model": "openai/fake-tool1-once", "prompt": "Hi", "tools": ["patient"]}


@pytest.mark.parametrize("way", ["close", "reset"])
def test_who_leaves_while_a_tool_runs_ends_it(toolbox: Toolbox, fake_provider: FakeProvider, way: str) -> None:
    with Caller(("127.0.0.1", toolbox.watched.service.port), post("/v1/streams", WAITING, way)) as caller:
        caller.read_until(b'"type":"tool_call"')
        eventually(toolbox.wrote("patient began"), what="the tool")
        left_at = caller.leave(way)
    eventually(toolbox.wrote("patient ended"), what="the end of the tool")
    print(f"the tool had ended {1000 * (time.monotonic() - left_at):.0f} ms after the client left ({way})")
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    assert len(fake_provider.requests) == 1, "the model is not asked again"
    said = toolbox.logged(way)
    assert (said["outcome"], said["cancelled_by"], said["attempts"]) == ("cancelled", "client", 1)


def test_a_stop_while_a_tool_runs(toolbox: Toolbox) -> None:
    body = post("/v1/streams", {**WAITING, "resumable": True})
    with Caller(("127.0.0.1", toolbox.watched.service.port), body) as caller:
        caller.read_until(b'"type":"tool_call"')
        eventually(toolbox.wrote("patient began"), what="the tool")
        stream = frames(caller.body.partition(b"\n\n")[0] + b"\n\n")[0].data["id"]
        assert requests.delete(f"{toolbox.url}/v1/streams/{stream}", timeout=10).ok
        caller.read_until(b"[DONE]")
    last = frames(caller.body)[-2].data
    assert (last["type"], last["reason"]) == ("finish", "cancelled")
    eventually(toolbox.wrote("patient ended"), what="the end of the tool")
    again = requests.get(f"{toolbox.url}/v1/streams/{stream}", timeout=10)
    assert again.content == caller.body


def test_a_drain_ends_a_tool_with_its_stream(
    start_service: Callable[..., Service], fake_provider: FakeProvider, tmp_path: Path
) -> None:
    env = {**fake_provider.env, "TOOLBOX_DIARY": str(tmp_path / "diary"), "SLUICEWAY_SERVER__DRAIN_S": "1"}
    watched = under_watch(start_service, env, app="tests.toolbox:app")
    toolbox = Toolbox(watched, tmp_path / "diary")
    with Caller(("127.0.0.1", watched.service.port), post("/v1/streams", WAITING)) as caller:
        caller.read_until(b'"type":"tool_call"')
        eventually(toolbox.wrote("patient began"), what="the tool")
        watched.service.process.terminate()
        caller.read_until(b"[DONE]")
    last = frames(caller.body)[-2].data
    assert (last["type"], last["code"]) == ("error", "draining")
    assert watched.service.process.wait(60) == 0
    assert toolbox.wrote("patient ended")()
    watched.assert_no_complaint()


def test_a_resumable_answer_with_tools_in_it_is_the_same_again(toolbox: Toolbox) -> None:
    body = {"model": "openai/fake-tool2-once", "prompt": "Hi", "tools": ["weather"], "resumable": True}
    first = requests.post(f"{toolbox.url}/v1/streams", json=body, timeout=60)
    stream = frames(first.content)[0].data["id"]
    again = requests.get(f"{toolbox.url}/v1/streams/{stream}", timeout=60)
    assert again.content == first.content
    assert b'"type":"tool_result"' in again.content


def test_an_answer_in_one_piece(toolbox: Toolbox, fake_provider: FakeProvider) -> None:
    body = {"model": "openai/fake-tool2-once", "prompt": "Hi", "tools": ["weather", "fails"], "stream": False}
    said = requests.post(f"{toolbox.url}/v1/streams", json=body, timeout=60).json()
    assert said["text"] == answer("fake-tool2-once", step=1).text
    assert [call["name"] for call in said["tool_calls"]] == ["weather", "fails"]
    assert {result["name"]: "error" in result for result in said["tool_results"]} == {"weather": False, "fails": True}
    assert len(fake_provider.requests) == 2


def test_what_breaks_behind_a_tool_is_an_error_in_the_stream(toolbox: Toolbox) -> None:
    events = toolbox.ask(f"openai/{BREAKS}", "weather")
    assert kinds(events)[-3:] == ["text", "usage", "error"] or kinds(events)[-2:] == ["text", "error"]
    assert events[-1]["code"] == "stream_broken"
    assert text_of(events) == " ".join(answer(BREAKS, step=1).text.split(" ")[:8])


def test_another_provider_goes_on_behind_a_tool(toolbox: Toolbox, fake_provider: FakeProvider) -> None:
    events = toolbox.ask("goes_on", "weather")
    assert text_of(events) == answer(BREAKS, step=1).text
    assert events[-1]["reason"] == "stop"
    assert len(of_type(events, "tool_result")) == 1, "the tool is not called again"
    asked = [request.path.rpartition("/v1/")[2] for request in fake_provider.requests]
    assert asked == ["chat/completions", "chat/completions", "messages"]
    (told,) = results_sent(fake_provider.requests[2].body).values()
    assert json.loads(told)["app"] == "toolbox", "the results go along to the other protocol"


def test_each_turn_has_its_own_tries(toolbox: Toolbox, fake_provider: FakeProvider) -> None:
    events = toolbox.ask("comes_later", "weather")
    assert text_of(events) == answer("fake-tool1-once", step=1).text
    asked = [request.path.rpartition("/v1/")[2] for request in fake_provider.requests]
    assert asked == ["chat/completions", "messages"] * 2


def test_names_that_nobody_knows(toolbox: Toolbox, fake_provider: FakeProvider) -> None:
    for path, body in (
        ("/v1/streams", {"prompt": "Hi", "tools": ["wether"]}),
        ("/api/chat", {"prompt": "Hi", "tools": ["wether"]}),
        (
            "/agui",
            {
                "threadId": "t",
                "runId": "r",
                "messages": [{"id": "1", "role": "user", "content": "Hi"}],
                "forwardedProps": {"tools": ["wether"]},
            },
        ),
    ):
        response = requests.post(f"{toolbox.url}{path}", json=body, timeout=10)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "tools"
        assert "Did you mean 'weather'?" in response.json()["error"]["message"]
    assert not fake_provider.requests


def test_a_value_behind_a_tool_is_told_as_it_grows(toolbox: Toolbox) -> None:
    """What the model said before it called the tool is no part of it."""
    value = {"city": "Chur", "days": [1, 2, 3]}
    schema = {"type": "object", "required": ["city"]}
    more = {"prompt": json.dumps(value), "response_format": schema}
    events = toolbox.ask("openai/fake-by3-i20-tool1-once", "weather", **more)
    assert kinds(events)[-2:] == ["usage", "finish"]
    behind = events[[event["type"] for event in events].index("tool_result") :]
    partials = [event["partial"] for event in of_type(behind, "object")]
    assert partials[-1] == value
    assert len(partials) > 1
    wrong = toolbox.ask("openai/fake-by3-i20-tool1-once", "weather", **{**more, "prompt": "[]"})
    assert (wrong[-1]["type"], wrong[-1]["code"]) == ("error", "stream_broken")
