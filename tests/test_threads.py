"""Without gevent: gunicorn's thread worker and Flask's own server. There too all streams, and ends with its client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import requests
from conftest import ROOT, Service, eventually, free_port

from app import create_app
from app.testing import FakeProvider, text_after

QUICK = {"SLUICEWAY_SERVER__HEARTBEAT_S": "0.2", "SLUICEWAY_SERVER__HOLD_S": "0.1"}


class FlaskServer:
    """`flask run`, on a port of its own."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "wsgi:app", "run", "--port", str(self.port)],
                cwd=ROOT,
                env={**os.environ, **env},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        eventually(self._answers, within_s=180, what="flask run's first answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "flask run has ended"
        try:
            return requests.get(f"{self.url}/healthz", timeout=20).ok
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module", params=["gthread", "flask run"])
def threaded(
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service | FlaskServer]:
    folder = tmp_path_factory.mktemp("threads")
    env = {**fake_provider_server.env, **QUICK, "SLUICEWAY_STORE__URL": f"sqlite:///{folder / 'streams.db'}"}
    server: Service | FlaskServer
    if request.param == "gthread":
        # Not our gunicorn.conf.py, which patches everything for gevent.
        server = start_service(env, "--config", os.devnull, "--worker-class", "gthread", "--threads", "16")
    else:
        server = FlaskServer(env, folder / "log")
    yield server
    server.stop()


def asked(model: str, *, stream: bool = True) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_an_sdk_reads_it_through_heartbeats(threaded: Service, fake_provider: FakeProvider) -> None:
    with openai.OpenAI(base_url=f"{threaded.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="fake-n5-i300-f600", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == text_after("fake-n5-i300-f600", 5)


@pytest.mark.parametrize("model", ["fake-slow60000", "fake-f60000", "fake-n9-stall3", "fake-n100000-i20"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_upstream(
    threaded: Service, fake_provider: FakeProvider, model: str, stream: bool
) -> None:
    client = socket.create_connection(("127.0.0.1", threaded.port))
    client.sendall(asked(model, stream=stream))
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    client.close()
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    assert fake_provider.stats().aborted == 1


def test_readiness_says_where_departures_are_not_seen_at_once(
    threaded: Service, monkeypatch: pytest.MonkeyPatch, fake_provider: FakeProvider
) -> None:
    assert requests.get(f"{threaded.url}/readyz", timeout=20).json() == {"status": "ready"}
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    app = create_app()
    said = app.test_client().get("/readyz").json  # a server that puts no socket into the environ
    app.extensions["sluiceway"].close()
    assert said == {"status": "ready", "client_departures": "seen by the next write, a heartbeat at the latest"}


def test_streams_are_resumed_and_stopped(threaded: Service | FlaskServer, fake_provider: FakeProvider) -> None:
    body = {"prompt": "hi", "model": "fake-n40-i20", "resumable": True}
    with requests.post(f"{threaded.url}/v1/streams", json=body, stream=True, timeout=20) as left:
        location = left.headers["Location"]
        next(left.iter_content(100))
    rest = requests.get(f"{threaded.url}{location}", params={"after": "3"}, timeout=20)
    data = [json.loads(line[6:]) for line in rest.text.splitlines() if line.startswith("data: {")]
    first = text_after("fake-n40-i20", 2)
    assert first + "".join(event["text"] for event in data if event["type"] == "text") == text_after("fake-n40-i20", 40)
    assert len(fake_provider.requests) == 1

    endless = {**body, "model": "fake-n5000-i20"}
    with requests.post(f"{threaded.url}/v1/streams", json=endless, stream=True, timeout=20) as read:
        assert requests.delete(threaded.url + read.headers["Location"], timeout=20).status_code == 202
        assert b'"reason":"cancelled"' in read.content
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
