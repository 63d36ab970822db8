"""What chat front ends ask: `/api/chat` of the AI SDK's `useChat`, `/agui` of AG-UI's agents."""

from __future__ import annotations

from flask import Blueprint, Response, request

from .serving import authorize, dress, house, serve

door = Blueprint("sluiceway_ui", __name__)
dress(door, "native")


@door.post("/api/chat")
def chat() -> Response:
    return serve("ai_sdk", provider="openai")


@door.get("/api/chat/<path:chat_id>/stream")
def chat_stream(chat_id: str) -> Response:
    """`useChat` asks for what goes on in a chat. 204 is its word for "nothing"; a 404 it would show as an error. (An id
    is the client's own, and may have a slash in it.)"""
    authorize(house(), request)
    response = Response(status=204, headers={"Cache-Control": "no-store"})
    del response.headers["Content-Type"]
    return response


@door.post("/agui")
def agui() -> Response:
    return serve("agui", provider="openai")
