"""How many streams, how many tokens, how fast. The same for every peer, so that figures of one run compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    about: str
    kind: Literal["saturated", "paced", "requests", "memory"]
    streams: int  # at a time
    tokens: int  # a stream
    interval_ms: int = 0  # between two tokens of a stream; 0: as the peer takes them
    seconds: float = 0.0  # ask again for as long, instead of once

    @property
    def model(self) -> str:
        """The name that makes the fake provider act this out."""
        return f"bench-n{self.tokens}" + (f"-i{self.interval_ms}" if self.interval_ms else "")

    @property
    def ramp_s(self) -> float:
        """Over how long the streams are opened: without, a burst of connections is measured, and all keep step."""
        return {"paced": 4, "memory": 1}.get(self.kind, 0) * self.interval_ms / 1000

    @property
    def offered_s(self) -> float:
        """How long it takes at the pace that is offered."""
        return self.ramp_s + (self.tokens - 1) * self.interval_ms / 1000


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        # Tokens arrive in large reads: what a token costs in a batch.
        Scenario("S1", "32 streams of 2,000 tokens, as fast as they are taken", "saturated", 32, 2000),
        # Each token comes alone: what it costs with a wake-up, a read and a write of its own.
        Scenario("S2b", "200 streams of 100 tokens, one each 50 ms", "paced", 200, 100, 50),
        Scenario("S2c", "1,000 streams of 100 tokens, one each 50 ms: 20,000 tokens/s", "paced", 1000, 100, 50),
        # No stream to speak of: what a request costs.
        Scenario("S3a", "answers of one token, one by one", "requests", 1, 1, seconds=2.0),
        Scenario("S3b", "answers of one token, 32 at a time", "requests", 32, 1, seconds=2.0),
        # Slow enough that the last stream is open long before the first ends, also where a request costs 2 ms.
        Scenario("M", "2,000 open streams", "memory", 2000, 4, 3000),
    )
}

# What each worker of W is asked: more than it can take, for long enough to see both.
WORKERS = Scenario(
    "W", "64 streams of 2,000 tokens at a time, with 1 and 2 workers", "saturated", 64, 2000, seconds=3.0
)
