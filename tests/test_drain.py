"""How the server ends, and how it ends others: drain, reload, Ctrl-C, a killed worker, a client that stops reading.

Bodies are read raw, because the question is always whether the last chunk came: without it an answer was cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import requests
from conftest import ROOT, Service, eventually
from test_nginx import CHAT, WIRES, Nginx, Wire, address, nginx_binary, start_nginx, worker_pids

from app.testing import FakeProvider, answer

__all__ = ["nginx_binary", "start_nginx"]  # fixtures

StartService = Callable[..., Service]
StartNginx = Callable[..., Nginx]

DRAINING = b"the server is restarting; send the request again"
LAST_CHUNK = b"0\r\n\r\n"


class Stream:
    """One request on a connection of its own, and all that came back so far."""

    def __init__(self, port: int, wire: Wire = CHAT, model: str = "fake-n1000-i500") -> None:
        self.wire = wire
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(request(wire, model))
        self.data = bytearray()
        self.closed = False

    def receive(self) -> None:
        try:
            piece = self.socket.recv(65536)
        except ConnectionError:
            piece = b""
        self.data += piece
        self.closed = not piece

    @property
    def begun(self) -> bool:
        """Something of the answer itself is here, not only its head."""
        return len(self.data.partition(b"\r\n\r\n")[2]) > 10

    @property
    def ended(self) -> bool:
        return self.closed or self.whole

    @property
    def whole(self) -> bool:
        """The body has its last chunk, and nothing after it."""
        return self.data.endswith(LAST_CHUNK) and self._chunks()[1] == b"\r\n"

    @property
    def body(self) -> bytes:
        return self._chunks()[0]

    @property
    def text(self) -> str:
        return self.wire.text(self.body)

    @property
    def drained(self) -> bool:
        """It ended as the end of a drain ends it: properly, with the last event of its format."""
        return self.whole and re.search(LAST_EVENTS[self.wire.name] + rb"\Z", self.body) is not None

    def _chunks(self) -> tuple[bytes, bytes]:
        """The body, and what stands behind the size of its last chunk."""
        rest, body = bytes(self.data.partition(b"\r\n\r\n")[2]), b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if not (length := int(size or b"0", 16)):
                break
            body, rest = body + rest[:length], rest[length + 2 :]
        return body, rest


# By wire, as published: what a client reads last.
LAST_EVENTS = {
    "chat": rb'data: {"error":{"message":"%b",.*"code":"draining"}}\n\n' % DRAINING,
    "messages": rb'event: error\ndata: {"type":"error","error":{.*"message":"%b"}.*}\n\n' % DRAINING,
    "native": rb'event: error\ndata: {"type":"error","code":"draining",.*}\n\ndata: \[DONE\]\n\n',
    "plain": rb"\n\[Error: %b\]\n" % DRAINING,
}


def request(wire: Wire, model: str) -> bytes:
    body = wire.body(model)
    head = f"POST {wire.path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def opened(count: int, *ports: int, model: str = "fake-n1000-i500") -> Iterator[list[Stream]]:
    """`count` streams at each port, in all wires by turns, all begun."""
    with contextlib.ExitStack() as sockets:
        streams = [Stream(port, WIRES[number % len(WIRES)], model) for port in ports for number in range(count)]
        for stream in streams:
            sockets.enter_context(stream.socket)
        read(streams, lambda stream: stream.begun)
        yield streams


def read(streams: Iterable[Stream], done: Callable[[Stream], bool], *, within_s: float = 60) -> None:
    """Receive until each of them is `done`."""
    deadline = time.monotonic() + within_s
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if not done(stream):
                selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            if time.monotonic() > deadline:
                pytest.fail(f"{len(selector.get_map())} streams are not done after {within_s:g} s")
            for key, _ in selector.select(0.1):
                key.data.receive()
                if key.data.closed or done(key.data):
                    selector.unregister(key.fileobj)


def start(start_service: StartService, provider: FakeProvider, drain_s: float, *args: str) -> Service:
    """A service of two workers, where `args` don't say otherwise."""
    return start_service(
        {**provider.env, "SLUICEWAY_SERVER__DRAIN_S": str(drain_s)},
        *(() if "--workers" in args else ("--workers", "2")),
        *args,
    )


def assert_exits(service: Service, within_s: float = 20) -> None:
    """By itself, quietly, and with every worker that it had."""
    assert service.process.wait(within_s) == 0
    assert "Traceback" not in service.log, service.log
    assert "SIGKILL" not in service.log, service.log
    for pid in worker_pids(service):
        assert not Path(f"/proc/{pid}").exists()


def count_of(streams: list[Stream]) -> dict[str, int]:
    counts = {"drained": 0, "cut": 0, "otherwise": 0}
    for stream in streams:
        counts["drained" if stream.drained else "otherwise" if stream.whole else "cut"] += 1
    return counts


# Every open stream ends with its last event


@pytest.mark.parametrize("signals", [["HUP", "TERM"], ["INT"]], ids=lambda signals: "-then-".join(signals))
def test_each_open_stream_ends_with_its_formats_last_event(
    start_service: StartService, start_nginx: StartNginx, fake_provider: FakeProvider, signals: list[str]
) -> None:
    service = start(start_service, fake_provider, 0.3)
    nginx = start_nginx(address(service))
    for number, name in enumerate(signals, 1):
        with opened(100, service.port, nginx.port) as streams:
            service.process.send_signal(getattr(signal, f"SIG{name}"))
            read(streams, lambda stream: stream.ended)
        assert count_of(streams) == {"drained": 200, "cut": 0, "otherwise": 0}
        fake_provider.wait_for(lambda stats, ended=200 * number: stats.aborted == ended)
    assert_exits(service)


def test_streams_that_end_within_the_drain_end_as_ever(
    start_service: StartService, fake_provider: FakeProvider
) -> None:
    model = "fake-n20-i100"
    service = start(start_service, fake_provider, 20, "--workers", "1")
    with opened(40, service.port, model=model) as streams:
        service.process.send_signal(signal.SIGTERM)
        read(streams, lambda stream: stream.ended)
        assert [stream.text for stream in streams] == [answer(model).text] * 40
        assert count_of(streams)["otherwise"] == 40
    fake_provider.wait_for(lambda stats: stats.completed == 40)
    assert_exits(service, within_s=15)  # the rest of the drain is not waited for


def test_a_worker_that_has_answered_enough_ends_its_streams_too(
    start_service: StartService, fake_provider: FakeProvider
) -> None:
    service = start(start_service, fake_provider, 0.3, "--workers", "1", "--max-requests", "20")
    with opened(8, service.port) as streams:
        while "Autorestarting" not in service.log:
            assert requests.get(f"{service.url}/healthz", timeout=10).status_code == 200
        read(streams, lambda stream: stream.ended)
    assert count_of(streams)["drained"] == 8
    assert requests.get(f"{service.url}/healthz", timeout=120).status_code == 200  # by the next one
    assert "Traceback" not in service.log
    service.stop()


def test_the_master_exits_inside_its_graceful_timeout_however_long_a_drain_is_asked_for(
    start_service: StartService, fake_provider: FakeProvider
) -> None:
    tight = ("--workers", "1", "--graceful-timeout", "4", "--worker-connections", "1000")
    service = start(start_service, fake_provider, 30, *tight)
    assert "[server] drain_s = 30, but workers are killed 4 s after TERM" in service.log
    assert "[server] max_streams = 1000, but a worker accepts 1000 connections" in service.log
    with opened(8, service.port) as streams:
        service.process.send_signal(signal.SIGTERM)
        read(streams, lambda stream: stream.ended)
    assert count_of(streams)["drained"] == 8
    assert_exits(service)


def test_ctrl_c_in_a_long_drain_ends_it(start_service: StartService, fake_provider: FakeProvider) -> None:
    service = start(start_service, fake_provider, 20, "--workers", "1")
    with opened(40, service.port) as streams:
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: "Handling signal: term" in service.log, what="the drain")
        service.process.send_signal(signal.SIGINT)
        read(streams, lambda stream: stream.ended)
    assert count_of(streams)["drained"] == 40
    assert_exits(service)


# Requests in a drain


def test_a_stream_without_a_first_event_is_refused_when_the_drain_is_over(
    start_service: StartService, fake_provider: FakeProvider
) -> None:
    service = start(start_service, fake_provider, 0.3, "--workers", "1")
    streams = [Stream(service.port, wire, "fake-slow9000") for wire in WIRES]
    fake_provider.wait_for(lambda stats: stats.open_streams == len(WIRES))
    service.process.send_signal(signal.SIGTERM)
    read(streams, lambda stream: stream.closed)
    for stream in streams:
        head, _, body = bytes(stream.data).partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        assert status == "HTTP/1.1 503 SERVICE UNAVAILABLE"
        assert {"Retry-After: 1", "Connection: close"} <= set(headers)
        assert json.loads(body)["error"]["message"] == DRAINING.decode()
        stream.socket.close()
    fake_provider.wait_for(lambda stats: stats.aborted == len(WIRES))
    assert_exits(service)


READYZ = b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n"
HEALTHZ = READYZ.replace(b"readyz", b"healthz")


def kept(port: int, begun: bytes = b"") -> socket.socket:
    """A connection that a worker has answered on, and has read the beginning of a next request from."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(HEALTHZ + begun)
    received = b""
    while b"}" not in received:
        received += connection.recv(4096)
    return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    while piece := connection.recv(4096):
        received += piece
    return received


@pytest.fixture(scope="module")
def single(start_service: StartService, fake_provider_server: FakeProvider) -> Service:
    """A service of one worker at a time, which a test may end."""
    return start(start_service, fake_provider_server, 20, "--workers", "1")


def test_the_draining_worker_is_not_ready_and_answers_what_has_begun(
    single: Service, fake_provider: FakeProvider
) -> None:
    with kept(single.port, READYZ[:20]) as connection, opened(1, single.port):
        worker = worker_pids(single)[-1]
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.2)  # nothing to wait for: the worker is to do nothing to it
        connection.sendall(READYZ[20:])
        told = all_of(connection)
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b"Connection: close\r\n" in told
    assert told.endswith(b'{"status":"draining"}')
    eventually(lambda: not Path(f"/proc/{worker}").exists(), what="its exit")


def test_a_request_that_reached_an_idle_connection_before_its_end_is_answered(
    single: Service, fake_provider: FakeProvider
) -> None:
    with kept(single.port) as connection:
        worker = worker_pids(single)[-1]
        # Stopped, it finds both when it goes on: the request, and that it is to end.
        os.kill(worker, signal.SIGSTOP)
        connection.sendall(request(CHAT, "fake-n20-i50"))
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGCONT)
        told = all_of(connection)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"[DONE]" in told
    assert told.endswith(LAST_CHUNK)


def test_idle_connections_do_not_hold_up_the_exit(start_service: StartService, fake_provider: FakeProvider) -> None:
    service = start(start_service, fake_provider, 20, "--workers", "1")
    with contextlib.ExitStack() as sockets:
        idle = [sockets.enter_context(kept(service.port)) for _ in range(20)]
        fresh = [sockets.enter_context(socket.create_connection(("127.0.0.1", service.port), 10)) for _ in range(5)]
        begun = sockets.enter_context(kept(service.port, READYZ[:20]))
        service.process.send_signal(signal.SIGTERM)
        assert_exits(service, within_s=15)
        for connection in [*idle, *fresh, begun]:
            assert all_of(connection) == b""


def test_no_request_fails_in_reloads(
    start_service: StartService, start_nginx: StartNginx, fake_provider: FakeProvider
) -> None:
    service = start(start_service, fake_provider, 20)
    nginx = start_nginx(address(service))
    outcomes: list[str] = []
    over = threading.Event()

    def ask() -> None:
        # A connection each, as nginx has towards the service.
        while not over.is_set():
            stream = Stream(nginx.port, CHAT, "fake-n3-i1")
            with stream.socket:
                while not stream.ended:
                    stream.receive()
            good = stream.data.startswith(b"HTTP/1.1 200 ") and stream.whole and stream.body.endswith(b"[DONE]\n\n")
            outcomes.append("good" if good else bytes(stream.data).decode())
            over.wait(0.02)  # the machine has other things to do: workers to start

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    try:
        for exits in (2, 4, 6):
            answered = len(outcomes)
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda count=exits: service.log.count("Worker exiting") == count, within_s=60, what="their exit")
            eventually(lambda count=answered + 100: len(outcomes) >= count, within_s=60, what="the next ones' answers")
        eventually(lambda: len(outcomes) >= 1000, within_s=120, what="the thousandth answer")
    finally:
        over.set()
        for thread in asking:
            thread.join()
    assert [outcome for outcome in outcomes if outcome != "good"] == []
    assert "Traceback" not in service.log
    service.stop()


# Cut off


def test_a_killed_worker_cuts_its_own_streams_and_nobody_elses(
    start_service: StartService, fake_provider: FakeProvider, tmp_path: Path
) -> None:
    service = start(start_service, fake_provider, 20)
    eventually(lambda: len(worker_pids(service)) == 2, what="both workers")
    workers = worker_pids(service)
    model = "fake-n30-i100"
    body = CHAT.body(model)

    def sockets(pid: int) -> int:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        return sum(link.startswith("socket:") for link in links)

    before = {pid: sockets(pid) for pid in workers}
    asked: list[subprocess.Popen[bytes]] = []
    while len(asked) < 8 or any(sockets(pid) < before[pid] + 2 for pid in workers):
        asked.append(
            subprocess.Popen(
                ["curl", "-sN", f"{service.url}{CHAT.path}", "-d", body, "-H", "Content-Type: application/json"],
                stdout=subprocess.PIPE,
            )
        )
        count = len(asked)
        fake_provider.wait_for(lambda stats, count=count: stats.requests == count)
        assert count < 100

    os.kill(workers[0], signal.SIGKILL)
    told = [curl.communicate(timeout=60)[0] for curl in asked]
    cut = [CHAT.text(out) for curl, out in zip(asked, told, strict=True) if curl.returncode]
    others = [CHAT.text(out) for curl, out in zip(asked, told, strict=True) if not curl.returncode]
    assert cut
    assert others
    assert all(answer(model).text.startswith(text) and text != answer(model).text for text in cut)
    assert all(text == answer(model).text for text in others)
    service.stop()


def test_a_client_that_stops_reading_is_cut_over_tcp_and_over_a_unix_socket(
    start_service: StartService, fake_provider: FakeProvider, tmp_path: Path
) -> None:
    path = tmp_path / "sock"
    service = start_service(
        {**fake_provider.env, "SLUICEWAY_SERVER__WRITE_TIMEOUT_S": "2"}, "--workers", "1", "--bind", f"unix:{path}"
    )
    with socket.socket() as over_tcp, socket.socket(socket.AF_UNIX) as over_unix:
        over_tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        over_tcp.connect(("127.0.0.1", service.port))
        over_unix.connect(str(path))
        for client in (over_tcp, over_unix):
            client.sendall(request(CHAT, "fake-big200-n20-i500"))  # ten seconds of it, 4 MB: more than the kernels keep
        fake_provider.wait_for(lambda stats: stats.aborted == 2)
        for client in (over_tcp, over_unix):
            client.settimeout(20)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                received = all_of(client)
            assert not received.endswith(LAST_CHUNK)
    assert requests.get(f"{service.url}/healthz", timeout=20).status_code == 200
    assert "Traceback" not in service.log, service.log
    service.stop()


# The folder of the metrics

APP = """
import os
import prometheus_client

prometheus_client.Gauge("alive", "Workers", multiprocess_mode="livesum").set(1)


def app(environ, start_response):
    start_response("200 OK", [])
    return [os.environ["PROMETHEUS_MULTIPROC_DIR"].encode()]
"""


def serving_metrics(start_service: StartService, folder: Path, **env: str) -> Service:
    """Some WSGI app that counts: also what is no Sluiceway is served, and ended."""
    (folder / "counting.py").write_text(APP)
    (folder / "temporary").mkdir()
    return start_service(
        {"TMPDIR": f"{folder}/temporary", **env},
        *("--pythonpath", f"{folder},{ROOT}", "--workers", "1", "--pid", f"{folder}/pid"),
        app="counting:app",
    )


def test_the_metrics_have_a_folder_as_long_as_the_server_lives(start_service: StartService, tmp_path: Path) -> None:
    service = serving_metrics(start_service, tmp_path)

    def folders() -> list[Path]:
        return sorted((tmp_path / "temporary").glob("sluiceway-metrics-*"))

    def files() -> list[str]:
        return sorted(file.name for file in folders()[0].iterdir())

    (folder,) = folders()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert requests.get(service.url, timeout=20).text == str(folder)
    assert files() == [f"gauge_livesum_{worker_pids(service)[0]}.db"]

    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(worker_pids(service)) == 2, what="the next worker")
    eventually(lambda: files() == [f"gauge_livesum_{worker_pids(service)[1]}.db"], what="the old worker's file gone")
    assert folders() == [folder]

    service.process.send_signal(signal.SIGUSR2)  # a second master beside the first
    eventually(lambda: len(worker_pids(service)) == 3, what="its worker")
    assert len(folders()) == 2
    os.kill(int((tmp_path / "pid.2").read_text()), signal.SIGTERM)
    eventually(lambda: folders() == [folder], what="its folder gone")

    service.process.send_signal(signal.SIGTERM)
    assert_exits(service)
    assert folders() == []


def test_a_folder_for_metrics_that_the_user_named_begins_empty_and_stays(
    start_service: StartService, tmp_path: Path
) -> None:
    named = tmp_path / "named"
    named.mkdir()
    (named / "counter_1.db").write_bytes(b"of yesterday")
    (named / "other").write_bytes(b"not ours")

    service = serving_metrics(start_service, tmp_path, PROMETHEUS_MULTIPROC_DIR=str(named))

    left = [f"gauge_livesum_{worker_pids(service)[0]}.db", "other"]
    assert sorted(file.name for file in named.iterdir()) == left
    assert not list((tmp_path / "temporary").iterdir())
    service.process.send_signal(signal.SIGTERM)
    assert_exits(service)
    assert [file.name for file in named.iterdir()] == ["other"]
