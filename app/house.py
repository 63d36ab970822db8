"""What one `create_app()` builds and every request shares."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .admission import Admission
from .breakers import Breakers
from .providers import PROVIDERS, Provider
from .settings import Settings
from .targets import Targets


class House(msgspec.Struct, frozen=True):
    settings: Settings
    targets: Targets
    providers: Mapping[str, Provider]
    admission: Admission
    breakers: Breakers


def build(settings: Settings) -> House:
    """The house of these settings, with a client for each provider that can be called."""
    targets = Targets(settings)
    providers: dict[str, Provider] = {}
    for name in targets.usable:
        table = settings.providers[name]
        local = (settings.local,) if table.kind == "local" else ()
        providers[name] = PROVIDERS[table.kind](name, table, settings.keys.get(name, ""), *local)
    return House(settings, targets, providers, Admission(settings.server.max_streams), Breakers(settings.breaker))
