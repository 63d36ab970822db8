"""Resumable streams where it is a matter of who comes first: two workers in one process, on a store that tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from app import journals, load_settings
from app.admission import Admission
from app.errors import Draining, Overloaded, ProviderOverloaded, SluicewayError
from app.events import TERMINAL, Batch, Event, Failed, Finished, Started, TextDelta
from app.house import House, build
from app.journals import Journals
from app.journals.codec import encode
from app.journals.journal import Journal
from app.journals.mail import News, Watch, pack, unpack
from app.journals.mirror import Mirror
from app.stores import Entry, Page, Record


class Memory:
    """A store in this process. Mails arrive while they are sent; `created` is called when a stream is in the store, and
    its worker has not heard so yet, `appended` the same of entries."""

    name = "memory"

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.entries: dict[str, list[Entry]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.boxes: dict[str, Callable[[bytes], None]] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.created: Callable[[Record], None] = lambda record: None
        self.appended: Callable[[Sequence[Entry]], None] = lambda entries: None
        self._lock = threading.RLock()

    def listen(self, receive: Callable[[bytes], None]) -> str:
        name = f"box{len(self.boxes)}"
        self.boxes[name] = receive
        return name

    def send(self, mailbox: str, mail: bytes) -> bool:
        self.sent.append((mailbox, mail))
        if mailbox not in self.boxes:
            return False
        self.boxes[mailbox](mail)
        return True

    def create(self, record: Record, *, key: str | None, chat: str | None) -> Record:
        with self._lock:
            if key is not None and (held := self.keys.get((record.owner, key))) is not None:
                return self.records[held]
            self.records[record.id] = record
            self.entries[record.id] = []
            if key is not None:
                self.keys[record.owner, key] = record.id
        self.created(record)
        return record

    def append(self, entries: Sequence[Entry]) -> set[str]:
        refused = set()
        with self._lock:
            for entry in entries:
                kept = self.entries.get(entry.stream)
                if kept is None or (kept and kept[-1].ended):
                    refused.add(entry.stream)
                    continue
                assert entry.first == (kept[-1].last + 1 if kept else 1)
                kept.append(entry)
        self.appended(entries)
        return refused

    def end(self, stream: str, data: str) -> int:
        with self._lock:
            kept = self.entries.get(stream)
            if kept is None or (kept and kept[-1].ended):
                return 0
            number = kept[-1].last + 1 if kept else 1
            kept.append(Entry(stream, number, number, data, True))
            return number

    def read(self, stream: str, after: int = 0) -> Page | None:
        with self._lock:
            kept = self.entries.get(stream)
            if kept is None:
                return None
            last = kept[-1].last if kept else 0
            ended = bool(kept) and kept[-1].ended
            return Page(self.records[stream], [entry for entry in kept if entry.last > after], last, ended)

    def find(self, stream: str) -> Record | None:
        return self.records.get(stream)

    def find_chat(self, owner: str, chat: str) -> str | None:
        return None

    def forget(self, stream: str) -> None:
        with self._lock:
            self.records.pop(stream, None)
            self.entries.pop(stream, None)
            self.keys = {key: held for key, held in self.keys.items() if held != stream}

    def check(self) -> None: ...

    def close(self) -> None: ...


class Said:
    """An answer whose batches the test says."""

    request_id = "r1"

    def __init__(self, *batches: Batch) -> None:
        self._batches = list(batches)
        self._more = threading.Condition()
        self.error: SluicewayError | None = None

    def say(self, *events: Event) -> None:
        with self._more:
            self._batches.append(Batch(list(events), None, isinstance(events[-1], TERMINAL)))
            self._more.notify_all()

    def read(self, until: float) -> Batch | None:
        with self._more:
            if not self._batches:
                self._more.wait(max(0.0, min(until - time.monotonic(), 10)))
            return self._batches.pop(0) if self._batches else None

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None: ...

    def cancel(self, error: SluicewayError) -> None:
        self.error = error
        self.say(Finished(reason="cancelled"))

    def fail(self, error: SluicewayError) -> Failed:
        return Failed(error=error)

    def close(self) -> None: ...


WHOLE: list[Event] = [
    Started(id="x", model="m", provider="p", created=0),
    TextDelta(text="hi"),
    Finished(reason="stop"),
]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(journals, "STORES", {"sqlite": lambda url, **times: memory})
    return memory


@pytest.fixture
def worker(store: Memory) -> Iterator[Callable[..., Journals]]:
    made: list[Journals] = []

    def make(max_streams: int = 100) -> Journals:
        house = build(load_settings({}))
        house = House(house.settings, house.targets, house.providers, Admission(max_streams), house.breakers)
        made.append(Journals(house))
        return made[-1]

    yield make
    for one in made:
        one.close()


def record(name: str) -> Record:
    return Record(id=name, owner="me", format="native", home="", created=0, body_hash="same")


def begin(where: Journals, name: str, said: Said, key: str | None = "k") -> Any:
    return where.begin(lambda: said, record(name), key=key, chat=None, environ={})  # type: ignore[arg-type,return-value]


def read(follower: Any) -> list[Event]:
    events: list[Event] = []
    until = time.monotonic() + 10
    while (batch := follower.read(until)) is not None:
        events += batch.events
        if batch.ended:
            follower.close()
            return events
    raise AssertionError(f"no end within 10 s: {events}")


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_found_by_another_worker_before_its_own_has_heard_of_it(store: Memory, worker: Callable[..., Journals]) -> None:
    """The other one's mail arrives before the answer of the store: that does not make the stream an orphan."""
    here, there = worker(), worker()
    joined: list[Any] = []

    def come(made: Record) -> None:
        joined.append(begin(there, "second", Said()))
        deadline = time.monotonic() + 10
        while not any(b'"watch"' in mail for _, mail in tuple(store.sent)):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    store.created = come
    first = begin(here, "first", said := Said())
    said.say(*WHOLE)
    assert first.mine
    assert joined[0].record.id == "first"
    assert names(read(first.follower)) == ["Started", "TextDelta", "Finished"]
    assert names(read(joined[0].follower)) == ["Started", "TextDelta", "Finished"]


def test_stopped_before_its_worker_has_heard_of_it(store: Memory, worker: Callable[..., Journals]) -> None:
    here, there = worker(), worker()
    for where in (here, there):
        store.created = lambda made, where=where: where.stop(made.id, "me")  # type: ignore[misc]
        begun = begin(here, f"stream of {id(where)}", Said(Batch(WHOLE[:2])), key=None)
        assert names(read(begun.follower))[-1] == "Finished"


def test_its_key_leads_to_one_that_never_began(store: Memory, worker: Callable[..., Journals]) -> None:
    """It fails, and is forgotten, while a second request with its key is on the way to it."""
    here, there = worker(), worker()
    first = begin(here, "first", refused := Said())
    found = store.create

    def create(record: Record, **leads: Any) -> Record:
        known = found(record, **leads)
        if known.id == "first":
            refused.say(Failed(error=ProviderOverloaded("busy")))
            read(first.follower)
        return known

    store.create = create  # type: ignore[method-assign]
    second = begin(there, "second", Said(Batch(WHOLE, None, True)))
    assert second.mine
    assert names(read(second.follower)) == ["Started", "TextDelta", "Finished"]


def test_nothing_is_left_of_who_is_not_let_in(store: Memory, worker: Callable[..., Journals]) -> None:
    here, full = worker(), worker(max_streams=0)
    begun = begin(here, "first", said := Said(Batch(WHOLE[:2])))
    with pytest.raises(Overloaded):
        full.follow("first", "me", {})
    assert not full._mirrors
    said.say(WHOLE[2])
    read(begun.follower)


def test_closed_and_opened_again(store: Memory, worker: Callable[..., Journals]) -> None:
    """What was going on ends, and who writes is one only, who gives each number once (`Memory.append`)."""
    here = worker()
    left = begin(here, "left", Said(Batch(WHOLE[:2])), key=None)
    assert names(left.follower.read(time.monotonic() + 10).events) == ["Started", "TextDelta"]
    for turn in range(3):
        here.close()
        assert here.unfinished == 0
        writers: set[int] = set()
        store.appended = lambda entries, writers=writers: writers.add(threading.get_ident())  # type: ignore[misc]
        said = Said()
        begun = begin(here, f"stream {turn}", said, key=None)
        for event in WHOLE:
            said.say(event)
        assert names(read(begun.follower)) == ["Started", "TextDelta", "Finished"]
        assert len(writers) == 1
    [last] = read(left.follower)
    assert isinstance(last, Failed)
    assert isinstance(last.error, Draining)


def test_a_mailbox_that_nobody_reads_is_tried_once(store: Memory, worker: Callable[..., Journals]) -> None:
    """Finding that out costs time in Redis, and all streams of a worker wait for it."""
    here = worker()
    begun = begin(here, "first", said := Said())
    here._journals["first"].watch("nobody")
    here._journals["first"].watch("nobody else")
    for event in WHOLE:
        said.say(event)
        assert begun.follower.read(time.monotonic() + 10).events == [event] or isinstance(event, Started)
    begun.follower.close()
    assert sorted(mailbox for mailbox, _ in store.sent) == ["nobody", "nobody else"]


def test_who_comes_while_others_are_told(store: Memory, worker: Callable[..., Journals]) -> None:
    """What is in the store already is news to whoever begins to watch then: nothing may follow it."""
    here = worker()
    begun = begin(here, "first", said := Said())
    got: list[bytes] = []
    store.boxes["late"] = got.append
    store.boxes["early"] = lambda mail: here._receive(pack(Watch("first", "late")))
    here._journals["first"].watch("early")
    said.say(*WHOLE)
    read(begun.follower)
    assert [unpack(mail) for mail in got] == [News([Entry("first", 3, 3, "")])]


def test_what_comes_by_mail_while_a_mirror_reads_the_store(store: Memory) -> None:
    """Nothing twice, and nothing under another's number."""
    made = record("s")
    texts: list[Event] = [TextDelta(text=str(n)) for n in range(1, 7)]
    store.records["s"] = made
    store.entries["s"] = [Entry("s", 1, 2, encode(texts[:2])), Entry("s", 3, 4, encode(texts[2:4]))]
    mirror = Mirror(made, store, "mine", 0)  # type: ignore[arg-type]
    published: list[tuple[int, int]] = []
    mirror.publish = lambda first, events, *, ended: (  # type: ignore[method-assign,misc]
        published.append((first, len(events))),
        setattr(mirror, "last", first + len(events) - 1),
    )
    got = store.read

    def slow(stream: str, after: int = 0) -> Page | None:
        page = got(stream, after)
        mirror.take(Entry("s", 1, 2, encode(texts[:2])))
        return page

    store.read = slow  # type: ignore[method-assign]
    mirror._catch_up()
    assert published == [(1, 2), (3, 2)]


def test_a_batch_without_events_is_nothing_to_write() -> None:
    asked: list[Journal] = []
    journal = Journal(record("s"), Said(), asked.append)  # type: ignore[arg-type]
    assert journal.take(Batch([]))
    assert not asked
    assert journal.take(Batch([WHOLE[0]]))
    assert asked == [journal]
