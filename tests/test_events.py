"""The order an answer is told in: the table `events.ORDER`, pair by pair, and as the grammar that it stands for."""

from __future__ import annotations

import re
from itertools import product
from typing import get_args

import pytest

from app.errors import StreamBroken
from app.events import (
    ORDER,
    Event,
    Failed,
    Finished,
    IllegalOrder,
    ObjectPartial,
    Order,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    State,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolOutput,
    Usage,
)

STARTED = Started(id="a", model="m", provider="p", created=1)
TEXT = TextDelta(text="Hi")
REASONING = ReasoningDelta(text="Hm")
CALL = ToolCallStarted(call_id="A", name="f")
DELTA = ToolCallDelta(call_id="A", arguments="{}")
ENDED = ToolCallEnded(call_id="A", name="f", arguments="{}")
OTHER_CALL = ToolCallStarted(call_id="B", name="f")
OTHER_ENDED = ToolCallEnded(call_id="B", name="f", arguments="{}")
OUTPUT = ToolOutput(call_id="A", name="f", result="1")
RECOVERED = Recovered(from_="p/m", to="q/n", kept_chars=2, model="n", exact=True)
USAGE = Usage(input_tokens=1, output_tokens=2)
FINISHED = Finished(reason="stop")
FAILED = Failed(error=StreamBroken("x"))

# One of each; the letters are those of `GRAMMAR`.
EVENTS: dict[str, Event] = {
    "S": STARTED, "t": TEXT, "r": REASONING, "c": CALL, "d": DELTA, "e": ENDED, "R": RECOVERED,
    "n": ReasoningEnded(signature="c2ln"), "s": Source(url="https://example.org"),
    "o": ObjectPartial(partial={"a": "b"}), "a": OUTPUT,
    "U": USAGE, "F": FINISHED, "X": FAILED,
}  # fmt: skip
# The order as the docstring of `events` draws it.
GRAMMAR = re.compile(r"S[trcdeRnsoa]*U?[FX]|X")

# A way into each state.
WAYS: dict[State, list[Event]] = {
    State.NEW: [],
    State.OPEN: [STARTED],
    State.COUNTED: [STARTED, USAGE],
    State.ENDED: [STARTED, FINISHED],
}


def walked(*events: Event) -> Order:
    order = Order()
    for event in events:
        order.check(event)
    return order


def accepted(*events: Event) -> bool:
    try:
        walked(*events)
    except IllegalOrder:
        return False
    return True


def test_every_event_and_every_state_is_tried() -> None:
    assert {type(event) for event in EVENTS.values()} == set(get_args(Event))
    assert set(WAYS) == set(State)


@pytest.mark.parametrize("event", [*EVENTS.values()], ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_step_is_legal_if_the_table_has_it(state: State, event: Event) -> None:
    order = walked(*WAYS[state])
    assert order.state is state
    if isinstance(event, ToolCallDelta | ToolCallEnded | ToolOutput) and state is State.OPEN:
        order.check(CALL)
    if isinstance(event, ToolOutput) and state is State.OPEN:
        order.check(ENDED)
    if following := ORDER.get((state, type(event))):
        order.check(event)
        assert order.state is following
    else:
        with pytest.raises(IllegalOrder, match=f"{type(event).__name__} in state {state.name}"):
            order.check(event)
        assert order.state is state


def test_what_the_table_lets_pass_is_what_the_grammar_says() -> None:
    """All sequences of up to five events; those of tool calls, which need their start as well, are left to the next."""
    for length in range(6):
        for letters in map("".join, product("StrnoUFX", repeat=length)):
            begins_an_answer = any(GRAMMAR.fullmatch(letters + rest) for rest in ("", "F", "SF"))
            assert accepted(*(EVENTS[letter] for letter in letters)) == begins_an_answer, letters


class TestToolCalls:
    """What the table can't say: which calls are open."""

    @pytest.mark.parametrize(
        "events",
        [
            [CALL, ENDED],
            [CALL, DELTA, DELTA, ENDED],
            [CALL, TEXT, DELTA, REASONING, ENDED, TEXT],
            [CALL, OTHER_CALL, DELTA, OTHER_ENDED, ENDED],
            [CALL, OTHER_CALL, ENDED, OTHER_ENDED, OUTPUT, TEXT],
        ],
        ids=["without arguments", "in pieces", "with text between", "two at a time", "with an output"],
    )
    def test_a_call_is_begun_and_ended(self, events: list[Event]) -> None:
        assert walked(STARTED, *events, FINISHED).state is State.ENDED

    @pytest.mark.parametrize(
        ("events", "message"),
        [
            ([DELTA], "arguments for tool call 'A', which is not open"),
            ([ENDED], "end of tool call 'A', which is not open"),
            ([CALL, CALL], "tool call 'A' started twice"),
            ([CALL, ENDED, CALL], "tool call 'A' started twice"),
            ([CALL, ENDED, DELTA], "arguments for tool call 'A', which is not open"),
            ([CALL, ENDED, ENDED], "end of tool call 'A', which is not open"),
            ([CALL, ToolCallDelta(call_id="B", arguments="{}")], "arguments for tool call 'B', which is not open"),
            ([OUTPUT], "output of tool call 'A', which does not wait for one"),
            ([CALL, OUTPUT], "output of tool call 'A', which does not wait for one"),
            ([CALL, ENDED, OUTPUT, OUTPUT], "output of tool call 'A', which does not wait for one"),
            ([CALL, FINISHED], r"finished over open tool calls \['A'\]"),
            ([CALL, USAGE, FINISHED], r"finished over open tool calls \['A'\]"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, events: list[Event], message: str) -> None:
        *before, last = events
        order = walked(STARTED, *before)
        state = order.state
        with pytest.raises(IllegalOrder, match=message):
            order.check(last)
        assert order.state is state

    def test_a_refused_step_leaves_the_calls_as_they_were(self) -> None:
        order = walked(STARTED, CALL)
        for wrong in (STARTED, CALL, FINISHED, OTHER_ENDED):
            with pytest.raises(IllegalOrder):
                order.check(wrong)
        order.check(DELTA)
        order.check(ENDED)
        order.check(FINISHED)

    def test_an_answer_may_fail_over_an_open_call(self) -> None:
        assert walked(STARTED, CALL, DELTA, FAILED).state is State.ENDED
        assert walked(STARTED, CALL, USAGE, FAILED).state is State.ENDED


@pytest.mark.parametrize(
    "events",
    [
        [TEXT, STARTED, FINISHED],
        [STARTED, STARTED, FINISHED],
        [USAGE, STARTED, FINISHED],
        [STARTED, USAGE, TEXT, FINISHED],
        [STARTED, USAGE, USAGE, FINISHED],
        [STARTED, FINISHED, USAGE],
        [STARTED, FINISHED, FINISHED],
        [STARTED, FINISHED, FAILED],
        [STARTED, FAILED, FINISHED],
        [STARTED, FAILED, TEXT],
        [FAILED, STARTED],
        [FINISHED],
    ],
    ids=lambda events: " ".join(type(event).__name__ for event in events),
)
def test_the_mistakes_a_reader_could_make(events: list[Event]) -> None:
    assert not accepted(*events)


@pytest.mark.parametrize("event", [*EVENTS.values()], ids=lambda event: type(event).__name__)
def test_events_are_values(event: Event) -> None:
    """Frozen: a batch that went to the client and the journal can't be changed by one of them."""
    with pytest.raises(AttributeError, match="immutable"):
        setattr(event, event.__struct_fields__[0], "other")
