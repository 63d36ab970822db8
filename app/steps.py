"""The steps of one answer: the model calls tools of ours, we run them, and it goes on with what they gave.

    a turn of the model's ends with calls of ours   ->  Running   ->  ToolOutput, as each comes
    all have given theirs                           ->  the next turn, asked with the calls and their outputs

Calls of the client's own tools end the answer: it has to answer them. Those of ours beside them are run before it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import msgspec
from msgspec.structs import replace

from .cancel import Cancel
from .events import (
    Batch,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolOutput,
    Usage,
)
from .formats.base import WholeAnswer
from .registry import nearest
from .request import ChatRequest, Message, Reasoning, Text, ToolCall, ToolChoice, ToolResult
from .tools import Running, ServedTool
from .tools.running import failed


class Steps:
    """Of an answer whose request names tools of ours (`served`). All events of its turns pass through `feed`, and the
    last batch of each through `end`; while `running`, `read` gives the outputs, and when that is over, there is the
    `request` of the next turn. `max_turns` is how often the model may be asked."""

    def __init__(
        self,
        request: ChatRequest,
        served: Mapping[str, ServedTool],
        *,
        max_turns: int,
        cancel: Cancel,
        around: Callable[[], AbstractContextManager[object]],
        request_id: str,
    ) -> None:
        self.request = request
        self.running: Running | None = None
        self._served = served
        self._own = {tool.name for tool in request.tools} - set(served)  # the client's
        self._max_turns = max_turns
        self._cancel = cancel
        self._around = around
        self._request_id = request_id
        self._turns = 1
        self._turn = WholeAnswer()
        self._before = 0  # characters of text in earlier turns
        self._outputs: list[ToolOutput] = []
        self._taken: set[str] = {
            part.call_id for message in request.messages for part in message.parts if isinstance(part, ToolCall)
        }
        self._names: dict[str, str] = {}  # of this turn's calls
        self._last: Finished | None = None  # ends the answer when all outputs are there, where the model does not go on

    def feed(self, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            match event:
                case Started() if self._turns > 1:
                    continue
                case Recovered(kept_chars=stands) if self._before:
                    self._turn.feed([event])
                    out.append(replace(event, kept_chars=self._before + stands))
                    continue
                case Failed():
                    out.append(event)
                    continue
                case ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
                    event = replace(event, call_id=self._named(event))
                case _:
                    pass
            self._turn.feed([event])
            out.append(event)
        return out

    def _named(self, event: ToolCallStarted | ToolCallDelta | ToolCallEnded) -> str:
        """There are providers that name the calls of each turn alike."""
        said = event.call_id
        if isinstance(event, ToolCallStarted):
            named, number = said, 2
            while named in self._taken:
                named, number = f"{said}-{number}", number + 1
            self._taken.add(named)
            self._names[said] = named
        return self._names.get(said, said)

    def end(self, batch: Batch) -> tuple[Batch, list[Event]]:
        """The last batch of a turn, of which the end is taken where calls of ours are to be run; and what was taken of
        it that was spent."""
        if not isinstance(last := batch.events[-1], Finished) or last.reason not in ("tool_calls", "stop"):
            return Batch(self.feed(batch.events), batch.frames, True), []
        at_the_end: list[Event] = [event for event in batch.events if isinstance(event, Usage | Finished)]
        events = self.feed([event for event in batch.events if not isinstance(event, Usage | Finished)])
        calls = [call for call in self._turn.calls if call.name not in self._own]
        if not calls:
            return Batch(events + at_the_end, batch.frames, True), []
        if self._turns >= self._max_turns:
            told = f"not called: the model has been asked {self._turns} times, all that an answer may (tools.max_steps)"
            outputs = [failed(call, told) for call in calls]
            return Batch([*events, *outputs, *at_the_end], None, True), []
        if len(calls) < len(self._turn.calls):
            self._last = last
        self._outputs = [self._unknown(call) for call in calls if call.name not in self._served]
        ours = ((self._served[call.name], call) for call in calls if call.name in self._served)
        self.running = Running(ours, self._cancel, self._around, self._request_id)
        return Batch([*events, *self._outputs], None, False), at_the_end

    def _unknown(self, call: ToolCallEnded) -> ToolOutput:
        return failed(call, f"there is no tool {call.name[:100]!r}; {nearest(call.name, {*self._served, *self._own})}")

    def read(self, until: float) -> Batch | None:
        """The outputs that have come by then; behind the last one the end of an answer that the client goes on with."""
        running = self.running
        if running is None:
            return None
        outputs = running.read(until)
        self._outputs += outputs
        events: list[Event] = [*outputs]
        if running.over:
            running.close()
            self.running = None
            if self._last is not None:
                return Batch([*events, self._last], None, True)
            self._go_on()
        return Batch(events) if events or self.running is None else None

    def _go_on(self) -> None:
        turn = self._turn
        by_id = {output.call_id: _result(output) for output in self._outputs}
        said = (
            *self.request.messages,
            Message("assistant", tuple(_spoken(turn.events))),
            Message("user", tuple(by_id[call.call_id] for call in turn.calls)),
        )
        # What had to be called has been called; the same again would never end.
        choice = self.request.tool_choice
        if choice is not None and choice.mode in ("required", "tool"):
            choice = ToolChoice("auto")
        self.request = replace(self.request, messages=said, tool_choice=choice)
        self._turns += 1
        self._before += len(turn.text)
        self._turn = WholeAnswer()
        self._outputs = []
        self._names = {}

    def close(self) -> None:
        if self.running is not None:
            self.running.close()
            self.running = None


def _spoken(events: list[Event]) -> list[Text | Reasoning | ToolCall]:
    """A turn as the model is to be shown it again: in the order in which it was said, since a provider that signs its
    thoughts refuses them in another place."""
    spoken: list[Text | Reasoning | ToolCall] = []
    texts: list[str] = []
    thought: list[str] = []

    def ended() -> None:
        if text := "".join(texts):
            spoken.append(Text(text))
        if thought:
            spoken.append(Reasoning("".join(thought)))
        texts.clear()
        thought.clear()

    for event in events:
        match event:
            case TextDelta(text=text):
                if thought:
                    ended()
                texts.append(text)
            case ReasoningDelta(text=text):
                if texts:
                    ended()
                thought.append(text)
            case ReasoningEnded(signature=signature, redacted=""):
                sealed = Reasoning("".join(thought), signature)
                thought.clear()
                ended()
                spoken.append(sealed)
            case ReasoningEnded(redacted=redacted):
                ended()
                spoken.append(Reasoning(redacted=redacted))
            case ToolCallEnded(call_id=call_id, name=name, arguments=arguments):
                ended()
                spoken.append(ToolCall(call_id, name, arguments))
            case Recovered(kept_chars=stands):
                ended()
                spoken = _standing(spoken, stands)
                if spoken and isinstance(last := spoken[-1], Text):  # which goes on
                    texts.append(last.text)
                    spoken.pop()
            case _:
                pass
    ended()
    return spoken


def _standing(spoken: list[Text | Reasoning | ToolCall], chars: int) -> list[Text | Reasoning | ToolCall]:
    """With so many characters of its text."""
    kept: list[Text | Reasoning | ToolCall] = []
    for part in spoken:
        if isinstance(part, Text):
            part = Text(part.text[:chars])
            chars -= len(part.text)
            if not part.text:
                continue
        kept.append(part)
    return kept


def _result(output: ToolOutput) -> ToolResult:
    if output.error:
        return ToolResult(output.call_id, (Text(output.error),), failed=True)
    return ToolResult(output.call_id, (Text(_plain_text(output.result)),))


def _plain_text(result: str) -> str:
    """A string as it is, any other JSON as JSON."""
    return str(msgspec.json.decode(result)) if result.startswith('"') else result
