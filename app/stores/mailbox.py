"""Mailboxes of the processes of one machine: a unix datagram socket each, in one folder.

A datagram is a whole mail, they arrive in order, and nobody waits: a socket whose process was killed refuses at once,
which is how its death is noticed. The kernel keeps as few as ten mails for a reader (net.unix.max_dgram_qlen), which a
busy event loop falls behind with in no time; so what finds no room waits at its sender, and is sent again soon.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import socket
import stat
import tempfile
import threading
import time
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
# What is kept for a mailbox without room. Then the oldest wait in vain, as does the mail: its reader stands still.
BACKLOG = 1000
RETRY_S = 0.005

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


class Mailboxes:
    """Those in `folder`. A mailbox's name is its file's: processes that see the folder elsewhere find it too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._sender: socket.socket | None = None
        self._own: tuple[str, socket.socket] | None = None
        self._pid = 0

    def listen(self, receive: Callable[[bytes], None]) -> str:
        """Raises `OSError`."""
        self._begin()
        self._make_folder()
        self._sweep()
        name = _new_name()
        box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            box.bind(str(self._folder / name))
        except BaseException:
            box.close()
            raise
        self._own = (name, box)
        if monkey.is_module_patched("threading"):
            gevent.spawn(self._receive, box, receive)
        else:
            threading.Thread(target=self._receive, args=(box, receive), daemon=True, name="mail").start()
        return name

    def send(self, mailbox: str, mail: bytes) -> bool:
        """False: nobody is there. Raises `OSError` where it can't be known."""
        if len(mail) > MAIL_BYTES:
            raise ValueError(f"a mail of {len(mail)} bytes; at most {MAIL_BYTES}")
        if not mailbox or "/" in mailbox or "\0" in mailbox:
            return False
        self._begin()
        with self._lock:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._sender.setblocking(False)
            try:
                self._sender.sendto(mail, str(self._folder / mailbox))
            except OSError as exc:
                if exc.errno in NOBODY:
                    return False
                if exc.errno in NO_ROOM:
                    return True
                raise
        return True

    def close(self) -> None:
        self._begin()
        with self._lock:
            if self._sender is not None:
                self._sender.close()
                self._sender = None
            own, self._own = self._own, None
        if own is not None:
            name, box = own
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            with contextlib.suppress(OSError):
                box.shutdown(socket.SHUT_RDWR)  # wakes a thread that is in recv; closing does not
            box.close()

    def _begin(self) -> None:
        """A forked child has no mailbox yet: what it sees here is its parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._sender = self._own = None

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "is not a folder of ours with mode 0700", str(self._folder))

    def _receive(self, box: socket.socket, receive: Callable[[bytes], None]) -> None:
        received = 0
        while True:
            try:
                mail = box.recv(MAIL_BYTES)
            except OSError:
                if box.fileno() < 0 or self._own is None or self._own[1] is not box:
                    return
                log.exception("a mail was not received")
                time.sleep(0.1)
                continue
            if self._own is None or self._own[1] is not box:
                return
            try:
                receive(mail)
            except Exception:
                log.exception("a mail was not understood")
            received += 1
            if received % TURN == 0:
                time.sleep(0)

    def _sweep(self) -> None:
        """Remove the sockets of processes that are gone."""
        with contextlib.suppress(OSError), os.scandir(self._folder) as found:
            for entry in found:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                    try:
                        probe.connect(entry.path)
                    except ConnectionRefusedError:
                        with contextlib.suppress(OSError):
                            os.unlink(entry.path)
                    except OSError:
                        continue
