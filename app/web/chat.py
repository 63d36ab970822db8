"""The routes that streaming tutorials teach, so that their front ends work as they are."""

from __future__ import annotations

from flask import Blueprint, Response, request

from .serving import authorize, dress, house, query_body, serve

door = Blueprint("sluiceway_chat", __name__)
dress(door, "native")


@door.post("/stream/<provider>")
def plain_text(provider: str) -> Response:
    return serve("plain_text", at=provider)


@door.post("/stream/<provider>/sse")
def text_sse(provider: str) -> Response:
    return serve("text_sse", at=provider)


@door.post("/chat")
def chat() -> Response:
    return serve("text_sse", provider="openai")


@door.get("/chat")
def chat_for_eventsource() -> Response:
    """An EventSource can only GET. HEAD, which Flask adds to every GET, asks no model."""
    if request.method == "HEAD":
        authorize(house(), request)
        return Response(mimetype="text/event-stream")
    fields = ("prompt", "message", "model", "system", "system_prompt")
    return serve("text_sse", provider="openai", body=query_body(request, fields))


@door.post("/chat/stream")
def token_sse() -> Response:
    return serve("token_sse", provider="openai")


@door.post("/chat/stream-meta")
def meta_sse() -> Response:
    return serve("meta_sse", provider="openai")


@door.post("/anthropic/stream")
def anthropic_token_sse() -> Response:
    return serve("token_sse", at="anthropic")


@door.post("/langchain/stream")
def langchain_token_sse() -> Response:
    return serve("token_sse", at="langchain")
