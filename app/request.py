"""What was asked, in words no protocol owns.

A client's body is kept as it came (`body`, in the protocol `dialect`), and what every protocol knows is read out of it.
A provider that speaks the same dialect gets the body itself, fields we have never heard of included; another gets the
common part, and a field that has no place there (`foreign`) is refused by name, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    def relayable(self, dialect: Dialect) -> bool:
        """Whether the client can read the frames of a provider that speaks `dialect`, as they are."""
        return self.stream and self.dialect == dialect
