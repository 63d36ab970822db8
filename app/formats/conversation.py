"""A conversation with tools in it, as it is read message by message."""

from __future__ import annotations

from ..errors import InvalidRequest
from ..request import Image, Message, Reasoning, Text, ToolCall, ToolResult


class Conversation:
    """The messages, as they are read one after the other. Providers refuse a call without its result, and a result
    without its call; so does this, and can say where."""

    def __init__(self) -> None:
        self.systems: list[str] = []
        self._messages: list[Message] = []
        self._open: dict[str, str] = {}  # calls without a result, and where they stand
        self._results: list[ToolResult] = []

    def system(self, text: str, where: str) -> None:
        if self._messages or self._results:
            raise InvalidRequest(f"{where}: a system message must come before the others", param=where)
        self.systems.append(text)

    def user(self, parts: list[Text | Image]) -> None:
        self._settle()
        self._messages.append(Message("user", tuple(parts)))

    def assistant(self, parts: list[Text | Reasoning | ToolCall], where: str) -> None:
        self._settle()
        # A thought alone is no message to any provider: an answer that was broken off, or nothing but a display.
        if any(not isinstance(part, Reasoning) for part in parts):
            self._messages.append(Message("assistant", tuple(parts)))
            self._open = {part.call_id: where for part in parts if isinstance(part, ToolCall)}

    def result(self, result: ToolResult, where: str) -> None:
        if self._open.pop(result.call_id, None) is None:
            raise InvalidRequest(f"{where}: {result.call_id!r} is no tool call that waits for a result", param=where)
        self._results.append(result)

    def finish(self) -> tuple[Message, ...]:
        self._settle()
        if not self._messages:
            raise InvalidRequest("messages: a user message is required", param="messages")
        return tuple(self._messages)

    def _settle(self) -> None:
        for call_id, where in self._open.items():
            raise InvalidRequest(f"{where}: the tool call {call_id!r} has no result; add it, then go on", param=where)
        if self._results:
            self._messages.append(Message("user", tuple(self._results)))
            self._results = []
