"""Two hundred streams at once, of which one in five fails, in every way there is: what each caller got, what the worker
holds when all is over, and whether its books are those of the callers and of the provider.

Every caller has an alias of its own, as what a provider has failed with so far is remembered by its model's name. There
are three kinds: a target alone; with a fallback that gives the same text, so that an answer that broke off is spliced;
and with one that goes on from a prefill.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import requests
from callers import ASKED, WAYS, Caller, Watched, request_bytes
from callers import watched as under_watch
from conftest import Service, eventually
from scraped import Numbers
from test_failures import ANTHROPIC_TYPES
from test_heartbeats import code_in, text_of
from test_routes import DONE, Door, frames, tokens

from app.testing import FakeProvider, answer, text_after
from app.testing.answers import INPUT_TOKENS, prefill_of
from app.testing.behaviour import parse
from app.testing.connection import Request

TRIES = 3
TOKENS = 40
BROKEN_AFTER = 5  # tokens
LEFT_AFTER = 8  # more, so that who leaves an answer that broke off leaves the one that goes on with it
PACE = f"n{TOKENS}-i100"  # 4 s: long enough for all to be there at the same time
AT_ONCE = 150
PROMPT = "hi"

OTHER = {"openai": "anthropic", "anthropic": "openai"}
PROVIDER_AT = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}

Kind = Literal["alone", "spliced", "prefilled"]
KINDS: tuple[Kind, ...] = ("alone", "spliced", "prefilled")

# Of any three in a row at least one is streamed and one is not.
DOORS = [
    next(door for door in ASKED if str(door) == name)
    for name in (
        "chat-openai",
        "messages-openai",
        "chat-whole-anthropic",
        "streams-anthropic",
        "messages-anthropic",
        "messages-whole-openai",
        "streams-openai",
        "chat-whole-openai",
        "chat-anthropic",
        "messages-whole-anthropic",
    )
]


class Trouble(NamedTuple):
    """How a target fails; `code` where it does so for good. How often it is asked: where it is alone, and where a
    fallback stands behind it, streamed and whole."""

    behaviour: str
    code: str | None
    alone: int
    streamed: int
    whole: int
    leaves: bool = False

    @property
    def breaks(self) -> bool:
        """In the middle of its answer."""
        return self.behaviour.partition("-")[0].endswith(str(BROKEN_AFTER))


TROUBLES = [
    # It breaks off: somebody else is asked at once to go on, but for an answer in one piece the same again.
    Trouble("cut5", "stream_broken", TRIES, 1, TRIES),
    Trouble("rst5", "stream_broken", TRIES, 1, TRIES),
    Trouble("eof5", "stream_broken", TRIES, 1, TRIES),
    Trouble("bad5", "stream_broken", TRIES, 1, TRIES),
    Trouble("err5", "provider_overloaded", TRIES, 1, TRIES),
    Trouble("stall5", "idle_timeout", 1, 1, 1),
    Trouble("cut5-times1", None, 2, 1, 2),
    # It does not begin.
    Trouble("e503-times1", None, 2, 2, 2),
    Trouble("e429-ra1-times1", None, 2, 2, 2),
    Trouble("e429-ra60", "provider_rate_limited", 1, 1, 1),
    Trouble("refuse-times1", None, 2, 2, 2),
    Trouble("html", "stream_broken", TRIES, TRIES, TRIES),
    Trouble("empty", "stream_broken", TRIES, TRIES, TRIES),
    # Its client leaves.
    Trouble("", None, 1, 1, 1, leaves=True),
    Trouble("cut5-times1", None, 2, 1, 2, leaves=True),
]
NONE = Trouble("", None, 1, 1, 1)


class Case(NamedTuple):
    number: int
    door: Door
    kind: Kind
    trouble: Trouble
    word: str  # the first of the model's name: its text is that of no other

    @property
    def identity(self) -> str:
        said = self.trouble.behaviour + ("leaves" if self.trouble.leaves else "")
        return f"many-{self.number}-{self.door}-{self.kind}-{said or 'sound'}"

    @property
    def streamed(self) -> bool:
        return "stream" not in self.door.more

    @property
    def whole_text(self) -> str:
        return answer(f"{self.word}-{PACE}").text

    @property
    def primary(self) -> tuple[str, str]:
        """Provider and model."""
        behaviour = self.trouble.behaviour
        return self.door.provider, f"{self.word}-{PACE}" + (f"-{behaviour}" if behaviour else "")

    @property
    def backup(self) -> tuple[str, str]:
        return OTHER[self.door.provider], f"{self.word}-{PACE}" + ("-cont" if self.kind == "prefilled" else "")

    @property
    def asked(self) -> list[tuple[str, str]]:
        """All that the provider is asked, in this order."""
        trouble = self.trouble
        if self.kind == "alone":
            return [self.primary] * trouble.alone
        times = trouble.streamed if self.streamed else trouble.whole
        passes = 0 if not trouble.behaviour else 1 if trouble.behaviour.endswith("-times1") else math.inf
        return [self.primary] * times + [self.backup] * (times <= passes)

    @property
    def code(self) -> str | None:
        """What its caller is told; None: the whole answer."""
        return self.trouble.code if self.kind == "alone" else None

    @property
    def output_tokens(self) -> int:
        """What the provider bills for a whole answer: where it went on from a prefill, for the rest."""
        goes_on = self.kind == "prefilled" and self.trouble.breaks and self.streamed
        return TOKENS - BROKEN_AFTER if goes_on else TOKENS

    def alias(self) -> str:
        """Its tables in sluiceway.toml."""
        table = f'[models."{self.identity}"]\ntarget = "{"/".join(self.primary)}"\n'
        if "stall" in self.trouble.behaviour:
            table += "idle_s = 2.0\n"
        backup = "/".join(self.backup)
        if self.kind == "spliced":
            table += f'fallbacks = ["{backup}"]\n'
        elif self.kind == "prefilled":
            table += f'fallbacks = ["goes-on-{self.number}"]\n'
            table += f'[models."goes-on-{self.number}"]\ntarget = "{backup}"\nprefill = true\n'
        return table


def _cases() -> list[Case]:
    failing = itertools.product(TROUBLES, KINDS)
    cases: list[Case] = []
    for at, (trouble, kind) in enumerate(failing):
        cases.append(Case(len(cases), DOORS[at % len(DOORS)], kind, trouble, f"w{at}"))
        for sound in range(4):  # beside each
            n = at * 4 + sound
            cases.append(Case(len(cases), DOORS[n % len(DOORS)], KINDS[n // 10 % 3], NONE, f"s{n % 8}"))
    return cases


CASES = _cases()
# What is made once (the metrics' files) is made by this one, whose connection to the provider does not stay.
FIRST = next(case for case in CASES if case.trouble.leaves and case.streamed)


class Heard(NamedTuple):
    """What a caller has of an answer: all text, and its end: "finished", our code (on `/v1/messages` Anthropic's word
    for it), or None where it left before."""

    text: str
    end: str | None


def ask(case: Case, service: Watched, provider: FakeProvider) -> Heard:
    """From the first byte to the last, or until its caller leaves."""
    door = replace(case.door, own_names=True)
    request = request_bytes(door, case.identity, case.identity, {"Connection": "close"})
    with Caller(service.address, request) as caller:
        caller.sock.settimeout(60)
        if not case.trouble.leaves:
            caller.read_to_the_end()
            return heard(case, caller)
        if case.streamed:
            # As JSON: its words stand in no other one.
            caller.read_until(json.dumps(tokens(case.primary[1])[LEFT_AFTER - 1]).encode())
            said = Heard(text_of(door, caller.body[: caller.body.rfind(b"\n\n") + 2]), None)
        else:
            number = len(case.asked)
            provider.wait_for(lambda _: len(of(case, provider.requests)) == number, timeout_s=30)
            said = Heard("", None)
        caller.leave(WAYS[case.number % len(WAYS)])
        return said


def heard(case: Case, caller: Caller) -> Heard:
    head, _, body = caller.received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    name = case.door.name
    if status != 200 or not case.streamed:
        said = json.loads(body)
        if status != 200:
            return Heard("", said["error"]["type" if name.startswith("messages") else "code"])
        if name.startswith("messages"):
            assert said["stop_reason"] == "end_turn"
            return Heard("".join(block["text"] for block in said["content"]), "finished")
        (choice,) = said["choices"]
        assert choice["finish_reason"] == "stop"
        return Heard(choice["message"]["content"], "finished")
    body = caller.body
    assert caller.received.endswith(b"\r\n0\r\n\r\n"), "the body's own end"
    return Heard(text_of(case.door, body), "finished" if ends_well(name, body) else code_in(case.door, body))


def ends_well(name: str, body: bytes) -> bool:
    """Whether a streamed body says that it is whole. Fails where it has two identities, or something behind its end."""
    said = frames(body)
    if said[-1] == DONE:
        said.pop()
    data = [frame.data for frame in said]
    last = data[-1]
    if name == "chat":
        ends = [one for one in data if "error" in one or one["choices"][0]["finish_reason"]]
        assert len({one["id"] for one in data if "error" not in one}) == 1
        assert "error" in last or last["choices"][0]["finish_reason"] == "stop"
        finished = "error" not in last
    else:
        terminal = ("message_stop", "error") if name == "messages" else ("finish", "error")
        starts = [one for one in data if one["type"] in ("message_start", "start")]
        ends = [one for one in data if one["type"] in terminal]
        assert len(starts) == 1
        finished = last["type"] != "error"
    assert ends == [last]
    return finished


def of(case: Case, seen: list[Request]) -> list[Request]:
    return [request for request in seen if request.headers.get("x-request-id") == case.identity]


def estimate(chars: int) -> int:
    return math.ceil(chars / 4)


class Everything(NamedTuple):
    """All that is left to look at when every caller is gone."""

    heard: list[Heard]  # by case
    lines: dict[str, dict[str, Any]]  # the log's, by request id
    numbers: Numbers
    requests: list[Request]
    completed: list[Request]  # those that the provider answered to the end
    at_once: dict[str, float]  # what was open at the same time, by who says so
    held_before: dict[str, Any]
    holds: Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    """One of its own: nobody else's requests are in its books."""
    with FakeProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def everything(
    start_service: Callable[..., Service], provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Everything]:
    file = tmp_path_factory.mktemp("many") / "sluiceway.toml"
    file.write_text("".join(case.alias() for case in CASES))
    service = under_watch(start_service, {**provider.env, **RETRY, "SLUICEWAY_CONFIG": str(file)})
    yield _happened(service, provider, file)
    service.assert_no_complaint()
    service.service.stop()


RETRY = {
    "SLUICEWAY_RETRY__ATTEMPTS": str(TRIES),
    "SLUICEWAY_RETRY__BACKOFF_S": "0.05",
    "SLUICEWAY_RETRY__MAX_RETRY_AFTER_S": "3",
}


def _happened(service: Watched, provider: FakeProvider, file: Path) -> Everything:
    said = {FIRST.identity: ask(FIRST, service, provider)}
    eventually(lambda: FIRST.identity in lines_of(service))
    numbers_of(service)
    held_before = service.holds()
    began = time.monotonic()
    with ThreadPoolExecutor(len(CASES)) as pool:
        asking = {case.identity: pool.submit(ask, case, service, provider) for case in CASES if case is not FIRST}
        at_once = {"provider": provider.wait_for(lambda stats: stats.open_streams >= AT_ONCE, 30).open_streams}
        at_once["worker"] = service.holds()["open_streams"]
        at_once["metrics"] = numbers_of(service)["sluiceway_streams_active"]
        said |= {identity: one.result() for identity, one in asking.items()}
    took_s = time.monotonic() - began
    provider.wait_for(lambda stats: stats.open_streams == 0)
    eventually(lambda: len(lines_of(service)) >= len(CASES), what="a line for each")
    requests.post(f"{service.service.url}/close", timeout=10).raise_for_status()
    print(f"\n{len(CASES)} callers in {took_s:.1f} s, {len(provider.requests)} requests; open at once: {at_once}")
    return Everything(
        [said[case.identity] for case in CASES],
        lines_of(service),
        numbers_of(service),
        provider.requests,
        completed(provider),
        at_once,
        held_before,
        service.holds,
    )


def numbers_of(service: Watched) -> Numbers:
    return Numbers(requests.get(f"{service.service.url}/metrics", timeout=10).text)


def lines_of(service: Watched) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in service.service.log.splitlines() if line.startswith("{")]
    found = {line["request_id"]: line for line in lines}
    assert len(found) == len(lines), "one line a stream"
    return found


def completed(provider: FakeProvider) -> list[Request]:
    """By the names of the models and who hung up; the provider's own count says the same."""
    turns: Counter[str] = Counter()
    found = []
    departed = {id(departure.request) for departure in provider.departures}
    for request in provider.requests:
        model = request.body["model"]
        behaviour = parse(model).on_turn(turns[model])
        turns[model] += 1
        fails = behaviour.status or behaviour.refuse or behaviour.html or behaviour.empty or behaviour.stream_faults()
        if id(request) not in departed and not fails:
            found.append(request)
    assert len(found) == provider.stats().completed
    return found


def test_they_were_there_at_the_same_time(everything: Everything) -> None:
    assert len(CASES) >= 200
    assert sum(case.trouble is not NONE for case in CASES) * 5 >= len(CASES)
    assert all(number >= AT_ONCE for number in everything.at_once.values()), everything.at_once


def test_every_caller_got_the_whole_text_or_a_beginning_and_an_error(everything: Everything) -> None:
    for case, said in zip(CASES, everything.heard, strict=True):
        if case.trouble.leaves:
            assert said.end is None
            assert case.whole_text.startswith(said.text), case.identity
        elif case.code is None:
            assert said == Heard(case.whole_text, "finished"), case.identity
        else:
            begun = text_after(case.primary[1], BROKEN_AFTER) if case.trouble.breaks and case.streamed else ""
            code = ANTHROPIC_TYPES[case.code] if case.door.name.startswith("messages") else case.code
            assert said == Heard(begun, code), case.identity


def test_nothing_is_left_behind(everything: Everything, provider: FakeProvider) -> None:
    before, holds = everything.held_before, everything.holds
    for held in ("open_streams", "descriptors", "greenlets"):
        eventually(lambda held=held: holds()[held] <= before[held], what=f"{held} as at the start")
    assert holds()["open_streams"] == everything.numbers["sluiceway_streams_active"] == 0
    assert provider.stats().open_streams == 0


def test_each_asked_the_provider_what_it_had_to_and_no_more(everything: Everything) -> None:
    for case in CASES:
        asked = [(PROVIDER_AT[one.path], one.body["model"]) for one in of(case, everything.requests)]
        assert asked == case.asked, case.identity
        given = [prefill_of(one.body) for one in of(case, everything.requests)]
        goes_on = text_after(case.primary[1], BROKEN_AFTER) if case.output_tokens < TOKENS else ""
        assert given == [""] * (len(asked) - 1) + [goes_on], case.identity


def test_the_line_names_who_answered_and_counts_every_try(everything: Everything) -> None:
    for case in CASES:
        line = everything.lines[case.identity]
        assert line["attempts"] == len(case.asked), case.identity
        assert (line["provider"], line["model"]) == case.asked[-1], case.identity
        assert (
            line["format"]
            == {"chat": "openai_chat", "mess": "anthropic_messages", "stre": "native"}[case.door.name[:4]]
        )


def test_outcomes_are_what_the_callers_saw(everything: Everything) -> None:
    seen: Counter[str] = Counter()
    for case, said in zip(CASES, everything.heard, strict=True):
        outcome = "cancelled" if said.end is None else "finished" if said.end == "finished" else "error"
        seen[outcome] += 1
        line = everything.lines[case.identity]
        code = "cancelled" if outcome == "cancelled" else case.code
        by = "client" if outcome == "cancelled" else None
        assert (line["outcome"], line["code"], line["cancelled_by"]) == (outcome, code, by), case.identity
    numbers = everything.numbers
    for outcome, count in seen.items():
        assert numbers["sluiceway_streams_total", {"outcome": outcome}] == count
    assert numbers["sluiceway_streams_total"] == len(everything.lines) == len(CASES)
    assert numbers["sluiceway_cancel_seconds_count"] == seen["cancelled"]


def test_attempts_are_the_requests_that_the_provider_saw(everything: Everything) -> None:
    numbers = everything.numbers
    assert numbers["sluiceway_attempts_total"] == len(everything.requests)
    assert sum(line["attempts"] for line in everything.lines.values()) == len(everything.requests)
    asked = Counter(PROVIDER_AT[request.path] for request in everything.requests)
    for name, count in asked.items():
        assert numbers["sluiceway_attempts_total", {"provider": name}] == count
    assert numbers["sluiceway_attempts_total", {"result": "ok"}] == len(everything.completed)


def test_what_the_provider_counted_is_what_finished_answers_cost(everything: Everything) -> None:
    """Its numbers come with an answer's end: of a try that broke off there are none."""
    billed = {
        request.headers["x-request-id"]: answer(request.body["model"], prefill=prefill_of(request.body))
        for request in everything.completed
    }
    assert len(billed) == len(everything.completed), "nobody's answer was completed twice"
    told = {name: line for name, line in everything.lines.items() if line["usage_source"] == "provider"}
    assert billed.keys() == told.keys() == {name for name, line in everything.lines.items() if not line["code"]}
    for case in CASES:
        if (line := told.get(case.identity)) is not None:
            bill = billed[case.identity]
            assert (line["input_tokens"], line["output_tokens"]) == (bill.input_tokens, bill.output_tokens)
            assert bill.output_tokens == case.output_tokens, case.identity


def test_an_answer_that_ended_early_is_estimated_from_what_was_delivered(everything: Everything) -> None:
    for case, said in zip(CASES, everything.heard, strict=True):
        line = everything.lines[case.identity]
        if line["outcome"] == "finished":
            continue
        text = said.text
        if not case.streamed and case.trouble.breaks and not case.trouble.leaves:
            text = text_after(case.primary[1], BROKEN_AFTER)  # of the last try: it was not delivered, but is paid for
        if not case.streamed and case.trouble.leaves and line["usage_source"]:
            text = "a"  # some of it may have been read by then
        if not text:
            assert (line["usage_source"], line["input_tokens"], line["output_tokens"]) == (None, 0, 0), case.identity
            continue
        # Anthropic has named the input by then.
        asked = INPUT_TOKENS if case.door.provider == "anthropic" else estimate(len(PROMPT))
        assert (line["usage_source"], line["input_tokens"]) == ("estimated", asked), case.identity
        if case.trouble.leaves:  # what was on its way is delivered, too
            assert estimate(len(text)) <= line["output_tokens"] < estimate(len(case.whole_text)), case.identity
        else:
            assert line["output_tokens"] == estimate(len(text)), case.identity


@pytest.mark.parametrize("kind", ["input", "output"])
def test_usage_adds_up_to_the_providers_numbers_and_the_estimates(everything: Everything, kind: str) -> None:
    counted = sum(
        getattr(answer(request.body["model"], prefill=prefill_of(request.body)), f"{kind}_tokens")
        for request in everything.completed
    )
    estimates = [line for line in everything.lines.values() if line["usage_source"] == "estimated"]
    estimated = sum(line[f"{kind}_tokens"] for line in estimates)
    seen = everything.numbers["gen_ai_client_token_usage_sum", {"gen_ai_token_type": kind}]
    print(f"\n{kind}: {counted} counted by the provider, {estimated} estimated in {len(estimates)} lines")
    assert estimates
    assert seen == counted + estimated
    answered = everything.numbers["gen_ai_client_token_usage_count", {"gen_ai_token_type": kind}]
    assert answered == len(everything.completed) + len(estimates)
