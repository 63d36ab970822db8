"""Somebody's app that begins streams which it then does not hand over to the server."""

from __future__ import annotations

import os
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


@app.after_request
def note(response: Response) -> Response:
    if request.path == "/failing":
        raise RuntimeError("raised by the app, after its view")
    return response


@app.get("/worker")
def worker() -> dict[str, Any]:
    return {"open_streams": extension.open_streams, "descriptors": len(os.listdir("/proc/self/fd"))}
