"""The service with a provider that raises, in the middle of a stream, what its model is named after."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import ClassVar

from app import create_app
from app.cancel import Cancel
from app.clock import Clock
from app.errors import SluicewayError
from app.events import Event, Finished, Started, TextDelta
from app.request import ChatRequest
from app.targets import Target


class OneWord:
    answered = False
    opaque = False
    frames = None

    def feed(self, chunk: bytes) -> list[Event]:
        return [Started(id="1", model="m", provider="openai", created=0), TextDelta(text=chunk.decode())]

    def finish(self, error: SluicewayError | None = None) -> list[Event]:
        return [Finished(reason="stop")]


class RaisingUpstream:
    reader = OneWord()

    def __init__(self, fault: str) -> None:
        name, _, first = fault.partition("-")
        chunks = self._chunks(getattr(builtins, name), at_once=bool(first))
        self.read = lambda until: next(chunks)

    def _chunks(self, fault: type[Exception], *, at_once: bool) -> Iterator[bytes]:
        if not at_once:
            yield b"so far"
        raise fault("raised in the middle")

    limits: ClassVar[dict[str, str]] = {}

    def begin(self, until: float) -> bool:
        return True

    def each(self, step: Callable[[], float], until: float) -> None:
        pass

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class BrokenProvider:
    def open(
        self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str
    ) -> RaisingUpstream:
        return RaisingUpstream(target.model)

    def close(self) -> None:
        pass


app = create_app()
app.extensions["sluiceway"].house.providers["openai"] = BrokenProvider()
