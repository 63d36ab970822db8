"""Streams that are resources: dropped and taken up again, stopped from elsewhere, followed by many, and what becomes of
them where their worker, or their store, goes away.

Two servers stand for two machines (`redis`), or two masters of one (`sqlite`); `workers` is one server with two.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from conftest import RedisServer, Service, eventually
from test_nginx import worker_pids

from app.testing import FakeProvider, answer

JSON = {"Content-Type": "application/json"}


class Pair(NamedTuple):
    here: Service
    there: Service

    @property
    def urls(self) -> list[str]:
        return [self.here.url, self.there.url]


GRACE_S = 4.0


def settings_for(provider: FakeProvider, store: str, **more: str) -> dict[str, str]:
    settings = {"STORE__URL": store, "STORE__RESUME_GRACE_S": str(GRACE_S), **more}
    return {**provider.env, **{f"SLUICEWAY_{name}": value for name, value in settings.items()}}


@pytest.fixture(scope="module", params=["workers", "sqlite", "redis"])
def pair(
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.start()
        url = server.url
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'streams.db'}"
    env = settings_for(fake_provider_server, url)
    if request.param == "workers":
        one = start_service(env, "--workers", "2")
        services = Pair(one, one)
    else:
        services = Pair(start_service(env), start_service(env))
    yield services
    for service in {*services}:
        service.stop()


def asking(model: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "hi", "model": model, "resumable": True, **more}


class Cut(NamedTuple):
    """What came of a body until it was left, and whether it ended by itself."""

    status: int
    location: str
    data: bytes
    whole: bool


def fetch(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None, upto: int | None = None) -> Cut:
    """GET, or POST where there is a body; left after so many bytes (None: read to its end)."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request("GET" if sent is None else "POST", path, sent, {**JSON, **(headers or {})})
        response = connection.getresponse()
        data = response.read(upto)
        return Cut(response.status, response.getheader("Location") or "", data, upto is None or len(data) < upto)
    finally:
        connection.close()


class SSE:
    """A client that keeps whole frames only, and asks for what is behind the last of them."""

    format = "sse"
    frame_end = b"\n\n"

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.done = False

    def take(self, data: bytes) -> None:
        *frames, _cut_off = data.split(self.frame_end)
        for frame in frames:
            fields = dict(line.split(b": ", 1) for line in frame.split(b"\n") if line and not line.startswith(b":"))
            if fields.get(b"data") == b"[DONE]":
                self.done = True
            elif fields:
                if b"id" in fields:
                    self.ids.append(int(fields[b"id"]))
                self.events.append(json.loads(fields[b"data"]))

    def again(self, url: str, location: str, upto: int | None) -> Cut:
        return fetch(url, location, headers={"Last-Event-ID": str(self.last)}, upto=upto)

    @property
    def last(self) -> int:
        return self.ids[-1] if self.ids else 0

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "text")


class NDJSON(SSE):
    format = "ndjson"
    frame_end = b"\n"

    def take(self, data: bytes) -> None:
        *lines, _cut_off = data.split(self.frame_end)
        for line in filter(None, lines):
            event = json.loads(line)
            self.ids.append(event.pop("event_id"))
            self.events.append(event)
        self.done = bool(self.events) and self.events[-1]["type"] in ("finish", "error")

    def again(self, url: str, location: str, upto: int | None) -> Cut:
        return fetch(url, f"{location}?after={self.last}", upto=upto)


CLIENTS = {"sse": SSE, "ndjson": NDJSON}
DROPPED = ["n40-i10", "n30-i10-uni-split", "n20-i10-tool2-think3", "n30-i5-md"]  # behind a word of the stream's own


@pytest.mark.parametrize("format", CLIENTS)
def test_dropped_up_to_five_times_and_nothing_twice_or_missing(
    pair: Pair, fake_provider: FakeProvider, format: str
) -> None:
    """200 streams, each dropped at a random byte and resumed on either worker."""

    def run(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        model = f"stream{seed}-{chance.choice(DROPPED)}"
        client = CLIENTS[format]()
        cut = fetch(pair.here.url, "/v1/streams", asking(model, format=format), upto=chance.randrange(1, 3000))
        assert cut.status == 200
        location = cut.location
        client.take(cut.data)
        for drop in range(5):
            if cut.whole:
                break
            upto = None if drop == 4 else chance.randrange(1, 2000)
            cut = client.again(chance.choice(pair.urls), location, upto)
            client.take(cut.data)
        assert client.done or cut.status == 204  # cut between the last event and the mark behind it
        assert client.ids == [*range(1, len(client.ids) + 1)]
        assert client.events[-1]["type"] == "finish"
        told = answer(model)
        assert client.text == told.text
        assert client.events[0]["id"] == location.rpartition("/")[2]

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(run, range(200)))
    assert len(fake_provider.requests) == 200, "no answer was paid for twice"


def test_chats_dropped_and_replayed(pair: Pair, fake_provider: FakeProvider) -> None:
    """The AI SDK's way: all of it from `start` on, by the chat's id, under the same message id."""

    def parts(data: bytes) -> list[dict[str, Any]]:
        *frames, _cut_off = data.split(b"\n\n")
        return [json.loads(frame[6:]) for frame in frames if frame.startswith(b"data: {")]

    def run(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        model = f"chat{seed}-{chance.choice(DROPPED)}"
        chat = f"chat {seed}/{chance.random()}"
        body = {"id": chat, "model": model, "messages": [{"id": "u1", "role": "user", "parts": [TEXT]}]}
        cut = fetch(pair.here.url, "/api/chat", body, upto=chance.randrange(1, 3000))
        names = {part["messageId"] for part in parts(cut.data) if part["type"] == "start"}
        path = f"/api/chat/{requests.utils.quote(chat, safe='')}/stream"
        for drop in range(5):
            if cut.whole:
                break
            cut = fetch(chance.choice(pair.urls), path, upto=None if drop == 4 else chance.randrange(1, 4000))
            names |= {part["messageId"] for part in parts(cut.data) if part["type"] == "start"}
        said = parts(cut.data)
        assert said[0]["type"] == "start"
        assert said[-1]["type"] == "finish"
        assert len(names) == 1
        assert "".join(part["delta"] for part in said if part["type"] == "text-delta") == answer(model).text

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(run, range(200)))
    assert len(fake_provider.requests) == 200


TEXT = {"type": "text", "text": "hi"}


def test_a_resumed_stream_is_the_same_bytes(pair: Pair) -> None:
    whole = fetch(pair.here.url, "/v1/streams", asking("fake-n30-uni-think2"))
    for format, end in (("sse", b"\n\n"), ("ndjson", b"\n")):
        at_once = fetch(pair.there.url, f"{whole.location}?format={format}").data
        frames = at_once.split(end)
        for after in (1, 2, 17, len(frames) - 4):
            rest = fetch(pair.there.url, f"{whole.location}?format={format}&after={after}").data
            assert rest == end.join(frames[after:])
    assert fetch(pair.there.url, whole.location).data == whole.data


def test_nothing_more_is_a_204(pair: Pair) -> None:
    whole = fetch(pair.here.url, "/v1/streams", asking("fake-n3"))
    last = whole.data.count(b"\nid: ") + 1
    for url in pair.urls:
        assert fetch(url, whole.location, headers={"Last-Event-ID": str(last)}).status == 204
        assert fetch(url, whole.location, headers={"Last-Event-ID": str(last - 1)}).status == 200


@pytest.mark.parametrize("after", ["-1", "1.5", "x", "9" * 30])
def test_a_number_that_is_none(pair: Pair, after: str) -> None:
    whole = fetch(pair.here.url, "/v1/streams", asking("fake-n1"))
    refused = requests.get(pair.here.url + whole.location, params={"after": after}, timeout=20)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "after"


def begin(url: str, model: str, **more: Any) -> str:
    """A stream, left once it has begun: its path."""
    return fetch(url, "/v1/streams", asking(model, **more), upto=200).location


def test_stopped_from_elsewhere(pair: Pair, fake_provider: FakeProvider) -> None:
    """Upstream is closed at once, and every reader gets `usage` and `finish`."""
    took: list[float] = []
    for turn in range(60):
        location = begin(pair.here.url, f"stop{turn}-n5000-i20")
        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(fetch, url, location) for url in pair.urls]
            asked = time.monotonic()
            stopped = requests.delete(pair.there.url + location, timeout=20)
            assert stopped.status_code == 202
            departed = eventually(lambda: [d for d in fake_provider.departures if _model_of(d) == f"stop{turn}"])  # noqa: B023
            took.append(departed[0].at - asked)
            for reader in readers:
                client = SSE()
                client.take(reader.result().data)
                assert [event["type"] for event in client.events[-2:]] == ["usage", "finish"]
                assert client.events[-1]["reason"] == "cancelled"
                assert client.done
        # Its readers may be there a moment before its worker is.
        ended = eventually(lambda: requests.delete(pair.there.url + location, timeout=20).status_code == 200)  # noqa: B023
        assert ended
    took.sort()
    print(f"\nDELETE to upstream closed: p50 {statistics.median(took) * 1000:.1f} ms, worst {took[-1] * 1000:.1f} ms")
    # Generous: the target is measured, 200 ms at p99.
    assert statistics.median(took) < 2.0, took
    assert took[-1] < 10.0, took


@pytest.mark.parametrize("model", ["early-f30000", "early-slow30000"])
def test_stopped_by_its_key_before_it_has_begun(pair: Pair, fake_provider: FakeProvider, model: str) -> None:
    """Its id comes with the headers, which wait for the first token."""
    key = {"Idempotency-Key": f"early-{uuid.uuid4()}"}
    assert requests.delete(f"{pair.there.url}/v1/streams", headers=key, timeout=20).status_code == 404
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(requests.post, f"{pair.here.url}/v1/streams", json=asking(model), headers=key, timeout=20)
        fake_provider.wait_for(lambda stats: stats.requests == 1)
        began = time.monotonic()
        stopped = requests.delete(f"{pair.there.url}/v1/streams", headers=key, timeout=20)
        assert (stopped.status_code, stopped.json()["status"]) == (202, "stopping")
        departed = eventually(lambda: [d for d in fake_provider.departures if _model_of(d) == "early"])
        assert departed[0].at - began < 10.0
        response = asked.result()
    assert response.headers["Location"].endswith(stopped.json()["id"])
    client = SSE()
    client.take(response.content)
    assert [event["type"] for event in client.events] == ["start", "usage", "finish"]
    assert client.events[-1]["reason"] == "cancelled"
    again = requests.delete(f"{pair.there.url}/v1/streams", headers=key, timeout=20)
    assert (again.status_code, again.json()["status"]) == (200, "ended")


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": ""}, {"Idempotency-Key": "a b"}])
def test_a_stop_that_names_nothing(pair: Pair, headers: dict[str, str]) -> None:
    refused = requests.delete(f"{pair.here.url}/v1/streams", headers=headers, timeout=20)
    assert refused.status_code == (400 if headers else 405)
    assert "Idempotency-Key" in refused.json()["error"]["message"]


def _model_of(departure: Any) -> str:
    return str(departure.request.body["model"]).partition("-")[0]


def test_left_alone_it_ends_after_the_grace(pair: Pair, fake_provider: FakeProvider) -> None:
    location = begin(pair.here.url, "fake-n5000-i20")
    fake_provider.wait_for(lambda stats: stats.open_streams == 0, timeout_s=GRACE_S + 30)
    said = fetch(pair.there.url, location)
    assert b'"reason":"cancelled"' in said.data


def test_followed_from_elsewhere_it_goes_on(pair: Pair, fake_provider: FakeProvider) -> None:
    model = f"fake-n{int((GRACE_S + 2) * 20)}-i50"  # longer than the grace
    location = begin(pair.here.url, model)
    client = SSE()
    client.take(fetch(pair.there.url, location).data)
    assert client.text == answer(model).text


def test_a_hundred_readers_and_a_frozen_one(pair: Pair, fake_provider: FakeProvider) -> None:
    model = "fake-n600-big2-i4"  # 1.2 MB, which no buffer on the way takes
    location = begin(pair.here.url, model)
    port = urlsplit(pair.here.url).port or 0
    frozen = socket.socket()
    frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    frozen.settimeout(30)
    frozen.connect(("127.0.0.1", port))
    frozen.sendall(f"GET {location} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    with ThreadPoolExecutor(100) as pool:
        all_read = pool.map(lambda n: fetch(pair.urls[n % 2], location).data, range(100))
        read = [said.replace(b": ping\n", b"") for said in all_read]  # a busy machine takes longer than a heartbeat
    assert len(set(read)) == 1
    client = SSE()
    client.take(read[0])
    assert client.text == answer(model).text
    assert fake_provider.stats().completed == 1, "nobody waited for the one who did not read"
    with frozen, frozen.makefile("rb") as thawed:
        while thawed.readline() != b"\r\n":
            pass
        body = b""
        while size := int(thawed.readline(), 16):
            body += thawed.read(size)
            thawed.readline()
    assert body.replace(b": ping\n", b"") == read[0]


def test_a_stream_is_bounded(pair: Pair, fake_provider: FakeProvider) -> None:
    """One that is longer than a store keeps of any ends with an error, for who comes later too."""
    for _ in range(5):
        cut = fetch(pair.here.url, "/v1/streams", asking("fake-n500-big100"))
        client = SSE()
        client.take(cut.data)
        assert client.done
        assert client.ids == [*range(1, len(client.ids) + 1)]
        if client.events[-1]["code"] != "overloaded":  # as a store says that has no time, on a busy machine
            break
    assert client.events[-1]["code"] == "stream_broken"
    assert "longer than what is kept of one; ask without resumable" in client.events[-1]["message"]
    rest = f"{cut.location}?after={client.last - 1}"
    got = eventually(lambda: (one := fetch(pair.there.url, rest)).status != 503 and one, what="a store that has time")
    assert got.status == 200
    later = SSE()
    later.take(got.data)
    assert later.events == client.events[-1:]
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)


def test_the_same_key_is_the_same_stream(pair: Pair, fake_provider: FakeProvider) -> None:
    """At the same time, later, and after its end."""
    headers = {"Idempotency-Key": f"key-{uuid.uuid4()}"}
    body = asking("fake-n20-i20")
    with ThreadPoolExecutor(10) as pool:
        read = list(pool.map(lambda n: fetch(pair.urls[n % 2], "/v1/streams", body, headers), range(10)))
    read.append(fetch(pair.there.url, "/v1/streams", body, headers))
    assert len({cut.data for cut in read}) == 1
    assert len({cut.location for cut in read}) == 1
    assert len(fake_provider.requests) == 1
    rest = fetch(pair.there.url, "/v1/streams", body, {**headers, "Last-Event-ID": "5"})
    assert rest.data == b"\n\n".join(read[0].data.split(b"\n\n")[5:])
    other = requests.post(f"{pair.here.url}/v1/streams", json=asking("fake-n2"), headers=headers, timeout=20)
    assert other.status_code == 400
    assert "Idempotency-Key" in other.json()["error"]["message"]


def test_what_never_began_is_asked_for_anew(pair: Pair, fake_provider: FakeProvider) -> None:
    headers = {"Idempotency-Key": f"key-{uuid.uuid4()}"}
    body = asking("fake-n3-e503-times1")
    refused = requests.post(f"{pair.here.url}/v1/streams", json=body, headers=headers, timeout=20)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "provider_overloaded"
    assert fetch(pair.there.url, "/v1/streams", body, headers).data.endswith(b"data: [DONE]\n\n")


@pytest.fixture
def fleet(
    request: pytest.FixtureRequest,
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path: Path,
) -> Iterator[Callable[..., Pair]]:
    """Two servers of one's own, on a store of the kind that is named."""
    started: list[Service] = []

    def start(kind: str, **more: str) -> Pair:
        url = request.getfixturevalue("redis_url") if kind == "redis" else f"sqlite:///{tmp_path / 'streams.db'}"
        env = settings_for(fake_provider_server, url, **more)
        started.extend(start_service(env) for _ in range(2))
        return Pair(*started)

    yield start
    for service in started:
        service.stop()


BOTH = pytest.mark.parametrize("kind", ["sqlite", "redis"])


@BOTH
def test_the_worker_is_killed(fleet: Callable[..., Pair], kind: str) -> None:
    """Fifty who read elsewhere get a terminal error within five seconds, and so does who asks later."""
    pair = fleet(kind)
    location = begin(pair.here.url, "fake-n5000-i20", format="sse")
    ended: list[float] = []
    began = threading.Barrier(51, timeout=30)

    def read(_: int) -> bytes:
        where = urlsplit(pair.there.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        connection.request("GET", location)
        response = connection.getresponse()
        data = response.read(500)
        began.wait()
        data += response.read()
        ended.append(time.monotonic())
        connection.close()
        return data

    with ThreadPoolExecutor(50) as pool:
        readers = [pool.submit(read, n) for n in range(50)]
        began.wait()
        killed = time.monotonic()
        for pid in worker_pids(pair.here):
            os.kill(pid, signal.SIGKILL)
        read_by_all = {reader.result() for reader in readers}
    print(f"\nthe last of 50 heard of it after {max(ended) - killed:.1f} s")
    assert max(ended) - killed < 15.0  # generous: the target is measured, 5 s
    assert len(read_by_all) == 1
    client = SSE()
    client.take(read_by_all.pop())
    assert client.done
    assert client.ids == [*range(1, len(client.ids) + 1)]
    assert client.events[-1]["type"] == "error"
    assert client.events[-1]["code"] == "stream_broken"
    eventually(lambda: requests.get(f"{pair.here.url}/healthz", timeout=120).ok, what="the next worker")
    for url in pair.urls:
        later = SSE()
        later.take(fetch(url, location).data)
        assert later.events == client.events


@BOTH
def test_a_later_answer_of_the_chat_ends_one_that_nobody_reads(
    fleet: Callable[..., Pair], fake_provider: FakeProvider, kind: str
) -> None:
    pair = fleet(kind, STORE__RESUME_GRACE_S="600")
    body = {"id": "c1", "model": "passed-n5000-i20", "messages": [{"role": "user", "parts": [TEXT]}]}
    fetch(pair.here.url, "/api/chat", body, upto=300)
    fetch(pair.there.url, "/api/chat", {**body, "model": "later-n3"})
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_who_leaves_before_the_answer_has_begun_can_come_back_by_a_key_or_not_at_all(
    fleet: Callable[..., Pair], fake_provider: FakeProvider
) -> None:
    pair = fleet("sqlite", STORE__RESUME_GRACE_S="600")

    def left_early(model: str, headers: dict[str, str]) -> None:
        before = len(fake_provider.requests)
        where = urlsplit(pair.here.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        connection.request(
            "POST", "/v1/streams", json.dumps(asking(model)), {"Content-Type": "application/json", **headers}
        )
        fake_provider.wait_for(lambda stats: stats.requests > before)
        connection.close()

    left_early("alone-n5000-i20-f20000", {})
    fake_provider.wait_for(lambda stats: stats.aborted == 1)
    headers = {"Idempotency-Key": "mine"}
    left_early("keyed-n10-f3000", headers)
    client = SSE()
    client.take(fetch(pair.there.url, "/v1/streams", asking("keyed-n10-f3000"), headers).data)
    assert client.text == answer("keyed-n10-f3000").text
    assert len(fake_provider.requests) == 2


@BOTH
def test_a_stop_finds_the_worker_killed(fleet: Callable[..., Pair], kind: str) -> None:
    pair = fleet(kind)
    location = begin(pair.here.url, "fake-n5000-i20")
    for pid in worker_pids(pair.here):
        os.kill(pid, signal.SIGKILL)
    assert requests.delete(pair.there.url + location, timeout=20).status_code == 202
    client = SSE()
    client.take(fetch(pair.there.url, location).data)
    assert client.events[-1]["type"] == "error"


@BOTH
def test_a_drain_lets_them_finish_or_says_so(
    fleet: Callable[..., Pair], fake_provider: FakeProvider, kind: str
) -> None:
    """A worker that is to end goes on with what nobody reads there; what takes longer ends by `draining`."""
    pair = fleet(kind, SERVER__DRAIN_S="2", STORE__RESUME_GRACE_S="30")
    short, long = begin(pair.here.url, "fake-n50-i20"), begin(pair.here.url, "fake-n5000-i20")
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(fetch, pair.there.url, long)
        pair.here.process.send_signal(signal.SIGTERM)
        client = SSE()
        client.take(reading.result().data)
    assert client.events[-1]["code"] == "draining"
    assert client.done
    assert pair.here.process.wait(20) == 0
    client = SSE()
    client.take(fetch(pair.there.url, short).data)
    assert client.text == answer("fake-n50-i20").text
    assert client.events[-1]["type"] == "finish"


def test_the_store_goes_away_and_comes_back(
    fleet: Callable[..., Pair], redis_server: RedisServer, fake_provider: FakeProvider
) -> None:
    """Plain streams do not notice; resumable ones fail clearly, and work again afterwards."""
    pair = fleet("redis")
    url = pair.here.url
    plain_model, model = "fake-n60-i50", "fake-n500-i20"
    with ThreadPoolExecutor(20) as pool:
        plain = [pool.submit(fetch, url, "/v1/streams", {"prompt": "hi", "model": plain_model}) for _ in range(10)]
        resumable = [pool.submit(fetch, url, "/v1/streams", asking(model)) for _ in range(10)]
        fake_provider.wait_for(lambda stats: stats.open_streams == 20)
        location = begin(url, "fake-n3")
        redis_server.stop()
        for stream in resumable:
            client = SSE()
            client.take(stream.result().data)
            assert client.events[-1]["type"] == "error"
            assert client.events[-1]["code"] == "overloaded"
            assert "redis" in client.events[-1]["message"]
        refused = requests.post(f"{url}/v1/streams", json=asking("fake-n3"), timeout=20)
        assert refused.status_code == 503
        assert "redis" in refused.json()["error"]["message"]
        assert refused.headers["Retry-After"]
        assert requests.get(url + location, timeout=20).status_code == 503
        assert requests.get(f"{url}/api/chat/x/stream", timeout=20).status_code == 503
        ready = requests.get(f"{url}/readyz", timeout=20)
        assert ready.status_code == 200
        assert "redis" in ready.json()["store"]
        eventually(lambda: "store" in pair.here.log and "redis" in pair.here.log, what="the line in the log")
        for stream in plain:
            client = SSE()
            client.take(stream.result().data)
            assert client.text == answer(plain_model).text
        redis_server.start()
        eventually(lambda: "store" not in requests.get(f"{url}/readyz", timeout=20).json(), what="ready again")
        assert requests.get(url + location, timeout=20).status_code == 404, "this Redis keeps nothing"
        again = begin(url, "fake-n20-i20")
        client = SSE()
        client.take(fetch(pair.there.url, again).data)
        assert client.text == answer("fake-n20-i20").text
    fake_provider.wait_for(lambda stats: stats.open_streams == 0)


def test_heartbeats_while_nothing_is_said(start_service: Callable[..., Service], fake_provider: FakeProvider) -> None:
    """To whoever follows, here or there, in the format's own form; and none behind the end."""
    env = settings_for(fake_provider, "", SERVER__HEARTBEAT_S="0.3", SERVER__HOLD_S="0.1")
    del env["SLUICEWAY_STORE__URL"]
    service = start_service(env, "--workers", "2")
    with ThreadPoolExecutor(20) as pool:
        body = asking("fake-n4-i700-f1500")
        first = pool.submit(fetch, service.url, "/v1/streams", body, {"Idempotency-Key": "one"})
        eventually(lambda: fake_provider.requests)
        followers = [pool.submit(fetch, service.url, "/v1/streams", body, {"Idempotency-Key": "one"}) for _ in range(8)]
        for reading in (first, *followers):
            data = reading.result().data
            assert data.count(b": ping\n") >= 3, "in 3.6 s of silence, every 0.3 s"
            assert data.endswith(b"data: [DONE]\n\n")
            client = SSE()
            client.take(data)
            assert client.text == answer("fake-n4-i700-f1500").text
    service.stop()


@pytest.mark.parametrize("path", ["/proc/nowhere/streams.db", "corrupt"])
def test_a_store_that_is_none(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path: Path, path: str
) -> None:
    if path == "corrupt":
        file = tmp_path / "streams.db"
        file.write_bytes(b"this is no database" * 1000)
        path = str(file)
    service = start_service(settings_for(fake_provider_server, f"sqlite:///{path}"))
    assert fetch(service.url, "/v1/streams", {"prompt": "hi", "model": "fake-n3"}).status == 200
    refused = requests.post(f"{service.url}/v1/streams", json=asking("fake-n3"), timeout=20)
    assert refused.status_code == 503
    assert "sqlite" in refused.json()["error"]["message"]
    assert path not in refused.text, "an address of ours is for the log"
    assert "sqlite" in requests.get(f"{service.url}/readyz", timeout=20).json()["store"]
    assert path in service.log
    service.stop()
