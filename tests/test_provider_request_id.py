"""Whatever a provider fails by, the error and the log say what it calls the request: its support asks for that."""

from __future__ import annotations

import json
import logging
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from conftest import Service, eventually
from flask.testing import FlaskClient
from test_failures import CHAT, MESSAGES, ROUTES, OneRefusal

from app import create_app
from app.testing import FakeProvider

NATIVE = "/v1/streams"
NATIVE_ROUTES = [pytest.param(NATIVE, name, id=f"native-{name}") for name in ("openai", "anthropic")]

BEFORE = ["e401", "e429", "e503", "ctx", "filter", "cut0", "err0", "stall0"]
AFTER = ["err5", "cut5", "rst5", "eof5", "bad5", "stall5"]


def post(url: str, model: str, *, stream: bool = True, identity: str = "") -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return requests.post(url, json=body, headers={"X-Request-ID": identity} if identity else {}, timeout=20)


def error_of(answer: requests.Response) -> dict[str, Any]:
    """The error object of a refusal, or of a stream's last event."""
    if answer.status_code != 200:
        error: dict[str, Any] = answer.json()["error"]
        return error
    last = json.loads([line for line in answer.text.splitlines() if line.startswith("data: {")][-1][6:])
    return last if last.get("type") == "error" and "error" not in last else last["error"]


def name_of_the_last(provider: FakeProvider) -> str:
    """The fake provider numbers its requests, and names them so in the header of its protocol."""
    return f"req_fake{len(provider.requests):06}"


@pytest.mark.parametrize(("route", "provider"), [*ROUTES, *NATIVE_ROUTES])
@pytest.mark.parametrize("behaviour", [*BEFORE, *AFTER])
def test_a_failure_names_the_providers_request(
    impatient_server: Service, fake_provider: FakeProvider, route: str, provider: str, behaviour: str
) -> None:
    url, model = impatient_server.url + route, f"{provider}/fake-i1-{behaviour}"
    identity = f"named-{route.rpartition('/')[2]}-{provider}-{behaviour}"
    post(url, f"{provider}/fake-n1")  # the connection is used again, and the first one's name is not
    answer = post(url, model, identity=identity)
    assert (answer.status_code == 200) == (behaviour in AFTER)
    named = name_of_the_last(fake_provider)
    error = error_of(answer)
    assert list(error.items())[-1] == ("provider_request_id", named)
    if route == MESSAGES:
        assert f'"request_id":"{identity}"' in answer.text, "the protocol's own is ours"
    line = re.compile(f"{identity} {model} code=[a-z_]+: .* \\(provider_request_id={named}\\)$", re.MULTILINE)
    eventually(lambda: line.search(impatient_server.log), what="the line in the log")


@pytest.mark.parametrize(("route", "provider"), ROUTES)
def test_so_does_an_answer_in_one_piece(
    server: Service, fake_provider: FakeProvider, route: str, provider: str
) -> None:
    answer = post(server.url + route, f"{provider}/fake-cut5", stream=False)
    assert answer.status_code == 502
    assert error_of(answer)["provider_request_id"] == name_of_the_last(fake_provider)


@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize("behaviour", ["refuse", "html", "slow9000"])
def test_where_the_provider_names_none_there_is_none(
    impatient_server: Service, route: str, provider: str, behaviour: str
) -> None:
    post(impatient_server.url + route, f"{provider}/fake-n1")
    assert "provider_request_id" not in post(impatient_server.url + route, f"{provider}/fake-{behaviour}").text


def test_each_try_is_named_in_the_log_and_the_last_one_in_the_answer(
    fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    app = create_app({"SLUICEWAY_RETRY__ATTEMPTS": 2, "SLUICEWAY_RETRY__BACKOFF_S": 0.01})
    body = {"model": "openai/fake-e503", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with caplog.at_level(logging.WARNING, "sluiceway"):
        answer = app.test_client().post(CHAT, json=body)
    assert answer.get_json()["error"]["provider_request_id"] == "req_fake000002"
    said = [record.getMessage() for record in caplog.records if "code=provider_overloaded" in record.getMessage()]
    assert [line.rpartition("=")[2] for line in said] == ["req_fake000001)", "req_fake000002)"]
    app.extensions["sluiceway"].close()


KEY = "0123456789abcdef"  # of a shape that only who knows it can tell

# What stands in the header; whether it is a name.
GOOD = ["req_011CSHoEeqs5C35K2UUqR7Fy", "7d8d2b0c-7d4f-4d0e-a0f0-5d5c7a2a7b1e", "a:b.c-d_e", "x" * 128]
BAD = [
    "",
    "x" * 129,
    "a b",
    "<script>",
    'a"b',
    "a\tb",
    "r\xe9q",
    "../../etc",
    KEY,
    f"req_{KEY}",
    "sk-abcdef0123456789",
    "http://gpu.internal",
    "10.0.0.7:8000",
    "gpu.internal:8000",
]


@pytest.fixture
def naming(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], FlaskClient]]:
    """`naming(response)`: a service whose providers answer with these bytes, and hang up."""
    handler = type("Handler", (OneRefusal,), {"refusal": b""})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as provider:
        provider.daemon_threads = True
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{provider.server_address[1]}"
        environ = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        environ |= {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        app = create_app({"SLUICEWAY_RETRY__ATTEMPTS": 1, "SLUICEWAY_BREAKER__FAILURES": 1000000})

        def answering(response: bytes) -> FlaskClient:
            handler.refusal = response  # type: ignore[attr-defined]
            return app.test_client()

        yield answering
        app.extensions["sluiceway"].close()
        provider.shutdown()


WIRES = [(CHAT, "openai", "X-Request-ID"), (MESSAGES, "anthropic", "Request-Id")]


def named(client: FlaskClient, route: str, provider: str) -> str | None:
    body = {"model": f"{provider}/m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = client.post(route, json=body)
    assert answer.status_code in (429, 502)
    assert KEY not in answer.text
    found: str | None = answer.get_json()["error"].get("provider_request_id")
    return found


@pytest.mark.parametrize("status", [b"429 X", b"200 OK"])
@pytest.mark.parametrize(("route", "provider", "header"), WIRES, ids=["openai", "anthropic"])
def test_only_what_is_a_name_is_passed_on(
    naming: Callable[[bytes], FlaskClient], status: bytes, route: str, provider: str, header: str
) -> None:
    def answer(*headers: str) -> FlaskClient:
        lines = "".join(f"{line}\r\n" for line in headers).encode("latin-1")
        return naming(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n" + lines + b"\r\n")

    for said in GOOD:
        assert named(answer(f"{header}: {said}"), route, provider) == said
        assert named(answer(f"{header.upper()}:{said}"), route, provider) == said
    for said in BAD:
        assert named(answer(f"{header}: {said}"), route, provider) is None, said
    assert named(answer(f"{header}: a", f"{header}: b"), route, provider) is None, "which of them?"
    (other,) = (name for _, _, name in WIRES if name != header)
    assert named(answer(f"{other}: req_1"), route, provider) is None, "another protocol's header"
