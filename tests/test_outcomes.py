"""What became of a stream: one line of JSON in the log, one count in `/metrics`, whichever worker is asked."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from conftest import Service, eventually
from flask import Flask
from scraped import Numbers

from app import Sluiceway, create_app, outcomes
from app.outcomes import (
    Outcome,
    attempted,
    breaker_turned,
    closed,
    exposition,
    flush,
    log_to_stderr,
    opened,
    report,
)

StartService = Callable[..., Service]

MODEL = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-5"}
DURATION = "gen_ai_client_operation_duration_seconds"
FIRST_CHUNK = "gen_ai_client_operation_time_to_first_chunk_seconds"
PER_CHUNK = "gen_ai_client_operation_time_per_output_chunk_seconds"
TOKENS = "gen_ai_client_token_usage"


def finished(**other: Any) -> Outcome:
    fields: dict[str, Any] = {
        "request_id": "abc",
        "format": "native",
        "provider": "openai",
        "model": "gpt-5",
        "outcome": "finished",
        "ttft_s": 0.5,
        "duration_s": 2.5,
        "input_tokens": 7,
        "output_tokens": 100,
        "usage_source": "provider",
        "attempts": 1,
        "chunks": 101,
    }
    return Outcome(**{**fields, **other})


def cancelled(**other: Any) -> Outcome:
    fields = {"outcome": "cancelled", "code": "cancelled", "cancelled_by": "client", "usage_source": "estimated"}
    return finished(**{**fields, **other})


def rejected(**other: Any) -> Outcome:
    fields = {"request_id": "abc", "format": "native", "provider": "openai", "model": "gpt-5", "outcome": "rejected"}
    return Outcome(**{**fields, "code": "overloaded", **other})


def numbers() -> Numbers:
    return Numbers(exposition()[0].decode())


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counted yet."""
    monkeypatch.setattr(outcomes, "_built", None)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """`sluiceway.streams` as Python gives it, whatever an app has made of it before."""
    found = logging.getLogger("sluiceway.streams")
    handlers, level, propagate = found.handlers, found.level, found.propagate
    found.handlers, found.propagate = [], True
    found.setLevel(logging.NOTSET)
    yield found
    found.handlers, found.propagate = handlers, propagate
    found.setLevel(level)


@pytest.fixture
def lines(logger: logging.Logger) -> list[str]:
    """What is logged, one entry a record."""

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    logger.addHandler(Kept())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return kept


# In the log.


def test_a_stream_is_one_line_of_json(fresh: None, lines: list[str]) -> None:
    report(cancelled(ttft_s=0.123456789, duration_s=2.0, cancel_s=0.001))
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert datetime.now(UTC) - datetime.fromisoformat(line.pop("at")) < timedelta(minutes=1)
    assert line == {
        "event": "stream",
        "request_id": "abc",
        "format": "native",
        "provider": "openai",
        "model": "gpt-5",
        "outcome": "cancelled",
        "code": "cancelled",
        "ttft_s": 0.1235,
        "duration_s": 2.0,
        "input_tokens": 7,
        "output_tokens": 100,
        "usage_source": "estimated",
        "attempts": 1,
        "cancelled_by": "client",
    }


def test_the_time_is_utc_in_iso_8601(fresh: None, lines: list[str]) -> None:
    report(finished())
    assert json.loads(lines[0])["at"].endswith("Z")


def test_whatever_the_model_is_called_the_line_is_one(fresh: None, lines: list[str]) -> None:
    name = 'a"b\\c\n%s {} é\u2028'
    report(finished(model=name))
    assert "\n" not in lines[0]
    assert json.loads(lines[0])["model"] == name
    assert numbers()["sluiceway_streams_total", {"model": name}] == 1


def test_the_service_writes_bare_lines_to_stderr(
    fresh: None, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    create_app()
    create_app()
    report(finished())
    flush()
    written = capsys.readouterr().err
    assert [json.loads(line)["outcome"] for line in written.splitlines()] == ["finished"]


def test_an_app_with_the_extension_keeps_its_own_logging(
    fresh: None, logger: logging.Logger, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    Sluiceway(Flask("shop"))
    report(finished())
    assert caplog.records == []  # as by default nothing of INFO is
    with caplog.at_level(logging.INFO, "sluiceway.streams"):
        report(finished())
    assert [json.loads(record.getMessage())["model"] for record in caplog.records] == ["gpt-5"]
    assert capsys.readouterr().err == ""


def test_a_handler_that_is_there_already_is_left_alone(logger: logging.Logger) -> None:
    mine = logging.NullHandler()
    logger.addHandler(mine)
    log_to_stderr()
    assert (logger.handlers, logger.level, logger.propagate) == ([mine], logging.NOTSET, True)


# In the metrics.


def test_a_finished_stream(fresh: None) -> None:
    report(finished())
    seen = numbers()
    whole = {"format": "native", "provider": "openai", "model": "gpt-5", "outcome": "finished"}
    assert seen["sluiceway_streams_total", whole] == seen["sluiceway_streams_total"] == 1
    assert seen[f"{DURATION}_count", {**MODEL, "error_type": ""}] == 1
    assert seen[f"{DURATION}_sum"] == 2.5
    assert seen[f"{FIRST_CHUNK}_count", MODEL] == 1
    assert seen[f"{FIRST_CHUNK}_sum"] == 0.5
    assert seen[f"{PER_CHUNK}_count", MODEL] == 1
    assert seen[f"{PER_CHUNK}_sum"] == pytest.approx(0.02)  # 2 s for the 100 chunks after the first
    assert seen[f"{TOKENS}_sum", {**MODEL, "gen_ai_token_type": "input"}] == 7
    assert seen[f"{TOKENS}_sum", {**MODEL, "gen_ai_token_type": "output"}] == 100
    assert seen[f"{TOKENS}_count"] == 2
    assert seen["sluiceway_cancel_seconds_count"] == 0


def test_a_cancelled_stream_tells_how_long_upstream_went_on(fresh: None) -> None:
    report(cancelled(cancel_s=0.004))
    seen = numbers()
    assert seen["sluiceway_streams_total", {"outcome": "cancelled"}] == 1
    assert seen["sluiceway_cancel_seconds_sum"] == 0.004
    assert seen["sluiceway_cancel_seconds_bucket", {"le": "0.002"}] == 0
    assert seen["sluiceway_cancel_seconds_bucket", {"le": "0.005"}] == 1
    assert seen[f"{DURATION}_count", {**MODEL, "error_type": "cancelled"}] == 1


def test_a_drain_is_no_departure(fresh: None) -> None:
    report(cancelled(code="draining", cancelled_by="drain", cancel_s=3.0))
    assert numbers()["sluiceway_streams_total", {"outcome": "cancelled"}] == 1
    assert numbers()["sluiceway_cancel_seconds_count"] == 0


def test_a_stream_that_failed_before_its_first_token(fresh: None) -> None:
    report(finished(outcome="error", code="provider_rate_limited", ttft_s=None, usage_source=None, chunks=0))
    seen = numbers()
    assert seen["sluiceway_streams_total", {"outcome": "error"}] == 1
    assert seen[f"{DURATION}_count", {"error_type": "provider_rate_limited"}] == 1
    assert seen[f"{FIRST_CHUNK}_count"] == seen[f"{PER_CHUNK}_count"] == seen[f"{TOKENS}_count"] == 0


def test_there_is_no_time_between_the_chunks_of_one(fresh: None) -> None:
    report(finished(chunks=1))
    assert numbers()[f"{FIRST_CHUNK}_count"] == 1
    assert numbers()[f"{PER_CHUNK}_count"] == 0


def test_a_rejected_request_is_counted_and_nothing_else(fresh: None, lines: list[str]) -> None:
    report(rejected())
    assert numbers().names() == {"sluiceway_streams_total"}
    assert numbers()["sluiceway_streams_total", {"outcome": "rejected"}] == 1
    assert [json.loads(line)["code"] for line in lines] == ["overloaded"]


def test_a_breaker_that_opens_and_closes(fresh: None) -> None:
    breaker_turned("openai", "gpt-5", True)
    breaker_turned("openai", "other-model", True)
    assert numbers()["sluiceway_breaker_open", {"provider": "openai", "model": "gpt-5"}] == 1
    breaker_turned("openai", "gpt-5", False)
    assert numbers()["sluiceway_breaker_open", {"provider": "openai", "model": "gpt-5"}] == 0
    assert numbers()["sluiceway_breaker_open"] == 1


def test_attempts(fresh: None) -> None:
    attempted("openai", "gpt-5", "provider_overloaded")
    attempted("openai", "gpt-5", "ok")
    attempted("openai", "gpt-5", "ok")
    ok = {"provider": "openai", "model": "gpt-5", "result": "ok"}
    assert numbers()["sluiceway_attempts_total", ok] == 2
    assert numbers()["sluiceway_attempts_total"] == 3


def test_open_streams(fresh: None) -> None:
    assert "sluiceway_streams_active" in numbers().families  # 0 is said, too
    opened()
    opened()
    closed()
    assert numbers()["sluiceway_streams_active"] == 1


@pytest.mark.parametrize(
    ("family", "bounds"),
    [
        (DURATION, [0.01 * 2**n for n in range(14)]),
        (FIRST_CHUNK, [0.01 * 2**n for n in range(14)]),
        (PER_CHUNK, [0.01 * 2**n for n in range(14)]),
        (TOKENS, [4**n for n in range(14)]),
    ],
)
def test_buckets_are_opentelemetrys(fresh: None, family: str, bounds: list[float]) -> None:
    report(finished())
    seen = {sample.labels["le"] for sample in numbers().samples if sample.name == f"{family}_bucket"}
    assert sorted(float(bound) for bound in seen) == pytest.approx([*bounds, float("inf")])


def test_invented_models_do_not_fill_the_memory(fresh: None, lines: list[str]) -> None:
    report(finished(model="first"))
    for n in range(300):
        report(finished(model=f"invented-{n}"))
        attempted("openai", f"invented-{n}", "ok")
    report(finished(model="first"))
    seen = numbers()
    models = {sample.labels["model"] for sample in seen.samples if sample.name == "sluiceway_streams_total"}
    assert len(models) == outcomes.MAX_MODELS + 1
    assert seen["sluiceway_streams_total", {"model": "other"}] == 301 - outcomes.MAX_MODELS
    assert seen["sluiceway_attempts_total", {"model": "other"}] == 301 - outcomes.MAX_MODELS
    assert seen["sluiceway_streams_total", {"model": "first"}] == 2
    assert seen[f"{TOKENS}_sum", {"gen_ai_token_type": "output"}] == 30200
    assert json.loads(lines[-2])["model"] == "invented-299"  # the log knows them all


def test_an_outcome_that_cannot_be_recorded_fails_nothing(
    fresh: None, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    report(finished(model="\ud800"))  # in no encoding
    assert lines == []
    assert [record.message for record in caplog.records] == ["abc the outcome of a stream could not be recorded"]
    assert numbers()["sluiceway_streams_total"] == 0


# Through the door.


def test_the_route(fresh: None) -> None:
    report(finished())
    app = create_app({"SLUICEWAY_SERVER__API_KEYS_SHA256": ["0" * 64]})  # open all the same
    response = app.test_client().get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["X-Request-ID"]
    assert Numbers(response.text)["sluiceway_streams_total"] == 1


@pytest.fixture
def start_reporting(start_service: StartService, tmp_path: Path) -> Callable[[int], Service]:
    """`start_reporting(workers)`: tests/reporting.py under gunicorn, its numbers in a folder that nobody has made."""

    def start(workers: int) -> Service:
        env = {
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "var" / "metrics"),
            "OPENAI_API_KEY": "sk-test-0123456789",  # no embedded model
        }
        return start_service(env, "--workers", str(workers), app="tests.reporting:app")

    return start


def post(service: Service, outcome: Outcome) -> str:
    """The worker that took it."""
    return requests.post(service.url, msgspec.json.encode(outcome), timeout=10).text


def get(service: Service, path: str) -> str:
    return requests.get(f"{service.url}{path}", timeout=10).text


def test_any_worker_answers_for_all(start_reporting: Callable[[int], Service]) -> None:
    service = start_reporting(2)
    streams, held = Counter[str](), Counter[str]()

    def both_have_some() -> bool:
        streams[post(service, finished())] += 1
        held[get(service, "/hold")] += 1
        return len(streams) == len(held) == 2

    eventually(both_have_some)
    for answer in {get(service, "/metrics") for _ in range(20)}:
        seen, count = Numbers(answer), streams.total()
        assert seen["sluiceway_streams_total", {"outcome": "finished", "model": "gpt-5"}] == count
        assert seen["sluiceway_streams_active"] == count
        assert seen[f"{DURATION}_count", MODEL] == count
        assert seen[f"{DURATION}_bucket", {**MODEL, "le": "2.56"}] == count
        assert seen[f"{PER_CHUNK}_sum", MODEL] == pytest.approx(count * 0.02)
        assert seen[f"{TOKENS}_sum", {**MODEL, "gen_ai_token_type": "output"}] == count * 100
        assert "the mean" in seen.families[PER_CHUNK].documentation


def test_adding_up_many_numbers_holds_up_nobody(start_reporting: Callable[[int], Service]) -> None:
    service = start_reporting(1)
    for n in range(200):
        post(service, finished(model=f"model-{n}"))
    with ThreadPoolExecutor(1) as pool:
        headers = pool.submit(requests.get, f"{service.url}/metrics", stream=True, timeout=30)
        others = 0
        while not headers.done():
            get(service, "/")
            others += 1
    with headers.result() as answer:
        assert Numbers(answer.text)["sluiceway_streams_total"] == 200
    # Where it keeps the worker to itself: two at most, one that came before it and one that has to wait for its end.
    assert others > 5


def test_only_workers_have_files(start_service: StartService, tmp_path: Path) -> None:
    """Not the processes beside them that import the house as well."""
    service = start_service({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "OPENAI_API_KEY": "sk-test-0123456789"})
    assert Numbers(get(service, "/metrics"))["sluiceway_streams_active"] == 0
    assert len(list(tmp_path.glob("gauge_*"))) == 1
