"""`/v1/chat/completions`, `/v1/responses` and `/v1/models`, as OpenAI's SDKs ask and read them."""

from __future__ import annotations

from flask import Blueprint, Response, request

from ..response import whole
from .serving import authorize, dress, house, serve

door = Blueprint("sluiceway_openai", __name__)
dress(door, "openai_chat")


@door.post("/v1/chat/completions")
def chat_completions() -> Response:
    return serve("openai_chat", provider="openai")


@door.post("/v1/responses")
def responses() -> Response:
    return serve("openai_responses", provider="openai")


@door.get("/v1/models")
def models() -> Response:
    """The names a request may give: the default first, then aliases and each usable provider's own default."""
    here = house()
    authorize(here, request)
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0] if "/" in name else "alias"}
        for name in here.targets.known()
    ]
    return whole({"object": "list", "data": listed})
