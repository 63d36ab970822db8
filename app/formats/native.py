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

from ..errors import InvalidRequest, SchemaViolated, SluicewayError
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
    ToolOutput,
    Usage,
)
from ..request import ChatRequest, Message, Reasoning, ToolCall, ToolResult
from ..request import Text as Spoken
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
from .conversation import Conversation
from .public import read_choice, read_schema, read_shape, read_tools
from .simple import MaxTokens, Text, only_one


class NativeCall(Body):
    """As in the `tool_call` event."""

    type: Literal["tool_call"] = "tool_call"
    call_id: Text
    name: Text
    arguments: Any = None


class NativeMessage(Body):
    """`call_id`, and `result` or `error`, are a tool's: as in the `tool_result` event."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[NativeCall] | None = None
    call_id: Text | None = None
    name: str | None = None
    result: Any = None
    error: str | None = None


class NativeBody(Body):
    """The public request fields."""

    model: Text | None = None
    messages: Annotated[list[NativeMessage], pydantic.Field(min_length=1)] | None = None
    prompt: Text | None = None
    message: Text | None = None
    system: str | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], pydantic.Field(max_length=16)] | None = None
    stream: bool = True
    format: Literal["sse", "ndjson"] = "sse"
    shape: Any = None
    resumable: bool = False
    tools: Any = None
    tool_choice: Any = None
    response_format: Any = None
    metadata: dict[str, Any] | None = None  # the client's own; it goes nowhere

    @pydantic.model_validator(mode="after")
    def _only_what_there_is(self) -> NativeBody:
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
        own, served = read_tools(asked.tools)
        schema = read_schema(asked.response_format)
        only_one(asked, "messages", "prompt", "message")
        system = asked.system or None
        messages: tuple[Message, ...] = (Message.of("user", asked.prompt or asked.message or ""),)
        if asked.messages is not None:
            system, messages = _conversation(asked.messages, system)
        return ChatRequest(
            dialect="native",
            messages=messages,
            system=system,
            model=asked.model,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
            tools=own,
            served=served,
            tool_choice=read_choice(asked.tool_choice),
            schema=schema,
            partials=schema is not None,
            shape=read_shape(asked.shape),
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
            **({"tool_results": [plain(output) for output in answer.outputs]} if answer.outputs else {}),
            **({"object": answer.object} if request.partials else {}),
            "finish": plain(finish),
        }

    def error(self, error: SluicewayError) -> Any:
        kept = {"text": error.text} if isinstance(error, SchemaViolated) else {}
        return {"error": error_object(error), **kept}


class NDJSON(NativeSSE):
    """The same events, one JSON object a line."""

    name: ClassVar[str] = "ndjson"
    mimetype: ClassVar[str] = "application/x-ndjson"

    def resumed(self, seed: Mapping[str, Any]) -> Encoder:
        return NDJSONEncoder()


def _conversation(given: list[NativeMessage], system: str | None) -> tuple[str | None, tuple[Message, ...]]:
    """(system text, the rest)."""
    said = Conversation()
    for at, message in enumerate(given):
        where = f"messages[{at}]"
        content = message.content
        if message.role != "assistant" and message.tool_calls is not None:
            raise InvalidRequest(
                f"{where}.tool_calls: only an assistant's message has them", param=f"{where}.tool_calls"
            )
        if message.role != "tool" and {"call_id", "name", "result", "error"} & message.model_fields_set:
            raise InvalidRequest(f"{where}: call_id, name, result and error are a tool's", param=where)
        if content is None and message.role not in ("tool", "assistant"):
            raise InvalidRequest(f"{where}.content is required", param=f"{where}.content")
        match message.role:
            case "system":
                said.system(content or "", where)
            case "user":
                said.user([Spoken(content or "")])
            case "assistant":
                if content is None and not message.tool_calls:
                    raise InvalidRequest(f"{where}.content is required", param=f"{where}.content")
                parts: list[Spoken | Reasoning | ToolCall] = (
                    [] if not content and message.tool_calls else [Spoken(content or "")]
                )
                parts += [_call(call) for call in message.tool_calls or ()]
                said.assistant(parts, where)
            case "tool":
                said.result(_result(message, where), where)
    if said.systems and system is not None:
        raise InvalidRequest("give the system prompt as system or as a message, not both", param="system")
    return system or "\n\n".join(said.systems) or None, said.finish()


def _call(call: NativeCall) -> ToolCall:
    text = call.arguments if isinstance(call.arguments, str) else json_bytes(call.arguments or {}).decode()
    return ToolCall(call.call_id, call.name, text)


def _result(message: NativeMessage, where: str) -> ToolResult:
    if message.call_id is None:
        raise InvalidRequest(f"{where}.call_id is required", param=f"{where}.call_id")
    given = {"content", "result", "error"} & message.model_fields_set
    if len(given) != 1:
        raise InvalidRequest(f"{where}: give one of result, error or content", param=f"{where}.result")
    if message.error is not None:
        return ToolResult(message.call_id, (Spoken(message.error),), failed=True)
    said = message.result if "result" in given else message.content
    return ToolResult(message.call_id, (Spoken(said if isinstance(said, str) else json_bytes(said).decode()),))


def plain(event: Event) -> Any:
    """An event as its object on the wire, in the published fields and no others; None for what is not said there."""
    match event:
        case Started(id=id, model=model, provider=provider, created=created):
            return {"type": "start", "id": id, "model": model, "provider": provider, "created": created}
        case ToolCallEnded(call_id=call_id, name=name, arguments=text):
            arguments = compact_json(text) or text  # a model can write invalid JSON; the client gets to see it
            return {"type": "tool_call", "call_id": call_id, "name": name, "arguments": arguments}
        case ToolOutput(call_id=call_id, name=name, result=result, error=error):
            told = {"error": error} if error else {"result": compact_json(result) or result}
            return {"type": "tool_result", "call_id": call_id, "name": name, **told}
        case Finished(reason=reason, usage=usage, timings=timings):
            return {"type": "finish", "reason": reason, "usage": usage and _counted(usage), "timings": timings}
        case Usage():
            return {"type": "usage", **_counted(event)}
        case ReasoningEnded() | Source():
            return None  # they have no name among the published events
        case Recovered(from_=from_, to=to, kept_chars=kept, exact=exact):
            return None if exact else {"type": "recovered", "from": from_, "to": to, "kept_chars": kept}
        case Failed(error=failure):
            return {"type": "error", **error_object(failure)}
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
