"""`/v1/streams`: the native event stream, as SSE or, with `"format": "ndjson"`, as lines of JSON.

One that is `resumable` is a resource: created once, followed by whoever may, stopped from anywhere, and gone after its
time.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from ..errors import InvalidRequest, MethodNotAllowed
from ..flow import followed
from ..formats import FORMATS
from ..formats.base import Resumable
from ..registry import nearest
from ..response import whole
from .serving import (
    authorize,
    can_resume,
    dress,
    handed_out,
    house,
    idempotency_key,
    journals,
    last_event_id,
    nothing,
    query_body,
    request_id,
    serve,
)

door = Blueprint("sluiceway_streams", __name__)
dress(door, "native")

_FORMATS = {"sse": "native", "ndjson": "ndjson"}


@door.post("/v1/streams")
def create() -> Response:
    return serve("native", provider="openai")


@door.get("/v1/streams/<stream>")
def follow(stream: str) -> Response:
    """From the event behind `Last-Event-ID`, or `?after=`; 204, at which an EventSource stops, where that was the last
    one. In the format it was created in, or in that of `?format=`."""
    owner = authorize(house(), request)
    asked = query_body(request, ("after", "format"))
    after = last_event_id(request, asked.get("after"))
    record = journals().find(stream, owner)
    response = followed(
        house(),
        journals(),
        _format(asked.get("format"), record.format),
        record,
        after=after,
        request_id=request_id(),
        environ=request.environ,
    )
    return handed_out(response) if response is not None else nothing()


@door.delete("/v1/streams")
def stop_by_key() -> Response:
    """By the `Idempotency-Key` that it was asked for with: for who wants it stopped before the answer to that POST, in
    which its id is, has come."""
    owner = authorize(house(), request)
    key = idempotency_key(request)
    if key is None:
        raise MethodNotAllowed(
            "DELETE is not answered here without an Idempotency-Key; name the stream: /v1/streams/<id>",
            allow=["OPTIONS", "POST"],
        )
    return _stopped(journals().find_key(owner, key), owner)


@door.delete("/v1/streams/<stream>")
def stop(stream: str) -> Response:
    return _stopped(stream, authorize(house(), request))


def _stopped(stream: str, owner: str) -> Response:
    stopping = journals().stop(stream, owner)
    return whole({"id": stream, "status": "stopping" if stopping else "ended"}, 202 if stopping else 200)


def _format(wanted: str | None, created: str) -> Resumable:
    if wanted is not None and wanted not in _FORMATS:
        raise InvalidRequest(f"format: unknown value {wanted!r}; {nearest(wanted, _FORMATS)}", param="format")
    form = FORMATS["ndjson" if wanted == "ndjson" or (wanted is None and created == "ndjson") else "native"]()
    assert can_resume(form)  # noqa: S101
    return form
