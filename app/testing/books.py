"""What the provider saw, in numbers and in requests, with a condition to wait on instead of sleeping.

`requests == open_streams + completed + aborted + faults` holds at every moment. A reset opens new books; a stream
that is still ending writes into the old ones, so no test finds another's leavings.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .connection import Request
from .script import Outcome


@dataclass(frozen=True, slots=True)
class Stats:
    """Numbers since the last reset. `GET /stats` is not counted.

    `connections`: accepted. `open_streams`: requests read and not ended yet, those without streaming too.
    `completed`: answers sent whole. `aborted`: the client closed before that. `faults`: everything that went wrong by
    the model's name, and every 4xx.
    """

    requests: int = 0
    connections: int = 0
    open_streams: int = 0
    completed: int = 0
    aborted: int = 0
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Departure:
    """A request whose client closed before it was answered; `at` is `time.monotonic()` when that was seen."""

    request: Request
    at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """One request in the books. `turn` counts the requests for the same model before it."""

    request: Request
    period: int
    serial: int
    turn: int


class Books:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._period = 0
        self._stats = Stats()
        self._requests: list[Request] = []
        self._departures: list[Departure] = []
        self._turns: Counter[tuple[str, str]] = Counter()

    def reset(self) -> None:
        with self._changed:
            self._period += 1
            self._stats = Stats()
            self._requests = []
            self._departures = []
            self._turns.clear()
            self._changed.notify_all()

    def connected(self) -> None:
        with self._changed:
            self._stats = replace(self._stats, connections=self._stats.connections + 1)
            self._changed.notify_all()

    def begun(self, request: Request) -> Entry:
        model = request.body.get("model") if isinstance(request.body, dict) else None
        with self._changed:
            self._requests.append(request)
            entry = Entry(request, self._period, len(self._requests), self._turns[request.path, str(model)])
            self._turns[request.path, str(model)] += 1
            stats = self._stats
            self._stats = replace(stats, requests=stats.requests + 1, open_streams=stats.open_streams + 1)
            self._changed.notify_all()
        return entry

    def ended(self, entry: Entry, outcome: Outcome) -> None:
        """Once for every entry, at once."""
        at = time.monotonic()
        with self._changed:
            if entry.period != self._period:
                return
            if outcome == "aborted":
                self._departures.append(Departure(entry.request, at))
            more: dict[str, Any] = {outcome: getattr(self._stats, outcome) + 1}
            self._stats = replace(self._stats, open_streams=self._stats.open_streams - 1, **more)
            self._changed.notify_all()

    @property
    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._requests)

    @property
    def departures(self) -> list[Departure]:
        with self._changed:
            return list(self._departures)

    def stats(self) -> Stats:
        with self._changed:
            return self._stats

    def wait_for(self, predicate: Callable[[Stats], bool], timeout_s: float) -> Stats:
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self._stats), timeout_s):
                raise AssertionError(f"not within {timeout_s} s; the fake provider stands at {self._stats}")
            return self._stats
