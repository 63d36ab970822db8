"""Sluiceway streams LLM answers from Flask.

    sluiceway.create_app()                   the service: gunicorn wsgi:app
    sluiceway.Sluiceway(app, url_prefix="")  its routes inside an existing Flask app (or init_app)
    sluiceway.stream(request)                one answer from a view of your own
    @sluiceway.tool                          a function that a model may call

An answer's way through the house:

    formats/      what was asked       a client's body        -> ChatRequest
    providers/    who answers          ChatRequest            -> upstream bytes -> events
    events.py     what an answer is    the words every room speaks
    books.py      what it came to      events                 -> events, counted
    transforms/   how it is shaped     events                 -> events
    formats/      how it is written    events                 -> bytes in the client's own wire format
    response/     how it is sent       bytes -> client, heartbeats; its departure -> the answer's end

A resumable answer goes by way of `journals/`, which reads it whoever follows, and of a store in `stores/`.

`flow.py` spells this way in one function; `web/` opens the doors to it. A file imports only from a lower floor, and
rooms on one floor do not import each other (tests/test_house.py holds it):

    12  __init__.py                      create_app, the Sluiceway extension, this map
    11  web/                             the doors: one blueprint a file; the page
    10  flow.py                          the whole way
    9  journals/                         answers that are kept for a while, and followed from any worker
    8  shaped.py                         an answer whose events are transformed on their way
    7  answers.py                        one answer from beginning to end, by as many tries as it takes
    6  turns.py                          one call of a model: as many tries as it takes, and joined where it breaks off
    5  tries.py, steps.py                which target is asked next, and when; the calls of tools that we run, and what
                                         follows them
    4  house.py, attempts.py, books.py, outcomes.py, response/
                                         what all requests share; one try at an answer; its books; what became of it,
                                         logged and counted; the WSGI body
    3  providers/, formats/, transforms/, stores/, tools/
                                         many of a kind, one file each; `__init__` the registry, `base.py` the contract
    2  targets.py, admission.py, breakers.py, retrying.py, recovery.py, transport/, local_model.py, json_schema.py
                                         a name's provider and model; a worker's open streams; targets that are left
                                         alone; what follows a failed try; an answer that broke off, joined to the one
                                         that goes on with it; the HTTP under the SDK clients; the embedded model's
                                         process; a value held against a JSON Schema
    1  events.py, request.py, settings.py, clock.py, cancel.py
                                         the words; the knobs; the clocks of an answer; its end from outside
    0  errors.py, registry.py, stages.py, task.py
                                         the error tree; name -> class; the shape feed/finish; a call beside the caller

Beside the house stands `testing/`: a fake provider that is a real server, and its pytest plugin. It imports nothing
from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, Request, Response, current_app

from .errors import SluicewayError
from .formats import FORMATS
from .house import House, build
from .journals import Journals
from .outcomes import log_to_stderr
from .registry import nearest
from .settings import Settings, SettingsError, load_settings
from .tools import EVERYWHERE, ToolError, Tools
from .web import DOORS
from .web.serving import EXTENSION, close_dropped, dress, error_response, serve

__all__ = [
    "Settings",
    "SettingsError",
    "Sluiceway",
    "SluicewayError",
    "ToolError",
    "create_app",
    "load_settings",
    "stream",
    "tool",
]

tool = EVERYWHERE.tool


class Sluiceway:
    """The Flask extension: routes, clients and settings of one app.

        app = Flask(__name__)
        Sluiceway(app, url_prefix="/ai")     # or: sluiceway = Sluiceway(); sluiceway.init_app(app)

    `doors` chooses routes by door (see `web/`); the page is left out unless asked for, since `/` is usually yours.
    Raises `SettingsError` for a configuration that can't be used.
    """

    house: House
    journals: Journals

    def __init__(
        self,
        app: Flask | None = None,
        *,
        url_prefix: str = "",
        doors: tuple[str, ...] = ("openai", "anthropic", "streams", "chat", "ws", "ui", "ops"),
    ) -> None:
        self._tools = Tools(beside=EVERYWHERE)
        self.tool = self._tools.tool  # as the module's, for the apps of this extension only
        self._url_prefix = url_prefix
        self._doors = doors
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        settings = load_settings(app.config)
        self.house = build(settings, self._tools, app.app_context)
        try:
            self.journals = Journals(self.house)
        except ValueError as exc:
            raise SettingsError(f"store.url: {exc}") from None
        app.extensions[EXTENSION] = self
        app.teardown_request(close_dropped)
        for name in self._doors:
            app.register_blueprint(DOORS[name], url_prefix=self._url_prefix or None)

    def drain(self) -> None:
        """The worker is about to end: `/readyz` says so. Streams go on, and nobody is refused yet."""
        self.house.admission.drain()

    def end_streams(self) -> None:
        """End every open stream with a `draining` event of its own, and refuse new ones."""
        self.house.admission.end()

    @property
    def open_streams(self) -> int:
        return len(self.house.admission)

    @property
    def unfinished(self) -> int:
        """Resumable streams that go on here, with or without a client, and would be lost with this process."""
        return self.journals.unfinished

    def close(self) -> None:
        """Give back the connections to the providers and the store. A server need not; tests that make many apps want
        to."""
        self.journals.close()
        for provider in self.house.providers.values():
            provider.close()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The service as an app of its own: every door, JSON errors everywhere. `config` goes into `app.config`.

    The log line of each stream goes to stderr, bare. An app of yours with the extension inside gets it through its own
    logging instead, from the logger `sluiceway.streams` at INFO.
    """
    app = Flask("sluiceway", static_folder=None)
    app.url_map.merge_slashes = False  # a redirect, in HTML, to what the client did not ask for
    app.config.from_mapping(config or {})
    Sluiceway(app, doors=tuple(DOORS))
    log_to_stderr()
    dress(app, "native")
    return app


def stream(request: Request, *, format: str = "native", provider: str | None = None) -> Response:
    """The answer to the current request, from a view of your own.

        @app.post("/ask")
        @login_required
        def ask():
            return sluiceway.stream(request)        # or format="openai_chat", "text_sse", ...: see `formats/`

    The body is read in that format; `provider` is where a bare model name belongs. Errors come as JSON with their
    status. What the view holds of the request's (a database session) is given back here, by the app's own
    `teardown_appcontext` functions: so commit before, and do not use it after.
    """
    if EXTENSION not in current_app.extensions:
        raise RuntimeError("Sluiceway(app) has not been called for this app")
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; {nearest(format, FORMATS)}")
    try:
        return serve(format, provider=provider)
    except SluicewayError as exc:
        return error_response(exc, format)
