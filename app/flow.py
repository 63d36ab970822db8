"""An answer's whole way, from a client's body to bytes in the client's own format.

    what was asked      form.parse          body         -> ChatRequest
    who answers         targets, Answer     ChatRequest  -> batches of events, counted
    how it is written   form.encoder        events       -> bytes
    how it is sent      response            bytes        -> client

The first event decides the status line: until the answer has begun, a failure is an HTTP status of its own; afterwards
it is an error event in the stream. Where none comes within `hold_s`, the status line goes out with a heartbeat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Response

from .admission import Admission
from .answers import Answer
from .errors import Internal, SluicewayError
from .events import Batch, Event, Failed, Started, Usage
from .formats import Format
from .formats.base import WholeAnswer
from .providers import PROVIDERS, Provider
from .request import ChatRequest
from .response import streamed, whole
from .settings import Settings
from .targets import Target, Targets


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


def answer(
    house: House,
    form: Format,
    request: ChatRequest,
    target: Target,
    *,
    request_id: str,
    environ: Mapping[str, Any],
) -> Response:
    """The response to `request`, streamed or whole. Raises `SluicewayError` for what fails before the first byte.

    `environ` is the WSGI request's, for the client's socket in it.
    """
    provider = house.providers[target.provider]
    source = Answer(
        provider, house.admission, request, target, format=form.name, request_id=request_id, environ=environ
    )
    server = house.settings.server
    try:
        if not request.stream:
            folded = _folded(source)
            source.close()
            return whole(form.whole(request, folded))
        first = _begin(source, time.monotonic() + server.hold_s)
    except BaseException as exc:
        if isinstance(exc, Exception) and not isinstance(exc, SluicewayError):
            source.fail(Internal("the answer failed inside the service"))
        source.close()
        raise
    return streamed(
        first,
        source,
        form.encoder(request),
        form.mimetype,
        heartbeat_s=server.heartbeat_s,
        request_id=request_id,
    )


def _folded(source: Answer) -> WholeAnswer:
    folded = WholeAnswer()
    ended = False
    while not ended:
        if (batch := source.read(math.inf)) is not None:
            folded.feed(batch.events)
            ended = batch.ended
    return folded


def _begin(source: Answer, until: float) -> Batch | None:
    """What came up to the first event that says something, or until then (None: nothing); raises the error of an answer
    that failed before that."""
    begun: Batch | None = None
    while (more := source.read(until)) is not None:
        if begun is None:
            begun = more
        else:
            begun.events += more.events
            begun.ended = more.ended
            if begun.frames is not None and more.frames is not None:
                begun.frames += more.frames
        if (said := _first_said(begun)) is not None:
            if isinstance(said, Failed):
                raise said.error
            break
    return begun


def _first_said(batch: Batch) -> Event | None:
    return next((event for event in batch.events if not isinstance(event, Started | Usage)), None)
