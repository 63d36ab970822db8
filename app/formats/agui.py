"""AG-UI, the protocol of agents and their front ends: a `RunAgentInput` read, the events of a run written.

Its client insists on an order (WIRE 6): `RUN_STARTED` first, content only in what is open, nothing open at
`RUN_FINISHED`, nothing behind it or `RUN_ERROR`. A null where a field may be left out is refused.

An answer is one message of the assistant's, under the answer's id, with its text and its calls: clients fold what comes
later under the same id into it. Behind the outputs of our own tools, which are messages, another begins. Older clients
allow no call while a text is open, so each closes the other; the text is opened again behind a call, where there is
more of it. A thought is a message of its own. Where the provider has signed it, the signature is its `encryptedValue`,
comes back with it, and is given to the provider again; a thought without one is for the eye only, and not sent back.

`state` is the agent's own and ignored: there is none here. `context` is told to the model behind the system text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, assert_never

import pydantic

from ..errors import InvalidRequest
from ..events import (
    Event,
    Failed,
    Finished,
    ObjectPartial,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolOutput,
    Usage,
)
from ..request import ChatRequest, Image, Reasoning, Text, ToolCall, ToolResult
from .base import Encoder, HeaderLookup, compact_json, data_frame, json_bytes, validated
from .chat_ui import ChatUI, LenientBody, Name, Names, PublicFields, picture, picture_of
from .conversation import Conversation
from .public import read_tools

REDACTED = "redacted:"  # before an `encryptedValue` that is no signature, but a thought only the provider can read


class PartSource(LenientBody):
    type: str
    value: str | None = None
    mimeType: str | None = None


class AGUIPart(LenientBody):
    """`binary` is what images were before version 1: with `mimeType`, and `url` or `data`."""

    type: str
    text: str | None = None
    source: PartSource | None = None
    mimeType: str | None = None
    url: str | None = None
    data: str | None = None


class Function(LenientBody):
    name: Name
    arguments: str


class AGUICall(LenientBody):
    id: Name
    function: Function


class AGUIMessage(LenientBody):
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant", "tool", "reasoning", "activity"]
    content: Any = None  # of an activity, an object
    toolCalls: list[AGUICall] | None = None
    toolCallId: Name | None = None
    error: str | None = None
    encryptedValue: str | None = None


class Context(LenientBody):
    description: str
    value: str


class RunAgentInput(LenientBody):
    threadId: str
    runId: str
    messages: Annotated[list[AGUIMessage], pydantic.Field(min_length=1)]
    tools: list[Any] | None = None
    context: list[Context] | None = None
    forwardedProps: PublicFields | None = None
    resume: list[Any] | None = None


class AGUIContent(LenientBody):
    content: str | list[AGUIPart]


class AGUI(ChatUI):
    name: ClassVar[str] = "agui"

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        """Our public fields (`model`, `max_tokens`, ...) stand in `forwardedProps`, the names of our tools too."""
        asked = validated(RunAgentInput, body)
        if asked.resume:
            raise InvalidRequest("resume: no run is ever interrupted here; leave it out", param="resume")
        more = asked.forwardedProps or PublicFields()
        if more.resumable:
            raise InvalidRequest("forwardedProps.resumable: not on this route", param="forwardedProps.resumable")
        own, served = read_tools(asked.tools)
        more_own, more_served = read_tools(more.tools, "forwardedProps.tools")
        said = Conversation()
        if more.system:
            said.systems.append(more.system)
        thoughts: list[Reasoning] = []
        answered = {message.toolCallId for message in asked.messages if message.role == "tool"}
        for at, message in enumerate(asked.messages):
            _take(message, f"messages[{at}]", said, thoughts, answered)
        systems = said.systems + [f"{each.description}:\n{each.value}" for each in asked.context or ()]
        return ChatRequest(
            dialect="native",
            body=body,
            messages=said.finish(),
            system="\n\n".join(systems) or None,
            tools=own + more_own,
            served=tuple(dict.fromkeys(served + more_served)),
            **more.words("forwardedProps."),
        )

    def encoder(self, request: ChatRequest) -> Encoder:
        return AGUIEncoder(request.body)


def _take(
    message: AGUIMessage, where: str, said: Conversation, thoughts: list[Reasoning], answered: set[str | None]
) -> None:
    """`thoughts` are those before the message that they belong to, `answered` the calls that have a result."""
    match message.role:
        case "activity":
            pass
        case "reasoning":
            if (sealed := message.encryptedValue) and isinstance(message.content or "", str):
                redacted = sealed.startswith(REDACTED)
                thoughts.append(
                    Reasoning(redacted=sealed.removeprefix(REDACTED))
                    if redacted
                    else Reasoning(message.content or "", signature=sealed)
                )
        case "system" | "developer":
            said.system("".join(part.text for part in _texts(message, where)), where)
        case "user":
            thoughts.clear()
            said.user(_content(message, where))
        case "assistant":
            spoken: list[Text | Reasoning | ToolCall] = [*thoughts]
            thoughts.clear()
            if message.content not in (None, ""):
                spoken += _texts(message, where)
            for call in message.toolCalls or ():
                asked = ToolCall(call.id, call.function.name, call.function.arguments)
                if asked.call_id in answered or compact_json(asked.arguments) is not None:
                    spoken.append(asked)  # otherwise the answer broke off in it: it never was a call
            said.assistant(spoken, where)
        case "tool":
            if message.toolCallId is None:
                raise InvalidRequest(f"{where}.toolCallId is required", param=f"{where}.toolCallId")
            parts: tuple[Text | Image, ...] = tuple(_content(message, where))
            if message.error is not None and parts in ((), (Text(""),)):
                parts = (Text(message.error),)
            said.result(ToolResult(message.toolCallId, parts, failed=message.error is not None), where)


def _content(message: AGUIMessage, where: str) -> list[Text | Image]:
    if message.content is None and message.role == "tool" and message.error is not None:
        return []
    try:
        content = validated(AGUIContent, {"content": message.content}).content
    except InvalidRequest as exc:
        raise InvalidRequest(f"{where}.{exc.message}", param=f"{where}.{exc.param}") from None
    if isinstance(content, str):
        return [Text(content)]
    if not content:
        raise InvalidRequest(f"{where}.content: should not be empty", param=f"{where}.content")
    return [_part(part, f"{where}.content[{at}]") for at, part in enumerate(content)]


def _texts(message: AGUIMessage, where: str) -> list[Text]:
    parts = _content(message, where)
    for at, part in enumerate(parts):
        if not isinstance(part, Text):
            here = f"{where}.content[{at}]"
            raise InvalidRequest(f"{here}: an image can't stand in a message of the role {message.role}", param=here)
    return [part for part in parts if isinstance(part, Text)]


def _part(part: AGUIPart, where: str) -> Text | Image:
    if part.type == "text" and part.text is not None:
        return Text(part.text)
    if part.type == "binary":
        if part.data is not None:
            return picture_of(part.data, part.mimeType or "", where)
        if part.url is not None:
            return picture(part.url, part.mimeType, where)
        raise InvalidRequest(f"{where}: should have a url, or data", param=where)
    if part.type == "image" and (source := part.source) is not None and source.value is not None:
        if source.type == "data":
            return picture_of(source.value, source.mimeType or "", f"{where}.source")
        if source.type == "url":
            return picture(source.value, source.mimeType, f"{where}.source")
        raise InvalidRequest(f"{where}.source: of type {source.type!r} can't be sent", param=f"{where}.source")
    if part.type in ("text", "image"):
        lacks = "text" if part.type == "text" else "source.value"
        raise InvalidRequest(f"{where}.{lacks} is required", param=f"{where}.{lacks}")
    raise InvalidRequest(f"{where}: a part of type {part.type!r} can't be sent; only text and images can", param=where)


class AGUIEncoder(Encoder):
    """The bytes around a text delta are the same in a whole answer, those around a thought's in one thought."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        """`body` is the request's, which `parse` has read."""
        messages = body["messages"]
        self._run = {name: body[name] for name in ("threadId", "runId")}
        self._messages = Names({message.get("id") for message in messages})
        self._calls = Names({call["id"] for message in messages for call in message.get("toolCalls") or ()})
        self._id = ""  # the message's; "" before the run has been told
        self._head: dict[str, Any] = {}
        self._answer = ""
        self._steps = 1  # of the model's, each a message
        self._stepped = False
        self._thought = ""  # the open one's id
        self._thoughts = 0
        self._text_open = False
        self._before_text = b""
        self._before_thought = b""

    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case TextDelta(text=text):
                    if not self._text_open:
                        self._close(out)
                        self._step()
                        self._text_open = True
                        out.append(_event("TEXT_MESSAGE_START", messageId=self._id, role="assistant"))
                    out.append(self._before_text + json_bytes(text) + b"}\n\n")
                case ReasoningDelta(text=text):
                    if not self._thought:
                        self._think(out)
                    out.append(self._before_thought + json_bytes(text) + b"}\n\n")
                case ReasoningEnded(signature=signature, redacted=redacted):
                    if not self._thought:
                        self._think(out)
                    self._close(out, sealed=REDACTED + redacted if redacted else signature)
                case Source():
                    pass  # it has no name in this protocol
                case Started():
                    self._begin(event, out)
                case ToolCallStarted(call_id=call_id, name=name):
                    self._close(out)
                    self._step()
                    named = {"toolCallId": self._calls[call_id], "toolCallName": name, "parentMessageId": self._id}
                    out.append(_event("TOOL_CALL_START", **named))
                case ToolCallDelta(call_id=call_id, arguments=fragment):
                    out.append(_event("TOOL_CALL_ARGS", toolCallId=self._calls[call_id], delta=fragment))
                case ToolCallEnded(call_id=call_id):
                    out.append(_event("TOOL_CALL_END", toolCallId=self._calls[call_id]))
                case ToolOutput():
                    self._output(event, out)
                case ObjectPartial(partial=partial):
                    out.append(_event("CUSTOM", name="object", value=partial))
                case Recovered(model=model):
                    self._head["model"] = model
                case Usage():
                    pass  # it stands in RUN_FINISHED
                case Finished():
                    self._finish(event, out)
                case Failed(error=error):
                    if not self._id:
                        out.append(_event("RUN_STARTED", **self._run))
                    self._close(out)  # and no open call: its end would say that its arguments are whole
                    out.append(_event("RUN_ERROR", message=error.message, code=error.code))
                case _:
                    assert_never(event)
        return b"".join(out)

    def _begin(self, start: Started, out: list[bytes]) -> None:
        self._id = self._answer = self._messages[start.id]
        self._head = {"provider": start.provider, "model": start.model}
        self._before_text = _before_delta("TEXT_MESSAGE_CONTENT", self._id)
        out.append(_event("RUN_STARTED", **self._run))

    def _output(self, event: ToolOutput, out: list[bytes]) -> None:
        """A message of its own; what the model says behind it is in another."""
        call_id = self._calls[event.call_id]
        self._stepped = True
        content = f"Error: {event.error}" if event.error else event.result
        named = {"messageId": f"{call_id}-result", "toolCallId": call_id, "role": "tool"}
        out.append(_event("TOOL_CALL_RESULT", **named, content=content))

    def _step(self) -> None:
        """Behind the outputs of our own tools."""
        if self._stepped:
            self._stepped = False
            self._steps += 1
            self._id = f"{self._answer}-{self._steps}"
            self._before_text = _before_delta("TEXT_MESSAGE_CONTENT", self._id)

    def _think(self, out: list[bytes]) -> None:
        self._close(out)
        self._step()
        self._thoughts += 1
        self._thought = named = f"{self._id}-reasoning-{self._thoughts}"
        self._before_thought = _before_delta("REASONING_MESSAGE_CONTENT", named)
        out.append(_event("REASONING_START", messageId=named))
        out.append(_event("REASONING_MESSAGE_START", messageId=named, role="reasoning"))

    def _close(self, out: list[bytes], *, sealed: str = "") -> None:
        """Whatever is open of text or thought; `sealed` is the thought's `encryptedValue`."""
        if self._text_open:
            self._text_open = False
            out.append(_event("TEXT_MESSAGE_END", messageId=self._id))
        if named := self._thought:
            self._thought = ""
            out.append(_event("REASONING_MESSAGE_END", messageId=named))
            if sealed:
                out.append(
                    _event("REASONING_ENCRYPTED_VALUE", subtype="message", entityId=named, encryptedValue=sealed)
                )
            out.append(_event("REASONING_END", messageId=named))

    def _finish(self, event: Finished, out: list[bytes]) -> None:
        self._close(out)
        told: dict[str, Any] = {"result": {"finishReason": event.reason}}
        if event.reason == "cancelled":
            told["outcome"] = {"type": "cancelled"}
        if event.usage is not None:
            told["usage"] = [{**self._head, **usage_object(event.usage)}]
        out.append(_event("RUN_FINISHED", **self._run, **told))


def usage_object(usage: Usage) -> dict[str, int]:
    """In the protocol's words; what a provider does not tell is left out."""
    known = {
        "reasoningTokens": usage.reasoning_tokens,
        "cachedInputTokens": usage.cached_tokens,
        "cacheWriteInputTokens": usage.cache_write_tokens,
    }
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        **{name: count for name, count in known.items() if count},
    }


def _event(kind: str, **fields: Any) -> bytes:
    return data_frame({"type": kind, **fields})


def _before_delta(kind: str, message_id: str) -> bytes:
    return _event(kind, messageId=message_id)[: -len(b"}\n\n")] + b',"delta":'
