"""From the name a client gave to the model that answers it.

A name is, in this order: an alias of `[models]` (exact, then by its one `*`), `provider/model`, a provider's name alone
(its `default_model`), or a bare model name of the route's own provider; where that one is not configured, also the
default model of another. What is none of these is a 404 with the nearest known names.

An alias may have fallbacks, asked in turn where its target fails (answers.py), or can't be called at all.

An alias may name another; each is followed once, so a circle ends at the name it came from. A `*` does not reach across
a provider's name: `[models."*"] target = "openai/*"` takes neither `anthropic/claude-opus-4-7` nor its own target.
"""

from __future__ import annotations

import contextlib

import msgspec

from .errors import InvalidRequest, NotFound, ProviderNotConfigured
from .registry import nearest
from .settings import Alias, Recovery, Settings, Timeouts, star

# A caller who has somebody else to be answered by does not wait for a silent one as long as one who has not.
FIRST_TOKEN_S_WITH_FALLBACK = 10.0

# Names stand in logs and messages, one line each; the longest real ones, with a path in them, stay below 100.
MAX_NAME_CHARS = 256


class Target(msgspec.Struct, frozen=True):
    """Provider and model, and the clocks an attempt at it runs under. `recovery` is what happens where its answer
    breaks off; `prefill` says that it goes on with an assistant message that is the last one."""

    provider: str
    model: str
    timeouts: Timeouts
    fallbacks: tuple[Target, ...] = ()  # asked in turn where it fails; they have none of their own
    recovery: Recovery = "continue"
    prefill: bool = False

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
        names += [f"{name}/{model}" for name in self.usable if (model := self._shown_model(name))]
        return list(dict.fromkeys(names))

    def _shown_model(self, provider: str) -> str | None:
        """Not of a langchain provider that just exists: it would be another provider's model a second time."""
        table = self._settings.providers[provider]
        return table.default_model if table.kind != "langchain" or self._settings.is_named(provider) else None

    def find(self, name: str | None, *, provider: str | None = None) -> Target:
        """The target of `name`, None for the default; `provider` is the route's own. Raises `NotFound`,
        `ProviderNotConfigured`, or `InvalidRequest` for what can't be a name."""
        name = self._settings.start_model if name is None else _legible(name)
        return _impatient(self._find(name, provider, followed=()))

    def find_at(self, provider: str, model: str | None) -> Target:
        """The target of a route that names its provider (`/stream/<provider>`), None for the provider's default.

        `model` is an alias that leads to this provider, `provider/model`, or one of the provider's own names, which may
        look like another's (OpenRouter has an `anthropic/claude-...`). Raises as `find` does.
        """
        providers = self._settings.providers
        if provider not in providers:
            raise NotFound(f"unknown provider {provider!r}; {nearest(provider, providers)}")
        if model is None:
            if default := providers[provider].default_model:
                return self._target(provider, default)
            raise NotFound(f"provider {provider!r} has no default_model; name a model", param="model")
        if self._alias(_legible(model), followed=()) is not None:
            with contextlib.suppress(NotFound, ProviderNotConfigured):
                found = self._find(model, provider, followed=())
                if found.provider == provider:
                    return _impatient(found)
        return self._target(provider, model.removeprefix(f"{provider}/"))

    def _find(self, name: str, provider: str | None, followed: tuple[str, ...]) -> Target:
        if (alias := self._alias(name, followed)) is not None:
            pattern, table, target = alias
            fallbacks = self._fallbacks(table, star(pattern, name) or "", (*followed, pattern))
            recovery = {"recovery": table.recovery} if "recovery" in table.model_fields_set else {}
            prefill = {"prefill": table.prefill} if "prefill" in table.model_fields_set else {}
            try:
                found = self._find(target, provider, (*followed, pattern))
            except ProviderNotConfigured:
                if not fallbacks:
                    raise
                return msgspec.structs.replace(fallbacks[0], fallbacks=fallbacks[1:], **recovery)
            times = table.over(found.timeouts)
            return msgspec.structs.replace(
                found, timeouts=times, fallbacks=fallbacks or found.fallbacks, **recovery, **prefill
            )
        head, slash, model = name.partition("/")
        providers = self._settings.providers
        if slash and head in providers:
            return self._target(head, model)
        if not slash and name in providers:
            return self.find_at(name, None)
        if not slash and provider in self.usable:
            return self._target(provider, name)
        for candidate in self.usable:
            if name == providers[candidate].default_model:
                return self._target(candidate, name)
        hint = "" if slash or provider is None else f" (provider {provider!r} is not configured)"
        raise NotFound(f"unknown model {name!r}{hint}; {nearest(name, [*self.known(), *providers])}", param="model")

    def _fallbacks(self, table: Alias, rest: str, followed: tuple[str, ...]) -> tuple[Target, ...]:
        """The targets of an alias's `fallbacks`; one that can't be called (its key is missing) is no help, and left
        out."""
        found: list[Target] = []
        for name in table.fallbacks:
            # `NotFound` is what a bare name gives whose one provider can't be called; the rest was checked at start.
            with contextlib.suppress(ProviderNotConfigured, NotFound):
                target = self._find(name.replace("*", rest), None, followed)
                found.append(msgspec.structs.replace(target, fallbacks=()))
        return tuple(found)

    def _alias(self, name: str, followed: tuple[str, ...]) -> tuple[str, Alias, str] | None:
        """The alias of `name` that has not been followed yet: its pattern, its table, and its target, `*` filled in."""
        aliases = self._settings.models
        if name in aliases and name not in followed:
            return name, aliases[name], aliases[name].target
        head = name.partition("/")[0]
        at_least = f"{head}/" if head in self._settings.providers else ""
        for pattern, table in aliases.items():
            rest = star(pattern, name)
            if rest is not None and pattern not in followed and pattern.startswith(at_least):
                return pattern, table, table.target.replace("*", rest)
        return None

    def _target(self, provider: str, model: str) -> Target:
        if not model:
            raise NotFound(f"unknown model '{provider}/': after the slash stands one of its models", param="model")
        if provider not in self.usable:
            raise ProviderNotConfigured(_how_to_configure(provider, self._settings), param="model")
        return Target(provider, model, self._settings.timeouts)


def _impatient(target: Target) -> Target:
    """With the shorter clock for whoever is not the last to be asked, where none was set."""
    if not target.fallbacks:
        return target
    chain = [target, *target.fallbacks]
    for at, one in enumerate(chain[:-1]):
        if "first_token_s" not in one.timeouts.model_fields_set:
            timeouts = one.timeouts.model_copy(update={"first_token_s": FIRST_TOKEN_S_WITH_FALLBACK})
            chain[at] = msgspec.structs.replace(one, timeouts=timeouts)
    return msgspec.structs.replace(chain[0], fallbacks=tuple(chain[1:]))


def _legible(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(f"model: a name has 1 to {MAX_NAME_CHARS} printable characters", param="model")
    return name


def _how_to_configure(provider: str, settings: Settings) -> str:
    table = settings.providers[provider]
    if table.kind == "local":
        why = " because a provider key is set" if settings.local.enabled is None else ""
        return f"the embedded model is off{why}; set [local] enabled = true"
    how = f"set {table.api_key_env} and restart"
    if table.kind == "langchain" and not settings.is_named(provider):
        how = f"set {table.api_key_env}, or name a model_class of yours in [providers.{provider}], and restart"
    return f"provider {provider!r} has no key; {how}"
