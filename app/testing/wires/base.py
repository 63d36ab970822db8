"""What a protocol must be able to write. Modules fill the role of `Wire`; none knows about time, faults or sockets."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..answers import Answer
from ..behaviour import Behaviour

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its answer's writer sees it. `id` has no prefix; `created` is Unix time."""

    behaviour: Behaviour
    body: Json
    id: str
    created: int
    key: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One SSE message. `paced` frames are deltas, `i20` apart; `counted` ones are the tokens that `stall5` counts."""

    data: str
    event: str | None = None
    paced: bool = False
    counted: bool = False


class Wire(Protocol):
    """One protocol. `error` bodies are JSON objects; a message of "" means the provider's usual one for that status."""

    def request_id(self, call_id: str) -> tuple[str, str]:
        """The response header that names the request: its name and value."""

    def wrong_body(self, headers: Mapping[str, str], body: Json) -> str:
        """What the provider would refuse in a request's form, or ""."""

    def wrong_prefill(self, prefill: str) -> str:
        """What every one of the provider's models would refuse in a prefill, or ""."""

    def frames(self, call: Call, answer: Answer) -> Iterator[Frame]: ...

    def whole(self, call: Call, answer: Answer) -> Json:
        """The answer without streaming."""

    def error(self, status: int, message: str = "") -> Json: ...

    def error_frame(self, message: str = "") -> Frame: ...

    def bad_frame(self) -> Frame:
        """A frame whose data is cut off in the middle of its JSON."""

    def unknown_frame(self) -> Frame:
        """An event type of the future, which a reader should pass over."""

    def wrong_key(self, key: str, *, bearer: bool) -> Json: ...

    def context_exceeded(self) -> Json: ...

    def filtered(self) -> Json: ...

    def prefill_refused(self) -> Json: ...


def compact(value: Json) -> str:
    """JSON as both providers send it: no blanks, characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
