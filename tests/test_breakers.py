"""When a target is left alone and when it is tried again, with the time set by hand."""

from __future__ import annotations

import pytest
from test_clock import Hand

from app.breakers import Breaker, Breakers
from app.errors import FirstTokenTimeout, ProviderOverloaded
from app.settings import Breaker as Settings

SETTINGS = Settings(failures=3, cooldown_s=10.0)
FAILURE = ProviderOverloaded("provider 'openai' can't answer now")


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def breaker(hand: Hand) -> Breaker:
    return Breaker(SETTINGS, now=hand)


def entered(breaker: Breaker) -> int:
    """Let in."""
    let_in = breaker.enter()
    assert let_in is not None
    return let_in


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(entered(breaker), FAILURE)


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open
    assert breaker.enter() is None


def test_a_success_between_them_begins_the_row_anew(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.succeeded(entered(breaker))
    fail(breaker, 2)
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open


def test_what_is_no_fault_of_the_targets_neither_counts_nor_forgives(breaker: Breaker) -> None:
    fail(breaker, 2)
    for _ in range(10):
        breaker.nothing_learnt(entered(breaker))
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open


def test_while_it_is_closed_everybody_may_try_at_once(breaker: Breaker) -> None:
    assert all(breaker.enter() is not None for _ in range(100))


def test_after_the_cooldown_one_may_try(breaker: Breaker, hand: Hand) -> None:
    fail(breaker, 3)
    hand.s += 9.9
    assert breaker.enter() is None
    hand.s += 0.1
    entered(breaker)
    assert breaker.enter() is None
    hand.s += 1000
    assert breaker.enter() is None, "one at a time, however long it takes"


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, hand: Hand) -> None:
    fail(breaker, 3)
    hand.s += 10
    breaker.succeeded(entered(breaker))
    assert not breaker.is_open
    fail(breaker, 2)
    assert not breaker.is_open, "the old row is over"


def test_a_probe_that_fails_opens_it_for_another_cooldown(breaker: Breaker, hand: Hand) -> None:
    fail(breaker, 3)
    for _ in range(5):
        hand.s += 10
        fail(breaker)
        assert breaker.is_open
        hand.s += 9.9
        assert breaker.enter() is None
        hand.s += 0.1


def test_a_probe_that_is_given_up_frees_its_place_after_another_cooldown(breaker: Breaker, hand: Hand) -> None:
    fail(breaker, 3)
    hand.s += 10
    breaker.nothing_learnt(entered(breaker))
    assert breaker.is_open
    assert breaker.enter() is None
    hand.s += 10
    breaker.succeeded(entered(breaker))
    assert not breaker.is_open


def test_tries_from_before_it_opened_do_not_put_the_probe_off(breaker: Breaker, hand: Hand) -> None:
    late = [entered(breaker) for _ in range(20)]
    fail(breaker, 3)
    for one in late:
        hand.s += 0.5
        breaker.failed(one, FAILURE)
    entered(breaker)


def test_tries_from_before_it_opened_do_not_close_it(breaker: Breaker, hand: Hand) -> None:
    late = entered(breaker)
    fail(breaker, 3)
    breaker.succeeded(late)
    assert breaker.is_open
    assert breaker.enter() is None
    hand.s += 10
    probe = entered(breaker)
    breaker.succeeded(late)
    breaker.nothing_learnt(late)
    assert breaker.is_open
    assert breaker.enter() is None, "the probe is still on its way"
    breaker.succeeded(probe)
    assert not breaker.is_open


def test_the_refusal_is_the_last_failure_with_the_time_that_is_left(breaker: Breaker, hand: Hand) -> None:
    fail(breaker, 2)
    breaker.failed(entered(breaker), FirstTokenTimeout("the provider sent nothing within 10 s"))
    hand.s += 2.5
    refusal = breaker.refusal()
    assert type(refusal) is FirstTokenTimeout
    assert refusal.message.startswith("the provider sent nothing within 10 s (")
    assert refusal.headers == {"Retry-After": "8"}
    hand.s += 100
    assert breaker.refusal().headers == {"Retry-After": "1"}
    assert breaker.refusal().message == refusal.message, "it does not grow"


# The registry


def test_a_breaker_a_target() -> None:
    breakers = Breakers(SETTINGS)
    assert breakers.of("openai/a") is breakers.of("openai/a")
    fail(breakers.of("openai/a"), 3)
    assert breakers.of("openai/a").is_open
    assert not breakers.of("openai/b").is_open


def test_names_that_clients_invent_take_no_more_room_than_so_much() -> None:
    breakers = Breakers(SETTINGS)
    fail(breakers.of("openai/down"), 3)
    for n in range(Breakers.MAX * 3):
        breakers.of(f"openai/invented-{n}")
    assert len(breakers._known) <= Breakers.MAX
    assert breakers.of("openai/down").is_open, "an open one is not forgotten for them"


def test_nor_do_those_that_are_open() -> None:
    breakers = Breakers(Settings(failures=1))
    for n in range(Breakers.MAX + 10):
        fail(breakers.of(f"openai/invented-{n}"))
    assert len(breakers._known) == Breakers.MAX
    assert breakers.of(f"openai/invented-{Breakers.MAX + 9}").is_open
