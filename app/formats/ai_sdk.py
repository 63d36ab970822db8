"""The Vercel AI SDK's UI message stream, version 1: what `useChat` posts, and the parts that it reads.

Its client checks every part against a schema: one that is unknown, or has a null where a field may be left out, ends
the answer as an error (WIRE 1.3). A clean end of the body passes for success, so a failure must be said: `error`. Its
own word for text that is taken back, `reset-step`, is new in version 7; to older clients it is an unknown part, and
they do not say which they are: so we never use it.

A message of the assistant's holds all the steps of a turn: an answer, the outputs of the tools that it called, and the
answer to those. The client sends it back whole, and what comes then belongs to the same message: it must be named by
that one's id, or the client shows it twice. When it resumes, it empties the message at `start` (from 7.0.138 on; older
ones append to what they have), so a replay says again what the message had before this answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, assert_never

import msgspec
import pydantic

from ..errors import InvalidRequest
from ..events import (
    Event,
    Failed,
    Finished,
    FinishReason,
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
from .base import DONE, Encoder, HeaderLookup, compact_json, data_frame, json_bytes, validated
from .chat_ui import ChatUI, LenientBody, Name, Names, PublicFields, json_text, picture
from .conversation import Conversation
from .public import read_tools

FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool-calls",
    "content_filter": "content-filter",
    "cancelled": "other",  # not written: see `abort`
}

DENIED = "Tool call execution denied."  # the SDK's own words

# Of JSON, that is stored with a stream of what its message had before. Of one that had more, a replay has nothing.
MOST_BEFORE = 256 * 1024


class UIPart(LenientBody):
    """Any part: which fields it needs, its type tells."""

    type: str
    text: str | None = None
    url: str | None = None
    mediaType: str | None = None
    toolCallId: Name | None = None
    toolName: Name | None = None
    state: str | None = None
    input: Any = None
    rawInput: Any = None
    output: Any = None
    errorText: str | None = None
    approval: Any = None
    providerMetadata: Any = None


class UIMessage(LenientBody):
    id: str | None = None
    role: Literal["system", "user", "assistant"]
    parts: list[UIPart] | None = None
    content: str | None = None  # what the SDK's messages were before they had parts


class AISDKBody(PublicFields):
    id: Any = None  # the chat's
    messages: Annotated[list[UIMessage], pydantic.Field(min_length=1)] | None = None
    message: UIMessage | Name | None = None
    prompt: Name | None = None


class AISDK(ChatUI):
    name: ClassVar[str] = "ai_sdk"

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        """`messages`, as `useChat` sends them; or only the last one, as `message`, where the app keeps the others; or
        `prompt`, of `useCompletion`."""
        asked = validated(AISDKBody, body)
        given = [name for name in ("messages", "message", "prompt") if getattr(asked, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise InvalidRequest(
                f"give one of messages, message or prompt; found {found}", param=given[-1] if given else "messages"
            )
        own, served = read_tools(asked.tools)
        chat = asked.id if isinstance(asked.id, str) and asked.id else None
        said = Conversation()
        if asked.system:
            said.systems.append(asked.system)
        last = asked.message or asked.prompt
        if isinstance(last, str):
            said.user([Text(last)])
        elif last is not None:
            _take(last, "message", said)
        for at, message in enumerate(asked.messages or ()):
            _take(message, f"messages[{at}]", said)
        return ChatRequest(
            dialect="native",
            body=body,
            messages=said.finish(),
            system="\n\n".join(said.systems) or None,
            tools=own,
            served=served,
            resumable=chat is not None if asked.resumable is None else asked.resumable,
            chat=chat,
            **asked.words(),
        )

    def encoder(self, request: ChatRequest) -> Encoder:
        return self.resumed(_taken(*_shown(request)))

    def seed(self, request: ChatRequest) -> Mapping[str, Any]:
        """The ids that are taken; and, for a replay, what the message had before: `{parts, metadata?}`, as the client
        sent it, or None."""
        before, messages = _shown(request)
        had = {name: before[name] for name in ("parts", "metadata") if before.get(name) is not None}
        kept = had if had and len(json_bytes(had)) <= MOST_BEFORE else None
        return {**_taken(before, messages), "before": kept}

    def resumed(self, seed: Mapping[str, Any]) -> Encoder:
        return AISDKEncoder(seed)


class AISDKReplay(AISDK):
    """For a client that has emptied the message: what it had before comes right behind `start`. One that asks again by
    POST still has it."""

    def resumed(self, seed: Mapping[str, Any]) -> Encoder:
        return AISDKEncoder(seed, seed.get("before"))


def _shown(request: ChatRequest) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """The message that the answer goes on with, and all that the client sent."""
    body = request.body
    messages = body.get("messages") or [body.get("message")]
    messages = [message for message in messages if isinstance(message, Mapping)]
    return continued(messages, body.get("messageId")), messages


def _taken(before: Mapping[str, Any], messages: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The ids that an answer must not give, or must."""
    parts = [part for message in messages for part in message.get("parts") or ()]
    return {
        "continued": before.get("id"),
        "parts": len(before.get("parts") or ()),
        "messages": [message["id"] for message in messages if message.get("id")],
        "calls": [part["toolCallId"] for part in parts if part.get("toolCallId")],
    }


def continued(messages: list[Mapping[str, Any]], named: Any) -> Mapping[str, Any]:
    """The assistant's message that the answer goes on with: the last one, where it is the assistant's; or an earlier
    one, to which the client has added an output (`named`, its id). Empty for a new message."""
    spoken = [message for message in messages if message["role"] == "assistant"]
    for message in spoken:
        if named is not None and message.get("id") == named:
            return message
    return spoken[-1] if messages and messages[-1]["role"] == "assistant" else {}


def _take(message: UIMessage, where: str, said: Conversation) -> None:
    parts = message.parts
    if parts is None:
        if message.content is None:
            raise InvalidRequest(f"{where}.parts is required", param=f"{where}.parts")
        parts = [UIPart(type="text", text=message.content)]
    if message.role == "system":
        said.system("".join(part.text or "" for part in parts if part.type == "text"), where)
    elif message.role == "user":
        _take_user(parts, where, said)
    else:
        _take_assistant(parts, where, said)


def _take_user(parts: list[UIPart], where: str, said: Conversation) -> None:
    spoken: list[Text | Image] = []
    for at, part in enumerate(parts):
        here = f"{where}.parts[{at}]"
        if part.type == "text":
            spoken.append(Text(_needed(part.text, f"{here}.text")))
        elif part.type == "file":
            spoken.append(picture(_needed(part.url, f"{here}.url"), part.mediaType, here))
        elif not _only_shown(part):
            raise InvalidRequest(f"{here}: a part of type {part.type!r} can't be sent", param=here)
    if not spoken:
        raise InvalidRequest(f"{where}.parts: should have a text or a file", param=f"{where}.parts")
    said.user(spoken)


def _take_assistant(parts: list[UIPart], where: str, said: Conversation) -> None:
    """Each step is a message of the assistant's and the results of its calls."""
    spoken: list[Text | Reasoning | ToolCall] = []
    results: list[tuple[ToolResult, str]] = []

    def step() -> None:
        said.assistant(spoken, where)
        for result, here in results:
            said.result(result, here)
        spoken.clear()
        results.clear()

    for at, part in enumerate(parts):
        here = f"{where}.parts[{at}]"
        if part.type == "step-start":
            step()
        elif part.type == "text":
            if part.text:
                spoken.append(Text(part.text))
        elif part.type == "reasoning":
            thought = Reasoning(part.text or "", **_sealed(part.providerMetadata))
            if thought != Reasoning():
                spoken.append(thought)
        elif part.type == "dynamic-tool" or part.type.startswith("tool-"):
            if part.state == "input-streaming":
                continue  # the answer broke off in it: it never was a call
            call = _call(part, here)
            spoken.append(call)
            results.append((_result(part, call, here), here))
        elif not _only_shown(part):
            raise InvalidRequest(f"{here}: a part of type {part.type!r} can't be sent back", param=here)
    step()


def _only_shown(part: UIPart) -> bool:
    return part.type == "step-start" or part.type.startswith(("data-", "source-"))


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise InvalidRequest(f"{where} is required", param=where)
    return value


def _sealed(metadata: Any) -> dict[str, str]:
    """What a provider has signed a thought with, under the provider's name, whichever that is."""
    for own in metadata.values() if isinstance(metadata, Mapping) else ():
        if isinstance(own, Mapping):
            if isinstance(own.get("signature"), str):
                return {"signature": own["signature"]}
            if isinstance(own.get("redactedData"), str):
                return {"redacted": own["redactedData"]}
    return {}


def _call(part: UIPart, where: str) -> ToolCall:
    named = part.toolName if part.type == "dynamic-tool" else part.type.removeprefix("tool-")
    given = part.rawInput if part.input is None else part.input
    # Where the model's JSON was wrong, the client has its text in place of a value: see `tool-input-error`.
    wrong = part.state == "output-error" and isinstance(given, str)
    return ToolCall(
        call_id=_needed(part.toolCallId, f"{where}.toolCallId"),
        name=_needed(named or None, f"{where}.toolName"),
        arguments=given if wrong else "{}" if given is None else json_text(given),
    )


def _result(part: UIPart, call: ToolCall, where: str) -> ToolResult:
    approval = part.approval if isinstance(part.approval, Mapping) else {}
    if part.state == "output-available":
        text = part.output if isinstance(part.output, str) else json_text(part.output)
        return ToolResult(call.call_id, (Text(text),))
    if part.state == "output-error":
        return ToolResult(call.call_id, (Text(part.errorText or "The tool failed."),), failed=True)
    if part.state == "output-denied" or (part.state == "approval-responded" and approval.get("approved") is False):
        reason = approval.get("reason")
        return ToolResult(call.call_id, (Text(reason if isinstance(reason, str) else DENIED),), failed=True)
    lacks = f"the tool call {call.call_id!r} has no output (state {part.state!r})"
    raise InvalidRequest(f"{where}: {lacks}; add one with addToolOutput before you go on", param=where)


class AISDKEncoder(Encoder):
    """At most one part of text or reasoning is open: what is of another kind closes it, so that the client shows things
    in the order in which they were said. The bytes around a delta are made when its part opens."""

    HEADERS: ClassVar[Mapping[str, str]] = {"x-vercel-ai-ui-message-stream": "v1"}

    def __init__(self, seed: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
        """`seed` is `AISDK.seed`'s, and `before` the one in it, where that is to be said again."""
        self._earlier = before or {}
        self._continued = seed["continued"]
        self._parts = seed["parts"]  # so that no two of a message have one id
        self._messages = Names(frozenset(seed["messages"]))
        self._calls = Names(frozenset(seed["calls"]))
        self._answer = ""
        self._model = ""
        self._sources = 0
        self._stepped = False
        self._open: Literal["text", "reasoning"] | None = None
        self._id = ""
        self._before = b""

    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case TextDelta(text=text):
                    if self._open != "text":
                        self._begin("text", out)
                    out.append(self._before + json_bytes(text) + b"}\n\n")
                case ReasoningDelta(text=text):
                    if self._open != "reasoning":
                        self._begin("reasoning", out)
                    out.append(self._before + json_bytes(text) + b"}\n\n")
                case ReasoningEnded(signature=signature, redacted=redacted):
                    if self._open != "reasoning":
                        self._begin("reasoning", out)
                    own = {"redactedData": redacted} if redacted else {"signature": signature}
                    self._end(out, {"providerMetadata": {"anthropic": own}})
                case Source(url=url, title=title):
                    self._sources += 1
                    named = {"title": title} if title else {}
                    out.append(_part("source-url", sourceId=f"{self._answer}-source-{self._sources}", url=url, **named))
                case Started():
                    self._answer = self._messages[event.id]
                    self._model = event.model
                    out += _again(self._continued or self._answer, self._earlier)
                    out.append(_part("start-step"))
                case ToolCallStarted(call_id=call_id, name=name):
                    self._end(out)
                    self._step(out)
                    out.append(_part("tool-input-start", toolCallId=self._calls[call_id], toolName=name))
                case ToolCallDelta(call_id=call_id, arguments=fragment):
                    out.append(_part("tool-input-delta", toolCallId=self._calls[call_id], inputTextDelta=fragment))
                case ToolCallEnded():
                    out.append(_called(event, self._calls[event.call_id]))
                case ToolOutput():
                    self._stepped = True
                    out.append(_output(event, self._calls[event.call_id]))
                case ObjectPartial(partial=partial):
                    out.append(_part("data-object", id=f"{self._answer}-object", data=partial))
                case Recovered(model=model):
                    self._model = model
                case Usage():
                    pass  # it stands in `finish`
                case Finished():
                    self._finish(event, out)
                case Failed(error=error):
                    self._end(out)
                    out += [_part("error", errorText=error.message), DONE]
                case _:
                    assert_never(event)
        return b"".join(out)

    def _begin(self, kind: Literal["text", "reasoning"], out: list[bytes]) -> None:
        self._end(out)
        self._step(out)
        self._open = kind
        self._parts += 1
        self._id = f"{kind}-{self._parts}"
        self._before = _part(f"{kind}-delta", id=self._id)[: -len(b"}\n\n")] + b',"delta":'
        out.append(_part(f"{kind}-start", id=self._id))

    def _end(self, out: list[bytes], more: Mapping[str, Any] | None = None) -> None:
        if self._open is not None:
            out.append(_part(f"{self._open}-end", id=self._id, **(more or {})))
            self._open = None

    def _step(self, out: list[bytes]) -> None:
        """Where the model goes on behind the outputs of our own tools: what a step calls, and what it says behind that,
        are two messages to a model."""
        if self._stepped:
            self._stepped = False
            out += [_part("finish-step"), _part("start-step")]

    def _finish(self, event: Finished, out: list[bytes]) -> None:
        self._end(out)
        told: dict[str, Any] = {"model": self._model}
        if event.usage is not None:
            told["usage"] = usage_object(event.usage)
        out.append(_part("finish-step"))
        if event.reason == "cancelled":
            out += [_part("message-metadata", messageMetadata=told), _part("abort")]
        else:
            out.append(_part("finish", finishReason=FINISH_REASONS[event.reason], messageMetadata=told))
        out.append(DONE)


def usage_object(usage: Usage) -> dict[str, Any]:
    """In the SDK's words; what a provider does not tell is left out."""
    known = {"cachedInputTokens": usage.cached_tokens, "reasoningTokens": usage.reasoning_tokens}
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
        **{name: count for name, count in known.items() if count},
        "source": usage.source,
    }


def _called(call: ToolCallEnded, call_id: str) -> bytes:
    named = {"toolCallId": call_id, "toolName": call.name}
    value = compact_json(call.arguments)
    if value is None or _poisoned(value):
        wrong = "the model wrote arguments that are no JSON" if value is None else "the arguments have a forbidden key"
        return _part("tool-input-error", **named, input=call.arguments, errorText=wrong)
    return _part("tool-input-available", **named, input=value)


def _output(event: ToolOutput, call_id: str) -> bytes:
    if event.error:
        return _part("tool-output-error", toolCallId=call_id, errorText=event.error)
    value = compact_json(event.result)
    if value is None or _poisoned(value):
        return _part("tool-output-available", toolCallId=call_id, output=event.result)  # as text
    return _part("tool-output-available", toolCallId=call_id, output=value)


def _poisoned(value: msgspec.Raw | bytes) -> bool:
    """Whether there are keys in it for which the client refuses the part, and ends the answer."""
    text = bytes(value)  # in strings these quotes are escaped
    return b'"__proto__":' in text or (b'"constructor":' in text and b'"prototype":' in text)


def _again(message_id: str, before: Mapping[str, Any]) -> Iterator[bytes]:
    """`start`, and parts of which the client makes those that the message had; what it would refuse is left out. (Of
    other kinds than these a message can't be: `_take_assistant`.)"""
    metadata = before.get("metadata")
    told = metadata is not None and not _poisoned(json_bytes(metadata))
    yield _part("start", messageId=message_id, **({"messageMetadata": metadata} if told else {}))
    for at, part in enumerate(before.get("parts") or (), 1):
        if _poisoned(json_bytes(part)):
            continue
        kind = part["type"]
        if kind == "step-start":
            yield _part("start-step")
        elif kind in ("text", "reasoning"):
            yield from _spoken_again(part, at)
        elif kind == "dynamic-tool" or kind.startswith("tool-"):
            yield from _called_again(part)
        elif kind.startswith("data-") and "data" in part:
            yield _part(kind, **_fit(part, "id"), data=part["data"])  # which calls `onData`, as a replay of any does
        elif kind in _SOURCES:
            shown = _fit(part, "sourceId", "url", "mediaType", "title", "filename", "providerMetadata")
            if shown.keys() >= _SOURCES[kind]:
                yield _part(kind, **shown)


# Kinds of sources, and what each must have.
_SOURCES = {"source-url": {"sourceId", "url"}, "source-document": {"sourceId", "mediaType", "title"}}


def _spoken_again(part: Mapping[str, Any], at: int) -> Iterator[bytes]:
    """The client keeps the id of a thought, so that is its own. What was broken off has no end, then as now."""
    kind = part["type"]
    own = part.get("id")
    named = own if kind == "reasoning" and isinstance(own, str) else f"{kind}-{at}"
    yield _part(f"{kind}-start", id=named, **_fit(part, "providerMetadata"))
    if part.get("text"):
        yield _part(f"{kind}-delta", id=named, delta=part["text"])
    if part.get("state") != "streaming":
        yield _part(f"{kind}-end", id=named, **_fit(part, "citations"))


def _called_again(part: Mapping[str, Any]) -> Iterator[bytes]:
    """Without `tool-input-available`, at which the client calls `onToolCall`: it takes the input from the deltas. It
    keeps their text as `rawInput` until there is an output, so a call that was denied has that beside its `input`."""
    call_id, state = part.get("toolCallId"), part.get("state")
    dynamic = {"dynamic": True} if part["type"] == "dynamic-tool" else {}
    name = part.get("toolName") if dynamic else part["type"].removeprefix("tool-")
    if call_id is None or name is None:
        return
    named = {"toolCallId": call_id, "toolName": name, **dynamic}
    made = _fit(part, "title", "toolMetadata", "providerExecuted", "callProviderMetadata")
    yield _part("tool-input-start", **named, **made)
    given = _fit(part, "resultProviderMetadata")
    failed = {"errorText": part.get("errorText") or ""}
    if state == "output-error" and "input" not in part and "rawInput" in part:
        # So do clients of before version 7 have it where the model's JSON was wrong.
        yield _part("tool-input-error", **named, **given, **failed, input=part["rawInput"])
        return
    raw = part.get("rawInput")
    written = raw if state == "input-streaming" and isinstance(raw, str) else None
    if written is None and "input" in part:
        written = json_bytes(part["input"]).decode()
    if written:
        yield _part("tool-input-delta", toolCallId=call_id, inputTextDelta=written)
    yield from _approved_again(part)
    if state in ("output-available", "output-error"):
        # Before an error too: `tool-output-error` alone leaves the deltas' text where it is.
        came = {**given, **_fit(part, "preliminary")} if state == "output-available" else {}
        yield _part("tool-output-available", toolCallId=call_id, **dynamic, **came, output=part.get("output"))
    if state == "output-error":
        yield _part("tool-output-error", toolCallId=call_id, **dynamic, **given, **failed)
    elif state == "output-denied":
        yield _part("tool-output-denied", toolCallId=call_id)


def _approved_again(part: Mapping[str, Any]) -> Iterator[bytes]:
    asked = part.get("approval")
    if not isinstance(asked, Mapping) or not isinstance(asked.get("id"), str):
        return
    names = {"descriptor": "approvalDescriptor", "inputSchemaInput": "inputSchemaInput"}
    more = {theirs: asked[name] for name, theirs in names.items() if name in asked}
    why = {"reason": asked["requestReason"]} if isinstance(asked.get("requestReason"), str) else {}
    own = _fit(asked, "isAutomatic", "signature")
    yield _part("tool-approval-request", approvalId=asked["id"], toolCallId=part["toolCallId"], **more, **why, **own)
    if isinstance(asked.get("approved"), bool):
        said = _fit(asked, "reason")
        yield _part("tool-approval-response", approvalId=asked["id"], approved=asked["approved"], **said)


def _fit(part: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those fields of a part that are there, and of a type that the client takes, under the names that they come by."""
    found: dict[str, Any] = {}
    for name in names:
        value = part.get(name)
        if name.endswith("Metadata") and name != "toolMetadata":
            if isinstance(value, Mapping) and all(isinstance(own, Mapping) for own in value.values()):
                found["providerMetadata"] = value
        elif isinstance(value, _TYPES[name]):
            found[name] = value
    return found


_TYPES: dict[str, type] = {
    "id": str,
    "sourceId": str,
    "url": str,
    "mediaType": str,
    "title": str,
    "filename": str,
    "reason": str,
    "signature": str,
    "citations": list,
    "toolMetadata": dict,
    "isAutomatic": bool,
    "preliminary": bool,
    "providerExecuted": bool,
}


def _part(kind: str, **fields: Any) -> bytes:
    return data_frame({"type": kind, **fields})
