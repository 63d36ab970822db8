"""The doors: one blueprint a file. A door knows its routes, its format and its own provider; `serving` does the rest.

| door | routes |
|---|---|
| `openai` | `/v1/chat/completions`, `/v1/responses`, `/v1/models` |
| `anthropic` | `/v1/messages` |
| `streams` | `/v1/streams` |
| `chat` | the tutorials': `/chat`, `/chat/stream`, `/chat/stream-meta`, `/stream/<provider>`, ... |
| `ws` | the same by WebSocket: `/ws/chat` |
| `ui` | chat front ends': `/api/chat`, `/agui` |
| `ops` | `/healthz`, `/readyz`, `/metrics` |
| `page` | `/` |
"""

from __future__ import annotations

from flask import Blueprint

from . import anthropic, chat, openai, ops, page, streams, ui, ws

DOORS: dict[str, Blueprint] = {
    "openai": openai.door,
    "anthropic": anthropic.door,
    "streams": streams.door,
    "chat": chat.door,
    "ws": ws.door,
    "ui": ui.door,
    "ops": ops.door,
    "page": page.door,
}
