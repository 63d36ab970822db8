"""Text with its figures: `{"event": "start", "model"}`, `token`s, `{"event": "done", "tokens", "latency_ms"}` or
`error`.

`tokens` are the answer's output tokens, `latency_ms` the time from the request to its end.
"""

from __future__ import annotations

from ..events import Event, Failed, Finished, Started, TextDelta
from ..request import ChatRequest
from .base import Encoder, data_frame
from .simple import SimpleFormat


class MetaSSE(SimpleFormat):
    name = "meta_sse"

    def encoder(self, request: ChatRequest) -> Encoder:
        return MetaSSEEncoder()


class MetaSSEEncoder(Encoder):
    def feed(self, events: list[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            match event:
                case Started(model=model):
                    out.append(data_frame({"event": "start", "model": model}))
                case TextDelta(text=text):
                    out.append(data_frame({"event": "token", "token": text}))
                case Finished(usage=usage, timings=timings):
                    tokens = usage.output_tokens if usage else 0
                    latency_ms = round(timings.duration_s * 1000) if timings else 0
                    out.append(data_frame({"event": "done", "tokens": tokens, "latency_ms": latency_ms}))
                case Failed(error=error):
                    out.append(data_frame({"event": "error", "message": error.message}))
                case _:
                    pass
        return b"".join(out)
