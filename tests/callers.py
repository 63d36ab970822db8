"""A client on a bare socket, which asks, reads as far as it wants and leaves as it likes; and a service under watch."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import requests
from conftest import ROOT, Service, eventually
from test_routes import DOORS, Door

LINGER_0 = struct.pack("ii", 1, 0)  # a close with this set is a reset

# Every route, and the two that also answer in one piece.
STREAMED = DOORS
WHOLE = [
    replace(door, name=f"{door.name}-whole", more={"stream": False})
    for door in DOORS
    if door.name in ("chat", "messages")
]
ASKED = [*STREAMED, *WHOLE]

Address = tuple[str, int] | str  # a host and its port, or the path of a unix socket


class Caller:
    """One connection, and one request on it. `received` is all that was read of the answer."""

    def __init__(self, address: Address, request: bytes) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout=30)
        self.sock.settimeout(30)
        self.received = b""
        self.sock.sendall(request)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read_until(self, mark: bytes) -> None:
        while mark not in self.received:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                raise TimeoutError(f"no {mark!r} within {self.sock.gettimeout()} s: {self.received!r}") from None
            assert data, f"the connection ended without {mark!r}: {self.received!r}"
            self.received += data

    def read_to_the_end(self) -> None:
        """Until the server closes, in whatever way it does."""
        try:
            while data := self.sock.recv(65536):
                self.received += data
        except ConnectionResetError:
            pass

    @property
    def body(self) -> bytes:
        """What has come of a chunked body, without its chunks' frames."""
        _, _, rest = self.received.partition(b"\r\n\r\n")
        body = b""
        while (size := re.match(rb"([0-9a-fA-F]+)\r\n", rest)) and int(size[1], 16):
            start = size.end()
            body += rest[start : start + int(size[1], 16)]
            rest = rest[start + int(size[1], 16) + 2 :]
        return body

    def leave(self, way: str) -> float:
        """Returns when it did, of `time.monotonic`."""
        if way == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        at = time.monotonic()
        if way == "half-close":
            self.sock.shutdown(socket.SHUT_WR)
        else:
            self.sock.close()
        return at


WAYS = ("close", "reset", "half-close")


def request_bytes(door: Door, model: str, identity: str = "", headers: dict[str, str] | None = None) -> bytes:
    """The request of a door for a model. `identity` reaches the provider as the header `x-request-id`."""
    sent: dict[str, Any] = {"params" if door.method == "GET" else "json": door.body(model)}
    named = {"X-Request-ID": identity} if identity else {}
    prepared = requests.Request(door.method, f"http://sluiceway{door.path}", headers=named | (headers or {}), **sent)
    ready = prepared.prepare()
    lines = [f"{door.method} {ready.path_url} HTTP/1.1", "Host: sluiceway"]
    lines += [f"{name}: {value}" for name, value in ready.headers.items()]
    body = ready.body or b""
    return "\r\n".join([*lines, "", ""]).encode() + (body.encode() if isinstance(body, str) else body)


# A service that complains of itself, and tells what its worker holds

# gevent's monitor thread writes into the log when a greenlet kept the worker for so long.
MONITORED = {"GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MAX_BLOCKING_TIME": "1"}


class Watched(NamedTuple):
    service: Service
    log_at_start: int

    @property
    def address(self) -> Address:
        return ("127.0.0.1", self.service.port)

    def holds(self) -> dict[str, Any]:
        """What the worker holds: see watched.py."""
        held: dict[str, Any] = requests.get(f"{self.service.url}/worker", timeout=30).json()
        return held

    def assert_no_complaint(self) -> None:
        """No greenlet kept the worker for a second since it was started, and nothing raised."""
        since = self.service.log[self.log_at_start :]
        # The start itself may be told of after the first answer: its stacks have the worker's `init_process` in them.
        for blocked in since.split("appears to be blocked")[1:]:
            assert "init_process" in blocked, blocked[:5000]
        assert "Traceback" not in since, since[-5000:]


def watched(
    start_service: Callable[..., Service], env: dict[str, str], *args: str, app: str = "tests.watched:app"
) -> Watched:
    service = start_service({**env, **MONITORED}, *args, app=app)
    return Watched(service, len(service.log))


def settled(since: float) -> None:
    """Waits for what nothing outside tells: 50 ms after `since` a worker has read what had been sent to it then."""
    eventually(lambda: time.monotonic() > since + 0.05)


@contextlib.contextmanager
def running(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m command` as a process of its own; what it prints is of no interest."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def shown(values: Sequence[float]) -> str:
    return (
        f"{len(values)} departures: p50 {percentile(values, 50):.1f} ms, p99 {percentile(values, 99):.1f} ms, "
        f"max {max(values):.1f} ms"
    )
