"""What workers tell each other of a stream, through a store's mailboxes."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..stores import Entry


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """To its home, every `WATCH_S`: the worker `sender` follows it. Answered by `News`, or `Gone`."""

    stream: str
    sender: str


class Left(msgspec.Struct, frozen=True, tag="left"):
    """To its home: nobody follows it there any more."""

    stream: str
    sender: str


class News(msgspec.Struct, frozen=True, tag="news"):
    """To those who watch: what was written. An entry without data was too large for a mail."""

    entries: list[Entry]


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """To one who watches: it is not written here, or not any more."""

    stream: str


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """To its home: its chat has a later answer, and leads to that one. Who reads it may go on; nobody comes back."""

    stream: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To its home: somebody who may has asked for its end."""

    stream: str


Mail: TypeAlias = Watch | Left | News | Gone | Passed | Stop

# So often a worker says that it still follows a stream, and finds out whether its home still stands.
WATCH_S = 1.0

pack = msgspec.json.Encoder().encode
unpack = msgspec.json.Decoder(Mail).decode
