"""A stream at home: the answer is read here, and its events get their numbers.

    Answer  ->  Journal.take  ->  (Journals writes what all of them took)  ->  Feed.publish

The answer is read whether anybody follows or not. Where nobody does, in any worker, for `resume_grace_s`, it is
stopped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from ..errors import Internal, SluicewayError, Stopped
from ..events import Batch, Event, Failed, Started
from ..shaped import Source
from ..stores import Entry, Record
from .codec import encode
from .feed import Feed
from .mail import WATCH_S

log = logging.getLogger("sluiceway")

# Events of one answer that wait to be written; then it is read no further until they are.
_WAITING = 1000


class Journal(Feed):
    """`changed` is called when there is something to be written."""

    def __init__(self, record: Record, answer: Source, changed: Callable[[Journal], None]) -> None:
        super().__init__(record)
        self.answer = answer
        self.watchers: dict[str, float] = {}  # mailboxes of workers in which it is followed, and until when
        self.written = 0  # the last event that is in the store; `last` comes to it when it is published here
        self.broken = False  # nothing more can be written of it
        self.passed = False  # nobody comes back to it
        self._changed = changed
        self._lock = threading.Lock()
        self._taken: list[Event] = []  # and not written yet
        self._ending = False
        self._room = threading.Event()
        self._unread_since = time.monotonic()

    def run(self) -> None:
        """Read the answer to its end."""
        answer = self.answer
        ended = False
        try:
            while not ended:
                batch = answer.read(time.monotonic() + _PATIENCE_S)
                if batch is not None:
                    going = self.take(batch)
                    ended = batch.ended
                    if not ended and not going:
                        self._wait_for_room()
                if not ended:
                    answer.each(self.take, _PATIENCE_S)
        except Exception:
            request_id = self.answer.request_id
            log.exception("%s a stream failed by a defect of ours", request_id)
            error = Internal("the stream failed inside the service; try again")
            error.request_id = request_id
            self.take(Batch([answer.fail(error)], None, True))
        finally:
            answer.close()

    def take(self, batch: Batch) -> bool:
        """Have it written. False: let it be written first."""
        events = batch.events
        if self.broken or not events:
            return True
        with self._lock:
            if not self._taken:
                self._changed(self)
            if self.last == 0:
                events = [self._named(event) for event in events]
            self._taken += events
            self._ending = batch.ended
            return len(self._taken) < _WAITING

    def _named(self, event: Event) -> Event:
        # The answer's id is the stream's: by that it can be asked for again.
        return msgspec.structs.replace(event, id=self.record.id) if isinstance(event, Started) else event

    def _wait_for_room(self) -> None:
        while True:
            self._room.clear()
            if len(self._taken) < _WAITING or self.broken:
                return
            self._room.wait(_PATIENCE_S)

    def give(self, number: int) -> tuple[Entry, list[Event]]:
        """What was taken, as the entry that follows the event `number`."""
        with self._lock:
            events, self._taken = self._taken, []
            ended = self._ending
        self._room.set()
        return Entry(self.record.id, number + 1, number + len(events), encode(events), ended), events

    @property
    def all_given(self) -> bool:
        return not self._taken

    def stop(self, by: str) -> None:
        words = {"stop": "the stream was stopped", "grace": "nobody reads the stream any more"}
        self.answer.cancel(Stopped(words[by], by=by))

    def give_up(self, error: SluicewayError) -> None:
        """Nothing more can be written of it, so it is read no further."""
        self.broken = True
        self._room.set()
        self.answer.cancel(error)

    def break_off(self, error: SluicewayError) -> None:
        self.give_up(error)
        super().break_off(error)

    def watch(self, mailbox: str) -> None:
        self.watchers[mailbox] = time.monotonic() + 3 * WATCH_S

    def is_left(self, grace_s: float) -> bool:
        """Whether nobody has followed it, in any worker, for so long, or will."""
        now = time.monotonic()
        for mailbox, until in tuple(self.watchers.items()):
            if until < now:
                self.watchers.pop(mailbox, None)
        if self.followers or self.watchers:
            self._unread_since = now
            return False
        return self.passed or now - self._unread_since >= grace_s


_PATIENCE_S = 60.0  # between two looks at whether there is still something to wait for


def never_began(events: list[Event]) -> bool:
    """Of a stream's first events: it failed before it said anything."""
    return isinstance(events[0], Failed)
