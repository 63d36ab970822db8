"""Which script a request gets: the doors, the key at the door, and the form of the body. Pure; `server.py` calls it."""

from collections.abc import Iterator

from .answers import prefill_of
from .behaviour import UnknownPart, parse
from .connection import Request
from .script import Step, perform, refusal, reply
from .wires import WIRES, Call
from .wires.base import Json

_OPENAI = WIRES["/v1/chat/completions"]
_ANTHROPIC = WIRES["/v1/messages"]


def respond(request: Request, *, api_key: str | None, call_id: str, turn: int, created: int) -> Iterator[Step]:
    """The steps that answer `request`, the turn-th (from 0) for its model.

    Without `api_key` any key will do, but there must be one: a client that sends none has a bug.
    """
    path = request.path.partition("?")[0]
    by_anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers
    wire = WIRES.get(path, _ANTHROPIC if by_anthropic and path == "/v1/models" else _OPENAI)
    method = {"/v1/models": "GET"}.get(path, "POST")
    if path not in WIRES and path != "/v1/models":
        return refusal(wire, call_id, 404, _OPENAI.error(404, f"Invalid URL ({request.method} {request.path})"))
    if request.method != method:
        message = f"Not allowed to {request.method} on {path}; use {method}."
        return refusal(wire, call_id, 405, wire.error(405, message), {"Allow": method})
    if not request.key or (api_key is not None and request.key != api_key):
        bearer = "authorization" in request.headers
        return refusal(wire, call_id, 401, wire.wrong_key(request.key, bearer=bearer))
    if path == "/v1/models":
        return reply(200, _models(anthropic=wire is _ANTHROPIC))

    body = request.body
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return refusal(wire, call_id, 400, wire.error(400, "The body must be a JSON object that names a model."))
    wrong = wire.wrong_body(request.headers, body) or _wrong_tools(body)
    if wrong:
        return refusal(wire, call_id, 400, wire.error(400, wrong))
    try:
        behaviour = parse(body["model"])
    except UnknownPart as exc:
        return refusal(wire, call_id, 400, wire.error(400, str(exc)))
    wrong = "" if behaviour.no_prefill else wire.wrong_prefill(prefill_of(body))
    if wrong:
        return refusal(wire, call_id, 400, wire.error(400, wrong))
    return perform(Call(behaviour.on_turn(turn), body, call_id, created, request.key), wire)


def _wrong_tools(body: Json) -> str:
    tools = body.get("tools")
    if tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        return ""
    return "tools: should be an array of objects"


def _models(*, anthropic: bool) -> Json:
    """One name stands for all: any name of the grammar is served."""
    if anthropic:
        model = {"type": "model", "id": "fake", "display_name": "Fake", "created_at": "2025-10-09T00:00:00Z"}
        return {"data": [model], "has_more": False, "first_id": "fake", "last_id": "fake"}
    listed = {"id": "fake", "object": "model", "created": 1760000000, "owned_by": "sluiceway"}
    return {"object": "list", "data": [listed]}
