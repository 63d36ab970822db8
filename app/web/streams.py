"""`/v1/streams`: the native event stream, as SSE or, with `"format": "ndjson"`, as lines of JSON."""

from __future__ import annotations

from flask import Blueprint, Response, request

from .serving import authorize, dress, house, json_body, serve

door = Blueprint("sluiceway_streams", __name__)
dress(door, "native")


@door.post("/v1/streams")
def create() -> Response:
    authorize(house(), request)  # before the body, which says in which of the two formats to answer
    body = json_body(house(), request)
    return serve("ndjson" if body.get("format") == "ndjson" else "native", provider="openai", body=body)
