"""One fallback and otherwise default settings: what a user gets who has configured nothing else.

The clocks are the real ones, so all rows are asked at the same time, once, and their tests look at what came of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest
import requests
from conftest import Service
from test_broken_off import CHAT, MESSAGES, Heard, alias, expected
from test_tries import PROVIDERS, ask

from app.testing import FakeProvider, answer, text_after

DEFAULTS = {
    "SLUICEWAY_RETRY__ATTEMPTS": "3",
    "SLUICEWAY_RETRY__BACKOFF_S": "0.5",
    "SLUICEWAY_BREAKER__FAILURES": "5",
    "SLUICEWAY_BREAKER__COOLDOWN_S": "10",
    "WEB_CONCURRENCY": "1",
}
SAYS = "fake-n12"

# What the primary does; within how many seconds the whole answer is there; which of the two gave it, or its end.
ROWS = {
    "e429-times1": (8, "primary"),
    "e429": (10, "fallback"),
    "e429-ra2-times1": (8, "primary"),
    "e429-ra60": (8, "fallback"),
    "e500-times1": (8, "primary"),
    "e503": (10, "fallback"),
    "refuse": (10, "fallback"),
    "rst0": (10, "fallback"),
    "slow60000": (15, "fallback"),
    "f20000": (15, "fallback"),
    "stall0": (15, "fallback"),
    "cut8": (8, "fallback"),
    "rst8": (8, "fallback"),
    "eof8": (8, "fallback"),
    "bad8": (8, "fallback"),
    "err8": (8, "fallback"),
    "stall8": (40, "fallback"),
    "nodone": (8, "primary"),
    "ctx": (8, "fallback"),
    "html": (10, "fallback"),
    "empty": (10, "fallback"),
    "big2048": (30, "primary"),  # which is work, as the next is
    "drip": (30, "primary"),
}
# Without a fallback: within how many seconds, and by which error it ends ("": it is whole).
ALONE = {
    "e429": (10, "provider_rate_limited"),
    "e500-times1": (8, ""),
    "e503": (10, "provider_overloaded"),
    "refuse": (10, "provider_unavailable"),
    "rst0": (10, "stream_broken"),
    "slow60000": (40, "first_token_timeout"),
    "f60000": (40, "first_token_timeout"),
    "f20000": (30, ""),
    "cut8": (10, "stream_broken"),
    "bad8": (10, "stream_broken"),
    "err8": (10, "provider_overloaded"),
    "stall8": (45, "idle_timeout"),
    "nodone": (8, ""),
    "ctx": (8, "context_length_exceeded"),
    "filter": (8, "content_filtered"),
    "html": (10, "stream_broken"),
    "empty": (10, "stream_broken"),
}


class Came(NamedTuple):
    response: requests.Response
    after_s: float


Ask = Callable[[str, str], Came]
WIRES = {"openai": CHAT, "anthropic": MESSAGES}


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., Service],
    tmp_path_factory: pytest.TempPathFactory,
    fake_provider_server: FakeProvider,
) -> Service:
    file = tmp_path_factory.mktemp("defaults") / "sluiceway.toml"
    text = ""
    for one, other in PROVIDERS.items():
        for behaviour in ROWS:
            same = f"{other}/{SAYS}-big2048" if behaviour == "big2048" else f"{other}/{SAYS}"
            text += alias(f"{one[0]}-{behaviour}", one, f"{SAYS}-{behaviour}", same)
        text += alias(f"{one[0]}-filter", one, f"{SAYS}-filter", f"{other}/{SAYS}")
        text += alias(f"{one[0]}-no-prefill", other, f"{SAYS}-noprefill", more="prefill = true")
        text += alias(f"{one[0]}-cut7", one, f"{SAYS}-cut7", f"{one[0]}-no-prefill")
        text += alias(f"{one[0]}-flaps", one, f"{SAYS}-e503-times6", f"{other}/{SAYS}")
    file.write_text(text)
    return start_service({**fake_provider_server.env, **DEFAULTS, "SLUICEWAY_CONFIG": str(file)})


@pytest.fixture(scope="module")
def came(service: Service, fake_provider_server: FakeProvider) -> dict[tuple[str, str], Future[list[Came]]]:
    """What came of every row, for both wires."""

    def once(provider: str, model: str) -> list[Came]:
        began = time.monotonic()
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        response = requests.post(service.url + WIRES[provider], json=body, timeout=60)
        return [Came(response, time.monotonic() - began)]

    def for_so_long(provider: str, model: str) -> list[Came]:
        """One after the other, until it is back on its primary, and once more."""
        all_: list[Came] = []
        until = time.monotonic() + 60
        while time.monotonic() < until and not (all_ and named(provider, all_[-1]) == f"{SAYS}-e503-times6"):
            all_ += once(provider, model)
            time.sleep(0.05)
        return all_ + once(provider, model)

    pool = ThreadPoolExecutor(2 * (len(ROWS) + len(ALONE) + 3))
    fake_provider_server.reset()
    asked: dict[tuple[str, str], Future[list[Came]]] = {}
    for provider in WIRES:
        for behaviour in (*ROWS, "filter", "cut7"):
            asked[provider, behaviour] = pool.submit(once, provider, f"{provider[0]}-{behaviour}")
        for behaviour in ALONE:
            # Another first word: the provider counts, and the breaker judges, by the model's name.
            model = f"{provider}/alone-n12-{behaviour}"
            asked[provider, f"alone {behaviour}"] = pool.submit(once, provider, model)
        asked[provider, "flaps"] = pool.submit(for_so_long, provider, f"{provider[0]}-flaps")
    return asked


def named(provider: str, came: Came) -> str:
    """The model that gave the answer."""
    return Heard(WIRES[provider], came.response.content).models[-1]


wires = pytest.mark.parametrize("provider", WIRES)
Results = dict[tuple[str, str], Future[list[Came]]]


@wires
@pytest.mark.parametrize("behaviour", ROWS)
def test_the_caller_has_the_whole_answer(came: Results, provider: str, behaviour: str) -> None:
    (one,) = came[provider, behaviour].result(timeout=90)
    assert one.response.status_code == 200, one.response.text
    got = Heard(WIRES[provider], one.response.content)
    within_s, by = ROWS[behaviour]
    primary = f"{SAYS}-{behaviour}"
    whole = answer(f"{SAYS}-big2048").text if behaviour == "big2048" else answer(SAYS).text
    assert (got.text, got.code) == (whole, "")
    assert one.after_s < within_s
    if WIRES[provider] == CHAT:
        assert got.models[-1] == (primary if by == "primary" else SAYS)


@wires
def test_a_fallback_that_refuses_a_prefill_answers_nevertheless(came: Results, provider: str) -> None:
    (one,) = came[provider, "cut7"].result(timeout=90)
    got = Heard(WIRES[provider], one.response.content)
    assert (got.text, got.code) == (answer(SAYS).text, "")


@wires
def test_the_content_filter_has_the_last_word(came: Results, fake_provider_server: FakeProvider, provider: str) -> None:
    (one,) = came[provider, "filter"].result(timeout=90)
    assert one.response.status_code == 400
    body = one.response.json()
    assert (body["error"]["code"] if provider == "openai" else body["error"]["type"]) == expected(
        WIRES[provider], "content_filtered"
    )
    assert "content" in body["error"]["message"]  # the provider's own reason
    at = [request for request in fake_provider_server.requests if request.body["model"] == f"{SAYS}-filter"]
    assert len([request for request in at if request.path.endswith(WIRES[provider].rpartition("/")[2])]) == 1


@wires
def test_a_flapping_primary_is_found_again(came: Results, fake_provider_server: FakeProvider, provider: str) -> None:
    all_ = came[provider, "flaps"].result(timeout=90)
    for one in all_:  # served throughout
        got = Heard(WIRES[provider], one.response.content)
        assert (got.text, got.code) == (answer(SAYS).text, "")
    primary = f"{SAYS}-e503-times6"
    last = WIRES[provider].rpartition("/")[2]
    at = [
        request.at
        for request in fake_provider_server.requests
        if request.body["model"] == primary and request.path.endswith(last)
    ]
    assert len(at) == 8  # six that failed, the probe that did not, and the one after that
    assert all(later - earlier > 9.5 for earlier, later in itertools.pairwise(at[4:7])), "one probe a cooldown"
    assert at[6] - at[5] < 30, "back soon"


@wires
@pytest.mark.parametrize("behaviour", ALONE)
def test_without_a_fallback_it_ends_properly(came: Results, provider: str, behaviour: str) -> None:
    (one,) = came[provider, f"alone {behaviour}"].result(timeout=90)
    within_s, code = ALONE[behaviour]
    route, model = WIRES[provider], f"alone-n12-{behaviour}"
    assert one.after_s < within_s
    if one.response.status_code != 200:
        body = one.response.json()["error"]
        assert (body["code"] if route == CHAT else body["type"]) == expected(route, code)
        return
    got = Heard(route, one.response.content)
    assert got.code == (expected(route, code) if code else "")
    said = behaviour.endswith("8") and code
    assert got.text == (text_after(model, 8) if said else "" if code else answer(model).text)


@wires
def test_a_healthy_request_right_after_is_answered(came: Results, service: Service, provider: str) -> None:
    for one in came.values():
        one.result(timeout=90)
    got = Heard(WIRES[provider], ask(service, WIRES[provider], f"{provider}/{SAYS}").content)
    assert (got.text, got.code) == (answer(SAYS).text, "")
