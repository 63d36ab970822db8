"""What the fake provider says: a pure function of the model name, so that a test can compare whole texts word for word.

    answer("fake-n5").text                      the five words
    text_after("fake-n20-cut5", 5)              what had arrived when the line was cut
    answer("fake-tool1-once", tools=["clock"])  a call of `clock`; with step=1 the text that follows its result
    answer("fake-n20-cont", prefill=arrived)    what is still to come of an answer that begins with `arrived`

The answer does not depend on the wire: call ids, text and counts are the same from `/v1/chat/completions`,
`/v1/responses` and `/v1/messages`. A fault never changes the answer, only how much of it arrives. `max_tokens` and the
like are recorded, not obeyed.
"""

import json
import re
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, Literal, NamedTuple

from .behaviour import Behaviour, parse

INPUT_TOKENS = 25

_WORDS = (
    "water", "gate", "river", "lock", "stone", "bridge", "keeper", "morning", "lantern", "barge", "quiet",
    "current", "valley", "turning", "wheel", "iron", "rope", "hand", "slow", "mill", "chain", "field",
    "harvest", "letter", "north", "signal", "copper", "evening", "market", "narrow", "passage", "open", "tide",
    "carry", "engine", "silver", "path", "winter", "garden", "boat", "light", "measure", "level", "basin",
    "steady", "weather", "ladder", "moss", "timber", "crossing", "anchor", "ferry", "summer", "bank", "reed",
    "heron", "channel", "delta",
)  # fmt: skip
_UNICODE_WORDS = (  # sixteen, so that the default sixteen tokens hold every one of them
    "café", "naïve", "東京", "👩‍💻", "Zürich", "данные", "🇨🇭", "e\u0301te\u0301", "مرحبا", "🌊", "语",
    "line\u2028separator", "next\u0085line", 'say "hi"', "back\\slash", "new\nline",
)  # fmt: skip
MARKDOWN = """\
# Locks & sluices

A *sluice* lets water through **in steps**:

- raise the `paddle`
- wait for the level
- open the gate

```python
def fill(level: float) -> float:
    return level + 0.1  # <b>not bold</b>
```

<script>window.hacked=1</script>
<img src=x onerror="window.hacked=2">
[link](javascript:alert(1))

| gate | level |
|------|------:|
| top  |   3.2 |
| tail |   0.4 |

Done.
"""


class ToolCall(NamedTuple):
    """`arguments` is JSON text, as it goes over the wire."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    index: int
    fragment: str


Delta = Reasoning | Text | CallStarted | CallArguments


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `deltas` are its pieces in the order they are sent. `finish_reason` is in OpenAI's words, and
    `content_filter` where the text is a refusal, which OpenAI's own wires say otherwise."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    deltas: tuple[Delta, ...] = field(repr=False)


def answer(model: str, prompt: str = "", *, tools: Sequence[str] = (), step: int = 0, prefill: str = "") -> Answer:
    """The answer to a request.

    `prompt` is the last user message's text (read by `echo`, `by3`), `tools` the names the request offers (calls take
    them in turn, `get_weather` if there are none), `step` how many assistant messages with tool calls the conversation
    holds already, `prefill` the text of the assistant message it ends with (read by `cont`, `again3`). Raises
    UnknownPart.
    """
    return compose(parse(model), prompt, tools, step, prefill)


def text_after(model: str, tokens: int, prompt: str = "", *, prefill: str = "") -> str:
    """The text within the answer's first `tokens` tokens: what a client holds when `cut5`, `stall5`, ... strikes."""
    deltas = answer(model, prompt, prefill=prefill).deltas
    counted = (delta for delta in deltas if isinstance(delta, Text | CallArguments))
    return "".join(delta.text for delta in islice(counted, tokens) if isinstance(delta, Text))


def compose(behaviour: Behaviour, prompt: str, tools: Sequence[str], step: int, prefill: str) -> Answer:
    """`answer` for a model name already read."""
    calls = _tool_calls(behaviour, tools, step)
    tokens = _texts(behaviour, prompt, has_calls=bool(calls))
    held = _held(behaviour, "".join(tokens), prefill)
    thoughts = 0 if held else behaviour.think
    reasoning = [Reasoning(text) for text in _words(_WORDS, thoughts, f"{behaviour.name} thinks")]
    texts = [Text(text) for text in (_after(tokens, held, behaviour.repeats or 0) if held else tokens)]
    deltas: list[Delta] = [*reasoning, *texts]
    for index, call in enumerate(calls):
        deltas.append(CallStarted(index, call.id, call.name))
        deltas += [CallArguments(index, fragment) for fragment in re.findall(r"(?s).{1,7}", call.arguments)]
    return Answer(
        text="".join(delta.text for delta in texts),
        reasoning="".join(delta.text for delta in reasoning),
        tool_calls=calls,
        finish_reason=_finish_reason(behaviour, calls),
        input_tokens=INPUT_TOKENS,
        output_tokens=sum(not isinstance(delta, CallStarted) for delta in deltas),
        reasoning_tokens=len(reasoning),
        deltas=tuple(deltas),
    )


def _finish_reason(
    behaviour: Behaviour, calls: Sequence[ToolCall]
) -> Literal["stop", "length", "tool_calls", "content_filter"]:
    if behaviour.declines:
        return "content_filter"
    return "length" if behaviour.length else "tool_calls" if calls else "stop"


def compose_for(behaviour: Behaviour, body: dict[str, Any]) -> Answer:
    """The answer to a request body of any protocol; what differs here is where a tool keeps its name, and Responses."""
    messages = _messages(body) or _messages_of_items(body.get("input"))
    prompts = [message.get("content") for message in messages if message.get("role") == "user"]
    offered = [tool.get("function", tool).get("name", "") for tool in body.get("tools") or []]
    step = sum(_calls_tools(message) for message in messages if message.get("role") == "assistant")
    return compose(behaviour, _text(prompts[-1] if prompts else None), offered, step, prefill_of(body))


def prefill_of(body: dict[str, Any]) -> str:
    """The text of the assistant message that a request ends with, or "". One that calls tools is none: it is whole."""
    last = (_messages(body) or [{}])[-1]
    return "" if last.get("role") != "assistant" or _calls_tools(last) else _text(last.get("content"))


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def _messages_of_items(items: Any) -> list[dict[str, Any]]:
    """The input of a Responses request as messages; the calls of one turn are one message."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[dict[str, Any]] = []
    for item in items if isinstance(items, list) else []:
        if "role" in item:
            messages.append(item)
        elif item.get("type") == "function_call" and not (messages and _calls_tools(messages[-1])):
            messages.append({"role": "assistant", "tool_calls": [item]})
        elif item.get("type") == "function_call_output":
            messages.append({"role": "tool"})
    return messages


def _text(content: Any) -> str:
    texts = ("text", "input_text", "output_text")
    return "".join(str(block.get("text", "")) for block in _blocks(content) if block.get("type") in texts)


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _calls_tools(message: dict[str, Any]) -> bool:
    blocks = _blocks(message.get("content"))
    return bool(message.get("tool_calls")) or any(block.get("type") == "tool_use" for block in blocks)


def _texts(behaviour: Behaviour, prompt: str, *, has_calls: bool) -> list[str]:
    if behaviour.echo:
        return re.findall(r"\s*\S+|\s+\Z", prompt)[: behaviour.tokens]
    if behaviour.pieces is not None:
        size = max(1, behaviour.pieces)
        text = "" if has_calls and behaviour.tokens is None else prompt
        return [text[at : at + size] for at in range(0, len(text), size)][: behaviour.tokens]
    if behaviour.markdown:
        return re.findall(r"\s*\S{1,5}|\s+\Z", MARKDOWN)[: behaviour.tokens]
    if behaviour.big_kb is not None:
        size = behaviour.big_kb * 1024
        filler = "".join(_words(_WORDS, size // 4, behaviour.name))  # no word with its blank is under four characters
        return [filler[:size]] * (1 if behaviour.tokens is None else behaviour.tokens)
    default = 0 if has_calls else 16
    count = default if behaviour.tokens is None else behaviour.tokens
    return _words(_UNICODE_WORDS if behaviour.unicode else _WORDS, count, behaviour.name)


def _held(behaviour: Behaviour, text: str, prefill: str) -> int:
    """How many characters of `text` the prefill holds; 0 where it does not begin the text, or nobody asked to go on.

    White space at its end that is not the text's own is passed over: the rest begins with the text's.
    """
    if not behaviour.continues and behaviour.repeats is None:
        return 0
    for beginning in (prefill, prefill.rstrip()):
        if text.startswith(beginning):
            return len(beginning)
    return 0


def _after(tokens: list[str], chars: int, repeats: int) -> list[str]:
    """What follows the first `chars` characters, begun `repeats` tokens early; a token cut there gives its rest."""
    starts = list(accumulate(map(len, tokens), initial=0))
    held = bisect_left(starts, chars)  # tokens, one that is cut among them
    start = starts[max(held - repeats, 0)] if repeats else chars
    return [token[max(start - at, 0) :] for at, token in zip(starts, tokens, strict=False) if at + len(token) > start]


def _words(words: Sequence[str], count: int, seed: str) -> list[str]:
    """`count` tokens in sentences of eight, one of them numbered: a lost or doubled stretch shows in a diff."""
    offset = zlib.crc32(seed.encode())
    tokens = []
    for index in range(count):
        word = words[(offset + index * 7) % len(words)] + (str(index) if index % 8 == 5 else "")
        if index % 8 == 0:
            word = word[0].upper() + word[1:]
        tokens.append((" " if index else "") + word + ("." if index % 8 == 7 else ""))
    return tokens


def _tool_calls(behaviour: Behaviour, tools: Sequence[str], step: int) -> tuple[ToolCall, ...]:
    if behaviour.once and step:
        return ()
    names = tools or ["get_weather"]
    return tuple(
        ToolCall(
            id=f"call_{behaviour.name}_{step}_{index}",
            name=names[index % len(names)],
            arguments=json.dumps({"city": f"Zürich 東京 🌧 {index}", "days": index + 1}, ensure_ascii=False),
        )
        for index in range(behaviour.tools)
    )
