"""Every stream through the real service leaves one line in the log and one count, whatever became of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from callers import STREAMED, WHOLE, Caller, request_bytes, settled
from conftest import Service, eventually
from flask import Flask
from scraped import Numbers
from test_routes import Door

from app.errors import SluicewayError
from app.events import Batch, Event, Failed, Finished, Started
from app.formats.native import NativeSSEEncoder
from app.response import streamed
from app.testing import FakeProvider, answer, text_after

Line = dict[str, Any]

TOKENS = "gen_ai_client_token_usage_sum"
PROMPT = "the secret of the river"


class Observed:
    """A service of the test's own, and what it says about its streams."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service = service
        self.folder = folder

    def ask(self, model: str, *, route: str = "/v1/streams", timeout: float = 30, **other: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "stream": True, "max_tokens": 4096}
        return requests.post(self.service.url + route, json=body, timeout=timeout, **other)

    def lines(self) -> list[Line]:
        lines = [json.loads(line) for line in self.service.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "stream"]

    def one_line(self) -> Line:
        """The only one; it comes a moment after the client has the last byte."""
        eventually(self.lines, what="a line")
        (line,) = self.lines()
        return line

    def line_of(self, identity: str) -> Line:
        def found() -> list[Line]:
            return [line for line in self.lines() if line["request_id"] == identity]

        (line,) = eventually(found, what="a line")
        only: Line = line
        return only

    def numbers(self) -> Numbers:
        answer = requests.get(f"{self.service.url}/metrics", timeout=30)
        assert answer.status_code == 200
        return Numbers(answer.text)

    def one_count(self, outcome: str, **labels: str) -> Numbers:
        """All numbers, of which only this one counts a stream, and none is open."""
        seen = self.numbers()
        assert seen["sluiceway_streams_total", {"outcome": outcome, **labels}] == seen["sluiceway_streams_total"] == 1
        assert seen["sluiceway_streams_active"] == 0
        return seen


@pytest.fixture
def observe(
    start_service: Callable[..., Service], fake_provider: FakeProvider, tmp_path: Path
) -> Callable[..., Observed]:
    def start(workers: int = 1, app: str = "wsgi:app", **settings: str) -> Observed:
        env = {**fake_provider.env, **settings, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        return Observed(start_service(env, "--workers", str(workers), app=app), tmp_path)

    return start


def test_finished(observe: Callable[..., Observed]) -> None:
    observed = observe()
    said = observed.ask("openai/fake-n5-i60")
    line = observed.one_line()
    assert line["request_id"] == said.headers["X-Request-ID"]
    assert (line["format"], line["provider"], line["model"]) == ("native", "openai", "fake-n5-i60")
    assert (line["outcome"], line["code"], line["cancelled_by"]) == ("finished", None, None)
    assert 0 < line["ttft_s"] < line["duration_s"] < 10
    told = answer("fake-n5-i60")
    assert (line["input_tokens"], line["output_tokens"]) == (told.input_tokens, told.output_tokens)
    assert (line["usage_source"], line["attempts"]) == ("provider", 1)
    assert PROMPT not in observed.service.log
    seen = observed.one_count("finished", format="native", provider="openai", model="fake-n5-i60")
    assert seen["sluiceway_attempts_total", {"result": "ok"}] == seen["sluiceway_attempts_total"] == 1
    assert seen["gen_ai_client_operation_duration_seconds_sum"] == pytest.approx(line["duration_s"], abs=0.001)
    # Five tokens in two to five chunks, as many as were read apart.
    spoke_s = line["duration_s"] - line["ttft_s"]
    per_chunk_s = seen["gen_ai_client_operation_time_per_output_chunk_seconds_sum"]
    assert spoke_s / 4 - 0.001 <= per_chunk_s <= spoke_s + 0.001


def test_an_error_before_the_first_byte(observe: Callable[..., Observed]) -> None:
    observed = observe()
    assert observed.ask("openai/fake-e429").status_code == 429
    line = observed.one_line()
    assert (line["outcome"], line["code"]) == ("error", "provider_rate_limited")
    assert (line["ttft_s"], line["usage_source"], line["output_tokens"]) == (None, None, 0)
    seen = observed.one_count("error")
    assert seen["sluiceway_attempts_total", {"result": "provider_rate_limited"}] == line["attempts"]
    assert seen["gen_ai_client_operation_duration_seconds_count", {"error_type": "provider_rate_limited"}] == 1
    assert seen["gen_ai_client_token_usage_count"] == 0


def test_an_error_in_the_stream(observe: Callable[..., Observed]) -> None:
    observed = observe()
    assert observed.ask("anthropic/fake-n20-err5", route="/v1/messages").status_code == 200
    line = observed.one_line()
    assert (line["format"], line["outcome"], line["code"]) == ("anthropic_messages", "error", "provider_overloaded")
    assert line["ttft_s"] is not None
    assert line["usage_source"] == "estimated"
    assert line["output_tokens"] > 0
    observed.one_count("error", format="anthropic_messages")


def test_cancelled_by_the_client(observe: Callable[..., Observed], fake_provider: FakeProvider) -> None:
    observed = observe()
    with observed.ask("openai/fake-n1000-i20", stream=True) as said:
        pieces = said.iter_content(1)  # held: without it requests hangs up
        next(pieces)
        assert observed.numbers()["sluiceway_streams_active"] == 1
        assert observed.lines() == []
    line = observed.one_line()
    assert (line["outcome"], line["code"], line["cancelled_by"]) == ("cancelled", "cancelled", "client")
    assert line["usage_source"] == "estimated"
    seen = observed.one_count("cancelled")
    assert seen["sluiceway_cancel_seconds_count"] == 1
    assert seen["sluiceway_cancel_seconds_bucket", {"le": "2.0"}] == 1
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_cancelled_before_the_first_byte(observe: Callable[..., Observed], fake_provider: FakeProvider) -> None:
    observed = observe()
    door = next(door for door in STREAMED if str(door) == "streams-openai")
    with Caller(("127.0.0.1", observed.service.port), request_bytes(door, "fake-stall0")):
        fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    line = observed.one_line()
    assert (line["outcome"], line["cancelled_by"], line["ttft_s"]) == ("cancelled", "client", None)
    observed.one_count("cancelled")


def test_rejected_while_all_places_are_taken(observe: Callable[..., Observed]) -> None:
    observed = observe(SLUICEWAY_SERVER__MAX_STREAMS="1")
    with observed.ask("openai/fake-n1000-i20", stream=True) as said:
        pieces = said.iter_content(1)  # held: without it requests hangs up
        next(pieces)
        assert observed.ask("openai/fake-n5").status_code == 503
        line = observed.one_line()
        assert (line["outcome"], line["code"], line["attempts"]) == ("rejected", "overloaded", 0)
        seen = observed.numbers()  # answered though no place is left
        assert seen["sluiceway_streams_total", {"outcome": "rejected"}] == seen["sluiceway_streams_total"] == 1
        assert seen["sluiceway_streams_active"] == 1, "the rejected one was never open"
        assert seen["sluiceway_attempts_total"] == seen["gen_ai_client_operation_duration_seconds_count"] == 0
    eventually(lambda: observed.numbers()["sluiceway_streams_active"] == 0)


# By several tries

ALIASES = """
[models."o-*"]
target = "openai/*"
fallbacks = ["anthropic/fallback-n9"]

[models.spliced]
target = "openai/spliced-n9-cut5"
fallbacks = ["anthropic/spliced-n9"]

[models.left]
target = "openai/left-n9-cut5"
fallbacks = ["anthropic/left-n9-i50"]

[models.prefilled]
target = "openai/prefilled-n9-cut5"
fallbacks = ["goes-on"]

[models.goes-on]
target = "anthropic/prefilled-n9-cont"
prefill = true

[models.unwilling]
target = "openai/unwilling-n9-cut5"
fallbacks = ["refuses"]

[models.refuses]
target = "anthropic/unwilling-n9-noprefill"
prefill = true

[models.unfinished]
target = "openai/unfinished-n9-cut5"
fallbacks = ["anthropic/unfinished-e401"]

[models.restarted]
target = "openai/restarted-n9-cut5"
fallbacks = ["anthropic/another-n20"]
"""


@pytest.fixture(scope="module")
def shared(
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Observed]:
    """One service for all tests that tell their streams apart: by request id in the log, by the model's name in the
    metrics. It has the aliases above, and makes three tries."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "sluiceway.toml").write_text(ALIASES)
    env = {
        **fake_provider_server.env,
        "SLUICEWAY_CONFIG": str(folder / "sluiceway.toml"),
        "SLUICEWAY_RETRY__ATTEMPTS": "3",
        "SLUICEWAY_RETRY__BACKOFF_S": "0.02",
    }
    service = start_service(env)
    yield Observed(service, folder)
    service.stop()


def tokens_of(text: str) -> int:
    """As they are estimated."""
    return -(-len(text) // 4)


CUT, OK = ("openai", "stream_broken"), ("anthropic", "ok")


@pytest.mark.parametrize(
    ("model", "tries", "output_tokens"),
    [
        # Provider and result of each, and what the last one billed for its answer.
        ("openai/passes-n9-e503-times2", [("openai", "provider_overloaded")] * 2 + [("openai", "ok")], 9),
        ("openai/passes-n9-refuse-times1", [("openai", "provider_unavailable"), ("openai", "ok")], 9),
        ("openai/passes-n9-cut5-times2", [CUT, CUT, ("openai", "ok")], 9),
        ("o-lasts-n9-e401", [("openai", "provider_auth"), OK], 9),
        ("o-lasts-n9-html", [CUT] * 3 + [OK], 9),
        ("spliced", [CUT, OK], 9),
        ("prefilled", [CUT, OK], 4),
        ("unwilling", [CUT, ("anthropic", "provider_rejected"), OK], 9),
        ("restarted", [CUT, OK], 20),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_try_is_counted_and_who_answered_is_named(
    shared: Observed, fake_provider: FakeProvider, model: str, tries: list[tuple[str, str]], output_tokens: int
) -> None:
    before = shared.numbers()
    said = shared.ask(model)
    assert said.status_code == 200
    line = shared.line_of(said.headers["X-Request-ID"])
    asked = [request.body["model"] for request in fake_provider.requests]
    assert (line["outcome"], line["code"], line["attempts"]) == ("finished", None, len(tries))
    assert (line["provider"], line["model"]) == (tries[-1][0], asked[-1])
    assert (line["usage_source"], line["input_tokens"], line["output_tokens"]) == ("provider", 25, output_tokens)

    seen = shared.numbers()
    made = {(provider, name, result) for (provider, result), name in zip(tries, asked, strict=True)}
    for provider, name, result in made:
        labels = {"provider": provider, "model": name, "result": result}
        more = seen["sluiceway_attempts_total", labels] - before["sluiceway_attempts_total", labels]
        assert more == tries.count((provider, result))
    assert seen["sluiceway_attempts_total"] - before["sluiceway_attempts_total"] == len(tries)
    named = {"gen_ai_provider_name": tries[-1][0], "gen_ai_request_model": asked[-1]}
    for kind, tokens in (("input", 25), ("output", output_tokens)):
        for labels in ({"gen_ai_token_type": kind}, {"gen_ai_token_type": kind, **named}):
            assert seen[TOKENS, labels] - before[TOKENS, labels] == tokens


def test_an_answer_that_nobody_could_finish(shared: Observed, fake_provider: FakeProvider) -> None:
    model = "unfinished-n9-cut5"
    line = shared.line_of(shared.ask(f"openai/{model}").headers["X-Request-ID"])
    assert (line["outcome"], line["code"], line["attempts"]) == ("error", "stream_broken", 3)
    assert (line["provider"], line["model"]) == ("openai", model)
    assert len(fake_provider.requests) == 3
    # What was delivered, once: the later tries said the same.
    estimated = (tokens_of(PROMPT), tokens_of(text_after(model, 5)))
    assert (line["usage_source"], line["input_tokens"], line["output_tokens"]) == ("estimated", *estimated)
    seen = shared.numbers()
    assert seen["sluiceway_streams_total", {"model": model, "outcome": "error"}] == 1
    assert seen["sluiceway_attempts_total", {"model": model, "result": "stream_broken"}] == 3
    for kind, tokens in zip(("input", "output"), estimated, strict=True):
        assert seen[TOKENS, {"gen_ai_request_model": model, "gen_ai_token_type": kind}] == tokens


def test_an_answer_that_its_fallback_could_not_finish(shared: Observed) -> None:
    """It is told by the one whose text was delivered; that the other refused our key is loud all the same."""
    before = len(shared.service.log)
    line = shared.line_of(shared.ask("unfinished").headers["X-Request-ID"])
    assert (line["outcome"], line["code"], line["attempts"]) == ("error", "stream_broken", 2)
    assert (line["provider"], line["model"]) == ("openai", "unfinished-n9-cut5")
    said = [part for part in shared.service.log[before:].splitlines() if " code=" in part]
    assert len(said) == 2
    assert "openai/unfinished-n9-cut5 code=stream_broken" in said[0]
    assert "anthropic/unfinished-e401 code=provider_auth" in said[1]


@pytest.mark.parametrize("leaves", [False, True], ids=["fails", "is left"])
def test_an_answer_in_one_piece_that_breaks_costs_what_was_read(
    shared: Observed, fake_provider: FakeProvider, leaves: bool
) -> None:
    model = "piece-n9-stall5" if leaves else "piece-n9-cut5"
    door = next(door for door in WHOLE if str(door) == "chat-whole-openai")
    request = request_bytes(door, model, model, {"Connection": "close"})
    with Caller(("127.0.0.1", shared.service.port), request) as caller:
        if leaves:
            fake_provider.wait_for(lambda stats: stats.open_streams == 1)
            settled(fake_provider.requests[-1].at)
            for _ in range(2):  # the worker has read what came before these, which may come in one turn of its loop
                assert requests.get(f"{shared.service.url}/healthz", timeout=20).ok
            caller.leave("close")
        else:
            caller.read_to_the_end()
    line = shared.line_of(model)
    assert (line["usage_source"], line["output_tokens"]) == ("estimated", tokens_of(text_after(model, 5)))


def test_an_answer_that_never_began_costs_nothing(shared: Observed) -> None:
    model = "silent-e529"
    line = shared.line_of(shared.ask(f"openai/{model}").headers["X-Request-ID"])
    assert (line["outcome"], line["code"], line["attempts"]) == ("error", "provider_overloaded", 3)
    assert (line["usage_source"], line["input_tokens"], line["output_tokens"]) == (None, 0, 0)
    seen = shared.numbers()
    assert seen["sluiceway_attempts_total", {"model": model, "result": "provider_overloaded"}] == 3
    assert seen["sluiceway_attempts_total", {"model": model}] == 3
    assert seen["gen_ai_client_token_usage_count", {"gen_ai_request_model": model}] == 0


def test_an_answer_that_is_left_while_another_goes_on_with_it(shared: Observed, fake_provider: FakeProvider) -> None:
    model = "left-n9-i50"
    said_by_then = text_after(model, 7)
    with shared.ask("left", stream=True) as said:
        lines = said.iter_lines()  # held: without it requests hangs up
        next(line for line in lines if said_by_then.split(" ")[-1].encode() in line)
    line = shared.line_of(said.headers["X-Request-ID"])
    assert (line["outcome"], line["cancelled_by"], line["attempts"]) == ("cancelled", "client", 2)
    assert (line["provider"], line["model"], line["usage_source"]) == ("anthropic", model, "estimated")
    assert tokens_of(said_by_then) <= line["output_tokens"] <= tokens_of(answer(model).text)
    seen = shared.numbers()
    broke, left = ("left-n9-cut5", "stream_broken"), (model, "cancelled")
    for name, result in (broke, left):
        assert seen["sluiceway_attempts_total", {"model": name, "result": result}] == 1
        assert seen["sluiceway_attempts_total", {"model": name}] == 1
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


# What was said before an early end -> the model that says it and breaks, the one that says it and falls silent, the
# last of what is seen of it, and the routes that show it.
SAID = {
    "text": ("said-n9-cut5", "said-n9-stall5", text_after("said-n9-stall5", 5).split(" ")[-1], ""),
    "reasoning": (
        "said-n9-think4-cut1",
        "said-n9-think4-i60000",
        answer("said-n9-think4-i60000").reasoning.split(" ")[0],
        "chat messages streams ndjson",
    ),
    "a call": ("said-tool1-cut3", "said-tool1-stall3", "city", "chat messages streams ndjson"),
}


@pytest.mark.parametrize("what", SAID)
def test_what_was_said_before_an_early_end_is_always_in_the_books(
    shared: Observed, fake_provider: FakeProvider, what: str
) -> None:
    """By every route and of either provider, whether the answer failed or its client left."""
    breaks, stays, last, routes = SAID[what]
    doors = [door for door in STREAMED if not routes or door.name in routes.split()]
    cases = [(door, model) for door in doors for model in (breaks, stays)]

    def asked(door: Door, model: str) -> str:
        identity = f"{door}-{model}"
        request = request_bytes(door, model, identity, {"Connection": "close"})
        with Caller(("127.0.0.1", shared.service.port), request) as caller:
            if model == breaks:
                caller.read_to_the_end()
            else:
                caller.read_until(last.encode())
                caller.leave("close")
        return identity

    with ThreadPoolExecutor(len(cases)) as pool:
        identities = list(pool.map(lambda case: asked(*case), cases))
    lines = [shared.line_of(identity) for identity in identities]
    for (door, model), line in zip(cases, lines, strict=True):
        assert line["outcome"] == ("error" if model == breaks else "cancelled"), line
        assert line["usage_source"] == "estimated", line
        assert line["output_tokens"] > 0, line
        assert line["input_tokens"] == (25 if door.provider == "anthropic" else tokens_of("hi")), line
    seen = shared.numbers()
    for kind, model in itertools.product(("input", "output"), (breaks, stays)):
        estimated = sum(line[f"{kind}_tokens"] for line in lines if line["model"] == model)
        assert seen[TOKENS, {"gen_ai_token_type": kind, "gen_ai_request_model": model}] == estimated
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)


@pytest.mark.parametrize("fault", ["OSError", "OSError-first"])
def test_a_defect_of_ours_is_an_error_and_no_departure(observe: Callable[..., Observed], fault: str) -> None:
    observed = observe(app="tests.broken_provider:app")
    observed.ask(f"openai/{fault}")
    line = observed.one_line()
    assert (line["outcome"], line["code"], line["cancelled_by"]) == ("error", "internal", None)
    observed.one_count("error")


def test_an_end_that_cannot_be_written_is_an_error_too() -> None:
    """However late a defect strikes, a stream has its last event."""
    failed: list[str] = []

    class Broken(NativeSSEEncoder):
        def feed(self, events: list[Event]) -> bytes:
            if isinstance(events[-1], Finished):
                raise ZeroDivisionError
            return super().feed(events)

    class Nothing:
        def read(self, until: float) -> Batch | None:
            raise AssertionError("the first batch was the last")

        def fail(self, error: SluicewayError) -> Failed:
            failed.append(error.code)
            return Failed(error=error)

        def close(self) -> None:
            failed.append("closed")

    last = Batch([Started(id="1", model="m", provider="p", created=0), Finished(reason="stop")], None, True)
    with Flask("shop").test_request_context():
        response = streamed(
            last, Nothing(), Broken(), "text/event-stream", headers={}, heartbeat_s=15, request_id="abc"
        )
        said = b"".join(response.iter_encoded())
    assert b'"code":"internal"' in said
    assert said.endswith(b"data: [DONE]\n\n")
    assert failed == ["internal", "closed"]


def test_an_answer_that_is_not_streamed(observe: Callable[..., Observed]) -> None:
    observed = observe()
    body = {"model": "openai/fake-n5", "messages": [{"role": "user", "content": PROMPT}]}
    requests.post(f"{observed.service.url}/v1/chat/completions", json=body, timeout=30)
    line = observed.one_line()
    assert (line["format"], line["outcome"]) == ("openai_chat", "finished")
    observed.one_count("finished", format="openai_chat")


def test_the_sums_of_two_workers_are_the_providers_numbers(observe: Callable[..., Observed]) -> None:
    observed = observe(workers=2)
    asked: list[tuple[str, str]] = []

    def both_have_served() -> bool:
        more = [(f"{provider}/fake-n{n}", route) for n in (3, 5, 8) for provider, route in ROUTES]
        with ThreadPoolExecutor(len(more)) as pool:
            for said in pool.map(lambda ask: observed.ask(ask[0], route=ask[1]), more):
                assert said.status_code == 200
        asked.extend(more)
        return len(list(observed.folder.glob("counter_*.db"))) == 2

    eventually(both_have_served)
    eventually(lambda: len(observed.lines()) >= len(asked))
    assert len(observed.lines()) == len(asked)
    told = [answer(model.partition("/")[2]) for model, _ in asked]
    for _ in range(10):
        seen = observed.numbers()
        assert seen["sluiceway_streams_total", {"outcome": "finished"}] == seen["sluiceway_streams_total"] == len(asked)
        assert seen["sluiceway_streams_active"] == 0
        assert seen[TOKENS, {"gen_ai_token_type": "input"}] == sum(one.input_tokens for one in told)
        assert seen[TOKENS, {"gen_ai_token_type": "output"}] == sum(one.output_tokens for one in told)


ROUTES = [("openai", "/v1/streams"), ("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")]
