"""The processes of a run, and what the kernel says about them.

CPU time, not wall time, is the main figure: it moves by a few percent where the machine is shared, wall time by a
multiple. It is read from the kernel's clock of each process of the peer, to the ns. What the loopback device costs is
charged in part to whoever sends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .peers import MODEL, ROOT, WARM_UP, Door, Peer, Place
from .scenarios import Scenario

_CLEAN = ("OPENAI_", "ANTHROPIC_", "SLUICEWAY_", "GUNICORN_", "WEB_CONCURRENCY", "LITELLM_")


class Broken(Exception):
    """A process of the rig did not do what it is there for; says where to look."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """One row in one scenario in one round. The peer's own figures are 0 where there is no process (`direct`)."""

    row: str
    scenario: str
    completed: int
    failed: dict[str, int]
    tokens: int
    wall_s: float
    cpu_s: float  # of all processes of the peer
    grown_kb: float  # peak memory of the run above what was there before
    delivered: float  # share of the tokens that came at the pace they were offered at; 0 where there is none
    open_peak: int
    ttft_ms: tuple[float, float]  # p50, p99
    latency_ms: tuple[float, float]
    provider_cpu_s: float
    load_cpu_s: float
    others_cores: float  # that processes which are none of ours used meanwhile


def raise_file_limit() -> int:
    """2,000 streams are 4,000 sockets in a peer."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                parent = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_s(pids: list[int]) -> float:
    """User and system time of all threads of these processes. Their clocks' numbers: `man 3 clock_getcpuclockid`."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def memory_kb(pids: list[int], key: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
                if line.startswith(f"{key}:"):
                    total += int(line.split()[1])
    return total


def _forget_peak(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5", "utf-8")


def _idle_s() -> float:
    """Idle time of all cores since boot."""
    fields = Path("/proc/stat").read_text("utf-8").splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Server:
    """A peer that serves; `process`, which leads a group of its own, is None where there is nothing to start."""

    def __init__(self, peer: Peer, port: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.peer = peer
        self.port = port
        self.process = process

    def pids(self) -> list[int]:
        return tree(self.process.pid) if self.process else []

    def stop(self) -> None:
        """At once: there is nothing that it would have to bring to an end."""
        process, self.process = self.process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Rig:
    """The provider, and whatever is started in front of it; a context manager that ends them all."""

    def __init__(self, *, pinned: bool = True) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.cores = set(cores)
        self.pinned = pinned and len(cores) > 1
        self._peer_cores = {cores[-1]} if self.pinned else self.cores
        self._rig_cores = {cores[0]} if self.pinned else self.cores
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rig:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluiceway-bench-")))
            self._provider = self._python("bench.provider", stdout=subprocess.PIPE)
            stack.callback(self._end_provider)
            line = self._provider.stdout.readline() if self._provider.stdout else b""
            if not line:
                raise Broken("the fake provider did not start")
            self.provider_port: int = json.loads(line)["port"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _end_provider(self) -> None:
        self._provider.kill()
        self._provider.communicate()

    def _python(self, module: str, *args: str, stdout: int) -> subprocess.Popen[bytes]:
        with self._on(self._rig_cores):
            return subprocess.Popen([sys.executable, "-m", module, *args], cwd=ROOT, stdout=stdout)

    @contextlib.contextmanager
    def _on(self, cores: set[int]) -> Iterator[None]:
        """What is started here inherits these cores, and has them from its first instruction."""
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.cores)

    @contextlib.contextmanager
    def unpinned(self) -> Iterator[None]:
        """Everything on every core, for what is started in here, and the provider."""
        before = self._peer_cores, self._rig_cores
        self._peer_cores = self._rig_cores = self.cores
        os.sched_setaffinity(self._provider.pid, self.cores)
        try:
            yield
        finally:
            self._peer_cores, self._rig_cores = before
            os.sched_setaffinity(self._provider.pid, self._rig_cores)

    def start(self, peer: Peer, workers: int = 1) -> Server:
        """Started and warmed up. Raises NotInstalled, or Broken with the end of its log."""
        if peer.command is None:
            server = Server(peer, self.provider_port)
        else:
            port = free_port()
            folder = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=self._folder))
            command = peer.command(Place(port, f"http://127.0.0.1:{self.provider_port}", folder, workers, free_port()))
            if command.beside:
                with self._on(self._rig_cores):
                    beside = subprocess.Popen(command.beside, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                self._stack.callback(beside.wait)
                self._stack.callback(beside.kill)
            # Without your keys, and without a proxy: all is on this machine.
            clean = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(_CLEAN) and not name.lower().endswith("_proxy")
            }
            with (folder / "log").open("wb") as log, self._on(self._peer_cores):
                process = subprocess.Popen(
                    command.argv,
                    cwd=command.cwd,
                    env={**clean, **command.env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            server = Server(peer, port, process)
            try:
                self._await(server, folder / "log")
            except BaseException:
                server.stop()
                raise
        self._stack.callback(server.stop)
        for door in peer.doors:
            for _ in range(3):
                result = self._load(server, door, WARM_UP, 50, streams=8, total=16, timeout_s=30)
            if result["completed"] < 16:
                raise Broken(f"{door.row}: the warm-up failed: {result['failed']}")
        return server

    def _await(self, server: Server, log: Path) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if server.process is not None and server.process.poll() is not None:
                break
            with contextlib.suppress(OSError, http.client.HTTPException):
                if _get(server.port, server.peer.ready)[0] < 500:
                    return
            time.sleep(0.05)
        said = log.read_text("utf-8", "replace")[-2000:]
        raise Broken(f"{server.peer.name} does not serve; its last words:\n{said}")

    def _load(self, server: Server, door: Door, model: str, tokens: int, **options: float) -> dict[str, Any]:
        args = [f"http://127.0.0.1:{server.port}{door.path}", "--body", door.body.replace(MODEL, model)]
        args += ["--tokens", str(tokens)]
        for name, value in options.items():
            args += [f"--{name.replace('_', '-')}", str(value)]
        if "-i" not in model:
            args.append("--untimed")
        load = self._python("bench.load", *args, stdout=subprocess.PIPE)
        try:
            said, _ = load.communicate()
        except BaseException:
            load.kill()
            load.wait()
            raise
        if load.returncode:
            raise Broken("the load client failed")
        result: dict[str, Any] = json.loads(said)
        return result

    def stats(self) -> dict[str, int]:
        """The provider's."""
        stats: dict[str, int] = json.loads(_get(self.provider_port, "/stats")[1])
        return stats

    def _settle(self) -> None:
        """Wait until what the last run left open is closed, 3 s at most."""
        deadline = time.monotonic() + 3
        while self.stats()["open"] and time.monotonic() < deadline:
            time.sleep(0.05)

    def measure(self, server: Server, door: Door, scenario: Scenario) -> Figures:
        self._settle()
        pids, provider = server.pids(), [self._provider.pid]
        _forget_peak(pids)
        memory, cpu, provider_cpu = memory_kb(pids, "VmRSS"), cpu_s(pids), cpu_s(provider)
        idle, at = _idle_s(), time.monotonic()
        result = self._load(
            server,
            door,
            scenario.model,
            scenario.tokens,
            streams=scenario.streams,
            total=0 if scenario.seconds else scenario.streams * (server.peer.repeat if scenario.name == "S1" else 1),
            seconds=scenario.seconds,
            ramp_s=scenario.ramp_s,
            timeout_s=120,
        )
        took_s, idle = time.monotonic() - at, _idle_s() - idle
        pids = server.pids()  # again: workers come and go
        cpu, provider_cpu = cpu_s(pids) - cpu if pids else 0.0, cpu_s(provider) - provider_cpu
        ours = cpu + provider_cpu + result["cpu_s"]
        offered = scenario.streams * scenario.tokens
        paced = scenario.kind == "paced"
        return Figures(
            row=door.row,
            scenario=scenario.name,
            completed=result["completed"],
            failed=result["failed"],
            tokens=result["tokens"],
            wall_s=result["wall_s"],
            cpu_s=cpu,
            grown_kb=max(0, memory_kb(pids, "VmHWM") - memory),
            delivered=min(1.0, result["tokens"] / offered * scenario.offered_s / result["wall_s"]) if paced else 0.0,
            open_peak=result["open_peak"],
            ttft_ms=tuple(result["ttft_ms"]),
            latency_ms=tuple(result["latency_ms"]),
            provider_cpu_s=provider_cpu,
            load_cpu_s=result["cpu_s"],
            others_cores=max(0.0, (os.cpu_count() or 1) - (idle + ours) / took_s),
        )
