"""Where the provider is silent, the service says that it lives: in each format's own way, between whole frames, and
without ever taking its own heartbeats, or the provider's, for life of the answer.

Nothing here depends on when a thread gets its turn. A heartbeat is due so long after what was written before it, so
there are never more of them than the time since the question has room for; how many there are at least is asked where
the provider waits until the client has them. What arrives late is late on a busy machine: only `PATIENCE_S` is an upper
bound.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
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
SILENCE_S = 2.5  # of the clocks that ring: eight heartbeats, of which a machine that stands still for 2 s leaves one
EARLY_S = 0.05  # of the clocks of two processes, and of an event loop that reads its own once a turn
PATIENCE_S = 30.0  # with an answer that does not end

SILENT = "fake-n6-stall3"
SILENT_FROM_THE_START = "fake-stall0"
SLOW = "fake-n3-f700-i700"

PING = rb'event: ping\ndata: {"type": ?"ping"}\n\n'
COMMENT = rb": ping\n"


class Heard(NamedTuple):
    status: int
    pieces: list[bytes]  # one for each chunk
    at_s: list[float]  # when each had been read, in seconds since the question

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def room_for(self) -> int:
        """How many heartbeats there can be: one at once, where no hold is set, and one each `HEARTBEAT_S`."""
        return 1 + math.floor((self.at_s[-1] + EARLY_S) / HEARTBEAT_S)


def is_heartbeat(door: Door, piece: bytes) -> bool:
    if door.name == "ndjson":
        return piece == b"\n"
    return re.fullmatch(PING if door.name == "messages" else COMMENT, piece) is not None


def hear(url: str, door: Door, model: str, on_piece: Callable[[bytes], None] = lambda _: None) -> Heard:
    said = Heard(0, [], [])
    asked_at = time.monotonic()
    body = replace(door, own_names=False).body(model)  # the clocks are set by the name with the provider in it
    asked = (f"{door.path}?{urlencode(body)}", None) if door.method == "GET" else (door.path, json.dumps(body).encode())
    with requested(url, *asked) as response:
        before = b""
        for at, so_far in arrivals(response):
            said.pieces.append(so_far.removeprefix(before))
            said.at_s.append(at - asked_at)
            before = so_far
            on_piece(said.pieces[-1])
            assert said.at_s[-1] < PATIENCE_S, f"no end: {so_far!r}"
    return said._replace(status=response.status)


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


def clocks(**rings: str) -> str:
    """Settings in which a clock rings after `SILENCE_S` for the models named, and for no other: on a busy machine it
    would ring at a model that has only been waiting for its turn."""
    return "".join(
        f'[models."{provider}/{model}"]\ntarget = "{provider}/{model}"\n{clock} = {SILENCE_S}\n'
        for model, clock in rings.items()
        for provider in ("openai", "anthropic")
    )


@pytest.fixture(scope="module")
def beating(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """A service that is quick to lose patience with a provider that falls silent."""
    file = tmp_path_factory.mktemp("beating") / "sluiceway.toml"
    file.write_text(clocks(**{SILENT: "idle_s", SILENT_FROM_THE_START: "first_token_s"}))
    env = {
        "SLUICEWAY_CONFIG": str(file),
        "SLUICEWAY_SERVER__HEARTBEAT_S": str(HEARTBEAT_S),
        "SLUICEWAY_SERVER__HOLD_S": str(HOLD_S),
    }
    one = under_watch(start_service, {**fake_provider_server.env, **env}, app="wsgi:app")
    yield one
    one.assert_no_complaint()
    one.service.stop()


Answers = dict[str, Heard]  # by door


def asked_of(watched: Watched, doors: Sequence[Door], model: str) -> Answers:
    with ThreadPoolExecutor(len(doors)) as pool:
        answers = pool.map(lambda door: hear(watched.service.url, door, model), doors)
        return {str(door): said for door, said in zip(doors, answers, strict=True)}


@pytest.fixture(scope="module")
def cut_short(beating: Watched) -> Answers:
    """Each route's answer where the provider falls silent after three tokens."""
    return asked_of(beating, ASKED, SILENT)


@pytest.fixture(scope="module")
def never_begun(beating: Watched) -> Answers:
    """The same where it is silent from the start."""
    return asked_of(beating, ASKED, SILENT_FROM_THE_START)


every_door = pytest.mark.parametrize("door", STREAMED, ids=str)


@every_door
def test_heartbeats_in_a_silence_after_some_tokens(cut_short: Answers, door: Door) -> None:
    said = cut_short[str(door)]
    assert said.status == 200
    body, beats = apart(door, said.body)
    assert beats == 0 if door.name == "plain" else 1 <= beats <= said.room_for()
    text = text_of(door, body)
    assert text.startswith(text_after(SILENT, 3))
    assert SAID["idle_timeout"].get(door.name, "idle_timeout") in code_in(door, body), "they do not put the clock off"
    assert said.at_s[-1] >= SILENCE_S - EARLY_S


@every_door
def test_heartbeats_before_the_first_token(never_begun: Answers, door: Door) -> None:
    """The status line is out after `hold_s`, so the failure that follows is told in the stream."""
    said = never_begun[str(door)]
    assert said.status == 200
    body, beats = apart(door, said.body)
    assert SAID["first_token_timeout"].get(door.name, "first_token_timeout") in code_in(door, body)
    assert said.at_s[-1] >= SILENCE_S - EARLY_S
    if door.name == "plain":
        assert beats == 0
        return
    assert 1 <= beats <= said.room_for()
    assert is_heartbeat(door, said.pieces[0]), "the first sign of life"
    assert said.at_s[0] >= HOLD_S - EARLY_S


@pytest.mark.parametrize("door", WHOLE, ids=str)
def test_an_answer_in_one_piece_has_none(
    beating: Watched, cut_short: Answers, never_begun: Answers, door: Door
) -> None:
    slow = hear(beating.service.url, door, SLOW)
    assert slow.status == 200
    assert slow.body.startswith(b"{")
    assert answer(SLOW).text in json.dumps(json.loads(slow.body))
    for answers in (cut_short, never_begun):
        failed = answers[str(door)]
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
    """Answers with the pieces of `SCRIPTS` for the path and the model, each after so many seconds, or when the client
    has said so."""

    server: Scripting

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
            for after_s, piece in SCRIPTS[path, model.partition("-")[0]]:
                threading.Event().wait(after_s) if after_s is not None else self.server.go_on[model].wait(PATIENCE_S)
                self.request.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.request.sendall(b"0\r\n\r\n")


class Scripting(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128  # with 5, some of many that connect at once come a second later

    def __init__(self) -> None:
        self.go_on: dict[str, threading.Event] = {}  # by model
        super().__init__(("127.0.0.1", 0), Scripted)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


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


Script = tuple[tuple[float | None, bytes], ...]


def in_two(whole: bytes, at: int) -> Script:
    """`whole` with a silence in it that the client ends."""
    return (0.0, whole[:at]), (None, whole[at:])


CHAT_BEGUN = CHAT_ANSWER[: CHAT_ANSWER.index(b"data: [DONE]")].rpartition(b"data: ")[0]
MESSAGE_BEGUN = MESSAGE_ANSWER[: MESSAGE_ANSWER.index(b"event: content_block_stop")]
COMMENTS: Script = ((0.1, b": ping\n\n"),) * int(PATIENCE_S / 0.1)
PINGS: Script = ((0.1, event("ping")),) * int(PATIENCE_S / 0.1)
CHAT_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/messages"
SCRIPTS: dict[tuple[str, str], Script] = {
    (CHAT_PATH, "paused"): in_two(CHAT_ANSWER, CHAT_ANSWER.index(b"data: ", CHAT_ANSWER.index(b'"Hel"'))),
    (MESSAGES_PATH, "paused"): in_two(MESSAGE_ANSWER, MESSAGE_ANSWER.index(b"event: ", MESSAGE_ANSWER.index(b'"Hel"'))),
    (CHAT_PATH, "halved"): in_two(CHAT_ANSWER, CHAT_ANSWER.index(b'lo"')),
    (MESSAGES_PATH, "halved"): in_two(MESSAGE_ANSWER, MESSAGE_ANSWER.index(b'lo"')),
    (CHAT_PATH, "pinging"): COMMENTS,
    (MESSAGES_PATH, "pinging"): PINGS,
    (CHAT_PATH, "begun"): ((0.0, CHAT_BEGUN), *COMMENTS),
    (MESSAGES_PATH, "begun"): ((0.0, MESSAGE_BEGUN), *PINGS),
}


@pytest.fixture(scope="module")
def scripting() -> Iterator[Scripting]:
    with Scripting() as provider:
        threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield provider
        provider.shutdown()


@pytest.fixture(scope="module")
def scripted(
    start_service: Callable[..., Service], scripting: Scripting, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service in front of that provider; its status line is not held at all."""
    file = tmp_path_factory.mktemp("scripted") / "sluiceway.toml"
    file.write_text(clocks(begun="idle_s", pinging="first_token_s"))
    env = {
        "OPENAI_API_KEY": "sk-test-0123456789",
        "OPENAI_BASE_URL": f"{scripting.url}/v1",
        "ANTHROPIC_API_KEY": "sk-test-0123456789",
        "ANTHROPIC_BASE_URL": scripting.url,
        "SLUICEWAY_CONFIG": str(file),
        "SLUICEWAY_SERVER__HEARTBEAT_S": str(HEARTBEAT_S),
        "SLUICEWAY_SERVER__HOLD_S": "0",
    }
    service = start_service(env)
    yield service
    service.stop()


ENOUGH = 3  # heartbeats in one silence


def hear_until(service: Service, scripting: Scripting, door: Door, model: str) -> Heard:
    """An answer whose provider is silent until `ENOUGH` heartbeats have come since the text before."""
    beats = -math.inf

    def listen(piece: bytes) -> None:
        nonlocal beats
        if b"Hel" in piece:
            beats = 0
        beats += is_heartbeat(door, piece)
        if beats >= ENOUGH:
            scripting.go_on[model].set()

    return hear(service.url, door, model, listen)


@pytest.mark.parametrize("where", ["paused", "halved"])
def test_a_silence_is_filled_with_heartbeats_each_when_it_is_due(
    scripted: Service, scripting: Scripting, where: str
) -> None:
    """The answer is whole around them, and each leaves by itself: the provider goes on only when they have come. Where
    it falls silent in the middle of a frame (`halved`), the client has not got the first half of it."""
    models = [f"{where}-{door}" for door in STREAMED]
    scripting.go_on.update((model, threading.Event()) for model in models)
    with ThreadPoolExecutor(len(STREAMED)) as pool:
        asked = [
            pool.submit(hear_until, scripted, scripting, door, model)
            for door, model in zip(STREAMED, models, strict=True)
        ]
        wait([said for door, said in zip(STREAMED, asked, strict=True) if door.name != "plain"])
        for model in models:  # plain text has no heartbeats: its silence is as long as the others'
            scripting.go_on[model].set()
    gaps: list[float] = []
    for door, future in zip(STREAMED, asked, strict=True):
        said = future.result()
        body, beats = apart(door, said.body)
        assert text_of(door, body) == "Hello"
        if door.name == "plain":
            assert beats == 0
            continue
        assert ENOUGH <= beats <= said.room_for(), door
        at = next(at for at, piece in enumerate(said.pieces) if b"Hel" in piece) + 1
        assert all(is_heartbeat(door, piece) for piece in said.pieces[at : at + ENOUGH]), door
        at_s = said.at_s[at : at + ENOUGH]
        for number, beat_s in enumerate(at_s, 1):
            assert beat_s >= number * HEARTBEAT_S - EARLY_S, f"{door}: none comes before its time"
        gaps += [later - earlier for earlier, later in itertools.pairwise(at_s)]
    assert min(gaps) < 2 * HEARTBEAT_S, "nor long after it, but for a machine that stands still"


@pytest.mark.parametrize(("model", "code"), [("begun", "idle_timeout"), ("pinging", "first_token_timeout")])
def test_a_providers_pings_are_no_life_of_the_answer(scripted: Service, model: str, code: str) -> None:
    """A provider that goes on pinging, after a token or before it, has fallen silent all the same."""
    with ThreadPoolExecutor(len(STREAMED)) as pool:
        answers = list(pool.map(lambda door: hear(scripted.url, door, model), STREAMED))
    for door, said in zip(STREAMED, answers, strict=True):
        body, _ = apart(door, said.body)
        assert SAID[code].get(door.name, code) in code_in(door, body), door
        assert said.at_s[-1] >= SILENCE_S - EARLY_S, door


def test_without_a_hold_the_status_line_leaves_at_once(scripted: Service) -> None:
    """Before the provider has said anything: after `SILENCE_S` without a token it would be another one."""
    for door in STREAMED:
        with Caller(("127.0.0.1", scripted.port), request_bytes(door, "pinging")) as caller:
            caller.read_until(b"\r\n\r\n")
            assert caller.received.startswith(b"HTTP/1.1 200 "), door


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
