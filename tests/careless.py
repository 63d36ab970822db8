"""Somebody's app that begins streams and hands over something else, or hands them over in a body of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, abort, request

import app as sluiceway
from app import Sluiceway

app = Flask("careless")
extension = Sluiceway(app)


@app.post("/instead")
def instead() -> str:
    sluiceway.stream(request)
    return "something else"


@app.post("/aborted")
def aborted() -> str:
    sluiceway.stream(request)
    abort(403)


@app.post("/failing")
def failing() -> Response:
    return sluiceway.stream(request)


@app.post("/noted")
def noted() -> Response:
    """Each piece passes through the app, which may keep it."""
    answer = sluiceway.stream(request)

    def pieces() -> Iterator[bytes]:
        yield b": noted\n"
        yield from answer.iter_encoded()

    return Response(pieces(), mimetype=answer.mimetype)


@app.post("/wrapped")
def wrapped() -> Response:
    answer = sluiceway.stream(request)
    return Response(answer.response, mimetype=answer.mimetype, headers={"X-Shop": "1"})


@app.after_request
def note(response: Response) -> Response:
    if request.path == "/failing":
        raise RuntimeError("raised by the app, after its view")
    return response


@app.get("/worker")
def worker() -> dict[str, Any]:
    return {"open_streams": extension.open_streams, "descriptors": len(os.listdir("/proc/self/fd"))}
