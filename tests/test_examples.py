"""The clients to copy, as they stand in examples/: python_requests.py here, browser_fetch.js in Node.js (in a browser:
test_examples_pages.py). Both are asked for the same."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import logging
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from bad_line import BadLine, Canned, Listening
from conftest import ROOT, Service
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.testing import FakeProvider, answer, text_after
from examples import python_requests

DRIVER = Path(__file__).with_name("example_driver.mjs")
NODE_OF_CLIENTS = next(Path(__file__).parent.glob("clients/node_modules/node-linux-*/bin/node"), None)
NODE = shutil.which("node") or NODE_OF_CLIENTS  # any from 18 on will do
KEY = "sk-one-that-is-accepted"
WAIT_S = 60.0


STREAMS = "/ai/v1/streams"


class Services(NamedTuple):
    provider: FakeProvider
    open: Service  # examples/flask_app.py

    @property
    def url(self) -> str:
        return f"{self.open.url}{STREAMS}"


@pytest.fixture(scope="module")
def services(start_service: Callable[..., Service]) -> Iterator[Services]:
    with FakeProvider() as provider:
        env = {**provider.env, "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2"}
        service = start_service(env, "--workers", "2", app="examples.flask_app:app", health="/ai/healthz")
        yield Services(provider, service)
        service.stop()


@pytest.fixture(scope="module")
def keyed(start_service: Callable[..., Service], services: Services) -> str:
    """Of a service that wants a key: its URL."""
    hashes = json.dumps([hashlib.sha256(KEY.encode()).hexdigest()])
    return f"{start_service({**services.provider.env, 'SLUICEWAY_SERVER__API_KEYS_SHA256': hashes}).url}/v1/streams"


@pytest.fixture(scope="module")
def restarting(start_service: Callable[..., Service], services: Services) -> Service:
    """It gives streams half a second when it is restarted."""
    return start_service({**services.provider.env, "SLUICEWAY_SERVER__DRAIN_S": "0.5"})


@pytest.fixture(autouse=True)
def new_books(services: Services) -> None:
    services.provider.reset()


class Failed(Exception):
    """The client's own error, in the words of both."""

    def __init__(self, message: str, **told: Any) -> None:
        super().__init__(message)
        self.code: str = told["code"]
        self.status: int = told["status"]
        self.refused: bool = told["refused"]
        self.retryable: bool = told["retryable"]
        self.retry_after_s: float = told["retry_after_s"]


class Asked(Protocol):
    """An answer that comes. Iterating it raises `Failed`."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def __next__(self) -> dict[str, Any]: ...
    def stop(self) -> None: ...


class Client(Protocol):
    def ask(self, url: str, body: dict[str, Any], **options: Any) -> Asked:
        """`api_key`, `key`, `silence_s`, `pauses_s`."""

    def parse(self, connections: list[list[bytes]]) -> Parsed: ...

    @property
    def losses(self) -> int: ...


class Parsed(NamedTuple):
    messages: list[tuple[str, str, str]]  # event, data, id
    last_id: str
    retry_ms: float


class InPython:
    def __init__(self) -> None:
        self._log = logging.getLogger("examples.python_requests")
        self.losses = 0
        self._log.addFilter(self._count)

    def _count(self, record: logging.LogRecord) -> bool:
        self.losses += "trying again" in record.getMessage()
        return True

    def ask(self, url: str, body: dict[str, Any], **more: Any) -> Asked:
        return _PythonAsked(python_requests.stream(url, body, **more))

    def parse(self, connections: list[list[bytes]]) -> Parsed:
        parser = python_requests.SSEParser()
        messages: list[tuple[str, str, str]] = []
        for chunks in connections:
            parser.connected()
            for chunk in chunks:
                messages += parser.feed(chunk)
        return Parsed([tuple(message) for message in messages], parser.last_id, parser.retry_s * 1000)

    def close(self) -> None:
        self._log.removeFilter(self._count)


class _PythonAsked:
    def __init__(self, events: Any) -> None:
        self._events = events

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        try:
            event: dict[str, Any] = next(self._events)
        except python_requests.StreamError as exc:
            told = {name: getattr(exc, name) for name in ("code", "status", "retryable", "retry_after_s")}
            raise Failed(str(exc), refused=isinstance(exc, python_requests.Refused), **told) from exc
        return event

    def stop(self) -> None:
        self._events.close()


class InNode:
    """One process for all answers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(NODE), str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._jobs = itertools.count()
        self._told: dict[int, queue.Queue[dict[str, Any] | None]] = {}
        self._writing = threading.Lock()
        self.losses = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self.losses += told.get("losses", 0)
            self._told[told.pop("job")].put(told)
        for waiting in list(self._told.values()):
            waiting.put(None)

    def tell(self, job: int, **what: Any) -> None:
        assert self._process.stdin is not None
        with self._writing:
            self._process.stdin.write(json.dumps({"job": job, **what}) + "\n")
            self._process.stdin.flush()

    def _begin(self, **what: Any) -> int:
        job = next(self._jobs)
        self._told[job] = queue.Queue()
        self.tell(job, **what)
        return job

    def told(self, job: int) -> dict[str, Any]:
        told = self._told[job].get(timeout=WAIT_S)
        assert told is not None, "Node.js has ended"
        return told

    def ask(self, url: str, body: dict[str, Any], *, silence_s: float = 45.0, api_key: str = "", **more: Any) -> Asked:
        options = {"apiKey": api_key, "silenceMs": silence_s * 1000}
        if "key" in more:
            options["key"] = more["key"]
        if "pauses_s" in more:
            options["pausesMs"] = [pause_s * 1000 for pause_s in more["pauses_s"]]
        return _NodeAsked(self, self._begin(ask={"url": url, "body": body, "options": options}))

    def leave(self, url: str, body: dict[str, Any], events: int) -> None:
        """By `break`."""
        job = self._begin(ask={"url": url, "body": body, "leaveAfter": events})
        while "error" not in (told := self.told(job)):
            pass
        assert told["error"] is None

    def parse(self, connections: list[list[bytes]]) -> Parsed:
        encoded = [[base64.b64encode(chunk).decode() for chunk in chunks] for chunks in connections]
        parsed = self.told(self._begin(parse=encoded))["parsed"]
        messages = [(message["event"], message["data"], message["id"]) for message in parsed["messages"]]
        return Parsed(messages, parsed["lastId"], parsed["retryMs"])

    def close(self) -> None:
        self._process.kill()
        self._reader.join()
        with self._process:
            pass


class _NodeAsked:
    def __init__(self, node: InNode, job: int) -> None:
        self._node = node
        self._job = job

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        told = self._node.told(self._job)
        if "event" in told:
            event: dict[str, Any] = told["event"]
            return event
        error = told["error"]
        if error is None:
            raise StopIteration
        assert error["typed"], error
        raise Failed(
            error["message"],
            code=error["code"],
            status=error["status"],
            refused=error["refused"],
            retryable=error["retryable"],
            retry_after_s=error["retryAfterMs"] / 1000,
        )

    def stop(self) -> None:
        self._node.tell(self._job, stop=True)
        while "error" not in (told := self._node.told(self._job)):
            pass
        assert told["error"]["name"] == "AbortError"


@pytest.fixture(scope="module", params=["python_requests.py", "browser_fetch.js"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "browser_fetch.js" and NODE is None:
        pytest.skip("no Node.js")
    one = InPython() if request.param == "python_requests.py" else InNode()
    yield one
    one.close()


def body(model: str) -> dict[str, Any]:
    return {"model": f"openai/{model}", "prompt": "hi"}


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")


def assert_whole(events: list[dict[str, Any]], model: str) -> None:
    assert text_of(events) == answer(model).text
    assert [event["type"] for event in events].count("start") == 1
    assert [event["type"] for event in events[-2:]] == ["usage", "finish"]


# --- an answer -----------------------------------------------------------------------------------------------------


def test_text_comes_as_it_is_made(client: Client, services: Services) -> None:
    """The provider is not through when the first words are here."""
    asked = client.ask(services.url, body("fake-n5-stall3"))
    events = list(itertools.islice(asked, 4))
    assert text_of(events) == text_after("fake-n5-stall3", 3)
    assert services.provider.stats().open_streams == 1
    asked.stop()


@pytest.mark.parametrize("model", ["fake-uni", "fake-n60-uni-split", "fake-n20-md", "fake-n3-think4-tool2"])
def test_the_whole_of_it(client: Client, services: Services, model: str) -> None:
    events = list(client.ask(services.url, body(model)))
    assert_whole(events, model)
    assert "".join(event["text"] for event in events if event["type"] == "reasoning") == answer(model).reasoning
    calls = [(event["call_id"], event["arguments"]) for event in events if event["type"] == "tool_call"]
    assert calls == [(call.id, json.loads(call.arguments)) for call in answer(model).tool_calls]


def test_a_megabyte(client: Client, services: Services) -> None:
    model = "fake-n1-big1000"
    began = time.monotonic()
    events = list(client.ask(services.url, body(model)))
    print(f"\n{type(client).__name__}: {len(text_of(events))} characters in {time.monotonic() - began:.2f} s")
    assert_whole(events, model)


def test_a_key(client: Client, keyed: str) -> None:
    events = list(client.ask(keyed, body("fake-n5"), api_key=KEY))
    assert_whole(events, "fake-n5")


def test_asked_again_by_its_key_it_is_the_same_answer(client: Client, services: Services) -> None:
    key = f"again-{type(client).__name__}"
    first, again = (list(client.ask(services.url, body("fake-n9-i20"), key=key)) for _ in range(2))
    assert first == again
    assert services.provider.stats().requests == 1


# --- cut off -------------------------------------------------------------------------------------------------------


def test_cut_anywhere_nothing_is_missing_and_nothing_comes_twice(client: Client, services: Services) -> None:
    """In the head, in a number, in a character: 24 streams, each cut three times."""

    def run(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        model = f"cut{seed}{type(client).__name__}-n80-i10-uni-split"
        with BadLine(services.open.port, *(chance.randrange(1, 4000) for _ in range(3))) as line:
            assert_whole(list(client.ask(line.url + STREAMS, body(model))), model)
            assert line.ended

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(run, range(24)))
    assert services.provider.stats().requests == 24, "no answer was paid for twice"


@pytest.mark.parametrize("behind", [b"id: 5", b"id: 5\n", b'id: 5\ndata: {"ty', b"HTTP/1.1 2", b"Location: /ai/v1"])
def test_cut_at_a_place_that_matters(client: Client, services: Services, behind: bytes) -> None:
    model = "fake-n12-i10"
    with BadLine(services.open.port, behind) as line:
        assert_whole(list(client.ask(line.url + STREAMS, body(model))), model)
        assert [brought.endswith(behind) for brought in line.ended] == [True]
    assert services.provider.stats().requests == 1


def test_a_line_that_stays_bad_is_given_up_and_the_answer_stopped(client: Client, services: Services) -> None:
    # After the first, no connection brings an event.
    with BadLine(services.open.port, b"id: 5\n", *[40] * 5) as line:
        said, error = fails(client.ask(line.url + STREAMS, body("fake-n5000-i20"), pauses_s=[0.1] * 5))
        services.provider.wait_for(lambda stats: stats.aborted == 1, WAIT_S)
        assert said
        assert len(line.ended) == 6
    assert (error.code, error.retryable, error.refused) == ("connection_lost", True, False)


def test_a_slow_answer_is_waited_for(client: Client, services: Services) -> None:
    """Heartbeats come meanwhile, each 0.2 s."""
    before = client.losses
    events = list(client.ask(services.url, body("fake-n2-i6000"), silence_s=3))
    assert_whole(events, "fake-n2-i6000")
    assert client.losses == before


def test_a_silent_connection_is_left_for_another(client: Client, services: Services) -> None:
    model = "fake-n30-i10"
    with BadLine(services.open.port, b"id: 7\n", silent=True) as line:
        assert_whole(list(client.ask(line.url + STREAMS, body(model), silence_s=2)), model)
        assert len(line.ended) == 1
    assert services.provider.stats().requests == 1


# --- stopped -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [1, 5])
def test_stopped_it_is_stopped_at_the_provider(client: Client, services: Services, events: int) -> None:
    asked = client.ask(services.url, body("fake-n5000-i20"))
    assert len(list(itertools.islice(asked, events))) == events
    asked.stop()
    services.provider.wait_for(lambda stats: stats.aborted == 1, WAIT_S)


def test_stopped_before_its_first_word(services: Services) -> None:
    """Its name has not come yet."""
    node = InNode()
    try:
        asked = node.ask(services.url, body("fake-slow20000"))
        services.provider.wait_for(lambda stats: stats.requests == 1, WAIT_S)
        asked.stop()
        services.provider.wait_for(lambda stats: stats.aborted == 1, WAIT_S)
    finally:
        node.close()


def test_leaving_the_loop_stops_it(services: Services) -> None:
    node = InNode()
    try:
        node.leave(services.url, body("fake-n5000-i20"), events=3)
        services.provider.wait_for(lambda stats: stats.aborted == 1, WAIT_S)
    finally:
        node.close()
    for event in python_requests.stream(services.url, body("fake-n5000-i20")):
        if event["type"] == "text":
            break
    services.provider.wait_for(lambda stats: stats.aborted == 2, WAIT_S)


# --- errors --------------------------------------------------------------------------------------------------------


def fails(asked: Asked) -> tuple[list[dict[str, Any]], Failed]:
    said: list[dict[str, Any]] = []
    with pytest.raises(Failed) as failed:
        said.extend(asked)
    return said, failed.value


@pytest.mark.parametrize(
    ("model", "status", "code", "retryable", "retry_after_s"),
    [
        ("openai/fake-e429-ra3", 429, "provider_rate_limited", True, 3),
        ("anthropic/fake-e529-ra2", 503, "provider_overloaded", True, 2),
        ("openai/fake-filter", 400, "content_filtered", False, 0),
        ("nowhere/fake-n1", 404, "not_found", False, 0),
    ],
)
def test_refused(
    client: Client, services: Services, model: str, status: int, code: str, retryable: bool, retry_after_s: float
) -> None:
    said, error = fails(client.ask(services.url, {"model": model, "prompt": "hi"}))
    assert said == []
    assert error.refused
    assert (error.status, error.code, error.retryable) == (status, code, retryable)
    assert error.retry_after_s == retry_after_s
    assert str(error)


@pytest.mark.parametrize("key", ["", "sk-a-wrong-one"])
def test_a_wrong_key(client: Client, keyed: str, key: str) -> None:
    said, error = fails(client.ask(keyed, body("fake-n1"), api_key=key))
    assert (said, error.refused, error.status, error.code) == ([], True, 401, "unauthorized")


@pytest.mark.parametrize(
    ("parts", "code"), [("n9-err4", "provider_overloaded"), ("n9-cut4", "stream_broken"), ("n9-rst4", "stream_broken")]
)
def test_the_provider_breaks_off(client: Client, services: Services, parts: str, code: str) -> None:
    """What had come stands; nobody asks again."""
    model = f"fake-i10-{parts}"
    said, error = fails(client.ask(services.url, body(model)))
    assert text_of(said) == text_after(model, 4)
    assert (error.refused, error.code, error.retryable) == (False, code, True)
    assert services.provider.stats().requests == 1


def test_the_server_is_restarted_in_the_middle(client: Client, services: Services, restarting: Service) -> None:
    """What takes longer than its drain is over, and says so."""
    asked = client.ask(f"{restarting.url}/v1/streams", body("fake-n5000-i20"))
    first = next(asked)
    restarting.process.send_signal(signal.SIGHUP)
    said, error = fails(asked)
    assert answer("fake-n5000-i20").text.startswith(text_of([first, *said]))
    assert (error.code, error.retryable, error.refused) == ("draining", True, False)
    assert services.provider.stats().requests == 1


def test_nobody_is_there(client: Client) -> None:
    with Canned() as gone:
        pass
    said, error = fails(client.ask(f"{gone.url}/v1/streams", body("fake-n1"), pauses_s=[0.01, 0.01]))
    assert (said, error.code, error.status) == ([], "connection_lost", 0)


# --- from a server of our own: what the service does rarely, and what others do ------------------------------------


HTML = b"<!doctype html><h1>Please sign in</h1>"
FINISH = '{"type":"finish","reason":"stop","usage":null,"timings":null}'
DRAINING = '{"type":"error","code":"draining","message":"restarting","retryable":true,"status":503,"request_id":"r"}'


def http(status: str, content: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(content)}", "Connection: close", "", ""]
    return "\r\n".join(head).encode() + content


START = 'id: 1\ndata: {"type":"start","id":"strm_x","model":"m","provider":"p","created":0}'


def events(*frames: str) -> bytes:
    """A response whose end is its connection's, as HTTP/1.0 has it."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    return (head + "Connection: close\r\n\r\n" + "".join(f"{frame}\n\n" for frame in frames)).encode()


def cut(response: bytes) -> bytes:
    return response.removesuffix(b"\n\n")


def word(number: int, text: str) -> str:
    return f'id: {number}\ndata: {{"type":"text","text":"{text}"}}'


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (http("200 OK", HTML, "Content-Type: text/html"), 200, "unexpected_answer"),
        (http("502 Bad Gateway", HTML, "Content-Type: text/html"), 502, "unexpected_answer"),
        (http("500 Oh", b'{"error": "a string"}', "Content-Type: application/json"), 500, "unexpected_answer"),
        (http("500 Oh", b"null", "Content-Type: application/json"), 500, "unexpected_answer"),
        (http("204 No Content", b""), 204, "unexpected_answer"),
    ],
    ids=["a page", "a proxy's error", "another's JSON", "null", "nothing"],
)
def test_what_is_no_answer_of_ours(client: Client, answer: bytes, status: int, code: str) -> None:
    with Canned(answer) as server:
        said, error = fails(client.ask(f"{server.url}/v1/streams", body("fake-n1")))
    assert (said, error.refused, error.status, error.code) == ([], True, status, code)
    assert len(server.asked) == 1


def test_a_stream_that_is_not_chunked_comes_as_it_is_made(client: Client) -> None:
    said = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(events(word(1, "a")))
        assert said.wait(WAIT_S)
        connection.sendall(f"id: 2\ndata: {FINISH}\n\n".encode())

    with Listening(serve) as server:
        asked = client.ask(f"{server.url}/v1/streams", body("fake-n1"))
        assert next(asked)["text"] == "a"
        said.set()
        assert [event["type"] for event in asked] == ["finish"]


def test_where_it_goes_on(client: Client) -> None:
    """Behind the last whole frame, after the pause that the server wants; while a starting worker refuses; and at
    another one where this one drains."""
    answers = [
        cut(events(START, word(2, "a"), "retry: 700", word(3, "b"))),
        http("502 Bad Gateway", HTML, "Content-Type: text/html"),
        http("503 Busy", b"{}", "Content-Type: application/json", "Retry-After: 1"),
        events(word(3, "b"), f"event: error\ndata: {DRAINING}", "data: [DONE]"),
        events(word(4, "c"), ": ping", f"id: 5\ndata: {FINISH}"),
    ]
    with Canned(*answers) as server:
        began = time.monotonic()
        said = list(client.ask(f"{server.url}/front/v1/streams", body("fake-n1")))
        took = time.monotonic() - began
    assert text_of(said) == "abc"
    assert [head.split(" HTTP")[0] for head in server.asked] == [
        "POST /front/v1/streams",
        *["GET /front/v1/streams/strm_x"] * 4,
    ]
    numbers = [re.findall("(?im)^last-event-id: (.*?)\r?$", head) for head in server.asked]
    assert numbers == [[], ["2"], ["2"], ["2"], ["3"]]
    keys = {found for head in server.asked for found in re.findall("(?im)^idempotency-key: (.*?)\r?$", head)}
    assert len(keys) == 1
    assert took >= 0.7 + 0.7 + 1 + 0.7


def test_an_error_of_the_answers_own_is_its_end(client: Client) -> None:
    with Canned(events(word(1, "a"), f"id: 2\nevent: error\ndata: {DRAINING}", "data: [DONE]")) as server:
        said, error = fails(client.ask(f"{server.url}/v1/streams", body("fake-n1")))
    assert (text_of(said), error.code, error.status, error.refused) == ("a", "draining", 503, False)
    assert len(server.asked) == 1


def test_an_answer_that_is_not_kept_any_more(client: Client) -> None:
    gone = b'{"error": {"code": "not_found", "message": "no such stream", "retryable": false, "status": 404}}'
    with Canned(events(word(1, "a")), http("404 Not Found", gone, "Content-Type: application/json")) as server:
        said, error = fails(client.ask(f"{server.url}/v1/streams", body("fake-n1")))
    assert (text_of(said), error.code, error.status) == ("a", "not_found", 404)


@pytest.mark.parametrize("data", ["{{{", "null", "[]", "7", '{"text": "b"}'])
def test_what_is_no_event(client: Client, data: str) -> None:
    with Canned(events(word(1, "a"), f"id: 2\ndata: {data}")) as server:
        said, error = fails(client.ask(f"{server.url}/v1/streams", body("fake-n1")))
    assert (text_of(said), error.code, error.refused) == ("a", "unexpected_answer", False)


# --- the parsers ---------------------------------------------------------------------------------------------------


def whatwg(bodies: list[bytes]) -> Parsed:
    """The bodies of a stream's connections, each as a whole, in the words of HTML 9.2.6."""
    messages: list[tuple[str, str, str]] = []
    last_id, retry_ms = "", 0.0
    for connection in bodies:
        stream = connection.decode("utf-8", "replace").removeprefix("\ufeff")
        lines = re.split("\r\n|\n|\r", stream)[:-1]  # what is behind the last line end is not a line yet
        event_type, data, id_buffer = "", "", last_id
        for line in lines:
            if line == "":
                last_id = id_buffer
                if data:
                    messages.append((event_type or "message", data.removesuffix("\n"), last_id))
                event_type, data = "", ""
                continue
            if line.startswith(":"):
                continue
            field, value = line, ""
            if ":" in line:
                field, _, value = line.partition(":")
                value = value[1:] if value.startswith(" ") else value
            if field == "event":
                event_type = value
            elif field == "data":
                data += value + "\n"
            elif field == "id":
                id_buffer = id_buffer if "\0" in value else value
            elif field == "retry" and value and all(char in "0123456789" for char in value):
                retry_ms = float(value)
    return Parsed(messages, last_id, retry_ms)


LINES = (
    b"data: {}", b"data:", b"data", b"data: a: b", b"data:  two", b"event: error", b"event:", b"event", b"id: 1", b"id",
    b"id: 7\x008", b"id: 2", b"retry: 30", b"retry: 1x", b"retry:", b"retry: +5", b": comment", b":", b"x-trace: 7",
    b"dataX: 1", b" data: 1", b"DATA: 1", b"{}", b" ", "data: 👩‍💻 é 語".encode(),
)  # fmt: skip
ENDS = (b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\r\n\r", b"\n\r\n")
TRAPS = (
    b"\xef\xbb\xbf",
    b"\xef\xbb",
    b"\xef",
    b"\x00",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\x0b",
    b"\x0c",
    b"\xff",
    b"\xf0\x9f",
)
bodies = st.one_of(
    st.lists(st.sampled_from(LINES + ENDS + TRAPS), max_size=24).map(b"".join),
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)).map(b"".join), max_size=12).map(b"".join),
    st.binary(max_size=60),
)


@st.composite
def cut_bodies(draw: st.DrawFn) -> list[list[bytes]]:
    """Of one to three connections, each in pieces; some of them are empty."""
    connections = []
    for whole in draw(st.lists(bodies, min_size=1, max_size=3)):
        places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
        if draw(st.booleans()):
            places = [*range(len(whole))]
        connections.append([whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)])
    return connections


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(connections=cut_bodies())
def test_however_it_is_cut_the_events_are_those_of_the_standard(client: Client, connections: list[list[bytes]]) -> None:
    assert client.parse(connections) == whatwg([b"".join(chunks) for chunks in connections])


def test_cut_at_every_place(client: Client) -> None:
    text = "\ufeffid: 1\r\nevent: 語\r\ndata: 👩‍💻\r\ndata: two\u2028three\r\n\r\n: ping\ndata: é\r\rid\ndata: end\n\n"
    whole = text.encode()
    want = whatwg([whole])
    assert [message[2] for message in want.messages] == ["1", "1", ""]
    for at in range(len(whole) + 1):
        assert client.parse([[whole[:at], whole[at:]]]) == want
        assert client.parse([[whole[:at]]]) == whatwg([whole[:at]]), "no message waits for the byte behind it"


def test_a_long_line_costs_as_much_as_it_is_long(client: Client) -> None:
    text = "é" * 250_000
    frame = f"data: {text}\n\n".encode()
    one_by_one = [frame[at : at + 1] for at in range(len(frame))]
    assert client.parse([one_by_one]).messages == [("message", text, "")]


# --- as a program --------------------------------------------------------------------------------------------------


def program(services: Services, model: str, *args: str, **env: str) -> subprocess.Popen[str]:
    url = args[0] if args else services.url
    command = [sys.executable, "-u", "examples/python_requests.py", "hi", "--url", url, "--model", model]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_program(services: Services, keyed: str) -> None:
    said, told = program(services, "openai/fake-uni").communicate(timeout=WAIT_S)
    assert (said, told) == (answer("fake-uni").text + "\n", "")
    with program(services, "openai/fake-n5-len") as process:
        assert process.communicate(timeout=WAIT_S)[0].endswith("\n[length]\n")
    keyed = program(services, "openai/fake-n5", keyed, SLUICEWAY_API_KEY=KEY)
    assert keyed.communicate(timeout=WAIT_S) == (answer("fake-n5").text + "\n", "")


def test_the_program_fails(services: Services) -> None:
    with program(services, "openai/fake-n9-err4") as process:
        said, told = process.communicate(timeout=WAIT_S)
    assert (process.returncode, said) == (1, text_after("fake-n9-err4", 4))
    assert told.startswith("\nprovider_overloaded: ")


@pytest.mark.parametrize("model", ["fake-n5000-i20", "fake-slow20000"], ids=["between words", "before the first"])
def test_ctrl_c_stops_the_answer(services: Services, model: str) -> None:
    with program(services, f"openai/{model}") as process:
        assert process.stdout is not None
        if "slow" in model:
            services.provider.wait_for(lambda stats: stats.requests == 1, WAIT_S)
        else:
            process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    services.provider.wait_for(lambda stats: stats.aborted == 1, WAIT_S)


def test_the_program_shows_what_stands(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        word(1, "One two"),
        'id: 2\ndata: {"type":"recovered","from":"a","to":"b","kept_chars":4}',
        word(3, "three"),
        f"id: 4\ndata: {FINISH}",
    ]
    with Canned(events(*said)) as server, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["python_requests.py", "hi", "--url", f"{server.url}/v1/streams"])
        assert python_requests.main() == 0
    assert capsys.readouterr().out == "One two\n\n[once more]\nOne three\n"


def test_every_file_is_in_the_list() -> None:
    examples = ROOT / "examples"
    told = (examples / "README.md").read_text("utf-8")
    assert {path.name for path in examples.iterdir() if path.is_file()} - {"README.md", "page.png"} == set(
        re.findall(r"`([\w.]+\.\w+)`(?=[](]| only)", told)
    )
    for name in re.findall(r"`tests/([\w/]+\.py)`", told):
        assert (ROOT / "tests" / name).exists(), name
