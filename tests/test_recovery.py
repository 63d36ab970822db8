"""Two tries joined to one answer, without any of them: `Splice` and `Overlap`."""

from __future__ import annotations

import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from app.errors import StreamBroken
from app.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Recovered,
    Started,
    TextDelta,
    ToolCallStarted,
    Usage,
)
from app.house import build
from app.recovery import MIN_ANEW, MIN_OVERLAP, Overlap, Splice, _recurs
from app.request import with_prefill
from app.settings import load_settings

STARTED = Started(id="2", model="n-2026", provider="q", created=2)
USAGE = Usage(input_tokens=3, output_tokens=4)
FINISHED = Finished(reason="stop")
FAILED = Failed(error=StreamBroken("again"))
CALL = ToolCallStarted(call_id="A", name="f")


def text(*pieces: str) -> list[Event]:
    return [TextDelta(text=piece) for piece in pieces]


def thought(*pieces: str) -> list[Event]:
    return [ReasoningDelta(text=piece) for piece in pieces]


def recovered(kept: int, *, exact: bool = True) -> Recovered:
    return Recovered(from_="p/m", to="q/n", kept_chars=kept, model="n-2026", exact=exact)


def splice(said: str, *, reasoning: str = "", tells: bool = False, prefill: str | None = None) -> Splice:
    return Splice(said, reasoning, from_="p/m", to="q/n", tells=tells, prefill=prefill)


def joined(one: Splice, *events: Event) -> list[Event]:
    """What comes of the events, each in a batch of its own."""
    return [out for event in (STARTED, *events) for out in one.feed([event])]


def shown(said: str, events: list[Event]) -> str:
    """What a client holds in the end that had `said` before."""
    for event in events:
        match event:
            case Recovered(kept_chars=kept):
                said = said[:kept]
            case TextDelta(text=more):
                said += more
    return said


# The next try answers from the beginning


@pytest.mark.parametrize(
    ("pieces", "rest"),
    [
        (["One two", " three"], [" three"]),
        (["One", " ", "two", " three"], [" three"]),
        (["One two three"], [" three"]),
        (["One t", "wo th", "ree"], [" th", "ree"]),
    ],
)
def test_what_was_said_is_held_back(pieces: list[str], rest: list[str]) -> None:
    one = splice("One two")
    assert joined(one, *text(*pieces), USAGE, FINISHED) == [recovered(7), *text(*rest), USAGE, FINISHED]
    assert one.joined
    assert not one.differs


def test_nothing_more_to_say_is_the_end_of_the_answer() -> None:
    assert joined(splice("One two"), *text("One two"), USAGE, FINISHED) == [recovered(7), USAGE, FINISHED]


@pytest.mark.parametrize("pieces", [["One", " too"], ["Two"], ["One two"[:-1], "x"], ["one two"]])
def test_another_answer_is_none_where_the_client_cannot_be_told(pieces: list[str]) -> None:
    one = splice("One two")
    assert joined(one, *text(*pieces), *text(" more"), USAGE, FINISHED) == []
    assert one.differs
    assert not one.joined


@pytest.mark.parametrize(
    ("pieces", "kept", "rest"),
    [
        (["One", " too"], 5, ["oo"]),
        (["Two"], 0, ["Two"]),
        (["One 🌊", " x"], 4, ["🌊", " x"]),
    ],
)
def test_another_answer_is_announced_where_it_can_be(pieces: list[str], kept: int, rest: list[str]) -> None:
    one = splice("One two", tells=True)
    assert joined(one, *text(*pieces), FINISHED) == [recovered(kept, exact=False), *text(*rest), FINISHED]


def test_a_shorter_answer_is_another() -> None:
    assert joined(splice("One two", tells=True), *text("One"), USAGE, FINISHED) == [
        recovered(3, exact=False),
        USAGE,
        FINISHED,
    ]
    one = splice("One two")
    assert joined(one, *text("One"), USAGE, FINISHED) == []
    assert one.differs


def test_a_call_in_the_middle_of_what_was_said_is_another_answer() -> None:
    one = splice("One two")
    joined(one, *text("One"), CALL)
    assert one.differs
    assert joined(splice("One two"), *text("One two"), CALL) == [recovered(7), CALL]


def test_a_try_that_breaks_as_well_says_nothing_but_that() -> None:
    one = splice("One two", tells=True)
    assert joined(one, *text("One"), USAGE, FAILED) == [USAGE, FAILED]
    assert not one.joined
    assert not one.differs


@given(st.text(min_size=1), st.text(), st.lists(st.integers(1, 5), min_size=1))
@example("One", "", [1])
def test_however_it_is_cut_the_whole_comes_out(said: str, rest: str, cuts: list[int]) -> None:
    pieces, whole, n = [], said + rest, 0
    while whole:
        size = cuts[n % len(cuts)]
        pieces.append(whole[:size])
        whole, n = whole[size:], n + 1
    events = joined(splice(said), *text(*pieces), FINISHED)
    assert shown(said, events) == said + rest
    assert [event for event in events if isinstance(event, Recovered)] == [recovered(len(said))]


@given(st.text(alphabet="ab", min_size=1, max_size=8), st.text(alphabet="ab", max_size=12), st.integers(1, 4))
def test_whatever_comes_is_what_the_client_ends_with_or_nothing_is(said: str, other: str, size: int) -> None:
    pieces = [other[at : at + size] for at in range(0, len(other), size)]
    assert shown(said, joined(splice(said, tells=True), *text(*pieces), FINISHED)) == other
    one = splice(said)
    events = joined(one, *text(*pieces), FINISHED)
    assert one.differs is not other.startswith(said)
    assert shown(said, events) == (other if other.startswith(said) else said)


# Reasoning is no part of the answer


def test_reasoning_is_not_said_twice() -> None:
    one = splice("One", reasoning="Hm, well")
    assert joined(one, *thought("Hm, ", "well"), *text("One", " two")) == [recovered(3), *text(" two")]
    one = splice("One", reasoning="Hm")
    assert joined(one, *thought("Oh", " dear"), *text("One", " two")) == [recovered(3), *text(" two")]
    one = splice("One", reasoning="Hm")
    assert joined(one, *thought("Hm", " and more"), *text("One", " two")) == [recovered(3), *text(" two")]


def test_reasoning_that_broke_off_goes_on_where_it_is_the_same() -> None:
    one = splice("", reasoning="Hm, we")
    assert joined(one, *thought("Hm, ", "well"), *text("One")) == [recovered(0), *thought("ll"), *text("One")]
    one = splice("One", reasoning="Hm, we")  # between two pieces of text
    assert joined(one, *text("One"), *thought("Hm, well"), *text(" two")) == [
        recovered(3),
        *thought("ll"),
        *text(" two"),
    ]
    one = splice("", reasoning="Hm, we")
    assert joined(one, *thought("Hm, ", "she"), *text("One")) == [recovered(0), *text("One")]


# The next try goes on

SAID = "The quick brown fox jumps over the lazy dog and "


def gone_on(prefill: str, said: str, pieces: list[str]) -> str:
    one = Overlap(prefill, said[len(prefill) :])
    return said + "".join([*map(one.feed, pieces), one.finish()])


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["then", " sleeps."], SAID + "then sleeps."),
        (["over", " the lazy dog and then", " sleeps."], SAID + "then sleeps."),
        (list("over the lazy dog and then sleeps."), SAID + "then sleeps."),
        ([SAID, "then sleeps."], SAID + "then sleeps."),
        ([SAID + "then sleeps."], SAID + "then sleeps."),
        (["and then"], SAID + "and then"),  # less than what could not be chance
        (["the lazy cat"], SAID + "the lazy cat"),
        ([], SAID),
    ],
)
def test_what_a_prefilled_model_repeats_is_left_out(pieces: list[str], whole: str) -> None:
    assert gone_on(SAID, SAID, pieces) == whole


@pytest.mark.parametrize("said", ["Hello wor", "1. O", "The quick brown fox "])
def test_a_model_that_begins_again_is_found_by_less(said: str) -> None:
    assert gone_on(said, said, [said + "more"]) == said + "more"
    assert gone_on(said, said, list(said + "more")) == said + "more"


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("Name | Size\n| 0 | 0 | 0 |\n", "| 0 | 0 | 0 |\nEnd"),
        ("Name | Size\n| 0 | 0 | 0 |", "\n| 0 | 0 | 0 |\nEnd"),
        ("Quoth he:\nNevermore, said the raven.\n", "Nevermore, said the raven.\nAmen"),
    ],
)
def test_a_line_that_comes_twice_is_no_repetition(said: str, more: str) -> None:
    assert gone_on(said, said, [more]) == said + more
    assert gone_on(said.rstrip(), said, [more]) == said + more


@pytest.mark.parametrize(
    ("said", "more"),
    [
        ("[0, 0, 0, 0, 0, 0, 0, ", "0, 0, 0, 0, 0, 0, 1]"),
        ("| --- | --- | --- |", " --- | --- | --- | --- |"),
        ("ha ha ha ha ha ha ", "ha ha ha ha ha ha!"),
        ("Row, row, row your boat. Row, row, row your boat. ", "Row, row, row your boat. Amen."),
    ],
)
def test_a_pattern_that_goes_on_is_no_repetition(said: str, more: str) -> None:
    assert gone_on(said, said, [more]) == said + more
    assert gone_on(said, said, list(more)) == said + more


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([" then"], SAID + "then"),
        ([" ", "then"], SAID + "then"),
        (["then"], SAID + "then"),
        (["over the lazy dog and then"], SAID + "then"),
        (["\n\nThen"], SAID + "\n\nThen"),
        (["  then"], SAID + " then"),
        ([" "], SAID),
    ],
)
def test_white_space_that_the_prefill_lacked_is_not_doubled(pieces: list[str], whole: str) -> None:
    assert gone_on(SAID.rstrip(), SAID, pieces) == whole


@given(
    st.text(alphabet="abc ", min_size=1, max_size=40),
    st.text(alphabet="abc ", max_size=40),
    st.integers(1, 6),
)
def test_nothing_is_lost_but_a_repetition(said: str, more: str, size: int) -> None:
    whole = gone_on(said, said, [more[at : at + size] for at in range(0, len(more), size)])
    left_out = len(said) + len(more) - len(whole)
    assert left_out == 0 or left_out >= (MIN_ANEW if left_out == len(said) else MIN_OVERLAP)
    assert whole == said + more[left_out:]
    assert said.endswith(more[:left_out])


def test_a_prefilled_try_says_no_more_than_its_text() -> None:
    one = splice("One two", prefill="One two")
    assert joined(one, *thought("Hm"), *text(" three"), USAGE, FINISHED) == [
        recovered(7),
        *text(" three"),
        USAGE,
        FINISHED,
    ]
    assert joined(splice("One two", prefill="One two"), FINISHED) == [recovered(7), FINISHED]
    assert joined(splice("One two", prefill="One two"), *text(" tw"), CALL) == [recovered(7), *text(" tw"), CALL]
    assert joined(splice("One two", prefill="One two"), *text("One"), FAILED) == [FAILED]


def test_long_answers_are_joined_in_linear_time() -> None:
    words = [f"{n} is a number. " for n in range(20_000)]
    said = "".join(words)
    assert shown(said, joined(splice(said), *text(*words, "End."), FINISHED)) == said + "End."
    assert gone_on(said, said, [*words, "End."]) == said + "End."
    assert gone_on(said, said, [said + "End."]) == said + "End."
    assert gone_on(" " * 100_000, " " * 100_000, [" "] * 100 + ["End."]).endswith(" End.")


def test_what_is_given_as_a_prefill() -> None:
    """Anthropic refuses one that ends in white space."""
    settings = load_settings({}, {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})
    providers = build(settings).providers
    assert providers["openai"].prefill("One two \n") == "One two \n"
    assert providers["anthropic"].prefill("One two \n") == "One two"


@pytest.mark.parametrize(
    ("last", "with_it"),
    [
        (
            {"role": "user", "content": "Go"},
            [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "On"}],
        ),
        ({"role": "assistant", "content": "It is: "}, [{"role": "assistant", "content": "It is: On"}]),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "It"}]},
            [{"role": "assistant", "content": [{"type": "text", "text": "It"}, {"type": "text", "text": "On"}]}],
        ),
    ],
)
def test_where_the_prefill_stands(last: dict[str, Any], with_it: list[dict[str, Any]]) -> None:
    first = {"role": "user", "content": "Hi"}
    assert with_prefill([first, last], "On") == [first, *with_it]
    assert with_prefill([first, last], "") == [first, last]


def test_a_text_that_nearly_repeats_itself_is_joined_in_linear_time() -> None:
    """The worst for finding out whether it is one pattern again and again: it is, but for its end."""
    for said in ("0" * 300_000 + "1", "0" * 150_000 + "1" * 100_000):
        began = time.process_time()
        assert gone_on(said, said, [said, " End."]) == said + " End."
        assert time.process_time() - began < 2.0  # a tenth of that; in square time it took half a minute


@given(st.text(alphabet="ab", min_size=1, max_size=24), st.data())
def test_what_recurs_is_known_by_its_first_place(said: str, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, len(said)))
    end = said[-length:]
    periodic = any(end.startswith(end[at:]) for at in range(1, length // 2 + 1))
    assert _recurs(said, length) is (periodic or said.endswith(end, 0, -length))
