"""What the tutorial-shaped formats share: a prompt or messages in, text out, JSON errors, no whole form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol

import pydantic

from ..errors import InvalidRequest, SluicewayError
from ..request import ChatRequest, Message
from .base import Body, HeaderLookup, WholeAnswer, error_object, validated

Text = Annotated[str, pydantic.Field(min_length=1)]
MaxTokens = Annotated[int, pydantic.Field(ge=1)]


class ChatMessage(Body):
    role: Literal["system", "user", "assistant"]
    content: str


class _SimpleBody(Body):
    """`prompt`, `message` and `messages` are three ways to say the same; exactly one of them is wanted."""

    prompt: Text | None = None
    message: Text | None = None
    messages: Annotated[list[ChatMessage], pydantic.Field(min_length=1)] | None = None
    system: str | None = None
    system_prompt: str | None = None
    model: Text | None = None
    max_tokens: MaxTokens | None = None


def conversation(messages: list[ChatMessage]) -> tuple[str | None, tuple[Message, ...]]:
    """(system text, the rest). System messages lead; one further down has no place in other protocols."""
    systems: list[str] = []
    rest: list[Message] = []
    for at, message in enumerate(messages):
        if message.role != "system":
            rest.append(Message.of(message.role, message.content))
        elif rest:
            raise InvalidRequest(
                f"messages[{at}]: a system message must come before the others", param=f"messages[{at}]"
            )
        else:
            systems.append(message.content)
    if not rest:
        raise InvalidRequest("messages: a user message is required", param="messages")
    return "\n\n".join(systems) or None, tuple(rest)


class Asked(Protocol):
    """What a native or simple body says; `prompt`, `message` and `messages` are three ways, one of which is wanted."""

    @property
    def prompt(self) -> str | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def messages(self) -> Sequence[Body] | None: ...


def only_one(asked: Asked, *ways: str) -> None:
    """Raises `InvalidRequest` unless just one of the three is there; `ways` is the order in which that names them."""
    given = [way for way in ways if getattr(asked, way) is not None]
    if len(given) != 1:
        wanted = f"{', '.join(ways[:-1])} or {ways[-1]}"
        raise InvalidRequest(
            f"give one of {wanted}; found {' and '.join(given) or 'none of them'}",
            param=given[-1] if given else ways[0],
        )


def spoken(asked: _SimpleBody, system: str | None) -> tuple[str | None, tuple[Message, ...]]:
    """(system text, the rest) of a body; `system` is what it says beside its messages."""
    only_one(asked, "prompt", "message", "messages")
    if asked.messages is None:
        return system or None, (Message.of("user", asked.prompt or asked.message or ""),)
    lead, messages = conversation(asked.messages)
    if lead is not None and system is not None:
        raise InvalidRequest("give the system prompt as system or as a message, not both", param="system")
    return system or lead, messages


class SimpleFormat:
    """Base of the simple formats; a subclass names itself and brings its encoder."""

    name: ClassVar[str]
    mimetype: ClassVar[str] = "text/event-stream"
    tells_recovery: ClassVar[bool] = False

    def parse(self, body: Mapping[str, Any], headers: HeaderLookup) -> ChatRequest:
        asked = validated(_SimpleBody, body)
        if asked.system is not None and asked.system_prompt is not None:
            raise InvalidRequest("give system or system_prompt, not both", param="system_prompt")
        beside = asked.system if asked.system is not None else asked.system_prompt
        system, messages = spoken(asked, beside)
        return ChatRequest(
            dialect="native",
            messages=messages,
            system=system,
            model=asked.model,
            max_tokens=asked.max_tokens,
        )

    def whole(self, request: ChatRequest, answer: WholeAnswer) -> Any:
        raise NotImplementedError("the simple routes always stream")

    def error(self, error: SluicewayError) -> Any:
        return {"error": error_object(error)}
