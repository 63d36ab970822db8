"""A WebSocket client on a bare socket, for what a proper one would not do. Its frames are wsproto's, or bytes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import time
from typing import Any

from callers import LINGER_0, Address
from wsproto.connection import CLIENT, Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage

DEADLINE_S = 20.0


def handshake(*lines: str, path: str = "/ws/chat", **headers: str) -> bytes:
    """`headers` stand for those that belong to one ("": without it); `_` is `-`."""
    named = {
        "Host": "sluiceway",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    fields = [f"{name}: {value}" for name, value in named.items() if value]
    return "\r\n".join([f"GET {path} HTTP/1.1", *fields, *lines, "", ""]).encode()


class Refused(Exception):
    """The answer to the handshake was not 101."""

    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.headers = headers
        self.body = body


class Client:
    """`read` gives the JSON messages one by one, `closed` the code of the server's close frame."""

    def __init__(self, address: Address, request: bytes | None = None, *, small: bool = False) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        if small:  # buffers that a slow reader's answer fills soon
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(address)
        self._until = 0.0
        self.pings = 0
        self.pongs: list[bytes] = []
        self.answers_pings = True
        self._messages: list[str] = []
        self._text = ""
        self._code: int | None = None
        self._ended = False
        try:
            self.sock.sendall(request or handshake())
            head, rest = self._head()
            self.status = int(head.split(b" ", 2)[1])
            self.headers = {
                name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): (.*?)\r?$", head.decode())
            }
            if self.status != 101:
                length = int(self.headers["content-length"])
                while len(rest) < length:
                    rest += self.sock.recv(65536)
                raise Refused(self.status, self.headers, json.loads(rest) if rest else None)
        except BaseException:
            self.sock.close()
            raise
        self.protocol = Connection(CLIENT, trailing_data=rest)
        for event in self.protocol.events():  # what came together with the head
            self._took(event)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _head(self) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = self.sock.recv(65536)
            assert piece, f"the connection ended within the head: {received!r}"
            received += piece
        head, _, rest = received.partition(b"\r\n\r\n")
        return head, rest

    def send(self, event: Event) -> None:
        self.sock.sendall(self.protocol.send(event))

    def say(self, message: str | dict[str, Any]) -> None:
        self.send(TextMessage(data=message if isinstance(message, str) else json.dumps(message)))

    def ask(self, model: str, message: str = "hi", **more: Any) -> None:
        self.say({"message": message, "model": model, **more})

    def read(self) -> dict[str, Any]:
        self._until = time.monotonic() + DEADLINE_S
        while not self._messages:
            assert not self._ended, f"the connection ended ({self._code}), and there was to be a message"
            self._receive()
        said: dict[str, Any] = json.loads(self._messages.pop(0))
        return said

    def answer(self) -> tuple[str, dict[str, Any]]:
        """The text of the answer that is running, and its last message."""
        texts: list[str] = []
        while (said := self.read())["type"] == "chunk":
            assert said.keys() == {"type", "text"}
            texts.append(said["text"])
        return "".join(texts), said

    def closed(self) -> int | None:
        """Reads to the end. None: the connection was cut."""
        self._until = time.monotonic() + DEADLINE_S
        while not self._ended:
            self._receive()
        return self._code

    def pong(self) -> bytes:
        self._until = time.monotonic() + DEADLINE_S
        while not self.pongs:
            assert not self._ended, "the connection ended before a pong"
            self._receive()
        return self.pongs.pop(0)

    def until_pinged(self, times: int) -> None:
        """So often in all."""
        self._until = time.monotonic() + DEADLINE_S
        while self.pings < times:
            assert not self._ended, "the connection ended before a ping"
            self._receive()

    def _receive(self) -> None:
        assert time.monotonic() < self._until, "the server has nothing more to say than pings"
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._ended = True
            return
        if self._code is not None:
            return
        self.protocol.receive_data(data)
        for event in self.protocol.events():
            self._took(event)

    def _took(self, event: Event) -> None:
        match event:
            case Message(data=data, message_finished=finished):
                assert not isinstance(event, BytesMessage)
                self._text += data
                if finished:
                    self._messages.append(self._text)
                    self._text = ""
            case Ping():
                self.pings += 1
                if self.answers_pings and self.protocol.state is ConnectionState.OPEN:
                    with contextlib.suppress(ConnectionError):  # it was sent before the end that comes now
                        self.send(event.response())
            case Pong(payload=payload):
                self.pongs.append(bytes(payload))
            case CloseConnection(code=code):
                self._code = int(code)
                if self.protocol.state is ConnectionState.REMOTE_CLOSING:
                    self.send(event.response())

    def leave(self, way: str) -> None:
        """Without a word of the protocol, unless it is "properly"."""
        if way == "properly":
            self.send(CloseConnection(code=1000))
            return
        if way == "half-close":
            self.sock.shutdown(socket.SHUT_WR)
            return
        if way == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        self.sock.close()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """As it is asked for, right or wrong."""
    head = bytes([(fin << 7) | (rsv << 4) | opcode])
    bit = masked << 7
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + len(payload).to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload  # masked with zeros: as it is
