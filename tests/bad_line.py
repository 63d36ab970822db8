"""A bad line between a client and the service, and a server that says what a test has written down."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Listening:
    """On a port of its own; `serve` gets each connection, in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._run, args=[client], daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        self._open.add(client)
        with contextlib.suppress(OSError), client:
            self._serve(client)
        self._open.discard(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class BadLine(Listening):
    """In front of a port. It ends the answers of its first connections, each behind so many bytes, or behind the first
    occurrence of some; connections without these stay whole, and so do all later ones. `silent`: an end is not told,
    nothing comes any more. `ended`: what those that were ended had brought."""

    def __init__(self, port: int, *ends: int | bytes, silent: bool = False) -> None:
        self._target = port
        self._ends = list(ends)
        self._silent = silent
        self.ended: list[bytes] = []
        super().__init__(self._pass)

    def _pass(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as service:
            threading.Thread(target=self._up, args=[client, service], daemon=True).start()
            brought = b""
            while data := service.recv(65536):
                if self._ends and (end := self._end_of(brought + data)) is not None:
                    client.sendall((brought + data)[len(brought) : end])
                    self.ended.append((brought + data)[:end])
                    if self._silent:
                        while service.recv(65536):
                            pass
                    client.shutdown(socket.SHUT_RDWR)
                    return
                brought += data
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _end_of(self, brought: bytes) -> int | None:
        end = self._ends[0]
        at = brought.find(end) + len(end) if isinstance(end, bytes) and end in brought else end
        if isinstance(at, bytes) or at > len(brought):
            return None
        self._ends.pop(0)
        return at

    def _up(self, client: socket.socket, service: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                service.sendall(data)
        with contextlib.suppress(OSError):
            service.shutdown(socket.SHUT_RDWR)


class Canned(Listening):
    """Says one of `answers` to each request but DELETE, in their order, and closes; `asked` has the requests' heads."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        super().__init__(self._say)

    def _say(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (data := client.recv(65536)):
                return
            request += data
        head, _, body = request.partition(b"\r\n\r\n")
        told = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))
        }
        while len(body) < int(told.get("content-length", 0)):
            body += client.recv(65536)
        self.asked.append(head.decode())
        if head.startswith(b"DELETE"):
            client.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            client.sendall(self._answers.pop(0))
        client.shutdown(socket.SHUT_WR)
        client.recv(1)  # until it has taken it
