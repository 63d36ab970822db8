"""An answer with tools of ours in it, read step by step in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

import pytest

from app import load_settings
from app.answers import Answer
from app.errors import Stopped
from app.events import Event, Failed, Finished, ToolOutput, Usage
from app.house import House, build
from app.request import ChatRequest, Message, Tool
from app.testing import FakeProvider, answer
from app.tools import Tools

COUNTED = ("input_tokens", "output_tokens", "source")


class Asked(NamedTuple):
    answer: Answer
    ran: list[threading.Thread]
    goes: threading.Event

    def to_the_tool(self) -> list[Event]:
        """All events until our tool runs."""
        events: list[Event] = []
        while not self.ran:
            batch = self.answer.read(time.monotonic() + 0.05)
            if batch is not None:
                assert not batch.ended
                events += batch.events
        return events

    def rest(self) -> list[Event]:
        events: list[Event] = []
        ended = False
        while not ended:
            if (batch := self.answer.read(inf)) is not None:
                events += batch.events
                ended = batch.ended
        return events


@pytest.fixture
def house(fake_provider: FakeProvider) -> Iterator[House]:
    built = build(load_settings({}, fake_provider.env))
    yield built
    for provider in built.providers.values():
        provider.close()


@pytest.fixture(params=["openai", "anthropic"])
def asked(request: pytest.FixtureRequest, house: House) -> Iterator[Asked]:
    """Two calls: of the client's tool, and of ours, which waits until `goes`."""
    goes = threading.Event()
    ran: list[threading.Thread] = []
    tools = Tools()

    def ours(city: str, days: int) -> str:
        ran.append(threading.current_thread())
        assert goes.wait(60)
        return "done"

    tools.tool(ours)
    wants = ChatRequest(
        dialect="native", messages=(Message.of("user", "Hi"),), tools=(Tool("theirs"),), served=("ours",)
    )
    wants, served = tools.offered(wants)
    target = house.targets.find(f"{request.param}/fake-tool2-once")
    one = Answer(
        house, wants, target, format="native", tells_recovery=True, request_id="req", environ={}, served=served
    )
    yield Asked(one, ran, goes)
    goes.set()
    one.close()


def usage(events: list[Event]) -> tuple[int, int, str]:
    (said,) = (event for event in events if isinstance(event, Usage))
    return said.input_tokens, said.output_tokens, said.source


SAID = answer("fake-tool2-once", tools=["theirs", "ours"])
BILLED = (SAID.input_tokens, SAID.output_tokens, "provider")


def test_an_answer_that_the_client_goes_on_with_is_billed_once(asked: Asked) -> None:
    asked.to_the_tool()
    asked.goes.set()
    events = asked.rest()
    assert [type(event) for event in events] == [ToolOutput, Usage, Finished]
    assert usage(events) == BILLED


def test_one_that_is_stopped_in_a_tool_is_billed_for_what_was_asked(asked: Asked) -> None:
    asked.to_the_tool()
    asked.answer.cancel(Stopped("enough", by="stop"))
    events = asked.rest()
    assert [type(event) for event in events] == [Usage, Finished]
    assert usage(events) == BILLED


def test_a_stop_behind_the_last_output_is_too_late(asked: Asked) -> None:
    asked.to_the_tool()
    asked.goes.set()
    for thread in asked.ran:
        thread.join(60)
    asked.answer.cancel(Stopped("enough", by="stop"))
    events = asked.rest()
    assert [type(event) for event in events] == [ToolOutput, Usage, Finished]
    assert isinstance(last := events[-1], Finished)
    assert last.reason == "tool_calls"
    assert not any(isinstance(event, Failed) for event in events)
