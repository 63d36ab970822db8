"""Where the provider is silent, the service says that it lives: in each format's own way, between whole frames, and
without ever taking its own heartbeats, or the provider's, for life of the answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlencode

import anthropic
import openai
import pytest
from callers import ASKED, STREAMED, WHOLE, Caller, Watched, request_bytes
from callers import watched as under_watch
from conftest import Service
from test_nginx import arrivals, requested
from test_routes import DONE, Door, frames

from app.testing import FakeProvider, answer, text_after

HEARTBEAT_S = 0.3
HOLD_S = 0.2
SILENCE_S = 1.6  # of the clocks below: time for five heartbeats; `SLOW` stays well below it
LATE_S = 3.0  # by how much a clock may ring late here: the machine may have other things to do

SILENT = "fake-n6-stall3"
SILENT_FROM_THE_START = "fake-stall0"
SLOW = "fake-n3-f1000-i1000"
MODELS = (SILENT, SILENT_FROM_THE_START, SLOW)

PING = rb'event: ping\ndata: {"type": ?"ping"}\n\n'
COMMENT = rb": ping\n"


class Heard(NamedTuple):
    status: int
    body: bytes
    pieces: list[tuple[float, bytes]]  # when each had come, of `time.monotonic`, and the body so far
    asked_at: float

    def silence_s(self) -> float:
        """From the last piece of the answer to what ended the wait for more."""
        marks = [at for at, body in self.pieces if says_something(body)]
        return self.pieces[-1][0] - (marks[0] if marks else self.asked_at)


def says_something(body: bytes) -> bool:
    return text_after(SILENT, 3).split()[-1].encode() in body


def hear(url: str, door: Door, model: str) -> Heard:
    asked_at = time.monotonic()
    body = door.body(model)
    if door.method == "GET":
        with requested(url, f"{door.path}?{urlencode(body)}") as response:
            pieces = list(arrivals(response))
    else:
        with requested(url, door.path, json.dumps(body).encode()) as response:
            pieces = list(arrivals(response))
    return Heard(response.status, pieces[-1][1] if pieces else b"", pieces, asked_at)


def apart(door: Door, body: bytes) -> tuple[bytes, int]:
    """A body without its heartbeats, and how many there were. Fails where one is not what it should be, or not between
    two frames."""
    if door.name == "plain":
        return body, 0
    if door.name == "ndjson":
        assert body.endswith(b"\n")
        lines = body[:-1].split(b"\n")
        for line in filter(None, lines):
            json.loads(line)
        return b"".join(line + b"\n" for line in lines if line), lines.count(b"")
    heartbeat = re.compile(PING if door.name == "messages" else COMMENT)
    rest, kept, beats = body, b"", 0
    while rest:
        if beat := heartbeat.match(rest):
            rest, beats = rest[beat.end() :], beats + 1
            continue
        frame, end, rest = rest.partition(b"\n\n")
        assert end, f"the body ends within a frame: {frame!r}"
        assert re.fullmatch(rb"((id|event|data): .*\n)*data: .*", frame), f"no whole frame: {frame!r}"
        kept += frame + end
    return kept, beats


def text_of(door: Door, body: bytes) -> str:
    if door.name == "plain":
        return body.decode()
    return "".join(door.line_text(line) or "" for line in body.decode().split("\n"))


def code_in(door: Door, body: bytes) -> str:
    """The code of the error that a body without heartbeats ends with; on `/v1/messages` its type."""
    if door.name == "plain":
        return body.decode().rpartition("\n[Error: ")[2] if b"\n[Error: " in body else body.decode()
    if door.name == "ndjson":
        said: dict[str, Any] = json.loads(body.splitlines()[-1])
        return str(said["code"])
    last = [frame for frame in frames(body) if frame != DONE][-1].data
    said = last.get("error", last) if isinstance(last.get("error", last), dict) else last
    if door.name in ("meta", "ui"):
        return str(said["message"] if door.name == "meta" else said["errorText"])
    return str(said["type"] if door.name == "messages" else said["code"])


SAID = {  # what stands for a code, by door: a sentence of its error where the format has no place for the code
    code: {"messages": "timeout_error", **dict.fromkeys(("meta", "ui", "plain"), sentence)}
    for code, sentence in (("idle_timeout", "fell silent"), ("first_token_timeout", "sent nothing within"))
}


@pytest.fixture(scope="module")
def beating(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Watched]:
    """A service that is quick to lose patience."""
    clocks = {
        "SLUICEWAY_SERVER__HEARTBEAT_S": str(HEARTBEAT_S),
        "SLUICEWAY_SERVER__HOLD_S": str(HOLD_S),
        "SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S": str(SILENCE_S),
        "SLUICEWAY_TIMEOUTS__IDLE_S": str(SILENCE_S),
    }
    one = under_watch(start_service, {**fake_provider_server.env, **clocks}, app="wsgi:app")
    yield one
    one.assert_no_complaint()
    one.service.stop()


@pytest.fixture(scope="module")
def heard(beating: Watched) -> dict[tuple[str, str], Heard]:
    """Each route's answer by each model, asked at the same time."""
    asked = [(door, model) for door in ASKED for model in MODELS]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = pool.map(lambda pair: hear(beating.service.url, *pair), asked)
        return {(str(door), model): said for (door, model), said in zip(asked, answers, strict=True)}


every_door = pytest.mark.parametrize("door", STREAMED, ids=str)


@every_door
def test_heartbeats_in_a_silence_after_some_tokens(heard: dict[tuple[str, str], Heard], door: Door) -> None:
    said = heard[str(door), SILENT]
    assert said.status == 200
    body, beats = apart(door, said.body)
    assert beats == 0 if door.name == "plain" else 4 <= beats <= 6
    text = text_of(door, body)
    assert text.startswith(text_after(SILENT, 3))
    assert SAID["idle_timeout"].get(door.name, "idle_timeout") in code_in(door, body)
    assert SILENCE_S - 0.05 <= said.silence_s() <= SILENCE_S + LATE_S, "heartbeats do not put the clock off"


@every_door
def test_heartbeats_before_the_first_token(heard: dict[tuple[str, str], Heard], door: Door) -> None:
    """The status line is out after `hold_s`, so the failure that follows is told in the stream."""
    said = heard[str(door), SILENT_FROM_THE_START]
    assert said.status == 200
    body, beats = apart(door, said.body)
    assert beats == 0 if door.name == "plain" else 4 <= beats <= 6
    assert SAID["first_token_timeout"].get(door.name, "first_token_timeout") in code_in(door, body)
    assert SILENCE_S - 0.05 <= said.pieces[-1][0] - said.asked_at <= SILENCE_S + LATE_S
    if door.name != "plain":
        assert said.pieces[0][0] - said.asked_at <= HOLD_S + HEARTBEAT_S + LATE_S, "the first sign of life"


@every_door
def test_an_answer_with_heartbeats_in_it_is_whole(heard: dict[tuple[str, str], Heard], door: Door) -> None:
    said = heard[str(door), SLOW]
    assert said.status == 200
    body, beats = apart(door, said.body)
    assert beats == 0 if door.name == "plain" else 7 <= beats <= 12  # three silences of a second
    assert text_of(door, body) == answer(SLOW).text
    if door.name not in ("plain", "ndjson"):
        assert frames(body)


@every_door
def test_a_heartbeat_leaves_when_it_is_due(heard: dict[tuple[str, str], Heard], door: Door) -> None:
    """Every piece of a silent stream comes by itself, one heartbeat after the other."""
    if door.name == "plain":
        return  # it has none
    said = heard[str(door), SILENT]
    since = [at for at, body in said.pieces if says_something(body)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(since)][:3]
    assert all(gap <= HEARTBEAT_S + LATE_S for gap in gaps), gaps
    # A stall of the machine makes one gap long and the next one short, but none comes before its time.
    assert sum(gaps) >= HEARTBEAT_S * (len(gaps) - 1), gaps


@pytest.mark.parametrize("door", WHOLE, ids=str)
def test_an_answer_in_one_piece_has_none(heard: dict[tuple[str, str], Heard], door: Door) -> None:
    slow = heard[str(door), SLOW]
    assert slow.status == 200
    assert slow.body.startswith(b"{")
    assert answer(SLOW).text in json.dumps(json.loads(slow.body))
    for model in (SILENT, SILENT_FROM_THE_START):
        failed = heard[str(door), model]
        assert failed.status == 504
        assert json.loads(failed.body)["error"]


# The SDKs read them as nothing

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


def by_openai(client: openai.OpenAI, model: str) -> str:
    with client.chat.completions.create(model=model, messages=MESSAGES, stream=True) as chunks:
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def by_openai_helper(client: openai.OpenAI, model: str) -> str:
    with client.chat.completions.stream(model=model, messages=MESSAGES) as stream:
        return stream.until_done().get_final_completion().choices[0].message.content or ""


def by_responses(client: openai.OpenAI, model: str) -> str:
    with client.responses.create(model=model, input="hi", stream=True) as events:
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def by_responses_helper(client: openai.OpenAI, model: str) -> str:
    with client.responses.stream(model=model, input="hi") as stream:
        return stream.get_final_response().output_text


def by_anthropic(client: anthropic.Anthropic, model: str) -> str:
    with client.messages.create(model=model, messages=MESSAGES, max_tokens=99, stream=True) as events:
        deltas = [event.delta for event in events if event.type == "content_block_delta"]
        return "".join(delta.text for delta in deltas if delta.type == "text_delta")


def by_anthropic_helper(client: anthropic.Anthropic, model: str) -> str:
    with client.messages.stream(model=model, messages=MESSAGES, max_tokens=99) as stream:
        return stream.get_final_text()


def test_the_sdks_survive_them(beating: Watched) -> None:
    url = beating.service.url
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as gpt,
        anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as claude,
        ThreadPoolExecutor(12) as pool,
    ):
        by_gpt = (by_openai, by_openai_helper, by_responses, by_responses_helper)
        said = [
            pool.submit(read, client, f"{provider}/{SLOW}")
            for client, reads in ((gpt, by_gpt), (claude, (by_anthropic, by_anthropic_helper)))
            for read in reads
            for provider in ("openai", "anthropic")
        ]
        assert [one.result() for one in said] == [answer(SLOW).text] * len(said)


# A provider whose frames come in parts, or that sends signs of life of its own


class Scripted(socketserver.StreamRequestHandler):
    """Answers with the pieces of `SCRIPTS` for the path and the model, each after so many seconds."""

    def handle(self) -> None:
        path = self.rfile.readline().split(b" ")[1].decode()
        size = 0
        while line := self.rfile.readline().strip():
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        model = json.loads(self.rfile.read(size))["model"]
        with contextlib.suppress(OSError):  # the service gives up, as it should
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.request.sendall(head)
            for after_s, piece in SCRIPTS[path, model]:
                threading.Event().wait(after_s)
                self.request.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.request.sendall(b"0\r\n\r\n")


class Scripting(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128  # with 5, some of many that connect at once come a second later


def chunk(**choice: Any) -> bytes:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return (
        b"data: " + json.dumps(head | {"choices": [{"index": 0, "finish_reason": None, **choice}]}).encode() + b"\n\n"
    )


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


CHAT_ANSWER = (
    chunk(delta={"role": "assistant", "content": ""})
    + chunk(delta={"content": "Hel"})
    + chunk(delta={"content": "lo"})
    + chunk(delta={}, finish_reason="stop")
    + b"data: [DONE]\n\n"
)
MESSAGE_START = event(
    "message_start",
    message={
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
) + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
MESSAGE_ANSWER = (
    MESSAGE_START
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hel"})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "lo"})
    + event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2})
    + event("message_stop")
)


Script = tuple[tuple[float, bytes], ...]


def in_two(whole: bytes) -> Script:
    """`whole` with a silence in the middle of a frame."""
    at = whole.index(b'lo"')
    return (0.0, whole[:at]), (3.5 * HEARTBEAT_S, whole[at:])


CHAT_BEGUN = CHAT_ANSWER[: CHAT_ANSWER.index(b"data: [DONE]")].rpartition(b"data: ")[0]
MESSAGE_BEGUN = MESSAGE_ANSWER[: MESSAGE_ANSWER.index(b"event: content_block_stop")]
COMMENTS: Script = ((0.1, b": ping\n\n"),) * 60
PINGS: Script = ((0.1, event("ping")),) * 60
CHAT_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/messages"
SCRIPTS: dict[tuple[str, str], Script] = {
    (CHAT_PATH, "halved"): in_two(CHAT_ANSWER),
    (MESSAGES_PATH, "halved"): in_two(MESSAGE_ANSWER),
    (CHAT_PATH, "pinging"): COMMENTS,
    (MESSAGES_PATH, "pinging"): PINGS,
    (CHAT_PATH, "begun"): ((0.0, CHAT_BEGUN), *COMMENTS),
    (MESSAGES_PATH, "begun"): ((0.0, MESSAGE_BEGUN), *PINGS),
}


@pytest.fixture(scope="module")
def scripted(start_service: Callable[..., Service]) -> Iterator[Service]:
    """A service in front of that provider; its status line is not held at all."""
    with Scripting(("127.0.0.1", 0), Scripted) as provider:
        threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{provider.server_address[1]}"
        env = {
            "OPENAI_API_KEY": "sk-test-0123456789",
            "OPENAI_BASE_URL": f"{url}/v1",
            "ANTHROPIC_API_KEY": "sk-test-0123456789",
            "ANTHROPIC_BASE_URL": url,
            "SLUICEWAY_SERVER__HEARTBEAT_S": str(HEARTBEAT_S),
            "SLUICEWAY_SERVER__HOLD_S": "0",
            "SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S": str(SILENCE_S),
            "SLUICEWAY_TIMEOUTS__IDLE_S": str(SILENCE_S),
        }
        service = start_service(env)
        yield service
        service.stop()
        provider.shutdown()


def hear_all(service: Service, model: str) -> Iterator[tuple[Door, Heard]]:
    with ThreadPoolExecutor(len(STREAMED)) as pool:
        yield from zip(STREAMED, pool.map(lambda door: hear(service.url, door, model), STREAMED), strict=True)


def test_a_heartbeat_never_stands_within_a_frame(scripted: Service) -> None:
    """Where a provider falls silent in the middle of a frame, the client has not got the first half of it."""
    for door, said in hear_all(scripted, "halved"):
        body, beats = apart(door, said.body)
        assert text_of(door, body) == "Hello"
        assert beats == 0 if door.name == "plain" else 2 <= beats <= 5, door


@pytest.mark.parametrize(("model", "code"), [("begun", "idle_timeout"), ("pinging", "first_token_timeout")])
def test_a_providers_pings_are_no_life_of_the_answer(scripted: Service, model: str, code: str) -> None:
    """A provider that goes on pinging, after a token or before it, has fallen silent all the same."""
    for door, said in hear_all(scripted, model):
        body, _ = apart(door, said.body)
        assert SAID[code].get(door.name, code) in code_in(door, body), door
        assert SILENCE_S - 0.05 <= said.pieces[-1][0] - said.asked_at <= SILENCE_S + LATE_S, door


def test_without_a_hold_the_status_line_leaves_at_once(scripted: Service) -> None:
    for door in STREAMED:
        with Caller(("127.0.0.1", scripted.port), request_bytes(door, "pinging")) as caller:
            asked_at = time.monotonic()
            caller.read_until(b"\r\n\r\n")
            assert caller.received.startswith(b"HTTP/1.1 200 "), door
            assert time.monotonic() - asked_at <= LATE_S


# Before the status line


def test_within_the_hold_an_error_is_a_status_and_nothing_comes_before_it(
    start_service: Callable[..., Service], fake_provider: FakeProvider
) -> None:
    clocks = {"SLUICEWAY_SERVER__HEARTBEAT_S": "0.1", "SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S": "0.7"}
    service = start_service({**fake_provider.env, **clocks})  # hold_s is 10 s by default
    address = ("127.0.0.1", service.port)
    with ThreadPoolExecutor(len(STREAMED)) as pool:
        answers = list(
            pool.map(lambda door: b"".join(until_closed(address, request_bytes(door, SILENT_FROM_THE_START))), STREAMED)
        )
    for door, said in zip(STREAMED, answers, strict=True):
        assert said.startswith(b"HTTP/1.1 504 "), door
        assert b": ping" not in said
        assert b"\r\nContent-Type: application/json\r\n" in said
    service.stop()


def until_closed(address: tuple[str, int], request: bytes) -> Iterator[bytes]:
    with Caller(address, request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)) as caller:
        caller.read_to_the_end()
        yield caller.received
