"""The turns of an answer with tools of ours in it, event by event."""

from __future__ import annotations

import contextlib
from math import inf
from typing import Any

from app.cancel import Cancel
from app.events import (
    Batch,
    Event,
    Finished,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolOutput,
    Usage,
)
from app.request import ChatRequest, Message, Reasoning, Text, ToolCall, ToolResult
from app.steps import Steps
from app.tools import Tools

USAGE = Usage(input_tokens=1, output_tokens=2)
STARTED = Started(id="a", model="m", provider="p", created=1)
ASKED = Message.of("user", "Hi")


def steps(*earlier: Message, max_turns: int = 8) -> Steps:
    tools = Tools()
    tools.tool(lambda: "sun", name="weather")
    tools.tool(lambda: {"n": 1}, name="count")
    request = ChatRequest(dialect="native", messages=(*earlier, ASKED), served=("weather", "count"))
    request, served = tools.offered(request)
    return Steps(request, served, max_turns=max_turns, cancel=Cancel(), around=contextlib.nullcontext, request_id="req")


def call(call_id: str, name: str = "weather") -> list[Event]:
    return [
        ToolCallStarted(call_id=call_id, name=name),
        ToolCallDelta(call_id=call_id, arguments="{}"),
        ToolCallEnded(call_id=call_id, name=name, arguments="{}"),
    ]


def end(reason: Any = "tool_calls") -> list[Event]:
    return [USAGE, Finished(reason=reason)]


def outputs(one: Steps) -> list[Event]:
    told: list[Event] = []
    while one.running is not None:
        batch = one.read(inf)
        assert batch is not None
        told += batch.events
    return told


def ids(events: list[Event]) -> list[str]:
    return [event.call_id for event in events if isinstance(event, ToolCallStarted | ToolCallEnded | ToolOutput)]


def test_an_answer_without_calls_is_left_as_it_is() -> None:
    one = steps()
    assert one.feed([STARTED, TextDelta(text="a")]) == [STARTED, TextDelta(text="a")]
    batch, spent = one.end(Batch(end("stop"), None, True))
    assert (batch.events, batch.ended, spent, one.running) == (end("stop"), True, [], None)


def test_the_next_turn_is_asked_with_all_that_was_said() -> None:
    one = steps()
    thought = [ReasoningDelta(text="hm"), ReasoningEnded(signature="sig")]
    one.feed([STARTED, *thought, TextDelta(text="Let me "), TextDelta(text="see."), *call("c1"), *call("c2", "count")])
    batch, spent = one.end(Batch(end(), None, True))
    assert (batch.events, batch.ended) == ([], False)
    assert spent == end()
    assert ids(outputs(one)) == ["c1", "c2"]
    assert one.request.messages == (
        ASKED,
        Message(
            "assistant",
            (
                Reasoning("hm", "sig"),
                Text("Let me see."),
                ToolCall("c1", "weather", "{}"),
                ToolCall("c2", "count", "{}"),
            ),
        ),
        Message("user", (ToolResult("c1", (Text("sun"),)), ToolResult("c2", (Text('{"n":1}'),)))),
    )


def test_a_turn_is_shown_again_in_the_order_in_which_it_was_said() -> None:
    one = steps()
    one.feed([STARTED, ReasoningDelta(text="first"), ReasoningEnded(signature="s1"), TextDelta(text="One ")])
    one.feed([TextDelta(text="moment."), ReasoningDelta(text="sec"), ReasoningDelta(text="ond")])
    one.feed([ReasoningEnded(signature="s2"), *call("c1"), ReasoningEnded(redacted="r"), *call("c2")])
    one.end(Batch(end(), None, True))
    outputs(one)
    assert one.request.messages[-2].parts == (
        Reasoning("first", "s1"),
        Text("One moment."),
        Reasoning("second", "s2"),
        ToolCall("c1", "weather", "{}"),
        Reasoning(redacted="r"),
        ToolCall("c2", "weather", "{}"),
    )


def test_a_turn_that_was_gone_on_with_is_shown_without_what_was_taken_back() -> None:
    one = steps()
    one.feed([STARTED, TextDelta(text="One "), ReasoningDelta(text="hm"), TextDelta(text="two three")])
    one.feed([Recovered(from_="p/m", to="q/n", kept_chars=7, model="n", exact=False), TextDelta(text="!"), *call("c")])
    one.end(Batch(end(), None, True))
    outputs(one)
    said = (Text("One "), Reasoning("hm"), Text("two!"), ToolCall("c", "weather", "{}"))
    assert one.request.messages[-2].parts == said


def test_calls_that_are_named_alike_get_names_of_their_own() -> None:
    earlier = (
        ASKED,
        Message("assistant", (ToolCall("c", "weather", "{}"),)),
        Message("user", (ToolResult("c", (Text("rain"),)),)),
    )
    one = steps(*earlier)
    for named in ("c-2", "c-3", "c-4"):
        told = one.feed([STARTED, *call("c")])
        batch, _ = one.end(Batch(end(), None, True))
        told += batch.events + outputs(one)
        assert set(ids(told)) == {named}
        assert next(event for event in told if isinstance(event, ToolCallDelta)).call_id == named
        last = one.request.messages[-1].parts[0]
        assert isinstance(last, ToolResult)
        assert last.call_id == named


def test_what_stands_is_counted_from_the_beginning_of_the_answer() -> None:
    one = steps()
    one.feed([STARTED, TextDelta(text="12345"), *call("c")])
    one.end(Batch(end(), None, True))
    outputs(one)
    told = one.feed(
        [STARTED, TextDelta(text="abc"), Recovered(from_="p/m", to="q/n", kept_chars=2, model="n", exact=False)]
    )
    assert [type(event) for event in told] == [TextDelta, Recovered], "an answer starts once"
    assert isinstance(told[1], Recovered)
    assert told[1].kept_chars == 7
    one.feed([TextDelta(text="d"), *call("c2")])
    one.end(Batch(end(), None, True))
    outputs(one)
    spoken = one.request.messages[-2].parts
    assert spoken[0] == Text("abd")


def test_a_call_of_nobodys_tool_is_answered_at_once() -> None:
    one = steps()
    one.feed([STARTED, *call("c1", "wether"), *call("c2")])
    batch, _ = one.end(Batch(end(), None, True))
    (told,) = batch.events
    assert isinstance(told, ToolOutput)
    assert told.error == "there is no tool 'wether'; known: count, weather. Did you mean 'weather'?"
    assert ids(outputs(one)) == ["c2"]
    results = one.request.messages[-1].parts
    assert [result.call_id for result in results if isinstance(result, ToolResult)] == ["c1", "c2"]


def test_only_unknown_calls_go_on_too() -> None:
    one = steps()
    one.feed([STARTED, *call("c1", "wether")])
    batch, _ = one.end(Batch(end(), None, True))
    assert ids(batch.events) == ["c1"]
    assert not batch.ended
    assert outputs(one) == []
    assert len(one.request.messages) == 3


def test_an_answer_that_was_cut_at_its_length_calls_nothing() -> None:
    one = steps()
    one.feed([STARTED, *call("c1")])
    batch, _ = one.end(Batch(end("length"), None, True))
    assert batch.ended
    assert one.running is None
