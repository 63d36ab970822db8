"""What became of each stream: one log line at its end, and the numbers of `/metrics`.

`after_request` is too early for either: a stream ends long after its view. So the core calls `report` once, when an
answer is over, however it ended; nothing here is touched for a token.

The log line is one JSON object, without a word of the prompt or the answer. The metrics are ours (`sluiceway_...`) and
OpenTelemetry's for generative AI, under its names in Prometheus's spelling, with its labels and its buckets
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md, read 2026-11). A rejected
request was no stream: it is logged and counted as one that was turned away, and stands in no histogram.

Several workers answer as one where `PROMETHEUS_MULTIPROC_DIR` names a folder that was there, and empty, before they
started (gunicorn.conf.py sees to it): each then keeps its numbers in files there, and whichever is asked adds up all.
Without it a process has its own numbers. prometheus_client decides between the two at its import.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, cast

import gevent
import msgspec
from gevent import monkey
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MutexValue, ValueClass

log = logging.getLogger("sluiceway")
streams_log = logging.getLogger("sluiceway.streams")

__all__ = [
    "Outcome",
    "attempted",
    "breaker_turned",
    "closed",
    "exposition",
    "flush",
    "log_to_stderr",
    "opened",
    "report",
    "report_soon",
]


class Outcome(msgspec.Struct, kw_only=True):
    """`code` is our error code, for an error and for a cancelled stream. Seconds count from the request; `ttft_s` is
    None where no token came. `usage_source` is "provider", "estimated", or None where nothing was asked of a model."""

    request_id: str
    format: str
    provider: str
    model: str
    outcome: Literal["finished", "error", "cancelled", "rejected"]
    code: str | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    usage_source: str | None = None
    attempts: int = 0
    cancelled_by: str | None = None  # "client", "drain", ...
    # Not logged:
    chunks: int = 0  # batches with text that were delivered
    cancel_s: float | None = None  # from what cancelled it to upstream's end


def report(outcome: Outcome) -> None:
    """Log and count what became of a stream, once, at its end. Never raises: nobody's answer fails over its books."""
    try:
        line = _line(outcome)
        _metrics().count(outcome)
        streams_log.info(line)  # last: who has seen the line finds it counted, whichever worker is asked
    except Exception:
        log.exception("%s the outcome of a stream could not be recorded", outcome.request_id)


def report_soon(outcome: Outcome) -> None:
    """`report`, together with what else ends within `SOON_S`."""
    _soon(report, outcome)


def attempted(provider: str, model: str, result: str) -> None:
    """One try of one target is over; `result` is "ok" or our error code. Counted soon."""
    _soon(_attempted, provider, model, result)


def _attempted(provider: str, model: str, result: str) -> None:
    _metrics().attempted(provider, model, result)


def breaker_turned(provider: str, model: str, is_open: bool) -> None:
    """A target's breaker has opened or closed, in this worker."""
    _metrics().breaker_turned(provider, model, is_open)


# Each number is a write into a shared file, twenty a stream. Done one stream at a time between two requests, that costs
# 110 us, as all of it is cold by then; in a row, 30 (32 one-token requests at a time: 976 us each and 918).
SOON_S = 0.02

_pending: list[tuple[Callable[..., None], tuple[Any, ...]]] = []


def _soon(call: Callable[..., None], *args: Any) -> None:
    _pending.append((call, args))
    _schedule()


_scheduled = False


def _schedule() -> None:
    global _scheduled
    if not monkey.is_module_patched("threading"):
        flush()
    elif not _scheduled:
        _scheduled = True
        gevent.spawn_later(SOON_S, flush)


def flush() -> None:
    """Do now what was put off."""
    global _scheduled
    _scheduled = False
    pending, _pending[:] = tuple(_pending), []
    for call, args in pending:
        call(*args)
    if _built is not None or _now_open or pending:
        _metrics().active.set(_now_open)
    for handler in streams_log.handlers:
        handler.flush()


atexit.register(flush)


def opened() -> None:
    """A stream holds a place from now on; `closed` must follow."""
    _open(+1)


def closed() -> None:
    _open(-1)


_now_open = 0
_counting = threading.Lock()


def _open(more: int) -> None:
    global _now_open
    with _counting:
        _now_open += more
    _schedule()


def exposition() -> tuple[bytes, str]:
    """The body and the content type of `/metrics`. What has ended before it was asked for is in it."""
    metrics = _metrics()
    if _SHARED and monkey.is_module_patched("threading"):
        gevent.sleep(2 * SOON_S)  # the other workers' too
    flush()
    if not _SHARED:
        body = generate_latest(metrics.registry)
    elif monkey.is_module_patched("socket"):
        # To add up ten models of two workers takes 20 ms, MAX_MODELS half a second. From a thread it takes the streams
        # no more than 5 ms at a time, for which the interpreter lets one thread run.
        body = gevent.get_hub().threadpool.apply(_of_all_workers)
    else:
        body = _of_all_workers()
    # Not version 1.0.0 of the format, though the library prefers it: it is for names in UTF-8, of which we have none,
    # and 0.0.4 is what every scraper reads.
    return body, CONTENT_TYPE_PLAIN_0_0_4


def _of_all_workers() -> bytes:
    everybody = CollectorRegistry()
    MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
    return generate_latest(everybody)


def _line(outcome: Outcome) -> str:
    return msgspec.json.encode(
        {
            "at": datetime.now(UTC),
            "event": "stream",
            "request_id": outcome.request_id,
            "format": outcome.format,
            "provider": outcome.provider,
            "model": outcome.model,
            "outcome": outcome.outcome,
            "code": outcome.code,
            "ttft_s": _rounded(outcome.ttft_s),
            "duration_s": _rounded(outcome.duration_s),
            "input_tokens": outcome.input_tokens,
            "output_tokens": outcome.output_tokens,
            "usage_source": outcome.usage_source,
            "attempts": outcome.attempts,
            "cancelled_by": outcome.cancelled_by,
        }
    ).decode()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


class _Stderr(logging.Handler):
    """Writes lines that come together by one write, when it is flushed; to what `sys.stderr` is at that moment, as a
    test runner exchanges it, and closes the one of before."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.getMessage()}\n")

    def flush(self) -> None:
        if lines := self._lines:
            self._lines = []
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


def log_to_stderr() -> None:
    """Make the lines visible in a process of our own: bare on stderr, and nowhere else. Where the logger has a handler
    already, somebody has decided about it."""
    if not streams_log.handlers:
        streams_log.addHandler(_Stderr())
        streams_log.setLevel(logging.INFO)
        streams_log.propagate = False


# OpenTelemetry's own; the three durations have the same.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
# Upstream is to be closed within 100 ms, and mostly is within one.
_CANCEL_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

# The library's decision; the variable may be set too late for it.
_SHARED = ValueClass is not MutexValue

_MODEL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

# Clients name models (`provider/anything`), and each is a hundred numbers for ever; no service has as many in earnest.
MAX_MODELS = 200
OTHER = "other"

_Family = TypeVar("_Family", Counter, Gauge, Histogram)


class _Metrics:
    """All of one process, in a registry of our own: the library's global one takes each name once, and the house can be
    there twice (vendored in an app that has it installed as well)."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        if _SHARED and (folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR")):
            os.makedirs(folder, exist_ok=True)
        self.active = Gauge("sluiceway_streams_active", "Streams open now.", multiprocess_mode="livesum", registry=own)
        self._streams = Counter(
            "sluiceway_streams_total",
            "Streams ended, and requests turned away (rejected).",
            ("format", "provider", "model", "outcome"),
            registry=own,
        )
        self._cancel = Histogram(
            "sluiceway_cancel_seconds",
            "From the client's leaving to the end of the request upstream.",
            buckets=_CANCEL_SECONDS,
            registry=own,
        )
        self._attempts = Counter(
            "sluiceway_attempts_total",
            "Tries at a provider, by ok or error code.",
            ("provider", "model", "result"),
            registry=own,
        )
        self._breakers = Gauge(
            "sluiceway_breaker_open",
            "1 where a target is left alone after failures, in at least one worker.",
            ("provider", "model"),
            multiprocess_mode="livemax",
            registry=own,
        )
        self._duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "From the request to the end of its answer.",
            (*_MODEL, "error_type"),
            buckets=_SECONDS,
            registry=own,
        )
        self._first_chunk = Histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From the request to the first token.",
            _MODEL,
            buckets=_SECONDS,
            registry=own,
        )
        self._per_chunk = Histogram(
            "gen_ai_client_operation_time_per_output_chunk_seconds",
            "Between chunks; one observation a stream, the mean over all its chunks after the first.",
            _MODEL,
            buckets=_SECONDS,
            registry=own,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a stream, as the provider counted them; estimated where it did not.",
            (*_MODEL, "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=own,
        )
        self._models: set[tuple[str, str]] = set()
        self._found: dict[tuple[object, ...], Any] = {}

    def count(self, outcome: Outcome) -> None:
        model = self._labelled(outcome.provider, outcome.model)
        self._of(self._streams, outcome.format, *model, outcome.outcome).inc()
        if outcome.outcome == "rejected":
            return
        self._of(self._duration, "chat", *model, outcome.code or "").observe(outcome.duration_s)
        if outcome.ttft_s is not None:
            self._of(self._first_chunk, "chat", *model).observe(outcome.ttft_s)
            if outcome.chunks > 1:
                mean = (outcome.duration_s - outcome.ttft_s) / (outcome.chunks - 1)
                self._of(self._per_chunk, "chat", *model).observe(mean)
        if outcome.usage_source is not None:
            self._of(self._tokens, "chat", *model, "input").observe(outcome.input_tokens)
            self._of(self._tokens, "chat", *model, "output").observe(outcome.output_tokens)
        if outcome.cancel_s is not None and outcome.cancelled_by == "client":
            # At a drain a stream first writes its last event: that is no measure of how soon we hang up.
            self._cancel.observe(outcome.cancel_s)

    def attempted(self, provider: str, model: str, result: str) -> None:
        self._of(self._attempts, *self._labelled(provider, model), result).inc()

    def breaker_turned(self, provider: str, model: str, is_open: bool) -> None:
        self._of(self._breakers, *self._labelled(provider, model)).set(int(is_open))

    def _labelled(self, provider: str, model: str) -> tuple[str, str]:
        """The two as labels: beyond `MAX_MODELS` the model is "other"."""
        asked = (provider, model)
        if asked not in self._models:
            if len(self._models) >= MAX_MODELS:
                return provider, OTHER
            self._models.add(asked)
        return asked

    def _of(self, family: _Family, *labels: str) -> _Family:
        """`family.labels(...)`, which costs as much as the counting itself, once for each."""
        key = (family, *labels)
        if (found := self._found.get(key)) is None:
            found = self._found[key] = family.labels(*labels)
        return cast(_Family, found)


_built: _Metrics | None = None
_building = threading.Lock()


def _metrics() -> _Metrics:
    """This process's. Not made at import: it opens files in the shared folder, and what imports the house is not always
    a worker (the check of the settings, the embedded model)."""
    global _built
    if _built is None:
        with _building:
            _built = _built or _Metrics()
    return _built
