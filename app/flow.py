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
from .events import Event, Failed, Started, Usage
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
    batches = _events(house, request, target, request_id)
    try:
        if not request.stream:
            folded = WholeAnswer()
            for events in batches:
                folded.feed(events)
            return whole(form.whole(request, folded))
        first = _begin(batches)
    except BaseException:
        batches.close()
        raise
    return streamed(first, batches, form.encoder(request), form.mimetype, request_id=request_id)


def _events(house: House, request: ChatRequest, target: Target, request_id: str) -> Generator[list[Event], None, None]:
    """The answer as batches of events, counted; a failure is logged here, wherever it shows itself to the client."""
    times = target.timeouts
    clock = Clock(first_token_s=times.first_token_s, idle_s=times.idle_s, total_s=times.total_s)
    books = Books(request, clock.elapsed_s)
    tries = attempt(house.providers[target.provider], request, target, clock, request_id=request_id)
    with contextlib.closing(tries):
        try:
            for events in tries:
                counted = books.feed(events)
                if isinstance(counted[-1], Failed):
                    counted[-1].error.request_id = request_id
                    _log_failure(counted[-1].error, target, request_id)
                yield counted
        except SluicewayError as exc:
            _log_failure(exc, target, request_id)
            raise


def _begin(batches: Generator[list[Event], None, None]) -> list[Event]:
    """The events up to the first that says something; raises the error of an answer that failed before that."""
    first: list[Event] = []
    for events in batches:
        first += events
        said = [event for event in first if not isinstance(event, Started | Usage)]
        if said:
            if isinstance(said[0], Failed):
                raise said[0].error
            break
    return first


def _log_failure(error: SluicewayError, target: Target, request_id: str) -> None:
    # A key the provider refuses stays refused until a person acts: that one is loud.
    level = logging.ERROR if isinstance(error, ProviderAuth) else logging.WARNING
    log.log(level, "%s %s code=%s: %s", request_id, target.name, error.code, error.message)
