"""The books of one answer: its usage, its times, its order; with the time set by hand."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.books import Books
from app.errors import StreamBroken
from app.events import (
    Event,
    Failed,
    Finished,
    IllegalOrder,
    ReasoningDelta,
    Recovered,
    Started,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.request import ChatRequest, Message

STARTED = Started(id="a", model="m", provider="p", created=1)
USAGE = Usage(input_tokens=3, output_tokens=4)
FINISHED = Finished(reason="stop")
FAILED = Failed(error=StreamBroken("x"))
CALL: list[Event] = [
    ToolCallStarted(call_id="A", name="f"),
    ToolCallDelta(call_id="A", arguments='{"a":'),
    ToolCallDelta(call_id="A", arguments="1}"),
    ToolCallEnded(call_id="A", name="f", arguments='{"a":1}'),
]


def text(piece: str) -> TextDelta:
    return TextDelta(text=piece)


def request(*messages: str, system: str | None = None) -> ChatRequest:
    return ChatRequest(dialect="native", messages=tuple(Message.of("user", said) for said in messages), system=system)


def kept(*batches: tuple[float, Sequence[Event]], asked: ChatRequest | None = None) -> list[Event]:
    """What the books let through, of batches that come at these seconds after the request."""
    now_s = 0.0
    books = Books(asked or request("Hi"), lambda: now_s)
    events: list[Event] = []
    for now_s, batch in batches:  # noqa: B007  (read by the lambda)
        events += books.feed(list(batch))
    return events


def finished(usage: Usage, ttft_s: float | None = 0.0, duration_s: float = 0.0) -> Finished:
    return Finished(reason="stop", usage=usage, timings=Timings(ttft_s=ttft_s, duration_s=duration_s))


def estimated(input_tokens: int, output_tokens: int) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, source="estimated")


def test_finished_leaves_with_the_providers_usage_and_the_times() -> None:
    assert kept((0.5, [STARTED]), (1.25, [text("Hi")]), (2.0, [text("!"), USAGE, FINISHED])) == [
        STARTED,
        text("Hi"),
        text("!"),
        USAGE,
        finished(USAGE, ttft_s=1.25, duration_s=2.0),
    ]


def test_what_finished_says_beside_stays() -> None:
    stopped = Finished(reason="length", stop_sequence="###")
    assert kept((0, [STARTED, text("Hi"), USAGE, stopped]))[-1] == msgspec.structs.replace(
        stopped, usage=USAGE, timings=Timings(ttft_s=0.0, duration_s=0.0)
    )


class TestTimeToFirstToken:
    @pytest.mark.parametrize(
        "first", [text("Hi"), ReasoningDelta(text="Hm"), CALL[0]], ids=["text", "reasoning", "a call"]
    )
    def test_is_the_first_event_of_the_answer_itself(self, first: Event) -> None:
        rest = CALL[1:] if first is CALL[0] else []
        *_, end = kept((1, [STARTED]), (2, [first]), (3, [*rest, text("more")]), (4, [USAGE, FINISHED]))
        assert end == finished(USAGE, ttft_s=2, duration_s=4)

    @pytest.mark.parametrize("usage", [[USAGE], []], ids=["counted", "estimated"])
    def test_is_none_for_an_answer_without_any(self, usage: list[Event]) -> None:
        *_, end = kept((1, [STARTED]), (2, usage), (3, [FINISHED]))
        assert isinstance(end, Finished)
        assert end.timings == Timings(ttft_s=None, duration_s=3)


class TestUsageThatTheProviderDoesNotName:
    def test_is_estimated_from_the_text_and_marked(self) -> None:
        """Four characters a token, rounded up: here 3 + 4 + 2 asked, and 5 + 4 + 7 answered."""
        answer: list[Event] = [STARTED, ReasoningDelta(text="Hmmm."), text("Yes!"), *CALL, FINISHED]
        counted = estimated(3, 4)
        assert kept((0, answer), asked=request("Grüß", "ok", system="Bee")) == [
            *answer[:-1],
            counted,
            finished(counted),
        ]

    @pytest.mark.parametrize(("chars", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
    def test_is_rounded_up_once_not_with_every_piece(self, chars: int, tokens: int) -> None:
        assert kept((0, [STARTED, *map(text, "x" * chars), FINISHED]))[-2] == estimated(1, tokens)

    def test_keeps_the_input_that_was_counted_at_the_start(self) -> None:
        began = msgspec.structs.replace(STARTED, input_tokens=472)
        assert kept((0, [began, text("Hi"), FINISHED]))[-2] == estimated(472, 1)


def test_a_failure_passes_with_what_was_counted_and_no_more() -> None:
    assert kept((1, [STARTED, text("Hi")]), (2, [USAGE, FAILED])) == [STARTED, text("Hi"), USAGE, FAILED]
    assert kept((1, [STARTED, text("Hi")]), (2, [FAILED])) == [STARTED, text("Hi"), FAILED]
    assert kept((1, [FAILED])) == [FAILED]


@pytest.mark.parametrize(
    "events",
    [[text("Hi")], [STARTED, STARTED], [STARTED, FINISHED, FINISHED], [STARTED, CALL[0], FINISHED], [STARTED, CALL[1]]],
    ids=["no start", "two starts", "two ends", "an open call", "a fragment of no call"],
)
def test_a_wrong_order_is_a_defect_and_passes_nothing_more(events: list[Event]) -> None:
    with pytest.raises(IllegalOrder):
        kept((0, events))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([text("Hi"), ReasoningDelta(text="Hm"), text("é")])), st.booleans(), st.data())
def test_batching_changes_nothing(said: list[Event], counted: bool, data: st.DataObject) -> None:
    events: list[Event] = [STARTED, *said, *([USAGE] if counted else []), FINISHED]
    places = sorted(data.draw(st.lists(st.integers(0, len(events)))))
    batches = [(0.0, events[start:end]) for start, end in zip([0, *places], [*places, len(events)], strict=True)]
    assert kept(*batches) == kept((0.0, events))


class TestWhatATryCostThatBrokeOff:
    """Its usage was said (vLLM names it in every chunk), and another try goes on."""

    def books(self) -> Books:
        books = Books(request("Hi"), lambda: 0.0)
        books.feed([STARTED, text("x" * 40)])
        books.spend([USAGE])
        return books

    def test_is_all_where_nothing_came_after_it(self) -> None:
        assert self.books().usage() == USAGE

    def test_is_added_to_what_the_next_one_counted(self) -> None:
        books = self.books()
        books.feed([text("y" * 40), USAGE, FINISHED])
        assert books.usage() == Usage(input_tokens=6, output_tokens=8)

    @pytest.mark.parametrize("end", [FINISHED, FAILED], ids=["finished", "failed"])
    def test_is_added_to_the_estimate_of_what_the_next_one_said(self, end: Event) -> None:
        books = self.books()
        books.feed([text("y" * 40), end])
        assert books.usage() == estimated(3 + 1, 4 + 10)


def test_the_text_that_stands_is_the_text() -> None:
    books = Books(request("Hi"), lambda: 0.0)
    books.feed([STARTED, text("One "), text("two")])
    books.feed([text(" three")])
    assert books.text == "One two three"
    books.feed([Recovered(from_="p/m", to="q/n", kept_chars=13, model="n", exact=True), text(".")])
    assert books.text == "One two three."
    books.feed([Recovered(from_="q/n", to="p/m", kept_chars=4, model="m", exact=False), text("too")])
    assert books.text == "One too"


def test_a_long_text_is_kept_in_few_pieces() -> None:
    books = Books(request("Hi"), lambda: 0.0)
    books.feed([STARTED, text("0 ")])
    for n in range(1, 2000):
        books.feed([text(f"{n} ")])
    assert len(books._texts) < 300
    assert books.text == "".join(f"{n} " for n in range(2000))
