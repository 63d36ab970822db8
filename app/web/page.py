"""The page at `/`: one prompt box in front of `/v1/streams`."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

from .serving import dress

# Nothing from another host, nothing inline: what a model writes can't load or run anything even if sanitising failed.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

door = Blueprint("sluiceway_page", __name__, static_folder="static", static_url_path="/static")
dress(door, "native")


@door.get("/")
def page() -> Response:
    # Sent as a file, not rendered: an embedding app's own `index.html` would win in Jinja's template search.
    response = send_from_directory(Path(__file__).parent / "templates", "index.html", max_age=0)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
