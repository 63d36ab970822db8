"""An answer's whole way, from a client's body to bytes in the client's own format.

    what was asked      form.parse          body         -> ChatRequest
    who answers         targets, Answer     ChatRequest  -> batches of events, counted
    how it is written   form.encoder        events       -> bytes
    how it is sent      response            bytes        -> client

The first event decides the status line: until the answer has begun, a failure is an HTTP status of its own; afterwards
it is an error event in the stream. Where none comes within `hold_s`, the status line goes out with a heartbeat.

A resumable answer takes a longer way: `journals` reads it, whoever follows, and its events are in the store before they
are written to anybody.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from flask import Response

from .answers import Answer
from .errors import Internal, SluicewayError
from .events import Batch, Event, Failed
from .formats import Encoder, Format
from .formats.base import After, Resumable, Spoken, WholeAnswer, json_bytes
from .house import House
from .journals import Journals
from .request import ChatRequest
from .response import Batches, streamed, whole
from .shaped import Source, shaped
from .stores import Record
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
    source = begun(house, form, request, target, request_id=request_id, environ=environ)
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


def begun(
    house: House,
    form: Spoken,
    request: ChatRequest,
    target: Target,
    *,
    request_id: str,
    environ: Mapping[str, Any],
) -> Source:
    """The answer itself, to be read, written in `form` and closed by the caller. Raises `Overloaded` where there is no
    place for it, and `InvalidRequest` for a tool that is none of ours; what fails later is its last event. No
    `environ`: nobody's departure ends it."""
    request, served = house.tools.offered(request)
    answer = Answer(
        house,
        request,
        target,
        format=form.name,
        tells_recovery=form.tells_recovery,
        request_id=request_id,
        environ=environ,
        served=served,
    )
    return shaped(answer, request)


class Claim(NamedTuple):
    """What a resumable stream is known by: who may read it (`Record.owner`), the client's idempotency key, and the hash
    of what it was given with."""

    owner: str
    key: str | None
    body_hash: str


def resumable(
    house: House,
    journals: Journals,
    form: Resumable,
    request: ChatRequest,
    target: Target,
    claim: Claim,
    *,
    after: int,
    request_id: str,
    environ: Mapping[str, Any],
) -> tuple[Record, Response]:
    """The same, of an answer that goes on where this client leaves; where the claim's key is known, the one that it
    leads to, behind the event `after`. Raises `StoreUnavailable` beside what `answer` raises."""
    house.admission.check()
    house.tools.offered(request)  # before there is anything of it
    made: list[Source] = []

    def make() -> Source:
        made.append(begun(house, form, request, target, request_id=request_id, environ={}))
        return made[0]

    record = Record(
        id=f"strm_{secrets.token_urlsafe(18)}",
        owner=claim.owner,
        format=form.name,
        home="",
        created=int(time.time()),
        seed=json_bytes(form.seed(request)).decode(),
        body_hash=claim.body_hash,
    )
    entry = journals.begin(make, record, key=claim.key, chat=request.chat, environ=environ)
    follower = entry.follower
    server = house.settings.server
    try:
        first = _begin(follower, time.monotonic() + server.hold_s)
        encoder = form.resumed(msgspec.json.decode(entry.record.seed))
    except BaseException:
        follower.close()
        if entry.mine and claim.key is None and request.chat is None:
            journals.abandon(entry.record.id)
        raise
    return entry.record, streamed(
        first,
        follower,
        encoder if entry.mine else After(encoder, after),
        form.mimetype,
        headers=made[0].limits if made else {},
        heartbeat_s=server.heartbeat_s,
        request_id=request_id,
    )


def followed(
    house: House,
    journals: Journals,
    form: Resumable,
    record: Record,
    *,
    after: int,
    request_id: str,
    environ: Mapping[str, Any],
) -> Response | None:
    """What follows the event `after` of a stream, and what is still to come; None where there is neither."""
    house.admission.check()
    seed = msgspec.json.decode(record.seed)
    if after:
        events, ended = journals.events(record.id)
        if ended and not _says_something(After(form.resumed(seed), after), events):
            return None
    follower = journals.follow(record.id, record.owner, environ)
    try:
        first = follower.read(time.monotonic())
        encoder = After(form.resumed(seed), after)
    except BaseException:
        follower.close()
        raise
    return streamed(
        first,
        follower,
        encoder,
        form.mimetype,
        headers={},
        heartbeat_s=house.settings.server.heartbeat_s,
        request_id=request_id,
    )


def _folded(source: Source) -> WholeAnswer:
    folded = WholeAnswer()
    ended = False
    while not ended:
        if (batch := source.read(math.inf)) is not None:
            folded.feed(batch.events)
            folded.frames = batch.frames or None
            ended = batch.ended
    return folded


def _says_something(encoder: Encoder, events: list[Event]) -> bool:
    """Others have their turn: an answer of 200,000 tokens takes 0.35 s."""
    for at in range(0, len(events), _TURN):
        if encoder.feed(events[at : at + _TURN]):
            return True
        time.sleep(0)
    return False


_TURN = 2000  # events


def _begin(source: Batches, until: float) -> Batch | None:
    """What came first, if by then (None: nothing); raises the error of an answer that failed before that."""
    first = source.read(until)
    if first is not None and first.events and isinstance(said := first.events[0], Failed):
        raise said.error
    return first
