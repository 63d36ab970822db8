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

from flask import Response

from .answers import Answer
from .errors import Internal, SluicewayError
from .events import Batch, Failed
from .formats import Format
from .formats.base import WholeAnswer
from .house import House
from .request import ChatRequest
from .response import streamed, whole
from .targets import Target


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
    source = Answer(
        house,
        request,
        target,
        format=form.name,
        tells_recovery=form.tells_recovery,
        request_id=request_id,
        environ=environ,
    )
    server = house.settings.server
    try:
        if not request.stream:
            folded, limits = _folded(source), source.limits
            source.close()
            return whole(form.whole(request, folded), headers=limits)
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
        headers=source.limits,
        heartbeat_s=server.heartbeat_s,
        request_id=request_id,
    )


def _folded(source: Answer) -> WholeAnswer:
    folded = WholeAnswer()
    ended = False
    while not ended:
        if (batch := source.read(math.inf)) is not None:
            folded.feed(batch.events)
            folded.frames = batch.frames or None
            ended = batch.ended
    return folded


def _begin(source: Answer, until: float) -> Batch | None:
    """What came first, if by then (None: nothing); raises the error of an answer that failed before that."""
    first = source.read(until)
    if first is not None and first.events and isinstance(said := first.events[0], Failed):
        raise said.error
    return first
