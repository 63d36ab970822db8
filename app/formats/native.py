"""The native event stream: every event as one JSON object with a `type`, numbered from 1.

As SSE each frame has its number as `id:`, errors are named `event: error`, and `data: [DONE]` says that nothing will
follow (after an error too: the terminal event before it tells which). As NDJSON the number stands in the object as
`event_id`, and the terminal object is the last line. An error that is no event of the stream has no number, so that a
client goes on behind the last one that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from ..errors import InvalidRequest, SluicewayError
from ..events import (
    TERMINAL,
    Event,
    Failed,
    Finished,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    ToolCallEnded,
    Usage,
)
from ..request import ChatRequest
from .base import (
    DONE,
    Body,
    Encoder,
    HeaderLookup,
    WholeAnswer,
    compact_json,
    data_frame,
    error_object,
    json_bytes,
    validated,
)
from .simple import ChatMessage, MaxTokens, Text, spoken


class NativeBody(Body):
    """The public request fields. What this version can't do yet is refused by name in `parse`."""

    model: Text | None = None
    messages: Annotated[list[ChatMessage], pydantic.Field(min_length=1)] | None = None
    prompt: Text | None = None
    message: Text | None = None
    system: str | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], pydantic.Field(max_length=16)] | None = None
    stream: bool = True
    format: Literal["sse", "ndjson"] = "sse"
    shape: str = "token"
    resumable: bool = False

    @pydantic.model_validator(mode="after")
    def _only_what_there_is(self) -> NativeBody:
        if self.shape != "token":
            raise InvalidRequest("shape: not in this version; leave it out", param="shape")
        if self.resumable and not self.stream:
            raise InvalidRequest("resumable: only a stream can be resumed; leave out stream: false", param="resumable")
        return self


class NativeSSE:
    """Also the shape that errors wear on every route without a protocol of its own."""

    name: ClassVar[str] = "native"
    mimetype: ClassVar[str] = "text/event-stream"
    tells_recovery: ClassVar[bool] = True

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        asked = validated(NativeBody, body)
        system, messages = spoken(asked, asked.system or None, "messages", "prompt", "message")
        return ChatRequest(
            dialect="native",
            messages=messages,
            system=system,
            model=asked.model,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
            stream=asked.stream,
            resumable=asked.resumable,
        )

    def encoder(self, request: ChatRequest) -> Encoder:
        return self.resumed({})

    def seed(self, request: ChatRequest) -> Mapping[str, Any]:
        return {}

    def resumed(self, seed: Mapping[str, Any]) -> Encoder:
        return NativeSSEEncoder()

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        start, finish = answer.known()
        return {
            "id": start.id,
            "model": start.model,
            "provider": start.provider,
            "created": start.created,
            "text": answer.text,
            "reasoning": answer.reasoning,
            "tool_calls": [plain(call) for call in answer.calls],
            "finish": plain(finish),
        }

    def error(self, error: SluicewayError) -> Any:
        return {"error": error_object(error)}


class NDJSON(NativeSSE):
    """The same events, one JSON object a line."""

    name: ClassVar[str] = "ndjson"
    mimetype: ClassVar[str] = "application/x-ndjson"

    def resumed(self, seed: Mapping[str, Any]) -> Encoder:
        return NDJSONEncoder()


def plain(event: Event) -> Any:
    """An event as its object on the wire, in the published fields and no others; None for what is not said there."""
    match event:
        case Started(id=id, model=model, provider=provider, created=created):
            return {"type": "start", "id": id, "model": model, "provider": provider, "created": created}
        case ToolCallEnded(call_id=call_id, name=name, arguments=text):
            arguments = compact_json(text) or text  # a model can write invalid JSON; the client gets to see it
            return {"type": "tool_call", "call_id": call_id, "name": name, "arguments": arguments}
        case Finished(reason=reason, usage=usage, timings=timings):
            return {"type": "finish", "reason": reason, "usage": usage and _counted(usage), "timings": timings}
        case Usage():
            return {"type": "usage", **_counted(event)}
        case ReasoningEnded() | Source():
            return None  # they have no name among the published events
        case Recovered(from_=from_, to=to, kept_chars=kept, exact=exact):
            return None if exact else {"type": "recovered", "from": from_, "to": to, "kept_chars": kept}
        case Failed(error=error):
            return {"type": "error", **error_object(error)}
        case _:
            return event  # its fields are the published ones


def _counted(usage: Usage) -> dict[str, Any]:
    return {name: getattr(usage, name) for name in ("input_tokens", "output_tokens", "source")}


class NativeSSEEncoder(Encoder):
    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if (value := plain(event)) is None:
                continue
            if not _is_beside(event):
                self.number += 1
                out.append(b"id: %d\n" % self.number)
            if isinstance(event, Failed):
                out.append(b"event: error\n")
            out.append(data_frame(value))
            if isinstance(event, TERMINAL):
                out.append(DONE)
        return b"".join(out)


class NDJSONEncoder(Encoder):
    HEARTBEAT = b"\n"  # readers of JSON lines pass over an empty one

    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if (value := plain(event)) is None:
                continue
            line = json_bytes(value) + b"\n"
            if not _is_beside(event):
                self.number += 1
                # In front: `{"event_id":1,` and the rest of the object.
                line = b'{"event_id":%d,' % self.number + line[1:]
            out.append(line)
        return b"".join(out)


def _is_beside(event: Event) -> bool:
    return isinstance(event, Failed) and event.beside
