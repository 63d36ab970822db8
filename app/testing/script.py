"""What happens on the connection after a request, as a sequence of steps: the provider without time and without a
socket.

A step is one thing to do: wait until a moment, send bytes, note how the answer ends, fall silent, hang up.
`server.py` acts them out; a script that runs out leaves the connection open for the next request.

The note of how an answer ends goes *before* the bytes that tell the client. So once a client has seen the end of an
answer the books hold it, and a test may read them without waiting.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal, assert_never

from .answers import Answer, compose_for, prefill_of
from .framing import LAST_CHUNK, Framer, head
from .wires import Call, Frame, Wire
from .wires.base import Json

Outcome = Literal["completed", "aborted", "faults"]
_HTML = b"<!doctype html><title>Sign in</title><h1>Sign in to the guest network</h1><p>Please accept the terms.</p>\n"


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Seconds after the request had been read; a moment already past is not waited for."""

    due_s: float


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing until the client leaves."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection: with FIN, or with RST."""

    reset: bool = False


Step = WaitUntil | Send | Ended | Stall | HangUp


def reply(
    status: int,
    body: Json | bytes,
    headers: dict[str, str] | None = None,
    *,
    content_type: str = "application/json",
    outcome: Outcome | None = None,
) -> Iterator[Step]:
    """A response with a length, whole; its outcome follows from its status unless told."""
    payload = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    yield Ended(outcome or ("completed" if status < 400 else "faults"))
    yield Send(head(status, content_type, headers or {}, len(payload)) + payload)


def refusal(wire: Wire, call_id: str, status: int, body: Json, headers: dict[str, str] | None = None) -> Iterator[Step]:
    """An error's response in the wire's own shape; its request id is the header's."""
    name, value = wire.request_id(call_id)
    if "request_id" in body:
        body = body | {"request_id": value}
    return reply(status, body, {name: value} | (headers or {}))


def perform(call: Call, wire: Wire) -> Iterator[Step]:
    """The steps that answer one well-formed, authenticated request."""
    behaviour = call.behaviour
    if behaviour.refuse:
        yield Ended("faults")
        yield HangUp()
        return
    yield WaitUntil(behaviour.headers_s)
    if behaviour.status is not None:
        headers = {}
        if behaviour.retry_after_s is not None:
            headers["Retry-After"] = str(behaviour.retry_after_s)
        if behaviour.retry_date_s is not None:
            headers["Retry-After"] = formatdate(call.created + behaviour.retry_date_s, usegmt=True)
        yield from refusal(wire, call.id, behaviour.status, wire.error(behaviour.status, _leak(call)), headers)
    elif behaviour.no_prefill and prefill_of(call.body):
        yield from refusal(wire, call.id, 400, wire.prefill_refused())
    elif behaviour.context:
        yield from refusal(wire, call.id, 400, wire.context_exceeded())
    elif behaviour.filtered:
        yield from refusal(wire, call.id, 400, wire.filtered())
    elif behaviour.html:
        yield from reply(200, _HTML, content_type="text/html; charset=utf-8", outcome="faults")
    elif call.body.get("stream"):
        yield from _stream(call, wire, compose_for(behaviour, call.body))
    else:
        yield from _whole(call, wire, compose_for(behaviour, call.body))


def _stream(call: Call, wire: Wire, answer: Answer) -> Iterator[Step]:
    behaviour = call.behaviour
    name, value = wire.request_id(call.id)
    yield Send(head(200, "text/event-stream; charset=utf-8", {"Cache-Control": "no-cache", name: value}))
    if behaviour.empty:
        yield Ended("faults")
        yield Send(LAST_CHUNK)
        return

    framer = Framer(behaviour, wire.unknown_frame())
    faults = behaviour.stream_faults()
    due_s = max(behaviour.headers_s, behaviour.first_token_s)
    tokens = 0
    paced_before = False
    for frame, is_last in _with_last_marked(wire.frames(call, answer)):
        yield WaitUntil(due_s)  # here for the first frame, and for every other a look whether the client is still there
        while faults and faults[0][0] == tokens:
            _, fault = faults.pop(0)
            if fault == "bad":
                yield from _sent(framer, wire.bad_frame())
                continue
            error = wire.error_frame(_leak(call)) if fault == "err" else None
            yield from _broken_off(framer, fault, error)
            return
        if frame.paced:
            if paced_before:
                due_s += behaviour.interval_s
                yield WaitUntil(due_s)
            paced_before = True
        tokens += frame.counted
        if is_last:
            yield Ended("completed")
        yield from _sent(framer, frame)
    yield from (Send(chunk) for chunk in framer.finish())
    yield Send(LAST_CHUNK)


def _with_last_marked(frames: Iterator[Frame]) -> Iterator[tuple[Frame, bool]]:
    frame = next(frames)  # every wire has an opening frame
    for following in frames:
        yield frame, False
        frame = following
    yield frame, True


def _broken_off(
    framer: Framer, fault: Literal["cut", "eof", "rst", "stall", "err"], error: Frame | None
) -> Iterator[Step]:
    if error is not None:
        yield Ended("faults")
        yield from _sent(framer, error)
    yield from (Send(chunk) for chunk in framer.finish())
    match fault:
        case "err":
            yield Send(LAST_CHUNK)
        case "eof":
            yield Ended("faults")
            yield Send(LAST_CHUNK)
        case "cut" | "rst":
            yield Ended("faults")
            yield HangUp(reset=fault == "rst")
        case "stall":
            yield Stall()
        case _:
            assert_never(fault)


def _whole(call: Call, wire: Wire, answer: Answer) -> Iterator[Step]:
    """Without streaming a fault strikes the body: cut, rst, stall in its middle; eof, bad halve it; err is a 500."""
    behaviour = call.behaviour
    generating_s = behaviour.first_token_s + behaviour.interval_s * max(answer.output_tokens - 1, 0)
    yield WaitUntil(max(behaviour.headers_s, generating_s))
    name, value = wire.request_id(call.id)
    payload = json.dumps(wire.whole(call, answer), ensure_ascii=False).encode()
    half = payload[: len(payload) // 2]
    faults = behaviour.stream_faults()
    fault = faults[0][1] if faults else None
    match fault:
        case "err":
            yield from refusal(wire, call.id, 500, wire.error(500, _leak(call)))
        case "cut" | "rst":
            yield Ended("faults")
            yield Send(head(200, "application/json", {name: value}, len(payload)) + half)
            yield HangUp(reset=fault == "rst")
        case "stall":
            yield Send(head(200, "application/json", {name: value}, len(payload)) + half)
            yield Stall()
        case "eof" | "bad":
            yield Ended("faults")
            yield Send(head(200, "application/json", {name: value}, len(half)) + half)
        case None if behaviour.empty:
            yield from reply(200, b"", {name: value}, outcome="faults")
        case None:
            yield from reply(200, payload, {name: value})
        case _:
            assert_never(fault)


def _sent(framer: Framer, frame: Frame) -> Iterator[Step]:
    yield from (Send(chunk) for chunk in framer.feed(frame))


def _leak(call: Call) -> str:
    """With `leak`, what a careless upstream writes into its errors; "" otherwise, which is the wire's usual message."""
    if not call.behaviour.leak:
        return ""
    return f"upstream http://10.0.0.7:8000/internal/v1/generate refused key {call.key}"
