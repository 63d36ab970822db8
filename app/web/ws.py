"""`/ws/chat`: a conversation by WebSocket, one answer at a time.

    Hello, or {"message": "Hello"}  ->  {"type": "chunk", "text"} ...
                                        {"type": "done", "reason", "usage", "timings", "request_id"}
    {"type": "stop"}                ->  the answer's `done`, with the reason "cancelled"

What is wrong with a message, and what becomes of an answer, is told by `{"type": "error"}`, and the connection stays;
it is closed for what is wrong with the protocol (1002, 1003, 1007, 1009), and when the worker ends (1001).

A page of any site may open a WebSocket here without asking the browser's permission, and is only known by its Origin.
A browser can't send a key in a header of its own either. In the URL it would stand in logs; so it goes along as a
subprotocol, as with Kubernetes and OpenAI: `new WebSocket(url, ["sluiceway", "sluiceway-key." + key])`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import pydantic_core
from flask import Blueprint, Request, Response, request

from ..errors import (
    Busy,
    Cancelled,
    ForeignOrigin,
    Internal,
    InvalidRequest,
    NoWebSocket,
    SluicewayError,
    Stopped,
    UpgradeRequired,
)
from ..events import Batch
from ..flow import begun
from ..formats.ws import WS, Conversation, Encoder, error_message
from ..house import House
from ..registry import nearest
from ..request import ChatRequest
from ..response import Upgraded, WebSocket
from ..response.websocket import Gone, can_upgrade, is_key
from ..shaped import Source
from ..task import Task
from .cors import welcome
from .serving import authorize, dress, handed_out, house, json_object, query_body, request_id

log = logging.getLogger("sluiceway")

door = Blueprint("sluiceway_ws", __name__)
dress(door, "native")

PROTOCOL = "sluiceway"
KEY_PROTOCOL = "sluiceway-key."

# How long a connection that was made while the worker is about to end has for its message: as long as one of plain
# HTTP has for its request (gunicorn.conf.py).
_LAST_WORD_S = 1.0


@door.get("/ws/chat", endpoint="chat", websocket=True)
@door.get("/ws/chat", endpoint="plain")  # werkzeug keeps the two apart
def chat() -> Response:
    here = house()
    key = _upgrade_key(request)
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    given = next((name for name in offered if name.startswith(KEY_PROTOCOL)), "")
    if given and PROTOCOL not in offered:  # one has to be chosen, and a key is not to be sent back
        raise InvalidRequest(f"offer the subprotocol {PROTOCOL} beside the one with the key")
    _known_origin(here, request)
    authorize(here, request, unquote(given.removeprefix(KEY_PROTOCOL)))
    query_body(request, ())
    talk = Talk(here, request.environ, request_id())
    here.admission.sit(talk.leave)
    response = Upgraded(key, talk.run, PROTOCOL if PROTOCOL in offered else None)
    response.call_on_close(lambda: here.admission.rise(talk.leave))
    return handed_out(response)


def _upgrade_key(request: Request) -> str:
    """The `Sec-WebSocket-Key` of a handshake as RFC 6455, 4.2.1, wants it."""
    headers = request.headers
    upgrade = headers.get("Upgrade", "").lower() == "websocket"
    connection = "upgrade" in (name.strip() for name in headers.get("Connection", "").lower().split(","))
    if not (upgrade and connection) or request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        raise UpgradeRequired(
            "this route speaks WebSocket: open it as ws:// or wss://; behind a proxy, have it pass on the Upgrade "
            "header in HTTP/1.1 (nginx/sluiceway.conf). Without WebSocket: POST /chat"
        )
    if headers.get("Sec-WebSocket-Version") != "13":
        raise UpgradeRequired("Sec-WebSocket-Version: 13 is the one that is spoken here")
    key = headers.get("Sec-WebSocket-Key", "")
    if request.method != "GET" or not is_key(key):
        raise InvalidRequest("no WebSocket handshake: it is a GET with a Sec-WebSocket-Key of 16 bytes in base64")
    if request.content_length or "Transfer-Encoding" in headers:
        raise InvalidRequest("a WebSocket handshake has no body")
    if not can_upgrade(request.environ):
        raise NoWebSocket(
            "the server that runs this app has no WebSocket for it; gunicorn's gevent and gthread workers have, and "
            "flask run"
        )
    return key


def _known_origin(here: House, request: Request) -> None:
    """No Origin is no browser. `X-Forwarded-Host`, as a page can't send it: what the browser was told to connect to,
    of a proxy that names another Host."""
    origin = request.headers.get("Origin")
    if origin is None or welcome(request, here.settings.server.cors_origins):
        return
    hosts = {_bare(request.headers.get(name, "")) for name in ("Host", "X-Forwarded-Host")} - {""}
    try:
        known = _bare(urlsplit(origin).netloc) in hosts
    except ValueError:  # no URL
        known = False
    if not known:
        raise ForeignOrigin(f"a page of {origin[:100]} may not connect here; add it to server.cors_origins")


def _bare(host: str) -> str:
    return host.strip().lower().removesuffix(":80").removesuffix(":443")


class Talk:
    """One connection. `run` reads it, from the upgrade to its end; each answer is written by a task beside."""

    def __init__(self, here: House, environ: Mapping[str, Any], request_id: str) -> None:
        self._house = here
        self._environ = environ
        self._request_id = request_id
        self._socket: WebSocket  # from `run` on
        self._upgraded = False
        self._conversation = Conversation(here.settings.server.max_body_bytes)
        self._answers = 0
        self._answer: Source | None = None  # the one that is running
        self._task: Task[None] | None = None  # that writes it, or has nothing left to do but to return
        self._leaving = False

    def run(self, sock: Any, read_ahead: bytes) -> None:
        server = self._house.settings.server
        self._socket = WebSocket(
            sock,
            read_ahead,
            max_message_bytes=server.max_body_bytes,
            heartbeat_s=server.heartbeat_s,
            write_timeout_s=server.write_timeout_s,
        )
        self._upgraded = True
        if self._house.admission.draining:
            self._leaving = True
            self._socket.expire(time.monotonic() + _LAST_WORD_S)
        try:
            while (text := self._socket.receive()) is not None:
                self._take(text)
        except Gone:
            pass
        except Exception:
            log.exception("%s a WebSocket failed by a defect of ours", self._request_id)
            self._socket.close(1011, "the service failed; connect again")
        finally:
            if (answer := self._answer) is not None:
                answer.cancel(Cancelled("the client has left"))
            if self._task is not None:
                self._task.wait(math.inf)
            self._socket.end()

    def leave(self) -> None:
        """The worker is about to end: so does this connection, once no answer is running."""
        self._leaving = True
        if not self._upgraded:
            return
        if self._house.admission.ended:
            self._socket.hasten()
        if self._answer is None:
            self._socket.expire(time.monotonic())

    def _take(self, text: str) -> None:
        """What a message asks for. Raises `Gone`."""
        try:
            body = _body(text)
            match kind := body.pop("type", "message"):
                case "message":
                    self._ask(body)
                case "stop":
                    if body:
                        raise InvalidRequest(f"unknown field {next(iter(body))!r}: stop has none", param="type")
                    if (answer := self._answer) is not None:  # else it has ended meanwhile
                        answer.cancel(Stopped("stopped by the client", by="stop"))
                case _:
                    said = f"unknown type {kind!r}; {nearest(kind, _TYPES)}" if isinstance(kind, str) else _NO_TYPE
                    raise InvalidRequest(said, param="type")
        except SluicewayError as exc:
            exc.request_id = self._request_id
            self._socket.send(error_message(exc, answering=self._answer is not None))

    def _ask(self, body: Mapping[str, Any]) -> None:
        if self._answer is not None:
            raise Busy('an answer is running: wait for its end, or send {"type": "stop"} first')
        if self._task is not None:
            self._task.wait(math.inf)
            self._task = None
        asked = self._conversation.ask(body)
        if asked is None:
            return
        target = self._house.targets.find(asked.model, provider="openai")
        self._answers += 1
        named = f"{self._request_id}.{self._answers}"
        try:
            answer = begun(self._house, WS(), asked, target, request_id=named, environ=self._environ)
        except SluicewayError as exc:
            exc.request_id = named
            raise
        self._answer = answer
        self._socket.expire(math.inf)  # `leave` may have come while there was none
        self._task = Task(lambda: self._write(answer, asked))

    def _write(self, answer: Source, asked: ChatRequest) -> None:
        """The answer, to its end; never raises."""
        server = self._house.settings.server
        encoder = Encoder(answer.request_id, server.max_body_bytes, shaped=asked.shape is not None)
        last: list[bytes] = []
        try:
            last = self._written(answer, encoder)
        except Gone:
            pass
        except Exception:
            log.exception("%s an answer failed by a defect of ours", answer.request_id)
            error = Internal("the answer failed inside the service; try again")
            error.request_id = answer.request_id
            last = encoder.feed([answer.fail(error)])
        finally:
            answer.close()
            self._conversation.answered(asked, encoder.text)
            # Before its last message: whoever has read that may ask again.
            self._answer = None
        try:
            self._socket.push(last)
            self._socket.flush()
        except Gone:
            return
        if self._leaving:
            self._socket.expire(time.monotonic())

    def _written(self, answer: Source, encoder: Encoder) -> list[bytes]:
        """All but the answer's last messages, which it returns."""
        silence_s = self._house.settings.server.heartbeat_s
        push, flush = self._socket.push, self._socket.flush

        def deliver(batch: Batch) -> bool:
            return push(encoder.feed(batch.events))

        while True:
            batch = answer.read(time.monotonic() + silence_s)
            if batch is not None:
                if batch.ended:
                    return encoder.feed(batch.events)
                if not deliver(batch):
                    flush()
            answer.each(deliver, silence_s)
            flush()


_TYPES = ("message", "stop")
_NO_TYPE = "type: should be a string"


def _body(text: str) -> dict[str, Any]:
    """A message as an object. What begins with `{` is one, or should be; what reads as an array, too; all else is what
    the user says."""
    lead = text.lstrip(" \t\r\n")[:1]
    if lead == "{" or (lead == "[" and _is_json(text)):
        return json_object(text.encode(), 'the message (a text that begins with { goes into {"message": ...})')
    if not text:
        raise InvalidRequest('the message is empty; send a text, or {"message": ...}')
    return {"message": text}


def _is_json(text: str) -> bool:
    try:
        pydantic_core.from_json(text)
    except ValueError:
        return False
    return True
