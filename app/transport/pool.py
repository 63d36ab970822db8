"""Idle connections, by origin, the last used first: the fewest stay warm, the rest grow old and go.

Taking one costs the same however many there are. A connection is given out only while it is young and `fit`; what an
idle one has received meanwhile, an end or a stray response, makes it unfit.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections import deque

import httpx2

from ..cancel import Cancel
from .connection import Connection

Origin = tuple[str, str, int]  # scheme, host, port

# Below the idle time-outs of the large providers' load balancers, of which 60 s is the shortest seen.
IDLE_S = 30.0
MAX_IDLE = 256  # an origin


class Pool:
    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._idle: dict[Origin, deque[Connection]] = {}
        self._closed = False

    def take(self, origin: Origin, connect_s: float, cancel: Cancel | None = None) -> Connection:
        """A connection for one exchange: an idle one, or new. Raises httpx2's connect errors.

        From the moment it exists `cancel` aborts it; whoever has taken it removes that.
        """
        idle = self._idle.get(origin)
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was quicker
                break
            if time.monotonic() - connection.idle_since < IDLE_S and connection.fit:
                if cancel is not None:
                    cancel.add(connection.abort)
                return connection
            connection.close()
        connection = Connection()
        if cancel is not None:
            cancel.add(connection.abort)
        try:
            self._connect(connection, origin, connect_s)
        except BaseException:
            if cancel is not None:
                cancel.remove(connection.abort)
            raise
        return connection

    def _connect(self, connection: Connection, origin: Origin, connect_s: float) -> None:
        scheme, host, port = origin
        if scheme not in ("http", "https"):
            raise httpx2.UnsupportedProtocol(f"no such scheme: {scheme}")
        connection.connect(host, port, self._tls if scheme == "https" else None, connect_s)

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """After an exchange, whatever became of it."""
        if self._closed or not connection.reusable:
            connection.close()
            return
        connection.idle_since = now = time.monotonic()
        idle = self._idle.setdefault(origin, deque())
        idle.append(connection)
        with contextlib.suppress(IndexError):  # another thread was quicker
            while len(idle) > MAX_IDLE or now - idle[0].idle_since > IDLE_S:
                idle.popleft().close()

    def close(self) -> None:
        """The idle ones now, those at work when their exchange is over."""
        self._closed = True
        for idle in list(self._idle.values()):
            with contextlib.suppress(IndexError):
                while True:
                    idle.pop().close()
