"""What chat front ends ask: `/api/chat` of the AI SDK's `useChat`, `/agui` of AG-UI's agents."""

from __future__ import annotations

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from ..flow import followed
from ..formats.ai_sdk import AISDKReplay
from ..response import whole
from .serving import authorize, dress, handed_out, house, journals, nothing, request_id, serve

door = Blueprint("sluiceway_ui", __name__)
dress(door, "native")


class AnyConverter(BaseConverter):
    """Whatever an id may be: werkzeug's `path` has no slash at its beginning, and no line end."""

    part_isolating = False
    regex = "(?s:.+?)"
    weight = 200  # as `path`


@door.record
def _convert(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["sluiceway_any"] = AnyConverter


@door.post("/api/chat")
def chat() -> Response:
    """An answer with `"resumable": false` never comes near the store, so its chat still leads to an earlier one that
    could be resumed, while that is kept. A page that asks is told that one again, under its own message's id: what it
    shows already stays as it is."""
    return serve("ai_sdk", provider="openai")


@door.get("/api/chat/<sluiceway_any:chat_id>/stream")
def chat_stream(chat_id: str) -> Response:
    """`useChat` asks for what goes on in a chat: the latest answer, from its beginning, behind what its message had
    before, as it rebuilds that. 204 is its word for "nothing"; a 404 it would show as an error. (An id is the client's
    own, and may have slashes.)"""
    owner = authorize(house(), request)
    record = journals().find_chat(owner, chat_id)
    form = AISDKReplay()
    if record is None or record.format != form.name:
        return nothing()
    response = followed(house(), journals(), form, record, after=0, request_id=request_id(), environ=request.environ)
    return handed_out(response) if response is not None else nothing()


@door.delete("/api/chat/<sluiceway_any:chat_id>/stream")
def stop_chat(chat_id: str) -> Response:
    """`useChat`'s own `stop()` does no more than leave, and an answer that can be resumed then goes on for a while."""
    owner = authorize(house(), request)
    if (record := journals().find_chat(owner, chat_id)) is not None and journals().stop(record.id, owner):
        return whole({"id": record.id, "status": "stopping"}, 202)
    return nothing()


@door.post("/agui")
def agui() -> Response:
    return serve("agui", provider="openai")
