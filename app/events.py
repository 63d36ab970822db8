"""What an answer is: the words every room speaks, and the order in which they may be said.

A provider's reader gives lists of these events, encoders write them in a client's format. The union is closed:
`match` on it with `assert_never` at the end, so a new event shows every encoder that must learn it.

    Started  (TextDelta | ReasoningDelta | ReasoningEnded | Source | Recovered | ObjectPartial
              | ToolCallStarted ToolCallDelta* ToolCallEnded ToolOutput?)*  Usage?  (Finished | Failed)

Exactly one terminal event, `Finished` or `Failed`, ends every stream; nothing follows it. Heartbeats, cancelling and
draining are control, not data: they are no events. Ids and times are in the events, so encoders draw no random
numbers and read no clock.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Literal, TypeAlias

import msgspec

from .errors import SluicewayError

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """`id` is the answer's one identity, `created` Unix seconds, `input_tokens` 0 where not known at the start."""

    id: str
    model: str
    provider: str
    created: int
    input_tokens: int = 0


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="text", omit_defaults=True):
    """`refusal`: the model says why it does not answer, where its protocol keeps that apart from an answer."""

    text: str
    refusal: bool = False


class ReasoningDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="reasoning"):
    text: str


class ReasoningEnded(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning_end"):
    """A thought is complete, whose `signature` must come back with its text in the next turn; or, without any text,
    there was one that only the provider can read: `redacted`. As `request.Reasoning`. Said only where there is one of
    the two."""

    signature: str = ""
    redacted: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True, tag="source"):
    """Where the model says that it has something from."""

    url: str
    title: str = ""


class ToolCallStarted(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call_start"):
    call_id: str
    name: str


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="tool_call_delta"):
    """`arguments` is a fragment of JSON text, never empty; the fragments of one call, joined, are the whole."""

    call_id: str
    arguments: str


class ToolCallEnded(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call"):
    """`arguments` is the whole JSON text, as the model wrote it (a model can write invalid JSON)."""

    call_id: str
    name: str
    arguments: str


class ToolOutput(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    """What one of our own tools gave for a call, as JSON text; or the `error` that it ended with, told to the model in
    the same way. The model goes on behind it."""

    call_id: str
    name: str
    result: str = "null"
    error: str = ""


class ObjectPartial(msgspec.Struct, frozen=True, kw_only=True, tag="object"):
    """What the text so far comes to as the JSON value that was asked for, as far as it is known: strings, arrays and
    objects can still grow. The last one is the value itself."""

    partial: Any


class Recovered(msgspec.Struct, frozen=True, kw_only=True, tag="recovered"):
    """The answer broke off at the target `from_`, and `to` goes on with it, whose model calls itself `model`.

    Of the text so far the first `kept_chars` characters (code points) stand, and what follows stands behind those. With
    `exact` all of it stands, and nobody needs to be told."""

    from_: str = msgspec.field(name="from")
    to: str
    kept_chars: int
    model: str
    exact: bool


class Usage(msgspec.Struct, frozen=True, kw_only=True, tag="usage"):
    """`input_tokens` and `output_tokens` are all there were; the others say how many of them were read from the
    provider's cache, written to it, and spent on thinking."""

    input_tokens: int
    output_tokens: int
    source: Literal["provider", "estimated"] = "provider"
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the request: to the first token (`None`: there was none), and to the end."""

    ttft_s: float | None
    duration_s: float


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """`stop_sequence` is the matched one where the provider names it."""

    reason: FinishReason
    usage: Usage | None = None
    timings: Timings | None = None
    stop_sequence: str | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="error", omit_defaults=True):
    """`beside`: it happened to this reader of a resumable stream, and is no event of the stream."""

    error: SluicewayError
    beside: bool = False


Event: TypeAlias = (
    Started
    | TextDelta
    | ReasoningDelta
    | ReasoningEnded
    | Source
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallEnded
    | ToolOutput
    | ObjectPartial
    | Recovered
    | Usage
    | Finished
    | Failed
)


class Batch(msgspec.Struct):
    """What one upstream read completed. `frames` is the same as the provider wrote it, for a client that speaks its
    protocol (None: it speaks another, so the events are to be written); a frame may say something to the client and
    nothing to us, so there can be frames without events. `ended`: the last event is a terminal one."""

    events: list[Event]
    frames: bytes | None = None
    ended: bool = False


TERMINAL = (Finished, Failed)


class State(Enum):
    NEW = auto()
    OPEN = auto()
    COUNTED = auto()  # usage has been said, only the end may follow
    ENDED = auto()


# The protocol is this table: a step that is not in it is illegal.
ORDER: dict[tuple[State, type], State] = {
    (State.NEW, Started): State.OPEN,
    (State.NEW, Failed): State.ENDED,
    (State.OPEN, TextDelta): State.OPEN,
    (State.OPEN, ReasoningDelta): State.OPEN,
    (State.OPEN, ReasoningEnded): State.OPEN,
    (State.OPEN, Source): State.OPEN,
    (State.OPEN, ToolCallStarted): State.OPEN,
    (State.OPEN, ToolCallDelta): State.OPEN,
    (State.OPEN, ToolCallEnded): State.OPEN,
    (State.OPEN, ToolOutput): State.OPEN,
    (State.OPEN, ObjectPartial): State.OPEN,
    (State.OPEN, Recovered): State.OPEN,
    (State.OPEN, Usage): State.COUNTED,
    (State.OPEN, Finished): State.ENDED,
    (State.OPEN, Failed): State.ENDED,
    (State.COUNTED, Finished): State.ENDED,
    (State.COUNTED, Failed): State.ENDED,
}


# By the state alone, since to look up a pair with an Enum in it runs Python code for every token.
_STEPS = {state: {kind: to for (at, kind), to in ORDER.items() if at is state} for state in State}


class IllegalOrder(Exception):
    """An event came where the order table has no step for it: a defect in a reader, never the client's fault."""


class Order:
    """Walks the table. `check` raises `IllegalOrder` and leaves the state as it was.

    Beside the table the tool calls are counted. A delta or an end needs its start, no two calls of an answer have one
    id (their results could not be told apart), and an answer does not finish over an open call (it may fail over one,
    or be stopped). A call has at most one output, behind its end.
    """

    __slots__ = ("_answered_calls", "_call_ids", "_open_calls", "_steps", "state")

    def __init__(self) -> None:
        self.state = State.NEW
        self._steps = _STEPS[self.state]
        self._call_ids: set[str] = set()
        self._open_calls: set[str] = set()
        self._answered_calls: set[str] = set()

    @property
    def calls(self) -> int:
        """How many tool calls were begun."""
        return len(self._call_ids)

    def check(self, event: Event) -> None:
        kind = type(event)
        following = self._steps.get(kind)
        if following is None:
            raise IllegalOrder(f"{kind.__name__} in state {self.state.name}")
        match event:
            case ToolCallStarted(call_id=call_id):
                if call_id in self._call_ids:
                    raise IllegalOrder(f"tool call {call_id!r} started twice")
                self._call_ids.add(call_id)
                self._open_calls.add(call_id)
            case ToolCallDelta(call_id=call_id):
                if call_id not in self._open_calls:
                    raise IllegalOrder(f"arguments for tool call {call_id!r}, which is not open")
            case ToolCallEnded(call_id=call_id):
                if call_id not in self._open_calls:
                    raise IllegalOrder(f"end of tool call {call_id!r}, which is not open")
                self._open_calls.remove(call_id)
            case ToolOutput(call_id=call_id):
                if call_id not in self._call_ids or call_id in self._open_calls | self._answered_calls:
                    raise IllegalOrder(f"output of tool call {call_id!r}, which does not wait for one")
                self._answered_calls.add(call_id)
            case Finished(reason=reason) if self._open_calls and reason != "cancelled":
                raise IllegalOrder(f"finished over open tool calls {sorted(self._open_calls)}")
            case _:
                pass
        self.state = following
        self._steps = _STEPS[following]
