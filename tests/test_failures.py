"""What a client gets when the provider fails: a status of its own before the first token, an error event after it."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests
from conftest import Service, eventually, free_port

from app import create_app
from app.providers.failures import scrub
from app.testing import FakeProvider, text_after
from app.transport import http_client
from app.transport.client import Transport

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"

# (route, provider that speaks the same protocol, the other one)
ROUTES = [
    pytest.param(CHAT, "openai", id="chat-openai"),
    pytest.param(CHAT, "anthropic", id="chat-anthropic"),
    pytest.param(MESSAGES, "anthropic", id="messages-anthropic"),
    pytest.param(MESSAGES, "openai", id="messages-openai"),
]

ANTHROPIC_TYPES = {
    "provider_auth": "api_error",
    "provider_rejected": "invalid_request_error",
    "context_length_exceeded": "invalid_request_error",
    "content_filtered": "invalid_request_error",
    "provider_rate_limited": "rate_limit_error",
    "provider_overloaded": "overloaded_error",
    "provider_unavailable": "api_error",
    "first_token_timeout": "timeout_error",
    "idle_timeout": "timeout_error",
    "total_timeout": "timeout_error",
    "stream_broken": "api_error",
}


def ask(server: Service, route: str, model: str, *, stream: bool = True) -> requests.Response:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return requests.post(server.url + route, json=body, timeout=20)


def code_of(route: str, error: dict[str, Any]) -> str:
    """What stands for our code in an error body: the code itself on the OpenAI routes, the type on Anthropic's."""
    said: str = error["error"]["code"] if route == CHAT else error["error"]["type"]
    return said


def expected(route: str, code: str) -> str:
    return code if route == CHAT else ANTHROPIC_TYPES[code]


BEFORE = [
    # model's behaviour, status, code, Retry-After
    ("e401", 502, "provider_auth", None),
    ("e403", 502, "provider_auth", None),
    ("e429-ra7", 429, "provider_rate_limited", "7"),
    ("e429", 429, "provider_rate_limited", "1"),
    ("e500", 503, "provider_overloaded", "1"),
    ("e503-ra4", 503, "provider_overloaded", "4"),
    ("e529", 503, "provider_overloaded", "1"),
    ("e408", 502, "provider_unavailable", None),
    ("e400", 400, "provider_rejected", None),
    ("e404", 400, "provider_rejected", None),
    ("ctx", 400, "context_length_exceeded", None),
    ("filter", 400, "content_filtered", None),
    ("refuse", 502, "provider_unavailable", None),
    ("cut0", 502, "stream_broken", None),
    ("rst0", 502, "stream_broken", None),
    ("eof0", 502, "stream_broken", None),
    ("bad0", 502, "stream_broken", None),
    ("err0", 503, "provider_overloaded", "1"),
    ("html", 502, "stream_broken", None),
    ("empty", 502, "stream_broken", None),
]


@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize(("behaviour", "status", "code", "retry_after"), BEFORE, ids=[row[0] for row in BEFORE])
def test_a_failure_before_the_first_token_is_a_status(
    server: Service, route: str, provider: str, behaviour: str, status: int, code: str, retry_after: str | None
) -> None:
    answer = ask(server, route, f"{provider}/fake-{behaviour}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert code_of(route, answer.json()) == expected(route, code)
    assert answer.headers.get("Retry-After") == retry_after


SILENT = ["slow9000", "stall0", "f9000"]


@pytest.fixture(scope="module")
def silences(impatient_server: Service) -> dict[tuple[str, str], Future[requests.Response]]:
    """By route and model what becomes of each silence, all waited for at the same time."""
    cases = [
        (route, f"{provider}/fake-{silent}") for route, provider in (row.values for row in ROUTES) for silent in SILENT
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        return {case: pool.submit(ask, impatient_server, *case) for case in cases}


@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize("behaviour", SILENT)
def test_silence_before_the_first_token_is_a_504(
    silences: dict[tuple[str, str], Future[requests.Response]], route: str, provider: str, behaviour: str
) -> None:
    answer = silences[route, f"{provider}/fake-{behaviour}"].result()
    assert answer.status_code == 504
    assert code_of(route, answer.json()) == expected(route, "first_token_timeout")


AFTER = [
    ("cut5", "stream_broken"),
    ("rst5", "stream_broken"),
    ("eof5", "stream_broken"),
    ("bad5", "stream_broken"),
    ("stall5", "idle_timeout"),
    ("err5", "provider_overloaded"),
]


@pytest.mark.parametrize(("route", "provider"), ROUTES)
@pytest.mark.parametrize(("behaviour", "code"), AFTER, ids=[row[0] for row in AFTER])
def test_a_failure_after_the_first_token_is_an_event_and_a_proper_end(
    impatient_server: Service, route: str, provider: str, behaviour: str, code: str
) -> None:
    model = f"fake-i1-{behaviour}"
    answer = ask(impatient_server, route, f"{provider}/{model}")  # raises if the body lacks its last chunk
    assert answer.status_code == 200
    frames = [frame for frame in answer.content.decode().split("\n\n") if frame]
    data = [json.loads(frame.partition("data: ")[2]) for frame in frames]
    if route == CHAT:
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in data[:-1])
        errors = [chunk for chunk in data if "error" in chunk]
    else:
        text = "".join(event["delta"]["text"] for event in data if event["type"] == "content_block_delta")
        errors = [event for event in data if event["type"] == "error"]
        assert frames[-1].startswith("event: error\n")
    assert text == text_after(model, 5)
    assert errors == data[-1:], "exactly one error, and it is the last thing said"
    assert code_of(route, errors[0]) == expected(route, code)


@pytest.mark.parametrize(("route", "provider"), ROUTES)
def test_whole_answers_fail_by_status_at_any_point(server: Service, route: str, provider: str) -> None:
    answer = ask(server, route, f"{provider}/fake-cut5", stream=False)
    assert answer.status_code == 502
    assert code_of(route, answer.json()) == expected(route, "stream_broken")


@pytest.mark.parametrize(("route", "provider"), ROUTES)
def test_an_answer_without_its_end_mark_is_whole(server: Service, route: str, provider: str) -> None:
    body = ask(server, route, f"{provider}/fake-nodone").text
    assert body.endswith("data: [DONE]\n\n" if route == CHAT else 'data: {"type":"message_stop"}\n\n')


def test_connection_refused_is_a_502(start_service: Callable[..., Service]) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    service = start_service({"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_BASE_URL": f"{closed}/v1"})
    answer = ask(service, CHAT, "openai/gpt-5")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "provider_unavailable"
    assert closed.removeprefix("http://") not in answer.text
    service.stop()


def test_the_total_clock_ends_a_stream_that_flows(
    start_service: Callable[..., Service], fake_provider: FakeProvider
) -> None:
    service = start_service({**fake_provider.env, "SLUICEWAY_TIMEOUTS__TOTAL_S": "2"})
    frames = ask(service, CHAT, "openai/fake-n1000-i20").text.split("\n\n")
    assert len(frames) > 5
    assert json.loads(frames[-2].removeprefix("data: "))["error"]["code"] == "total_timeout"
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    service.stop()


@pytest.mark.parametrize(("route", "provider"), ROUTES)
def test_no_key_and_no_address_in_an_answer_or_the_log(
    server: Service, fake_provider: FakeProvider, route: str, provider: str
) -> None:
    said = ""
    for behaviour in ("e400", "e401", "e403", "e429", "e500", "err0", "err5"):
        said += ask(server, route, f"{provider}/fake-{behaviour}-leak").text
        said += ask(server, route, f"{provider}/fake-{behaviour}-leak", stream=False).text
    key = fake_provider.env["OPENAI_API_KEY"]
    seen = [request for request in fake_provider.requests if key in str(request.headers)]
    assert len(seen) == 14, "the provider did get the key, and echoes it"
    for place in (said, server.log):
        assert key not in place
        assert key[:12] not in place
        assert "://" not in place.replace(f"http://127.0.0.1:{server.port}", "")


def test_a_refused_key_is_loud_in_the_log(server: Service) -> None:
    identity = "refused-key-test"
    requests.post(
        server.url + CHAT,
        json={"model": "openai/fake-e401", "messages": [{"role": "user", "content": "hi"}]},
        headers={"X-Request-ID": identity},
        timeout=20,
    )
    eventually(lambda: f"{identity} openai/fake-e401 code=provider_auth" in server.log, what="the log line")


def test_an_os_error_inside_a_stream_is_no_departed_client(start_service: Callable[..., Service]) -> None:
    """gunicorn takes any OSError from the body for the client's; ours becomes an error event and a proper end."""
    service = start_service({"OPENAI_API_KEY": "sk-test-0123456789"}, app="tests.broken_provider:app")
    for fault in ("ConnectionResetError", "BrokenPipeError", "TimeoutError", "OSError", "ZeroDivisionError"):
        answer = ask(service, CHAT, f"openai/{fault}")
        assert answer.status_code == 200
        frames = answer.text.split("\n\n")
        assert '"content":"so far"' in frames[1]
        assert json.loads(frames[-2].removeprefix("data: "))["error"]["code"] == "internal"
        assert f"{fault}: raised in the middle" in service.log, "a defect of ours is logged with its traceback"
        before = ask(service, CHAT, f"openai/{fault}-first")
        assert before.status_code == 500
        assert before.json()["error"]["code"] == "internal"
        assert fault not in before.text
    service.stop()


BROKEN_REFUSALS = {
    # how the body of a refusal can break off, or a header be no ASCII, and what of it can still be told
    "cut": b"HTTP/1.1 429 X\r\nRetry-After: 9\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{",
    "stalled": b"HTTP/1.1 429 X\r\nRetry-After: 9\r\nContent-Type: application/json\r\nContent-Length: 501\r\n\r\n{",
    "foreign": b"HTTP/1.1 429 X\r\nRetry-After: 9\r\nX-Where: Z\xfcrich\r\nContent-Length: 2\r\n\r\n{}",
    "gzip": b"HTTP/1.1 429 X\r\nRetry-After: 9\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
}


class OneRefusal(socketserver.BaseRequestHandler):
    """A provider that answers every request with the bytes `refusal`, and then hangs up, or says nothing more."""

    refusal = b""

    def handle(self) -> None:
        sent = b""
        while b"\r\n\r\n" not in sent:
            sent += self.request.recv(65536)
        self.request.sendall(self.refusal)
        if b"501" in self.refusal:
            self.request.settimeout(20)
            while self.request.recv(65536):
                pass


@pytest.mark.parametrize("how", BROKEN_REFUSALS)
def test_a_refusal_that_can_not_be_read_whole_keeps_its_status(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Handler", (OneRefusal,), {"refusal": BROKEN_REFUSALS[how]})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as provider:
        provider.daemon_threads = True
        threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{provider.server_address[1]}"
        environ = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        app = create_app({"SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S": 1.5, "SLUICEWAY_RETRY__ATTEMPTS": 1})
        for route, model in ((CHAT, "openai/m"), (MESSAGES, "anthropic/m")):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
            answer = app.test_client().post(route, json=body)
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "9")
            assert code_of(route, answer.get_json()) == expected(route, "provider_rate_limited")
        app.extensions["sluiceway"].close()
        provider.shutdown()


def test_the_embedded_model_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with http_client("http://127.0.0.1:1/v1") as here, http_client(None) as elsewhere:
        assert isinstance(here._transport, Transport)
        assert not isinstance(elsewhere._transport, Transport)


def test_what_a_provider_says_is_scrubbed() -> None:
    said = (
        "\x1b[31mred\x07 gpu-7.internal.corp:8000 [::1]:80 10.0.0.7 https://u:p@h/x AIzaSyD-9tSr sk-abcdef123 Bearer x"
    )
    assert scrub(said) == "[31mred [address] [address] [address] [url] [key] [key] Bearer [key]"
