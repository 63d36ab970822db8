"""examples/curl.md: every command is run, in the order of the file, and prints what the file says it prints.

Names, times and ports of one run are those of no other; `one_run` makes them the same."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from callers import running
from conftest import ROOT, Service, eventually, free_port

PATH = "/usr/local/bin:/usr/bin:/bin"  # none of the machine's own settings reach curl
DOCUMENT = ROOT / "examples" / "curl.md"

# The tests' services try only once.
AS_IT_COMES = {"SLUICEWAY_RETRY__ATTEMPTS": "3", "SLUICEWAY_BREAKER__FAILURES": "5"}

# What differs from run to run, and what it is called here.
VARYING = [
    (r"strm_[\w-]{24}", "strm_"),
    (r"(chatcmpl-|msg_|req_)fake\d{6}", r"\1"),
    (r'("request_id":)"\w{32}"', r"\1_"),
    (r'("input_tokens":)\d+(,"output_tokens":)\d+(,"source":"estimated")', r"\1_\2_\3"),
    (r'("created(?:_at)?":)\d+', r"\1_"),
    (r'("(?:\w+_s|latency_ms)":)[\d.e-]+', r"\1_"),
]


class Example(NamedTuple):
    command: str
    shown: str


def examples() -> list[Example]:
    """Commands begin with "$ "; what follows is what they print."""
    found: list[Example] = []
    for block in re.findall(r"^```console\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.M | re.S):
        found += [Example(*part.split("\n", 1)) for part in re.split(r"^\$ ", block, flags=re.M)[1:]]
    return found


EXAMPLES = examples()


def one_run(printed: str) -> str:
    for varying, name in VARYING:
        printed = re.sub(varying, name, printed)
    return printed.rstrip("\n")


class Shell:
    """One bash for all commands, so that they share variables and files."""

    def __init__(self, directory: Path) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._bash.kill()
        with self._bash:
            pass

    def run(self, command: str) -> str:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command}\nprintf '\\n\\001\\n'\n")
        self._bash.stdin.flush()
        printed = ""
        while not printed.endswith("\n\001\n"):
            line = self._bash.stdout.readline()
            assert line, f"the shell ended: {command}: {printed}"
            printed += line
        return printed.removesuffix("\n\001\n")

    def environment(self, command: str) -> dict[str, str]:
        """What a command that ends in `make run &` would run in."""
        printed = self.run(command.replace("make run &", "env"))
        told = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
        return {name: value for name, value in told.items() if name.startswith(("OPENAI_", "ANTHROPIC_", "SLUICEWAY_"))}


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@pytest.fixture(scope="module")
def printed(
    start_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[int], str]]:
    """What a command printed, after those that stand before it. The ports of the file are replaced by free ones."""
    if shutil.which("curl", path=PATH) is None:
        pytest.skip("curl is not installed")
    provider = free_port()
    ports = {"9000": str(provider)}
    services: list[Service] = []
    done: list[str] = []
    with running("app.testing", "--port", str(provider)), Shell(tmp_path_factory.mktemp("curl")) as shell:
        eventually(lambda: listens(provider), within_s=60)

        def run(command: str) -> str:
            here = re.sub(r"127\.0\.0\.1:(\d{4})", lambda at: f"127.0.0.1:{ports.get(at[1], at[1])}", command)
            if "app.testing" in command:
                return ""
            if command.endswith("make run &"):
                bound = re.search(r"-b 127\.0\.0\.1:(\d+)", command)
                services.append(start_service({**AS_IT_COMES, **shell.environment(here)}))
                ports[bound[1] if bound else "8000"] = str(services[-1].port)
                return ""
            return shell.run(here)

        def printed(at: int) -> str:
            while len(done) <= at:
                done.append(run(EXAMPLES[len(done)].command))
            return done[at]

        yield printed
    for service in services:
        service.stop()


@pytest.mark.parametrize("at", range(len(EXAMPLES)), ids=lambda at: EXAMPLES[at].command[:70])
def test_a_command_prints_what_the_file_says(printed: Callable[[int], str], at: int) -> None:
    assert one_run(printed(at)) == one_run(EXAMPLES[at].shown)


def test_names_and_times_are_all_that_differs() -> None:
    """A rule that took more would compare nothing."""
    assert one_run('{"text":"strm_ is 1","created":7,"n":7}') == '{"text":"strm_ is 1","created":_,"n":7}'
