"""Whether a page of another origin may read what we answer, and ask what a browser does not send unasked.

Not flask-cors: it guards an app's paths by patterns, and inside an app of somebody else's the routes that are ours are
known by their blueprints alone. It answers no preflight for a route that does not exist, so that a page would never see
our 404; and it reads an origin with a `*` in it as a pattern. What is left of it is this file.

Keys travel in headers, never in cookies, so an origin is not what keeps strangers out: it keeps a stranger's page from
using its visitor's place in the network, and the cookies of whatever stands before us.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flask import Request, Response

from ..providers.base import RATE_LIMITS

_LIMITS = sorted(name.decode() for name in RATE_LIMITS)
EXPOSED = ", ".join(
    ["X-Request-ID", "request-id", "Location", "Retry-After", "x-vercel-ai-ui-message-stream", *_LIMITS]
)
METHODS = "GET, POST, DELETE"
MAX_AGE_S = 600  # how long a browser need not ask again

_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?: *, *[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")


def welcome(request: Request, origins: Sequence[str]) -> bool:
    """Whether the page that asks is of one of `origins`. (A browser does not say so of an image, or a form's GET.)"""
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in origins or origin in origins)


def is_preflight(request: Request) -> bool:
    asked = "Origin" in request.headers and "Access-Control-Request-Method" in request.headers
    return asked and request.method == "OPTIONS"


def preflight(request: Request) -> Response:
    """What may be sent. Any header: each SDK brings its own (`x-stainless-*`, `anthropic-version`), and more with each
    release; what we do not know, we do not read."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    response.headers["Access-Control-Allow-Methods"] = METHODS
    response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
    names = request.headers.get("Access-Control-Request-Headers", "")
    if _NAMES.fullmatch(names):
        response.headers["Access-Control-Allow-Headers"] = names
    response.vary.add("Access-Control-Request-Headers")
    return response


def share(response: Response, request: Request, origins: Sequence[str]) -> None:
    """Say on an answer of ours who may read it: nothing where `origins` is empty."""
    if not origins:
        return
    response.vary.add("Origin")
    if not welcome(request, origins):
        return
    anyone = "*" in origins
    response.headers["Access-Control-Allow-Origin"] = "*" if anyone else request.headers["Origin"]
    if not anyone:  # a browser refuses the two together, and rightly
        response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
