"""A fake provider of OpenAI Chat Completions and Anthropic Messages that is never the bottleneck: one process, one
epoll loop.

`app/testing` has one for tests, with a thread a stream and every kind of failure; this one does one thing, fast. The
model's name says what: `bench-n100-i50` is 100 tokens, one each 50 ms; without `i` they go out as the socket takes
them.

On the wire it is what the two send: for each token a frame of about 250 bytes (OpenAI) or 130 (Anthropic), each frame
in an HTTP chunk of its own, `usage` where it was asked for, keep-alive. A token's text is `@<CLOCK_MONOTONIC, ns>@`,
the moment at which it was written, so that whoever reads it on the same machine knows how long it was on its way.

    python -m bench.provider --port 9000     GET /stats: streams open, requests, tokens written, streams cut
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import heapq
import json
import re
import select
import socket
import time
from typing import Any

# Tokens in one write of a stream without a pace, about 32 KB: beyond it the cost of a write is copying.
BATCH = 128

# The reading of a clock as text, of one width, so that a frame is two constants around it. Enough for 31 years.
DIGITS = 18

_CLOCK = b"9" * DIGITS  # where the clock's reading stands

_BEHAVIOUR = re.compile(r"-n(\d+)(?:-i(\d+))?$")
_WAITS = select.EPOLLIN | select.EPOLLRDHUP
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Script:
    """What one request is answered, rendered as far as the clock allows: `start`, `batch` for tokens, `end`."""

    __slots__ = ("_after", "_before", "end", "interval_ns", "start", "tokens")

    def __init__(self, number: int, request: dict[str, Any]) -> None:
        """Raises ValueError for what it can't act out."""
        model = str(request.get("model"))
        behaviour = _BEHAVIOUR.search(model)
        if behaviour is None or not request.get("stream"):
            raise ValueError(f"model {model!r} streams nothing; wanted is a name like bench-n100-i50, and stream: true")
        self.tokens = int(behaviour[1])
        self.interval_ns = int(behaviour[2] or 0) * 1_000_000
        wire = self._messages if request.get("path") == "/v1/messages" else self._chat
        start, token, self.end = wire(number, model, request)
        self.start = _HEAD + start
        self._before, self._after = token.split(_CLOCK)

    def _chat(self, number: int, model: str, request: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
        """What comes before the tokens, one of them, and what comes behind."""
        usage = bool((request.get("stream_options") or {}).get("include_usage"))

        def frame(choices: str, used: str = "null") -> bytes:
            about = f'"id":"chatcmpl-bench{number:012d}","object":"chat.completion.chunk","created":1760000000'
            extra = f',"usage":{used}' if usage else ""
            data = f'{{{about},"model":"{model}","system_fingerprint":"fp_07871e2ad8","choices":[{choices}]{extra}}}'
            return _chunk(b"data: %b\n\n" % data.encode())

        def choice(delta: str, reason: str = "null") -> bytes:
            return frame(f'{{"index":0,"delta":{{{delta}}},"logprobs":null,"finish_reason":{reason}}}')

        end = choice("", '"stop"')
        if usage:
            counts = f'"prompt_tokens":9,"completion_tokens":{self.tokens},"total_tokens":{9 + self.tokens}'
            end += frame("", f"{{{counts}}}")
        end += _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        start = choice('"role":"assistant","content":"","refusal":null')
        return start, choice(f'"content":"@{_CLOCK.decode()}@"'), end

    def _messages(self, number: int, model: str, request: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
        def frame(name: str, **data: Any) -> bytes:
            said = json.dumps({"type": name, **data}, separators=(",", ":"))
            return _chunk(f"event: {name}\ndata: {said}\n\n".encode())

        message = {
            "id": f"msg_bench{number:012d}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
        }
        used = {"input_tokens": 9, "output_tokens": 1}
        start = frame("message_start", message={**message, "stop_reason": None, "usage": used})
        start += frame("content_block_start", index=0, content_block={"type": "text", "text": ""})
        text = f"@{_CLOCK.decode()}@"
        token = frame("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        end = frame("content_block_stop", index=0)
        end += frame("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": self.tokens})
        return start, token, end + frame("message_stop") + b"0\r\n\r\n"

    def batch(self, tokens: int) -> bytes:
        return b"%b%0*d%b" % (self._before, DIGITS, time.monotonic_ns(), self._after) * tokens


class Connection:
    """A client's connection; `script` while a request is being answered."""

    __slots__ = ("fd", "left", "received", "script", "sock", "unsent", "watched")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.received = b""
        self.script: Script | None = None
        self.left = 0  # tokens that are not rendered yet
        self.unsent = bytearray()
        self.watched = _WAITS

    def take_request(self) -> dict[str, Any] | None:
        """The next request that is complete in `received`, as its body with `path` put in. Raises ValueError."""
        head, mark, rest = self.received.partition(b"\r\n\r\n")
        if not mark:
            return None
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return None
        self.received = rest[size:]
        method, path, _ = head.split(b" ", 2)
        if method == b"GET":
            return {"path": path.decode()}
        body = json.loads(rest[:size])
        if not isinstance(body, dict):
            raise ValueError("the body is no object")
        return {**body, "path": path.decode()}


class Provider:
    """The loop. `run` returns never."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._listener = socket.create_server((host, port), backlog=4096)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        # (when, order, connection) of the next token of each stream with a pace.
        self._due: list[tuple[int, int, Connection]] = []
        self._stats = {"open": 0, "requests": 0, "tokens": 0, "cut": 0}

    def run(self) -> None:
        while True:
            self._wait()
            for fd, events in self._epoll.poll(0):
                if fd == self._listener.fileno():
                    self._accept()
                elif connection := self._connections.get(fd):
                    self._serve(connection, events)
            now = time.monotonic_ns()
            while self._due and self._due[0][0] <= now:
                self._tick()

    def _wait(self) -> None:
        # epoll counts in whole milliseconds, in which 20 tokens of 1,000 streams would come due and leave together;
        # select counts in microseconds, and an epoll's own descriptor can be waited for.
        until_s = (self._due[0][0] - time.monotonic_ns()) / 1e9 if self._due else 60.0
        if until_s > 0:
            select.select([self._epoll], [], [], until_s)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[sock.fileno()] = Connection(sock)
                self._epoll.register(sock, _WAITS)

    def _serve(self, connection: Connection, events: int) -> None:
        if events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            self._close(connection)
            return
        if events & select.EPOLLIN:
            try:
                data = connection.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._close(connection)
                return
            connection.received += data
            self._answer(connection)
        if events & select.EPOLLOUT:
            if connection.unsent:
                self._send(connection, b"")
            else:  # one batch a turn, so that all streams have their share
                self._tokens(connection, min(BATCH, connection.left))

    def _answer(self, connection: Connection) -> None:
        """Start on the next request. Nobody here sends one before the last is answered."""
        try:
            request = connection.take_request()
            if request is None:
                return
            if request["path"] == "/stats":
                self._whole(connection, 200, self._stats)
                return
            script = Script(self._stats["requests"] + 1, request)
        except ValueError as exc:
            self._whole(connection, 400, {"error": {"message": str(exc), "type": "invalid_request_error"}})
            return
        self._stats["requests"] += 1
        self._stats["open"] += 1
        connection.script = script
        connection.left = script.tokens
        if script.interval_ns and script.tokens:
            # The first token leaves with the headers; those who ask at different moments stay out of step.
            self._due_next(connection, time.monotonic_ns())
            self._tokens(connection, 1, script.start)
        else:
            self._tokens(connection, min(BATCH, script.tokens), script.start)

    def _due_next(self, connection: Connection, after_ns: int) -> None:
        script = connection.script
        if script is not None and connection.left > 1:
            heapq.heappush(self._due, (after_ns + script.interval_ns, id(connection), connection))

    def _tick(self) -> None:
        when, _, connection = heapq.heappop(self._due)
        if connection.script is not None:
            self._due_next(connection, when)  # from when it was due, so that being late once is caught up with
            self._tokens(connection, 1)

    def _tokens(self, connection: Connection, tokens: int, before: bytes = b"") -> None:
        """Render and send the next of the stream, with all that belongs behind the last one."""
        script = connection.script
        if script is None:
            return
        connection.left -= tokens
        self._stats["tokens"] += tokens
        data = before + script.batch(tokens)
        if not connection.left:
            data += script.end
            connection.script = None
            self._stats["open"] -= 1
        self._send(connection, data)

    def _send(self, connection: Connection, data: bytes) -> None:
        """Send what is left from before and `data`, as far as the socket takes it."""
        unsent = connection.unsent
        if unsent:
            unsent += data
        try:
            sent = connection.sock.send(unsent or data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        if unsent:
            del unsent[:sent]
        elif sent < len(data):
            unsent += memoryview(data)[sent:]
        script = connection.script
        more = bool(unsent) or (script is not None and not script.interval_ns)
        self._watch(connection, _WAITS | select.EPOLLOUT if more else _WAITS)

    def _watch(self, connection: Connection, events: int) -> None:
        if events != connection.watched and connection.fd in self._connections:
            connection.watched = events
            self._epoll.modify(connection.fd, events)

    def _whole(self, connection: Connection, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._send(connection, head.encode() + body)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        if connection.script is not None:
            connection.script = None
            self._stats["open"] -= 1
            self._stats["cut"] += 1
        connection.sock.close()  # epoll forgets it by itself


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.provider", description="A fake provider for benchmarks.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    provider = Provider(port=parser.parse_args().port)
    print(json.dumps({"port": provider.port}), flush=True)
    gc.freeze()
    gc.disable()  # no cycles here, and a collection would be a pause in every stream
    with contextlib.suppress(KeyboardInterrupt):
        provider.run()


if __name__ == "__main__":
    main()
