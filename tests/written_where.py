"""The service, each token of whose plain text says where it was written: in the event (l)oop or in the request's
(g)reenlet or thread. The prompt names what else is done with the answer.

    middleware  one that puts what passes into capitals
    filter      the same, in an `after_request` function
    defect      what is written in the loop raises
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from flask import Response, request

from app import create_app
from app.events import Event, TextDelta
from app.formats.plain_text import PlainText, PlainTextEncoder
from app.request import ChatRequest
from app.response import Streamed


class Witness(PlainTextEncoder):
    def __init__(self, prompt: str) -> None:
        super().__init__()
        self._prompt = prompt

    def feed(self, events: list[Event]) -> bytes:
        in_loop = gevent.getcurrent() is gevent.get_hub()
        if in_loop and self._prompt == "defect":
            raise ZeroDivisionError
        if any(isinstance(event, TextDelta) for event in events):
            return b"l" if in_loop else b"g"
        return super().feed(events)


def capitals(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece.upper()


def witnessed(_format: PlainText, request: ChatRequest) -> PlainTextEncoder:
    return Witness(request.messages[-1].text)


PlainText.encoder = witnessed  # type: ignore[assignment, method-assign]
app = create_app()
inside = app.wsgi_app


def middleware(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body: Iterable[bytes] = inside(environ, start_response)
    return capitals(body) if environ.get("HTTP_X_HOW") == "middleware" else body


@app.after_request
def filtered(response: Response) -> Response:
    if request.headers.get("X-How") == "filter" and isinstance(response, Streamed):
        pieces: Any = response.response
        response.response = capitals(pieces)
    return response


app.wsgi_app = middleware  # type: ignore[method-assign]
