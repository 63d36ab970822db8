"""Shaped text as clients get it: in each format that can ask for it, resumed, held through silences and heartbeats, and
joined where the provider broke off; under gevent, and under threads."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from conftest import Service, eventually
from test_routes import frames

from app.events import Finished, TextDelta
from app.request import Shape
from app.testing import FakeProvider, answer, text_after
from app.transforms.shape import Shaping

TEXT = """# Gates

Dr. Lock opens 3.5 gates a day, e.g. the upper one. "Slowly!" he says. It takes time.

- raise the paddle
- wait

  for the level

```python
gate.open()

gate.wait()
```

| gate | level |
|------|------:|
| top  |   3.2 |

Done."""

ALIASES = """
[models.again]
target = "openai/fake-echo-cut11"
fallbacks = ["anthropic/fake-echo"]
[models.other]
target = "openai/fake-echo-cut11"
fallbacks = ["anthropic/backup-n9"]
"""


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def served(
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("shaping") / "sluiceway.toml"
    file.write_text(ALIASES)
    env = {
        **fake_provider_server.env,
        "SLUICEWAY_CONFIG": str(file),
        "SLUICEWAY_SERVER__HEARTBEAT_S": "0.3",
        "SLUICEWAY_RETRY__ATTEMPTS": "2",
        "SLUICEWAY_RETRY__BACKOFF_S": "0.05",
    }
    threads = ("--config", os.devnull, "--worker-class", "gthread", "--threads", "16")
    service = start_service(env, *(threads if request.param == "gthread" else ()))
    yield service
    assert "Traceback" not in service.log
    service.stop()


def pieces(text: str, shape: Shape) -> list[str]:
    events = Shaping(shape).feed([TextDelta(text=text), Finished(reason="stop")], 0.0)
    return [event.text for event in events if isinstance(event, TextDelta)]


def body_of(served: Service, path: str, body: dict[str, Any]) -> bytes:
    response = requests.post(f"{served.url}{path}", json=body, timeout=30)
    assert response.status_code in (200, 201), response.text
    return response.content


def lines_of(body: bytes) -> list[dict[str, Any]]:
    """The objects of a body of native NDJSON, without heartbeats."""
    return [json.loads(line) for line in body.split(b"\n") if line]


def native(served: Service, model: str, shape: Any, prompt: str = TEXT, **more: Any) -> list[dict[str, Any]]:
    asked = {"model": model, "prompt": prompt, "shape": shape, "format": "ndjson", **more}
    return lines_of(body_of(served, "/v1/streams", asked))


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events if event["type"] == "text"]


SAID = [{"role": "user", "content": TEXT, "id": "u", "parts": [{"type": "text", "text": TEXT}]}]
MODEL = "openai/fake-echo-i5"
ASKED = {
    "native": ("/v1/streams", {"model": MODEL, "prompt": TEXT}),
    "ndjson": ("/v1/streams", {"model": MODEL, "prompt": TEXT, "format": "ndjson"}),
    "ai_sdk": ("/api/chat", {"model": MODEL, "id": "c", "messages": SAID, "resumable": False}),
    "agui": ("/agui", {"threadId": "t", "runId": "r", "messages": SAID, "tools": [], "context": [], "state": {}}),
}
SHAPES = ["sentence", "block", {"unit": "sentence", "min_chars": 60}, {"unit": "block", "min_chars": 40}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ASKED)
def test_each_format_gets_the_pieces(served: Service, fake_provider: FakeProvider, name: str, shape: Any) -> None:
    path, body = ASKED[name]
    shaped = {**body, "shape": shape}
    if name == "agui":
        shaped = {**body, "forwardedProps": {"model": MODEL, "shape": shape}}
    got = body_of(served, path, shaped)
    if name == "ndjson":
        said = texts(lines_of(got))
    else:
        told = [frame.data for frame in frames(got.replace(b": ping\n", b"")) if isinstance(frame.data, dict)]
        kind, field = {"native": ("text", "text"), "ai_sdk": ("text-delta", "delta")}.get(
            name, ("TEXT_MESSAGE_CONTENT", "delta")
        )
        said = [each[field] for each in told if each["type"] == kind]
    assert said == pieces(TEXT, Shape(shape) if isinstance(shape, str) else Shape(**shape))
    assert "".join(said) == TEXT
    assert len(said) > 2


def test_tokens_are_gathered(served: Service, fake_provider: FakeProvider) -> None:
    text = answer("fake-n40").text
    assert len(texts(native(served, "openai/fake-n40-i5", "token"))) == 40
    said = texts(native(served, "openai/fake-n40-i5", {"min_chars": 30}))
    assert "".join(said) == text
    assert all(len(piece) >= 30 for piece in said[:-1])
    paced = texts(native(served, "openai/fake-n40-i20", {"max_wait_ms": 200}))
    assert "".join(paced) == text
    assert 1 < len(paced) < 30


def test_an_answer_in_one_piece_has_no_shape(served: Service, fake_provider: FakeProvider) -> None:
    body = {"model": MODEL, "prompt": TEXT, "shape": "block", "stream": False}
    assert json.loads(body_of(served, "/v1/streams", body))["text"] == TEXT


def test_what_is_stored_is_shaped(served: Service, fake_provider: FakeProvider) -> None:
    response = requests.post(
        f"{served.url}/v1/streams",
        json={"model": MODEL, "prompt": TEXT, "shape": "block", "format": "ndjson", "resumable": True},
        timeout=30,
    )
    events = lines_of(response.content)
    assert texts(events) == pieces(TEXT, Shape("block"))
    again = requests.get(f"{served.url}/v1/streams/{events[0]['id']}", params={"format": "ndjson"}, timeout=30)
    assert lines_of(again.content) == events
    rest = requests.get(
        f"{served.url}/v1/streams/{events[0]['id']}", params={"format": "ndjson", "after": "3"}, timeout=30
    )
    assert lines_of(rest.content) == events[3:]


@pytest.mark.parametrize("resumable", [False, True])
@pytest.mark.parametrize("wait", [None, 60_000])
def test_it_lives_while_a_block_is_held(
    served: Service, fake_provider: FakeProvider, resumable: bool, wait: int | None
) -> None:
    """What comes and is held is no sign of life to the client."""
    shape = {"unit": "block", "max_wait_ms": wait}
    body = {"model": "openai/fake-n60-i50", "prompt": "hi", "shape": shape, "resumable": resumable}
    before, _, behind = body_of(served, "/v1/streams", body).partition(b'"type":"text"')
    assert before.count(b": ping\n") >= 4  # ten times 0.3 s
    assert b": ping" not in behind
    assert json.dumps(answer("fake-n60").text).encode() in behind


@pytest.mark.parametrize("resumable", [False, True])
def test_nothing_waits_longer_than_it_may_for_a_silent_provider(
    served: Service, fake_provider: FakeProvider, resumable: bool
) -> None:
    body = {"model": "openai/fake-n9-stall3", "prompt": "hi", "format": "ndjson", "resumable": resumable}
    shape = {"unit": "block", "max_wait_ms": 400}
    with requests.post(f"{served.url}/v1/streams", json={**body, "shape": shape}, stream=True, timeout=30) as got:
        lines = (json.loads(line) for line in got.iter_lines(chunk_size=1) if line)
        begun, said = next(lines), next(lines)
        assert said["text"] == text_after("fake-n9", 3)
        if resumable:
            requests.delete(f"{served.url}/v1/streams/{begun['id']}", timeout=30)
            assert [event["type"] for event in lines] == ["usage", "finish"]
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)


def test_what_is_held_leaves_when_the_stream_is_stopped(served: Service, fake_provider: FakeProvider) -> None:
    body = {"model": "openai/fake-n9-stall3", "prompt": "hi", "format": "ndjson", "resumable": True, "shape": "block"}
    with requests.post(f"{served.url}/v1/streams", json=body, stream=True, timeout=30) as got:
        lines = (json.loads(line) for line in got.iter_lines(chunk_size=1) if line)
        begun = next(lines)
        fake_provider.wait_for(lambda stats: stats.open_streams == 1)
        requests.delete(f"{served.url}/v1/streams/{begun['id']}", timeout=30)
        said, _, finish = lines
    assert said["text"] in [text_after("fake-n9", tokens) for tokens in range(1, 4)]
    assert finish["reason"] == "cancelled"


def test_a_client_that_leaves_while_a_block_is_held_ends_the_upstream(
    served: Service, fake_provider: FakeProvider
) -> None:
    body = {"model": "openai/fake-n9000-i20", "prompt": "hi", "shape": "block"}
    with requests.post(f"{served.url}/v1/streams", json=body, stream=True, timeout=30) as got:
        lines = got.iter_lines(chunk_size=1)
        assert next(lines)
        fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    assert fake_provider.stats().aborted == 1


@pytest.mark.parametrize("shape", ["sentence", "block"])
def test_an_answer_that_broke_off_is_cut_as_if_it_had_not(
    served: Service, fake_provider: FakeProvider, shape: Any
) -> None:
    events = native(served, "again", shape)
    assert texts(events) == pieces(TEXT, Shape(shape))
    assert [event["type"] for event in events if event["type"] in ("recovered", "finish", "error")] == ["finish"]
    assert fake_provider.stats().faults == 1


@pytest.mark.parametrize("shape", ["token", "sentence", "block", {"unit": "block", "max_wait_ms": 1}])
def test_what_another_answer_takes_back_is_counted_by_what_was_told(
    served: Service, fake_provider: FakeProvider, shape: Any
) -> None:
    read = ""
    for event in native(served, "other", shape):
        if event["type"] == "text":
            read += event["text"]
        elif event["type"] == "recovered":
            assert event["kept_chars"] <= len(read)
            read = read[: event["kept_chars"]]
    assert read == answer("backup-n9").text


@pytest.mark.parametrize("served", ["gevent"], indirect=True)
def test_what_is_held_leaves_when_the_server_does(
    served: Service, fake_provider: FakeProvider, start_service: Callable[..., Service]
) -> None:
    service = start_service({**fake_provider.env, "SLUICEWAY_SERVER__DRAIN_S": "0.5"})
    body = {"model": "openai/fake-n9-stall3", "prompt": "hi", "format": "ndjson", "shape": "block"}
    with requests.post(f"{service.url}/v1/streams", json=body, stream=True, timeout=30) as got:
        lines = (json.loads(line) for line in got.iter_lines(chunk_size=1) if line)
        assert next(lines)["type"] == "start"
        service.process.send_signal(signal.SIGTERM)
        said = list(lines)
    assert said[0]["text"] in [text_after("fake-n9", tokens) for tokens in range(1, 4)]
    assert said[-1]["type"] == "error"
    assert said[-1]["code"] == "draining"
    eventually(lambda: service.process.poll() is not None, within_s=30, what="the server's end")
