"""A worker beside the test: opens a store, and does what it is told on standard input, one JSON object a line.

    python -m tests.store_process [--gevent] URL LIFETIME_S TTL_S

`{"do": "append", "with": {...}, "at": 12.5}` answers `{"gave": ...}` or `{"failed": "<class>", "why": "..."}`; `at`, a
time of `time.monotonic`, which all processes of a machine share, lets several begin at once.
"""

from __future__ import annotations

import sys

if "--gevent" in sys.argv:
    import gevent.monkey

    gevent.monkey.patch_all()
    sys.argv.remove("--gevent")

import os
import resource
import time
from typing import Any

import gevent
import msgspec
from gevent import monkey

from app.errors import SluicewayError
from app.stores import STORES, Entry, Record


class Worker:
    def __init__(self, url: str, lifetime_s: float, ttl_s: float) -> None:
        self.store = STORES[url.partition(":")[0]](url, lifetime_s=lifetime_s, ttl_s=ttl_s)
        self.mails: list[str] = []
        self.inside = 0
        self.most_inside = 0

    def create(self, record: dict[str, Any], key: str | None = None, chat: str | None = None) -> Any:
        return self.store.create(msgspec.convert(record, Record), key=key, chat=chat)

    def append(self, entries: list[Any]) -> Any:
        return self.store.append([Entry(*entry) for entry in entries])

    def append_until_refused(self, stream: str) -> int:
        """One event an entry; gives how many were written."""
        number = 0
        while not self.store.append([Entry(stream, number + 1, number + 1, f"[{number + 1}]")]):
            number += 1
        return number

    def end(self, stream: str, data: str) -> int:
        return self.store.end(stream, data)

    def read(self, stream: str, after: int = 0) -> Any:
        return self.store.read(stream, after)

    def listen(self, every_s: float = 0.0) -> str:
        """`every_s`: how long each mail takes."""

        def receive(mail: bytes) -> None:
            self.inside += 1
            self.most_inside = max(self.inside, self.most_inside)
            time.sleep(every_s)
            self.inside -= 1
            if mail == b"bad":
                raise ValueError("a bad mail")
            self.mails.append(mail.decode())

        return self.store.listen(receive)

    def received(self) -> Any:
        return {"mails": self.mails, "at_once": self.most_inside}

    def send(self, mailbox: str, mails: list[str]) -> Any:
        return [self.store.send(mailbox, mail.encode()) for mail in mails]

    def tick_during(self, call: str, arguments: dict[str, Any]) -> Any:
        """How often a greenlet which wants to run every 10 ms did so while the call ran."""
        ticks = 0
        done = False

        def tick() -> None:
            nonlocal ticks
            while not done:
                gevent.sleep(0.01)
                ticks += 1

        ticker = gevent.spawn(tick)
        gevent.sleep(0.05)
        ticks = 0
        began = time.monotonic()
        answer = getattr(self, call)(**arguments)
        took = time.monotonic() - began
        ticked, done = ticks, True
        ticker.join()
        return {"ticks": ticked, "took_s": took, "gave": answer}

    def fork(self, stream: str, first: int) -> Any:
        """A child writes to the stream, beginning with event `first`, then its parent does."""
        self.append([(stream, first, first, '["before"]')])
        if not (child := os.fork()):
            try:
                refused = self.append([(stream, first + 1, first + 1, '["child"]')])
                os._exit(len(refused))
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        self.append([(stream, first + 2, first + 2, '["parent"]')])
        return {"status": os.waitstatus_to_exitcode(status)}

    def busy(self, seconds: float) -> None:
        """The event loop has no time for anybody."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    def limit_files(self, size: int) -> None:
        """No file may grow beyond it: as near to a full disk as a test comes without a disk of its own."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def main() -> None:
    url, lifetime_s, ttl_s = sys.argv[1:]
    worker = Worker(url, float(lifetime_s), float(ttl_s))
    wait_for = gevent.get_hub().threadpool.apply if monkey.is_module_patched("threading") else None
    while line := wait_for(sys.stdin.readline) if wait_for else sys.stdin.readline():
        told = msgspec.json.decode(line)
        if told.get("at"):
            time.sleep(max(0.0, told["at"] - time.monotonic()))
        try:
            answer = {"gave": getattr(worker, told["do"])(**told["with"])}
        except SluicewayError as exc:
            answer = {"failed": type(exc).__name__, "why": getattr(exc, "why", "")}
        except Exception as exc:
            answer = {"failed": type(exc).__name__, "why": str(exc)}
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
