"""From the name a client gave to the model that answers it.

A name is, in this order: an alias of `[models]` (exact, then by its one `*`), `provider/model`, a provider's name alone
(its `default_model`), or a bare model name of the route's own provider. What is none of these is a 404 with the nearest
known names.
"""

from __future__ import annotations

import msgspec

from .errors import NotFound, ProviderNotConfigured
from .registry import nearest
from .settings import Alias, Settings, Timeouts


class Target(msgspec.Struct, frozen=True):
    """Provider and model, and the clocks an attempt at it runs under."""

    provider: str
    model: str
    timeouts: Timeouts

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


class Targets:
    """Built once from the settings; `usable` are the providers that can be called: keyed, or without need of a key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.usable = [name for name in settings.providers if self._usable(name)]

    def _usable(self, provider: str) -> bool:
        table = self._settings.providers[provider]
        if table.kind == "local":
            return self._settings.local_enabled
        return provider in self._settings.keys or table.api_key_env is None  # None: a server that asks for no key

    def known(self) -> list[str]:
        """What `/v1/models` lists: the default first, then aliases without `*`, then each usable provider's default."""
        names = [self._settings.start_model]
        names += [alias for alias in self._settings.models if "*" not in alias]
        names += [f"{name}/{model}" for name in self.usable if (model := self._settings.providers[name].default_model)]
        return list(dict.fromkeys(names))

    def find(self, name: str | None, *, provider: str | None = None) -> Target:
        """The target of `name`; `provider` is the route's own. Raises `NotFound` or `ProviderNotConfigured`."""
        return self._find(name or self._settings.start_model, provider, seen=())

    def find_at(self, provider: str, model: str | None) -> Target:
        """The target of a route that names its provider (`/stream/<provider>`): `model` is one of its own names."""
        if provider not in self._settings.providers:
            raise NotFound(f"unknown provider {provider!r}; {nearest(provider, self._settings.providers)}")
        chosen = (model or "").removeprefix(f"{provider}/") or self._settings.providers[provider].default_model
        if not chosen:
            raise NotFound(f"provider {provider!r} has no default_model; name a model", param="model")
        return self._target(provider, chosen)

    def _find(self, name: str, provider: str | None, seen: tuple[str, ...]) -> Target:
        if (alias := self._alias(name)) is not None and name not in seen:
            table, target = alias
            found = self._find(target, provider, (*seen, name))
            return Target(found.provider, found.model, table.over(found.timeouts))
        head, slash, model = name.partition("/")
        providers = self._settings.providers
        if slash and head in providers:
            return self._target(head, model)
        if not slash and name in providers:
            return self.find_at(name, None)
        for candidate in self.usable:
            if name == providers[candidate].default_model:
                return self._target(candidate, name)
        if slash or provider is None or provider not in self.usable:
            known = nearest(name, [*self.known(), *providers])
            hint = "" if slash or provider is None else f" (provider {provider!r} is not configured)"
            raise NotFound(f"unknown model {name!r}{hint}; {known}", param="model")
        return self._target(provider, name)

    def _alias(self, name: str) -> tuple[Alias, str] | None:
        """The alias table of `name` and the target it names, `*` filled in."""
        aliases = self._settings.models
        if exact := aliases.get(name):
            return exact, exact.target
        for pattern, table in aliases.items():
            before, star, after = pattern.partition("*")
            fits = star and len(name) >= len(before) + len(after)
            if fits and name.startswith(before) and name.endswith(after):
                return table, table.target.replace("*", name[len(before) : len(name) - len(after)])
        return None

    def _target(self, provider: str, model: str) -> Target:
        if provider not in self.usable:
            raise ProviderNotConfigured(_how_to_configure(provider, self._settings), param="model")
        return Target(provider, model, self._settings.timeouts)


def _how_to_configure(provider: str, settings: Settings) -> str:
    table = settings.providers[provider]
    if table.kind == "local":
        return "the embedded model is off because a provider key is set; set [local] enabled = true"
    return f"provider {provider!r} has no key; set {table.api_key_env} and restart"
