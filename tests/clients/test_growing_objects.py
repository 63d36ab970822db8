"""JSON while it grows, as real clients show it: one part of a message that is put up to date, and a custom event."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import requests
from conftest import Service
from driving import Drivers, Seen, installed
from test_objects import grows_into
from test_objects_served import SCHEMA, TEXT, VALUE, WANTED, WRONG

from app.testing import FakeProvider

DRIVER = "objects.mjs"
MODEL = "openai/fake-by3"

pytestmark = pytest.mark.skipif(not installed(DRIVER), reason="the clients are not installed: make clients")


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Service:
    return start_service(fake_provider_server.env)


def drive(service: Service, way: str, **job: Any) -> Seen:
    about = {"url": service.url, "model": MODEL, "schema": SCHEMA, "leave_after": None}
    asked = {"id": way, "way": way, **about, **job}
    with Drivers({DRIVER: [asked]}, lambda _: True) as running:
        return running.seen(way)


def assert_grown(shown: list[Any]) -> None:
    assert len({json.dumps(value) for value in shown}) > 3
    assert all(grows_into(one, other) for one, other in pairwise(shown))
    assert shown[-1] == VALUE


def test_use_chat_puts_one_part_up_to_date(service: Service, fake_provider: FakeProvider) -> None:
    seen = drive(service, "twice", chat="grows", text=TEXT, model=f"{MODEL}-i20")  # a page shows the last of a moment
    assert (seen["error"], seen["status"]) == (None, "ready")
    assert all(len(parts) == 1 for parts in seen["shown"])
    for values in ([parts[0] for parts in seen["shown"]], [part["data"] for part in seen["data"]]):
        assert_grown(values[: values.index(VALUE) + 1])  # of the first turn

    _, first, _, second = seen["messages"]
    for message in (first, second):
        assert sorted(part["type"] for part in message["parts"]) == ["data-object", "step-start", "text"]
        (part,) = (part for part in message["parts"] if part["type"] == "data-object")
        assert part["data"] == VALUE
    # What the client sends back of it in the second turn is the text, as the model has said it.
    assert fake_provider.requests[1].body["messages"][1]["content"] == TEXT


def test_use_chat_shows_what_was_said_and_the_violation(service: Service) -> None:
    seen = drive(service, "twice", chat="violates", text=WRONG)
    assert seen["status"] == "error"
    assert WANTED in seen["error"]["message"]
    (said,) = (part["text"] for part in seen["messages"][-1]["parts"] if part["type"] == "text")
    assert said == WRONG


def test_a_page_that_comes_back_shows_the_same_object(service: Service) -> None:
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": TEXT}]}
    body = {"id": "comes-back", "messages": [message], "model": f"{MODEL}-i20", "response_format": SCHEMA}
    asked = requests.post(f"{service.url}/api/chat", json={**body, "resumable": True}, stream=True, timeout=30)
    with asked as response:
        lines = response.iter_lines()
        assert any(b"data-object" in line for line in lines)
        seen = drive(service, "resume", chat="comes-back", messages=[message])
    assert (seen["error"], seen["status"]) == (None, "ready")
    assert_grown([parts[0] for parts in seen["shown"]])


def test_ag_ui_s_client_takes_the_event(service: Service) -> None:
    seen = drive(service, "agUi", text=TEXT)
    assert (seen["error"], seen["finish"], seen["text"]) == (None, "stop", TEXT)
    assert {name for name, _ in seen["shown"]} == {"object"}
    assert_grown([value for _, value in seen["shown"]])

    wrong = drive(service, "agUi", text=WRONG)
    assert wrong["error"]["code"] == "stream_broken"
    assert WANTED in wrong["error"]["message"]
    assert wrong["text"] == WRONG
