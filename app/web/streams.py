"""`/v1/streams`: the native event stream, as SSE or, with `"format": "ndjson"`, as lines of JSON."""

from __future__ import annotations

from flask import Blueprint, Response

from .serving import dress, serve

door = Blueprint("sluiceway_streams", __name__)
dress(door, "native")


@door.post("/v1/streams")
def create() -> Response:
    return serve("native", provider="openai")
