"""A stream as one worker sees it, and those who follow it there.

    who writes it   ->  Feed.publish(events)  ->  Follower.offer  ->  the body of a response

A follower that does not keep up costs the others nothing: it is offered no more than it takes, and reads the rest from
the store when it gets to it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gevent import monkey

from ..admission import Admission
from ..cancel import Cancel
from ..errors import Cancelled, SluicewayError, StreamBroken
from ..events import TERMINAL, Batch, Event, Failed
from ..response import ClientWatch
from ..stores import Record, Store
from .codec import decode


class Feed:
    """`last` is the number of the last event that is in the store, `ended` whether that is the terminal one."""

    def __init__(self, record: Record, last: int = 0, *, ended: bool = False) -> None:
        self.record = record
        self.last = last
        self.ended = ended
        self.followers: list[Follower] = []
        self._reading = threading.Lock()
        self._pages: OrderedDict[int, Stored] = OrderedDict()

    def stored(self, store: Store, after: int) -> Stored | None:
        """What is in the store behind the event `after`, or a part of it; None: the stream is not. Of many who ask for
        the same at the same time, one asks the store."""
        with self._reading:
            pages = self._pages
            known = pages.get(after)
            if known is not None and known.at < time.monotonic() - _KEPT_S:
                known = None
            if known is None:
                page = store.read(self.record.id, after)
                if page is None:
                    return None
                events: list[Event] = []
                last = after
                for entry in page.entries:
                    events += decode(entry.data)[max(0, last + 1 - entry.first) :]
                    last = entry.last
                known = pages[after] = Stored(events, page.last, time.monotonic())
                pages.move_to_end(after)
                while len(pages) > _PAGES:
                    pages.popitem(last=False)
            return known

    def publish(self, first: int, events: list[Event], *, ended: bool) -> None:
        """`events`, whose numbers begin at `first`, are in the store now."""
        self.last = first + len(events) - 1
        self.ended = ended
        for follower in tuple(self.followers):
            follower.offer(first, events, ended)

    def break_off(self, error: SluicewayError) -> None:
        """Its followers get nothing more of it, and hear why."""
        for follower in tuple(self.followers):
            follower.break_off(error)

    def left(self, follower: Follower) -> None:
        if follower in self.followers:
            self.followers.remove(follower)
        if not self.followers:
            self._pages = OrderedDict()  # not `clear`: another thread may be using it


class Stored(NamedTuple):
    """`last` is the number of the last event that was in the store `at` that time."""

    events: list[Event]
    last: int
    at: float


# Of a stream's parts as they were read from the store, so many are kept for so long: for those who come together, after
# a break of a network, say.
_PAGES = 4
_KEPT_S = 1.0

# What a follower is offered beyond what it takes, in batches. Then it is behind, and reads from the store.
_AHEAD = 64


class Follower:
    """Who reads a stream from its first event on (`response.body.Batches`). `read`, `each`, `fail` and `close` are for
    the greenlet that writes the response, `offer` and `break_off` for everybody else. `admission`, for one who comes to
    a stream that has its place already, is where he takes his own."""

    def __init__(
        self, feed: Feed, store: Store, environ: Mapping[str, Any], admission: Admission | None = None
    ) -> None:
        self._admission = admission
        self._cancel = Cancel()
        if admission is not None:
            admission.enter(self._cancel)
            self._cancel.add(self._cancelled)
        self._feed = feed
        self._store = store
        self._seen = 0  # the number of the last event that was read
        self._offered: deque[tuple[int, list[Event], bool]] = deque()
        self._behind = False
        self._wake = threading.Event()
        self._deliver: Callable[[Batch], bool] | None = None
        self._delivered_at = 0.0
        self._silent = False
        self._over = False
        self._error: SluicewayError | None = None
        self._defect: Exception | None = None
        feed.followers.append(self)
        if feed.last:
            self._behind = True
        self._watch = ClientWatch(environ, self._client_left)

    def _cancelled(self) -> None:
        if self._cancel.error is not None:
            self.break_off(self._cancel.error)

    def _client_left(self) -> None:
        self.break_off(Cancelled("the client has left"))

    def offer(self, first: int, events: list[Event], ended: bool) -> None:
        if self._behind:
            self._wake.set()
            return
        deliver = self._deliver
        if deliver is not None and not ended and first == self._seen + 1:
            self._seen += len(events)
            try:
                if deliver(Batch(events)):
                    self._delivered_at = time.monotonic()
                    return
            except Exception as exc:
                self._defect = exc
        elif len(self._offered) < _AHEAD:
            self._offered.append((first, events, ended))
        else:
            self._behind = True
            self._offered.clear()
        self._deliver = None
        self._wake.set()

    def break_off(self, error: SluicewayError) -> None:
        self._error = self._error or error
        self._deliver = None
        self._wake.set()

    def read(self, until: float) -> Batch | None:
        if self._silent:
            self._silent = False
            return None
        while True:
            self._wake.clear()
            if self._defect is not None:
                raise self._defect
            if self._error is not None:
                self._over = True
                return Batch([Failed(error=self._error, beside=True)], None, True)
            batch = self._stored() if self._behind else self._next()
            if batch is not None:
                self._over = batch.ended
                return batch
            if not self._behind and not self._wake.wait(max(0.0, until - time.monotonic())):
                return None

    def _next(self) -> Batch | None:
        """All that was offered and follows what was read, in one batch."""
        events: list[Event] = []
        ended = False
        while not ended:
            try:
                first, offered, ended = self._offered.popleft()
            except IndexError:
                break
            if first > self._seen + 1:
                self._behind = True
                self._offered.clear()
                break
            events += offered[self._seen + 1 - first :]
            self._seen = max(self._seen, first + len(offered) - 1)
        return Batch(events, None, ended) if events else None

    def _stored(self) -> Batch | None:
        read = self._feed.stored(self._store, self._seen)
        if read is None or (not read.events and self._feed.last > self._seen):
            gone = StreamBroken("the stream is not kept any more; send the request again")
            return Batch([Failed(error=gone, beside=True)], None, True)
        self._seen += len(read.events)
        if self._seen >= read.last:
            self._behind = False
            # In this order: what is published from here on is offered, and what was published before is seen.
            if self._feed.last > self._seen:
                self._behind = True
        if not read.events:
            return None
        return Batch(list(read.events), None, isinstance(read.events[-1], TERMINAL))

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None:
        """As `Answer.each`: what is published is delivered by whoever publishes it."""
        if (
            self._over
            or self._behind
            or self._offered
            or self._error is not None
            or not monkey.is_module_patched("threading")
        ):
            return
        self._wake.clear()
        self._delivered_at = time.monotonic()
        self._deliver = deliver
        try:
            while self._deliver is not None:
                left = self._delivered_at + silence_s - time.monotonic()
                if left <= 0:
                    self._silent = True
                    return
                self._wake.wait(left)
        finally:
            self._deliver = None

    def fail(self, error: SluicewayError) -> Failed:
        return Failed(error=error, beside=True)

    def close(self) -> None:
        self._watch.close()
        self._feed.left(self)
        if self._admission is not None:
            self._admission.leave(self._cancel)
