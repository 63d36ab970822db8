"""The reading clocks of one answer: first token, idle between events, total.

    Clock(first_token_s=30, idle_s=30, total_s=600)

Only events of the answer count as life. Bytes do not: a provider's ping, a comment or a half frame resets nothing,
so a heartbeat never hides a stall. (The fourth clock, connect, is the transport's own.)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .errors import FirstTokenTimeout, IdleTimeout, ProviderError, TotalTimeout

# Once the finish reason is known the answer is whole; what may follow is usage and the end mark. A provider that
# goes silent there has still answered, so we wait this long and no longer.
TAIL_S = 2.0
# After the end mark only the end of the HTTP body is missing; reading it lets the connection be used again.
DRAIN_S = 0.25


class Clock:
    """Of one try: started when made, but the total counts `since` the request came. All figures are seconds; `now` is a
    monotonic clock, given by tests."""

    __slots__ = ("_answering", "_complete", "_first_token_s", "_idle_s", "_now", "_started", "_total_s", "due")

    def __init__(
        self,
        *,
        first_token_s: float,
        idle_s: float,
        total_s: float,
        since: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_token_s = first_token_s
        self._idle_s = idle_s
        self._total_s = total_s
        self._now = now
        tried = now()
        self._started = tried if since is None else since
        self._answering = False
        self._complete = False
        self.due = min(tried + first_token_s, self._started + total_s)  # when the next clock rings, of `now`

    def token_seen(self) -> None:
        """Something of the answer itself has arrived."""
        self._answering = True
        self.due = min(self._now() + self._idle_s, self._started + self._total_s)

    def answer_complete(self) -> None:
        """The finish reason is known: the rest gets `TAIL_S`, counted from the first time this is said.

        Said again at every read that follows, which must not begin the time anew: a provider that sends pings and
        never the end mark would hold a finished answer back until the total rings.
        """
        if not self._complete:
            self._complete = True
            self._idle_s = min(self._idle_s, TAIL_S)
            self.token_seen()

    def answer_ended(self) -> None:
        """The end mark has come: `DRAIN_S` for the end of the body, whatever the other clocks say."""
        self._idle_s = DRAIN_S
        self._total_s = self.elapsed_s() + DRAIN_S
        self.token_seen()

    def elapsed_s(self) -> float:
        return self._now() - self._started

    def remaining_s(self) -> float:
        """Seconds until the next clock rings; 0.0 when one has."""
        return max(0.0, self.due - self._now())

    def alarm(self) -> ProviderError | None:
        """The error of the clock that has rung, if one has: just when `remaining_s` is 0.0."""
        now = self._now()
        if now < self.due:
            return None
        if now >= self._started + self._total_s:
            return TotalTimeout(
                f"the answer took longer than {self._total_s:g} s (timeouts.total_s); ask for less text"
            )
        if not self._answering:
            return FirstTokenTimeout(
                f"the provider sent nothing within {self._first_token_s:g} s (timeouts.first_token_s); try again"
            )
        return IdleTimeout(f"the provider fell silent for {self._idle_s:g} s (timeouts.idle_s); try again")
