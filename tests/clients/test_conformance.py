"""Every client, unmodified, in a process of its own, against a real gunicorn in front of the fake provider: it shows
what the provider said, tells of every failure, and when it leaves, upstream is closed. The table is in cases.py."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import readme
import requests
from cases import CASES, TOOL_NAMES, TOOLS, Cell, Told, cells
from conftest import ROOT, Service
from driving import Drivers, Job, Seen, installed

from app.testing import FakeProvider, answer, text_after

KEY = "sk-one-that-is-accepted"
HEARTBEAT_S = 0.5
LEAVE_AFTER = 3  # pieces of text

CELLS = {cell.id: cell for cell in cells()}


class Services(NamedTuple):
    provider: FakeProvider
    patient: Service
    hasty: Service  # its status line waits for nothing


def third_provider(provider: FakeProvider, folder: Path) -> dict[str, str]:
    """The environment of a service that knows it: the same server, asked in another protocol."""
    table = {"kind": "openai_responses", "base_url": provider.openai_base_url, "api_key_env": "OPENAI_API_KEY"}
    config = folder / "sluiceway.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    config.write_text("\n".join(["[providers.responses]", *lines, ""]), "utf-8")
    return {"SLUICEWAY_CONFIG": str(config)}


@pytest.fixture(scope="module")
def services(start_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with FakeProvider() as provider:
        env = {
            **provider.env,
            **third_provider(provider, tmp_path_factory.mktemp("clients")),
            "SLUICEWAY_SERVER__API_KEYS_SHA256": json.dumps([hashlib.sha256(KEY.encode()).hexdigest()]),
            "SLUICEWAY_SERVER__HEARTBEAT_S": str(HEARTBEAT_S),
        }
        patient = start_service(env)
        hasty = start_service({**env, "SLUICEWAY_SERVER__HOLD_S": "0"})
        yield Services(provider, patient, hasty)
        patient.stop()
        hasty.stop()


def model_of(cell: Cell) -> str:
    """A name that only this cell has, so that its request is found in the provider's books. It seeds the words, too."""
    return f"cell{list(CELLS).index(cell.id)}-{cell.case.parts}"


def job_of(cell: Cell, services: Services) -> Job:
    case = cell.case
    return {
        "id": cell.id,
        "way": cell.client.way,
        "url": (services.hasty if case.hasty else services.patient).url,
        "model": f"{cell.provider}/{model_of(cell)}",
        "key": "sk-of-somebody-else" if case.wrong_key else KEY,
        "tools": TOOLS if cell.offers_tools else [],
        "leave_after": LEAVE_AFTER if case.kind == "left" else None,
        "whole": case.whole,
        "retries": case.retries,
    }


@pytest.fixture(scope="module")
def drivers(services: Services, request: pytest.FixtureRequest) -> Iterator[Drivers]:
    """All that the chosen tests need, at work from the first one on; each test waits for its own."""

    def departed(job: Job) -> bool:
        model = job["model"].partition("/")[2]
        with contextlib.suppress(AssertionError):
            services.provider.wait_for(
                lambda _: any(gone.request.body["model"] == model for gone in services.provider.departures)
            )
            return True
        return False

    jobs: dict[str, list[Job]] = {}
    chosen = [item.callspec.params.get("cell") for item in request.session.items if hasattr(item, "callspec")]
    for cell in chosen:
        if isinstance(cell, Cell) and installed(cell.client.driver):
            jobs.setdefault(cell.client.driver, []).append(job_of(cell, services))
    with Drivers(jobs, departed) as running:
        yield running


@pytest.fixture
def seen(cell: Cell, drivers: Drivers) -> Seen:
    if not installed(cell.client.driver):
        pytest.skip(f"{cell.client.name} is not installed: make clients")
    return drivers.seen(cell.id)


def each(*kinds: str) -> Any:
    chosen = [pytest.param(cell, id=cell.id) for cell in CELLS.values() if cell.case.kind in kinds]
    return pytest.mark.parametrize("cell", chosen)


@each("answer")
def test_an_answer_is_what_the_provider_said(cell: Cell, seen: Seen, services: Services) -> None:
    client = cell.client
    want = answer(model_of(cell), tools=TOOL_NAMES if cell.offers_tools else ())
    assert seen["error"] is None
    assert seen["text"] == want.text
    assert seen["finish"] == client.word_for(want.finish_reason)
    if "tools" not in client.without:
        calls = [[call.id, call.name, json.loads(call.arguments)] for call in want.tool_calls]
        assert seen["calls"] == calls
    if "reasoning" not in client.without:
        assert seen["reasoning"] == want.reasoning
    if "usage" not in client.without:
        assert seen["usage"] == [want.input_tokens, want.output_tokens]
    if cell.case.retries:
        asked = [request for request in services.provider.requests if request.body["model"] == model_of(cell)]
        assert len(asked) == 2
        assert asked[1].at - asked[0].at >= 1.0
    if cell.case.name == "silence":  # each token is a piece, as the next was not there yet
        assert seen["pieces"] >= want.output_tokens


OWN = {"/v1/chat/completions": "openai", "/v1/responses": "responses", "/v1/messages": "anthropic"}


@each("declined")
def test_a_refusal_of_the_models_is_shown(cell: Cell, seen: Seen) -> None:
    client = cell.client
    assert seen["error"] is None
    if "refusal" not in client.without:
        assert seen["text"] == answer(model_of(cell)).text
    # In OpenAI's own protocols a refusal is a field, and the reason is the ordinary one.
    relayed = OWN.get(client.door.route) == cell.provider
    words = {client.word_for("content_filter"), *([client.word_for("stop")] if relayed else [])}
    assert seen["finish"] in words


def assert_told(error: dict[str, Any], told: Told, shows: frozenset[str], codes: dict[str, str]) -> None:
    want = {"status": told.status, "code": codes.get(told.code, told.code)}
    assert {name: error[name] for name in want if name in shows} == {
        name: value for name, value in want.items() if name in shows
    }
    if "message" in shows:
        assert told.words in error["message"]
    if "retry_after" in shows:
        assert error["retry_after"] == {429: "3", 503: "1"}.get(told.status)


@each("refused")
def test_a_refusal_is_raised_with_its_status(cell: Cell, seen: Seen) -> None:
    told, errors = cell.case.told, cell.client.errors
    assert told is not None
    assert seen["error"] is not None, seen
    assert seen["error"]["class"] == errors.refused[told.status]
    assert_told(seen["error"], told, errors.shows_refused, errors.codes)
    assert seen["text"] == ""


@each("broken")
def test_a_failure_in_the_stream_is_told_behind_the_text_so_far(cell: Cell, seen: Seen) -> None:
    told, errors = cell.case.told, cell.client.errors
    assert told is not None
    assert seen["error"] is not None, seen
    assert seen["error"]["class"] == (errors.late if errors.late and not cell.case.tokens else errors.broken)
    assert_told(seen["error"], told, errors.shows_broken, errors.codes)
    assert seen["text"] == text_after(model_of(cell), cell.case.tokens)


@each("left")
def test_leaving_closes_upstream(cell: Cell, seen: Seen) -> None:
    assert seen["error"] is None
    assert seen["left"]
    assert seen["text"]
    assert answer(model_of(cell)).text.startswith(seen["text"])
    assert seen["departed"]


PROMPT: dict[str, Any] = {"prompt": "hi"}
MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
UI_MESSAGE = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
AGUI_MESSAGE = {"id": "m", "role": "user", "content": "hi"}
COMMENT = b": ping\n"
HEARTBEATS: dict[str, tuple[dict[str, Any], bytes]] = {  # route -> what is asked there, a sign of life in the body
    "/v1/chat/completions": (MESSAGES, COMMENT),
    "/v1/responses": ({"input": "hi", "stream": True}, COMMENT),
    "/v1/messages": (MESSAGES | {"max_tokens": 9}, b"event: ping\n"),
    "/v1/streams": (PROMPT, COMMENT),
    "/api/chat": ({"id": "c", "messages": [UI_MESSAGE]}, COMMENT),
    "/agui": ({"threadId": "t", "runId": "r", "messages": [AGUI_MESSAGE]}, COMMENT),
    "/chat": (PROMPT, COMMENT),
    "/chat/stream": ({"message": "hi"}, COMMENT),
}


def test_the_silence_was_full_of_heartbeats(services: Services) -> None:
    """Which is what the clients had to read over."""
    parts = CASES["silence"].parts

    def heard(route: str) -> int:
        body, heartbeat = HEARTBEATS[route]
        model = {"model": f"openai/heard-{parts}"}
        asked = {**body, **({"forwardedProps": model} if route == "/agui" else model)}
        headers = {"Authorization": f"Bearer {KEY}"}
        return requests.post(services.hasty.url + route, json=asked, headers=headers, timeout=30).content.count(
            heartbeat
        )

    with ThreadPoolExecutor() as pool:
        counts = dict(zip(HEARTBEATS, pool.map(heard, HEARTBEATS), strict=True))
    assert min(counts.values()) >= 3, counts  # in three times 1.5 s, one each half a second


def test_the_readme_has_this_table() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = text.partition(f"{readme.BEGIN}\n")[2].partition(f"\n{readme.END}")[0]
    assert shown == readme.table_of(), "run: python tests/clients/readme.py README.md"


def test_every_client_is_pinned() -> None:
    """What a lock file names is what everyone gets; none says from where."""
    here = ROOT / "tests/clients"
    lock = json.loads((here / "package-lock.json").read_text("utf-8"))
    wanted = json.loads((here / "package.json").read_text("utf-8"))
    assert lock["packages"][""]["dependencies"] == wanted["dependencies"]
    for name, package in lock["packages"].items():
        if name:
            assert package["integrity"].startswith("sha512-"), name
            assert "resolved" not in package, name
