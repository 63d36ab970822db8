"""The client's departure, seen at once, by watching its connection instead of writing to it.

WSGI knows no departures; a server notices one when a write fails, which is the second write after it, and never while
nothing is said. But gunicorn's workers (and Flask's development server) put the client's socket into the environ, and
the kernel tells of a peer that has closed, reset or shut down its sending side by `EPOLLRDHUP`, without anything being
read: so a request that is pipelined behind this one is neither taken nor taken for a departure.

One epoll a process holds the sockets of all open streams, and is itself one file that gevent's hub, or a thread, waits
for. Where there is no epoll (macOS), or the environ has no socket, the next write notices, a heartbeat at the latest.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent import monkey

Gone = Callable[[], None]

# gevent takes it away, as it would block the hub; asked with a timeout of 0 it does not wait.
_epoll: Any = (
    monkey.get_original("select", "epoll") if monkey.is_module_patched("select") else getattr(select, "epoll", None)
)
_poll: Any = monkey.get_original("select", "poll")


class _Watcher:
    """The sockets of one process. `gone` is called in the hub, or in a thread of its own: it must not wait."""

    def __init__(self) -> None:
        self._epoll = _epoll()
        self._watched: dict[int, Gone] = {}
        if monkey.is_module_patched("threading"):
            self._io = gevent.get_hub().loop.io(self._epoll.fileno(), 1, ref=False)
            self._io.start(self._look, 0)
        else:
            threading.Thread(target=self._wait, name="sluiceway-clients", daemon=True).start()

    def add(self, fd: int, gone: Gone) -> bool:
        """Whether it is watched now: one watch a socket, and none of one that is closed already."""
        try:
            self._epoll.register(fd, select.EPOLLRDHUP)  # EPOLLHUP and EPOLLERR come unasked
        except (OSError, ValueError):
            return False
        # The kernel forgets a socket when it is closed. What is still here was never closed by its stream.
        forgotten = self._watched.get(fd)
        self._watched[fd] = gone
        if forgotten is not None:
            forgotten()
        return True

    def remove(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(fd)

    def _look(self, timeout: float) -> None:
        for fd, _ in self._epoll.poll(timeout):
            gone = self._watched.get(fd)
            # Asked again, as meanwhile another thread may have closed that socket, and a new one have got its number.
            if gone is not None and _has_left(fd):
                self.remove(fd)
                gone()

    def _wait(self) -> None:
        while True:
            self._look(-1)


def _has_left(fd: int) -> bool:
    poll = _poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


_watcher: _Watcher | None = None
_making = threading.Lock()


def _of_this_process() -> _Watcher:
    global _watcher
    if _watcher is None:
        with _making:
            _watcher = _watcher or _Watcher()
    return _watcher


class ClientWatch:
    """Calls `gone` when the client of a request leaves, until `close`."""

    __slots__ = ("_fd",)

    def __init__(self, environ: Mapping[str, Any], gone: Gone) -> None:
        self._fd = -1
        if can_watch(environ):
            fd = socket_of(environ).fileno()
            if _of_this_process().add(fd, gone):
                self._fd = fd

    def close(self) -> None:
        """More than once. Before the server closes the socket, or asks it for its next request."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _of_this_process().remove(fd)


def can_watch(environ: Mapping[str, Any]) -> bool:
    """Whether departures are seen at once on this server."""
    return _epoll is not None and socket_of(environ) is not None


def socket_of(environ: Mapping[str, Any]) -> Any:
    """The client's, of the servers that tell it; else None."""
    return environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
