"""What is Redis's own: its outages, its memory, its keys. What every store does is in test_stores.py."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, RedisServer, eventually, free_port
from test_transport import certificates

from app.errors import StoreUnavailable
from app.stores.base import MAIL_BYTES, PATIENCE_S, Entry, Record
from app.stores.redis import ALIVE_S, MOST_CONNECTIONS, PAGE_BYTES, PAGE_ENTRIES, STREAM_BYTES, Redis, _Turns

__all__ = ["certificates"]  # a fixture

LIFETIME_S, TTL_S = 600.0, 60.0
LATE_S = 5.0  # what a busy machine may add

names = (f"st_{number}" for number in itertools.count())


def record(**fields: Any) -> Record:
    return Record(**{"id": next(names), "owner": "owner", "format": "native", "home": "home", "created": 1, **fields})


@pytest.fixture
def open_store() -> Iterator[Callable[[str], Redis]]:
    opened: list[Redis] = []

    def open_(url: str) -> Redis:
        opened.append(Redis(url, lifetime_s=LIFETIME_S, ttl_s=TTL_S))
        return opened[-1]

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def store(redis_url: str, open_store: Callable[[str], Redis]) -> Redis:
    return open_store(redis_url)


CALLS: dict[str, Callable[[Redis], object]] = {
    "create": lambda store: store.create(record(), key="key", chat="chat"),
    "append": lambda store: store.append([Entry("st", 1, 1, "[]")]),
    "end": lambda store: store.end("st", "[]"),
    "read": lambda store: store.read("st"),
    "find": lambda store: store.find("st"),
    "find_key": lambda store: store.find_key("owner", "key"),
    "find_chat": lambda store: store.find_chat("owner", "chat"),
    "forget": lambda store: store.forget("st"),
    "check": lambda store: store.check(),
    "send": lambda store: store.send("mailbox", b"mail"),
    "listen": lambda store: store.listen(lambda mail: None),
}


def all_unavailable(store: Redis) -> None:
    """Every call, all at once, and none takes longer than the contract gives it."""

    def unavailable(call: Callable[[Redis], object]) -> float:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            call(store)
        return time.monotonic() - began

    with ThreadPoolExecutor(len(CALLS)) as pool:
        assert max(pool.map(unavailable, CALLS.values())) < PATIENCE_S + LATE_S


# Outages


def test_a_stopped_server_is_unavailable_to_every_call_and_works_again(store: Redis, redis_server: RedisServer) -> None:
    store.check()
    redis_server.stop()
    all_unavailable(store)
    redis_server.start()
    store.check()
    assert store.create(first := record(), key=None, chat=None) == first


def test_a_server_that_takes_connections_and_is_silent_is_unavailable_in_time(
    store: Redis, redis_server: RedisServer
) -> None:
    store.check()
    redis_server.pause()
    all_unavailable(store)
    redis_server.resume()
    store.check()


def test_what_a_restart_has_lost_is_unknown_and_nothing_hangs(store: Redis, redis_server: RedisServer) -> None:
    lost = store.create(record(), key="key", chat="chat")
    assert store.append([Entry(lost.id, 1, 1, "[1]")]) == set()
    redis_server.stop()
    redis_server.start()
    assert store.append([Entry(lost.id, 2, 2, "[2]")]) == {lost.id}
    assert store.read(lost.id) is None
    assert store.find(lost.id) is None
    assert store.find_chat("owner", "chat") is None
    assert store.end(lost.id, "[3]") == 0
    again = record()
    assert store.create(again, key="key", chat="chat") == again


def test_trouble_is_logged_once_and_so_is_its_end(
    store: Redis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store.check()
    redis_server.stop()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.check()
    redis_server.start()

    def told() -> bool:
        store.check()
        return len(caplog.records) > 1

    eventually(told, what="the news that it is back")
    for _ in range(3):
        store.check()
    said = [entry.getMessage() for entry in caplog.records]
    assert len(said) == 2, said
    assert f"127.0.0.1:{redis_server.port}" in said[0]
    assert said[1] == "the store can be used again: redis"
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR, logging.WARNING]


def test_a_connection_that_the_server_has_closed_is_not_used(store: Redis, redis_server: RedisServer) -> None:
    kept = store.create(record(), key=None, chat=None)
    for number in range(1, 4):
        with redis_server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        assert store.append([Entry(kept.id, number, number, "[]")]) == set()


def test_scripts_that_the_server_was_told_to_forget_are_sent_again(store: Redis, redis_server: RedisServer) -> None:
    kept = store.create(record(), key=None, chat=None)
    with redis_server.client() as client:
        client.script_flush()
    assert store.append([Entry(kept.id, 1, 1, "[]")]) == set()
    page = store.read(kept.id)
    assert page is not None
    assert page.last == 1


def test_an_append_said_twice_is_written_once(store: Redis) -> None:
    kept = store.create(record(), key=None, chat=None)
    entries = [Entry(kept.id, 1, 2, "[1, 2]"), Entry(kept.id, 3, 3, "[3]")]
    assert store.append(entries) == set()
    assert store.append([*entries, Entry(kept.id, 4, 4, "[4]")]) == set()
    page = store.read(kept.id)
    assert page is not None
    assert [entry.data for entry in page.entries] == ["[1, 2]", "[3]", "[4]"]
    assert store.append([Entry(kept.id, 3, 6, "[3, 4, 5, 6]")]) == set()
    page = store.read(kept.id)
    assert page is not None
    assert [entry.data for entry in page.entries] == ["[1, 2]", "[3, 4, 5, 6]"]


def test_entries_behind_a_gap_are_refused(store: Redis) -> None:
    """A replica that took over may have lost the last ones; without a word a reader would miss them."""
    kept = store.create(record(), key=None, chat=None)
    assert store.append([Entry(kept.id, 1, 2, "[1, 2]"), Entry(kept.id, 4, 4, "[4]")]) == {kept.id}
    page = store.read(kept.id)
    assert page is not None
    assert [entry.data for entry in page.entries] == ["[1, 2]"]
    assert store.append([Entry(kept.id, 3, 3, "[3]")]) == set()


def test_a_full_server_is_logged_once_though_it_can_be_read(
    store: Redis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store.create(record(), key=None, chat=None)
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    store.append([Entry(kept.id, 1, 1, "[]")])
                assert store.find(kept.id) == kept
        finally:
            client.config_set("maxmemory", "0")

    def told() -> bool:
        assert store.append([Entry(kept.id, 1, 1, "[]")]) == set()
        return len(caplog.records) > 1

    eventually(told, what="the news that it is well")
    assert [entry.levelno for entry in caplog.records] == [logging.ERROR, logging.WARNING]


def test_closing_does_not_wait_for_a_server_that_is_silent(redis_url: str, redis_server: RedisServer) -> None:
    store = Redis(redis_url, lifetime_s=1, ttl_s=1)
    store.listen(lambda mail: None)
    redis_server.pause()
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < PATIENCE_S + LATE_S
    redis_server.resume()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
def test_a_host_that_is_none_is_unavailable(host: str, open_store: Callable[[str], Redis]) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        open_store(f"redis://{host}:6379/0").check()
    assert host not in caught.value.message


# Who may, and what is said of it


def test_a_wrong_password_is_unavailable_and_told_to_nobody(
    start_redis: Callable[..., RedisServer], open_store: Callable[[str], Redis], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis("--requirepass", "right/password")
    try:
        store = open_store(server.url.replace("redis://", "redis://:wr0ng%2Fpassword@"))
        with pytest.raises(StoreUnavailable) as caught:
            store.check()
        said = caught.value.message + caught.value.why + caplog.text
        assert "invalid username-password pair" in said
        for secret in ("wr0ng", "right"):
            assert secret not in said
        assert str(server.port) not in caught.value.message
        open_store(server.url.replace("redis://", "redis://:right%2Fpassword@")).check()
    finally:
        server.stop()


def test_over_tls_the_certificate_is_verified(
    start_redis: Callable[..., RedisServer], open_store: Callable[[str], Redis], certificates: Path
) -> None:
    trusted = f"?ssl_ca_certs={certificates / 'ca.pem'}"
    for name, said in (("good", ""), ("wrong_host", "mismatch"), ("expired", "expired"), ("unknown", "self-signed")):
        port = free_port()
        pair = ("--tls-cert-file", f"{certificates / name}.pem", "--tls-key-file", f"{certificates / name}.key")
        server = start_redis("--tls-port", str(port), "--tls-auth-clients", "no", *pair)
        try:
            with pytest.raises(StoreUnavailable, match="redis") as caught:
                open_store(f"rediss://127.0.0.1:{port}/0").check()
            assert "CERTIFICATE_VERIFY_FAILED" in caught.value.why
            store = open_store(f"rediss://127.0.0.1:{port}/0{trusted}")
            if said:
                with pytest.raises(StoreUnavailable) as caught:
                    store.check()
                assert said in caught.value.why
                continue
            mails: list[bytes] = []
            mailbox = store.listen(mails.append)
            kept = store.create(record(), key=None, chat=None)
            for number in range(1, 10):
                assert store.append([Entry(kept.id, number, number, "[]")]) == set()
                assert store.send(mailbox, b"x" * MAIL_BYTES)
            eventually(lambda mails=mails: len(mails) == 9, what="all mails")
            with server.client() as client:
                assert client.info("clients")["connected_clients"] <= 4, "connections are used again"
                client.client_kill_filter(_type="normal", skipme=True)
            assert store.find(kept.id) == kept
        finally:
            server.stop()


def test_databases_are_apart(redis_server: RedisServer, redis_url: str, open_store: Callable[[str], Redis]) -> None:
    zero, three = open_store(redis_url), open_store(redis_url.removesuffix("/0") + "/3")
    kept = three.create(record(), key=None, chat=None)
    assert zero.find(kept.id) is None
    assert three.find(kept.id) == kept


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@127.0.0.1:1/0?socket_timeout=99",
        "redis://:s3cret@127.0.0.1:1/0?ssl_ca_certs=/ca",
        "rediss://:s3cret@127.0.0.1:1/0?ssl_cert_reqs=none",
        "rediss://:s3cret@127.0.0.1:1/0?ssl_check_hostname=false",
        "redis://:s3cret@127.0.0.1:1/zero",
        "redis://:s3cret/@127.0.0.1:1/0",
        "redis://:s3cret@[127.0.0.1:1/0",
        "redis://:s3cret@127.0.0.1:99999999/0",
    ],
)
def test_an_option_of_the_url_that_is_not_ours_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL of the store") as caught:
        Redis(url, lifetime_s=1, ttl_s=1)
    assert "s3cret" not in str(caught.value)


def test_check_tells_of_a_server_that_cannot_be_written_to(
    store: Redis, redis_server: RedisServer, start_redis: Callable[..., RedisServer], open_store: Callable[[str], Redis]
) -> None:
    store.check()
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable) as caught:
                store.check()
            with pytest.raises(StoreUnavailable):
                store.create(record(), key="key", chat="chat")
        finally:
            client.config_set("maxmemory", "0")
    assert "maxmemory" in caught.value.why
    store.check()
    replica = start_redis("--replicaof", "127.0.0.1", str(redis_server.port))
    try:
        with pytest.raises(StoreUnavailable, match="store") as caught:
            open_store(replica.url).check()
        assert "read only replica" in caught.value.why
    finally:
        replica.stop()


# Keys and bounds


def test_every_key_has_a_time_to_live(store: Redis, redis_server: RedisServer) -> None:
    def times() -> dict[str, float]:
        with redis_server.client() as client:
            return {key.decode(): client.pttl(key) / 1000 for key in client.scan_iter()}

    store.listen(lambda mail: None)
    store.check()
    going = store.create(record(), key="key", chat="chat")
    earlier = store.create(record(), key=None, chat="newer")
    later = store.create(record(), key=None, chat="newer")
    store.append([Entry(going.id, 1, 1, "[]")])
    store.append([Entry(going.id, 2, 2, "[]"), Entry(earlier.id, 1, 1, "[]"), Entry(later.id, 1, 1, "[]")])
    kinds = {key.split(":")[1] for key in times()}
    assert kinds == {"stream", "events", "key", "chat", "alive", "check"}
    for key, left in times().items():
        assert key.startswith("sluiceway:")
        if key.split(":")[1] in ("alive", "check"):
            assert 0 < left <= ALIVE_S
        else:
            assert LIFETIME_S - 60 < left <= LIFETIME_S, key
    store.append([Entry(going.id, 3, 3, "[]", ended=True)])
    store.end(earlier.id, "[]")
    short = {key for key, left in times().items() if TTL_S - 30 < left <= TTL_S}
    assert sorted(key.split(":")[1] for key in short) == ["chat", "events", "events", "key", "stream", "stream"]
    assert f"sluiceway:stream:{later.id}" not in short
    assert store.find_chat("owner", "newer") == later.id


def test_a_stream_is_gone_after_its_time_with_all_that_led_to_it(redis_url: str) -> None:
    store = Redis(redis_url, lifetime_s=0.3, ttl_s=0.2)
    kept = store.create(record(), key="key", chat="chat")
    store.append([Entry(kept.id, 1, 1, "[]")])
    eventually(lambda: store.find(kept.id) is None, what="the end of its lifetime")
    assert store.read(kept.id) is None
    assert store.append([Entry(kept.id, 2, 2, "[]")]) == {kept.id}
    assert store.find_chat("owner", "chat") is None
    again = record()
    assert store.create(again, key="key", chat=None) == again
    store.close()


def test_a_stream_whose_events_were_evicted_is_unknown(store: Redis, redis_server: RedisServer) -> None:
    kept = store.create(record(), key=None, chat=None)
    store.append([Entry(kept.id, 1, 1, "[]")])
    with redis_server.client() as client:
        client.delete(f"sluiceway:events:{kept.id}")
    assert store.read(kept.id) is None
    assert store.append([Entry(kept.id, 2, 2, "[]")]) == {kept.id}
    assert store.end(kept.id, "[]") == 0


def test_a_stream_has_a_bound_and_others_go_on(store: Redis) -> None:
    large, small = store.create(record(), key=None, chat=None), store.create(record(), key=None, chat=None)
    data = json.dumps(["x" * (2**20 - 4)])
    for number in range(1, STREAM_BYTES // len(data) + 1):
        assert store.append([Entry(large.id, number, number, data)]) == set()
    beyond = [Entry(large.id, number + 1, number + 1, data), Entry(small.id, 1, 1, data)]
    assert store.append(beyond) == {large.id}
    page = store.read(large.id, after=number - 1)
    assert page is not None
    assert page.last == number
    assert store.read(small.id) is not None
    assert store.end(large.id, "[]") == number + 1


def test_pages_are_bounded_in_entries_and_bytes_and_join(store: Redis) -> None:
    many, heavy = store.create(record(), key=None, chat=None), store.create(record(), key=None, chat=None)
    data = json.dumps(["x" * 100_000])
    store.append([Entry(many.id, 2 * n - 1, 2 * n, f"[{n}]") for n in range(1, 2 * PAGE_ENTRIES)])
    store.append([Entry(heavy.id, n, n, data) for n in range(1, 31)])
    for stream in (many.id, heavy.id):
        after, pages = 0, 0
        while (page := store.read(stream, after)) is not None and page.entries:
            assert page.entries[0].first == after + 1
            assert len(page.entries) <= PAGE_ENTRIES
            assert sum(len(entry.data) for entry in page.entries) < PAGE_BYTES + len(data)
            after, pages = page.entries[-1].last, pages + 1
        assert page is not None
        assert (after, pages) == (page.last, 2 if stream == many.id else 3)


def test_an_append_to_a_hundred_streams_is_one_command(store: Redis, redis_server: RedisServer) -> None:
    streams = [store.create(record(), key=None, chat=None).id for _ in range(100)]
    store.append([Entry(streams[0], 1, 1, "[]")])
    with redis_server.client() as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert store.append([Entry(stream, 1, 2, "[]") for stream in streams]) == set()
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


@pytest.mark.parametrize("odd", ["", "\ud800", "a\0b", "x" * 10_000, "*", "é"])
def test_names_that_clients_make_up_lead_nowhere(store: Redis, odd: str) -> None:
    assert store.find(odd) is None
    assert store.read(odd) is None
    assert store.end(odd, "[]") == 0
    assert store.find_chat(odd, odd) is None
    kept = store.create(record(owner=""), key=odd, chat=odd)
    assert store.create(record(owner=""), key=odd, chat=None) == kept
    assert store.find_chat("", odd) == kept.id
    assert store.read(kept.id, after=2**70) is not None


# Mail


def test_a_mailbox_comes_back_by_itself_after_a_restart(
    store: Redis, redis_url: str, redis_server: RedisServer, open_store: Callable[[str], Redis]
) -> None:
    mails: list[bytes] = []
    mailbox = store.listen(mails.append)
    other = open_store(redis_url)
    assert other.send(mailbox, b"before")
    eventually(lambda: mails == [b"before"], what="the first mail")
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        other.send(mailbox, b"lost")
    redis_server.start()

    def sent() -> bool:
        with contextlib.suppress(StoreUnavailable):  # it may have arrived all the same
            assert other.send(mailbox, b"after"), "never said to be gone: it lives"
        return b"after" in mails

    eventually(sent, what="the mail")
    assert mails[0] == b"before"
    assert set(mails[1:]) == {b"after"}


def test_a_lost_subscription_is_no_death(
    store: Redis, redis_url: str, redis_server: RedisServer, open_store: Callable[[str], Redis]
) -> None:
    mails: list[bytes] = []
    mailbox = store.listen(mails.append)
    other = open_store(redis_url)
    for number in range(5):
        with redis_server.client() as client:
            assert client.client_kill_filter(_type="pubsub") == 1
        assert other.send(mailbox, b"%d" % number)
    eventually(lambda: mails == [b"0", b"1", b"2", b"3", b"4"], what="all mails")


def test_nobody_is_called_gone_right_after_an_outage(store: Redis, redis_server: RedisServer) -> None:
    assert store.send("nobody", b"") is False
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        store.check()
    redis_server.start()
    store.check()
    with pytest.raises(StoreUnavailable):
        store.send("nobody", b"")

    def gone() -> bool:
        try:
            return store.send("nobody", b"") is False
        except StoreUnavailable:
            return False

    eventually(gone, what="an answer")


LISTENER = """
import sys, time
from app.stores.redis import Redis
store = Redis(sys.argv[1], lifetime_s=60, ttl_s=60)
print(store.listen(lambda mail: print(mail.decode(), flush=True)), flush=True)
time.sleep(600)
"""


@pytest.fixture
def listener(redis_url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", LISTENER, redis_url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_a_process_that_was_killed_is_not_there(
    store: Redis, redis_server: RedisServer, listener: subprocess.Popen[str]
) -> None:
    """By the end of its connection: its sign of life is made to last."""
    assert listener.stdout is not None
    mailbox = listener.stdout.readline().strip()
    assert store.send(mailbox, b"hello")
    assert listener.stdout.readline() == "hello\n"
    with redis_server.client() as client:
        listener.kill()
        listener.wait()
        assert client.persist(f"sluiceway:alive:{mailbox}")
    eventually(lambda: not store.send(mailbox, b"hello"), what="its absence")


def test_a_process_that_vanished_is_not_there_though_its_connections_are(
    store: Redis, redis_server: RedisServer, listener: subprocess.Popen[str]
) -> None:
    """As a machine without power: no FIN ever comes."""
    assert listener.stdout is not None
    mailbox = listener.stdout.readline().strip()
    assert store.send(mailbox, b"hello")
    listener.send_signal(signal.SIGSTOP)
    eventually(lambda: not store.send(mailbox, b"hello"), within_s=ALIVE_S + 30, what="its absence")
    with redis_server.client() as client:
        assert client.pubsub_numsub(f"sluiceway:mail:{mailbox}")[0][1] == 1
    listener.send_signal(signal.SIGCONT)
    eventually(lambda: store.send(mailbox, b"hello"), what="its return")


def test_a_mailbox_is_gone_at_once_when_closed(store: Redis, redis_url: str, redis_server: RedisServer) -> None:
    other = Redis(redis_url, lifetime_s=1, ttl_s=1)
    mailbox = other.listen(lambda mail: None)
    assert store.send(mailbox, b"")
    other.close()
    assert not store.send(mailbox, b"")
    with redis_server.client() as client:
        assert client.exists(f"sluiceway:alive:{mailbox}") == 0


def test_a_mail_has_a_bound_and_any_bytes(store: Redis) -> None:
    mails: list[bytes] = []
    mailbox = store.listen(mails.append)
    sent = [b"", b"\r\n$-1\r\n\xff\0", b"x" * MAIL_BYTES]
    assert all(store.send(mailbox, mail) for mail in sent)
    with pytest.raises(ValueError, match="at most"):
        store.send(mailbox, b"x" * (MAIL_BYTES + 1))
    eventually(lambda: mails == sent, what="all mails")


def test_a_reader_that_fails_gets_the_next_mail(store: Redis, caplog: pytest.LogCaptureFixture) -> None:
    mails: list[bytes] = []

    def receive(mail: bytes) -> None:
        mails.append(mail)
        if mail == b"bad":
            raise RuntimeError("cannot read it")

    mailbox = store.listen(receive)
    assert store.send(mailbox, b"bad")
    assert store.send(mailbox, b"good")
    eventually(lambda: mails == [b"bad", b"good"], what="both mails")
    assert "a mail could not be read" in caplog.text


# Threads, greenlets, processes


def test_many_threads_share_the_connections_and_each_gets_its_own_answer(
    store: Redis, redis_server: RedisServer
) -> None:
    streams = [store.create(record(seed=json.dumps(n)), key=None, chat=None) for n in range(20)]
    start = threading.Barrier(100)

    def find(turn: int) -> None:
        start.wait()
        for stream in streams[turn % 20 :]:
            assert store.find(stream.id) == stream

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(find, range(100)))
    with redis_server.client() as client:
        assert client.info("clients")["connected_clients"] <= MOST_CONNECTIONS + 1


def test_turns_are_taken_in_order_and_none_is_lost() -> None:
    turns = _Turns(2)
    later = time.monotonic() + 60
    assert turns.take(later)
    assert turns.take(later)
    assert not turns.take(time.monotonic() + 0.01)
    order: list[int] = []

    def wait(number: int) -> None:
        assert turns.take(later)
        order.append(number)

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        eventually(lambda number=number: len(turns._waiting) == number + 1, what="its place in the queue")
    for number in range(3):
        turns.give()
        threads[number].join()
        assert order == list(range(number + 1))
    turns.give()
    turns.give()
    assert turns.take(later)
    assert turns.take(later)
    assert not turns.take(0.0)


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import os, signal, sys, time
import gevent
from app.errors import StoreUnavailable
from app.stores.base import Entry, Record
from app.stores.redis import Redis
store = Redis(sys.argv[1], lifetime_s=60, ttl_s=60)
server = int(sys.argv[2])
longest = 0.0

def watch():
    global longest
    while True:
        before = time.monotonic()
        gevent.sleep(0.01)
        longest = max(longest, time.monotonic() - before)

gevent.spawn(watch)

def stream(number):
    name = f"g{number}"
    store.create(Record(id=name, owner="", format="native", home="", created=1), key=None, chat=None)
    for n in range(1, 11):
        assert store.append([Entry(name, n, n, str(number))]) == set()
    page = store.read(name)
    assert [entry.data for entry in page.entries] == [str(number)] * 10

for greenlet in gevent.joinall([gevent.spawn(stream, n) for n in range(100)]):
    greenlet.get()

if (child := os.fork()) == 0:
    try:
        assert store.find("g1").id == "g1"
        assert store.send(store.listen(lambda mail: None), b"to itself")
        os._exit(0)
    finally:
        os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert store.find("g1").id == "g1"

mails = []
mailbox = store.listen(mails.append)
assert store.send(mailbox, b"hello")
with gevent.Timeout(30):
    while not mails:
        gevent.sleep(0.01)

def trouble(number):
    began = time.monotonic()
    try:
        store.read("g1")
    except StoreUnavailable:
        return time.monotonic() - began

os.kill(server, signal.SIGSTOP)
try:
    stuck = gevent.joinall([gevent.spawn(trouble, n) for n in range(200)])
finally:
    os.kill(server, signal.SIGCONT)
took = [greenlet.get() for greenlet in stuck]
assert all(took), took
print("slowest", max(took), "hub", longest)
assert max(took) < 7.0 and longest < 2.0

killed = gevent.spawn(lambda: [store.find("g1") for _ in range(100000)])
gevent.sleep(0.05)
killed.kill()
assert [store.find(f"g{n}").id for n in range(100)] == [f"g{n}" for n in range(100)]

store.close()
print("ok")
"""


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_greenlets_wait_and_the_event_loop_does_not(
    scheme: str, start_redis: Callable[..., RedisServer], certificates: Path
) -> None:
    port = free_port()
    pair = ("--tls-cert-file", str(certificates / "good.pem"), "--tls-key-file", str(certificates / "good.key"))
    server = start_redis("--tls-port", str(port), "--tls-auth-clients", "no", *pair)
    tls = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates / 'ca.pem'}"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", GREENLETS, server.url if scheme == "redis" else tls, str(server.pid)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")
    assert "ResourceWarning" not in done.stderr, done.stderr
    server.stop()
