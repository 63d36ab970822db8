"""What follows when a try fails: one table.

| the try failed with | then |
|---|---|
| `provider_unavailable`, `provider_overloaded`, `stream_broken` | the same target again, after a pause; then the next |
| `provider_rate_limited` | the same, after its Retry-After; then the next |
| `first_token_timeout`, `idle_timeout` | the next: a silent target is not asked again |
| `provider_auth`, `provider_not_configured`, `context_length_exceeded` | the next |
| `content_filtered`, `provider_rejected`, `total_timeout`, what is not the provider's | nothing: the answer fails |

Where a part of its answer was delivered, the next target is asked to go on, and the same only where there is no next.

A Retry-After longer than `max_retry_after_s` means the next target at once. Without one the pause is exponential with
full jitter, so that those who failed together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum, auto

from .errors import (
    ContextLengthExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    ProviderAuth,
    ProviderNotConfigured,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderUnavailable,
    SluicewayError,
    StreamBroken,
)
from .settings import Retry


class Move(Enum):
    AGAIN = auto()  # the same target, while it has tries left; then as NEXT
    NEXT = auto()  # the next target, if there is one
    STOP = auto()


_MOVES: tuple[tuple[type[SluicewayError], Move], ...] = (
    (ProviderUnavailable, Move.AGAIN),
    (ProviderOverloaded, Move.AGAIN),
    (ProviderRateLimited, Move.AGAIN),
    (StreamBroken, Move.AGAIN),
    (FirstTokenTimeout, Move.NEXT),
    (IdleTimeout, Move.NEXT),
    (ProviderAuth, Move.NEXT),
    (ProviderNotConfigured, Move.NEXT),
    (ContextLengthExceeded, Move.NEXT),
)


def move_after(error: SluicewayError) -> Move:
    return next((move for kind, move in _MOVES if isinstance(error, kind)), Move.STOP)


def pause_s(
    error: SluicewayError, tries: int, retry: Retry, jitter: Callable[[float, float], float] = random.uniform
) -> float | None:
    """Seconds until the same target is asked again, after so many tries; None: do not ask it again."""
    if tries >= retry.attempts:
        return None
    if (named := error.named_retry_after_s) is not None:
        return named if named <= retry.max_retry_after_s else None
    return jitter(0.0, min(retry.max_backoff_s, retry.backoff_s * 2.0 ** min(tries - 1, 64)))


# What says something about the target, and not about the request or our key.
FAILURES_OF_A_TARGET = (ProviderUnavailable, ProviderOverloaded, StreamBroken, FirstTokenTimeout, IdleTimeout)
