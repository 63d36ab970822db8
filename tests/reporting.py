"""A WSGI app that does nothing but report outcomes, to run under gunicorn: POST an `Outcome` in JSON, and the answer is
the id of the worker that took it. `/hold` opens a stream and never closes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from app import outcomes


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body, content_type = str(os.getpid()).encode(), "text/plain"
    if environ["REQUEST_METHOD"] == "POST":
        outcomes.report(msgspec.json.decode(environ["wsgi.input"].read(), type=outcomes.Outcome))
    elif environ["PATH_INFO"] == "/hold":
        outcomes.opened()
    elif environ["PATH_INFO"] == "/metrics":
        body, content_type = outcomes.exposition()
    start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
