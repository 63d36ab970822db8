"""The contract of `app/stores/base.py`, over every store. Several Store objects on one URL stand for several workers;
where a process matters (its death, its mailbox, two at the same time) there is one, `store_process.py`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from app.errors import StoreUnavailable
from app.stores import MAIL_BYTES, STORES, Entry, Page, Record, Store
from app.stores.base import PATIENCE_S
from app.stores.mailbox import folder_of
from tests.conftest import ROOT, RedisServer, eventually

LONG_S = 60.0
LATE_S = 5.0  # what a busy machine may add
BEGAN = int(time.time())


class Hands(Protocol):
    """What a test does to the thing behind a store."""

    url: str

    def hold(self, seconds: float) -> None:
        """Let it take no write for so long; returns when it has begun."""

    def take_away(self) -> None:
        """Nothing can be read or written from now on."""

    def give_back(self) -> None:
        """As before; what was in it need not be."""


class FileHands:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "room" / "streams.db"
        self.url = f"sqlite:///{self.path}"
        self.holders: list[subprocess.Popen[bytes]] = []

    def hold(self, seconds: float) -> None:
        code = (
            "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "db.execute('BEGIN IMMEDIATE'); print('held', flush=True)\n"
            "time.sleep(float(sys.argv[2])); db.execute('ROLLBACK')"
        )
        holder = subprocess.Popen([sys.executable, "-c", code, self.path, str(seconds)], stdout=subprocess.PIPE)
        self.holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

    def take_away(self) -> None:
        for beside in self.path.parent.glob("streams.db*"):
            if beside.is_file():
                beside.unlink()
        self.path.mkdir(parents=True)

    def give_back(self) -> None:
        self.path.rmdir()

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.communicate()


def file_hands(request: pytest.FixtureRequest) -> Iterator[Hands]:
    hands = FileHands(request.getfixturevalue("tmp_path"))
    yield hands
    hands.close()


class ServerHands:
    def __init__(self, url: str, server: RedisServer) -> None:
        self.url = url
        self.server = server
        self.holders: list[threading.Timer] = []

    def hold(self, seconds: float) -> None:
        self.server.pause()
        self.holders.append(threading.Timer(seconds, self.server.resume))
        self.holders[-1].start()

    def take_away(self) -> None:
        self.server.stop()

    def give_back(self) -> None:
        self.server.start()

    def close(self) -> None:
        for holder in self.holders:
            holder.cancel()
            holder.join()
        self.server.resume()


def server_hands(request: pytest.FixtureRequest) -> Iterator[Hands]:
    hands = ServerHands(request.getfixturevalue("redis_url"), request.getfixturevalue("redis_server"))
    yield hands
    hands.close()


# A store is a row here: name, and what gives its hands.
STORES_HERE: dict[str, Callable[[pytest.FixtureRequest], Iterator[Hands]]] = {
    "sqlite": file_hands,
    "redis": server_hands,
}


@pytest.fixture(params=list(STORES_HERE))
def hands(request: pytest.FixtureRequest) -> Iterator[Hands]:
    yield from STORES_HERE[request.param](request)


@pytest.fixture
def store_url(hands: Hands) -> str:
    return hands.url


def make(url: str, lifetime_s: float = LONG_S, ttl_s: float = LONG_S) -> Store:
    return STORES[url.partition(":")[0]](url, lifetime_s=lifetime_s, ttl_s=ttl_s)


@pytest.fixture
def open_store(store_url: str) -> Iterator[Callable[..., Store]]:
    """`open_store(lifetime_s=..., ttl_s=...) -> Store`, closed at the end."""
    with contextlib.ExitStack() as opened:

        def open_one(lifetime_s: float = LONG_S, ttl_s: float = LONG_S) -> Store:
            store = make(store_url, lifetime_s, ttl_s)
            opened.callback(store.close)
            return store

        yield open_one


@pytest.fixture
def one(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def other(open_store: Callable[..., Store]) -> Store:
    return open_store()


class Process:
    def __init__(self, url: str, *flags: str, lifetime_s: float = LONG_S, ttl_s: float = LONG_S) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.store_process", *flags, url, str(lifetime_s), str(ttl_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    def tell(self, do: str, at: float = 0.0, **arguments: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, "with": arguments, "at": at}).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process is gone"
        answer = json.loads(line)
        assert "failed" not in answer, answer
        return answer["gave"]

    def do(self, do: str, **arguments: Any) -> Any:
        self.tell(do, **arguments)
        return self.answer()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(store_url: str) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start_one(*flags: str, **settings: Any) -> Process:
        process = Process(store_url, *flags, **settings)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()


def record(id: str, owner: str = "o" * 64, **fields: Any) -> Record:
    return Record(id=id, owner=owner, format="native", home="nobody", created=BEGAN, **fields)


def told(id: str) -> dict[str, Any]:
    return {"id": id, "owner": "o", "format": "native", "home": "nobody", "created": 1}


def begin(store: Store, id: str, *, key: str | None = None, chat: str | None = None) -> Record:
    return store.create(record(id), key=key, chat=chat)


def whole(store: Store, stream: str) -> list[Entry]:
    """All entries, page by page."""
    entries: list[Entry] = []
    page = read(store, stream)
    while True:
        entries += page.entries
        if not entries or entries[-1].last == page.last:
            return entries
        page = read(store, stream, entries[-1].last)
        assert page.entries


def read(store: Store, stream: str, after: int = 0) -> Page:
    page = store.read(stream, after)
    assert page is not None
    return page


# Beginning one


def test_a_stream_begun_by_one_is_found_by_another(one: Store, other: Store) -> None:
    begun = record("s", seed='{"model": "ü\\u2028"}', body_hash="ab")
    assert one.create(begun, key=None, chat=None) == begun
    assert other.find("s") == begun
    assert other.read("s") == Page(begun, [], 0, False)


def test_nobody_finds_what_was_never_begun(one: Store) -> None:
    assert one.find("s") is None
    assert one.read("s") is None
    assert one.find_chat("o", "c") is None
    assert one.find_key("o", "k") is None
    one.forget("s")


def test_a_second_one_with_the_same_key_gets_the_first(one: Store, other: Store) -> None:
    first = begin(one, "first", key="k")
    assert begin(other, "second", key="k") == first
    assert other.find("second") is None
    one.append([Entry("first", 1, 1, "[]", ended=True)])
    assert begin(other, "third", key="k") == first
    assert other.find("third") is None
    assert other.find_key("o" * 64, "k") == "first"


def test_without_a_key_each_is_a_stream_of_its_own(one: Store) -> None:
    assert begin(one, "first").id == "first"
    assert begin(one, "second").id == "second"


def test_a_key_is_its_owners(one: Store) -> None:
    mine = one.create(record("mine", owner="a"), key="k", chat=None)
    assert one.create(record("theirs", owner="b"), key="k", chat=None).id == "theirs"
    assert one.create(record("again", owner="a"), key="k", chat=None) == mine
    assert [one.find_key(owner, "k") for owner in "abc"] == ["mine", "theirs", None]
    assert one.create(record("open", owner=""), key="k", chat=None).id == "open"
    assert one.create(record("open2", owner=""), key="k", chat=None).id == "open"


@pytest.mark.parametrize("text", ["a b", "*", "a:b", "%", "' OR 1 --", "ü\u2028", "{x}", "[k]", "k" * 500])
def test_keys_and_chats_are_any_text(one: Store, text: str) -> None:
    begin(one, "first", key=text, chat=text)
    assert begin(one, "second", key=text).id == "first"
    assert one.find_chat("o" * 64, text) == "first"
    assert one.find_key("o" * 64, text) == "first"
    assert begin(one, "third", key=text + "x").id == "third"
    assert begin(one, "fourth", key=text[:-1] + "?").id == "fourth"


def test_owner_and_key_do_not_run_together(one: Store) -> None:
    one.create(record("first", owner="a"), key="b:c", chat="b:c")
    assert one.create(record("second", owner="a:b"), key="c", chat="c").id == "second"
    assert one.find_chat("a", "b:c") == "first"
    assert one.find_key("a", "b:c") == "first"


def test_of_two_processes_that_begin_with_one_key_at_the_same_time_one_does(
    start: Callable[..., Process], one: Store
) -> None:
    workers = [start(), start()]
    for worker in workers:
        worker.do("read", stream="nothing")  # has opened what it needs
    for round in range(20):
        at = time.monotonic() + 0.02
        for number, worker in enumerate(workers):
            worker.tell("create", at=at, record=told(f"{round}-{number}"), key=f"k{round}")
        ids = [worker.answer()["id"] for worker in workers]
        assert ids[0] == ids[1]
        assert [bool(one.find(f"{round}-{number}")) for number in range(2)].count(True) == 1
        assert one.find(ids[0])


def test_a_chat_leads_to_its_latest_stream(one: Store, other: Store) -> None:
    begin(one, "first", chat="c")
    assert other.find_chat("o" * 64, "c") == "first"
    begin(other, "second", chat="c")
    assert one.find_chat("o" * 64, "c") == "second"
    assert one.find("first")
    one.append([Entry("second", 1, 1, "[]", ended=True)])
    assert one.find_chat("o" * 64, "c") == "second"


def test_a_chat_is_its_owners(one: Store) -> None:
    begin(one, "mine", chat="c")
    assert one.find_chat("p" * 64, "c") is None
    one.create(record("theirs", owner="p" * 64), key=None, chat="c")
    assert (one.find_chat("o" * 64, "c"), one.find_chat("p" * 64, "c")) == ("mine", "theirs")


# Writing


def test_entries_come_as_they_were_written(one: Store, other: Store) -> None:
    begin(one, "s")
    written = [
        Entry("s", 1, 3, '[{"text":"\\u0000 ü \\ud83d\\ude00"},{"a":"\\"\\\\"},3]'),
        Entry("s", 4, 4, '["\u2028 😀 \x7f"]'),
        Entry("s", 5, 9, "[" + "1," * 50_000 + "1]"),
        Entry("s", 10, 10, '["end"]', ended=True),
    ]
    assert one.append(written[:2]) == set()
    assert one.append(written[2:]) == set()
    assert read(other, "s") == Page(record("s"), written, 10, True)


def test_one_call_writes_entries_of_many_streams(one: Store, other: Store) -> None:
    streams = [f"s{number}" for number in range(50)]
    for stream in streams:
        begin(one, stream)
    written = [Entry(stream, number, number, f'["{stream}", {number}]') for number in (1, 2, 3) for stream in streams]
    assert one.append(written) == set()
    for stream in streams:
        assert read(other, stream).entries == [entry for entry in written if entry.stream == stream]


def test_nothing_to_write_is_written(one: Store) -> None:
    assert one.append([]) == set()


def test_unknown_and_ended_streams_are_refused_and_the_others_written(one: Store, other: Store) -> None:
    begin(one, "open")
    begin(one, "ended")
    other.end("ended", '["end"]')
    entries = [Entry("ended", 2, 2, "[2]"), Entry("open", 1, 1, "[1]"), Entry("unknown", 1, 1, "[1]")]
    assert one.append(entries) == {"ended", "unknown"}
    assert whole(one, "open") == [Entry("open", 1, 1, "[1]")]
    assert whole(one, "ended") == [Entry("ended", 1, 1, '["end"]', ended=True)]
    assert one.find("unknown") is None


def test_nothing_follows_a_terminal_event(one: Store) -> None:
    begin(one, "s")
    assert one.append([Entry("s", 1, 1, "[1]"), Entry("s", 2, 2, "[2]", ended=True)]) == set()
    assert one.append([Entry("s", 3, 3, "[3]")]) == {"s"}
    assert one.end("s", "[3]") == 0
    assert [entry.last for entry in whole(one, "s")] == [1, 2]


def test_a_reader_sees_at_once_what_was_written(one: Store, start: Callable[..., Process]) -> None:
    begin(one, "s")
    reader = start()
    for number in range(1, 50):
        one.append([Entry("s", number, number, f"[{number}]")])
        assert reader.do("read", stream="s", after=number - 1)["last"] == number


# Ending one whose home is gone


def test_an_end_stands_behind_whatever_is_there(one: Store, other: Store) -> None:
    begin(one, "s")
    one.append([Entry("s", 1, 3, "[1,2,3]"), Entry("s", 4, 7, "[4,5,6,7]")])
    assert other.end("s", '["end"]') == 8
    page = read(one, "s", 7)
    assert page == Page(page.record, [Entry("s", 8, 8, '["end"]', ended=True)], 8, True)


def test_an_end_of_one_that_has_no_events_is_its_first(one: Store) -> None:
    begin(one, "s")
    assert one.end("s", '["end"]') == 1


def test_one_that_has_ended_or_is_unknown_is_not_ended(one: Store, other: Store) -> None:
    begin(one, "s")
    assert other.end("s", "[]") == 1
    assert one.end("s", "[]") == 0
    assert one.end("unknown", "[]") == 0
    assert one.find("unknown") is None


def test_of_several_processes_who_end_it_one_does(one: Store, start: Callable[..., Process]) -> None:
    workers = [start(), start(), start()]
    for worker in workers:
        worker.do("read", stream="nothing")
    for round in range(10):
        begin(one, f"s{round}")
        one.append([Entry(f"s{round}", 1, 1, "[1]")])
        at = time.monotonic() + 0.02
        for number, worker in enumerate(workers):
            worker.tell("end", at=at, stream=f"s{round}", data=f'["end {number}"]')
        assert sorted(worker.answer() for worker in workers) == [0, 0, 2]
        assert [entry.last for entry in whole(one, f"s{round}")] == [1, 2]


def test_an_end_in_the_middle_of_its_homes_writing_leaves_no_gap_and_nothing_behind_it(
    one: Store, start: Callable[..., Process]
) -> None:
    home, killer = start(), start()
    killer.do("read", stream="nothing")
    for round in range(5):
        stream = f"s{round}"
        begin(one, stream)
        home.tell("append_until_refused", stream=stream)
        eventually(lambda stream=stream: read(one, stream).last > 5, what="some events")  # type: ignore[misc]
        number = killer.do("end", stream=stream, data='["end"]')
        written = home.answer()
        entries = whole(one, stream)
        assert [entry.first for entry in entries] == list(range(1, written + 2))
        assert number == written + 1
        assert [entry.ended for entry in entries] == [False] * written + [True]


# Reading


def test_a_long_stream_is_read_page_by_page(one: Store, other: Store) -> None:
    begin(one, "s")
    begin(one, "t")
    written = [Entry("s", 2 * number + 1, 2 * number + 2, f'["{number}"]') for number in range(450)]
    for at in range(0, len(written), 100):
        one.append(written[at : at + 100])
    one.append([Entry("t", 1, 1, "[]"), Entry("s", 901, 901, "[]", ended=True)])
    page = read(other, "s")
    assert 100 <= len(page.entries) < 450
    assert (page.last, page.ended) == (901, True)
    assert not page.entries[-1].ended
    assert whole(other, "s") == [*written, Entry("s", 901, 901, "[]", ended=True)]


@pytest.mark.parametrize(
    ("after", "firsts"),
    [
        (-1, [1, 4, 5]),
        (0, [1, 4, 5]),
        (1, [1, 4, 5]),
        (2, [1, 4, 5]),
        (3, [4, 5]),
        (4, [5]),
        (5, [5]),
        (6, []),
        (7, []),
    ],
)
def test_an_entry_with_the_event_in_its_middle_comes_whole(one: Store, after: int, firsts: list[int]) -> None:
    begin(one, "s")
    begin(one, "t")
    one.append([Entry("s", 1, 3, "[1,2,3]"), Entry("s", 4, 4, "[4]"), Entry("s", 5, 6, "[5,6]")])
    one.append([Entry("t", 1, 1, "[]")])
    page = read(one, "s", after)
    assert [entry.first for entry in page.entries] == firsts
    assert page.last == 6


@pytest.mark.parametrize("after", [2**31, 2**32, 2**53, 2**63, 2**64, 10**30])
def test_behind_the_end_there_is_nothing(one: Store, after: int) -> None:
    begin(one, "s")
    begin(one, "t")
    one.append([Entry("s", 1, 1, "[1]"), Entry("t", 1, 1, "[1]")])
    assert read(one, "s", after).entries == []


def test_events_of_one_stream_are_not_anothers(one: Store) -> None:
    for stream in ("a", "a:b", "b"):
        begin(one, stream)
    one.append([Entry("a:b", 1, 1, '["a:b"]'), Entry("b", 1, 1, '["b"]')])
    assert whole(one, "a") == []
    assert [entry.data for entry in whole(one, "a:b")] == ['["a:b"]']


# Its time


def test_a_running_stream_is_unknown_after_its_lifetime(open_store: Callable[..., Store]) -> None:
    one, other = open_store(lifetime_s=2.0, ttl_s=LONG_S), open_store()
    begin(one, "s", key="k", chat="c")
    one.append([Entry("s", 1, 1, "[1]")])
    assert other.find("s")
    eventually(lambda: other.find("s") is None, what="its end")
    assert other.read("s") is None
    assert other.find_chat("o" * 64, "c") is None
    assert other.find_key("o" * 64, "k") is None
    assert one.append([Entry("s", 2, 2, "[2]")]) == {"s"}
    assert one.end("s", "[]") == 0
    assert begin(other, "again", key="k", chat="c").id == "again"
    assert other.find_chat("o" * 64, "c") == "again"


@pytest.mark.parametrize("by", ["home", "another"])
def test_an_ended_stream_is_kept_from_its_end_for_the_time_to_live(
    open_store: Callable[..., Store], start: Callable[..., Process], by: str
) -> None:
    one = open_store(lifetime_s=2.5, ttl_s=LONG_S)
    brief = open_store(lifetime_s=LONG_S, ttl_s=2.0)
    for stream in ("kept", "brief"):
        begin(one, stream, key=stream, chat=stream)
        store = one if stream == "kept" else brief
        if by == "home":
            store.append([Entry(stream, 1, 1, "[]", ended=True)])
        else:
            store.end(stream, "[]")
    begin(one, "running")
    assert read(one, "brief").ended
    eventually(lambda: one.find("brief") is None and one.find("running") is None, what="the end of both")
    assert one.find_key("o" * 64, "brief") is None
    assert begin(brief, "again", key="brief").id == "again"
    assert one.find_chat("o" * 64, "brief") is None
    assert read(one, "kept").ended
    assert begin(one, "kept again", key="kept").id == "kept"
    assert one.find_chat("o" * 64, "kept") == one.find_key("o" * 64, "kept") == "kept"


def test_a_forgotten_stream_never_was(one: Store, other: Store) -> None:
    begin(one, "before", chat="c")
    begin(one, "s", key="k", chat="c")
    one.append([Entry("s", 1, 1, "[1]")])
    other.forget("s")
    assert one.find("s") is None
    assert one.read("s") is None
    assert one.find_chat("o" * 64, "c") is None
    assert one.find_key("o" * 64, "k") is None
    assert one.append([Entry("s", 2, 2, "[2]")]) == {"s"}
    assert one.end("s", "[]") == 0
    assert begin(one, "s", key="k").id == "s"
    assert whole(one, "s") == []
    assert one.find("before")


def test_a_stream_gets_so_long_and_no_longer(one: Store, other: Store) -> None:
    begin(one, "long")
    begin(one, "short")
    million = "[" + " " * 999_998 + "]"
    written = 0
    while written < 100:
        refused = one.append(
            [Entry("long", written + 1, written + 1, million), Entry("short", written + 1, written + 1, "[]")]
        )
        if refused:
            break
        written += 1
    assert refused == {"long"}
    assert 30 <= written <= 34
    assert one.append([Entry("long", written + 1, written + 1, "[]")]) == {"long"}  # nothing is left out in its middle
    assert read(other, "short").last == written + 1
    assert other.end("long", '["end"]') == written + 1


# Trouble


def calls(store: Store) -> dict[str, Callable[[], object]]:
    return {
        "create": lambda: begin(store, "new", key="k", chat="c"),
        "append": lambda: store.append([Entry("s", 1, 1, "[1]")]),
        "end": lambda: store.end("s", "[]"),
        "read": lambda: store.read("s"),
        "find": lambda: store.find("s"),
        "find_key": lambda: store.find_key("o", "k"),
        "find_chat": lambda: store.find_chat("o", "c"),
        "forget": lambda: store.forget("s"),
        "check": store.check,
    }


def test_all_is_well(one: Store) -> None:
    one.check()


def test_a_store_that_cannot_be_reached_says_so_in_time_and_works_again_after(
    hands: Hands, one: Store, open_store: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sluiceway")
    begin(one, "s")
    one.check()
    never_opened = open_store()
    hands.take_away()

    def gone(call: Callable[[], object]) -> bool:
        try:
            call()
        except StoreUnavailable:
            return True
        return False

    eventually(
        lambda: gone(one.check) and gone(lambda: one.read("s")), what="the trouble"
    )  # may take a moment to be noticed
    for store in (one, never_opened):
        for name, call in calls(store).items():
            began = time.monotonic()
            with pytest.raises(StoreUnavailable) as raised:
                call()
            assert time.monotonic() - began < PATIENCE_S + LATE_S, name
            assert store.name in raised.value.message
            assert hands.url.partition("://")[2] not in raised.value.message
            assert raised.value.why
    told = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert 1 <= len(told) <= 4, "once for each change, not for each call"

    hands.give_back()

    def back() -> bool:
        try:
            one.check()
            never_opened.check()
        except StoreUnavailable:
            return False
        return True

    eventually(back, what="the store")
    begin(one, "after", key="k", chat="c")
    for call in calls(never_opened).values():
        call()


def test_one_waits_for_another_that_writes(hands: Hands, one: Store) -> None:
    begin(one, "s")
    hands.hold(0.3)
    assert one.append([Entry("s", 1, 1, "[1]")]) == set()
    assert whole(one, "s") == [Entry("s", 1, 1, "[1]")]


def test_one_does_not_wait_for_ever(hands: Hands, one: Store) -> None:
    begin(one, "s")
    hands.hold(PATIENCE_S + LATE_S)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        one.append([Entry("s", 1, 1, "[1]")])
    assert time.monotonic() - began < PATIENCE_S + LATE_S


def test_an_event_loop_goes_on_while_a_call_waits(hands: Hands, start: Callable[..., Process]) -> None:
    worker = start("--gevent")
    worker.do("create", record=told("s"))
    hands.hold(1.5)
    gave = worker.do("tick_during", call="append", arguments={"entries": [("s", 1, 1, "[1]")]})
    assert gave["took_s"] > 0.5
    assert gave["gave"] == []
    assert gave["ticks"] > gave["took_s"] / 0.05  # one wants to run every 0.01 s


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_a_forked_child_has_connections_of_its_own(start: Callable[..., Process], one: Store, flags: list[str]) -> None:
    parent = start(*flags)
    parent.do("create", record=told("s"))
    parent.do("read", stream="s")
    for round in range(3):
        assert parent.do("fork", stream="s", first=3 * round + 1) == {"status": 0}
    assert [entry.data for entry in whole(one, "s")] == ['["before"]', '["child"]', '["parent"]'] * 3
    assert parent.do("read", stream="s")["last"] == 9


def test_many_threads_and_one_store(one: Store) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            begin(one, name)
            for number in range(1, 31):
                assert one.append([Entry(name, number, number, f"[{number}]")]) == set()
                assert read(one, name).last == number
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Mail


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_mails_arrive_in_order_one_at_a_time(one: Store, start: Callable[..., Process], flags: list[str]) -> None:
    reader = start(*flags)
    mailbox = reader.do("listen")
    mails = [f"{number} ü\0" for number in range(300)]
    for mail in mails:
        assert one.send(mailbox, mail.encode())
        if mail.startswith("9"):
            time.sleep(0.001)
    eventually(lambda: len(reader.do("received")["mails"]) == len(mails), what="all mails")
    assert reader.do("received") == {"mails": mails, "at_once": 1}


def test_a_process_may_write_to_itself(one: Store) -> None:
    mails: list[bytes] = []
    mailbox = one.listen(mails.append)
    assert one.send(mailbox, b"to me")
    eventually(lambda: mails == [b"to me"], what="the mail")


def test_mailboxes_have_names_of_their_own(open_store: Callable[..., Store]) -> None:
    names = [open_store().listen(lambda mail: None) for _ in range(5)]
    assert len(set(names)) == 5


def test_a_mail_may_be_long_or_empty(one: Store, other: Store) -> None:
    mails: list[bytes] = []
    mailbox = other.listen(mails.append)
    longest = os.urandom(MAIL_BYTES)
    assert one.send(mailbox, longest)
    assert one.send(mailbox, b"")
    eventually(lambda: len(mails) == 2, what="the mails")
    assert mails == [longest, b""]


@pytest.mark.parametrize("name", ["", "nobody", "0-0", "../x", "/x", "x" * 300, "ü", "a\0b", "*"])
def test_where_nobody_lives_a_mail_is_not_taken(one: Store, name: str) -> None:
    assert one.send(name, b"x") is False


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_the_mailbox_of_a_killed_process_is_dead(one: Store, start: Callable[..., Process], flags: list[str]) -> None:
    reader = start(*flags)
    mailbox = reader.do("listen")
    assert one.send(mailbox, b"x")
    reader.kill()
    eventually(lambda: one.send(mailbox, b"x") is False, what="notice of its death")


def test_a_closed_mailbox_is_dead_and_a_new_one_has_a_new_name(one: Store, other: Store) -> None:
    mails: list[bytes] = []
    first = other.listen(mails.append)
    other.close()
    eventually(lambda: one.send(first, b"x") is False, what="its end")
    second = other.listen(mails.append)
    assert second != first
    assert one.send(second, b"y")
    eventually(lambda: mails == [b"y"], what="the mail")
    assert one.send(first, b"x") is False


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_a_slow_reader_slows_nobody(one: Store, start: Callable[..., Process], flags: list[str]) -> None:
    slow, quick = start(*flags), start(*flags)
    to_slow, to_quick = slow.do("listen", every_s=LONG_S), quick.do("listen")
    longest = 0.0
    for _ in range(3000):
        began = time.monotonic()
        assert one.send(to_slow, b"x" * 1000)
        longest = max(longest, time.monotonic() - began)
    assert longest < 0.5
    assert one.send(to_quick, b"hello")
    eventually(lambda: quick.do("received")["mails"] == ["hello"], what="the other mail")


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_a_mail_that_is_not_understood_is_the_only_one_lost(
    one: Store, start: Callable[..., Process], flags: list[str]
) -> None:
    reader = start(*flags)
    mailbox = reader.do("listen")
    for mail in (b"1", b"bad", b"2"):
        one.send(mailbox, mail)
    eventually(lambda: reader.do("received")["mails"] == ["1", "2"], what="both mails")


# Closing


def test_after_close_all_is_opened_anew(one: Store, other: Store) -> None:
    begin(one, "s")
    one.close()
    one.close()
    assert one.append([Entry("s", 1, 1, "[1]")]) == set()
    assert whole(one, "s") == whole(other, "s") == [Entry("s", 1, 1, "[1]")]


# SQLite alone


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "room" / "streams.db"


@pytest.fixture
def here(file: Path) -> Iterator[Store]:
    store = make(f"sqlite:///{file}")
    yield store
    store.close()


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite:///", "sqlite://x.db", "redis://x", "x.db"])
def test_what_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"memory|sqlite:///path"):
        STORES["sqlite"](url, lifetime_s=1, ttl_s=1)


def test_a_relative_path_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = make("sqlite:///var/streams.db")
    monkeypatch.chdir("/")
    assert list(tmp_path.iterdir()) == []  # nothing is opened before the first call
    store.check()
    assert (tmp_path / "var" / "streams.db").is_file()
    store.close()


def test_others_cannot_read_the_files(here: Store, file: Path) -> None:
    begin(here, "s")
    here.listen(lambda mail: None)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir() if path.is_file()}
    assert modes == {"streams.db": 0o600, "streams.db-wal": 0o600, "streams.db-shm": 0o600}
    assert stat.S_IMODE(folder_of(file).stat().st_mode) == 0o700


def test_a_file_that_is_no_database_is_left_alone(here: Store, file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database, and long enough to be one" * 100)
    with pytest.raises(StoreUnavailable) as raised:
        here.check()
    assert str(file) in raised.value.why
    assert "move it away" in raised.value.why
    assert file.read_bytes() == b"not a database, and long enough to be one" * 100
    file.rename(file.with_name("away"))
    here.check()


def test_a_database_of_another_program_is_left_alone(here: Store, file: Path) -> None:
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE theirs (x)")
        db.commit()
    with pytest.raises(StoreUnavailable) as raised:
        here.check()
    assert "another program" in raised.value.why


def test_a_file_of_a_newer_version_is_left_alone(here: Store, file: Path) -> None:
    here.check()
    here.close()
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnavailable) as raised:
        here.check()
    assert "newer version" in raised.value.why
    assert "99" in raised.value.why


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_deleted_is_begun_anew_by_all(here: Store, file: Path, replaced: bool) -> None:
    second = make(f"sqlite:///{file}")
    begin(here, "s")
    assert second.find("s")
    if replaced:
        fresh = make(f"sqlite:///{file.parent / 'fresh.db'}")
        fresh.check()
        fresh.close()
        os.replace(file.parent / "fresh.db", file)
        for rest in ("-wal", "-shm"):
            file.with_name(file.name + rest).unlink(missing_ok=True)
    else:
        shutil.rmtree(file.parent)
    eventually(lambda: here.find("s") is None and second.find("s") is None, what="notice of it")

    def met() -> bool:
        here.create(record(stream := os.urandom(8).hex()), key=None, chat=None)
        return second.find(stream) is not None

    eventually(met, what="both on one file")
    second.close()


def rows(file: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(file)) as db:
        count: int = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        return count


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_what_has_expired_is_removed_from_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    url = f"sqlite:///{file}"
    worker = Process(url, *flags, lifetime_s=1.0)
    stays = make(url)
    try:
        begin(stays, "stays")
        for number in range(5):
            stays.append([Entry("stays", number + 1, number + 1, "[]")])
        for stream in range(20):
            worker.do("create", record=told(f"s{stream}"))
            worker.do("append", entries=[(f"s{stream}", n, n, '["text"]') for n in range(1, 101)])
        assert rows(file, "entries") + rows(file, "fresh") == 2005

        def swept() -> bool:
            if not flags:  # no thread of its own: it tidies up behind a call
                worker.do("append", entries=[])
                worker.do("end", stream="nothing", data="[]")
            return rows(file, "streams") == 1

        eventually(swept, within_s=20, what="the end of the others")
        assert rows(file, "entries") + rows(file, "fresh") == 5
        assert [entry.last for entry in whole(stays, "stays")] == [1, 2, 3, 4, 5]
    finally:
        worker.kill()
        stays.close()


def test_the_file_does_not_keep_growing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.stores.sqlite.SWEEP_S", 0.0)
    monkeypatch.setattr("app.stores.sqlite.MORE_S", 0.0)  # behind every call, however long one takes
    store = make(f"sqlite:///{file}", ttl_s=0.001)
    sizes = []
    for round in range(30):
        begin(store, f"s{round}")
        store.append(
            [Entry(f"s{round}", number, number, '["' + "x" * 2000 + '"]', number == 500) for number in range(1, 501)]
        )
        sizes.append(file.stat().st_size + file.with_name("streams.db-wal").stat().st_size)
    assert max(sizes[15:]) <= 1.5 * max(sizes[:15])
    eventually(lambda: store.end("nothing", "[]") == 0 and rows(file, "entries") == 0, what="the end of all")
    store.close()


def test_a_writer_who_was_told_that_it_failed_may_write_again(
    here: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(here, "s")
    here.append([Entry("s", 1, 1, "[1]")])
    ask = here._ask  # type: ignore[attr-defined]

    def written_and_yet(*args: Any) -> None:
        ask(*args)
        raise StoreUnavailable("sqlite", "late")

    with monkeypatch.context() as late:
        late.setattr(here, "_ask", written_and_yet)
        for entries in ([Entry("s", 2, 3, "[2,3]"), Entry("s", 4, 4, "[4]")], [Entry("s", 2, 4, "[2,3,4]")]):
            with pytest.raises(StoreUnavailable):
                here.append(entries)
    assert here.append([Entry("s", 2, 5, "[2,3,4,5]")]) == set()
    assert here.append([Entry("s", 6, 6, "[6]")]) == set()
    assert [entry.data for entry in whole(here, "s")] == ["[1]", "[2,3,4,5]", "[6]"]


def test_many_entries_are_in_order_wherever_they_lie(here: Store) -> None:
    streams = [f"s{number}" for number in range(3)]
    for stream in streams:
        begin(here, stream)
    for number in range(1, 2501):
        here.append([Entry(stream, number, number, f'["{stream} {number}"]') for stream in streams])
    for stream in streams:
        assert [entry.data for entry in whole(here, stream)] == [f'["{stream} {n}"]' for n in range(1, 2501)]
    for after in (0, 1, 1999, 2000, 2001, 2499, 2500):
        page = read(here, "s1", after)
        assert [entry.first for entry in page.entries] == list(range(after + 1, 2501))[:200]
        assert page.last == 2500


def test_a_killed_writer_leaves_whole_entries(file: Path, here: Store) -> None:
    for round in range(5):
        writer = Process(f"sqlite:///{file}")
        stream = f"s{round}"
        begin(here, stream)
        writer.tell("append_until_refused", stream=stream)
        eventually(lambda stream=stream: read(here, stream).last > 20, what="some events")  # type: ignore[misc]
        writer.kill()
        last = here.end(stream, '["end"]')
        assert [entry.first for entry in whole(here, stream)] == list(range(1, last + 1))


def test_a_full_disk_is_said_and_passes(file: Path) -> None:
    worker = Process(f"sqlite:///{file}")
    try:
        worker.do("create", record=told("s"))
        worker.do("limit_files", size=200_000)
        text = '["' + "x" * 10_000 + '"]'
        worker.tell("append", entries=[("s", number, number, text) for number in range(1, 101)])
        assert worker.process.stdout is not None
        answer = json.loads(worker.process.stdout.readline())
        assert answer["failed"] == "StoreUnavailable"
        assert str(file) in answer["why"]
        worker.do("limit_files", size=-1)
        assert worker.do("append", entries=[("s", number, number, text) for number in range(1, 101)]) == []
        assert worker.do("end", stream="s", data="[]") == 101
    finally:
        worker.kill()


def test_sockets_of_the_dead_are_removed(file: Path, here: Store) -> None:
    dead = Process(f"sqlite:///{file}")
    name = dead.do("listen")
    dead.kill()
    box = folder_of(file) / name
    assert box.exists()
    mine = here.listen(lambda mail: None)
    assert not box.exists()
    assert (folder_of(file) / mine).exists()
    here.close()
    assert not folder_of(file).exists()


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_a_mailbox_whose_folder_was_deleted_is_opened_anew(file: Path, here: Store, flags: list[str]) -> None:
    reader = Process(f"sqlite:///{file}", *flags)
    try:
        mailbox = reader.do("listen")
        assert here.send(mailbox, b"1")
        eventually(lambda: reader.do("received")["mails"] == ["1"], what="the first mail")
        shutil.rmtree(folder_of(file))
        eventually(lambda: (folder_of(file) / mailbox).exists(), what="the new socket")
        assert here.send(mailbox, b"2")
        eventually(lambda: reader.do("received")["mails"] == ["1", "2"], what="the second mail")
    finally:
        reader.kill()


def test_a_folder_that_others_can_look_into_gets_no_mailbox(file: Path, here: Store) -> None:
    folder_of(file).mkdir(parents=True)
    folder_of(file).chmod(0o755)
    with pytest.raises(StoreUnavailable):
        here.listen(lambda mail: None)
    folder_of(file).rmdir()


def test_a_long_path_has_its_mailboxes_in_the_folder_for_temporary_files(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / "streams.db"
    assert folder_of(deep).parent == Path(tempfile.gettempdir())
    assert folder_of(Path("/x/streams.db")) == Path("/x/streams.db.mail")
    one, other = make(f"sqlite:///{deep}"), make(f"sqlite:///{deep}")
    mails: list[bytes] = []
    assert other.send(one.listen(mails.append), b"x")
    eventually(lambda: mails == [b"x"], what="the mail")
    one.close()
    other.close()


@pytest.mark.parametrize("flags", [[], ["--gevent"]], ids=["threads", "gevent"])
def test_a_reader_that_was_busy_for_a_moment_has_all_its_mail(file: Path, here: Store, flags: list[str]) -> None:
    reader = Process(f"sqlite:///{file}", *flags)
    try:
        mailbox = reader.do("listen")
        reader.tell("busy", seconds=0.3)
        for number in range(500):  # the kernel keeps ten
            assert here.send(mailbox, str(number).encode())
        assert reader.answer() is None
        eventually(lambda: len(reader.do("received")["mails"]) == 500, what="the mails")
        assert reader.do("received")["mails"] == [str(number) for number in range(500)]
    finally:
        reader.kill()
