"""What the tests share: a fake provider, the real server in front of it, and no skipping under CI."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from app.testing import FakeProvider

pytest_plugins = ["app.testing"]

ROOT = Path(__file__).parent.parent

# A shell without job control has what it runs in the background ignore Ctrl-C, and that is inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Under CI a skip is a failure: a check that did not run has shown nothing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
    return report


def eventually(condition: Callable[[], Any], *, within_s: float = 30.0, what: str = "the condition") -> Any:
    """Poll until `condition()` is true, and return what it gave; fails after a generous deadline."""
    deadline = time.monotonic() + within_s
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come to hold within {within_s:g} s")
        time.sleep(0.01)


def within(seconds: float) -> float:
    """A deadline of `time.monotonic`."""
    return time.monotonic() + seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Nearly all tests look at a single failure, and at what becomes of it at once. A second try would hide it, and a
# breaker remember it for the test after. Those that are about tries set these themselves.
ONE_TRY = {"SLUICEWAY_RETRY__ATTEMPTS": "1", "SLUICEWAY_BREAKER__FAILURES": "1000000"}


class Service:
    """A real gunicorn with the project's own configuration. `log` is everything it has printed so far."""

    def __init__(
        self, env: dict[str, str], log_file: Path, *args: str, app: str = "wsgi:app", health: str = "/healthz"
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._health = self.url + health
        self._log_file = log_file
        keys = ("OPENAI_", "ANTHROPIC_", "SLUICEWAY_", "GUNICORN_", "WEB_CONCURRENCY")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(keys)}
        own_store = {"SLUICEWAY_STORE__URL": f"sqlite:///{log_file.with_suffix('.db')}"}
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                # The command itself: with -m, a master that USR2 starts would find gunicorn's `http` before Python's.
                [Path(sys.executable).with_name("gunicorn"), app, "--bind", f"127.0.0.1:{self.port}", *args],
                cwd=ROOT,
                env={**clean, **ONE_TRY, **own_store, "PYTHONUNBUFFERED": "1", **env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            eventually(self._answers, within_s=180, what="the server's first answer")
        except BaseException:
            self.stop()
            raise

    @property
    def log(self) -> str:
        return self._log_file.read_text("utf-8", "replace")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the server did not start:\n{self.log}")
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(self._health, timeout=5).status_code == 200
        return False

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()  # its workers see that it is gone, and go too
                self.process.wait()


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """`start_service(env, *gunicorn_args) -> Service`; stopped at the end of the session at the latest."""
    started: list[Service] = []

    def start(env: dict[str, str] | None = None, *args: str, **more: str) -> Service:
        log = tmp_path_factory.mktemp("service") / "log"
        service = Service(env or {}, log, *(args or ("--workers", "1")), **more)
        started.append(service)
        return service

    yield start
    with ThreadPoolExecutor() as pool:  # each takes half a second to be gone
        list(pool.map(Service.stop, started))


@pytest.fixture(scope="session")
def server(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Service:
    """The service in front of the fake provider, as it comes."""
    return start_service(fake_provider_server.env)


SILENCES = {
    "slow9000": "first_token_s = 0.5",
    "stall0": "first_token_s = 0.5",
    "f9000": "first_token_s = 0.5",
    "stall5": "idle_s = 1.5",  # it must not ring between two of the five tokens, however slow the machine is
}


def silences_end(*providers: str) -> str:
    """Settings with short clocks, each for the models at which it has to ring and for no other.

    On a busy machine such a clock rings at a model that has only been waiting for its turn.
    """
    return "".join(
        f'[models."{provider}/fake-{before}{how}"]\ntarget = "{provider}/fake-{before}{how}"\n{clock}\n'
        for provider in providers
        for how, clock in SILENCES.items()
        for before in ("", "i1-", "n9-i1-", "i1-n9-")
    )


@pytest.fixture(scope="session")
def impatient_server(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """The same, soon out of patience with a provider that falls silent."""
    file = tmp_path_factory.mktemp("impatient") / "sluiceway.toml"
    file.write_text(silences_end("openai", "anthropic"))
    return start_service({**fake_provider_server.env, "SLUICEWAY_CONFIG": str(file)})


class RedisServer:
    """A real redis-server that keeps nothing: what it knew is lost when it stops. It comes back on the same port."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._binary = binary
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *args: str) -> None:
        """Nothing to do where it runs. `args`: further settings, as `--maxmemory 1mb`."""
        if self._process is not None:
            return
        listening = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        keeping_nothing = ["--save", "", "--appendonly", "no"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, *listening, *keeping_nothing, *args], stdout=log, stderr=subprocess.STDOUT
            )
        eventually(self._answers, what="the Redis server's first answer")

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            pytest.fail(f"redis-server did not start:\n{(self._directory / 'log').read_text('utf-8', 'replace')}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def stop(self, how: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It takes connections, and does not answer: what a machine that is stuck looks like."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5, retry=None)


@pytest.fixture(scope="session")
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """`start_redis(*settings) -> RedisServer`, one of its own; stopped at the end of the session at the latest."""
    binary = shutil.which("redis-server")
    started: list[RedisServer] = []

    def start(*args: str) -> RedisServer:
        if binary is None:
            pytest.skip("redis-server is not installed")
        server = RedisServer(binary, tmp_path_factory.mktemp("redis"))
        started.append(server)
        server.start(*args)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Of a server that runs and is empty."""
    redis_server.resume()
    redis_server.start()
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url
