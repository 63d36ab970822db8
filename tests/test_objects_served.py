"""JSON while it grows, through a real server: what each client gets, what each provider is asked, and what becomes of
an answer that is not what was asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import Service, eventually
from scraped import Numbers
from test_local_model import wait_until_ready
from test_objects import grows_into, rows

from app.testing import FakeProvider

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
VALUE = {"city": 'Zürich 東京 🌧 "quoted"', "days": [1, 20, 300]}
TEXT = json.dumps(VALUE)  # with escapes, which are cut
WRONG = json.dumps({"city": "Zürich", "days": [1, "a private word"]})
WANTED = "at $.days[1]: should be of type integer"

CONFIG = """
[providers.responses]
kind = "openai_responses"
base_url = "{url}"
api_key_env = "OPENAI_API_KEY"

[models."falls-back"]
target = "openai/fake-i10-by3"
fallbacks = ["anthropic/fake-i10-by4"]

[models."breaks-off"]
target = "openai/fake-i10-by3-cut9"
fallbacks = ["anthropic/fake-i10-by4"]

[models."goes-on"]
target = "openai/fake-i10-by3-cut9"
fallbacks = ["continues"]

[models."continues"]
target = "anthropic/fake-i10-by4-cont"
prefill = true
"""


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    folder = tmp_path_factory.mktemp("objects")
    config = folder / "sluiceway.toml"
    config.write_text(CONFIG.format(url=fake_provider_server.openai_base_url))
    return start_service(
        {
            **fake_provider_server.env,
            "SLUICEWAY_CONFIG": str(config),
            "SLUICEWAY_RETRY__ATTEMPTS": "3",
            "SLUICEWAY_RETRY__BACKOFF_S": "0.01",
            "SLUICEWAY_BREAKER__FAILURES": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
    )


def ask(service: Service, model: str, text: str = TEXT, identity: str = "", **more: Any) -> requests.Response:
    body = {"model": model, "prompt": text, "response_format": SCHEMA, **more}
    headers = {"X-Request-ID": identity} if identity else {}
    return requests.post(f"{service.url}/v1/streams", json=body, headers=headers, timeout=60)


def frames(response: requests.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = response.content.decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def of_type(events: list[dict[str, Any]], kind: str, field: str) -> list[Any]:
    return [event[field] for event in events if event["type"] == kind]


def assert_grown(shown: list[Any], last: Any = VALUE) -> None:
    assert len(shown) > 1, "it grows"
    assert all(grows_into(one, other) and one != other for one, other in pairwise(shown))
    assert shown[-1] == last


@pytest.mark.parametrize("provider", ["openai", "responses", "anthropic"])
def test_the_object_grows_beside_its_text(service: Service, fake_provider: FakeProvider, provider: str) -> None:
    events = frames(ask(service, f"{provider}/fake-i10-by3"))
    assert "".join(of_type(events, "text", "text")) == TEXT
    assert_grown(of_type(events, "object", "partial"))
    kinds = [event["type"] for event in events]
    assert kinds[-2:] == ["usage", "finish"]
    assert kinds.index("usage") > max(at for at, kind in enumerate(kinds) if kind == "object")

    (request,) = fake_provider.requests
    assert (
        asked_for(request.body)
        == {
            "openai": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
            "responses": {"type": "json_schema", "name": "answer", "schema": SCHEMA},
            "anthropic": {"type": "json_schema", "schema": SCHEMA},
        }[provider]
    )


def asked_for(body: Any) -> Any:
    return body.get("response_format") or body.get("text", {}).get("format") or body["output_config"]["format"]


@pytest.mark.parametrize("provider", ["openai", "responses", "anthropic"])
def test_strict_name_and_description_go_along(service: Service, fake_provider: FakeProvider, provider: str) -> None:
    said = {"name": "trip", "description": "A trip.", "schema": SCHEMA, "strict": True}
    for form in ({"type": "json_schema", "json_schema": said}, {"type": "json_schema", **said}):
        answered = ask(service, f"{provider}/fake-i10-by3", response_format=form)
        assert_grown(of_type(frames(answered), "object", "partial"))
    known = {"schema": SCHEMA} if provider == "anthropic" else said  # whose own is always strict, and has no name
    for request in fake_provider.requests:
        told = asked_for(request.body)
        assert told.pop("type") == "json_schema"
        assert told.get("json_schema", told) == known


def line_of(service: Service, identity: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("request_id") == identity]

    (line,) = eventually(found, what="a line")
    return dict(line)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_violation_is_an_error_of_its_own(service: Service, fake_provider: FakeProvider, stream: bool) -> None:
    """Of the answer, not of the provider: no other try follows, and the provider's breaker, which one failure opens,
    stays closed."""
    identity = f"violation-{stream}"
    before = counts(service)
    response = ask(service, "falls-back", WRONG, identity, stream=stream)
    if stream:
        events = frames(response)
        error = events[-1]
        assert [event["type"] for event in events[-2:]] == ["usage", "error"]
        text = "".join(of_type(events, "text", "text"))
        assert "The text stands as it was sent" in error["message"]
    else:
        assert response.status_code == 502
        error, text = response.json()["error"], response.json()["text"]
    assert (error["code"], error["retryable"], error["status"]) == ("stream_broken", True, 502)
    assert WANTED in error["message"]
    assert "private" not in error["message"]
    assert text == WRONG

    line = line_of(service, identity)
    assert (line["outcome"], line["code"], line["attempts"]) == ("error", "stream_broken", 1)
    assert line["output_tokens"] > 0
    (request,) = fake_provider.requests
    assert request.body["model"] == "fake-i10-by3"
    assert [after - then for then, after in zip(before, counts(service), strict=True)] == [1, 1, 0]

    assert ask(service, "openai/fake-i10-by3", stream=False).json()["object"] == VALUE


def counts(service: Service) -> tuple[float, ...]:
    """Streams that ended as errors, tries that came to `stream_broken`, and breakers that are open."""
    seen = Numbers(requests.get(f"{service.url}/metrics", timeout=10).text)
    return (
        seen["sluiceway_streams_total", {"outcome": "error"}],
        seen["sluiceway_attempts_total", {"result": "stream_broken"}],
        seen["sluiceway_breaker_open"],
    )


def test_a_fenced_object_is_not_what_was_asked_for(service: Service) -> None:
    fenced = f"```json\n{TEXT}\n```"
    events = frames(ask(service, "openai/fake-i10-by3", fenced))
    assert "it is no JSON: expected value at line 1 column 1" in events[-1]["message"]
    assert "".join(of_type(events, "text", "text")) == fenced


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("parts", "more", "reason"),
    [
        ("n4-by3-len", {}, "length"),
        ("n4-by3-tool1", {"tools": [{"name": "look"}]}, "tool_calls"),
        ("by3-decline", {}, "content_filter"),
    ],
)
def test_what_did_not_come_to_its_end_is_no_violation(
    service: Service, parts: str, more: dict[str, Any], reason: str, stream: bool
) -> None:
    response = ask(service, f"openai/fake-{parts}", stream=stream, **more)
    finish = frames(response)[-1] if stream else response.json()["finish"]
    assert (finish["type"], finish["reason"]) == ("finish", reason)
    if not stream and reason == "length":
        assert response.json()["object"] == {"city": "Z"}


@pytest.mark.parametrize("model", ["breaks-off", "goes-on"])
def test_an_answer_that_another_provider_ends(service: Service, fake_provider: FakeProvider, model: str) -> None:
    events = frames(ask(service, model))
    assert_grown(of_type(events, "object", "partial"))
    assert events[-1]["type"] == "finish"
    assert "".join(of_type(events, "text", "text")) == TEXT
    first, second = fake_provider.requests
    assert asked_for(first.body)["json_schema"]["schema"] == asked_for(second.body)["schema"] == SCHEMA


ROUTES = {
    "/v1/streams": {"prompt": "Hi"},
    "/api/chat": {"messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}]},
    "/agui": {
        "threadId": "t", "runId": "r", "messages": [{"id": "1", "role": "user", "content": "Hi"}],
        "tools": [], "context": [], "state": {}, "forwardedProps": {},
    },
}  # fmt: skip


@pytest.mark.parametrize("schema", [{"type": "strin"}, {"$ref": "http://127.0.0.1:1/"}, {"pattern": "(?=a)"}])
@pytest.mark.parametrize("route", ROUTES)
def test_a_schema_that_can_t_be_used_is_the_client_s(
    service: Service, fake_provider: FakeProvider, route: str, schema: Any
) -> None:
    own = {"model": "openai/fake-i10-by3", "response_format": schema}
    body = {**ROUTES[route], "forwardedProps": own} if route == "/agui" else {**ROUTES[route], **own}
    response = requests.post(f"{service.url}{route}", json=body, timeout=30)
    assert response.status_code == 400
    told = response.json()["error"]
    assert told["code"] == "invalid_request"
    assert told["param"].endswith("response_format")
    assert not fake_provider.requests


def chat(service: Service, model: str, text: str, **more: Any) -> requests.Response:
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": text}]}
    body = {"id": more.pop("id", "c"), "messages": [message], "model": model, "response_format": SCHEMA, **more}
    return requests.post(f"{service.url}/api/chat", json=body, timeout=60)


def test_the_ai_sdk_s_part_keeps_its_id(service: Service) -> None:
    parts = [part for part in frames(chat(service, "openai/fake-i10-by3", TEXT)) if part["type"] == "data-object"]
    assert len({part["id"] for part in parts}) == 1
    assert_grown([part["data"] for part in parts])


def test_ag_ui_s_own_kind_of_event(service: Service) -> None:
    asked = {"model": "openai/fake-i10-by3", "response_format": SCHEMA}
    messages = [{"id": "1", "role": "user", "content": TEXT}]
    body = {**ROUTES["/agui"], "messages": messages, "forwardedProps": asked}
    events = frames(requests.post(f"{service.url}/agui", json=body, timeout=60))
    assert_grown([event["value"] for event in events if event["type"] == "CUSTOM" and event["name"] == "object"])


@pytest.mark.parametrize("text", [TEXT, WRONG], ids=["as wanted", "violated"])
def test_a_stream_that_is_read_again_shows_the_same(service: Service, text: str) -> None:
    first = ask(service, "openai/fake-i10-by3", text, resumable=True)
    events = frames(first)
    assert events[-1]["type"] == ("finish" if text == TEXT else "error")
    again = requests.get(f"{service.url}{first.headers['Location']}", timeout=30)
    assert frames(again) == events
    at = next(at for at, event in enumerate(events) if event["type"] == "object") + 1
    rest = requests.get(f"{service.url}{first.headers['Location']}", headers={"Last-Event-ID": str(at)}, timeout=30)
    assert frames(rest) == events[at:]


def test_a_long_object_is_kept_and_read_again(service: Service) -> None:
    text = rows(65_536)
    first = ask(service, "openai/fake-by3", text, resumable=True, response_format={"type": "object"})
    events = frames(first)
    assert_grown(of_type(events, "object", "partial"), json.loads(text))
    again = requests.get(f"{service.url}{first.headers['Location']}", timeout=60)
    assert again.content == first.content


def test_text_without_a_schema_is_no_object(service: Service) -> None:
    events = frames(ask(service, "openai/fake-i10-by3", response_format=None))
    assert not of_type(events, "object", "partial")
    assert "".join(of_type(events, "text", "text")) == TEXT


# The embedded model


@pytest.mark.skipif(
    not Path(sys.prefix, "local-model").exists(), reason="the embedded model is not installed: make setup"
)
def test_the_embedded_model_s_object_grows(start_service: Callable[..., Service]) -> None:
    """Its server holds it to the schema's grammar; so what it says is what was asked for, or cut at the limit."""
    local = start_service()
    wait_until_ready(local.url)
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "kind": {"enum": ["river", "lake", "sea"]},
            "length_km": {"type": "integer", "minimum": 0, "maximum": 99999},
        },
        "required": ["name", "kind", "length_km"],
        "additionalProperties": False,
    }
    body = {
        "model": "local",
        "prompt": "Describe the river Rhine as JSON.",
        "response_format": {"type": "json_schema", "json_schema": {"name": "water", "schema": schema, "strict": True}},
        "temperature": 0,
        "max_tokens": 200,
    }
    events = frames(requests.post(f"{local.url}/v1/streams", json=body, timeout=120))
    shown = of_type(events, "object", "partial")
    assert events[-1]["type"] == "finish", events[-1]
    assert events[-1]["reason"] == "stop"
    assert_grown(shown, json.loads("".join(of_type(events, "text", "text"))))
    assert set(shown[-1]) == {"name", "kind", "length_km"}
    assert shown[-1]["kind"] in ("river", "lake", "sea")
    local.stop()
