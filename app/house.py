"""What one `create_app()` builds and every request shares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from .admission import Admission
from .breakers import Breakers
from .providers import PROVIDERS, Provider
from .settings import Settings, SettingsError, Unusable
from .targets import Targets
from .tools import Tools


class House(msgspec.Struct, frozen=True):
    settings: Settings
    targets: Targets
    providers: Mapping[str, Provider]
    admission: Admission
    breakers: Breakers
    tools: Tools = msgspec.field(default_factory=Tools)
    around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext  # of a tool's call: the app's context


def build(
    settings: Settings,
    tools: Tools | None = None,
    around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> House:
    """The house of these settings, with a client for each provider that can be called. `tools` are there beside those
    that the settings enable. Raises `SettingsError`."""
    targets = Targets(settings)
    providers: dict[str, Provider] = {}
    for name in targets.usable:
        table = settings.providers[name]
        more: tuple[Any, ...] = ()
        if table.kind == "local":
            more = (settings.local,)
        elif table.kind == "langchain":
            more = (settings.is_named(name),)
        try:
            providers[name] = PROVIDERS[table.kind](name, table, settings.keys.get(name, ""), *more)
        except Unusable as exc:
            raise settings.refuse(name, exc) from None
    try:
        served = Tools(settings.tools.enabled, beside=tools)
    except ValueError as exc:
        raise SettingsError(f"tools.enabled: {exc}") from None
    admission = Admission(settings.server.max_streams)
    return House(settings, targets, providers, admission, Breakers(settings.breaker), served, around)
