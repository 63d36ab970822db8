"""An app of yours with Sluiceway inside, and the pages of this folder on its own origin:

    gunicorn examples.flask_app:app        # from the repository's root, where gunicorn.conf.py is

Then http://127.0.0.1:8000. The routes are `/ai/v1/streams`, `/ai/chat`, ...: all but the page, as `/` is the app's.
"""

from pathlib import Path

from flask import Flask, Response, abort, request, send_from_directory

import app as sluiceway  # where it is installed: import sluiceway

PAGES = ("browser_fetch.html", "browser_fetch.js", "eventsource.html")

app = Flask(__name__)
sluiceway.Sluiceway(app, url_prefix="/ai")


@app.get("/")
def home() -> str:
    return "".join(f'<p><a href="{name}">{name}</a></p>' for name in PAGES if name.endswith(".html"))


@app.get("/<name>")
def page(name: str) -> Response:
    if name not in PAGES:
        abort(404)
    return send_from_directory(Path(__file__).parent, name)


@app.post("/ask")
def ask() -> Response:
    """One answer from a view of your own: what guards your views guards it too."""
    return sluiceway.stream(request, format="plain_text")
