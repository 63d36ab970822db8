"""Redis: what workers of more than one machine share. One server, or a primary behind one name; Redis Cluster is out of
scope (a script touches keys of many streams, whose slots differ). Redis 5 and later, or what speaks like it (Valkey).

Every key begins with `sluiceway:` and has a time to live from the moment it exists:

    stream:<id>     hash    record (JSON), last, ended, bytes, and the names of its `key` and `chat` below
    events:<id>     stream  an entry each, id `<last>-0`, one field: `first` -> data
    key:<digest>    text    the stream of an idempotency key; SHA-256 of owner and key
    chat:<digest>   text    the latest stream of a chat
    alive:<name>    text    a process listens to its mailbox; kept for `ALIVE_S`, renewed each second
    mail:<name>     (a channel)

Why a Redis stream and not a list: entries have several events each, and are asked for by event. With the last event's
number as its id, "what follows event n" is one XRANGE from n+1, found by a radix tree; a list knows positions only.

Each call is one script and one round trip, so it happens as a whole or not at all. Entries travel as one MessagePack
argument: in redis-py, pure Python here, a command for each of 20 entries costs four times as much, and of 100 ten times
(measured; 55 us instead of 220, 95 instead of 940), and checks nothing.

The client's connections are used bare (`redis.connection.Connection`), with a pool of our own: redis-py's pool and
client cost several times our work, and bound each read of a socket, not the call. Here every read and write of a call
goes against one deadline. A connection that the server has closed is noticed before it is used, so nothing is ever
sent twice; what fails later fails the call, whose outcome is then unknown. To append the same entries again is
harmless: those that are there already are passed over, or replaced where they are cut otherwise now. Entries that
would leave a gap are refused: a replica that took over may have lost the last ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import socket
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
from redis.connection import Connection, parse_url
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from ..errors import StoreUnavailable
from ..task import Task
from .base import MAIL_BYTES, PATIENCE_S, Entry, Page, Record

log = logging.getLogger("sluiceway")

# A part of the patience is left for our own way to the caller.
WITHIN_S = 0.9 * PATIENCE_S
# For one address. A name may have two, and the second be the one that answers.
CONNECT_S = 0.4 * PATIENCE_S
# Connections of a process at the same time; a call beyond waits for its turn.
MOST_CONNECTIONS = 32
# Below the idle times of load balancers and firewalls, which forget a connection without a word.
IDLE_S = 60.0
# So long without trouble, and the log is told that it is over: of many calls at once some still succeed when others
# fail already.
SETTLED_S = 1.0
ALIVE_S = 3.0
RENEW_S = 1.0
# Pauses before a mail is tried again whose reader lives and has no subscription: it is changing connections.
RESUBSCRIBING_S = (0.05, 0.1, 0.2)
STREAM_BYTES = 32 * 2**20
PAGE_ENTRIES = 300
PAGE_BYTES = 2**20

# Paths of files, behind the `?` of a rediss:// URL. None of them weakens the verification of the server's certificate.
TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}


class _Script:
    def __init__(self, text: str) -> None:
        self.text = _LUA + text
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# `open_stream`: a stream that can be written to, or nil. One whose events were evicted (`maxmemory`) is lost.
_LUA = """
local function name(kind, id) return 'sluiceway:' .. kind .. ':' .. id end

local function number(text) return string.format('%.0f', text) end

local function open_stream(id)
  local h = redis.call('HMGET', name('stream', id), 'last', 'bytes', 'ended', 'key', 'chat')
  if not h[1] or h[3] == '1' then return nil end
  local stream = {id = id, last = tonumber(h[1]), bytes = tonumber(h[2]), leads = {h[4], h[5]}}
  stream.new = stream.last == 0
  if not stream.new and redis.call('EXISTS', name('events', id)) == 0 then return nil end
  return stream
end

local function add(stream, first, last, data)
  redis.call('XADD', name('events', stream.id), number(last) .. '-0', number(first), data)
  stream.last, stream.bytes, stream.written = last, stream.bytes + #data, true
end

-- What a home has written without hearing so, and writes again in larger entries.
local function take_back(stream, first)
  for _, item in ipairs(redis.call('XRANGE', name('events', stream.id), number(first) .. '-0', '+')) do
    redis.call('XDEL', name('events', stream.id), item[1])
    stream.bytes = stream.bytes - #item[2][2]
  end
end

local function save(stream, ttl_ms)
  local key, events = name('stream', stream.id), name('events', stream.id)
  redis.call('HSET', key, 'last', number(stream.last), 'bytes', number(stream.bytes), 'ended', stream.ended and 1 or 0)
  if stream.ended then
    redis.call('PEXPIRE', key, ttl_ms)
    redis.call('PEXPIRE', events, ttl_ms)
    for _, lead in ipairs(stream.leads) do
      if lead ~= '' and redis.call('GET', lead) == stream.id then redis.call('PEXPIRE', lead, ttl_ms) end
    end
  elseif stream.new then
    redis.call('PEXPIRE', events, redis.call('PTTL', key))
  end
end
"""

_CREATE = _Script("""
local id, record, key, chat, lifetime_ms = unpack(ARGV)
local held = key ~= '' and redis.call('GET', key)
local theirs = held and redis.call('HGET', name('stream', held), 'record')
if theirs then return theirs end
redis.call('HSET', name('stream', id), 'record', record, 'last', 0, 'bytes', 0, 'ended', 0, 'key', key, 'chat', chat)
redis.call('PEXPIRE', name('stream', id), lifetime_ms)
for _, lead in ipairs({key, chat}) do
  if lead ~= '' then redis.call('SET', lead, id, 'PX', lifetime_ms) end
end
return false
""")

_APPEND = _Script("""
local most_bytes, ttl_ms = tonumber(ARGV[2]), ARGV[3]
local streams, written, refused = {}, {}, {}
for _, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, first, last, data, ended = unpack(entry)
  local stream = streams[id]
  if stream == nil then
    stream = open_stream(id) or false
    streams[id] = stream
    if not stream then refused[#refused + 1] = id end
  end
  local gap = stream and first > stream.last + 1
  if stream and (stream.ended or gap or stream.bytes + #data > most_bytes) then
    refused[#refused + 1] = id
    if not stream.ended and not gap then stream.bytes, stream.written = most_bytes, true end  -- nothing in its middle
    if stream.written then written[#written + 1] = stream end
    streams[id] = false
  elseif stream and last > stream.last then
    if first <= stream.last then take_back(stream, first) end
    add(stream, first, last, data)
    stream.ended = ended
  end
end
for _, stream in pairs(streams) do
  if stream and stream.written then written[#written + 1] = stream end
end
for _, stream in ipairs(written) do save(stream, ttl_ms) end
return refused
""")

_END = _Script("""
local stream = open_stream(ARGV[1])
if not stream then return 0 end
add(stream, stream.last + 1, stream.last + 1, ARGV[2])
stream.ended = true
save(stream, ARGV[3])
return stream.last
""")

_READ = _Script("""
local id, after, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local h = redis.call('HMGET', name('stream', id), 'record', 'last', 'ended')
if not h[1] then return false end
local last, entries, bytes, from = tonumber(h[2]), {}, 0, after + 1
while from <= last and #entries < most and bytes < most_bytes do
  local some = redis.call('XRANGE', name('events', id), number(from) .. '-0', '+', 'COUNT', 50)
  if #some == 0 then return false end
  for _, item in ipairs(some) do
    local its_last = tonumber(string.match(item[1], '^%d+'))
    entries[#entries + 1] = {tonumber(item[2][1]), its_last, item[2][2]}
    bytes, from = bytes + #item[2][2], its_last + 1
    if #entries >= most or bytes >= most_bytes then break end
  end
end
return cmsgpack.pack({h[1], last, h[3] == '1', entries})
""")

_FOLLOW = _Script("""
local id = redis.call('GET', ARGV[1])
return id and redis.call('EXISTS', name('stream', id)) == 1 and id
""")

_FORGET = _Script("""
local h = redis.call('HMGET', name('stream', ARGV[1]), 'key', 'chat')
for _, lead in ipairs({h[1] or '', h[2] or ''}) do
  if lead ~= '' and redis.call('GET', lead) == ARGV[1] then redis.call('DEL', lead) end
end
redis.call('DEL', name('stream', ARGV[1]), name('events', ARGV[1]))
return false
""")

# A script that writes, as those above are: a user who may not run scripts, a replica and a full server all refuse it.
_CHECK = _Script("redis.call('SET', name('check', 'write'), 1, 'PX', 1000)")

_decode_page = msgspec.msgpack.Decoder(tuple[str, int, bool, list[tuple[int, int, str]]]).decode
_decode_record = msgspec.json.Decoder(Record).decode
_encode = msgspec.msgpack.Encoder().encode


class _BoundedSocket:
    """A socket whose reads and writes all end `until` one moment (of `time.monotonic`), however many they are."""

    __slots__ = ("_socket", "until")

    def __init__(self, inner: socket.socket, until: float) -> None:
        self._socket = inner
        self.until = until

    def recv(self, most: int) -> bytes:
        self._socket.settimeout(max(0.001, self.until - time.monotonic()))
        return self._socket.recv(most)

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(max(0.001, self.until - time.monotonic()))
        self._socket.sendall(data)

    def settimeout(self, seconds: float | None) -> None:
        """The deadline rules."""

    def getsockname(self) -> Any:
        return self._socket.getsockname()

    def shutdown(self, how: int) -> None:
        self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()

    @property
    def is_idle(self) -> bool:
        """Still open, with nothing to be read: the server has not closed it, and no answer is left over."""
        self._socket.settimeout(0.0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False


class _Bounded(Connection):
    """`tls`: None for a connection in the clear. A context for each connection, as redis-py has it, would read all
    certificate authorities again: some 10 ms in which the event loop stands."""

    def __init__(self, tls: ssl.SSLContext | None, until: float, **options: Any) -> None:
        super().__init__(
            **options,
            protocol=2,
            driver_info=None,
            socket_timeout=WITHIN_S,
            socket_connect_timeout=CONNECT_S,
        )
        self._tls = tls
        self._until = until
        self.used = 0.0

    def _connect(self) -> Any:
        plain = super()._connect()
        try:
            inner = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self.bounded = _BoundedSocket(inner, self._until)
        return self.bounded

    def by(self, until: float) -> None:
        self.bounded.until = until


class _Turns:
    """First come, first served. A semaphore of `threading` gives a turn to whoever asks next, which is often the one
    that had it; with 60 busy threads some waited for more than 2 s (measured)."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def take(self, until: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        try:
            mine.wait(max(0.0, until - time.monotonic()))
        except BaseException:
            if self._left(mine):
                self.give()
            raise
        return self._left(mine)

    def _left(self, mine: threading.Event) -> bool:
        """Out of the queue; whether it got its turn, be it at the last moment."""
        with self._lock:
            if not mine.is_set():
                self._waiting.remove(mine)
            return mine.is_set()

    def give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class Redis:
    name: ClassVar[str] = "redis"

    def __init__(self, url: str, *, lifetime_s: float, ttl_s: float) -> None:
        self._lifetime_ms = _milliseconds(lifetime_s)
        self._ttl_ms = _milliseconds(ttl_s)
        try:
            options = parse_url(url)
            ends_well = re.fullmatch(r"/?\d*", urlsplit(url).path)
        except ValueError:  # which says what it took for the port: with a / in a password, a part of that
            ends_well = None
        if not ends_well:
            raise ValueError(
                "the URL of the store should be redis://host:port/number, or redis://user:password@host:port/number "
                "with user and password percent-encoded"
            ) from None
        self._tls_options: dict[str, str] | None = None
        self._tls: ssl.SSLContext | None = None
        if options.pop("connection_class", None):
            self._tls_options = {name: options.pop(name) for name in TLS_OPTIONS & options.keys()}
        if unknown := sorted(options.keys() - {"host", "port", "db", "username", "password"}):
            raise ValueError(f"the URL of the store: unknown option {unknown[0]!r}")
        self._options = options
        self._mailbox: _Mailbox | None = None
        self._troubles: set[str] = set()
        self._trouble_at = -math.inf
        self._begin()

    def _begin(self) -> None:
        """In this process. Connections of the one that forked it are left alone: they are that one's."""
        self._idle: deque[_Bounded] = deque()
        self._turns = _Turns(MOST_CONNECTIONS)
        self._telling = threading.Lock()
        self._pid = os.getpid()  # last: another thread goes by it

    # Streams

    def create(self, record: Record, *, key: str | None, chat: str | None) -> Record:
        theirs = self._run(
            _CREATE,
            record.id,
            msgspec.json.encode(record),
            _lead("key", record.owner, key),
            _lead("chat", record.owner, chat),
            self._lifetime_ms,
        )
        return record if theirs is None else _decode_record(theirs)

    def append(self, entries: Sequence[Entry]) -> set[str]:
        if not entries:
            return set()
        packed = _encode([(entry.stream, entry.first, entry.last, entry.data, entry.ended) for entry in entries])
        refused = self._run(_APPEND, packed, STREAM_BYTES, self._ttl_ms)
        return {stream.decode() for stream in refused}

    def end(self, stream: str, data: str) -> int:
        return int(self._run(_END, _bytes(stream), data, self._ttl_ms))

    def read(self, stream: str, after: int = 0) -> Page | None:
        # No stream has as many events, and Lua counts exactly up to there.
        after = min(max(after, 0), 2**53)
        packed = self._run(_READ, _bytes(stream), after, PAGE_ENTRIES, PAGE_BYTES)
        if packed is None:
            return None
        record, last, ended, rows = _decode_page(packed)
        entries = [Entry(stream, first, its, data, ended and its == last) for first, its, data in rows]
        return Page(_decode_record(record), entries, last, ended)

    def find(self, stream: str) -> Record | None:
        [record] = self._call(("HGET", b"sluiceway:stream:" + _bytes(stream), "record"))
        return None if record is None else _decode_record(record)

    def find_key(self, owner: str, key: str) -> str | None:
        return self._follow(_lead("key", owner, key))

    def find_chat(self, owner: str, chat: str) -> str | None:
        return self._follow(_lead("chat", owner, chat))

    def _follow(self, lead: str) -> str | None:
        found = self._run(_FOLLOW, lead)
        return None if found is None else str(found, "utf-8")

    def forget(self, stream: str) -> None:
        self._run(_FORGET, _bytes(stream))

    def check(self) -> None:
        self._run(_CHECK)

    # Mail

    def listen(self, receive: Callable[[bytes], None]) -> str:
        self._same_process()
        mailbox = _Mailbox(self, receive)
        mailbox.open()
        self._mailbox = mailbox
        return mailbox.name

    def send(self, mailbox: str, mail: bytes) -> bool:
        """Also False where the mail reached a connection whose process has not renewed its key: its machine is gone,
        and the server has not noticed. Not said shortly after trouble, when listeners are still on their way back:
        `StoreUnavailable` then, since who takes a False for a death would end streams that go on."""
        if len(mail) > MAIL_BYTES:
            raise ValueError(f"a mail of {len(mail)} bytes; at most {MAIL_BYTES} are taken")
        name = _bytes(mailbox)
        publish = ("PUBLISH", b"sluiceway:mail:" + name, mail)
        exists = ("EXISTS", b"sluiceway:alive:" + name)
        until = time.monotonic() + WITHIN_S
        readers, alive = self._call(publish, exists, until=until)
        for pause_s in RESUBSCRIBING_S:
            if readers or not alive:
                break
            time.sleep(pause_s)
            readers, alive = self._call(publish, exists, until=until)
        if readers and alive:
            return True
        if time.monotonic() < self._trouble_at + ALIVE_S:
            raise StoreUnavailable(self.name, "it was away a moment ago: who listens is not known yet")
        return False

    def close(self) -> None:
        self._same_process()
        if self._mailbox is not None:
            self._mailbox.close()
            self._mailbox = None
        self._drop_idle()

    # The way to the server

    def _run(self, script: _Script, *arguments: Any) -> Any:
        until = time.monotonic() + WITHIN_S
        try:
            [reply] = self._call(("EVALSHA", script.sha, 0, *arguments), kind=script.sha, until=until)
        except NoScriptError:  # the server is new, or was told to forget them
            [reply] = self._call(("EVAL", script.text, 0, *arguments), kind=script.sha, until=until)
        return reply

    def _call(self, *commands: tuple[Any, ...], kind: str = "", until: float = 0.0) -> list[Any]:
        """The replies to commands that are sent together. Raises `StoreUnavailable`, or `NoScriptError`."""
        kind = kind or commands[0][0]
        until = until or time.monotonic() + WITHIN_S
        try:
            with self._connection(until) as connection:
                if len(commands) == 1:
                    connection.send_command(*commands[0], check_health=False)
                else:
                    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                replies = [connection.read_response() for _ in commands]
        except NoScriptError:
            raise
        except (RedisError, OSError) as exc:
            self.failed(exc, kind if isinstance(exc, ResponseError) else "")
            raise StoreUnavailable(self.name, _why(exc)) from exc
        if self._troubles and time.monotonic() > self._trouble_at + SETTLED_S:
            with self._telling:
                again = bool(self._troubles) and not (self._troubles - {"", kind})
                self._troubles -= {"", kind}
            if again:
                log.warning("the store can be used again: %s", self.name)
        return replies

    def failed(self, exc: BaseException, kind: str = "") -> None:
        """What is in the pool is no better than what failed, and is made anew. `kind` of call that the server refused:
        it may refuse some and not others, as writes where its memory is full, and is well when it takes them again."""
        self._trouble_at = time.monotonic()
        self._drop_idle()
        with self._telling:
            new = not self._troubles
            self._troubles.add(kind)
        if new:
            log.error("the store can't be used: %s: %s", self.name, _why(exc))

    @contextlib.contextmanager
    def _connection(self, until: float) -> Iterator[_Bounded]:
        self._same_process()
        turns, idle = self._turns, self._idle
        if not turns.take(until):
            raise RedisTimeout("no connection became free")
        try:
            connection = self._from_pool(idle) or self.connect(until)
            connection.by(until)
            try:
                yield connection
            except NoScriptError:
                raise
            except BaseException:
                # Also an error reply: a primary that has become a replica says so, and its name leads elsewhere by now.
                connection.disconnect()
                raise
            finally:
                if connection.is_connected:
                    connection.used = time.monotonic()
                    idle.append(connection)
        finally:
            turns.give()

    def _from_pool(self, idle: deque[_Bounded]) -> _Bounded | None:
        """The one used last, so that those of a busy hour fall out."""
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread was faster
                return None
            if time.monotonic() < connection.used + IDLE_S and connection.bounded.is_idle:
                return connection
            connection.disconnect()
        return None

    def connect(self, until: float) -> _Bounded:
        """Beside the caller: a name's look-up knows no timeout."""
        connection = _Bounded(self._context(), until, **self._options)

        def connected() -> _Bounded:
            try:
                connection.connect()
            except UnicodeError as exc:
                raise OSError(f"no name of a host: {exc}") from exc
            if time.monotonic() > until:  # and nobody waits any more
                connection.disconnect()
            return connection

        # Not killed when it is late: that would leave its socket open, in the middle of redis-py.
        task = Task(connected)
        if not task.wait(until):
            raise RedisTimeout("no connection in time")
        return task.result()

    def _context(self) -> ssl.SSLContext | None:
        if self._tls is None and (options := self._tls_options) is not None:
            context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
            if certificate := options.get("ssl_certfile"):
                context.load_cert_chain(certificate, options.get("ssl_keyfile"))
            self._tls = context
        return self._tls

    def _drop_idle(self) -> None:
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().disconnect()

    def _same_process(self) -> None:
        if self._pid != os.getpid():
            self._mailbox = None
            self._begin()


class _Mailbox:
    """A subscription that comes back by itself, and the key that says its process is there."""

    def __init__(self, store: Redis, receive: Callable[[bytes], None]) -> None:
        self.name = uuid.uuid4().hex
        self._store = store
        self._receive = receive
        self._closed = threading.Event()
        self._pid = os.getpid()  # a fork copies greenlets, and the child is not who listens
        self._connection: _Bounded | None = None
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Raises `StoreUnavailable`."""
        try:
            self._connection = self._subscribed()
        except (RedisError, OSError) as exc:
            self._store.failed(exc)
            raise StoreUnavailable(self._store.name, _why(exc)) from exc
        for run in (self._read, self._renew):
            thread = threading.Thread(target=run, name=f"sluiceway-mail{run.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _subscribed(self) -> _Bounded:
        until = time.monotonic() + WITHIN_S
        connection = self._store.connect(until)
        try:
            connection.by(until)
            connection.send_command(*self._alive, check_health=False)
            connection.read_response()
            connection.send_command("SUBSCRIBE", f"sluiceway:mail:{self.name}", check_health=False)
            connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    @property
    def _alive(self) -> tuple[Any, ...]:
        return ("SET", f"sluiceway:alive:{self.name}", 1, "PX", _milliseconds(ALIVE_S))

    def _renew(self) -> None:
        while not self._closed.wait(RENEW_S) and os.getpid() == self._pid:
            with contextlib.suppress(StoreUnavailable):
                self._store._call(self._alive)

    def _read(self) -> None:
        connection = self._connection
        while not self._closed.is_set():
            try:
                if connection is None:
                    connection = self._connection = self._subscribed()
                self._mails(connection)
            except Exception as exc:  # whatever it was: without this loop nobody hears anything any more
                if connection is not None:
                    connection.disconnect()
                    connection = self._connection = None
                    if not self._closed.is_set():
                        self._store.failed(exc)
                else:
                    self._closed.wait(0.1)
        if connection is not None:
            connection.disconnect()

    def _mails(self, connection: _Bounded) -> None:
        """Hands on what comes, until it is closed. A server that says nothing is asked: a second of silence, and then
        it has its time to answer. Raises what ends a subscription."""
        asked_until = 0.0
        while not self._closed.is_set():
            connection.by(asked_until or time.monotonic() + RENEW_S)
            try:
                reply = connection.read_response(disconnect_on_error=False)
            except RedisTimeout:
                if asked_until:
                    raise
                asked_until = time.monotonic() + WITHIN_S
                connection.by(asked_until)
                connection.send_command("PING", check_health=False)
                continue
            asked_until = 0.0
            if reply[0] == b"message":
                try:
                    self._receive(reply[2])
                except Exception:
                    log.exception("a mail could not be read")

    def close(self) -> None:
        until = time.monotonic() + WITHIN_S
        self._closed.set()
        if (connection := self._connection) is not None:
            with contextlib.suppress(OSError):
                connection.bounded.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        with contextlib.suppress(StoreUnavailable):  # it goes by itself, somewhat later
            self._store._call(("DEL", f"sluiceway:alive:{self.name}"), until=until)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _bytes(name: str) -> bytes:
    """Names come from URLs, and need not be text that can be encoded."""
    return name.encode("utf-8", "surrogatepass")


def _lead(kind: str, owner: str, name: str | None) -> str:
    """The key that leads from a client's own name to a stream. Hashed: it may be long, and is none of ours."""
    if name is None:
        return ""
    return f"sluiceway:{kind}:{hashlib.sha256(_bytes(owner) + b'/' + _bytes(name)).hexdigest()}"


def _why(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
