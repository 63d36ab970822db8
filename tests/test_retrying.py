"""What follows a failed try: the whole table, for every error there is; and how long the pause before the next is."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import errors
from app.errors import ProviderOverloaded, ProviderRateLimited, ProviderUnavailable, SluicewayError
from app.retrying import FAILURES_OF_A_TARGET, Move, move_after, pause_s
from app.settings import Retry

MOVES = {
    "provider_unavailable": Move.AGAIN,
    "provider_overloaded": Move.AGAIN,
    "provider_rate_limited": Move.AGAIN,
    "stream_broken": Move.AGAIN,
    "first_token_timeout": Move.NEXT,
    "idle_timeout": Move.NEXT,
    "provider_auth": Move.NEXT,
    "provider_not_configured": Move.NEXT,
    "context_length_exceeded": Move.NEXT,
    "content_filtered": Move.STOP,
    "provider_rejected": Move.STOP,
    "total_timeout": Move.STOP,
    "invalid_request": Move.STOP,
    "unauthorized": Move.STOP,
    "not_found": Move.STOP,
    "payload_too_large": Move.STOP,
    "rate_limited": Move.STOP,
    "overloaded": Move.STOP,
    "draining": Move.STOP,
    "cancelled": Move.STOP,
    "internal": Move.STOP,
}
# The breaker listens to these only: the rest says something about the request, our key, or our share of the target.
OF_A_TARGET = {
    "provider_unavailable",
    "provider_overloaded",
    "stream_broken",
    "first_token_timeout",
    "idle_timeout",
}


def tree(of: type[SluicewayError] = SluicewayError) -> Iterator[type[SluicewayError]]:
    yield of
    for below in of.__subclasses__():
        yield from tree(below)


CLASSES = {kind.code: kind for kind in tree() if "code" in vars(kind)}


def test_every_error_has_its_row() -> None:
    assert set(MOVES) == set(CLASSES)


@pytest.mark.parametrize("code", MOVES)
def test_what_follows(code: str) -> None:
    error = CLASSES[code]("it failed")
    assert move_after(error) is MOVES[code]
    assert isinstance(error, FAILURES_OF_A_TARGET) is (code in OF_A_TARGET)


def test_a_request_of_the_wrong_kind_is_nothing_to_try_again() -> None:
    for error in (errors.MethodNotAllowed("no", allow=["POST"]), errors.UnsupportedMediaType("no")):
        assert move_after(error) is Move.STOP


def longest(low: float, high: float) -> float:
    assert low == 0.0, "full jitter: it may be any pause down to none"
    return high


RETRY = Retry(attempts=9, backoff_s=0.5, max_backoff_s=8.0, max_retry_after_s=10.0)


def test_the_longest_pause_doubles_up_to_a_limit() -> None:
    error = ProviderUnavailable("no")
    pauses = [pause_s(error, tries, RETRY, jitter=longest) for tries in range(1, 9)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]


@given(tries=st.integers(1, 8), drawn=st.randoms())
def test_a_pause_is_drawn_from_all_below_the_longest(tries: int, drawn: random.Random) -> None:
    pause = pause_s(ProviderUnavailable("no"), tries, RETRY, jitter=drawn.uniform)
    assert pause is not None
    assert 0.0 <= pause <= min(8.0, 0.5 * 2 ** (tries - 1))


def test_pauses_differ() -> None:
    """Those that failed together do not come back together: the default is a drawn one."""
    pauses = [pause_s(ProviderUnavailable("no"), 5, RETRY) or 0.0 for _ in range(200)]
    assert len(set(pauses)) > 100
    assert min(pauses) < 2.0
    assert max(pauses) > 6.0


def test_after_so_many_tries_there_is_none() -> None:
    for attempts in (1, 2, 3):
        retry = Retry(attempts=attempts)
        pauses = [pause_s(ProviderOverloaded("no"), tries, retry) for tries in range(1, 5)]
        assert [pause is not None for pause in pauses] == [tries < attempts for tries in range(1, 5)]
    assert pause_s(ProviderRateLimited("no", retry_after_s=0.0), 3, Retry(attempts=3)) is None


@pytest.mark.parametrize(("named", "pause"), [(0.0, 0.0), (0.25, 0.25), (3.0, 3.0), (10.0, 10.0), (10.5, None)])
@pytest.mark.parametrize("kind", [ProviderRateLimited, ProviderOverloaded])
def test_a_retry_after_is_waited_for_to_the_letter_or_not_at_all(
    kind: type[SluicewayError], named: float, pause: float | None
) -> None:
    assert pause_s(kind("no", retry_after_s=named), 1, RETRY) == pause


def test_the_retry_after_that_we_tell_clients_by_default_is_none_of_the_providers() -> None:
    error = ProviderRateLimited("no")
    assert error.headers == {"Retry-After": "1"}
    assert pause_s(error, 1, RETRY, jitter=longest) == 0.5


def test_no_pause_at_all() -> None:
    assert pause_s(ProviderUnavailable("no"), 2, Retry(backoff_s=0)) == 0.0


def test_very_many_tries() -> None:
    """A power of two that no float can hold."""
    assert pause_s(ProviderUnavailable("no"), 5000, Retry(attempts=10_000), jitter=longest) == 8.0
