"""One answer from one try at one target: open it, read it, and end it exactly once.

    connect and wait for headers | first token | ... | finish reason | end mark | end of the body
    raises ProviderError         | Failed            | success from here on

Whatever breaks after the headers becomes the `Failed` event of a stream that is properly ended; after the finish reason
nothing that breaks matters any more.
"""

from __future__ import annotations

import httpx2

from .clock import Clock
from .errors import IdleTimeout, StreamBroken
from .events import TERMINAL, Batch, Event, Started
from .providers import Provider
from .request import ChatRequest
from .targets import Target


class Attempt:
    """Open once made, which raises what `Provider.open` raises; then `read` until a batch has ended. `close` closes the
    upstream, at any time and more than once.

    An object with a method, not a generator: between a generator and the next inside it Python 3.11 goes through C, and
    gevent copies the C stack of a stream away whenever it waits.
    """

    def __init__(
        self, provider: Provider, request: ChatRequest, target: Target, clock: Clock, *, request_id: str
    ) -> None:
        self._clock = clock
        self._ended = False
        self._upstream = provider.open(request, target, clock, request_id=request_id)

    def read(self) -> Batch:
        """What the next upstream read completed; the last batch has the terminal event."""
        upstream = self._upstream
        while True:
            events = self._read()
            frames = upstream.reader.frames
            if events or frames:
                self._ended = bool(events) and isinstance(events[-1], TERMINAL)
                return Batch(events, frames, self._ended)

    def _read(self) -> list[Event]:
        """The events of one upstream read."""
        clock, reader = self._clock, self._upstream.reader
        try:
            chunk = self._upstream.read()
        except httpx2.TimeoutException:
            return reader.finish(clock.alarm() or IdleTimeout("the provider fell silent; try again"))
        except httpx2.HTTPError:
            return reader.finish(
                StreamBroken("the connection to the provider broke before the answer was complete; try again")
            )
        if not chunk:
            return reader.finish()
        events = reader.feed(chunk)
        if reader.answered:
            clock.answer_complete()
        elif events and type(events[-1]) is not Started:
            clock.token_seen()
            return events  # only the total can ring then, and it does at the next read
        # Bytes without events (pings) do not stop the clocks, and the total runs whatever comes.
        if (alarm := clock.alarm()) is not None:
            events += reader.finish(alarm)
        return events

    def close(self) -> None:
        if self._ended:
            self._ended = False
            self._clock.answer_ended()
            self._upstream.drain()
        self._upstream.close()
