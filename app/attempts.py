"""One answer from one try at one target: open it, read it, and end it exactly once.

    connect and wait for headers | first token | ... | finish reason | end mark | end of the body
    raises ProviderError         | Failed            | success from here on

Whatever breaks after the headers becomes the `Failed` event of a stream that is properly ended; after the finish reason
nothing that breaks matters any more.
"""

from __future__ import annotations

from collections.abc import Generator

import httpx2

from .clock import Clock
from .errors import IdleTimeout, StreamBroken
from .events import TERMINAL, Batch, Event, Started
from .providers import Provider, Upstream
from .request import ChatRequest
from .targets import Target


def attempt(
    provider: Provider, request: ChatRequest, target: Target, clock: Clock, *, request_id: str
) -> Generator[Batch, None, None]:
    """Batches, each what one upstream read completed, the last with the terminal event.

    The first `next` connects and raises what `Provider.open` raises. Closing the generator closes the upstream.
    """
    upstream = provider.open(request, target, clock, request_id=request_id)
    ended = False
    try:
        while not ended:
            events = _read(upstream, clock)
            frames = upstream.reader.frames
            if events or frames:
                ended = bool(events) and isinstance(events[-1], TERMINAL)
                yield Batch(events, frames, ended)
    finally:
        if ended:
            clock.answer_ended()
            upstream.drain()
        upstream.close()


def _read(upstream: Upstream, clock: Clock) -> list[Event]:
    """The events of one upstream read."""
    reader = upstream.reader
    try:
        chunk = next(upstream.chunks, None)
    except httpx2.TimeoutException:
        return reader.finish(clock.alarm() or IdleTimeout("the provider fell silent; try again"))
    except httpx2.HTTPError:
        return reader.finish(
            StreamBroken("the connection to the provider broke before the answer was complete; try again")
        )
    if chunk is None:
        return reader.finish()
    events = reader.feed(chunk)
    if reader.answered:
        clock.answer_complete()
    elif events and not isinstance(events[-1], Started):
        clock.token_seen()
        return events  # only the total can ring then, and it does at the next read
    # Bytes without events (pings) do not stop the clocks, and the total runs whatever comes.
    if (alarm := clock.alarm()) is not None:
        events += reader.finish(alarm)
    return events
