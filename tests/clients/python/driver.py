"""What the drivers of the Python clients share: jobs in, what the client made of each out.

A driver is a program for one client. It reads one line from stdin, the list of its jobs, does them beside each other,
and prints what each came to as soon as it is known, an object a line. Then it waits to be ended: so a stream that was
left has ended by the client's doing, and not with the process. ../node/driver.mjs is the same for Node.js.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from typing import Any

PROMPT = "What will the weather be?"
MAX_TOKENS = 4000
TIMEOUT_S = 60


@dataclass(frozen=True)
class Job:
    """`way` is how the client is used; `url` the service's; `model` a name with its provider, "openai/...".

    `key` goes where the client puts its API key. `tools` are to be offered, as `{"name", "description", "parameters"}`.
    With `leave_after` the client leaves after so many pieces of text. `whole`: the answer is asked for in one piece.
    `retries`: how often the client may ask again by itself.
    """

    id: str
    way: str
    url: str
    model: str
    key: str
    tools: list[dict[str, Any]] = field(default_factory=list)
    leave_after: int | None = None
    whole: bool = False
    retries: int = 0

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    @property
    def own_name(self) -> str:
        """The model as its provider calls it."""
        return self.model.partition("/")[2]


@dataclass
class Seen:
    """What a client showed its user. `calls` are (id, name, arguments as an object), `usage` is (input, output),
    `finish` the client's own word for it, `pieces` how many pieces the text came in. `error`, if it raised or told of
    one: `class` and `message`, and `status`, `code` and `retry_after` where it has them."""

    job: str
    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    usage: tuple[int, int] | None = None
    finish: str | None = None
    pieces: int = 0
    left: bool = False
    error: dict[str, Any] | None = None
    leave_after: int | None = None

    def says(self, text: str | None) -> bool:
        """A piece of text came. Whether it is time to leave."""
        if text:
            self.text += text
            self.pieces += 1
        self.left = self.leave_after is not None and self.pieces >= self.leave_after
        return self.left

    def called(self, id: str | None, name: str | None, arguments: Any) -> None:
        """`arguments` is an object, or its JSON text."""
        self.calls.append((id or "", name or "", json.loads(arguments) if isinstance(arguments, str) else arguments))

    def counted(self, usage: object, names: tuple[str, str]) -> None:
        """`usage` is an object or a dict, or None for none."""
        if usage is not None:
            given = usage if isinstance(usage, dict) else vars(usage)
            self.usage = (given[names[0]], given[names[1]])

    def told(self, kind: str, message: str, **more: Any) -> None:
        self.error = {"class": kind, "message": message, **more}


Way = Callable[[Job, Seen], None]


def error_of(exc: Exception) -> dict[str, Any]:
    response = getattr(exc, "response", None)
    headers = getattr(response, "headers", None) or {}
    return {
        "class": type(exc).__name__,
        "message": str(exc),
        "status": getattr(exc, "status_code", None) or getattr(response, "status_code", None),
        "code": getattr(exc, "code", None) or getattr(exc, "type", None),
        "retry_after": headers.get("retry-after"),
    }


def main(ways: Mapping[str, Way]) -> None:
    def do(job: Job) -> Seen:
        seen = Seen(job.id, leave_after=job.leave_after)
        try:
            ways[job.way](job, seen)
        except Exception as exc:  # what it is, is the result
            seen.error = error_of(exc)
        return seen

    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # ignored behind a shell's `&`, and programs that we start inherit that
    jobs = [Job(**job) for job in json.loads(sys.stdin.readline())]
    with ThreadPoolExecutor(24) as pool:
        for done in as_completed([pool.submit(do, job) for job in jobs]):
            print(json.dumps(asdict(done.result())), flush=True)
    sys.stdin.read()
