"""One answer from one try at one target: open it, read it, and end it exactly once.

    connect, wait for headers    | first token | ... | finish reason | end mark | end of the body
    raises ProviderError         | Failed            | success from here on

Whatever breaks after the headers becomes the `Failed` event of a stream that is properly ended; after the finish reason
nothing that breaks matters any more.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx2

from .cancel import Cancel
from .clock import Clock
from .errors import ProviderError, SluicewayError, StreamBroken
from .events import TERMINAL, Batch, Event, Failed, Finished, Started
from .providers import Provider
from .request import ChatRequest
from .targets import Target


class Attempt:
    """The request is sent once this is made, which raises what `Provider.open` raises; then `read` until a batch has
    ended. `close` closes the upstream, at any time and more than once.

    An object with a method, not a generator: between a generator and the next inside it Python 3.11 goes through C, and
    gevent copies the C stack of a stream away whenever it waits.
    """

    def __init__(
        self, provider: Provider, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str
    ) -> None:
        self.clock = clock
        self._cancel = cancel
        self._begun = False
        self._whole = False
        self._upstream = provider.open(request, target, clock, cancel, request_id=request_id)

    def read(self, until: float) -> Batch | None:
        """What the next upstream read completed, None where nothing has come by `until` (of `time.monotonic`). The last
        batch has the terminal event. Raises what keeps the response from beginning, also where a cancel does."""
        upstream = self._upstream
        if not self._begun:
            self._begun = upstream.begin(until)
            if not self._begun:
                return None
        while (events := self._read(until)) is not None:
            frames = upstream.reader.frames
            if events or frames:
                ended = bool(events) and isinstance(events[-1], TERMINAL)
                self._whole = ended and isinstance(events[-1], Finished)
                if ended and isinstance(last := events[-1], Failed) and isinstance(last.error, ProviderError):
                    last.error.provider_request_id = upstream.named
                return Batch(events, frames, ended)
        return None

    def _read(self, until: float) -> list[Event] | None:
        """The events of one upstream read, None where there was none in time."""
        clock, reader = self.clock, self._upstream.reader
        try:
            piece = self._upstream.read(until)
        except httpx2.TimeoutException:
            alarm = clock.alarm()
            return None if alarm is None else reader.finish(alarm)
        except httpx2.HTTPError:
            broken = StreamBroken("the connection to the provider broke before the answer was complete; try again")
            return reader.finish(self._cancel.error or broken)
        except SluicewayError as exc:
            return reader.finish(self._cancel.error or exc)
        if not piece:
            return reader.finish(self._cancel.error)
        events = reader.feed(piece)
        if reader.answered:
            clock.answer_complete()
        elif events and type(events[-1]) is not Started:
            clock.token_seen()
            return events  # only the total can ring then, and it does at the next read
        # Bytes without events (pings) do not stop the clocks, and the total runs whatever comes.
        if (alarm := clock.alarm()) is not None:
            events += reader.finish(alarm)
        return events

    def each(self, step: Callable[[], float], until: float) -> None:
        """As `Upstream.each`, of `read`."""
        if self._begun:
            self._upstream.each(step, until)

    @property
    def limits(self) -> dict[str, str]:
        """As `Upstream.limits`."""
        return self._upstream.limits

    @property
    def opaque(self) -> bool:
        """As `Reader.opaque`."""
        return self._upstream.reader.opaque

    def close(self) -> None:
        if self._whole:  # only the end of the body is missing
            self._whole = False
            self.clock.answer_ended()
            self._upstream.drain()
        self._upstream.close()
