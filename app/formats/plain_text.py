"""`text/plain`: the answer's text, chunk by chunk, and nothing else.

There is no place for an error in it, so a failure ends with a line of its own, `[Error: ...]`: a person reading along
sees it, and a program that needs to be sure asks for another format. Reasoning and tool calls are not text and are
left out.
"""

from __future__ import annotations

from ..events import Event, Failed, TextDelta
from ..request import ChatRequest
from .base import Encoder
from .simple import SimpleFormat


class PlainText(SimpleFormat):
    name = "plain_text"
    mimetype = "text/plain"

    def encoder(self, request: ChatRequest) -> Encoder:
        return PlainTextEncoder()


class PlainTextEncoder(Encoder):
    HEARTBEAT = b""  # whatever it were, it would stand in the text

    def __init__(self) -> None:
        self._at_line_start = True

    def feed(self, events: list[Event]) -> bytes:
        parts: list[str] = []
        for event in events:
            match event:
                case TextDelta(text=text):
                    parts.append(text)
                    self._at_line_start = text.endswith("\n")
                case Failed(error=error):
                    parts.append(f"{'' if self._at_line_start else chr(10)}[Error: {error.message}]\n")
                case _:
                    pass
        return "".join(parts).encode()
