"""`{"token", "text", "done"}` per piece, a last one with `done: true` (and `error`, `code` where it failed), then
`[DONE]`.

`token` and `text` are the same piece under the two names that tutorials' front ends read.
"""

from __future__ import annotations

from typing import Any

from ..events import Event, Failed, Finished, TextDelta
from ..request import ChatRequest
from .base import DONE, Encoder, data_frame
from .simple import SimpleFormat


class TokenSSE(SimpleFormat):
    name = "token_sse"

    def encoder(self, request: ChatRequest) -> Encoder:
        return TokenSSEEncoder()


class TokenSSEEncoder(Encoder):
    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            last: dict[str, Any] = {"token": "", "text": "", "done": True}
            match event:
                case TextDelta(text=text):
                    out.append(data_frame({"token": text, "text": text, "done": False}))
                case Finished():
                    out += [data_frame(last), DONE]
                case Failed(error=error):
                    out += [data_frame({**last, "error": error.message, "code": error.code}), DONE]
                case _:
                    pass
        return b"".join(out)
