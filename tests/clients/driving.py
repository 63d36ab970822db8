"""Runs the drivers: each a process for one client, which does all its jobs and tells what came of each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
PYTHON = HERE / ".venv/bin/python"
NODE_MODULES = HERE / "node_modules"
CPU = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
# The clients want Node.js 22 at least, and npm takes what there is; so that comes from npm too.
NODE = NODE_MODULES / f"node-linux-{CPU}/bin/node"

AT_ONCE = 3  # drivers; to start one is most of its work
DEADLINE_S = 250.0  # of one, from its start; below `faulthandler_timeout`

Job = Mapping[str, Any]
Seen = dict[str, Any]


def interpreter(driver: str) -> Path:
    return NODE if driver.endswith(".mjs") else PYTHON


def installed(driver: str) -> bool:
    """Whether `make clients` has been there, and found what it needs."""
    return interpreter(driver).exists() and (driver != "curl.py" or shutil.which("curl") is not None)


class Drivers:
    """Starts them in order, a few at a time, while others look at what has come already: `seen(id)` waits for it.

    `left(job)` is asked for each job whose client was to leave, while the driver still lives: whether the provider has
    seen that. Its answer is the `departed` of what was seen.
    """

    def __init__(self, jobs: Mapping[str, Sequence[Job]], left: Callable[[Job], bool]) -> None:
        self._left = left
        self._seen: dict[str, Future[Seen]] = {job["id"]: Future() for of in jobs.values() for job in of}
        self._processes: set[subprocess.Popen[str]] = set()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        for driver, of in jobs.items():
            self._pool.submit(self._drive, driver, of)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in set(self._processes):
            process.kill()
        self._pool.shutdown()

    def seen(self, job_id: str) -> Seen:
        """Raises what went wrong with the driver itself."""
        return self._seen[job_id].result(DEADLINE_S)

    def _drive(self, driver: str, jobs: Sequence[Job]) -> None:
        waiting = {job["id"]: job for job in jobs}
        with tempfile.TemporaryFile("w+") as errors:
            try:
                with self._started(driver, errors) as process:
                    killer = threading.Timer(DEADLINE_S, process.kill)
                    killer.start()
                    try:
                        self._ask(process, jobs, waiting)
                    finally:
                        killer.cancel()
                        process.kill()
                        self._processes.discard(process)
            except Exception as exc:  # whoever waits is told
                errors.write(f"{exc!r}\n")
            errors.seek(0)
            told = f"{driver} left this undone:\n{errors.read()[-3000:]}"
        for job_id in waiting:
            self._seen[job_id].set_exception(AssertionError(told))

    def _ask(self, process: subprocess.Popen[str], jobs: Sequence[Job], waiting: dict[str, Job]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(list(jobs)) + "\n")
        process.stdin.flush()
        while waiting and (line := process.stdout.readline()):
            self._take(json.loads(line), waiting)

    def _started(self, driver: str, errors: Any) -> subprocess.Popen[str]:
        # None of the machine's own settings: a proxy, a key, another address.
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        program = interpreter(driver)
        folder = "node" if program == NODE else "python"
        process = subprocess.Popen(
            [program, HERE / folder / driver],
            env={**clean, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        self._processes.add(process)
        return process

    def _take(self, seen: Seen, waiting: dict[str, Job]) -> None:
        job = waiting.pop(seen["job"])
        if job["leave_after"] is not None:
            seen["departed"] = self._left(job)
        self._seen[job["id"]].set_result(seen)
