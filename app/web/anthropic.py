"""`/v1/messages`, as Anthropic's SDKs ask and read it."""

from __future__ import annotations

from flask import Blueprint, Response

from .serving import dress, request_id, serve

door = Blueprint("sluiceway_anthropic", __name__)
dress(door, "anthropic_messages")


@door.after_request
def name_the_request(response: Response) -> Response:
    """Anthropic's SDKs read the request's id from a header of this name (`error.request_id`, `message._request_id`)."""
    response.headers["request-id"] = request_id()
    return response


@door.post("/v1/messages")
def messages() -> Response:
    return serve("anthropic_messages", provider="anthropic")
