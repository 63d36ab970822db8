"""An answer's whole way, from a client's body to bytes in the client's own format.

    what was asked      form.parse          body         -> ChatRequest
    who answers         targets, Attempt    ChatRequest  -> batches of events
    what it came to     Books               events       -> events, counted
    how it is written   form.encoder        events       -> bytes
    how it is sent      response            bytes        -> client

The first event decides the status line: until the answer has begun, a failure is an HTTP status of its own;
afterwards it is an error event in the stream.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from flask import Response

from .admission import Admission
from .attempts import Attempt
from .books import Books
from .clock import Clock
from .errors import ProviderAuth, SluicewayError
from .events import Batch, Event, Failed, Started, Usage
from .formats import Format
from .formats.base import WholeAnswer
from .providers import PROVIDERS, Provider
from .request import ChatRequest
from .response import streamed, whole
from .settings import Settings
from .targets import Target, Targets

log = logging.getLogger("sluiceway")


class House(msgspec.Struct, frozen=True):
    """What one `create_app()` builds and every request shares."""

    settings: Settings
    targets: Targets
    providers: Mapping[str, Provider]
    admission: Admission


def build(settings: Settings) -> House:
    """The house of these settings, with a client for each provider that can be called."""
    targets = Targets(settings)
    providers: dict[str, Provider] = {}
    for name in targets.usable:
        table = settings.providers[name]
        local = (settings.local,) if table.kind == "local" else ()
        providers[name] = PROVIDERS[table.kind](name, table, settings.keys.get(name, ""), *local)
    return House(settings, targets, providers, Admission(settings.server.max_streams))


def answer(house: House, form: Format, request: ChatRequest, target: Target, *, request_id: str) -> Response:
    """The response to `request`, streamed or whole. Raises `SluicewayError` for what fails before the first byte."""
    source = Answer(house, request, target, request_id)
    try:
        if not request.stream:
            folded = WholeAnswer()
            ended = False
            while not ended:
                batch = source.read()
                folded.feed(batch.events)
                ended = batch.ended
            source.close()
            return whole(form.whole(request, folded))
        first = _begin(source)
    except BaseException:
        source.close()
        raise
    return streamed(first, source, form.encoder(request), form.mimetype, request_id=request_id)


class Answer:
    """The answer in batches, counted; a failure is logged here, wherever it shows itself to the client.

    `read` until a batch has ended; the first one connects and raises what fails before the headers. `close` at any time
    and more than once.
    """

    def __init__(self, house: House, request: ChatRequest, target: Target, request_id: str) -> None:
        self._request = request
        self._target = target
        self._provider = house.providers[target.provider]
        self._request_id = request_id
        times = target.timeouts
        self._clock = Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s)
        self._books = Books(request, self._clock.elapsed_s)
        self._attempt: Attempt | None = None

    def read(self) -> Batch:
        attempt = self._attempt or self._open()
        batch = attempt.read()
        if batch.events:
            batch.events = self._books.feed(batch.events)
            if batch.ended and isinstance(last := batch.events[-1], Failed):
                last.error.request_id = self._request_id
                _log_failure(last.error, self._target, self._request_id)
        return batch

    def _open(self) -> Attempt:
        try:
            self._attempt = Attempt(
                self._provider, self._request, self._target, self._clock, request_id=self._request_id
            )
        except SluicewayError as exc:
            _log_failure(exc, self._target, self._request_id)
            raise
        return self._attempt

    def close(self) -> None:
        if self._attempt is not None:
            self._attempt.close()


def _begin(source: Answer) -> Batch:
    """What came up to the first event that says something; raises the error of an answer that failed before that."""
    first = source.read()
    while (said := _first_said(first)) is None:
        more = source.read()
        first.events += more.events
        first.ended = more.ended
        if first.frames is not None and more.frames is not None:
            first.frames += more.frames
    if isinstance(said, Failed):
        raise said.error
    return first


def _first_said(batch: Batch) -> Event | None:
    return next((event for event in batch.events if not isinstance(event, Started | Usage)), None)


def _log_failure(error: SluicewayError, target: Target, request_id: str) -> None:
    # A key the provider refuses stays refused until a person acts: that one is loud.
    level = logging.ERROR if isinstance(error, ProviderAuth) else logging.WARNING
    log.log(level, "%s %s code=%s: %s", request_id, target.name, error.code, error.message)
