"""Resumable streams: an answer that is read whether or not anybody follows it, from any worker that shares the store.

    Journals   what one worker does for all of its streams: writes what they took, follows others', reads the mail
    journal    a stream at home: from an answer to numbered events
    mirror     a stream whose home is another worker
    feed       either, and those who follow it here
    codec      events <-> JSON;  mail  what workers tell each other

What a follower reads is in the store already, so it can go on from there in any worker, whatever becomes of this one.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ..errors import Draining, Internal, InvalidRequest, NotFound, SluicewayError, StoreUnavailable, StreamBroken
from ..events import Event, Failed
from ..house import House
from ..shaped import Source
from ..stores import MAIL_BYTES, STORES, Entry, Page, Record, Store
from ..task import Task
from .codec import decode, encode
from .feed import Feed, Follower
from .journal import Journal, never_began
from .mail import Gone, Left, News, Passed, Stop, Watch, pack, unpack
from .mirror import Mirror, bury

log = logging.getLogger("sluiceway")

__all__ = ["Begun", "Follower", "Journals"]

# What comes within this time is written together: to write costs a store much more than to write a little more.
WRITE_S = 0.005

# Beyond the longest answer, and the time that a stream without readers is left: a worker may vanish with its streams.
_MARGIN_S = 60.0


class Begun(NamedTuple):
    """`mine`: the answer is being made for this request, and not for an earlier one with its idempotency key."""

    record: Record
    follower: Follower
    mine: bool


class Journals:
    """All methods but `begin`'s `answer` raise `StoreUnavailable`; nothing is opened before the first is called."""

    def __init__(self, house: House) -> None:
        settings = house.settings.store
        self._house = house
        self._grace_s = settings.resume_grace_s
        times = [house.settings.timeouts.total_s, *(alias.total_s or 0.0 for alias in house.settings.models.values())]
        self._store: Store = STORES[settings.url.partition(":")[0]](
            settings.url,
            lifetime_s=max(times) + settings.resume_grace_s + _MARGIN_S,
            ttl_s=settings.resume_ttl_s,
        )
        self._opening = threading.Lock()
        self._pid = 0  # the process in which the rest is valid
        self._opened = 0  # how often: what runs for an earlier time ends
        self._mailbox = ""
        self._beginning: dict[str, list[bytes]] = {}  # streams that may be in the store, and are not in `_journals` yet
        self._journals: dict[str, Journal] = {}
        self._mirrors: dict[str, Mirror] = {}
        self._lock = threading.Lock()  # never held over a wait
        self._changed: list[Journal] = []
        self._anything = threading.Event()

    def check(self) -> None:
        """Raises `StoreUnavailable` where no stream could be begun."""
        self._store.check()

    def begin(
        self,
        make: Callable[[], Source],
        record: Record,
        *,
        key: str | None,
        chat: str | None,
        environ: Mapping[str, Any],
    ) -> Begun:
        """Begin a stream, whose answer is `make`'s, and follow it; or follow the one that this owner's idempotency
        `key` leads to. Raises what `make` raises, and `InvalidRequest` where that key was another request's."""
        self._open()
        record = msgspec.structs.replace(record, home=self._mailbox)
        passed = None if chat is None else self._store.find_chat(record.owner, chat)
        for _ in range(_KEY_TIMES):
            known, follower = self._create(make, record, key=key, chat=chat, environ=environ)
            if follower is not None:
                if passed is not None:
                    self._pass(passed)
                return Begun(record=known, follower=follower, mine=True)
            if known.body_hash != record.body_hash:
                raise InvalidRequest("this Idempotency-Key was given with another request before; take a new one")
            with contextlib.suppress(NotFound):  # it never began, and was forgotten meanwhile
                return Begun(record=known, follower=self.follow(known.id, known.owner, environ), mine=False)
        raise StreamBroken("the stream of this Idempotency-Key is not kept any more; take a new one")

    def _create(
        self,
        make: Callable[[], Source],
        record: Record,
        *,
        key: str | None,
        chat: str | None,
        environ: Mapping[str, Any],
    ) -> tuple[Record, Follower | None]:
        """Without a follower: the stream is another one, which this owner's key leads to."""
        early: list[bytes] = []
        self._beginning[record.id] = early
        try:
            known = self._store.create(record, key=key, chat=chat)
            if known.id != record.id:
                return known, None
            try:
                journal = Journal(record, make(), self._changed_one)
            except BaseException:
                self._store.forget(record.id)
                raise
            follower = Follower(journal, self._store, environ)
            self._journals[record.id] = journal
        finally:
            del self._beginning[record.id]
            for mail in early:
                self._receive(mail)
        _aside(journal.run)
        return record, follower

    def abandon(self, stream: str) -> None:
        """Nobody knows of it who could come back: it need not wait for the grace."""
        if (journal := self._journals.get(stream)) is not None:
            journal.passed = True

    def find(self, stream: str, owner: str) -> Record:
        """Raises `NotFound` also for a stream of another owner."""
        record = self._store.find(stream)
        if record is None or record.owner != owner:
            raise _unknown()
        return record

    def _standing(self, stream: str, owner: str) -> Page:
        """How far it is, without its events. Raises what `find` raises."""
        page = self._store.read(stream, _LAST)
        if page is None or page.record.owner != owner:
            raise _unknown()
        return page

    def find_key(self, owner: str, key: str) -> str:
        """The stream that this owner's idempotency `key` leads to. Raises `NotFound`."""
        stream = self._store.find_key(owner, key)
        if stream is None:
            raise NotFound("no stream has this Idempotency-Key; it may not be asked for yet, or not kept any more")
        return stream

    def find_chat(self, owner: str, chat: str) -> Record | None:
        stream = self._store.find_chat(owner, chat)
        return None if stream is None else self._store.find(stream)

    def follow(self, stream: str, owner: str, environ: Mapping[str, Any]) -> Follower:
        """Raises what `find` raises."""
        self._open()
        feed = self._feed(stream, owner)
        try:
            follower = Follower(feed, self._store, environ, self._house.admission)
        except SluicewayError:
            if isinstance(feed, Mirror) and not feed.started:
                self._drop(feed)
            raise
        if isinstance(feed, Mirror) and not feed.started:
            feed.started = True
            _aside(lambda: self._mirror(feed))
        return follower

    def events(self, stream: str) -> tuple[list[Event], bool]:
        """All of a stream that has ended, and True; else nothing, and False."""
        page = self._store.read(stream, _LAST)
        if page is not None and not page.ended:
            return [], False
        events: list[Event] = []
        last = 0
        while (page := self._store.read(stream, last)) is not None:
            for entry in page.entries:
                events += decode(entry.data)
                last = entry.last
            if last >= page.last:
                break
        return events, True

    def stop(self, stream: str, owner: str) -> bool:
        """End it, wherever it is written. False: it has ended already. Raises what `find` raises."""
        self._open()
        page = self._standing(stream, owner)
        if page.ended and stream not in self._journals:
            return False
        mail, home = pack(Stop(stream)), page.record.home
        if stream in self._journals or stream in self._beginning:
            self._receive(mail)
        elif home == self._mailbox or not self._store.send(home, mail):
            bury(self._store, stream)
        return True

    @property
    def unfinished(self) -> int:
        """Streams whose home is here that are not written to their end."""
        return len(self._journals)

    def close(self) -> None:
        if self._pid == os.getpid():
            self._pid = 0
            self._opened += 1
            self._anything.set()
            self._break_off(list(self._journals.values()), Draining("the server is restarting; send the request again"))
            self._store.close()

    def _pass(self, stream: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            if (journal := self._journals.get(stream)) is not None:
                journal.passed = True
            elif (record := self._store.find(stream)) is not None and record.home != self._mailbox:
                self._store.send(record.home, pack(Passed(stream)))

    def _feed(self, stream: str, owner: str) -> Feed:
        known = self._known(stream)
        if known is None:
            page = self._standing(stream, owner)
            record = page.record
            if page.ended:
                return Feed(record, page.last, ended=True)
            with self._lock:
                known = self._known(stream)  # by now
                if known is None and record.home != self._mailbox:
                    known = self._mirrors[stream] = Mirror(record, self._store, self._mailbox, page.last)
            if known is None:
                if stream in self._beginning:
                    time.sleep(_MOMENT_S)
                else:  # it is not written here any more
                    bury(self._store, stream)
                return self._feed(stream, owner)
        if known.record.owner != owner:
            raise _unknown()
        return known

    def _known(self, stream: str) -> Feed | None:
        """What somebody follows here already, or could."""
        if (journal := self._journals.get(stream)) is not None:
            return journal
        mirror = self._mirrors.get(stream)
        return mirror if mirror is not None and mirror.followers else None

    def _mirror(self, mirror: Mirror) -> None:
        mirror.run(lambda: self._mirrors.get(mirror.record.id) is mirror)
        self._drop(mirror)

    def _drop(self, mirror: Mirror) -> None:
        if self._mirrors.get(mirror.record.id) is mirror:
            del self._mirrors[mirror.record.id]

    def _open(self) -> None:
        """In this process, which may have been forked from the one that made this."""
        if self._pid == os.getpid():
            return
        with self._opening:
            if self._pid != os.getpid():
                self._mailbox = self._store.listen(self._receive)
                self._journals.clear()
                self._mirrors.clear()
                self._changed.clear()
                self._pid = os.getpid()
                self._opened += 1
                _aside(self._write_on)
                _aside(self._look_on)

    def _changed_one(self, journal: Journal) -> None:
        with self._lock:
            self._changed.append(journal)
        self._anything.set()

    def _write_on(self) -> None:
        opened = self._opened
        wrote_at = 0.0
        while True:
            self._anything.wait()
            time.sleep(max(0.0, wrote_at + WRITE_S - time.monotonic()))
            if self._opened != opened:
                return
            self._anything.clear()
            try:
                self._write()
            except Exception:
                log.exception("writing resumable streams failed by a defect of ours")
            wrote_at = time.monotonic()

    def _write(self) -> None:
        """What was taken since the last time, of all streams at once; then those who follow get it."""
        with self._lock:
            changed, self._changed = self._changed, []
        given = [(journal, *taken) for journal in changed if (taken := self._given(journal)) is not None]
        entries = []
        for journal, entry, events in given:
            if entry.first == 1 and never_began(events):
                self._forget(journal)
            else:
                entries.append(entry)
        try:
            refused = self._store.append(entries) if entries else set()
        except StoreUnavailable as exc:
            self._break_off([journal for journal, _, _ in given], exc)
            return
        except Exception:
            self._break_off([journal for journal, _, _ in given], Internal("the stream failed inside the service"))
            raise
        for journal, entry, _ in given:
            if entry.stream not in refused:
                journal.written = entry.last
        self._tell([(journal, entry) for journal, entry, _ in given if entry.stream not in refused])
        for at, (journal, entry, events) in enumerate(given):
            if entry.stream in refused:
                self._refused(journal)
            else:
                if entry.ended:
                    self._journals.pop(entry.stream, None)
                journal.publish(entry.first, events, ended=entry.ended)
            if at % _TURN == _TURN - 1:
                time.sleep(0)  # others have their turn
        for journal in changed:
            if journal.broken:
                self._journals.pop(journal.record.id, None)

    def _given(self, journal: Journal) -> tuple[Entry, list[Event]] | None:
        """None: nothing can be written of it."""
        if journal.broken:
            return None
        try:
            return journal.give(journal.last)
        except Exception:
            log.exception("%s a stream failed by a defect of ours", journal.answer.request_id)
            self._break_off([journal], Internal("the stream failed inside the service; try again"))
            return None

    def _refused(self, journal: Journal) -> None:
        """The store takes no more of it: it is full, or the store has lost it, or it was taken for dead."""
        error = StreamBroken("the answer is longer than what is kept of one; ask without resumable")
        error.request_id = journal.answer.request_id
        number = 0
        with contextlib.suppress(StoreUnavailable):
            number = self._store.end(journal.record.id, encode([Failed(error=error)]))
        if number:
            self._journals.pop(journal.record.id, None)
            journal.give_up(error)
            journal.publish(number, [Failed(error=error)], ended=True)
        else:
            self._break_off([journal], StreamBroken("the store has lost the stream; send the request again"))

    def _forget(self, journal: Journal) -> None:
        """It never began, and is asked for anew."""
        with contextlib.suppress(StoreUnavailable):
            self._store.forget(journal.record.id)

    def _break_off(self, journals: list[Journal], error: SluicewayError) -> None:
        for journal in journals:
            self._journals.pop(journal.record.id, None)
            journal.break_off(error)

    def _tell(self, written: list[tuple[Journal, Entry]]) -> None:
        """Those of other workers who follow it."""
        parcels: dict[str, list[Entry]] = {}
        for journal, entry in written:
            for mailbox in tuple(journal.watchers):
                parcels.setdefault(mailbox, []).append(entry)
        for mailbox, entries in parcels.items():
            if not all(self._send(mailbox, mail) for mail in _mails(entries)):
                # To find out that nobody is there may take a while, and everybody waits for it here: once is enough.
                for journal in tuple(self._journals.values()):
                    journal.watchers.pop(mailbox, None)

    def _send(self, mailbox: str, mail: bytes) -> bool:
        """False: nobody is there. Whom it does not reach asks again, `WATCH_S` later."""
        with contextlib.suppress(StoreUnavailable):
            return self._store.send(mailbox, mail)
        return True

    def _receive(self, mail: bytes) -> None:
        said = unpack(mail)
        if isinstance(said, _TO_HOME) and (early := self._beginning.get(said.stream)) is not None:
            early.append(mail)  # another worker has found it in the store before we have heard that it is there
            return
        match said:
            case Watch(stream=stream, sender=sender):
                journal = self._journals.get(stream)
                if journal is None:
                    self._send(sender, pack(Gone(stream)))
                else:
                    journal.watch(sender)
                    if (last := journal.written) > 0:
                        self._send(sender, pack(News([Entry(stream, last, last, "")])))
            case News(entries=entries):
                for entry in entries:
                    if (mirror := self._mirrors.get(entry.stream)) is not None:
                        mirror.take(entry)
            case Gone(stream=stream):
                if (mirror := self._mirrors.get(stream)) is not None:
                    mirror.gone()
            case Left(stream=stream, sender=sender):
                if (journal := self._journals.get(stream)) is not None:
                    journal.watchers.pop(sender, None)
            case Passed(stream=stream):
                if (journal := self._journals.get(stream)) is not None:
                    journal.passed = True
            case Stop(stream=stream):
                if (journal := self._journals.get(stream)) is not None:
                    journal.stop("stop")

    def _look_on(self) -> None:
        """Stop what nobody reads."""
        opened = self._opened
        every_s = min(0.5, max(0.05, self._grace_s / 4))
        while self._opened == opened:
            time.sleep(every_s)
            for journal in tuple(self._journals.values()):
                try:
                    if journal.is_left(self._grace_s):
                        journal.stop("grace")
                except Exception:
                    log.exception("looking after a resumable stream failed by a defect of ours")


def _unknown() -> NotFound:
    return NotFound("no such stream; one is kept for a while after its end (store.resume_ttl_s)")


def _aside(call: Callable[[], None]) -> None:
    """Beside the request that is being answered, and without its context."""
    contextvars.Context().run(Task, call)


_TO_HOME = (Watch, Left, Passed, Stop)

# Until a stream that is in the store already is here too.
_MOMENT_S = 0.01

# So often a key leads to a stream that is gone when it is looked for, before that passes for no coincidence.
_KEY_TIMES = 3

# Behind every event: to ask only whether a stream has ended.
_LAST = 2**31

# Streams that are published to between two turns of the others.
_TURN = 50


def _mails(entries: list[Entry]) -> list[bytes]:
    """`entries` as few mails; of one that fits into none, that it is there."""
    mails: list[bytes] = []
    group: list[Entry] = []
    size = 0
    for entry in entries:
        length = 4 * len(entry.data) + 200  # as JSON in JSON, at most
        if length > MAIL_BYTES:
            entry, length = msgspec.structs.replace(entry, data=""), 200
        if size + length > MAIL_BYTES:
            mails.append(pack(News(group)))
            group, size = [], 0
        group.append(entry)
        size += length
    return [*mails, pack(News(group))]
