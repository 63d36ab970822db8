"""The reading clocks of one answer, with the time set by hand.

What each step of an answer does to them:

    request ......................... first_token_s and total_s run
    token_seen()                      idle_s runs, anew with every token
    answer_complete()                 the finish reason is known: TAIL_S for the rest, once
    answer_ended()                    the end mark has come: DRAIN_S for the end of the body
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.clock import DRAIN_S, TAIL_S, Clock
from app.errors import FirstTokenTimeout, IdleTimeout, TotalTimeout


class Hand:
    """A monotonic clock that goes when it is told to. It does not start at 0: no monotonic clock does."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def clock(hand: Hand) -> Clock:
    return Clock(first_token_s=10, idle_s=30, total_s=100, now=hand)


def rung(clock: Clock) -> type[Exception] | None:
    alarm = clock.alarm()
    return alarm and type(alarm)


def test_before_the_first_token_only_its_own_clock_and_the_total_run(clock: Clock, hand: Hand) -> None:
    assert (clock.remaining_s(), rung(clock)) == (10, None)
    hand.s += 9
    assert (clock.remaining_s(), rung(clock)) == (1, None)
    hand.s += 1
    assert (clock.remaining_s(), rung(clock)) == (0, FirstTokenTimeout)


def test_every_token_begins_the_idle_time_anew(clock: Clock, hand: Hand) -> None:
    for _ in range(3):
        hand.s += 9
        clock.token_seen()
        assert (clock.remaining_s(), rung(clock)) == (30, None)
    hand.s += 30
    assert (clock.remaining_s(), rung(clock)) == (0, IdleTimeout)


def test_the_total_rings_however_lively_the_answer_is(clock: Clock, hand: Hand) -> None:
    for _ in range(99):
        hand.s += 1
        clock.token_seen()
    assert (clock.remaining_s(), rung(clock)) == (1, None)
    hand.s += 1
    clock.token_seen()
    assert (clock.remaining_s(), rung(clock)) == (0, TotalTimeout)


def test_the_total_may_be_shorter_than_the_wait_for_the_first_token(hand: Hand) -> None:
    clock = Clock(first_token_s=30, idle_s=30, total_s=5, now=hand)
    assert clock.remaining_s() == 5
    hand.s += 5
    assert rung(clock) is TotalTimeout


def test_a_read_without_a_token_changes_nothing(clock: Clock, hand: Hand) -> None:
    """A ping or half a frame: the reader gives no events, so nobody calls `token_seen`, and the silence goes on."""
    clock.token_seen()
    hand.s += 29
    assert (clock.remaining_s(), rung(clock)) == (1, None)


class TestAfterTheFinishReason:
    def test_the_tail_is_short(self, clock: Clock, hand: Hand) -> None:
        clock.token_seen()
        hand.s += 5
        clock.answer_complete()
        assert (clock.remaining_s(), rung(clock)) == (TAIL_S, None)
        hand.s += TAIL_S
        assert (clock.remaining_s(), rung(clock)) == (0, IdleTimeout)

    def test_and_is_not_made_longer_by_what_else_is_read(self, clock: Clock, hand: Hand) -> None:
        """A provider that pings and never says `[DONE]` keeps nobody waiting."""
        clock.answer_complete()
        for _ in range(4):
            hand.s += TAIL_S / 4
            clock.answer_complete()
        assert rung(clock) is IdleTimeout

    def test_nor_longer_than_the_idle_time_was(self, hand: Hand) -> None:
        clock = Clock(first_token_s=10, idle_s=0.5, total_s=100, now=hand)
        clock.answer_complete()
        assert clock.remaining_s() == 0.5

    def test_an_answer_may_be_complete_with_its_first_token(self, clock: Clock, hand: Hand) -> None:
        hand.s += 9
        clock.answer_complete()
        hand.s += 1.5
        assert rung(clock) is None, "the first token's clock no longer runs"


class TestAfterTheEndMark:
    def test_the_body_gets_a_moment_to_end(self, clock: Clock, hand: Hand) -> None:
        clock.token_seen()
        clock.answer_complete()
        clock.answer_ended()
        assert clock.remaining_s() == DRAIN_S
        hand.s += DRAIN_S
        assert (clock.remaining_s(), rung(clock) is None) == (0, False)

    @pytest.mark.parametrize("late_s", [10, 30, 100, 1000])
    def test_also_where_another_clock_has_rung(self, clock: Clock, hand: Hand, late_s: float) -> None:
        hand.s += late_s
        clock.answer_ended()
        assert (clock.remaining_s(), rung(clock)) == (DRAIN_S, None)


def test_elapsed_counts_from_the_request(clock: Clock, hand: Hand) -> None:
    hand.s += 2.5
    clock.token_seen()
    clock.answer_complete()
    assert clock.elapsed_s() == 2.5


@pytest.mark.parametrize(
    ("seconds", "seen", "message"),
    [
        (10, False, "sent nothing within 10 s (timeouts.first_token_s)"),
        (30, True, "fell silent for 30 s (timeouts.idle_s)"),
        (100, False, "took longer than 100 s (timeouts.total_s)"),
        (100, True, "took longer than 100 s (timeouts.total_s)"),
    ],
)
def test_an_alarm_names_its_setting(clock: Clock, hand: Hand, seconds: float, seen: bool, message: str) -> None:
    if seen:
        clock.token_seen()
    hand.s += seconds
    assert message in str(clock.alarm())


times = st.floats(0.001, 1000)


@settings(max_examples=300, deadline=None)
@given(times, times, times, st.lists(st.tuples(st.sampled_from(["token", "complete", "ended", "read"]), times)), times)
def test_nothing_remains_just_when_an_alarm_has_rung(
    first_token_s: float, idle_s: float, total_s: float, steps: list[tuple[str, float]], start_s: float
) -> None:
    """Also in the last bit of a float: a read that is given no time, and no alarm, would be tried for ever."""
    hand = Hand()
    hand.s = start_s
    clock = Clock(first_token_s=first_token_s, idle_s=idle_s, total_s=total_s, now=hand)
    for step, passed_s in steps:
        # Often to the very moment at which a clock rings.
        hand.s += min(passed_s, clock.remaining_s())
        assert (clock.remaining_s() == 0) == (clock.alarm() is not None)
        match step:
            case "token":
                clock.token_seen()
            case "complete":
                clock.answer_complete()
            case "ended":
                clock.answer_ended()
