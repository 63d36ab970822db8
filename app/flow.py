"""An answer's whole way, from a client's body to bytes in the client's own format.

    what was asked      form.parse          body         -> ChatRequest
    who answers         targets, attempt    ChatRequest  -> batches of events
    what it came to     Books               events       -> events, counted
    how it is written   form.encoder        events       -> bytes
    how it is sent      response            bytes        -> client

The first event decides the status line: until the answer has begun, a failure is an HTTP status of its own;
afterwards it is an error event in the stream.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping

import msgspec
from flask import Response

from .attempts import attempt
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


def build(settings: Settings) -> House:
    """The house of these settings, with a client for each provider that can be called."""
    targets = Targets(settings)
    providers: dict[str, Provider] = {}
    for name in targets.usable:
        table = settings.providers[name]
        local = (settings.local,) if table.kind == "local" else ()
        providers[name] = PROVIDERS[table.kind](name, table, settings.keys.get(name, ""), *local)
    return House(settings, targets, providers)


def answer(house: House, form: Format, request: ChatRequest, target: Target, *, request_id: str) -> Response:
    """The response to `request`, streamed or whole. Raises `SluicewayError` for what fails before the first byte."""
    batches = _batches(house, request, target, request_id)
    try:
        if not request.stream:
            folded = WholeAnswer()
            for batch in batches:
                folded.feed(batch.events)
            return whole(form.whole(request, folded))
        first = _begin(batches)
    except BaseException:
        batches.close()
        raise
    return streamed(first, batches, form.encoder(request), form.mimetype, request_id=request_id)


def _batches(house: House, request: ChatRequest, target: Target, request_id: str) -> Generator[Batch, None, None]:
    """The answer in batches, counted; a failure is logged here, wherever it shows itself to the client."""
    times = target.timeouts
    clock = Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s)
    books = Books(request, clock.elapsed_s)
    tries = attempt(house.providers[target.provider], request, target, clock, request_id=request_id)
    with contextlib.closing(tries):
        try:
            for batch in tries:
                if batch.events:
                    batch.events = books.feed(batch.events)
                    if batch.ended and isinstance(last := batch.events[-1], Failed):
                        last.error.request_id = request_id
                        _log_failure(last.error, target, request_id)
                yield batch
        except SluicewayError as exc:
            _log_failure(exc, target, request_id)
            raise


def _begin(batches: Generator[Batch, None, None]) -> Batch:
    """What came up to the first event that says something; raises the error of an answer that failed before that."""
    first = next(batches)
    while (said := _first_said(first)) is None:
        more = next(batches)
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
