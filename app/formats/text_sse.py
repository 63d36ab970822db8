"""The least SSE chat: `data: {"text": ...}` per piece, `data: [DONE]` at the end, `event: error` instead where it
failed.

`[DONE]` stands for success only, so a client that waits for nothing else still never takes half an answer for a whole
one.
"""

from __future__ import annotations

from ..events import Event, Failed, Finished, TextDelta
from ..request import ChatRequest
from .base import DONE, Encoder, data_frame
from .simple import SimpleFormat


class TextSSE(SimpleFormat):
    name = "text_sse"

    def encoder(self, request: ChatRequest) -> Encoder:
        return TextSSEEncoder()


class TextSSEEncoder(Encoder):
    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case TextDelta(text=text):
                    out.append(data_frame({"text": text}))
                case Finished():
                    out.append(DONE)
                case Failed(error=error):
                    out.append(b"event: error\n" + data_frame({"message": error.message, "code": error.code}))
                case _:
                    pass
        return b"".join(out)
