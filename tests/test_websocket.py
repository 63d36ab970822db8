"""`/ws/chat`, a conversation by WebSocket: direct and behind nginx, with clients that behave and clients that don't."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from callers import Address, Watched, percentile, settled, shown
from callers import watched as under_watch
from conftest import ROOT, Service, eventually, free_port
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser
from scraped import Numbers
from sockets import Client, Refused, frame, handshake
from test_drain import assert_exits
from test_nginx import Nginx, address, key, nginx_binary, start_nginx
from test_page import chromium
from test_threads import FlaskServer
from websockets.sync.client import connect
from wsproto.events import CloseConnection, Ping

from app.testing import FakeProvider, answer, text_after

__all__ = ["chromium", "key", "nginx_binary", "start_nginx"]  # fixtures

P50_MS, P99_MS = 200.0, 1000.0  # as in test_departure.py: what is promised is printed
ENDLESS = "fake-n100000-i20"
KEY = "sk-sluiceway-test/0+1="
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def watched(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Watched]:
    one = under_watch(start_service, {**fake_provider_server.env, "SLUICEWAY_DEFAULT_MODEL": "openai/fake-n5"})
    yield one
    one.assert_no_complaint()
    one.service.stop()


@pytest.fixture(scope="module")
def nginx(start_nginx: Callable[..., Nginx], watched: Watched) -> Nginx:
    return start_nginx(address(watched.service))


@pytest.fixture(params=["direct", "nginx"])
def at(request: pytest.FixtureRequest, watched: Watched) -> Address:
    if request.param == "direct":
        return watched.address
    return ("127.0.0.1", request.getfixturevalue("nginx").port)


def said_to(provider: FakeProvider) -> list[dict[str, Any]]:
    """The conversation of the last request."""
    body = provider.requests[-1].body
    assert isinstance(body, dict)
    messages: list[dict[str, Any]] = body["messages"]
    return messages


# Messages and answers


def test_a_text_is_answered_by_chunks_and_done(at: Address, fake_provider: FakeProvider) -> None:
    with Client(at) as client:
        for message in ("Hello", {"message": "Hello"}, {"type": "message", "message": "Hello", "max_tokens": 9}):
            client.say(message)
            text, last = client.answer()
            assert text == answer("fake-n5").text
            assert last.keys() == {"type", "reason", "usage", "timings", "request_id"}
            assert (last["type"], last["reason"]) == ("done", "stop")
            assert last["usage"]["source"] == "provider"
            assert last["usage"]["output_tokens"] == 5
            assert last["request_id"].startswith(client.headers["x-request-id"])
            assert said_to(fake_provider)[-1] == {"role": "user", "content": "Hello"}
        body = fake_provider.requests[-1].body
        assert isinstance(body, dict)
        assert body["max_tokens"] == 9
        client.leave("properly")
        assert client.closed() == 1000


def test_every_character_comes_as_it_was_said(at: Address, fake_provider: FakeProvider) -> None:
    with Client(at) as client:
        client.ask("fake-n16-uni", 'é 漢字 😀 \u2028 \x00 \\ "')
        assert client.answer()[0] == answer("fake-n16-uni").text
        assert said_to(fake_provider)[-1]["content"] == 'é 漢字 😀 \u2028 \x00 \\ "'


def test_the_conversation_goes_along_with_each_message(at: Address, fake_provider: FakeProvider) -> None:
    reply = {"role": "assistant", "content": answer("fake-n5").text}
    first, second, third = ({"role": "user", "content": text} for text in ("first", "second", "third"))
    with Client(at) as client:
        client.say({"system": "be brief"})
        client.say("first")
        client.answer()
        client.say({"message": "second", "system": "be long"})
        client.answer()
        assert said_to(fake_provider) == [{"role": "system", "content": "be long"}, first, reply, second]
        client.say({"prompt": "third"})
        client.answer()
        assert said_to(fake_provider)[0]["content"] == "be long", "it stays until it is set again"
        assert said_to(fake_provider)[1:] == [first, reply, second, reply, third]
        client.say({"message": "fourth", "system": ""})
        client.answer()
        assert said_to(fake_provider)[0] == first
        client.say({"messages": [first, {"role": "assistant", "content": "no"}, third]})
        client.answer()
        client.say("on")
        client.answer()
        said = [first, {"role": "assistant", "content": "no"}, third, reply, {"role": "user", "content": "on"}]
        assert said_to(fake_provider) == said, "a client that comes back says what was said"


def test_another_connection_knows_nothing_of_it(watched: Watched, fake_provider: FakeProvider) -> None:
    for _ in range(2):
        with Client(watched.address) as client:
            client.say("first")
            client.answer()
            assert said_to(fake_provider) == [{"role": "user", "content": "first"}]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_what_an_answer_thinks_and_calls(watched: Watched, fake_provider: FakeProvider, provider: str) -> None:
    """Thoughts are no text. A call is told as it is natively, to whoever understands it."""
    with Client(watched.address) as client:
        client.ask(f"{provider}/fake-n3-think4")
        text, last = client.answer()
        assert text == answer("fake-n3-think4").text
        assert last["reason"] == "stop"
        client.ask(f"{provider}/fake-n2-tool1")
        text, said = client.answer()
        assert said["type"] == "tool_call_start"
        call = client.read()
        assert (call["type"], call["call_id"]) == ("tool_call", said["call_id"])
        assert isinstance(call["arguments"], dict)
        assert client.read()["reason"] == "tool_calls"


def test_stop_ends_the_answer_and_keeps_what_was_said(at: Address, fake_provider: FakeProvider) -> None:
    with Client(at) as client:
        client.ask(ENDLESS, "go")
        first = client.read()["text"]
        client.say({"type": "stop"})
        rest, last = client.answer()
        assert (last["type"], last["reason"]) == ("done", "cancelled")
        assert last["usage"]["source"] == "estimated"
        fake_provider.wait_for(lambda stats: stats.aborted == 1)
        client.say("again")
        client.answer()
        assert said_to(fake_provider) == [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": first + rest},
            {"role": "user", "content": "again"},
        ]


@pytest.mark.parametrize("model", ["fake-slow60000", "fake-stall0"], ids=["before the headers", "before a token"])
def test_stop_before_anything_was_said(at: Address, fake_provider: FakeProvider, model: str) -> None:
    with Client(at) as client:
        client.ask(model, "lost")
        fake_provider.wait_for(lambda stats: stats.open_streams == 1)
        client.say({"type": "stop"})
        text, last = client.answer()
        assert (text, last["type"], last["reason"]) == ("", "done", "cancelled")
        fake_provider.wait_for(lambda stats: stats.aborted == 1)
        client.say("again")
        assert client.answer()[1]["reason"] == "stop"
        assert said_to(fake_provider) == [{"role": "user", "content": "again"}], "the user's turn was still the user's"


def test_a_stop_that_comes_too_late_is_no_mistake(watched: Watched, fake_provider: FakeProvider) -> None:
    with Client(watched.address) as client:
        client.say({"type": "stop"})
        client.say("hi")
        client.say({"type": "stop"})
        client.answer()
        client.say({"type": "stop"})
        client.say({"message": "hi", "model": "fake-n3"})
        assert client.answer()[1]["type"] == "done"


@pytest.mark.parametrize(
    ("model", "code", "kept"),
    [
        ("fake-e500", "provider_overloaded", 0),
        ("fake-e401", "provider_auth", 0),
        ("fake-n9-err5", "", 5),
        ("fake-n9-cut4", "stream_broken", 4),
    ],
)
def test_an_answer_that_fails_is_told_of_and_the_conversation_goes_on(
    watched: Watched, fake_provider: FakeProvider, model: str, code: str, kept: int
) -> None:
    with Client(watched.address) as client:
        client.ask(model, "first")
        text, last = client.answer()
        assert last["type"] == "error"
        assert last.keys() >= {"code", "message", "retryable", "status", "request_id"}
        assert "answering" not in last
        assert not code or last["code"] == code
        assert text == (text_after(model, kept) if kept else "")
        client.say("second")
        assert client.answer()[1]["reason"] == "stop"
        before = [{"role": "user", "content": "first"}, {"role": "assistant", "content": text}] if kept else []
        assert said_to(fake_provider) == [*before, {"role": "user", "content": "second"}]


def test_a_message_while_an_answer_runs_is_refused_and_the_answer_goes_on(
    at: Address, fake_provider: FakeProvider
) -> None:
    with Client(at) as client:
        client.ask("fake-n9-stall3")
        text = ""
        while text != text_after("fake-n9-stall3", 3):
            text += client.read()["text"]
        client.say("another")
        client.say("{")
        told = [client.read(), client.read()]
        assert [error["status"] for error in told] == [409, 400]
        assert told[0]["retryable"] is True
        assert all(error["answering"] is True for error in told)
        client.say({"type": "stop"})
        assert client.answer()[1]["reason"] == "cancelled"
        assert len(fake_provider.requests) == 1


# Who leaves


PHASES = {"before a token": "fake-stall0", "before the headers": "fake-slow60000", "between two": "fake-n9-stall3"}


@pytest.mark.parametrize("phase", [*PHASES, "streaming"])
def test_whoever_leaves_ends_the_answer(at: Address, fake_provider: FakeProvider, phase: str) -> None:
    took: list[float] = []
    for number in range(24):
        way = ("close", "reset", "half-close", "properly")[number % 4]
        with Client(at) as client:
            client.ask(PHASES.get(phase, "fake-n1000-i20"))
            fake_provider.wait_for(lambda stats: stats.open_streams == 1)
            if phase in ("between two", "streaming"):
                client.read()
            settled(time.monotonic())
            left_at = time.monotonic()
            client.leave(way)
            fake_provider.wait_for(lambda stats, gone=number + 1: stats.aborted == gone)
            took.append((fake_provider.departures[-1].at - left_at) * 1000)
    print(f"{phase}: {shown(took)}")
    assert percentile(took, 50) <= P50_MS
    assert percentile(took, 99) <= P99_MS


def test_nothing_is_left_of_those_who_have_left(watched: Watched, fake_provider: FakeProvider) -> None:
    eventually(lambda: watched.holds()["open_streams"] == 0)
    requests.post(f"{watched.service.url}/close", timeout=10)
    before = watched.holds()
    for model in ("fake-stall0", "fake-slow60000", "fake-n9-stall3"):
        clients = [Client(watched.address) for _ in range(20)]
        for client in clients:
            client.ask(model)
        fake_provider.wait_for(lambda stats: stats.open_streams == 20)
        for client in clients:
            client.leave("reset")
        fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    requests.post(f"{watched.service.url}/close", timeout=10)
    eventually(lambda: watched.holds()["greenlets"] <= before["greenlets"], what="no greenlet more")
    eventually(lambda: watched.holds()["descriptors"] <= before["descriptors"], what="no descriptor more")


def test_a_hundred_at_once(at: Address, fake_provider: FakeProvider) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(at)) for _ in range(100)]
        for turn in ("first", "second"):
            for client in clients:
                client.ask("fake-n20-i10", turn)
            for client in clients:
                text, last = client.answer()
                assert (text, last["type"]) == (answer("fake-n20-i10").text, "done")
        fake_provider.wait_for(lambda stats: stats.completed == 200)
        for client in clients:
            client.leave("properly")
        assert [client.closed() for client in clients] == [1000] * 100


# What is wrong with a message: told, and the connection stays


BAD = [
    ("", "empty"),
    ("{", "not valid JSON"),
    ('{"message": "hi"', "not valid JSON"),
    ("[1, 2]", "an array"),
    ("{}", "give one of"),
    ('{"message": 5}', "message: should be a string"),
    ('{"message": ""}', "message"),
    ('{"message": "a", "prompt": "b"}', "give one of"),
    ('{"messages": []}', "messages: should not be empty"),
    ('{"messages": [{"role": "system", "content": "x"}]}', "a user message is required"),
    ('{"message": "hi", "temperature": 3}', "temperature"),
    ('{"message": "hi", "temperature": 1e999}', "out of range"),
    ('{"message": "hi", "max_tokens": 0}', "max_tokens"),
    ('{"message": "hi", "colour": "red"}', "unknown field 'colour'"),
    ('{"message": "hi", "stream": true}', "stream: not on a WebSocket"),
    ('{"message": "hi", "resumable": true}', "resumable: not on a WebSocket"),
    ('{"message": "hi", "model": "nobody/x"}', "nobody"),
    ('{"system": 5}', "system: should be a string"),
    ('{"type": "stpo"}', "Did you mean 'stop'?"),
    ('{"type": 5}', "type: should be a string"),
    ('{"type": "stop", "now": 1}', "unknown field 'now'"),
    ('{"message": "\\ud800"}', "not valid JSON"),
    ("[" * 5000 + "]" * 5000, ""),
    ('{"message":' + "[" * 5000 + "]" * 5000 + "}", "not valid JSON"),
]


@pytest.mark.parametrize(("text", "told"), BAD, ids=[text[:30] or "nothing" for text, _ in BAD])
def test_a_bad_message_is_told_of_and_the_next_is_answered(
    watched: Watched, fake_provider: FakeProvider, text: str, told: str
) -> None:
    with Client(watched.address) as client:
        client.say(text)
        if text.startswith("[["):
            client.answer()  # too deep to be an array, and so a text
        else:
            error = client.read()
            assert error["type"] == "error"
            assert error["code"] in ("invalid_request", "not_found")
            assert told in error["message"], error
            assert error["status"] in (400, 404)
            assert error["retryable"] is False
            assert error["request_id"] == client.headers["x-request-id"]
            assert not fake_provider.requests
        client.say("hi")
        assert client.answer()[1]["type"] == "done"


@pytest.mark.parametrize("text", ["42", "null", '"quoted"', "[urgent] help", " ", "a\nb"])
def test_all_else_is_what_the_user_says(watched: Watched, fake_provider: FakeProvider, text: str) -> None:
    with Client(watched.address) as client:
        client.say(text)
        assert client.answer()[1]["type"] == "done"
        assert said_to(fake_provider) == [{"role": "user", "content": text}]


# What is wrong with the protocol: told by the close frame's code


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
WRONG = {
    "binary": (frame(BINARY, b"hi"), 1003),
    "not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character": (frame(TEXT, "é".encode()[:1]), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "too big": (frame(TEXT, b"x" * 1_048_577), 1009),
    "too big in pieces": (
        frame(TEXT, b"x" * 900_000, fin=False) + frame(0, b"x" * 900_000, fin=False) + frame(0, b""),
        1009,
    ),
    "not masked": (frame(TEXT, b"hi", masked=False), 1002),
    "reserved bits": (frame(TEXT, b"hi", rsv=4), 1002),
    "reserved opcode": (frame(3, b"hi"), 1002),
    "reserved control opcode": (frame(11, b"hi"), 1002),
    "a ping in pieces": (frame(PING, b"hi", fin=False), 1002),
    "a ping too long": (frame(PING, b"x" * 126), 1002),
    "the rest of nothing": (frame(0, b"hi"), 1002),
    "a message within another": (frame(TEXT, b"hi", fin=False) + frame(TEXT, b"hi"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code of ours": (frame(CLOSE, (1006).to_bytes(2, "big")), 1002),
    "a close with a bad reason": (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
}


@pytest.mark.parametrize("answering", [False, True], ids=["idle", "answering"])
@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_the_protocol_closes_with_its_code(
    at: Address, fake_provider: FakeProvider, name: str, answering: bool
) -> None:
    sent, code = WRONG[name]
    with Client(at) as client:
        if answering:
            client.ask(ENDLESS)
            client.read()
        with contextlib.suppress(ConnectionError):
            client.sock.sendall(sent)
        assert client.closed() == code
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)


def test_a_message_may_come_in_pieces_with_pings_between(at: Address, fake_provider: FakeProvider) -> None:
    text = '{"message": "é漢😀"}'.encode()
    with Client(at) as client:
        client.sock.sendall(frame(TEXT, text[:1], fin=False))
        for byte in text[1:]:
            for piece in frame(PING, b"still"), frame(0, bytes([byte]), fin=False):
                client.sock.sendall(piece)
        client.sock.sendall(frame(0))
        assert client.answer()[1]["type"] == "done"
        assert client.pong() == b"still"
        assert said_to(fake_provider)[0]["content"] == "é漢😀"
        whole = b"".join(frame(TEXT, b"hi", fin=False) + frame(0, b"") for _ in range(1))
        for at_byte in range(len(whole)):
            client.sock.sendall(whole[at_byte : at_byte + 1])
        assert client.answer()[1]["type"] == "done"


def test_the_largest_message_is_taken(watched: Watched, fake_provider: FakeProvider) -> None:
    with Client(watched.address) as client:
        client.say("x" * 1_048_000)
        assert client.answer()[1]["type"] == "done"
        client.say("y" * 1_048_000)
        error = client.read()
        assert (error["code"], error["status"]) == ("payload_too_large", 413)
        assert "max_body_bytes" in error["message"]
        client.say({"messages": [{"role": "user", "content": "let us begin again"}]})
        assert client.answer()[1]["type"] == "done"


@pytest.mark.parametrize("answering", [False, True], ids=["idle", "answering"])
def test_a_ping_is_answered(at: Address, fake_provider: FakeProvider, answering: bool) -> None:
    with Client(at) as client:
        if answering:
            client.ask("fake-stall0")
        for payload in (b"", b"a", b"x" * 125):
            client.send(Ping(payload=payload))
            assert client.pong() == payload


def test_a_close_is_answered_with_its_own_code(at: Address) -> None:
    for code in (1000, 1001, 3000, 4999):
        with Client(at) as client:
            client.send(CloseConnection(code=code, reason="bye"))
            assert client.closed() == code
    with Client(at) as client:
        client.sock.sendall(frame(CLOSE))
        assert client.closed() == 1005


def test_frames_that_come_together_with_the_handshake_are_read(watched: Watched, fake_provider: FakeProvider) -> None:
    with Client(watched.address, handshake() + frame(TEXT, b"early")) as client:
        assert client.answer()[1]["type"] == "done"
        assert said_to(fake_provider)[0]["content"] == "early"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.builds(
                frame,
                st.integers(0, 15),
                st.one_of(st.binary(max_size=130), st.text(max_size=50).map(str.encode)),
                fin=st.booleans(),
                masked=st.booleans(),
                rsv=st.sampled_from([0, 0, 0, 1, 4]),
            ),
            st.sampled_from([frame(TEXT, text.encode("utf-8", "surrogatepass")) for text, _ in BAD]),
        ),
        max_size=8,
    )
)
def test_no_bytes_break_the_worker(watched: Watched, fake_provider: FakeProvider, pieces: list[bytes]) -> None:
    """Afterwards the worker answers, nothing was raised in it (`watched` looks into its log), and nothing is left."""
    with Client(watched.address) as client, contextlib.suppress(ConnectionError):
        for piece in pieces:
            client.sock.sendall(piece)
        client.sock.shutdown(socket.SHUT_WR)
        while client.sock.recv(65536):
            pass
    with Client(watched.address) as client:
        client.say("hi")
        assert client.answer()[1]["type"] == "done"


def test_many_frames_of_nothing_leave_others_their_turn(watched: Watched, fake_provider: FakeProvider) -> None:
    done = threading.Event()

    def flood() -> None:
        with Client(watched.address) as client, contextlib.suppress(OSError):
            some = frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 2000
            client.sock.sendall(some)
            while not done.is_set():
                client.sock.sendall(frame(0, b"", fin=False) * 2000)

    with ThreadPoolExecutor() as pool:
        flooding = pool.submit(flood)
        took = []
        for _ in range(10):
            asked_at = time.monotonic()
            assert requests.get(f"{watched.service.url}/healthz", timeout=20).status_code == 200
            took.append((time.monotonic() - asked_at) * 1000)
        done.set()
        flooding.result(20)
    print(f"/healthz beside it: p50 {percentile(took, 50):.0f} ms, max {max(took):.0f} ms")


# The handshake


@pytest.fixture(scope="module")
def strict(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Watched]:
    """With keys, a known origin, few places, small messages, and no patience."""
    one = under_watch(
        start_service,
        {
            **fake_provider_server.env,
            "SLUICEWAY_DEFAULT_MODEL": "openai/fake-n5",
            "SLUICEWAY_SERVER__API_KEYS_SHA256": json.dumps([hashlib.sha256(KEY.encode()).hexdigest()]),
            "SLUICEWAY_SERVER__CORS_ORIGINS": json.dumps([ORIGIN]),
            "SLUICEWAY_SERVER__MAX_STREAMS": "3",
            "SLUICEWAY_SERVER__MAX_BODY_BYTES": "2000",
            "SLUICEWAY_SERVER__HEARTBEAT_S": "0.1",
            "SLUICEWAY_SERVER__WRITE_TIMEOUT_S": "1",
        },
    )
    yield one
    one.assert_no_complaint()
    one.service.stop()


BEARER = {"Authorization": f"Bearer {KEY}"}


def knock(strict: Watched, path: str = "/ws/chat", **headers: str) -> Client:
    return Client(strict.address, handshake(path=path, **{**BEARER, **headers}))


def refused(strict: Watched, path: str = "/ws/chat", **headers: str) -> Refused:
    with pytest.raises(Refused) as told:
        knock(strict, path, **headers)
    error = told.value.body["error"]
    assert error.keys() >= {"code", "message", "retryable", "status", "request_id"}
    assert error["status"] == told.value.status
    assert told.value.headers["x-request-id"] == error["request_id"]
    return told.value


def test_a_plain_get_is_told_what_to_do(watched: Watched, nginx: Nginx) -> None:
    for url in (watched.service.url, nginx.url):
        response = requests.get(f"{url}/ws/chat", timeout=10)
        assert response.status_code == 426
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Upgrade"] == "websocket"
        error = response.json()["error"]
        assert (error["code"], error["status"]) == ("invalid_request", 426)
        assert "nginx/sluiceway.conf" in error["message"]
        assert requests.head(f"{url}/ws/chat", timeout=10).status_code == 426
        assert requests.post(f"{url}/ws/chat", timeout=10).status_code == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": ""}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": ""}, 426),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Content-Length": "5"}, 400),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://sluiceway:81"}, 403),
        ({"Sec-WebSocket-Protocol": "sluiceway-key.x"}, 400),
    ],
)
def test_a_handshake_that_is_none_is_refused(strict: Watched, headers: dict[str, str], status: int) -> None:
    error = refused(strict, **headers)
    assert error.status == status
    if status == 426:
        assert error.headers["sec-websocket-version"] == "13"
    assert KEY not in str(error.body)


def test_a_key_in_the_url_is_refused_and_not_repeated(strict: Watched) -> None:
    error = refused(strict, f"/ws/chat?api_key={KEY}", Authorization="")
    assert error.status == 401
    assert refused(strict, "/ws/chat?model=x").status == 400


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": ORIGIN}, {"Origin": "http://sluiceway"}, {"Connection": "keep-alive, Upgrade"}]
)
def test_who_may_connect(strict: Watched, fake_provider: FakeProvider, headers: dict[str, str]) -> None:
    with knock(strict, **headers) as client:
        client.say("hi")
        assert client.answer()[1]["type"] == "done"


def test_an_id_that_the_client_names_is_its_own(strict: Watched, fake_provider: FakeProvider) -> None:
    with knock(strict, X_Request_ID="mine") as client:
        assert client.headers["x-request-id"] == "mine"
        for number in (1, 2):
            client.say("hi")
            assert client.answer()[1]["request_id"] == f"mine.{number}"


# Silence, and clients that take nothing


def test_silence_is_filled_with_pings(strict: Watched, fake_provider: FakeProvider) -> None:
    with knock(strict) as client:
        client.until_pinged(3)
        client.ask("fake-stall0")
        client.until_pinged(6)


@pytest.mark.parametrize("model", ["", "fake-stall0"], ids=["idle", "answering"])
def test_a_client_that_answers_no_ping_is_cut(strict: Watched, fake_provider: FakeProvider, model: str) -> None:
    with knock(strict) as client:
        client.answers_pings = False
        if model:
            client.ask(model)
        assert client.closed() is None
        assert client.pings >= 5
    if model:
        fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_a_client_that_takes_nothing_is_cut(strict: Watched, fake_provider: FakeProvider) -> None:
    before = strict.holds()["resident_bytes"]
    with Client(strict.address, handshake(**BEARER), small=True) as client:
        client.ask("fake-n200000")
        fake_provider.wait_for(lambda stats: stats.aborted == 1, timeout_s=30)
        assert strict.holds()["resident_bytes"] - before < 16 * 1024 * 1024
        assert client.closed() is None


def test_a_client_that_floods_and_takes_nothing_is_cut(strict: Watched, fake_provider: FakeProvider) -> None:
    """What it is told of its mistakes is not kept for it either."""
    before = strict.holds()["resident_bytes"]
    with Client(strict.address, handshake(**BEARER), small=True) as client:
        with pytest.raises(ConnectionError):  # noqa: PT012
            while True:
                client.sock.sendall(frame(TEXT, b"{") * 100)
        assert strict.holds()["resident_bytes"] - before < 16 * 1024 * 1024


def test_a_slow_reader_gets_all_of_it(watched: Watched, fake_provider: FakeProvider) -> None:
    model = "fake-n50000"
    with Client(watched.address, small=True) as client:
        client.ask(model)
        fake_provider.wait_for(lambda stats: stats.requests == 1)
        eventually(lambda: requests.get(f"{watched.service.url}/healthz", timeout=10).ok)
        settled(time.monotonic())
        assert client.answer()[0] == answer(model).text


# Places


def test_sockets_beyond_the_places_are_refused_and_all_else_answers(
    strict: Watched, fake_provider: FakeProvider
) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(knock(strict)) for _ in range(3)]
        error = refused(strict)
        assert error.status == 503
        assert int(error.headers["retry-after"]) >= 1
        assert "WebSockets" in error.body["error"]["message"]
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"prompt": "hi", "model": "fake-n3"}
        asked = requests.post(f"{strict.service.url}/v1/streams", json=body, headers=headers, timeout=10)
        assert asked.status_code == 200, "idle sockets take no stream's place"
        assert requests.get(f"{strict.service.url}/healthz", timeout=10).ok
        clients[0].leave("properly")
        assert clients[0].closed() == 1000
        with eventually(lambda: _quietly(strict)) as again:
            again.say("hi")
            assert again.answer()[1]["type"] == "done"


def _quietly(strict: Watched) -> Client | None:
    try:
        return knock(strict)
    except Refused:
        return None


def test_an_answer_beyond_the_places_is_refused_and_the_socket_stays(
    strict: Watched, fake_provider: FakeProvider
) -> None:
    eventually(lambda: strict.holds()["open_streams"] == 0)
    with contextlib.ExitStack() as stack:
        body = {"prompt": "hi", "model": "fake-stall3"}
        for _ in range(3):
            stack.enter_context(
                requests.post(f"{strict.service.url}/v1/streams", json=body, headers=BEARER, stream=True, timeout=10)
            )
        client = stack.enter_context(knock(strict))
        client.say("hi")
        error = client.read()
        assert (error["code"], error["status"], error["retryable"]) == ("overloaded", 503, True)
        stack.pop_all().close()
    eventually(lambda: strict.holds()["open_streams"] == 0)
    with knock(strict) as client:
        client.say("hi")
        assert client.answer()[1]["type"] == "done"


def test_each_answer_is_a_stream_in_the_books(strict: Watched, fake_provider: FakeProvider) -> None:
    def counted(outcome: str) -> float:
        seen = Numbers(requests.get(f"{strict.service.url}/metrics", timeout=10).text)
        return seen["sluiceway_streams_total", {"format": "ws", "outcome": outcome}]

    names = ("finished", "cancelled", "error")
    before = [counted(name) for name in names]
    with knock(strict, X_Request_ID="books") as client:
        for model in ("fake-n3", "fake-n9-cut4"):
            client.ask(model)
            client.answer()
        client.ask("fake-stall3")
        client.read()
        client.say({"type": "stop"})
        client.answer()
    eventually(lambda: [counted(name) for name in names] == [count + 1 for count in before])
    lines = [json.loads(line) for line in strict.service.log.splitlines() if '"request_id":"books.' in line]
    assert [(line["format"], line["outcome"], line["cancelled_by"]) for line in lines] == [
        ("ws", "finished", None),
        ("ws", "error", None),
        ("ws", "cancelled", "stop"),
    ]


# The end of a worker


@pytest.mark.parametrize("name", ["HUP", "TERM"])
def test_a_drain_closes_idle_sockets_at_once_and_the_others_after_their_answer(
    start_service: Callable[..., Service], start_nginx: Callable[..., Nginx], fake_provider: FakeProvider, name: str
) -> None:
    service = start_service({**fake_provider.env, "SLUICEWAY_SERVER__DRAIN_S": "5"}, "--workers", "1")
    nginx = start_nginx(address(service))
    with contextlib.ExitStack() as stack:
        direct, behind = ("127.0.0.1", service.port), ("127.0.0.1", nginx.port)
        idle, ending, endless = ([stack.enter_context(Client(at)) for at in (direct, behind) * 10] for _ in range(3))
        for client in ending:
            client.ask("fake-n50-i20")
        for client in endless:
            client.ask(ENDLESS)
        for client in ending + endless:
            client.read()
        service.process.send_signal(getattr(signal, f"SIG{name}"))
        assert [client.closed() for client in idle] == [1001] * 20
        assert fake_provider.stats().open_streams >= 20, "idle ones do not wait for the others"
        ends = [client.answer()[1] for client in ending]
        assert [end["type"] for end in ends] == ["done"] * 20
        assert [client.closed() for client in ending] == [1001] * 20
        ends = [client.answer()[1] for client in endless]
        assert [end.get("code") for end in ends] == ["draining"] * 20
        assert [client.closed() for client in endless] == [1001] * 20
        fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    if name == "HUP":
        service.process.send_signal(signal.SIGTERM)
    assert_exits(service, within_s=60)


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_sockets_that_do_not_answer_hold_no_worker_up(
    start_service: Callable[..., Service], fake_provider: FakeProvider, name: str
) -> None:
    service = start_service({**fake_provider.env, "SLUICEWAY_SERVER__DRAIN_S": "0.2"}, "--workers", "1")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(Client(("127.0.0.1", service.port), small=True))
            client.ask("fake-n200000")
            stack.enter_context(Client(("127.0.0.1", service.port)))
        fake_provider.wait_for(lambda stats: stats.open_streams == 20)
        service.process.send_signal(getattr(signal, f"SIG{name}"))
        assert_exits(service, within_s=25)  # gunicorn's own end for those who don't is at 30


# Other servers, other clients


@pytest.fixture(scope="module", params=["gthread", "flask run", "gevent"])
def elsewhere(
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service | FlaskServer]:
    """Threads, and gunicorn's own gevent worker."""
    folder = tmp_path_factory.mktemp("threads")
    env = {
        **fake_provider_server.env,
        "SLUICEWAY_STORE__URL": f"sqlite:///{folder / 'streams.db'}",
        "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2",
    }
    server: Service | FlaskServer
    if request.param == "gthread":
        server = start_service(env, "--config", os.devnull, "--worker-class", "gthread", "--threads", "16")
    elif request.param == "gevent":
        server = start_service(env, "--config", os.devnull, "--worker-class", "gevent")
    else:
        server = FlaskServer(env, folder / "log")
    yield server
    server.stop()


def test_other_servers(elsewhere: Service | FlaskServer, fake_provider: FakeProvider) -> None:
    at = ("127.0.0.1", elsewhere.port)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(at)) for _ in range(8)]
        for turn in ("first", "second"):
            for client in clients:
                client.ask("fake-n20-i10", turn)
            assert [client.answer()[0] for client in clients] == [answer("fake-n20-i10").text] * 8
        assert len(said_to(fake_provider)) == 3
        for client in clients:
            client.ask(ENDLESS)
        for client in clients:
            client.read()
        for client in clients[:4]:
            client.say({"type": "stop"})
            assert client.answer()[1]["reason"] == "cancelled"
            client.leave("properly")
            assert client.closed() == 1000
        for client in clients[4:]:
            client.leave("reset")
        fake_provider.wait_for(lambda stats: stats.open_streams == 0)
    with Client(at) as client:
        client.sock.sendall(frame(BINARY, b"x"))
        assert client.closed() == 1003
    assert requests.get(f"{elsewhere.url}/ws/chat", timeout=10).status_code == 426


def test_gunicorns_own_tls(key: Path, fake_provider: FakeProvider, tmp_path: Path) -> None:
    """Where what can be read of the socket is not what has come."""
    port = free_port()
    command = [Path(sys.executable).with_name("gunicorn"), "wsgi:app", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    store = {"SLUICEWAY_STORE__URL": f"sqlite:///{tmp_path}/streams.db", "SLUICEWAY_SERVER__HEARTBEAT_S": "0.1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--certfile", key, "--keyfile", key],
            cwd=ROOT,
            env={**os.environ, **fake_provider.env, **store},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"https://127.0.0.1:{port}"
        trusting = ssl.create_default_context(cafile=str(key))
        trusting.check_hostname = False  # it has no more than a common name

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"{url}/healthz", timeout=60, context=trusting).status == 200  # noqa: S310
            return False

        eventually(answers, within_s=60)
        with connect(f"wss://127.0.0.1:{port}/ws/chat", ssl=trusting) as client:
            for size in (1, 100_000):
                client.send(json.dumps({"message": "x" * size, "model": "fake-n200-i1"}))
                texts = []
                while (said := json.loads(client.recv(20)))["type"] == "chunk":
                    texts.append(said["text"])
                assert "".join(texts) == answer("fake-n200-i1").text
            client.send(json.dumps({"message": "x", "model": ENDLESS}))
            client.recv(20)
            client.send('{"type": "stop"}')
            while (said := json.loads(client.recv(20)))["type"] == "chunk":
                pass
            assert said["reason"] == "cancelled"
            client.send(json.dumps({"message": "x", "model": "fake-stall0"}))
            fake_provider.wait_for(lambda stats: stats.open_streams == 1)
        fake_provider.wait_for(lambda stats: stats.aborted == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        said = (tmp_path / "log").read_text()
        assert "Traceback" not in said, said
    finally:
        process.kill()
        process.wait()


def test_a_client_of_another_family(at: Address, fake_provider: FakeProvider) -> None:
    assert not isinstance(at, str)
    with connect(f"ws://{at[0]}:{at[1]}/ws/chat", origin=None) as client:
        client.send(json.dumps({"message": "hi", "model": "fake-n20"}))
        texts = []
        for message in client:
            said = json.loads(message)
            if said["type"] != "chunk":
                break
            texts.append(said["text"])
        assert "".join(texts) == answer("fake-n20").text
        assert client.ping().wait(10)
    assert client.close_code == 1000


IN_THE_PAGE = """([url, key]) => new Promise((done) => {
  const socket = new WebSocket(url, key ? ["sluiceway", "sluiceway-key." + encodeURIComponent(key)] : [])
  const said = {text: "", protocol: null}
  socket.onopen = () => { said.protocol = socket.protocol; socket.send(JSON.stringify({message: "hi"})) }
  socket.onmessage = ({data}) => {
    const message = JSON.parse(data)
    if (message.type === "chunk") { said.text += message.text } else { said.last = message; socket.close() }
  }
  socket.onclose = ({code}) => done({...said, code})
})"""


def test_a_browsers_own_socket(chromium: Browser, watched: Watched, nginx: Nginx, fake_provider: FakeProvider) -> None:
    """From a page of the same origin; and a page of another one is refused."""
    page = chromium.new_page()
    for url in (watched.service.url, nginx.url):
        page.goto(f"{url}/healthz")
        said = page.evaluate(IN_THE_PAGE, [url.replace("http", "ws") + "/ws/chat", ""])
        assert (said["text"], said["last"]["type"], said["code"]) == (answer("fake-n5").text, "done", 1005)
        other = url.replace("127.0.0.1", "localhost").replace("http", "ws")
        assert page.evaluate(IN_THE_PAGE, [f"{other}/ws/chat", ""])["code"] == 1006
    page.close()


def test_a_browser_sends_its_key_as_a_subprotocol(
    chromium: Browser, strict: Watched, fake_provider: FakeProvider
) -> None:
    page = chromium.new_page()
    page.goto(f"{strict.service.url}/healthz")
    url = strict.service.url.replace("http", "ws") + "/ws/chat"
    said = page.evaluate(IN_THE_PAGE, [url, KEY])
    assert (said["text"], said["protocol"]) == (answer("fake-n5").text, "sluiceway")
    for wrong in ("", "wrong"):
        assert page.evaluate(IN_THE_PAGE, [url, wrong])["code"] == 1006
    page.close()
    assert KEY not in strict.service.log
