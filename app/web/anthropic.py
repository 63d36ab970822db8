"""`/v1/messages`, as Anthropic's SDKs ask and read it."""

from __future__ import annotations

from flask import Blueprint, Response

from .serving import dress, serve

door = Blueprint("sluiceway_anthropic", __name__)
dress(door, "anthropic_messages")


@door.post("/v1/messages")
def messages() -> Response:
    return serve("anthropic_messages", provider="anthropic")
