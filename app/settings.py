"""The knobs: `sluiceway.toml`, the environment, an embedding app's config; read once, validated, then only values.

Later sources win:

    defaults  <  sluiceway.toml (path in SLUICEWAY_CONFIG)  <  app.config  <  environment

A key has one environment name by Flask's convention, parts joined by two underscores: `[server] max_body_bytes` is
`SLUICEWAY_SERVER__MAX_BODY_BYTES`. Values there are JSON where they parse as JSON, otherwise text. In an embedding app
the same names stand in `app.config`, or the whole tree as a dict under `app.config["SLUICEWAY"]`.

A wrong key or value stops the server at start, with `SettingsError`: where it stands, the key, the value, and what was
wanted. A name without two underscores (`SLUICEWAY_PORT`, which Kubernetes sets for a service of that name) is not ours.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .registry import nearest

PREFIX = "SLUICEWAY_"

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Target = Annotated[str, Field(pattern=r"^[^/\s]+(/\S+)?$", description="an alias or 'provider/model'")]
ProviderKind = Literal["openai", "anthropic", "local"]

# Part of the published configuration, not of this version: accepted, so that a file written for the whole product
# starts, and named in a warning at start, so that nobody believes it acts. Remove a key here when it does.
NOT_YET = frozenset(
    {
        "server.heartbeat_s",
        "server.hold_s",
        "server.max_streams",
        "server.write_timeout_s",
        "server.drain_s",
        "server.cors_origins",
        "retry",
        "breaker",
        "store",
        "tools",
        "models.*.fallbacks",
        "models.*.recovery",
        "models.*.prefill",
    }
)


class SettingsError(Exception):
    """The configuration can't be used; the text names the place, the key, the value and what was wanted."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1_048_576
    api_keys_sha256: tuple[Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")], ...] = ()
    heartbeat_s: Seconds = 15.0
    hold_s: Seconds = 10.0
    max_streams: Count = 1000
    write_timeout_s: Seconds = 60.0
    drain_s: Seconds = 20.0
    cors_origins: tuple[str, ...] = ()


class Timeouts(_Section):
    connect_s: Seconds = 5.0
    first_token_s: Seconds = 30.0
    idle_s: Seconds = 30.0
    total_s: Seconds = 600.0


class _TimeoutOverrides(_Section):
    connect_s: Seconds | None = None
    first_token_s: Seconds | None = None
    idle_s: Seconds | None = None
    total_s: Seconds | None = None

    def over(self, base: Timeouts) -> Timeouts:
        """These where set, `base` elsewhere."""
        own = {name: value for name in Timeouts.model_fields if (value := getattr(self, name)) is not None}
        return base.model_copy(update=own)


class Retry(_Section):
    attempts: Count = 3
    backoff_s: Seconds = 0.5
    max_backoff_s: Seconds = 8.0
    max_retry_after_s: Seconds = 10.0


class Breaker(_Section):
    failures: Count = 5
    cooldown_s: Seconds = 10.0


class Store(_Section):
    url: str = "sqlite:///var/sluiceway.db"
    resume_grace_s: Seconds = 30.0
    resume_ttl_s: Seconds = 300.0


class Tools(_Section):
    enabled: tuple[str, ...] = ("clock",)
    max_steps: Count = 8


class Local(_Section):
    """The embedded model. `port` and `api_key` are set by gunicorn.conf.py, which starts its process."""

    enabled: bool | None = None  # None: when no provider has a key
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    api_key: str | None = None
    path: Path | None = None  # where `make setup` put it; None: local-model/ in the virtual environment
    threads: Count | None = None  # None: all cores


class ProviderSettings(_Section):
    kind: ProviderKind
    base_url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    api_key_env: str | None = None
    default_model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _kind_is_known(cls, value: Any) -> Any:
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if isinstance(kind, str) and kind not in get_args(ProviderKind):
            raise ValueError(f"kind {kind!r} is not known; {nearest(kind, get_args(ProviderKind))}")
        return value


class Alias(_TimeoutOverrides):
    """A `[models."name"]` table: another name for a target; one `*` stands for the rest of a name in both."""

    target: Target
    fallbacks: tuple[Target, ...] = ()
    recovery: Literal["continue", "restart", "off"] = "continue"
    prefill: bool = False


# What exists without a file. A table of the same name in the file changes single keys of these.
_BUILT_IN: dict[str, dict[str, str]] = {
    "openai": {"kind": "openai", "api_key_env": "OPENAI_API_KEY", "default_model": "gpt-5"},
    "anthropic": {"kind": "anthropic", "api_key_env": "ANTHROPIC_API_KEY", "default_model": "claude-opus-4-7"},
    "local": {"kind": "local", "default_model": "smollm2-135m-instruct"},
}


class Settings(_Section):
    default_model: Target | None = None
    server: Server = Server()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    store: Store = Store()
    tools: Tools = Tools()
    local: Local = Local()
    providers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], ProviderSettings] = Field(
        default_factory=dict, validate_default=True
    )
    models: dict[Annotated[str, Field(pattern=r"^\S+$")], Alias] = Field(default_factory=dict)

    # Keys of the providers that have one, by provider name; never shown: not in repr, not in a message.
    keys: dict[str, str] = Field(default_factory=dict, repr=False, exclude=True)
    # Keys that were set but do not act in this version (see NOT_YET).
    without_effect: tuple[str, ...] = ()

    @property
    def local_enabled(self) -> bool:
        """Whether the embedded model serves: `[local] enabled` where set, otherwise when no provider has a key."""
        return not self.keys if self.local.enabled is None else self.local.enabled

    @property
    def start_model(self) -> str:
        """The model of a request that names none: `default_model`, else by which key is set."""
        if self.default_model is not None:
            return self.default_model
        # A provider of the user's own comes after the built-in ones.
        for name in sorted(self.keys, key=lambda name: (name != "openai", name != "anthropic", name)):
            if model := self.providers[name].default_model:
                return f"{name}/{model}"
        return f"local/{self.providers['local'].default_model}"


def load_settings(config: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read all sources once. `config` is an embedding app's `app.config`; raises `SettingsError`."""
    environ = os.environ if environ is None else environ
    tree: dict[str, Any] = {"providers": {name: dict(table) for name, table in _BUILT_IN.items()}}
    origin: dict[tuple[str, ...], str] = {}

    for source, layer in _layers(config or {}, environ):
        _merge(tree, layer, source, origin)
    for reserved in ("keys", "without_effect"):
        if reserved in tree:
            raise SettingsError(f"{origin[(reserved,)]}: unknown key {reserved!r}")
    tree["keys"] = _keys(tree, environ)
    tree["without_effect"] = tuple(sorted({".".join(path) for path in origin if _not_yet(path)}))
    try:
        return Settings.model_validate(tree)
    except ValidationError as exc:
        raise SettingsError("\n".join(_explain(problem, origin) for problem in exc.errors())) from None


def _layers(config: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the tree it gives), weakest first."""
    path = Path(environ.get(f"{PREFIX}CONFIG") or config.get(f"{PREFIX}CONFIG") or "sluiceway.toml")  # type: ignore[arg-type]
    named = bool(environ.get(f"{PREFIX}CONFIG") or config.get(f"{PREFIX}CONFIG"))
    if named or path.exists():
        try:
            yield str(path), tomllib.loads(path.read_text("utf-8"))
        except OSError as exc:
            raise SettingsError(f"{path}: can't be read ({exc.strerror}); SLUICEWAY_CONFIG names it") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: not valid TOML: {exc}") from None
    whole = config.get("SLUICEWAY")
    if isinstance(whole, Mapping):
        yield "app.config['SLUICEWAY']", dict(whole)
    for name, value in config.items():
        if keys := _path(name):
            yield f"app.config[{name!r}]", _nested(keys, value)
    for name, text in environ.items():
        if keys := _path(name):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
            yield f"environment {name}", _nested(keys, value)


def _path(name: str) -> list[str] | None:
    """`SLUICEWAY_SERVER__MAX_BODY_BYTES` -> `["server", "max_body_bytes"]`; None for a name that is not ours."""
    if not name.startswith(PREFIX):
        return None
    rest = name.removeprefix(PREFIX)
    if rest == "DEFAULT_MODEL":
        return ["default_model"]
    return rest.lower().split("__") if "__" in rest else None


def _nested(keys: list[str], value: object) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value  # type: ignore[return-value]


def _merge(
    tree: dict[str, Any],
    layer: Mapping[str, Any],
    source: str,
    origin: dict[tuple[str, ...], str],
    at: tuple[str, ...] = (),
) -> None:
    """Lay `layer` over `tree`, key by key, noting in `origin` where each value came from."""
    for key, value in layer.items():
        here = (*at, str(key))
        origin[here] = source
        if isinstance(value, Mapping):
            below = tree.get(key)
            tree[key] = below = dict(below) if isinstance(below, Mapping) else {}
            _merge(below, value, source, origin, here)
        else:
            tree[key] = value


def _keys(tree: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Provider name -> API key, for the providers whose `api_key_env` is set and not empty."""
    providers = tree.get("providers")
    found: dict[str, str] = {}
    for name, table in providers.items() if isinstance(providers, Mapping) else ():
        variable = table.get("api_key_env") if isinstance(table, Mapping) else None
        if isinstance(variable, str) and (key := environ.get(variable, "").strip()):
            found[name] = key
    return found


def _not_yet(path: tuple[str, ...]) -> bool:
    return any(
        ".".join("*" if at == 1 and path[0] == "models" else part for at, part in enumerate(path[:depth])) in NOT_YET
        for depth in range(1, len(path) + 1)
    )


def _explain(problem: Any, origin: Mapping[tuple[str, ...], str]) -> str:
    """One line for one pydantic error: place, key, value, what was wanted."""
    path = tuple(str(part) for part in problem["loc"] if part != "[key]")
    source = next((origin[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in origin), "settings")
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}; {nearest(path[-1], _fields_at(path[:-1]))}"
    wanted = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if problem["type"] == "missing":
        return f"{source}: {key} is missing"
    return f"{source}: {key} = {problem['input']!r}: {wanted[0].lower()}{wanted[1:]}"


def _fields_at(path: tuple[str, ...]) -> list[str]:
    """The keys that a table may hold, for "unknown key" messages."""
    sections: dict[str, type[BaseModel]] = {"providers": ProviderSettings, "models": Alias}
    if not path:
        return [name for name in Settings.model_fields if name not in ("keys", "without_effect")]
    section = sections.get(path[0]) or type(getattr(Settings(), path[0]))
    return list(section.model_fields)
