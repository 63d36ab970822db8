"""The fake provider itself: a listening socket, a thread for every connection, and the scripts acted out on them.

Threads and blocking sockets are enough for hundreds of streams and work in any pytest process. Every thread is a
daemon and ends with `close()`.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Self, assert_never

from .books import Books, Departure, Stats
from .connection import Connection, Departed, Malformed, Request
from .framing import head
from .routes import respond
from .script import Ended, HangUp, Send, Stall, WaitUntil, reply
from .wires import WIRES


class FakeProvider:
    """A real HTTP server that speaks OpenAI Chat Completions, OpenAI Responses and Anthropic Messages, as well as the
    model's name lets it.

    It listens from construction until `close()`::

        with FakeProvider() as provider:
            client = openai.OpenAI(base_url=provider.openai_base_url, api_key="sk-test", max_retries=0)
            stream = client.chat.completions.create(model="fake-n20-cut5", messages=[...], stream=True)
            ...                                     # five tokens, then the connection breaks
            provider.wait_for(lambda stats: stats.faults == 1)

    With `api_key`, requests with another key get the protocol's 401; without, any key is taken, but none is still a
    401. `port=0` takes a free port.
    """

    def __init__(self, *, api_key: str | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.api_key = api_key
        self._books = Books()
        self._lock = threading.Lock()
        self._answering: set[Connection] = set()
        self._serving: dict[Connection, threading.Thread] = {}
        self._listener = socket.create_server((host, port), backlog=1024)
        self._host, self._port = self._listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, name="fake-provider", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def openai_base_url(self) -> str:
        """As `OPENAI_BASE_URL` wants it: with /v1."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """As `ANTHROPIC_BASE_URL` wants it: without /v1, which the SDK adds."""
        return self.url

    @property
    def env(self) -> dict[str, str]:
        """The environment that points a server's OpenAI and Anthropic SDKs here."""
        key = self.api_key or "sk-fake-provider-key-0001"
        return {
            "OPENAI_BASE_URL": self.openai_base_url,
            "OPENAI_API_KEY": key,
            "ANTHROPIC_BASE_URL": self.anthropic_base_url,
            "ANTHROPIC_API_KEY": key,
        }

    @property
    def requests(self) -> list[Request]:
        """The requests since the last reset, in the order they were read."""
        return self._books.requests

    @property
    def departures(self) -> list[Departure]:
        """Whose client left before the end, and when, since the last reset: as many as `stats().aborted`."""
        return self._books.departures

    def stats(self) -> Stats:
        """The numbers since the last reset. How an answer ended is in them before the client can have seen its end."""
        return self._books.stats()

    def wait_for(self, predicate: Callable[[Stats], bool], timeout_s: float = 30.0) -> Stats:
        """Wait until `predicate(stats)` holds and return those stats; AssertionError with the stats if it does not."""
        return self._books.wait_for(predicate, timeout_s)

    def reset(self) -> None:
        """Cut every answer under way and open new books. Idle keep-alive connections stay, so a pool stays warm."""
        self._books.reset()
        with self._lock:
            answering = list(self._answering)
        for connection in answering:
            connection.interrupt()

    def close(self) -> None:
        """Stop listening, cut every connection, and wait for all threads. A second call does nothing."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would not wake accept()
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            serving = dict(self._serving)
        for connection in serving:
            connection.interrupt()
        for thread in serving.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # close() was called
                return
            connection = Connection(sock)
            thread = threading.Thread(target=self._serve, args=[connection], name="fake-provider-stream", daemon=True)
            self._books.connected()
            with self._lock:
                self._serving[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            while (request := connection.read_request()) is not None:
                if not self._answer(connection, request) or request.headers.get("connection", "").lower() == "close":
                    break
        except Departed:
            pass
        except Malformed as exc:
            body = json.dumps(WIRES["/v1/chat/completions"].error(400, str(exc))).encode()
            with contextlib.suppress(Departed):
                connection.send(head(400, "application/json", {"Connection": "close"}, len(body)) + body)
        finally:
            connection.close()
            with self._lock:
                del self._serving[connection]

    def _answer(self, connection: Connection, request: Request) -> bool:
        """Act out the script; True if the connection may take another request."""
        if request.method == "GET" and request.path == "/stats":  # looking on changes no number
            for step in reply(200, asdict(self.stats())):
                if isinstance(step, Send):
                    connection.send(step.data)
            return True

        entry = self._books.begun(request)
        steps = respond(
            request, api_key=self.api_key, call_id=f"fake{entry.serial:06}", turn=entry.turn, created=int(time.time())
        )
        open_entry = True
        with self._lock:
            self._answering.add(connection)
        try:
            for step in steps:
                match step:
                    case WaitUntil(due_s):
                        connection.wait(request.at + due_s)
                    case Send(data):
                        connection.send(data)
                    case Ended(outcome):
                        self._books.ended(entry, outcome)
                        open_entry = False
                    case Stall():
                        connection.wait(None)
                    case HangUp(reset):
                        connection.close(reset=reset)
                        return False
                    case _:
                        assert_never(step)
        except Departed:
            return False
        finally:
            if open_entry:  # the client has left, or a step of ours failed
                self._books.ended(entry, "aborted")
            with self._lock:
                self._answering.discard(connection)
        return True
