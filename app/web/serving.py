"""What every door does with a request: who asks, what body, which target, which shape an error takes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard
from urllib.parse import unquote_to_bytes

import pydantic_core
from flask import Blueprint, Flask, Request, Response, current_app, g, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.exceptions import NotFound as WerkzeugNotFound

from ..errors import (
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    SluicewayError,
    Unauthorized,
    UnsupportedMediaType,
)
from ..flow import Claim, answer, resumable
from ..formats import FORMATS, Format
from ..formats.base import Resumable, json_bytes
from ..house import House
from ..journals import Journals
from ..registry import nearest
from ..response import Streamed, Upgraded, whole
from .cors import is_preflight, preflight, share, welcome

log = logging.getLogger("sluiceway")

EXTENSION = "sluiceway"
STREAM_VIEW = "sluiceway_streams.follow"  # the endpoint of `/v1/streams/<id>`
_MAY_OVERFLOW = re.compile(rb"[0-9.][eE]|[0-9]{300}")  # no number without one of these is too large for a float
_GOOD_KEY = re.compile(r"[!-~]{1,255}")
_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def house() -> House:
    """What the current app's `Sluiceway` extension built."""
    found: House = current_app.extensions[EXTENSION].house
    return found


def journals() -> Journals:
    """The resumable streams of the same."""
    found: Journals = current_app.extensions[EXTENSION].journals
    return found


def request_id() -> str:
    """This request's id: the client's `X-Request-ID` where it is a sane one, otherwise ours."""
    if "sluiceway_request_id" not in g:
        given = request.headers.get("X-Request-ID", "")
        g.sluiceway_request_id = given if _GOOD_ID.fullmatch(given) else os.urandom(16).hex()
    known: str = g.sluiceway_request_id
    return known


def serve(
    format_name: str,
    *,
    provider: str | None = None,
    at: str | None = None,
    body: Mapping[str, Any] | None = None,
) -> Response:
    """Answer the current request in a format. `provider` is the route's own, for bare model names; `at` is one that the
    route names itself. `body` stands for the request's where that has none (GET)."""
    here = house()
    owner = authorize(here, request)
    if body is None:
        body = json_body(here, request)
    if format_name == "native" and body.get("format") == "ndjson":
        format_name = "ndjson"  # the one format that a body chooses itself
    form = FORMATS[format_name]()
    asked = form.parse(body, request.headers)
    if at is not None:
        target = here.targets.find_at(at, asked.model)
    else:
        target = here.targets.find(asked.model, provider=provider)
    named = request_id()
    # What the view has used is given back before the model is waited for: a database connection held for a whole answer
    # is one of a few. Flask does the same between the view and a stream.
    current_app.do_teardown_appcontext()
    key = idempotency_key(request) if asked.stream and can_resume(form) and body.get("resumable") is not False else None
    if (asked.resumable or key is not None) and can_resume(form):
        claim = Claim(owner, key, hashlib.sha256(format_name.encode() + json_bytes(body)).hexdigest())
        after = last_event_id(request)
        record, response = resumable(
            here, journals(), form, asked, target, claim, after=after, request_id=named, environ=request.environ
        )
        if STREAM_VIEW in current_app.view_functions:
            response.headers["Location"] = url_for(STREAM_VIEW, stream=record.id)
    else:
        response = answer(here, form, asked, target, request_id=named, environ=request.environ)
    return handed_out(response)


def handed_out(response: Response) -> Response:
    """A response of the core's, on its way to the server."""
    if isinstance(response, Streamed | Upgraded):
        g.sluiceway_streams = [*g.get("sluiceway_streams", ()), response]
    response.headers["X-Request-ID"] = request_id()
    return response


def nothing() -> Response:
    """204."""
    response = Response(status=204, headers={"Cache-Control": "no-store"})
    del response.headers["Content-Type"]
    return response


def can_resume(form: Format) -> TypeGuard[Resumable]:
    return hasattr(form, "resumed")


def idempotency_key(request: Request) -> str | None:
    """The client's `Idempotency-Key`, in visible ASCII."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _GOOD_KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key: should be 1 to 255 visible ASCII characters")
    return key


def last_event_id(request: Request, given: str | None = None) -> int:
    """The number of the last event that the client has: its `Last-Event-ID`, which an EventSource sends when it comes
    back, or what the URL says (`given`); 0 for none."""
    text = request.headers.get("Last-Event-ID") or given or "0"
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise InvalidRequest("Last-Event-ID (or after): should be the number of an event", param="after")
    return int(text)


def close_dropped(exc: BaseException | None = None) -> None:
    """At the end of a request that failed: close the streams that were begun in it and not handed over. Where an
    `after_request` function raises, Flask drops a response without closing it, and the traceback keeps it."""
    for response in g.pop("sluiceway_streams", ()):
        if exc is not None and not response.handed:
            response.close()


def authorize(here: House, request: Request, key: str = "") -> str:
    """Who asks: the SHA-256 of the key, in hex; "" where none is set. Raises `Unauthorized` unless a known key is given
    as `Authorization: Bearer` or `x-api-key`, or as `key`, for who can't send either."""
    accepted = here.settings.server.api_keys_sha256
    if not accepted:
        return ""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "") or key
    if not given:
        raise Unauthorized("an API key is required: send Authorization: Bearer KEY or x-api-key: KEY")
    digest = hashlib.sha256(given.encode()).hexdigest()
    if not any(hmac.compare_digest(digest, known.lower()) for known in accepted):
        raise Unauthorized("this API key is not accepted")
    return digest


def json_body(here: House, request: Request) -> Mapping[str, Any]:
    """The request's JSON object. The media type is not insisted on (`curl -d` says form), with one exception: a page of
    another site may post a form without asking the browser's permission, so that is refused."""
    if from_another_site(request) and not request.is_json:
        raise UnsupportedMediaType("send Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body uncompressed: Content-Encoding is not supported on requests")
    raw = _read(request, here.settings.server.max_body_bytes)
    if not raw:
        raise InvalidRequest("the body is empty; send a JSON object")
    return json_object(raw, "the body")


def json_object(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object that `what`, in the words of an error, is."""
    try:
        body = pydantic_core.from_json(raw, allow_inf_nan=False)  # at most 200 levels deep
    except ValueError as exc:
        raise InvalidRequest(f"{what} is not valid JSON: {exc}") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"{what} must be a JSON object, not {_json_name(body)}")
    # `1e999` is read as an infinity, which no JSON can pass on.
    if _MAY_OVERFLOW.search(raw) and (field := _infinite(body)) is not None:
        raise InvalidRequest(f"{field}: the number is out of range", param=field)
    return body


def _infinite(value: object, at: str = "") -> str | None:
    """Where in a body an infinity stands, as `messages[0].n`."""
    if isinstance(value, float) and math.isinf(value):
        return at
    parts: Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        parts = ((f"{at}.{name}" if at else name, part) for name, part in value.items())
    elif isinstance(value, list):
        parts = ((f"{at}[{index}]", part) for index, part in enumerate(value))
    return next((found for where, part in parts if (found := _infinite(part, where)) is not None), None)


def from_another_site(request: Request) -> bool:
    """Whether a browser says that a page of another site asks, which is of none of `server.cors_origins`."""
    if request.headers.get("Sec-Fetch-Site") != "cross-site":
        return False
    return not welcome(request, house().settings.server.cors_origins)


def _read(request: Request, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes; one that is larger is refused without reading the rest."""
    announced = request.content_length  # None for a chunked body
    too_large = PayloadTooLarge(f"the body is larger than {limit} bytes (server.max_body_bytes)")
    if announced is not None and announced > limit:
        raise too_large
    # A chunked body is cut off there in silence (werkzeug's `readall` leaves out the check), so one byte more tells.
    request.max_content_length = limit + 1
    try:
        raw = request.get_data(cache=False)
    except Exception as exc:  # the server's own, for a body whose framing is broken; it has no common class
        raise InvalidRequest("the body can't be read: it ended early or its chunks are malformed") from exc
    if len(raw) > limit:
        raise too_large
    if announced is not None and len(raw) < announced:
        raise InvalidRequest(f"the body ended early: {len(raw)} of {announced} bytes came")
    return raw


def _json_name(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def query_body(request: Request, fields: tuple[str, ...]) -> dict[str, Any]:
    """The query string as a body, for GET. Raises `InvalidRequest` for an unknown parameter, or a doubled one.

    An image or an EventSource on any page can GET from here without asking the browser's permission, and an answer
    costs, read or not: so a page of another site is refused.
    """
    if from_another_site(request):
        raise InvalidRequest(
            "a page of another site can't ask here by GET; use POST with Content-Type: application/json"
        )
    try:
        unquote_to_bytes(request.query_string).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not UTF-8") from None
    for name, values in request.args.lists():
        if name not in fields:
            raise InvalidRequest(f"unknown parameter {name!r}; {nearest(name, fields)}", param=name)
        if len(values) > 1:
            raise InvalidRequest(f"{name} is given more than once", param=name)
    return dict(request.args)


def error_response(error: SluicewayError, format_name: str) -> Response:
    """`error` before the first byte, in the format's shape."""
    error.request_id = request_id()
    value = FORMATS[format_name]().error(error)
    return whole(value, error.http_status, {**error.headers, "X-Request-ID": error.request_id})


def dress(owner: Blueprint | Flask, format_name: str) -> None:
    """Make every failure of `owner`'s views JSON in the format's shape, and every answer carry `X-Request-ID`, and tell
    who may read it (`server.cors_origins`)."""

    def failed(exc: Exception) -> Response:
        return error_response(_ours(exc), format_for(request.path) if isinstance(owner, Flask) else format_name)

    def stamped(response: Response) -> Response:
        if "X-Request-ID" not in response.headers:
            response.headers["X-Request-ID"] = request_id()
        share(response, request, house().settings.server.cors_origins)
        return response

    def asked_before() -> Response | None:
        origins = house().settings.server.cors_origins
        return preflight(request) if origins and is_preflight(request) else None

    owner.before_request(asked_before)
    owner.register_error_handler(Exception, failed)
    owner.after_request(stamped)


def format_for(path: str) -> str:
    """Whose shape an error wears where no door was reached (unknown route, wrong method): told by the path."""
    path = path.replace("//", "/")
    if path.startswith("/v1/messages"):
        return "anthropic_messages"
    if path.startswith("/v1/responses"):
        return "openai_responses"
    return "openai_chat" if path.startswith("/v1/") and not path.startswith("/v1/streams") else "native"


def _ours(exc: Exception) -> SluicewayError:
    match exc:
        case SluicewayError():
            return exc
        case WerkzeugMethodNotAllowed():
            allow = sorted(exc.valid_methods or ())
            use = " or ".join(method for method in allow if method not in ("HEAD", "OPTIONS"))
            return MethodNotAllowed(f"{request.method} is not answered here; use {use}", allow=allow)
        case WerkzeugNotFound():
            return NotFound(f"no such route: {request.path}; {nearest(request.path, _routes())}")
        case RequestEntityTooLarge():
            return PayloadTooLarge("the body is too large")
        case HTTPException() if exc.code is not None and exc.code < 500:
            return InvalidRequest(exc.description or exc.name)
        case _:
            log.error("%s a request failed by a defect of ours", request_id(), exc_info=exc)
            return Internal("the service failed; try again, and name the request id if it stays so")


def _routes() -> list[str]:
    # Files are no routes to be proposed; a blueprint's endpoint for its own is "door.static".
    rules = [rule.rule for rule in current_app.url_map.iter_rules() if not rule.endpoint.endswith("static")]
    return sorted({re.sub(r"<\w+:", "<", rule) for rule in rules})
