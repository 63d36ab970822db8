"""An answer by as many tries as it takes, from both sides: what the caller got, and what the provider was asked.

The names here: `openai/fake-e503` is a model alone; `o-e503` and `a-e503` are aliases of it at either provider, with
`BACKUP` at the other one as their fallback.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import requests
from callers import ASKED, STREAMED, Caller, Watched, request_bytes
from callers import watched as under_watch
from conftest import Service, eventually
from scraped import Numbers
from test_failures import CHAT, MESSAGES, ROUTES, code_of, expected
from test_heartbeats import Heard, apart, code_in, hear, text_of
from test_routes import Door

from app import create_app
from app.testing import FakeProvider, answer
from app.testing.connection import Request

BACKUP = "backup-n5"
TRIES = 3
QUICK_S = 10.0  # far above what tries and pauses take here, far below any clock that is not meant to ring

PROVIDERS = {"openai": "anthropic", "anthropic": "openai"}  # and who stands in

# Only these are waited for with short clocks: on a busy machine such a clock may ring before a failure has arrived.
SILENT = ("slow9000", "stall0", "f9000", "stall5", "n6-slow9000-times4")

SHORT = "first_token_s = 0.5\nidle_s = 0.5"
# Many wait for these at the same time, and each has to reach the provider before its clock rings.
WAITED = "first_token_s = 1.5\nidle_s = 1.5"


def alias(provider: str, behaviour: str, clocks: str = "") -> str:
    return f"""
[models."{provider[0]}-{behaviour}"]
target = "{provider}/fake-{behaviour}"
fallbacks = ["{PROVIDERS[provider]}/{BACKUP}"]
{clocks}
"""


def alone(provider: str, clocks: str) -> str:
    return f"""
[models."silent-{provider}-*"]
target = "{provider}/*"
{clocks}
"""


ALIASES = f"""
{"".join(alias(provider, "*") for provider in PROVIDERS)}
{"".join(alias(provider, silent, WAITED) for provider in PROVIDERS for silent in SILENT)}

{"".join(alone(provider, SHORT) for provider in PROVIDERS)}

[models."brief-*"]
target = "openai/fake-*"
total_s = 2

[models."brief-with-fallback"]
target = "openai/fake-e429-ra3"
fallbacks = ["anthropic/{BACKUP}"]
total_s = 2

[models."same-*"]
target = "openai/fake-*"
fallbacks = ["openai/{BACKUP}"]

[models."worse-*"]
target = "openai/fake-*"
fallbacks = ["anthropic/backup-e529", "anthropic/backup-e401"]
"""
RETRY = {
    "SLUICEWAY_RETRY__ATTEMPTS": str(TRIES),
    "SLUICEWAY_RETRY__BACKOFF_S": "0.01",
    "SLUICEWAY_RETRY__MAX_RETRY_AFTER_S": "3",
}

Start = Callable[..., Service]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory, fake_provider_server: FakeProvider) -> dict[str, str]:
    file = tmp_path_factory.mktemp("tries") / "sluiceway.toml"
    file.write_text(ALIASES)
    return {**fake_provider_server.env, **RETRY, "SLUICEWAY_CONFIG": str(file)}


@pytest.fixture(scope="module")
def watched(start_service: Start, environ: dict[str, str]) -> Iterator[Watched]:
    one = under_watch(start_service, environ)
    yield one
    one.assert_no_complaint()
    one.service.stop()


@pytest.fixture(scope="module")
def service(watched: Watched) -> Service:
    return watched.service


def ask(service: Service, route: str, model: str, *, stream: bool = True, **more: Any) -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    return requests.post(service.url + route, json=body, timeout=30)  # raises if a body lacks its last chunk


class Said(NamedTuple):
    response: requests.Response
    took_s: float
    requests: list[Request]  # what the provider was asked for this answer


def asked(provider: FakeProvider | Said) -> list[str]:
    """The models that the provider was asked for, one a request."""
    return [request.body["model"] for request in provider.requests]


def pauses(provider: FakeProvider | Said) -> list[float]:
    at = [request.at for request in provider.requests]
    return [later - earlier for earlier, later in itertools.pairwise(at)]


Case = tuple[str, str, bool]  # route, model, whether it is streamed


def answered(service: Service, provider: FakeProvider, case: Case) -> Said:
    """Also while others are: the provider is told the id of the answer that it is asked for."""
    route, model, stream = case
    began = time.monotonic()
    response = ask(service, route, model, stream=stream)
    took_s = time.monotonic() - began
    identity = response.headers["X-Request-ID"]
    return Said(response, took_s, [one for one in provider.requests if one.headers["x-request-id"] == identity])


def read(route: str, response: requests.Response) -> tuple[str, str]:
    """(model, text) of a whole answer, however it was sent: one identity, one proper end, no error."""
    assert response.status_code == 200, response.text
    if response.headers["Content-Type"] == "application/json":
        said = response.json()
        return said["model"], said["choices"][0]["message"]["content"] if route == CHAT else said["content"][0]["text"]
    lines = [line for line in response.content.decode().split("\n") if line.startswith("data: ")]
    if route == CHAT:
        assert lines.pop() == "data: [DONE]"
    data = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert not [one for one in data if "error" in one]
    if route == CHAT:
        assert len({one["id"] for one in data}) == 1
        assert data[-1]["choices"][0]["finish_reason"] == "stop"
        (model,) = {one["model"] for one in data}
        return model, "".join(one["choices"][0]["delta"].get("content") or "" for one in data)
    kinds = [one["type"] for one in data]
    assert (kinds.count("message_start"), kinds[-1]) == (1, "message_stop")
    text = "".join(one["delta"]["text"] for one in data if one["type"] == "content_block_delta")
    return data[0]["message"]["model"], text


def line_of(service: Service, response: requests.Response) -> dict[str, Any]:
    """What the log says of it in the end."""
    identity = response.headers["X-Request-ID"]

    def line() -> Any:
        said = [json.loads(one) for one in service.log.splitlines() if one.startswith("{") and identity in one]
        return [one for one in said if one["request_id"] == identity]

    (only,) = eventually(line, what="the line of the stream")
    found: dict[str, Any] = only
    return found


def sent(model: str) -> str:
    """The provider's name for `o-...`, `a-...`."""
    return "fake-" + model.partition("-")[2]


STREAM = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

# Whose time is waiting: a clock is to ring, or a Retry-After to pass.
SILENCES = ("slow9000", "stall0", "f9000")
NAMED_PAUSES = {"ra1": 1.0, "rad3": 1.5}  # and what they are at least


class Waited(NamedTuple):
    said: dict[Case, Future[Said]]
    requests: int  # of the provider, for all of them


@pytest.fixture(scope="module")
def waited(service: Service, fake_provider_server: FakeProvider) -> Waited:
    """Their answers, many asked at the same time."""
    cases: list[Case] = [
        (CHAT, f"{provider}/fake-n6-e429-{named}-times1", True) for provider in PROVIDERS for named in NAMED_PAUSES
    ]
    for route, provider in (row.values for row in ROUTES):
        cases += [(route, f"{provider[0]}-{silent}", stream) for silent in SILENCES for stream in (True, False)]
        cases.append((route, f"{provider[0]}-stall5", False))
    with ThreadPoolExecutor(16) as pool:
        said = {case: pool.submit(answered, service, fake_provider_server, case) for case in cases}
    return Waited(said, len(fake_provider_server.requests))


# The same target again

MENDED = [
    "e500-times1",
    "e503-times2",
    "e529-times2",
    "e429-times1",
    "e408-times1",
    "e409-times2",
    "refuse-times2",
    "rst0-times2",
    "cut0-times1",
    "eof0-times1",
    "bad0-times1",
    "err0-times2",
    "html-times1",
    "empty-times2",
]


@STREAM
@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize("behaviour", MENDED)
def test_what_passes_is_never_seen(
    service: Service, fake_provider: FakeProvider, route: str, provider: str, behaviour: str, stream: bool
) -> None:
    model = f"fake-n6-{behaviour}"
    response = ask(service, route, f"{provider}/{model}", stream=stream)
    assert read(route, response) == (model, answer(model).text)
    assert asked(fake_provider) == [model] * (1 + int(behaviour[-1]))
    assert sum(pauses(fake_provider)) < QUICK_S


@pytest.mark.parametrize(("named", "at_least_s"), NAMED_PAUSES.items(), ids=["seconds", "date"])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_retry_after_is_waited_for(waited: Waited, provider: str, named: str, at_least_s: float) -> None:
    model = f"fake-n6-e429-{named}-times1"
    said = waited.said[CHAT, f"{provider}/{model}", True].result()
    assert read(CHAT, said.response) == (model, answer(model).text)
    (pause,) = pauses(said)
    assert at_least_s <= pause < at_least_s + QUICK_S


@pytest.mark.parametrize(("route", "provider"), ROUTES)
def test_one_that_is_too_long_is_told_to_the_client_at_once(
    service: Service, fake_provider: FakeProvider, route: str, provider: str
) -> None:
    response = ask(service, route, f"{provider}/fake-e429-ra60")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "60")
    assert code_of(route, response.json()) == expected(route, "provider_rate_limited")
    assert len(asked(fake_provider)) == 1


def test_a_pause_that_would_outlast_the_answers_own_time_is_not_begun(
    service: Service, fake_provider: FakeProvider
) -> None:
    began = time.monotonic()
    response = ask(service, CHAT, "brief-e429-ra3")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert read(CHAT, ask(service, CHAT, "brief-with-fallback"))[0] == BACKUP
    assert time.monotonic() - began < QUICK_S
    assert asked(fake_provider) == ["fake-e429-ra3", "fake-e429-ra3", BACKUP]


@STREAM
@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize(
    ("behaviour", "status", "code", "tries"),
    [
        ("e500", 503, "provider_overloaded", TRIES),
        ("e503", 503, "provider_overloaded", TRIES),
        ("e529", 503, "provider_overloaded", TRIES),
        ("e429", 429, "provider_rate_limited", TRIES),
        ("refuse", 502, "provider_unavailable", TRIES),
        ("html", 502, "stream_broken", TRIES),
        ("e401", 502, "provider_auth", 1),
        ("e400", 400, "provider_rejected", 1),
        ("ctx", 400, "context_length_exceeded", 1),
        ("filter", 400, "content_filtered", 1),
    ],
)
def test_what_lasts_is_told_after_so_many_tries(
    service: Service,
    fake_provider: FakeProvider,
    route: str,
    provider: str,
    behaviour: str,
    status: int,
    code: str,
    tries: int,
    stream: bool,
) -> None:
    response = ask(service, route, f"{provider}/fake-{behaviour}", stream=stream)
    assert response.status_code == status
    assert code_of(route, response.json()) == expected(route, code)
    assert response.headers.get("Retry-After") == ("1" if status in (429, 503) else None)
    assert asked(fake_provider) == [f"fake-{behaviour}"] * tries
    line = line_of(service, response)
    assert (line["outcome"], line["code"], line["attempts"]) == ("error", code, tries)


@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize("fault", ["cut5", "rst5", "eof5", "bad5", "err5"])
def test_an_answer_in_one_piece_is_asked_for_again_whatever_breaks_it(
    service: Service, fake_provider: FakeProvider, route: str, provider: str, fault: str
) -> None:
    model = f"fake-n8-{fault}-times2"
    assert read(route, ask(service, route, f"{provider}/{model}", stream=False)) == (model, answer(model).text)
    assert asked(fake_provider) == [model] * 3


# The next target

LASTING = [
    # model's behaviour, tries of it before the fallback
    ("e500", TRIES),
    ("e503", TRIES),
    ("e529", TRIES),
    ("e429", TRIES),
    ("e429-ra60", 1),
    ("refuse", TRIES),
    ("rst0", TRIES),
    ("html", TRIES),
    ("empty", TRIES),
    ("err0", TRIES),
    *((silent, 1) for silent in SILENCES),
    ("e401", 1),
    ("e403", 1),
    ("ctx", 1),
]


@STREAM
@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize(("behaviour", "tries"), LASTING, ids=[row[0] for row in LASTING])
def test_what_lasts_goes_to_the_fallback(
    service: Service,
    fake_provider: FakeProvider,
    waited: Waited,
    route: str,
    provider: str,
    behaviour: str,
    tries: int,
    stream: bool,
) -> None:
    case = (route, f"{provider[0]}-{behaviour}", stream)
    if case in waited.said:
        said = waited.said[case].result()
    else:
        said = answered(service, fake_provider, case)._replace(requests=fake_provider.requests)
    assert read(route, said.response) == (BACKUP, answer(BACKUP).text)
    assert said.took_s < QUICK_S
    assert asked(said) == [f"fake-{behaviour}"] * tries + [BACKUP]
    line = line_of(service, said.response)
    assert (line["provider"], line["model"], line["attempts"]) == (PROVIDERS[provider], BACKUP, tries + 1)
    assert (line["outcome"], line["code"]) == ("finished", None)


@pytest.mark.parametrize(("route", "provider"), ROUTES)
def test_an_answer_in_one_piece_that_stalls_in_the_middle_goes_to_the_fallback(
    waited: Waited, route: str, provider: str
) -> None:
    said = waited.said[route, f"{provider[0]}-stall5", False].result()
    assert read(route, said.response) == (BACKUP, answer(BACKUP).text)
    assert asked(said) == ["fake-stall5", BACKUP]


def test_every_request_to_the_provider_was_for_one_of_those_that_waited(waited: Waited) -> None:
    assert sum(len(one.result().requests) for one in waited.said.values()) == waited.requests


@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize(("behaviour", "code"), [("filter", "content_filtered"), ("e400", "provider_rejected")])
def test_what_anybody_would_refuse_goes_to_nobody_else(
    service: Service, fake_provider: FakeProvider, route: str, provider: str, behaviour: str, code: str
) -> None:
    response = ask(service, route, f"{provider[0]}-{behaviour}")
    assert response.status_code == 400
    assert code_of(route, response.json()) == expected(route, code)
    assert asked(fake_provider) == [f"fake-{behaviour}"]


def test_a_refused_key_is_loud_though_the_fallback_has_answered(
    fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    app = create_app(
        {"SLUICEWAY": {"models": {"one": {"target": "openai/fake-e401", "fallbacks": ["anthropic/b-n1"]}}}}
    )
    said = app.test_client().post(CHAT, json={"model": "one", "messages": [{"role": "user", "content": "hi"}]})
    assert said.get_json()["model"] == "b-n1"
    (loud,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert loud.levelno == logging.ERROR
    assert "openai/fake-e401 code=provider_auth" in loud.message
    app.extensions["sluiceway"].close()


@STREAM
@pytest.mark.parametrize("route", [CHAT, MESSAGES])
@pytest.mark.parametrize(("behaviour", "tries"), [("e503", TRIES), ("ctx", 1)])
def test_where_all_fail_the_last_failure_is_told(
    service: Service, fake_provider: FakeProvider, route: str, behaviour: str, tries: int, stream: bool
) -> None:
    response = ask(service, route, f"worse-{behaviour}", stream=stream)
    assert response.status_code == 502
    assert code_of(route, response.json()) == expected(route, "provider_auth")
    assert asked(fake_provider) == [f"fake-{behaviour}"] * tries + ["backup-e529"] * TRIES + ["backup-e401"]
    line = line_of(service, response)
    assert (line["model"], line["code"], line["attempts"]) == ("backup-e401", "provider_auth", tries + TRIES + 1)


@STREAM
@pytest.mark.parametrize(
    ("route", "model", "field"), [(CHAT, "o-e503", {"seed": 1}), (MESSAGES, "a-e503", {"top_k": 5})]
)
def test_a_fallback_that_lacks_a_field_is_not_what_the_caller_hears_of(
    service: Service, fake_provider: FakeProvider, route: str, model: str, field: dict[str, Any], stream: bool
) -> None:
    response = ask(service, route, model, stream=stream, max_tokens=50, **field)
    assert response.status_code == 503
    assert code_of(route, response.json()) == expected(route, "provider_overloaded")
    assert asked(fake_provider) == [sent(model)] * TRIES
    line = line_of(service, response)
    assert (line["model"], line["code"], line["attempts"]) == (sent(model), "provider_overloaded", TRIES)


def test_a_fallback_of_the_same_protocol_is_asked_just_the_same(service: Service, fake_provider: FakeProvider) -> None:
    assert read(CHAT, ask(service, CHAT, "same-e401", seed=7, logprobs=True)) == (BACKUP, answer(BACKUP).text)
    first, second = (request.body for request in fake_provider.requests)
    assert (first["model"], second["model"]) == ("fake-e401", BACKUP)
    assert (first["seed"], first["logprobs"]) == (7, True)
    assert {**first, "model": BACKUP} == second


def test_metrics_count_every_try_where_it_was_made(start_service: Start, environ: dict[str, str]) -> None:
    service = start_service(environ)
    assert read(CHAT, ask(service, CHAT, "o-e503"))[0] == BACKUP

    def seen() -> Any:
        numbers = Numbers(requests.get(f"{service.url}/metrics", timeout=10).text)
        return numbers if numbers["sluiceway_streams_total"] else None

    numbers: Numbers = eventually(seen)
    failed = {"provider": "openai", "model": "fake-e503", "result": "provider_overloaded"}
    gave = {"provider": "anthropic", "model": BACKUP}
    assert numbers["sluiceway_attempts_total", failed] == TRIES
    assert numbers["sluiceway_attempts_total", {**gave, "result": "ok"}] == 1
    assert numbers["sluiceway_attempts_total"] == TRIES + 1
    assert (
        numbers["sluiceway_streams_total", {**gave, "outcome": "finished"}] == numbers["sluiceway_streams_total"] == 1
    )
    service.stop()


# In a pause

PAUSED = "fake-n6-e429-ra3-times1"  # long enough for all that happens in it


@pytest.mark.parametrize("door", ASKED, ids=str)
def test_a_client_that_leaves_in_a_pause_ends_the_tries(
    watched: Watched, fake_provider: FakeProvider, door: Door
) -> None:
    eventually(lambda: watched.holds()["open_streams"] == 0, what="no stream of the test before")
    identity = f"leaves-in-a-pause-{door}"
    with Caller(watched.address, request_bytes(door, PAUSED, identity)) as caller:
        fake_provider.wait_for(lambda stats: stats.faults == 1)
        assert watched.holds()["open_streams"] == 1
        caller.leave("close")
        eventually(lambda: watched.holds()["open_streams"] == 0, what="a free place")
    assert len(asked(fake_provider)) == 1
    log = watched.service.log.splitlines()
    (line,) = [json.loads(one) for one in log if one.startswith("{") and identity in one]
    assert (line["outcome"], line["cancelled_by"], line["attempts"]) == ("cancelled", "client", 1)


def test_a_drain_ends_a_pause(start_service: Start, environ: dict[str, str], fake_provider: FakeProvider) -> None:
    longer = {"SLUICEWAY_SERVER__DRAIN_S": "0.3", "SLUICEWAY_RETRY__MAX_RETRY_AFTER_S": "20"}
    service = start_service({**environ, **longer})
    cases = [(route, stream) for route in (CHAT, MESSAGES) for stream in (True, False)]
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, service, route, "openai/fake-e429-ra20", stream=stream) for route, stream in cases]
        fake_provider.wait_for(lambda stats: stats.faults == len(cases))
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        for (route, _), response in zip(cases, [one.result() for one in answers], strict=True):
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            said = response.json()["error"]
            assert (said["code"] if route == CHAT else said["type"]) in ("draining", "overloaded_error")
            assert "restarting" in said["message"]
    assert time.monotonic() - began < 15, "well before the next try"
    assert service.process.wait(20) == 0
    assert len(asked(fake_provider)) == len(cases)


@pytest.fixture(scope="module")
def hasty(start_service: Start, environ: dict[str, str]) -> Iterator[Service]:
    """It does not hold the status line for as long as a pause takes."""
    beats = {"SLUICEWAY_SERVER__HOLD_S": "0.2", "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2"}
    service = start_service({**environ, **beats})
    yield service
    service.stop()


def paused(door: Door) -> str:
    """A model of the door's own, so that the provider's requests for it can be told from the others'."""
    return f"fake{STREAMED.index(door)}-n6-e429-ra2-times1"


FAILING_LATE = [door for door in STREAMED if str(door) in ("chat-openai", "messages-anthropic", "ndjson-openai")]


def failing(door: Door) -> str:
    return f"fake{STREAMED.index(door)}-e429-ra1"


class Pauses(NamedTuple):
    heard: dict[str, Future[Heard]]  # by model
    asked: Counter[str]


@pytest.fixture(scope="module")
def in_pauses(hasty: Service, fake_provider_server: FakeProvider) -> Pauses:
    """What each door hears in a pause, all at the same time."""
    cases = [(door, paused(door)) for door in STREAMED] + [(door, failing(door)) for door in FAILING_LATE]
    with ThreadPoolExecutor(len(cases)) as pool:
        heard = {model: pool.submit(hear, hasty.url, door, model) for door, model in cases}
    return Pauses(heard, Counter(asked(fake_provider_server)))


@pytest.mark.parametrize("door", STREAMED, ids=str)
def test_heartbeats_go_on_in_a_pause(in_pauses: Pauses, door: Door) -> None:
    model = paused(door)
    heard = in_pauses.heard[model].result()
    body, beats = apart(door, heard.body)
    assert heard.status == 200
    assert text_of(door, body) == answer(model).text
    assert beats >= 2 or door.name == "plain"
    assert in_pauses.asked[model] == 2


@pytest.mark.parametrize("door", FAILING_LATE, ids=str)
def test_what_fails_after_the_status_line_is_an_event(in_pauses: Pauses, door: Door) -> None:
    model = failing(door)
    heard = in_pauses.heard[model].result()
    body, beats = apart(door, heard.body)
    assert (heard.status, in_pauses.asked[model]) == (200, TRIES)
    assert beats >= 2
    assert code_in(door, body) == ("rate_limit_error" if door.name == "messages" else "provider_rate_limited")


# The breaker

COOLDOWN_S = 0.5


def breaking(failures: int, cooldown_s: float = COOLDOWN_S) -> dict[str, str]:
    return {
        "SLUICEWAY_RETRY__ATTEMPTS": "1",
        "SLUICEWAY_BREAKER__FAILURES": str(failures),
        "SLUICEWAY_BREAKER__COOLDOWN_S": str(cooldown_s),
    }


def is_open(service: Service, model: str) -> float:
    text = requests.get(f"{service.url}/metrics", timeout=10).text
    return Numbers(text)["sluiceway_breaker_open", {"model": model}]


@pytest.fixture(scope="module")
def forgiving(start_service: Start, environ: dict[str, str]) -> Iterator[Service]:
    """Its breakers open after three failures, for a moment. A test has models of its own."""
    service = start_service({**environ, **breaking(failures=3)})
    yield service
    service.stop()


@pytest.fixture(scope="module")
def unforgiving(start_service: Start, environ: dict[str, str]) -> Iterator[Service]:
    """Its breakers open after two failures, and stay open. A test has models of its own."""
    service = start_service({**environ, **breaking(failures=2, cooldown_s=60)})
    yield service
    service.stop()


@pytest.mark.parametrize(("route", "primary"), [(CHAT, "o-n6-e503-times5"), (MESSAGES, "a-n7-e503-times5")])
def test_a_flapping_primary_is_left_alone_and_found_again(
    forgiving: Service, fake_provider: FakeProvider, route: str, primary: str
) -> None:
    service, log_at_start = forgiving, len(forgiving.log)
    ours = sent(primary)
    for _ in range(3):
        assert read(route, ask(service, route, primary)) == (BACKUP, answer(BACKUP).text)
    assert is_open(service, ours) == 1
    deadline = time.monotonic() + 30

    def until_it_is_back(_: int) -> set[str]:
        """Everybody is served all the time, by the one or the other."""
        gave: set[str] = set()
        while ours not in gave and time.monotonic() < deadline:
            model, text = read(route, ask(service, route, primary))
            assert text == answer(model).text
            gave.add(model)
        return gave

    with ThreadPoolExecutor() as pool:
        assert all(ours in gave for gave in pool.map(until_it_is_back, range(3)))
    at = [request.at for request in fake_provider.requests if request.body["model"] == ours]
    # Three failures that opened it, two probes that failed, one that did not; then everybody.
    assert all(later - earlier > 0.9 * COOLDOWN_S for earlier, later in itertools.pairwise(at[2:6]))
    assert is_open(service, ours) == 0
    before = len(asked(fake_provider))
    assert read(route, ask(service, route, primary))[0] == ours
    assert asked(fake_provider)[before:] == [ours]
    told = [line for line in service.log[log_at_start:].splitlines() if "its breaker" in line]
    assert [line.rpartition(" ")[2] for line in told] == ["opens", "closes"]


@STREAM
@pytest.mark.parametrize(("route", "provider"), [(CHAT, "openai"), (MESSAGES, "anthropic")])
@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ("e503", 503, "provider_overloaded"),
        ("refuse", 502, "provider_unavailable"),
        ("stall0", 504, "first_token_timeout"),
    ],
)
def test_an_open_breaker_without_a_fallback_tells_the_last_failure_at_once(
    unforgiving: Service,
    fake_provider: FakeProvider,
    route: str,
    provider: str,
    behaviour: str,
    status: int,
    code: str,
    stream: bool,
) -> None:
    model = f"{'streamed' if stream else 'whole'}-{behaviour}"
    name = f"silent-{provider}-{model}" if behaviour in SILENT else f"{provider}/{model}"
    for attempts in (1, 1, 0, 0):
        response = ask(unforgiving, route, name, stream=stream)
        assert response.status_code == status
        assert code_of(route, response.json()) == expected(route, code)
        assert line_of(unforgiving, response)["attempts"] == attempts
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert asked(fake_provider) == [model] * 2
    assert read(route, ask(unforgiving, route, f"{provider}/fake-n2"))[0] == "fake-n2", "the others answer"


@pytest.mark.parametrize("behaviour", ["e400", "e401", "e429", "ctx", "filter"])
def test_what_is_no_fault_of_the_providers_opens_no_breaker(
    unforgiving: Service, fake_provider: FakeProvider, behaviour: str
) -> None:
    for _ in range(4):
        ask(unforgiving, CHAT, f"openai/fake-{behaviour}")
    assert len(asked(fake_provider)) == 4


@pytest.mark.parametrize(("stream", "model"), [(True, "o-n1-e503"), (False, "o-n2-e503")], ids=["streamed", "whole"])
def test_a_fallback_that_lacks_a_field_is_not_heard_of_behind_an_open_breaker(
    unforgiving: Service, fake_provider: FakeProvider, stream: bool, model: str
) -> None:
    for _ in range(4):
        response = ask(unforgiving, CHAT, model, stream=stream, seed=1)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "provider_overloaded")
    assert asked(fake_provider) == [sent(model)] * 2
    assert read(CHAT, ask(unforgiving, CHAT, model, stream=stream))[0] == BACKUP


def test_a_probe_whose_client_leaves_is_followed_by_another(forgiving: Service, fake_provider: FakeProvider) -> None:
    door = next(door for door in STREAMED if str(door) == "chat-openai")
    model = "fake-n6-slow9000-times4"  # late thrice for the first failures, and once for the probe that is given up
    with ThreadPoolExecutor(3) as pool:
        for response in pool.map(lambda _: ask(forgiving, CHAT, f"o-{model.removeprefix('fake-')}"), range(3)):
            assert read(CHAT, response)[0] == BACKUP
    assert is_open(forgiving, model) == 1

    def probe_is_on_its_way() -> bool:
        with Caller(("127.0.0.1", forgiving.port), request_bytes(door, model)) as caller:
            caller.sock.settimeout(1)
            with contextlib.suppress(TimeoutError):
                caller.read_until(b"\r\n\r\n")  # refused
            return asked(fake_provider).count(model) == 4

    eventually(probe_is_on_its_way)
    eventually(lambda: ask(forgiving, CHAT, f"openai/{model}").status_code == 200, what="a second probe")
