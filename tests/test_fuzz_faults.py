"""Random faults at random bytes of the provider's response, thousands of them, over real sockets.

Whatever the provider does, and however its answer is continued, repeated or replaced, in every format:

    the caller's text  ==  the whole true answer, and then a success
                       or  a beginning of it, and then an error: of HTTP where nothing had been said before

and it is one end, in good time. Where little enough fails for the tries to mend it, it is the success.

What a provider's framing can't show is no fault here: bytes inside a JSON string are not touched, as that is another
answer. A seed of its own: `FUZZ_SEED=7 pytest tests/test_fuzz_faults.py`.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from app import create_app
from app.testing import FakeProvider, Request, ToolCall
from app.testing.answers import Answer, CallArguments, CallStarted, Delta, Reasoning, Text, prefill_of
from app.testing.behaviour import Behaviour
from app.testing.connection import Connection
from app.testing.framing import LAST_CHUNK, head
from app.testing.wires import WIRES, Call, Frame, Wire

SEED = int(os.environ.get("FUZZ_SEED", "1"))
CASES = 630  # of each of the eight formats
SILENT = 10  # of them, in which the provider falls silent: each takes as long as a clock

IN_TIME_S = 8.0  # no clock but the short ones rings before that, so whoever waits for one has hung
SHORT_S = 0.04  # the clocks in those
TRIES = 3


# What the provider does.


@dataclass(frozen=True)
class Fault:
    """One failing response. `at` says where, in 4096ths of its bytes, or at which boundary of a frame or of a chunk, or
    how many bytes beside it; that, `how` and `junk`, which are what a kind makes of them, stand in the `dice`."""

    kind: str
    at: int
    dice: bytes

    @property
    def beside(self) -> int | None:
        return (None, None, None, 0, 1, -1)[self.dice[0] % 6]

    @property
    def how(self) -> int:
        return self.dice[1]

    @property
    def junk(self) -> bytes:
        return self.dice[2:]

    def place(self, pieces: Iterable[bytes]) -> int:
        """In front of one of their bytes."""
        edges = [0, *itertools.accumulate(map(len, pieces))]
        end = edges[-1]
        found = self.at * end // PLACES if self.beside is None else edges[self.at % len(edges)] + self.beside
        return min(max(found, 0), end - 1)


PLACES = 4096
ENDS = ("fin", "rst", "end")
KINDS = (*ENDS, "garbage", "bad frame", "error event", "framing", "character", "status")
STATUSES = (408, 429, 500, 503, 529)
NO_JSON = ("<html>", '{"choices":[{"index":0,"del', '{"type":"content_block_delta","del', "\ufffd", "5}", "[")


@dataclass(frozen=True)
class Plan:
    """`main` is said by the target, and by a fallback that says the same; `other` by one that does not."""

    main: Answer
    other: Answer
    faults: tuple[Fault, ...]  # of the first responses; the others are good
    prefill: str  # a model that is to go on "continues", "repeats" some characters first, or "refuses" with 400
    repeated: int
    pieces: int  # characters of those that later tries say; 0: the same pieces again
    chunks: int  # bytes of each; 0: a frame each
    segments: tuple[int, ...]  # where the bytes are cut, in 4096ths
    done: bool  # whether there is an end mark


class Sent(NamedTuple):
    """`body`: so many bytes of the frames are in it, before anything is wrong. `end`: what follows."""

    raw: bytes
    body: int = 0
    end: str = "go on"


class Breaking(FakeProvider):
    """Answers one request after the other as `plan` says. `failed` counts the faults so far, `broken` those of them
    that broke an answer off in its text."""

    def play(self, plan: Plan) -> None:
        self.plan, self.asked, self.failed, self.broken = plan, 0, 0, 0

    def _answer(self, connection: Connection, request: Request) -> bool:
        sent = self._response(request)
        cuts = sorted({0, len(sent.raw), *(at * len(sent.raw) // PLACES for at in self.plan.segments)})
        for start, stop in itertools.pairwise(cuts):
            if start:
                time.sleep(0.0002)  # the reader's turn
            connection.send(sent.raw[start:stop])
        if sent.end == "silence":
            connection.wait(None)
        elif sent.end != "go on":
            connection.close(reset=sent.end == "rst")
        return sent.end == "go on"

    def _response(self, request: Request) -> Sent:
        self.asked += 1
        plan, wire, prefill = self.plan, WIRES[request.path], prefill_of(request.body)
        if prefill and (plan.prefill == "refuses" or wire.wrong_prefill(prefill)):
            return Sent(_json(400, wire.prefill_refused()))
        answer = plan.other if request.body["model"] == "other" else plan.main
        if self.asked > 1 and answer.text.startswith(prefill):
            # Less than Sluiceway takes for a repetition is none.
            repeated = plan.repeated if plan.prefill == "repeats" and plan.repeated <= len(prefill) else 0
            if _is_a_row(answer.text, len(prefill) - repeated, len(prefill)):
                repeated = 0
            answer = _behind(answer, len(prefill) - repeated, plan.pieces)
        behaviour = Behaviour(request.body["model"], request.body["model"], no_done=not plan.done)
        call = Call(behaviour, request.body, "fuzz", 1_700_000_000, "")
        spoken = list(wire.frames(call, answer))
        frames = [_sse(frame) for frame in spoken]
        if self.failed == len(plan.faults):
            return Sent(HEAD + b"".join(self._chunks(frames)) + LAST_CHUNK)
        sent = self._broken(wire, frames, plan.faults[self.failed])
        self.failed += 1
        tokens = [sum(map(len, frames[: at + 1])) for at, frame in enumerate(spoken) if frame.counted]
        self.broken += bool(answer.text) and tokens[0] <= sent.body < tokens[-1]
        return sent

    def _chunks(self, frames: list[bytes]) -> list[bytes]:
        if size := self.plan.chunks:
            body = b"".join(frames)
            frames = [body[at : at + size] for at in range(0, len(body), size)]
        return [_chunk(data) for data in frames if data]

    def _broken(self, wire: Wire, frames: list[bytes], fault: Fault) -> Sent:
        kind, how = fault.kind, fault.how
        match kind:
            case "status":
                status = STATUSES[how % len(STATUSES)]
                return Sent(_json(status, wire.error(status)))
            case "bad frame" | "error event":
                place, before = fault.place(frames), 0
                while sum(map(len, frames[:before])) < place:
                    before += 1
                spliced = Frame(NO_JSON[fault.junk[0] % len(NO_JSON)]) if kind == "bad frame" else wire.error_frame()
                after = ([], frames[before:], frames[before + 1 :])[how % 3]  # the last: in a frame's place
                chunks = self._chunks([*frames[:before], _sse(spliced), *after])
                return Sent(HEAD + b"".join(chunks) + LAST_CHUNK, sum(map(len, frames[:before])))
            case "end" | "character":
                place, body = fault.place(frames), b"".join(frames)
                if kind == "character":
                    inside = (at for at in range(place, len(body)) if body[at] & 0xC0 == 0x80)
                    place = next(inside, place)
                    kind = ENDS[how % len(ENDS)]
                raw = HEAD + b"".join(self._chunks([body[:place]]))
                return Sent(raw + LAST_CHUNK, place) if kind == "end" else Sent(raw, place, kind)
            case "framing":
                return self._misframed(frames, fault)
            case _:
                chunks = self._chunks(frames)
                place = fault.place([HEAD, *chunks, LAST_CHUNK])
                raw = (HEAD + b"".join(chunks) + LAST_CHUNK)[:place]
                around = sum(len(chunk) for chunk in chunks) - sum(map(len, frames))
                body = max(place - len(HEAD) - around, 0)  # at least
                return Sent(raw + fault.junk, body, "fin") if kind == "garbage" else Sent(raw, body, kind)

    def _misframed(self, frames: list[bytes], fault: Fault) -> Sent:
        """One byte of what stands around the chunks is another, doubled, or missing. The chunks are frames: in the
        middle of one, the lines of the framing could end a line of the answer, and nobody would see that it is gone."""
        framing = [piece for data in frames for piece in _chunk(data).split(data)] + [LAST_CHUNK]
        which = fault.at * len(framing) // PLACES
        piece = framing[which]
        at = fault.how % len(piece)
        instead = (fault.junk[:1], piece[at : at + 1] * 2, b"")[fault.how % 3]
        framing[which] = piece[:at] + instead + piece[at + 1 :]
        raw = b"".join(framing[2 * n] + data + framing[2 * n + 1] for n, data in enumerate(frames)) + framing[-1]
        return Sent(HEAD_OF_ONE + raw, sum(map(len, frames[: which // 2])), "fin")


HEAD = head(200, "text/event-stream; charset=utf-8", {"Cache-Control": "no-cache"})
HEAD_OF_ONE = head(200, "text/event-stream; charset=utf-8", {"Connection": "close"})


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(status: int, body: Any) -> bytes:
    payload = json.dumps(body, ensure_ascii=False).encode()
    return head(status, "application/json", {}, len(payload)) + payload


def _sse(frame: Frame) -> bytes:
    return (f"event: {frame.event}\n" if frame.event else "").encode() + f"data: {frame.data}\n\n".encode()


def _behind(answer: Answer, start: int, size: int) -> Answer:
    """What of it comes behind so many characters of its text; in pieces of `size`, 0: as they were."""
    pieces = [delta.text for delta in answer.deltas if isinstance(delta, Text)]
    if size:
        pieces = [answer.text[at : at + size] for at in range(0, len(answer.text), size)]
    ends = itertools.accumulate(map(len, pieces))
    rest = [piece[max(start - end, -len(piece)) :] for piece, end in zip(pieces, ends, strict=True) if end > start]
    thoughts = () if start else tuple(delta.text for delta in answer.deltas if isinstance(delta, Reasoning))
    return said(rest, answer.tool_calls, thoughts)


def said(tokens: list[str], calls: tuple[ToolCall, ...] = (), thoughts: tuple[str, ...] = ()) -> Answer:
    deltas: list[Delta] = [*map(Reasoning, thoughts), *map(Text, tokens)]
    for index, call in enumerate(calls):
        deltas.append(CallStarted(index, call.id, call.name))
        deltas += [CallArguments(index, fragment) for fragment in re.findall(r"(?s).{1,9}", call.arguments)]
    reason = "tool_calls" if calls else "stop"
    return Answer(
        "".join(tokens), "".join(thoughts), calls, reason, 25, max(len(deltas), 1), len(thoughts), tuple(deltas)
    )


# What the caller got.


class Read(NamedTuple):
    """A response that has one end, and is well formed. `calls` are (name, JSON text); `spoke`: something of the answer
    was shown before the end."""

    text: str
    calls: list[tuple[str, str]] | None  # None: not shown
    whole: bool
    spoke: bool
    recovered: bool = False


OURS = "inside the service"  # what a failure of our own is called


def events_in(body: str) -> list[tuple[dict[str, str], Any]]:
    """The fields of every SSE frame, and its data's value; "[DONE]" stands for itself."""
    *blocks, rest = body.split("\n\n")
    assert rest == ""
    found = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields, fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])))
    return found


def read_chat(body: str) -> Read:
    data = [value for _, value in events_in(body)]
    end = data.pop()
    assert not any(value == "[DONE]" or "error" in value for value in data), "one end, and nothing behind it"
    assert len({value["id"] for value in data}) <= 1
    choices = [choice for value in data for choice in value["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    deltas = [choice["delta"] for choice in choices]
    calls: list[list[str]] = []
    for call in (call for delta in deltas for call in delta.get("tool_calls") or ()):
        if call["index"] == len(calls):
            calls.append([call["function"]["name"], ""])
        calls[call["index"]][1] += call["function"].get("arguments") or ""
    if end == "[DONE]":
        assert len(reasons) == 1
        assert reasons == ["tool_calls" if calls else "stop"]
    else:
        assert reasons == []
        assert end["error"]["code"] != "internal"
    text = "".join(delta.get("content") or "" for delta in deltas)
    spoke = bool(text or calls or any(delta.get("reasoning_content") for delta in deltas))
    return Read(text, [(name, arguments) for name, arguments in calls], end == "[DONE]", spoke)


def read_messages(body: str) -> Read:
    events = events_in(body)
    assert all(fields["event"] == value["type"] for fields, value in events)
    events = [(fields, value) for fields, value in events if value["type"] != "ping"]
    kinds = [value["type"] for _, value in events]
    assert kinds.count("message_start") == 1
    assert kinds[0] == "message_start"
    assert sum(kind in ("message_stop", "error") for kind in kinds) == 1, "one end"
    assert kinds[-1] in ("message_stop", "error"), "and nothing behind it"
    whole = kinds[-1] == "message_stop"
    assert kinds.count("message_delta") == whole
    text, thought, index, block = "", "", -1, None
    calls: list[list[str]] = []
    for _, value in events:
        match value["type"]:
            case "content_block_start":
                index += 1
                assert (block, value["index"]) == (None, index)
                block = value["content_block"]["type"]
                if block == "tool_use":
                    calls.append([value["content_block"]["name"], ""])
            case "content_block_delta":
                assert value["index"] == index
                delta = value["delta"]
                assert WITHIN[delta["type"]] == block
                text += delta.get("text", "")
                thought += delta.get("thinking", "")
                if block == "tool_use":
                    calls[-1][1] += delta["partial_json"]
            case "content_block_stop":
                assert block is not None
                assert value["index"] == index
                block = None
            case "message_delta":
                assert value["delta"]["stop_reason"] == ("tool_use" if calls else "end_turn")
            case "error":
                assert OURS not in value["error"]["message"]
    assert block is None or not whole
    return Read(text, [(name, arguments) for name, arguments in calls], whole, bool(text or thought or calls))


WITHIN = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "input_json_delta": "tool_use",
}


def read_native(body: str) -> Read:
    events = events_in(body)
    assert events.pop() == ({"data": "[DONE]"}, "[DONE]")
    return told([({"event_id": int(fields["id"])} | value) for fields, value in events])


def read_ndjson(body: str) -> Read:
    *lines, rest = body.split("\n")
    assert rest == ""
    return told([json.loads(line) for line in lines])


def told(events: list[dict[str, Any]]) -> Read:
    assert [event["event_id"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert sum(kind in ("finish", "error") for kind in kinds) == 1, "one end"
    assert kinds[-1] in ("finish", "error"), "and nothing behind it"
    assert (kinds.count("start"), kinds[0]) == (1, "start")
    text, spoke = "", False
    calls: dict[str, list[str]] = {}
    for event in events:
        match event["type"]:
            case "text":
                text += event["text"]
                spoke = True
            case "reasoning":
                spoke = True
            case "recovered":
                assert calls == {}
                assert event["kept_chars"] < len(text), "or there is nothing to be told"
                text = text[: event["kept_chars"]]
            case "tool_call_start":
                assert event["call_id"] not in calls
                calls[event["call_id"]] = [event["name"], ""]
                spoke = True
            case "tool_call_delta":
                calls[event["call_id"]][1] += event["arguments"]
            case "tool_call":
                assert event["arguments"] == json.loads(calls[event["call_id"]][1])
            case "error":
                assert event["code"] != "internal"
            case "finish":
                assert event["reason"] == ("tool_calls" if calls else "stop")
    shown = [(name, arguments) for name, arguments in calls.values()]
    return Read(text, shown, kinds[-1] == "finish", spoke, "recovered" in kinds)


def read_plain(body: str) -> Read:
    text, error, _ = body.partition("[Error: ")
    assert OURS not in body
    return Read(text.removesuffix("\n") if error else text, None, not error, bool(text))


def read_text_sse(body: str) -> Read:
    events = events_in(body)
    fields, end = events.pop()
    assert all(set(value) == {"text"} for _, value in events), "one end, and nothing behind it"
    assert end == "[DONE]" or (fields["event"] == "error" and end["code"] != "internal")
    return Read("".join(value["text"] for _, value in events), None, end == "[DONE]", bool(events))


def read_chat_whole(body: str) -> Read:
    (choice,) = json.loads(body)["choices"]
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in choice["message"].get("tool_calls", ())
    ]
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    return Read(choice["message"]["content"] or "", calls, True, True)


def read_messages_whole(body: str) -> Read:
    value = json.loads(body)
    blocks = value["content"]
    calls = [(block["name"], json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"]
    assert value["stop_reason"] == ("tool_use" if calls else "end_turn")
    return Read("".join(block["text"] for block in blocks if block["type"] == "text"), calls, True, True)


class Form(NamedTuple):
    path: str
    body: dict[str, Any]
    read: Callable[[str], Read]

    @property
    def streams(self) -> bool:
        return self.body.get("stream", True)


HI = [{"role": "user", "content": "Hi"}]
FORMS = {
    "chat": Form("/v1/chat/completions", {"messages": HI, "stream": True}, read_chat),
    "chat whole": Form("/v1/chat/completions", {"messages": HI, "stream": False}, read_chat_whole),
    "messages": Form("/v1/messages", {"messages": HI, "max_tokens": 500, "stream": True}, read_messages),
    "messages whole": Form("/v1/messages", {"messages": HI, "max_tokens": 500, "stream": False}, read_messages_whole),
    "native": Form("/v1/streams", {"messages": HI}, read_native),
    "ndjson": Form("/v1/streams", {"messages": HI, "format": "ndjson"}, read_ndjson),
    "plain text": Form("/stream/{provider}", {"prompt": "Hi"}, read_plain),
    "text sse": Form("/chat", {"prompt": "Hi"}, read_text_sse),
}
TELLING = ("native", "ndjson")  # the formats with a word for a text that is taken back


# One app for all of it: every configuration is an alias.

PROVIDERS = ("openai", "anthropic")
FALLBACKS = ("none", *(f"{text}-{provider}" for text in ("same", "other") for provider in PROVIDERS))
RECOVERIES = ("continue", "restart", "off")
CLOCKS = {"": {}, "-silent": {"first_token_s": SHORT_S, "idle_s": SHORT_S}}


def aliases() -> dict[str, Any]:
    models: dict[str, Any] = {}
    for prefill, (clocks, times) in itertools.product((False, True), CLOCKS.items()):
        rest = f"{'-prefill' if prefill else ''}{clocks}"
        for text, provider in itertools.product(("same", "other"), PROVIDERS):
            goes_on = {"prefill": prefill and text == "same"}
            models[f"{text}-{provider}{rest}"] = {"target": f"{provider}/{text}", **goes_on, **times}
        for provider, fallback, recovery in itertools.product(PROVIDERS, FALLBACKS, RECOVERIES):
            models[f"{provider}-{fallback}-{recovery}{rest}"] = {
                "target": f"{provider}/main",
                "fallbacks": [] if fallback == "none" else [f"{fallback}{rest}"],
                "recovery": recovery,
                "prefill": prefill,
                **times,
            }
    return models


@pytest.fixture(scope="module")
def provider() -> Iterator[Breaking]:
    with Breaking() as one:
        yield one


@pytest.fixture(scope="module")
def client(provider: Breaking) -> Iterator[FlaskClient]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in provider.env.items():
            patch.setenv(name, value)
        tree = {
            "models": aliases(),
            "retry": {"attempts": TRIES, "backoff_s": 0.0005, "max_backoff_s": 0.001},
            "breaker": {"failures": 1_000_000_000},
            "timeouts": {"connect_s": 20.0, "first_token_s": 10.0, "idle_s": 10.0, "total_s": 30.0},
            "server": {"hold_s": 60.0},
        }
        app = create_app({"SLUICEWAY": tree})
    logging.disable()  # some lines for every failing try
    yield app.test_client()
    logging.disable(logging.NOTSET)
    app.extensions["sluiceway"].close()


def _is_a_row(text: str, start: int, stop: int) -> bool:
    """Whether it goes from one line break to another: of these Sluiceway takes a second one for just that."""
    return start > 0 and "\n" in text[start - 1 : start + 1] and "\n" in text[stop - 1 : stop + 1]


# The cases.

# Where a model may be prefilled, its words are numbered: one that says the same twelve characters twice in a row can't
# be told from one that repeats where it stood.
NUMBERED = ("gate", "東京", "🌊", "é\u0301", "a\u2028b", "x\u0085", "n\n", '"q"', "\\")
BLANKS = ("", " ", "", "\n\n")
WORDS = (*NUMBERED, "ha ", "ha ", " ", "\n", "👩‍💻", "🇨🇭", "[DONE]", "data: x\n\n", "\u2029", "0")
# A byte a word: to draw each of its own takes as long as the rest of a case.
lengths = st.one_of(st.binary(min_size=5, max_size=9), st.binary(min_size=5, max_size=9), st.binary(max_size=4))
any_words = lengths.map(lambda dice: [WORDS[one % len(WORDS)] for one in dice])
numbered = lengths.map(
    lambda dice: [NUMBERED[one % len(NUMBERED)] + str(n + 10) + BLANKS[one % len(BLANKS)] for n, one in enumerate(dice)]
)
CALLS = (
    ToolCall("call_1", "get_weather", '{"city": "Zürich 東京 🌧", "days": 3}'),
    ToolCall("call_2", "clock", "{}"),
)
some_calls = st.sampled_from([(), (), (), (), (), CALLS[:1], CALLS])
some_thoughts = st.sampled_from([(), (), (), (), ("Hm", " …"), ("Hm", " …", " 東京.")])


def faults(*kinds: str) -> st.SearchStrategy[Fault]:
    dice = st.binary(min_size=4, max_size=4)
    return st.builds(Fault, st.sampled_from(kinds), st.integers(0, PLACES - 1), dice)


silences = faults("silence")
some_faults = st.sampled_from([1, 1, 1, 2, 2, 3, 5, 0]).flatmap(
    lambda count: st.lists(faults(*KINDS), min_size=count, max_size=count)
)


class Case(NamedTuple):
    provider: str
    fallback: str
    recovery: str
    prefill: bool
    silent: bool
    plan: Plan

    @property
    def model(self) -> str:
        rest = f"{'-prefill' if self.prefill else ''}{'-silent' if self.silent else ''}"
        return f"{self.provider}-{self.fallback}-{self.recovery}{rest}"

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Any of these is the true one."""
        return (self.plan.main, self.plan.other) if self.fallback.startswith("other") else (self.plan.main,)

    def must_succeed(self, form: str) -> bool:
        """Whether so little fails that the tries have to mend it."""
        failures = len(self.plan.faults)
        if self.silent or failures >= TRIES:
            return False
        if not FORMS[form].streams or failures == 0:
            return True
        if self.recovery == "off" or self.plan.main.tool_calls:  # behind a call nothing is recovered
            return False
        return len(self.answers) == 1 or (form in TELLING and not self.plan.other.tool_calls)


@st.composite
def cases(draw: st.DrawFn, silent: bool) -> Case:
    prefill = draw(st.booleans())
    words = numbered if prefill else any_words
    tokens, calls, thoughts = draw(words), draw(some_calls), draw(some_thoughts)
    common = tokens[: draw(st.integers(0, 9))]
    broken = draw(some_faults)
    if silent:
        broken = [draw(silences), *broken[1:]]
    plan = Plan(
        main=said(tokens, calls, thoughts),
        other=said([*common, *draw(any_words)], draw(some_calls), draw(some_thoughts)),
        faults=tuple(broken),
        prefill=draw(st.sampled_from(["continues", "repeats", "refuses"])),
        repeated=draw(st.integers(12, 24)),
        pieces=draw(st.sampled_from([0, 0, 1, 2, 5, 1000])),
        chunks=draw(st.sampled_from([0, 0, 0, 3, 17, 100, 1 << 20])),
        segments=tuple(draw(st.lists(st.integers(0, PLACES - 1), max_size=3))),
        done=draw(st.sampled_from([True, True, False])),
    )
    return Case(
        provider=draw(st.sampled_from(PROVIDERS)),
        fallback=draw(st.sampled_from(FALLBACKS)),
        recovery=draw(st.sampled_from(["continue", *RECOVERIES])),
        prefill=prefill,
        silent=silent,
        plan=plan,
    )


def check(client: FlaskClient, provider: Breaking, name: str, case: Case, reached: Counter[str]) -> None:
    form = FORMS[name]
    provider.play(case.plan)
    began = time.monotonic()
    with client.post(form.path.format(provider=case.provider), json={**form.body, "model": case.model}) as response:
        body = response.get_data().decode()
    assert time.monotonic() - began < IN_TIME_S
    assert client.application.extensions["sluiceway"].open_streams == 0
    assert provider.asked <= 2 * (TRIES + 1)

    if response.status_code == 200:
        read = form.read(body)
        unseen = read.calls is None and any(answer.tool_calls or answer.reasoning for answer in case.answers)
        assert read.spoke or read.whole or unseen, "a failure before the first byte is an error of HTTP"
    else:
        said_so = json.loads(body)["error"]
        assert response.status_code in (429, 502, 503, 504), body
        assert response.mimetype == "application/json"
        assert said_so["message"]
        read = Read("", [], False, False)
    assert any(agrees(read, answer) for answer in case.answers), (read, case.answers)
    assert read.whole or not case.must_succeed(name), body

    reached.update({fault.kind for fault in case.plan.faults[: provider.failed]})
    reached["cases"] += 1
    reached["success" if read.whole else "error" if response.status_code == 200 else "error of HTTP"] += 1
    reached["mended"] += read.whole and provider.asked > 1
    reached["recovered"] += read.whole and provider.asked > 1 and provider.broken > 0
    reached["taken back"] += read.recovered


def agrees(read: Read, answer: Answer) -> bool:
    """Whether it is this answer, whole, or its beginning and an error."""
    calls = [(call.name, call.arguments) for call in answer.tool_calls]
    if read.whole:
        shown = read.calls is None or (
            [(name, json.loads(arguments)) for name, arguments in read.calls]
            == [(name, json.loads(arguments)) for name, arguments in calls]
        )
        return read.text == answer.text and shown
    begun = read.calls or []
    return (
        answer.text.startswith(read.text)
        and len(begun) <= len(calls)
        and (not begun or read.text == answer.text)
        and all(
            name == whole_name and arguments.startswith(said_so)
            for (name, said_so), (whole_name, arguments) in zip(begun, calls, strict=False)
        )
    )


@pytest.mark.parametrize("name", FORMS)
def test_a_broken_answer_is_a_beginning_and_an_error_or_the_whole(
    client: FlaskClient, provider: Breaking, name: str
) -> None:
    reached: Counter[str] = Counter()

    for silent, count in ((True, SILENT), (False, CASES - SILENT)):

        @seed(f"{SEED} {name}")
        @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=cases(silent))
        def fuzz(case: Case) -> None:
            check(client, provider, name, case, reached)

        fuzz()
    outcomes = ["success", "error of HTTP", "mended"]
    if FORMS[name].streams:
        outcomes += ["error", "recovered"]
    if name in TELLING:
        outcomes += ["taken back"]
    assert reached["cases"] >= CASES
    assert [what for what in (*KINDS, "silence", *outcomes) if not reached[what]] == []
