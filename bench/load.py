"""A client of many streams at once: one process, one epoll loop, raw sockets.

A token is a mark `@<CLOCK_MONOTONIC, ns>@` that `provider.py` wrote; it may come in any format, and cut anywhere, as
long as its text is unchanged. Its latency is the time from that reading of the clock to the return of the read that
completed it.

    python -m bench.load http://127.0.0.1:8000/chat --body '{...}' --streams 32 --tokens 2000

prints one line of JSON (`Result`). A stream is good when its status is 200, its body ends as HTTP wants it, and every
token has come; what else happens is counted by its reason under `failed`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import re
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

from .provider import DIGITS

_MARK = re.compile(rb"@(\d{%d})@" % DIGITS)
_MARK_BYTES = DIGITS + 2


class Answer:
    """One HTTP answer, fed with bytes as they come, cut anywhere. Raises ValueError for what is no such answer."""

    __slots__ = ("_carry", "_chunked", "_head", "_last", "_left", "_line", "ended", "keep_alive", "status", "tokens")

    def __init__(self) -> None:
        self.status = 0
        self.tokens = 0
        self.ended = False
        self.keep_alive = True
        self._head: bytes | None = b""  # None once it is whole
        self._chunked = False
        self._left = 0  # bytes of the chunk, its CRLF included; without chunks, of the body
        self._last = False
        self._line = b""  # of a chunk's size line, what has come
        self._carry = b""  # of a mark, what has come

    def feed(self, data: bytes) -> list[bytes]:
        """The marks that `data` completed, as digits."""
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return []
            self._head = None
            self._read_head(head.lower())
        text = self._carry + (self._dechunk(data) if self._chunked else self._counted(data))
        marks: list[bytes] = _MARK.findall(text)
        self.tokens += len(marks)
        # The last @ near the end opens a mark that goes on in the next read, unless it closes one.
        at = text.rfind(b"@", max(0, len(text) - _MARK_BYTES + 1))
        closes = at >= _MARK_BYTES - 1 and _MARK.match(text, at - _MARK_BYTES + 1) is not None
        self._carry = text[at:] if at >= 0 and not closes else b""
        return marks

    def _read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        self.keep_alive = head.startswith(b"http/1.1") and b"\r\nconnection: close" not in head
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        if not self._chunked:
            length = re.search(rb"\r\ncontent-length: *(\d+)", head)
            if length is None:
                raise ValueError("neither chunks nor a length: the end could not be told from a cut")
            self._left = int(length[1])
            self.ended = not self._left

    def _counted(self, data: bytes) -> bytes:
        data = data[: self._left]
        self._left -= len(data)
        self.ended = not self._left
        return data

    def _dechunk(self, data: bytes) -> bytes:
        if self._line:
            data, self._line = self._line + data, b""
        pieces = []
        at, end, left = 0, len(data), self._left
        while at < end:
            if not left:
                line = data.find(b"\r\n", at)
                if line < 0:
                    self._line = data[at:]
                    break
                size = int(data[at:line].partition(b";")[0], 16)
                self._last = not size  # what follows is no chunk but the empty line
                left = size + 2
                at = line + 2
                continue
            if left > 2:
                pieces.append(data[at : at + left - 2])
            step = min(left, end - at)
            at += step
            left -= step
            if self._last and not left:
                self.ended = True
                break
        self._left = left
        return b"".join(pieces)


@dataclasses.dataclass(slots=True)
class Result:
    """Of one run. Times to the first token (`ttft`) begin with the request, or with the connect before it."""

    wall_s: float
    cpu_s: float
    completed: int
    failed: dict[str, int]
    tokens: int
    open_peak: int  # streams that had their first token and not their last, at the same time
    ttft_ms: tuple[float, float]  # p50, p99
    latency_ms: tuple[float, float]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p99; zeros of nothing."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return (ordered[last // 2], ordered[last * 99 // 100]) if ordered else (0.0, 0.0)


class _Stream:
    __slots__ = ("answer", "asked_ns", "reused", "sock", "unsent")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.reused = False
        self.answer = Answer()
        self.asked_ns = 0
        self.unsent = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to ask, and how often. `total` streams, `streams` of them at a time, the first of them opened over `ramp_s`;
    with `seconds` no new one after that long, however many of `total` are left."""

    url: str
    body: str
    tokens: int  # what a whole answer has
    streams: int = 1
    total: int = 0
    seconds: float = 0.0
    ramp_s: float = 0.0
    timeout_s: float = 60.0
    timed: bool = True  # read the marks; without, only count them: half the work where tokens come in thousands


class Load:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        parts = urlsplit(plan.url)
        self._address = (parts.hostname, parts.port)
        body = plan.body.encode()
        self._request = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nAuthorization: Bearer any\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._total = plan.total or (1 << 60 if plan.seconds else plan.streams)
        self._epoll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self._started = 0
        self._completed = 0
        self._failed: Counter[str] = Counter()
        self._tokens = 0
        self._open = 0
        self._open_peak = 0
        self._ttft = array("d")
        self._latency = array("d")
        self._begin_ns = 0

    def run(self) -> Result:
        plan = self._plan
        self._begin_ns = begin_ns = time.monotonic_ns()
        first = min(plan.streams, self._total)
        opened = 0
        while opened < first or self._streams:
            now = time.monotonic_ns()
            if now - begin_ns > plan.timeout_s * 1e9:
                self._failed["timeout"] += first - opened + len(self._streams)
                break
            while opened < first and now - begin_ns >= plan.ramp_s * 1e9 * opened / first:
                self._open_next(_Stream())
                opened += 1
            for fd, events in self._epoll.poll(0.001 if opened < first else 0.1):
                stream = self._streams.get(fd)
                if stream is None:
                    continue
                if events & select.EPOLLOUT:
                    self._send(stream)
                else:
                    self._read(stream)
        end_ns = time.monotonic_ns()
        for stream in self._streams.values():
            if stream.sock is not None:
                stream.sock.close()
        return Result(
            wall_s=(end_ns - begin_ns) / 1e9,
            cpu_s=time.process_time(),
            completed=self._completed,
            failed=dict(self._failed),
            tokens=self._tokens,
            open_peak=self._open_peak,
            ttft_ms=percentiles(self._ttft),
            latency_ms=percentiles(self._latency),
        )

    def _open_next(self, stream: _Stream) -> None:
        """Ask once more, over the same connection where it is still open."""
        self._started += 1
        stream.answer = Answer()
        stream.asked_ns = time.monotonic_ns()
        stream.unsent = self._request
        stream.reused = stream.sock is not None
        if stream.sock is None:
            stream.sock = socket.socket()
            stream.sock.setblocking(False)
            stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.sock.connect_ex(self._address)  # in progress; the first send tells how it went
            self._streams[stream.sock.fileno()] = stream
            self._epoll.register(stream.sock, select.EPOLLOUT)
        else:
            self._send(stream)

    def _send(self, stream: _Stream) -> None:
        sock = stream.sock
        if sock is None:
            return
        try:
            stream.unsent = stream.unsent[sock.send(stream.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._broken(stream, "connect")
            return
        if not stream.unsent or stream.reused:
            self._epoll.modify(sock, select.EPOLLOUT if stream.unsent else select.EPOLLIN)

    def _read(self, stream: _Stream) -> None:
        sock, answer = stream.sock, stream.answer
        if sock is None:
            return
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            self._broken(stream, "closed early")
            return
        had = answer.tokens
        try:
            marks = answer.feed(data)
        except ValueError:
            self._end(stream, "not HTTP")
            return
        if marks:
            if not had:
                self._ttft.append((now - stream.asked_ns) / 1e6)
                self._open += 1
                self._open_peak = max(self._open_peak, self._open)
            self._tokens += len(marks)
            if self._plan.timed:
                for mark in marks:
                    self._latency.append((now - int(mark)) / 1e6)
        if answer.ended:
            if answer.status != 200:
                self._end(stream, f"status {answer.status}")
            elif answer.tokens != self._plan.tokens:
                self._end(stream, "tokens missing")
            else:
                self._end(stream, None)

    def _broken(self, stream: _Stream, why: str) -> None:
        if stream.reused and not stream.answer.status:  # an idle connection was closed on us: not this stream's fault
            self._disconnect(stream)
            self._started -= 1
            self._open_next(stream)
        else:
            self._end(stream, why)

    def _end(self, stream: _Stream, failure: str | None) -> None:
        if stream.answer.tokens:
            self._open -= 1
        if failure is None:
            self._completed += 1
        else:
            self._failed[failure] += 1
        if failure is not None or not stream.answer.keep_alive:
            self._disconnect(stream)
        plan = self._plan
        late = plan.seconds and time.monotonic_ns() - self._begin_ns > plan.seconds * 1e9
        hopeless = not self._completed and self._failed.total() > 64
        if self._started < self._total and not late and not hopeless:
            self._open_next(stream)
        else:
            self._disconnect(stream)

    def _disconnect(self, stream: _Stream) -> None:
        if stream.sock is not None:
            del self._streams[stream.sock.fileno()]
            stream.sock.close()
            stream.sock = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="A client of many streams at once.")
    parser.add_argument("url")
    parser.add_argument("--body", required=True)
    parser.add_argument("--tokens", type=int, required=True, help="what a whole answer has")
    parser.add_argument("--streams", type=int, default=1, help="at a time")
    parser.add_argument("--total", type=int, default=0, help="streams in all; 0: each once, or as --seconds allow")
    parser.add_argument("--seconds", type=float, default=0.0, help="start no stream after")
    parser.add_argument("--ramp-s", type=float, default=0.0, help="open the first streams over this long")
    parser.add_argument("--timeout-s", type=float, default=60.0)
    parser.add_argument("--untimed", dest="timed", action="store_false", help="count tokens without their latencies")
    plan = Plan(**vars(parser.parse_args()))
    gc.freeze()
    gc.disable()  # no cycles here, and a collection would pass for latency
    print(json.dumps(dataclasses.asdict(Load(plan).run())))


if __name__ == "__main__":
    main()
