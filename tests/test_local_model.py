"""The embedded model: real text from a fresh machine, and no process left behind, however the server ends.

Here `gunicorn wsgi:app` runs as the repository configures it, with the real weights; who is still alive afterwards is
read from /proc, by a mark in the environment that every descendant inherits.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from conftest import ROOT, Service, eventually, free_port

from app.local_model import MODEL_NAME, is_ready

pytestmark = [
    pytest.mark.skipif(
        not Path(sys.prefix, "local-model").exists(), reason="the embedded model is not installed: make setup"
    ),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to see who is left"),
]

StartService = Callable[..., Service]


class Marked:
    """A mark for the environment of a server, and whoever carries it: `{pid: command line}`."""

    def __init__(self) -> None:
        # Wanted, whatever keys the machine has. SLUICEWAY_TEST holds no double underscore, so it is no setting.
        self.env = {"SLUICEWAY_TEST": uuid.uuid4().hex, "SLUICEWAY_LOCAL__ENABLED": "true"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **self.env, **(env or {})}, **options)
        self._started.append(process)
        return process

    def gunicorn(self, app: str, port: int) -> subprocess.Popen[bytes]:
        """A server in a process group of its own, as a terminal's foreground group is."""
        command = (sys.executable, "-m", "gunicorn", app, "--bind", f"127.0.0.1:{port}")
        return self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def kill(self) -> None:
        """End whatever a failed test has left."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.communicate()

    def alive(self) -> dict[int, str]:
        found = {}
        for process in Path("/proc").iterdir():
            # A process may end between any two of these reads; a zombie's environment is empty.
            with contextlib.suppress(OSError):
                if process.name.isdigit() and self.env["SLUICEWAY_TEST"].encode() in (process / "environ").read_bytes():
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def models(self) -> list[int]:
        return [pid for pid, command in self.alive().items() if "app.local_model" in command]

    def wait_until_gone(self) -> None:
        eventually(lambda: not self.alive(), within_s=30, what="the end of all processes")


def wait_until_ready(url: str) -> None:
    def ready() -> bool:
        with contextlib.suppress(requests.RequestException):  # between an old worker and a new one nobody may answer
            return requests.get(f"{url}/readyz", timeout=20).status_code == 200
        return False

    # Loading takes half a second; the deadline is for a machine that has something else to do.
    eventually(ready, within_s=180, what="/readyz")


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Service:
    service = start_service()
    wait_until_ready(service.url)
    return service


@contextlib.contextmanager
def marking() -> Iterator[Marked]:
    marked = Marked()
    try:
        yield marked
    finally:
        marked.kill()


@pytest.fixture
def marked() -> Iterator[Marked]:
    with marking() as marked:
        yield marked


def chunks(service: Service, prompt: str) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed answer, as they come."""
    body = {
        "model": "local",
        "stream": True,
        "max_tokens": 60,
        "temperature": 0,
        "messages": [{"role": "user", "content": prompt}],
    }
    with requests.post(f"{service.url}/v1/chat/completions", json=body, stream=True, timeout=60) as response:
        assert response.status_code == 200, response.text
        for line in response.iter_lines():
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


def text_of(answer: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in answer for choice in chunk["choices"])


# Answering


def test_different_prompts_get_different_answers(service: Service) -> None:
    rivers = text_of(list(chunks(service, "Write two sentences about rivers.")))
    bread = text_of(list(chunks(service, "How do I bake bread?")))

    assert rivers.strip()
    assert bread.strip()
    assert rivers != bread


def test_text_comes_while_it_is_generated(service: Service) -> None:
    started = time.monotonic()
    arrivals = [time.monotonic() - started for chunk in chunks(service, "Tell me a story.") if text_of([chunk])]

    assert len(arrivals) > 20
    assert arrivals[0] < arrivals[-1] / 2


def test_chunks_name_the_model_and_no_file(service: Service) -> None:
    answer = list(chunks(service, "Hello"))

    assert {chunk["model"] for chunk in answer} == {MODEL_NAME}
    assert ".gguf" not in json.dumps(answer)


def test_its_server_lets_nobody_in_without_the_key(marked: Marked) -> None:
    port = free_port()
    own = {"SLUICEWAY_LOCAL__PORT": str(port), "SLUICEWAY_LOCAL__API_KEY": "local-key"}
    model = marked.start(sys.executable, "-W", "ignore::RuntimeWarning:runpy", "-m", "app.local_model", env=own)
    eventually(lambda: is_ready(port, "local-key"), within_s=180, what="the model")

    assert not is_ready(port, "another key")
    assert not is_ready(port, None)
    answer = requests.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"messages": []}, timeout=20)
    assert answer.status_code == 401
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=20).status_code == 404  # no page of llama.cpp's own

    model.terminate()
    model.wait(30)


# Whether it is ready


class OneAnswer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (401, False)])
def test_ready_is_a_200_and_nothing_else(status: int, ready: bool) -> None:
    with HTTPServer(("127.0.0.1", 0), type("Answer", (OneAnswer,), {"status": status})) as server:
        threading.Thread(target=server.handle_request).start()
        assert is_ready(server.server_port, "key") is ready


def test_nobody_listening_is_not_ready() -> None:
    assert not is_ready(free_port(), "key")


def test_silence_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not is_ready(silent.getsockname()[1], "key", timeout_s=0.1)


def test_readyz_waits_for_the_model(start_service: StartService) -> None:
    nobody = {"SLUICEWAY_LOCAL__PORT": str(free_port())}
    response = requests.get(f"{start_service(nobody).url}/readyz", timeout=20)

    assert response.status_code == 503
    assert "embedded model" in response.json()["waiting_for"][0]


# Whether it is wanted


def test_a_provider_key_makes_it_unwanted(start_service: StartService, marked: Marked) -> None:
    marked.env.pop("SLUICEWAY_LOCAL__ENABLED")
    service = start_service({**marked.env, "OPENAI_API_KEY": "sk-none"})

    eventually(lambda: not marked.models(), what="the end of the unwanted model")
    assert requests.get(f"{service.url}/readyz", timeout=20).status_code == 200
    service.stop()


def test_a_port_of_ones_own_starts_none(start_service: StartService, marked: Marked) -> None:
    service = start_service({**marked.env, "SLUICEWAY_LOCAL__PORT": str(free_port())})

    assert marked.models() == []
    service.stop()


def test_without_its_wheels_the_server_runs_and_says_what_to_do(
    start_service: StartService, marked: Marked, tmp_path: Path
) -> None:
    service = start_service({**marked.env, "SLUICEWAY_LOCAL__PATH": str(tmp_path)})

    eventually(lambda: "run 'make setup'" in service.log, what="the hint in the log")
    eventually(lambda: not marked.models(), what="the end of the model's process")
    assert requests.get(f"{service.url}/readyz", timeout=20).status_code == 503
    assert "Traceback" not in service.log
    service.stop()


# How it ends

ENDS: dict[str, Callable[[subprocess.Popen[bytes]], None]] = {
    "Ctrl-C": lambda master: os.killpg(master.pid, signal.SIGINT),
    "INT": lambda master: master.send_signal(signal.SIGINT),
    "TERM": lambda master: master.send_signal(signal.SIGTERM),
    "QUIT": lambda master: master.send_signal(signal.SIGQUIT),
    "KILL": lambda master: master.kill(),
}


PHASES = ("starting", "serving")
FAILURES = ("no such app", "address in use")


def output_of_an_ended_server(end: str, phase: str) -> bytes:
    """Fails where a process is left."""
    with marking() as marked:
        port = free_port()
        master = marked.gunicorn("wsgi:app", port)
        eventually(marked.models, within_s=180, what="the model's process")
        if phase == "serving":
            wait_until_ready(f"http://127.0.0.1:{port}")
            assert len(marked.models()) == 1

        ENDS[end](master)

        marked.wait_until_gone()
        return master.communicate(timeout=30)[0]


def status_of_a_failed_start(failure: str) -> int:
    """Fails where a process is left."""
    with marking() as marked, socket.create_server(("127.0.0.1", 0)) as taken:
        if failure == "no such app":
            master = marked.gunicorn("nothing:here", free_port())
        else:
            master = marked.gunicorn("wsgi:app", taken.getsockname()[1])
        master.communicate(timeout=30)
        marked.wait_until_gone()
        return master.returncode


class Gone(NamedTuple):
    statuses: dict[str, Future[int]]  # by failure
    outputs: dict[tuple[str, str], Future[bytes]]  # by end and phase


@pytest.fixture(scope="module")
def gone() -> Gone:
    """Servers that came and went, three at the same time: each loads a model, or waits for an address."""
    with ThreadPoolExecutor(3) as pool:
        return Gone(
            {failure: pool.submit(status_of_a_failed_start, failure) for failure in FAILURES},
            {(end, phase): pool.submit(output_of_an_ended_server, end, phase) for phase in PHASES for end in ENDS},
        )


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("phase", PHASES)
def test_no_process_is_left(gone: Gone, end: str, phase: str) -> None:
    output = gone.outputs[end, phase].result()
    assert b"Traceback" not in output, output.decode()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_start_leaves_nothing(gone: Gone, failure: str) -> None:
    assert gone.statuses[failure].result() != 0


def test_it_outlives_the_streams_of_a_drain(start_service: StartService, marked: Marked) -> None:
    """TERM lets streams go on for a while, so their model must."""
    service = start_service(marked.env)
    wait_until_ready(service.url)
    answer = chunks(service, "Tell me a long story.")
    first = next(answer)

    service.process.send_signal(signal.SIGTERM)

    assert text_of([first, *answer]).strip()
    marked.wait_until_gone()


# Reload


def test_a_reload_keeps_it_and_starts_a_crashed_one_again(start_service: StartService, marked: Marked) -> None:
    service = start_service(marked.env, "--workers", "1", "--graceful-timeout", "1")
    wait_until_ready(service.url)
    model = marked.models()
    workers = set(marked.alive()) - set(model)

    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(set(marked.alive()) - set(model) - workers) == 1, what="the new worker")
    assert marked.models() == model

    os.kill(model[0], signal.SIGKILL)
    # Not when it has no environment any more: that is gone first, and until it has ended HUP takes it for alive.
    eventually(lambda: not Path(f"/proc/{model[0]}").exists(), what="the end of the model")
    service.process.send_signal(signal.SIGHUP)
    eventually(marked.models, what="a new model")
    wait_until_ready(service.url)
    service.stop()


# In a terminal


@pytest.mark.skipif(not Path(ROOT, ".venv/local-model/.installed").exists(), reason="make setup has not run here")
def test_ctrl_c_under_make_run_ends_everything_quietly(marked: Marked) -> None:
    terminal, inside = os.openpty()
    bind = {"GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{free_port()}"}
    # setsid makes that terminal the controlling one: then the byte of Ctrl-C is a signal to the foreground group.
    make = marked.start("setsid", "--ctty", "make", "run", env=bind, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    shown = bytearray()
    reader = threading.Thread(target=_read_all, args=(terminal, shown))
    reader.start()
    eventually(lambda: b"Booting worker" in shown and marked.models(), within_s=30, what="the server under make run")

    os.write(terminal, b"\x03")

    make.wait(30)
    marked.wait_until_gone()
    reader.join(10)
    os.close(terminal)
    assert not re.search(r"Traceback|make.*(\*\*\*|Error)", shown.decode()), shown.decode()


def _read_all(terminal: int, shown: bytearray) -> None:
    # Linux says EIO when the last process on the terminal is gone.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            shown.extend(piece)
