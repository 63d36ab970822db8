"""The contract of the room: what workers share of resumable streams, and how they reach each other.

A stream is a record, and the numbered events of its answer as they were written: entries, each of some events that
follow one another (`Entry.data` is theirs, in JSON, and no business of a store's). One worker writes it, its home; any
worker reads it. Every worker that takes part has a mailbox, through which others wake it: nobody polls for a token.

Calls wait for the store in the caller's greenlet or thread, and never in the event loop. A store that cannot be
reached, or cannot write, raises `StoreUnavailable`, within `PATIENCE_S`. Nothing is opened before the first call: an
app may be loaded before its workers are forked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import msgspec

# Longest that a call may take before it is `StoreUnavailable`.
PATIENCE_S = 2.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is, beside its events. `owner` is who may read it: the SHA-256 of an API key in hex, "" where none
    is asked for. `home` is the mailbox of the worker that writes it. `seed` is what an encoder of `format` has to know
    of the request, as JSON. `body_hash` tells requests with one idempotency key apart."""

    id: str
    owner: str
    format: str
    home: str
    created: int  # Unix seconds
    seed: str = "{}"
    body_hash: str = ""


class Entry(msgspec.Struct, frozen=True):
    """The events `first` to `last` of a stream (they count from 1), as a JSON array in `data`; `ended`: `last` is its
    terminal event, and nothing follows."""

    stream: str
    first: int
    last: int
    data: str
    ended: bool = False


class Page(msgspec.Struct, frozen=True):
    """A part of a stream's entries, in order. `ended`: it has its terminal event, in this page or in one that follows.
    Nothing more to be read where `last` is the last entry's."""

    record: Record
    entries: list[Entry]
    last: int
    ended: bool


class Store(Protocol):
    """Made with the settings' URL. All methods from any greenlet or thread.

    A stream that has not ended is kept for `lifetime_s` from `create`, one that has for `ttl_s` from its end; after
    that it is unknown, as are its idempotency key and its chat.
    """

    name: ClassVar[str]  # for messages: neither address nor password is in it

    def __init__(self, url: str, *, lifetime_s: float, ttl_s: float) -> None: ...

    def listen(self, receive: Callable[[bytes], None]) -> str:
        """Open this process's mailbox, and give its name, which no other has, nor will have. `receive` is called with
        each mail, outside of the event loop, one at a time. Called once a process."""

    def send(self, mailbox: str, mail: bytes) -> bool:
        """Put it into another's mailbox. False: nobody is there. True is no promise: a mail may be lost where its
        reader does not keep up. Mails from one sender arrive in order. Of at most `MAIL_BYTES`."""

    def create(self, record: Record, *, key: str | None, chat: str | None) -> Record:
        """Begin a stream, and give `record`; or, where a stream of the same owner has this idempotency key, begin none
        and give that one's, whether it has ended or not. `chat`, the client's own id of a conversation, leads to its
        latest stream from now on."""

    def append(self, entries: Sequence[Entry]) -> set[str]:
        """Write them all at once, entries of many streams, for each stream in order and behind what it has. Gives the
        streams that could not be written to: they are unknown here, or have ended, or are as long as a stream may get
        (some 32 MB; such a one still takes its `end`)."""

    def end(self, stream: str, data: str) -> int:
        """Write a terminal event (`data` as of an `Entry`) behind whatever is there, for a stream whose home is gone,
        and give its number; 0 where it has ended already or is unknown. Of several who try, one does."""

    def read(self, stream: str, after: int = 0) -> Page | None:
        """What follows the event `after` (an entry with it in the middle comes whole): at most some hundred entries, so
        ask again from the last one. None: no such stream, or not any more."""

    def find(self, stream: str) -> Record | None: ...

    def find_key(self, owner: str, key: str) -> str | None:
        """The stream that an idempotency key of this owner's leads to, if it is still kept."""

    def find_chat(self, owner: str, chat: str) -> str | None:
        """The latest stream of a chat of this owner's, if it is still kept."""

    def forget(self, stream: str) -> None:
        """It never was: its idempotency key and its chat lead nowhere."""

    def check(self) -> None:
        """Whether resumable streams could be begun now. Raises `StoreUnavailable`."""

    def close(self) -> None:
        """Give back mailbox and connections; what is called afterwards opens them anew."""


# What a datagram takes everywhere, with room to spare.
MAIL_BYTES = 60_000
