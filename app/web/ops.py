"""`/healthz`: the process is alive. `/readyz`: it may take traffic, as it is not about to end, and the embedded model,
where it is on, serves; a store that can't be used is named there, but plain streams do without. `/metrics`: the numbers
of all workers, for Prometheus.

All three are open, with keys set too, and need no place of a stream: who watches must get through when nobody does.
What `/metrics` tells (which models, how much) is not for the world; nginx should not pass it on.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from ..errors import StoreUnavailable
from ..local_model import is_ready
from ..outcomes import exposition
from ..response import can_watch, whole
from .serving import dress, house, journals

door = Blueprint("sluiceway_ops", __name__)
dress(door, "native")


@door.get("/healthz")
def healthz() -> Response:
    return whole({"status": "ok"})


@door.get("/readyz")
def readyz() -> Response:
    if house().admission.draining:
        return whole({"status": "draining"}, 503, {"Retry-After": "1"})
    waiting = _waiting_for()
    if waiting:
        return whole({"status": "not ready", "waiting_for": waiting}, 503, {"Retry-After": "1"})
    said = {"status": "ready"}
    if not can_watch(request.environ):  # under another server, or where there is no epoll
        said["client_departures"] = "seen by the next write, a heartbeat at the latest"
    try:
        journals().check()
    except StoreUnavailable as exc:
        said["store"] = exc.message
    return whole(said)


@door.get("/metrics")
def metrics() -> Response:
    body, content_type = exposition()
    return Response(body, content_type=content_type, headers={"Cache-Control": "no-store"})


def _waiting_for() -> list[str]:
    settings = house().settings
    if not settings.local_enabled:
        return []
    local = settings.local
    if local.port is None:
        return ["the embedded model: its process is started by gunicorn.conf.py (make run)"]
    if not is_ready(local.port, local.api_key or ""):
        return ["the embedded model: loading, or stopped; see the server's log"]
    return []
