"""Mailboxes of the processes of one machine: a unix datagram socket each, in one folder.

A datagram is a whole mail, they arrive in order, and nobody waits: a socket whose process was killed refuses at once,
which is how its death is noticed. The kernel keeps as few as ten mails for a reader (net.unix.max_dgram_qlen), and an
event loop that is busy for a moment does not read; so what finds no room stays with its sender, for a while and a
bound. A sender has a socket for each mailbox: what one reader leaves lying does not use up the room of the others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import select
import socket
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import gevent
from gevent import monkey

from .base import MAIL_BYTES

log = logging.getLogger("sluiceway")

# Of a socket's path: 107 bytes on Linux, 103 elsewhere.
PATH_BYTES = 100
# Mails that are handled before others in the event loop have their turn.
TURN = 32
# What waits at its sender for one reader. What comes then is lost: the reader stands still, or is far behind.
WAITING_MAILS = 1000
WAITING_BYTES = 2**20
# How often a mailbox looks whether its file is still there, and whether dead ones lie about.
LOOK_S = 5.0

NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ECONNRESET, errno.EPIPE, errno.EPROTOTYPE})
NO_ROOM = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


def folder_of(database: Path) -> Path:
    """Beside the database, or, where a socket's path would get too long there, in the folder for temporary files."""
    beside = database.with_name(database.name + ".mail")
    if len(os.fsencode(beside)) + len("/") + len(_new_name()) <= PATH_BYTES:
        return beside
    digest = hashlib.sha256(os.fsencode(os.path.realpath(database))).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"sluiceway-{os.getuid()}-{digest}")


def _new_name() -> str:
    return f"{os.getpid():07d}-{secrets.token_hex(8)}"


_NAME = re.compile(r"[0-9]{7,10}-[0-9a-f]{16}")


class _Way:
    """To one mailbox. `waiting`: mails that found no room; while there are any, a greenlet or thread sends them."""

    def __init__(self, path: Path) -> None:
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.socket = _socket()
        self.socket.setblocking(False)
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _beside(call: Callable[..., None], *args: object) -> None:
    """Run it in a greenlet, or, without gevent, in a thread."""
    if monkey.is_module_patched("threading"):
        gevent.spawn(call, *args)
    else:
        threading.Thread(target=call, args=args, daemon=True, name="sluiceway-mail").start()


class Mailboxes:
    """Those in `folder`. A mailbox's name is its file's: processes that see the folder elsewhere find it too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._lock = threading.Lock()
        self._ways: dict[str, _Way] = {}
        self._name = ""
        self._box: socket.socket | None = None

    def listen(self, receive: Callable[[bytes], None]) -> str:
        """Raises `OSError`."""
        self._begin()
        self._sweep()
        self._name = name = _new_name()
        self._box = box = self._bind(name)
        _beside(self._receive, name, box, receive)
        return name

    def send(self, mailbox: str, mail: bytes) -> bool:
        """False: nobody is there. Raises `OSError` where it can't be known."""
        if len(mail) > MAIL_BYTES:
            raise ValueError(f"a mail of {len(mail)} bytes; at most {MAIL_BYTES}")
        if not _NAME.fullmatch(mailbox):
            return False
        self._begin()
        with self._lock:
            known = mailbox in self._ways
            if not (there := self._send(mailbox, mail)) and known:
                there = self._send(mailbox, mail)  # its folder was removed, and it has opened it anew
            return there

    def close(self) -> None:
        self._begin()
        with self._lock:
            while self._ways:
                self._drop(next(iter(self._ways)))
            name, box, self._box = self._name, self._box, None
        if box is not None:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            with contextlib.suppress(OSError):
                box.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads from it; closing does not
            box.close()
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # if it was the last

    def _begin(self) -> None:
        """A forked child has no mailbox yet: what it sees here is its parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._ways = {}
            self._box = None

    def _bind(self, name: str) -> socket.socket:
        for last in (False, False, True):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self._folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise PermissionError(errno.EPERM, "not a folder of this user's with mode 0700", str(self._folder))
            box = _socket()
            try:
                box.bind(str(self._folder / name))
                box.settimeout(LOOK_S)
                return box
            except BaseException as exc:
                box.close()
                if last or not isinstance(exc, FileNotFoundError):  # another has just left, and taken the folder along
                    raise
        raise AssertionError

    def _send(self, mailbox: str, mail: bytes) -> bool:
        way = self._ways.get(mailbox)
        try:
            if way is None:
                way = self._ways[mailbox] = _Way(self._folder / mailbox)
            if not way.waiting:
                way.socket.send(mail)
                return True
        except OSError as exc:
            if exc.errno in NOBODY:
                self._drop(mailbox)
                return False
            if exc.errno not in NO_ROOM or way is None:
                self._drop(mailbox)
                raise
        if len(way.waiting) < WAITING_MAILS and way.waiting_bytes + len(mail) <= WAITING_BYTES:
            way.waiting.append(mail)
            way.waiting_bytes += len(mail)
            if len(way.waiting) == 1:
                _beside(self._send_waiting, mailbox, way)
        return True

    def _send_waiting(self, mailbox: str, way: _Way) -> None:
        while True:
            with self._lock:
                if self._ways.get(mailbox) is not way:
                    return
                try:
                    while way.waiting:
                        way.socket.send(way.waiting[0])
                        way.waiting_bytes -= len(way.waiting.popleft())
                    return
                except OSError as exc:
                    if exc.errno not in NO_ROOM:
                        self._drop(mailbox)
                        return
                room = select.poll()
                room.register(way.socket.fileno(), select.POLLOUT)
            room.poll(1000)

    def _drop(self, mailbox: str) -> None:
        if way := self._ways.pop(mailbox, None):
            way.socket.close()

    def _receive(self, name: str, box: socket.socket, receive: Callable[[bytes], None]) -> None:
        received = 0
        while True:
            try:
                mail = box.recv(MAIL_BYTES)
            except TimeoutError:
                box = self._look_after(name, box)
                continue
            except OSError:
                if self._box is not box:
                    return
                log.exception("a mail was not received")
                time.sleep(1)
                continue
            if self._box is not box:
                return
            try:
                receive(mail)
            except Exception:
                log.exception("a mail could not be used")
            received += 1
            if received % TURN == 0:
                time.sleep(0)

    def _look_after(self, name: str, box: socket.socket) -> socket.socket:
        """Somebody may have removed the folder together with the database: then nobody would reach us any more."""
        self._sweep()
        if self._box is box and not (self._folder / name).exists():
            try:
                fresh = self._bind(name)
            except OSError as exc:
                log.error("the mailbox is gone, and can't be opened anew: %s", exc)
                return box
            self._box = fresh
            box.close()
            return fresh
        return box

    def _sweep(self) -> None:
        """Remove the sockets of processes that are gone."""
        with contextlib.suppress(OSError), os.scandir(self._folder) as found:
            for entry in found:
                if _NAME.fullmatch(entry.name):
                    with _socket() as probe:
                        try:
                            probe.connect(entry.path)
                        except ConnectionRefusedError:
                            with contextlib.suppress(OSError):
                                os.unlink(entry.path)
                        except OSError:
                            continue
