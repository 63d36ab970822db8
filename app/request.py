"""What was asked, in words no protocol owns.

A client's body is kept as it came (`body`, in the protocol `dialect`), and what every protocol knows is read out of it.
A provider that speaks the same dialect gets the body itself, fields we have never heard of included; another gets the
common part, and a field that has no place there (`foreign`) is refused by name, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Dialect: TypeAlias = Literal["openai", "anthropic", "native"]
Role: TypeAlias = Literal["user", "assistant"]


class Message(msgspec.Struct, frozen=True):
    role: Role
    text: str


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`messages` is the conversation without `system`, text only; `model` is as the client wrote it, None for none.

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
    stream: bool = True
    include_usage: bool = False
    foreign: tuple[str, ...] = ()
    recovers: bool = False  # an answer that broke off: what comes is joined to what the client has already
    prefill: str = ""  # what the answer has come to, where the model is to go on from there

    def relayable(self, dialect: Dialect) -> bool:
        """Whether the client can read the frames of a provider that speaks `dialect`, as they are."""
        return self.stream and self.dialect == dialect and not self.recovers

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
