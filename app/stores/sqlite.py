"""A room for the workers of one machine: a SQLite file they share, and mailboxes beside it.

SQLite blocks its thread, and under gevent the thread is everybody's: a commit that waits for a disk, or for another
process's lock, would stop every stream (STACK.md section 6). So there all SQL runs in two real threads, one that
writes and one that reads, and only the calling greenlet waits. Elsewhere the caller runs it, under a lock.

The trap in it is the GIL. Each step of a statement gives it back and takes it again, and while the event loop computes,
each taking costs up to `sys.getswitchinterval()`, 5 ms. A call here is therefore one or two statements, whatever it
carries: many rows go in, and come out, as one JSON text, which SQLite takes apart.

A write costs by the page it touches: 8 us each, and 2 us a row (measured 2026-11-22). Kept by stream alone, the tokens
of a hundred streams touch a hundred pages at each flush. So they go into `fresh` as they come, and from there, many at
a time, to their places in `entries`: 430 us for a hundred of them instead of 1100. Reading looks into both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty
from typing import Any, ClassVar, TypeVar, cast

import gevent
import msgspec
from gevent import monkey
from gevent.hub import Waiter

from ..errors import StoreUnavailable
from .base import PATIENCE_S, Entry, Page, Record
from .mailbox import Mailboxes, folder_of

log = logging.getLogger("sluiceway")

T = TypeVar("T")

# Of one stream's data, in characters. A stream that has as much is refused more, as one that has ended.
STREAM_CHARACTERS = 32_000_000
PAGE_ENTRIES = 200
FRESH_ROWS = 2000  # settled in 5 ms with the write lock
SWEEP_S = 5.0
MORE_S = 0.05  # where a sweep has left something
SWEEP_ENTRIES = 500  # a transaction: 1-2 ms with the write lock
SWEEP_STREAMS = 50
KEPT_PAGES = 2500  # free ones in the file, to be used again: 10 MB
FREE_PAGES = 250  # given back to the file system in one go
WAL_BYTES = 16 * 2**20
BUSY_MS = 1500  # below PATIENCE_S

VERSION = 1  # PRAGMA user_version
APPLICATION = 0x536C7569  # PRAGMA application_id: "Slui"

# A stream's entries lie together, in order: `place` is its serial in the high 32 bits and the entry's first event in
# the low. `ended` is the number of the terminal event, 0 before it.
SCHEMA = """
CREATE TABLE streams (
    serial INTEGER PRIMARY KEY, id TEXT UNIQUE, owner TEXT NOT NULL, format TEXT NOT NULL, home TEXT NOT NULL,
    created INTEGER NOT NULL, seed TEXT NOT NULL, body_hash TEXT NOT NULL, key TEXT, chat TEXT,
    expires REAL NOT NULL, ended INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX streams_key ON streams (owner, key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX streams_chat ON streams (owner, chat) WHERE chat IS NOT NULL;
CREATE INDEX streams_expires ON streams (expires);
CREATE TABLE entries (place INTEGER PRIMARY KEY, last INTEGER NOT NULL, data TEXT NOT NULL);
CREATE TABLE fresh (n INTEGER PRIMARY KEY, place INTEGER NOT NULL, last INTEGER NOT NULL, data TEXT NOT NULL);
CREATE INDEX fresh_place ON fresh (place);
CREATE TABLE probe (one INTEGER PRIMARY KEY, at REAL NOT NULL);
"""

FIND = "SELECT id, owner, format, home, created, seed, body_hash FROM streams WHERE id = ? AND expires > ?"
FIND_KEY = """
SELECT id, owner, format, home, created, seed, body_hash FROM streams WHERE owner = ? AND key = ? AND expires > ?
"""
FIND_CHAT = "SELECT id FROM streams WHERE owner = ? AND chat = ? AND expires > ?"
CREATE = """
INSERT INTO streams (id, owner, format, home, created, seed, body_hash, key, chat, expires)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
APPEND = """
INSERT INTO fresh (place, last, data)
SELECT streams.serial << 32 | (new.value ->> 1), new.value ->> 2, new.value ->> 3
FROM json_each(?) AS new JOIN streams ON streams.id = new.value ->> 0 WHERE streams.ended = 0 AND streams.expires > ?
"""
# Begins again with n = 1, so that n counts the rows.
SETTLE = ("INSERT OR REPLACE INTO entries SELECT place, last, data FROM fresh ORDER BY place", "DELETE FROM fresh")
TAKE_BACK = """
DELETE FROM entries WHERE place IN (
    SELECT entries.place FROM json_each(?) AS new JOIN streams ON streams.id = new.key
    JOIN entries ON entries.place BETWEEN streams.serial << 32 | new.value AND streams.serial << 32 | 0xffffffff
    WHERE streams.ended = 0 AND streams.expires > ?)
"""
OPEN = """
SELECT id FROM streams WHERE id IN (SELECT value FROM json_each(?)) AND ended = 0 AND expires > ?
"""
END = """
UPDATE streams SET ended = new.value, expires = ? FROM json_each(?) AS new
WHERE streams.id = new.key AND ended = 0 AND expires > ?
"""
LAST = """
SELECT serial, (SELECT last FROM entries WHERE place BETWEEN serial << 32 AND serial << 32 | 0xffffffff
                ORDER BY place DESC LIMIT 1)
FROM streams WHERE id = ? AND ended = 0 AND expires > ?
"""
SWEEP = "DELETE FROM entries WHERE place IN (SELECT place FROM entries WHERE place BETWEEN ? AND ? LIMIT ?)"
READ = """
WITH stream AS MATERIALIZED (SELECT * FROM streams WHERE id = :id AND expires > :now),
    new AS MATERIALIZED (
        SELECT fresh.place, fresh.last, fresh.data FROM stream JOIN fresh
        ON fresh.place BETWEEN stream.serial << 32 AND stream.serial << 32 | 0xffffffff)
SELECT id, owner, format, home, created, seed, body_hash, ended,
    ifnull((SELECT max(last) FROM new),
           (SELECT last FROM entries WHERE place BETWEEN serial << 32 AND serial << 32 | 0xffffffff
            ORDER BY place DESC LIMIT 1)),
    (SELECT json_group_array(json_array(place & 0xffffffff, last, data)) FROM (
        SELECT * FROM (
            SELECT place, last, data FROM entries
            WHERE place >= ifnull((SELECT max(place) FROM entries
                                   WHERE place BETWEEN serial << 32 AND serial << 32 | :after), serial << 32)
                AND place <= serial << 32 | 0xffffffff AND last > :after
            ORDER BY place LIMIT :page)
        UNION ALL SELECT place, last, data FROM new WHERE last > :after
        ORDER BY place LIMIT :page))
FROM stream
"""

# What a person can do about it, by SQLite's primary result code.
ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away, with its -wal and -shm, and a new one is begun",
    sqlite3.SQLITE_NOTADB: "this file is no database of ours: move it away, and a new one is begun",
    sqlite3.SQLITE_READONLY: "it may not be written to: see to the rights of the file and of its folder",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: see to the rights of the file and of its folder",
    sqlite3.SQLITE_BUSY: "another process has held its lock for too long",
}

_new_queue = monkey.get_original("queue", "SimpleQueue")
_new_lock = monkey.get_original("_thread", "allocate_lock")
_start_thread = monkey.get_original("_thread", "start_new_thread")

_numbers = msgspec.json.Decoder(list[tuple[int, int, str]])


class Unusable(Exception):
    """The file, or the way to it, as it is; the text says why."""


class SQLite:
    """`sqlite:///path` relative to the working directory, `sqlite:////path` absolute."""

    name: ClassVar[str] = "sqlite"

    def __init__(self, url: str, *, lifetime_s: float, ttl_s: float) -> None:
        scheme, separator, path = url.partition(":///")
        if scheme != "sqlite" or not separator or not path:
            raise ValueError("not the URL of a SQLite file: 'sqlite:///path', with a fourth / for an absolute one")
        if path.startswith(":memory:"):
            raise ValueError("a database in memory has nothing to share between workers: name a file")
        self._path = Path(os.path.abspath(path))
        self._lifetime_s = lifetime_s
        self._ttl_s = ttl_s
        self._writer = Line(self._path, self._tidy)
        self._reader = Line(self._path)
        self._mail = Mailboxes(folder_of(self._path))
        self._own: dict[str, _Own] = {}
        self._look_through_at = 1000
        self._sweep_at = 0.0
        self._fresh_rows = 0

    def listen(self, receive: Callable[[bytes], None]) -> str:
        try:
            return self._mail.listen(receive)
        except OSError as exc:
            raise StoreUnavailable(self.name, f"no mailbox: {exc}") from exc

    def send(self, mailbox: str, mail: bytes) -> bool:
        try:
            return self._mail.send(mailbox, mail)
        except OSError as exc:
            raise StoreUnavailable(self.name, f"no mail to {mailbox}: {exc}") from exc

    def create(self, record: Record, *, key: str | None, chat: str | None) -> Record:
        left = False  # then nobody would write what is begun here

        def write(db: sqlite3.Connection) -> Record:
            now = time.time()
            with transaction(db):
                if key is not None:
                    if found := db.execute(FIND_KEY, (record.owner, key, now)).fetchone():
                        return record_of(found)
                    db.execute("UPDATE streams SET key = NULL WHERE owner = ? AND key = ?", (record.owner, key))
                if chat is not None:
                    db.execute("UPDATE streams SET chat = NULL WHERE owner = ? AND chat = ?", (record.owner, chat))
                db.execute(CREATE, (*msgspec.structs.astuple(record), key, chat, now + self._lifetime_s))
                if left:
                    raise Unusable("its caller has left")
            return record

        try:
            return self._ask(self._writer, write)
        except BaseException:
            left = True
            raise

    def append(self, entries: Sequence[Entry]) -> set[str]:
        refused: set[str] = set()
        rows: list[tuple[str, int, int, str]] = []
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for entry in entries:
            stream = entry.stream
            if stream not in begins:
                begins[stream] = entry.first
                sizes[stream] = own.characters if (own := self._own.get(stream)) else 0
            sizes[stream] += len(entry.data)
            if sizes[stream] > STREAM_CHARACTERS or stream in ends:
                refused.add(stream)
                continue
            rows.append((stream, entry.first, entry.last, entry.data))
            if entry.ended:
                ends[stream] = entry.last
        if rows:
            text = msgspec.json.encode(rows).decode()

            # A writer who was told that the store can't be used, when it had written, writes the same events again.
            again = {stream: first for stream, first in begins.items() if (own := self._own.get(stream)) and own.unsure}

            def write(db: sqlite3.Connection) -> set[str]:
                now = time.time()
                with transaction(db) if ends or again else contextlib.nullcontext():
                    if again:
                        settle(db)
                        db.execute(TAKE_BACK, (encoded(again), now))
                    cursor = db.execute(APPEND, (text, now))
                    shut = set()
                    if cursor.rowcount == len(rows):
                        self._fresh_rows = cursor.lastrowid or 0
                    else:
                        shut = begins.keys() - {id for (id,) in db.execute(OPEN, (encoded(list(begins)), now))}
                    if ends:
                        db.execute(END, (now + self._ttl_s, encoded(ends), now))
                return shut

            try:
                refused |= self._ask(self._writer, write)
            except BaseException:
                for stream in begins:
                    self._own_stream(stream).unsure = True
                raise
        for stream, size in sizes.items():
            if stream in ends or (stream in refused and size <= STREAM_CHARACTERS):
                self._own.pop(stream, None)
            else:
                own = self._own_stream(stream)
                own.characters, own.unsure = size, False
        return refused

    def _own_stream(self, stream: str) -> _Own:
        if (own := self._own.get(stream)) is None:
            now = time.monotonic()
            if len(self._own) >= self._look_through_at:  # not all of them are ended by who began them
                self._own = {name: own for name, own in self._own.items() if own.until > now}
                self._look_through_at = max(1000, 2 * len(self._own))
            own = self._own[stream] = _Own(now + self._lifetime_s)
        return own

    def end(self, stream: str, data: str) -> int:
        def write(db: sqlite3.Connection) -> int:
            now = time.time()
            with transaction(db):
                settle(db)
                found = db.execute(LAST, (stream, now)).fetchone()
                if found is None:
                    return 0
                serial, last = found
                number = int(last or 0) + 1
                db.execute("INSERT INTO entries VALUES (?, ?, ?)", (serial << 32 | number, number, data))
                db.execute(
                    "UPDATE streams SET ended = ?, expires = ? WHERE serial = ?", (number, now + self._ttl_s, serial)
                )
            return number

        return self._ask(self._writer, write)

    def read(self, stream: str, after: int = 0) -> Page | None:
        after = min(max(after, 0), 0xFFFFFFFF)

        def select(db: sqlite3.Connection) -> Any:
            return db.execute(READ, {"id": stream, "after": after, "now": time.time(), "page": PAGE_ENTRIES}).fetchone()

        found = self._ask(self._reader, select)
        if found is None:
            return None
        *fields, ended, last, entries = found
        return Page(
            record_of(fields),
            [Entry(stream, first, end, data, end == ended) for first, end, data in _numbers.decode(entries)],
            last or 0,
            ended > 0,
        )

    def find(self, stream: str) -> Record | None:
        found = self._ask(self._reader, lambda db: db.execute(FIND, (stream, time.time())).fetchone())
        return record_of(found) if found else None

    def find_key(self, owner: str, key: str) -> str | None:
        found = self._ask(self._reader, lambda db: db.execute(FIND_KEY, (owner, key, time.time())).fetchone())
        return str(found[0]) if found else None

    def find_chat(self, owner: str, chat: str) -> str | None:
        found = self._ask(self._reader, lambda db: db.execute(FIND_CHAT, (owner, chat, time.time())).fetchone())
        return str(found[0]) if found else None

    def forget(self, stream: str) -> None:
        self._own.pop(stream, None)
        self._ask(
            self._writer,
            lambda db: db.execute(
                "UPDATE streams SET id = NULL, key = NULL, chat = NULL, expires = 0 WHERE id = ?", (stream,)
            ),
        )

    def check(self) -> None:
        self._ask(self._writer, lambda db: db.execute("INSERT OR REPLACE INTO probe VALUES (1, ?)", (time.time(),)))
        self._ask(self._reader, lambda db: db.execute("SELECT at FROM probe").fetchone())

    def close(self) -> None:
        self._mail.close()
        self._writer.close()
        self._reader.close()

    def _ask(self, line: Line, call: Callable[[sqlite3.Connection], T]) -> T:
        try:
            value = line.run(call)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except (sqlite3.Error, OSError, Unusable) as exc:
            why = f"{self._path}: {reason(exc)}"
            known = why in (self._writer.trouble, self._reader.trouble)
            line.trouble = why
            if not known:
                log.error("the store can't be used: %s", why)
            raise StoreUnavailable(self.name, why) from exc
        if line.trouble:
            line.trouble = ""
            if not (self._writer.trouble or self._reader.trouble):
                log.warning("the store can be used again: %s", self._path)
        return value

    def _tidy(self, db: sqlite3.Connection) -> float:
        """What is done between calls, a little at a time. Gives the seconds until there is something again."""
        if self._fresh_rows >= FRESH_ROWS:
            self._fresh_rows = 0
            with transaction(db):
                settle(db)
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + (MORE_S if self._sweep(db) else SWEEP_S)
        return self._sweep_at - now

    def _sweep(self, db: sqlite3.Connection) -> bool:
        """Remove some of what has expired; whether there may be more."""
        now = time.time()
        expired = db.execute("SELECT serial FROM streams WHERE expires <= ? LIMIT ?", (now, SWEEP_STREAMS)).fetchall()
        if not expired:
            free: int = db.execute("PRAGMA freelist_count").fetchone()[0]
            if free > KEPT_PAGES:
                db.execute(f"PRAGMA incremental_vacuum({FREE_PAGES})").fetchall()
            return free > KEPT_PAGES
        with transaction(db):
            settle(db)
            left = SWEEP_ENTRIES
            for (serial,) in expired:
                left -= db.execute(SWEEP, (serial << 32, serial << 32 | 0xFFFFFFFF, left)).rowcount
                if left <= 0:
                    break
                db.execute("DELETE FROM streams WHERE serial = ? AND expires <= ?", (serial, now))
        return True


class _Own:
    """A stream that this process writes. `unsure`: it was told that a write failed, and it may not have."""

    __slots__ = ("characters", "unsure", "until")

    def __init__(self, until: float) -> None:
        self.characters = 0
        self.unsure = False
        self.until = until


def record_of(fields: Sequence[Any]) -> Record:
    return Record(**dict(zip(Record.__struct_fields__, fields, strict=True)))


def encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Any:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def settle(db: sqlite3.Connection) -> None:
    for statement in SETTLE:
        db.execute(statement)


def reason(exc: Exception) -> str:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    return f"{ADVICE[code]} ({exc})" if code in ADVICE else str(exc)


class _Job:
    __slots__ = ("abandoned", "call", "deadline", "error", "loop", "value", "waiter")

    def __init__(self, call: Callable[[sqlite3.Connection], Any], deadline: float) -> None:
        self.call = call
        self.deadline = deadline
        self.abandoned = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.waiter = Waiter()
        self.loop = gevent.get_hub().loop


class Line:
    """A connection, and who runs its calls one at a time: a real thread under gevent, the callers without it.

    `after` runs behind each call, and in an idle thread again after the seconds it gave.
    """

    def __init__(self, path: Path, after: Callable[[sqlite3.Connection], float] | None = None) -> None:
        self.trouble = ""  # what was logged last, and still holds
        self._path = path
        self._after = after
        self._lock = _new_lock()  # held by who uses the connection
        self._jobs: Any = None
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)
        self._looked_at = 0.0
        self._busy_ms = 0
        self._held_for_fork = False
        _LINES.add(self)

    def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        deadline = time.monotonic() + PATIENCE_S
        if not monkey.is_module_patched("threading"):
            if not self._lock.acquire(timeout=PATIENCE_S):
                raise Unusable(f"no answer within {PATIENCE_S:g} s")
            try:
                value = self._do(call, deadline)
                self._tidy()
                return value
            finally:
                self._lock.release()
        job = _Job(call, deadline)
        if self._jobs is None:
            self._jobs = _new_queue()
            _start_thread(self._serve, (self._jobs,))
        self._jobs.put(job)
        answered = None
        try:
            with gevent.Timeout(PATIENCE_S, False):
                answered = job.waiter.get()
        finally:
            job.abandoned = answered is None
        if job.abandoned:
            raise Unusable(f"no answer within {PATIENCE_S:g} s")
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None
        return cast(T, job.value)

    def close(self) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            jobs.put(None)  # the thread closes its connection behind what it has still to do
        elif self._lock.acquire(timeout=PATIENCE_S):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _serve(self, jobs: Any) -> None:
        idle_s: float | None = None
        while True:
            try:
                job = jobs.get(timeout=idle_s)
            except Empty:
                with self._lock:
                    idle_s = self._tidy()
                continue
            with self._lock:
                if job is None:
                    self._drop()
                    return
                if job.abandoned or time.monotonic() > job.deadline:
                    continue
                try:
                    job.value = self._do(job.call, job.deadline)
                except BaseException as exc:
                    job.error = exc
                with contextlib.suppress(Exception):  # its event loop is gone
                    job.loop.run_callback_threadsafe(job.waiter.switch, True)
                del job
                idle_s = self._tidy()

    def _do(self, call: Callable[[sqlite3.Connection], T], deadline: float) -> T:
        db = self._connection(deadline)
        try:
            return call(db)
        except sqlite3.Error as exc:
            self._after_error(exc)
            raise

    def _tidy(self) -> float | None:
        if self._after is not None and self._db is not None:
            try:
                return max(0.0, self._after(self._db))
            except sqlite3.Error as exc:  # is said by the next call that meets it
                self._after_error(exc)
                return SWEEP_S
        return None

    def _after_error(self, exc: sqlite3.Error) -> None:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT):
            self._drop()

    def _connection(self, deadline: float) -> sqlite3.Connection:
        """Open, of the file that is there now."""
        now = time.monotonic()
        if self._db is not None and now - self._looked_at > 1:
            self._looked_at = now
            try:
                found = os.stat(self._path)
                same = (found.st_dev, found.st_ino) == self._file
            except OSError:
                same = False
            if not same:
                self._drop()
        busy_ms = max(1, min(BUSY_MS, int((deadline - now) * 1000) - 100))
        if self._db is None:
            self._db = connect(self._path, busy_ms)
            found = os.stat(self._path)
            self._file = (found.st_dev, found.st_ino)
            self._looked_at = now
            self._busy_ms = busy_ms
        elif busy_ms != self._busy_ms:
            self._db.execute(f"PRAGMA busy_timeout = {busy_ms}")
            self._busy_ms = busy_ms
        return self._db

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def before_fork(self) -> None:
        """A child must not have a connection of its parent's, not even to leave it alone: locks are the process's, and
        SQLite's record of them is copied. https://www.sqlite.org/howtocorrupt.html, 2.6"""
        if held := self._lock.acquire(timeout=PATIENCE_S + 1):
            self._drop()
        self._held_for_fork = held

    def after_fork_in_parent(self) -> None:
        if self._held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        self._lock = _new_lock()
        self._jobs = None


_LINES: weakref.WeakSet[Line] = weakref.WeakSet()


def _each(what: Callable[[Line], None]) -> Callable[[], None]:
    def call() -> None:
        for line in list(_LINES):
            what(line)

    return call


os.register_at_fork(
    before=_each(Line.before_fork),
    after_in_parent=_each(Line.after_fork_in_parent),
    after_in_child=_each(Line.after_fork_in_child),
)


def connect(path: Path, busy_ms: int) -> sqlite3.Connection:
    """Raises `OSError`, `sqlite3.Error`, `Unusable`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        # What people asked and were answered is in it. Never open an existing one here: closing it would give up every
        # lock that SQLite has on it in this process.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False)
    try:
        prepare(db, time.monotonic() + busy_ms / 1000)
    except BaseException:
        db.close()
        raise
    return db


def prepare(db: sqlite3.Connection, deadline: float) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as exc:  # two at once: busy, whatever the timeout
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        with transaction(db):
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    raise Unusable("it holds tables of another program: name another file")
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise Unusable(f"it is of a newer version of this program ({version}, known: {VERSION}): move it away")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
