"""Events as JSON, for a store and for other workers' mail: what one version of this service tells itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import SluicewayError
from ..events import Event


def encode(events: list[Event]) -> str:
    return _encode(events).decode()


def decode(data: str) -> list[Event]:
    return _decode(data)


def _told(value: Any) -> Any:
    if not isinstance(value, SluicewayError):
        raise NotImplementedError(f"{type(value).__name__} is part of no event")
    return {name: getattr(value, name) for name in ("code", *_FIELDS)}


def _understood(kind: type, value: Any) -> Any:
    if kind is not SluicewayError:
        raise NotImplementedError(f"{kind.__name__} is part of no event")
    error = _BY_CODE.get(value["code"], SluicewayError)(value["message"])
    for name in _FIELDS:
        setattr(error, name, value[name])
    return error


_FIELDS = ("message", "param", "retry_after_s", "request_id", "provider_request_id")


def _classes(of: type[SluicewayError]) -> Iterator[type[SluicewayError]]:
    """Each before what it is a base of, so that a code is its own class's, and not that of a special case below it."""
    for below in of.__subclasses__():
        yield below
        yield from _classes(below)


_BY_CODE: dict[str, type[SluicewayError]] = {}
for _class in _classes(SluicewayError):
    if "code" in vars(_class):
        _BY_CODE[_class.code] = _class

_encode = msgspec.json.Encoder(enc_hook=_told).encode
_decode = msgspec.json.Decoder(list[Event], dec_hook=_understood).decode
