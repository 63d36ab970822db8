"""What was asked, in words no protocol owns.

A client's body is kept as it came (`body`, in the protocol `dialect`), and what every protocol knows is read out of it.
A provider that speaks the same dialect gets the body itself, fields we have never heard of included; another gets the
common part, and a field that has no place there (`foreign`) is refused by name, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

# A protocol, by the shape of its bodies; `native` is nobody's own.
Dialect: TypeAlias = Literal["openai", "openai_responses", "anthropic", "native"]
Role: TypeAlias = Literal["user", "assistant"]


class Text(msgspec.Struct, frozen=True):
    text: str


class Image(msgspec.Struct, frozen=True):
    """Either at a `url`, or `data`: base64 of the `media_type`."""

    url: str = ""
    media_type: str = ""
    data: str = ""

    @property
    def as_url(self) -> str:
        """For protocols that know images by nothing else: its URL, or one that holds it."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


class Reasoning(msgspec.Struct, frozen=True):
    """What the model thought before it went on, as it was told: a provider that signs its thoughts wants them back with
    the `signature`. `redacted` is a thought that only the provider can read, in place of a text."""

    text: str = ""
    signature: str = ""
    redacted: str = ""

    @property
    def sealed_by_openai(self) -> bool:
        """Whether it is OpenAI's own, whose seals are Fernet tokens: their first byte is a version, 0x80. Each provider
        refuses a conversation with another's seal in it."""
        return (self.signature or self.redacted).startswith("gAAAA")


class ToolCall(msgspec.Struct, frozen=True):
    """`arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


class ToolResult(msgspec.Struct, frozen=True):
    call_id: str
    parts: tuple[Text | Image, ...]
    failed: bool = False

    @property
    def told(self) -> tuple[Text | Image, ...]:
        """The parts, for a protocol without a field for the failure: that is said in front then."""
        first = next((part.text for part in self.parts if isinstance(part, Text)), "")
        if not self.failed or first.lower().startswith("error"):
            return self.parts
        return (Text("Error: "), *self.parts)


UserPart: TypeAlias = Text | Image | ToolResult
AssistantPart: TypeAlias = Text | Reasoning | ToolCall
Part: TypeAlias = Text | Image | Reasoning | ToolCall | ToolResult


class Message(msgspec.Struct, frozen=True):
    """Of the user `UserPart`s, of the assistant `AssistantPart`s, in the order in which they were said."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        return cls(role, (Text(text),))


class Tool(msgspec.Struct, frozen=True):
    """The client's own: its calls are returned. `parameters` is a JSON Schema; `strict` None where nothing was said."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """`tool`: just the one of that `name`. `required`: at least one."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str = ""


class Schema(msgspec.Struct, frozen=True):
    """What the answer's text has to be: JSON of this schema."""

    schema: Mapping[str, Any]
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None


Unit: TypeAlias = Literal["token", "sentence", "block"]


class Shape(msgspec.Struct, frozen=True):
    """How an answer's text is cut for a renderer: each piece is a whole number of `unit`s and has `min_chars`
    characters at least, as far as there are so many; nothing is held back for longer than `max_wait_ms` (None: until
    its unit is whole). Tokens without `min_chars` are gathered until then."""

    unit: Unit = "token"
    min_chars: int = 0
    max_wait_ms: int | None = None


Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`messages` is the conversation without `system`; `model` is as the client wrote it, None for none. Of the rest
    None, or nothing, is "not said": the provider's own default.

    `include_usage` says that the client's format wants usage in the stream; `headers` are the protocol's own headers
    (`anthropic-version`), to go along with the body where the dialect is the same.
    """

    dialect: Dialect
    messages: tuple[Message, ...]
    body: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    served: tuple[str, ...] = ()  # the names of our own tools that the model may call: we run those
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    schema: Schema | None = None
    partials: bool = False  # the value of `schema` is to be told as it grows, and held against it
    shape: Shape | None = None
    effort: Effort | None = None  # how much the model is to think
    user: str | None = None  # the client's own name for whom it asks, to the provider
    stream: bool = True
    resumable: bool = False  # the answer is kept for a while, and goes on where the client leaves
    chat: str | None = None  # the client's own id of the conversation, by which it resumes
    include_usage: bool = False
    foreign: tuple[str, ...] = ()
    recovers: bool = False  # an answer that broke off: what comes is joined to what the client has already
    prefill: str = ""  # what the answer has come to, where the model is to go on from there

    def relayable(self, dialect: Dialect) -> bool:
        """Whether the client can read the frames of a provider that speaks `dialect`, as they are or merged into one
        object."""
        return self.dialect == dialect and not self.recovers

    def recovering(self, prefill: str, said: int) -> ChatRequest:
        """The same again for an answer that broke off after at least `said` tokens; `prefill` is what the model is to
        go on from, and then has so many tokens less to say."""
        body, max_tokens = dict(self.body), self.max_tokens
        if prefill:
            for name in _MAX_TOKENS:
                if isinstance(limit := body.get(name), int):
                    body[name] = max(1, limit - said)
            max_tokens = None if max_tokens is None else max(1, max_tokens - said)
        return msgspec.structs.replace(self, body=body, max_tokens=max_tokens, recovers=True, prefill=prefill)


_MAX_TOKENS = ("max_tokens", "max_completion_tokens")


def with_prefill(messages: Sequence[Mapping[str, Any]], prefill: str) -> list[Mapping[str, Any]]:
    """A body's messages, in either dialect, with `prefill` as the assistant's last words ("": as they are)."""
    if not prefill:
        return list(messages)
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant":
        return [*messages, {"role": "assistant", "content": prefill}]
    content = last.get("content") or ""  # the client's own prefill
    content = content + prefill if isinstance(content, str) else [*content, {"type": "text", "text": prefill}]
    return [*messages[:-1], {**last, "content": content}]
