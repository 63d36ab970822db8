"""The WebSocket's messages, and the conversation that they make.

Each way a message is a text, one a frame. To us: the user's words as they are, or a JSON object, which is what begins
with `{` (and an array, which is a mistake): `{"message"}` with any other field of the native body, `{"system"}` alone,
or `{"type": "stop"}`. From us: JSON objects by `type`, `chunk`, `done` and `error`; as natively, `tool_call_start`,
`tool_call` and `tool_result` where an answer calls a tool, and `object` where it is one; and no others. Reasoning is no
text.

Not in the registry: what it writes is no body.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from ..errors import InvalidRequest, PayloadTooLarge, SluicewayError
from ..events import Event, Failed, Finished, ObjectPartial, TextDelta, ToolCallEnded, ToolCallStarted, ToolOutput
from ..request import ChatRequest, Message, ToolCall
from .base import error_object, json_bytes
from .native import NativeSSE, plain

# Of the native body, what HTTP needs to be told, and a conversation that is one connection does not.
_OF_HTTP = ("stream", "format", "resumable")

_A_MESSAGE = 40  # bytes, beside its text: `{"role":"assistant","content":""}`, and what it holds here


class WS:
    name: ClassVar[str] = "ws"
    tells_recovery: ClassVar[bool] = False


class Conversation:
    """What was said on one connection, of `max_bytes` at most: then it takes no more, as to forget its beginning in
    silence would give answers that nobody can explain."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._system: str | None = None
        self._messages: tuple[Message, ...] = ()

    def ask(self, body: Mapping[str, Any]) -> ChatRequest | None:
        """The request that a message makes, with all that was said before: then `answered` it must be. None where it
        only sets the system prompt, which stays until it is set again. Raises `InvalidRequest`."""
        for name in _OF_HTTP:
            if name in body:
                raise InvalidRequest(f"{name}: not on a WebSocket; leave it out", param=name)
        only_system = body.keys() == {"system"}
        asked = NativeSSE().parse({**body, "message": "-"} if only_system else body, {})
        system = asked.system if "system" in body or asked.system is not None else self._system
        # `messages` are the whole conversation, as of a client that comes back.
        before = () if body.get("messages") is not None or only_system else self._messages
        messages = self._messages if only_system else (*before, *asked.messages)
        size = len((system or "").encode()) + sum(len(said.text.encode()) + _A_MESSAGE for said in messages)
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"with this the conversation is larger than {self._max_bytes} bytes (server.max_body_bytes); send, as "
                "messages, what of it is to go on, or connect again"
            )
        if only_system:
            self._system = system
            return None
        return msgspec.structs.replace(asked, messages=messages, system=system)

    def answered(self, request: ChatRequest, text: str) -> None:
        """`text` is all that came, also of an answer that was stopped or broke off. A message that got no word for an
        answer was not said: the user's turn is still the user's. Nor were calls whose results got none."""
        self._system = request.system
        messages = request.messages
        if text and messages[-1].role == "assistant":  # the client's own beginning of it
            messages = (*messages[:-1], Message.of("assistant", messages[-1].text + text))
        elif text:
            messages = (*messages, Message.of("assistant", text))
        while messages and _unanswered(messages[-1]):
            messages = messages[:-1]
        self._messages = messages


def _unanswered(last: Message) -> bool:
    return last.role == "user" or any(isinstance(part, ToolCall) for part in last.parts)


class Encoder:
    """One answer's messages. `text` is what it has come to; more than `max_bytes` characters are not kept. `shaped`:
    its pieces are what the client asked for, each a message of its own."""

    def __init__(self, request_id: str, max_bytes: int, *, shaped: bool) -> None:
        self._request_id = request_id
        self._max_bytes = max_bytes
        self._shaped = shaped
        self._text = io.StringIO()
        self._chars = 0

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def feed(self, events: list[Event]) -> list[bytes]:
        """What came at once is one message, unless it is shaped."""
        out: list[bytes] = []
        said: list[str] = []
        for event in events:
            match event:
                case TextDelta(text=text):
                    said.append(text)
                    if self._shaped:
                        self._say(said, out)
                case ToolCallStarted() | ToolCallEnded() | ToolOutput() | ObjectPartial():
                    self._say(said, out)
                    out.append(json_bytes(plain(event)))
                case Finished():
                    self._say(said, out)
                    done = {**plain(event), "type": "done", "request_id": self._request_id}
                    out.append(json_bytes(done))
                case Failed(error=error):
                    self._say(said, out)
                    out.append(error_message(error))
                case _:
                    pass
        self._say(said, out)
        return out

    def _say(self, said: list[str], out: list[bytes]) -> None:
        if said:
            text = "".join(said)
            said.clear()
            out.append(json_bytes({"type": "chunk", "text": text}))
            self._chars += len(text)
            if self._chars <= self._max_bytes:
                self._text.write(text)


def error_message(error: SluicewayError, *, answering: bool = False) -> bytes:
    """`answering`: it is about a message, and the answer that is running goes on."""
    return json_bytes({"type": "error", **error_object(error)} | ({"answering": True} if answering else {}))
