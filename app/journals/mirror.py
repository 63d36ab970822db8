"""A stream whose home is another worker, for those who follow it in this one.

What is written there comes by mail. Every `WATCH_S` its home is told that somebody follows; where nobody is there any
more to be told, the stream is given a terminal event, which whoever comes later reads too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..errors import StoreUnavailable, StreamBroken
from ..events import TERMINAL, Failed
from ..stores import Entry, Record, Store
from .codec import decode, encode
from .feed import Feed, Follower
from .mail import WATCH_S, Left, Watch, pack

log = logging.getLogger("sluiceway")

# So often in a row nobody must be there. A store that was restarted knows its workers' mailboxes again a moment later.
_TIMES = 3

GONE = "the worker that was answering is gone, and the answer is incomplete; send the request again"


class Mirror(Feed):
    def __init__(self, record: Record, store: Store, mailbox: str, last: int) -> None:
        super().__init__(record, last)
        self._store = store
        self._mailbox = mailbox
        self._wake = threading.Event()
        self._publishing = threading.Lock()
        self._lacks = False  # there is more in the store than was published here
        self._gone = False  # its home says that it does not write it
        self.started = False

    def run(self, is_latest: Callable[[], bool]) -> None:
        """Until it has ended, or nobody follows it here. `is_latest`: no other mirror of it has been made since."""
        watch = pack(Watch(self.record.id, self._mailbox))
        missed = 0
        watched_at = -WATCH_S
        try:
            while self.followers and not self.ended:
                if time.monotonic() - watched_at >= WATCH_S:
                    watched_at = time.monotonic()
                    missed = 0 if self._store.send(self.record.home, watch) else missed + 1
                if missed >= _TIMES or self._gone:
                    bury(self._store, self.record.id)
                    self._lacks = True
                if self._lacks:
                    self._catch_up()
                    continue
                self._wake.wait(max(0.0, watched_at + WATCH_S - time.monotonic()))
                self._wake.clear()
            if not self.ended and is_latest():
                self._store.send(self.record.home, pack(Left(self.record.id, self._mailbox)))
        except StoreUnavailable as exc:
            self.break_off(exc)
        except Exception:
            log.exception("following the stream %s failed by a defect of ours", self.record.id)
            self.break_off(StreamBroken("following the stream failed inside the service; ask for it again"))

    def left(self, follower: Follower) -> None:
        super().left(follower)
        if not self.followers:
            self._wake.set()

    def take(self, entry: Entry) -> None:
        """By mail."""
        with self._publishing:
            if entry.last <= self.last:
                return
            if entry.data and entry.first == self.last + 1 and not self._lacks:
                self.publish(entry.first, decode(entry.data), ended=entry.ended)
            else:
                self._lacks = True
        self._wake.set()

    def gone(self) -> None:
        """By mail. What it wrote last may be in the store and not here."""
        self._gone = self._lacks = True
        self._wake.set()

    def _catch_up(self) -> None:
        self._lacks = False
        while True:
            page = self._store.read(self.record.id, self.last)
            if page is None:
                self.break_off(StreamBroken("the stream is not kept any more; send the request again"))
                self.ended = True
                return
            for entry in page.entries:
                with self._publishing:
                    events = decode(entry.data)[max(0, self.last + 1 - entry.first) :]
                    if events:
                        self.publish(self.last + 1, events, ended=isinstance(events[-1], TERMINAL))
            if self.last >= page.last:
                return


def bury(store: Store, stream: str) -> None:
    """Give a stream whose home is gone its terminal event."""
    error = StreamBroken(GONE)
    if store.end(stream, encode([Failed(error=error)])):
        log.warning("%s code=%s: %s", stream, error.code, error.message)
