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
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from .registry import nearest

PREFIX = "SLUICEWAY_"


def _matching(pattern: str, wanted: str) -> AfterValidator:
    """Text that matches `pattern` from end to end; `wanted` says it in words, for the error."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"should be {wanted}")
        return value

    return AfterValidator(check)


# Strict: `true` is no number of seconds, and text is no number. (A whole number is a float all the same.)
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False, strict=True)]
Pause = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, strict=True)]  # 0: none
Count = Annotated[int, Field(ge=1, strict=True)]
Target = Annotated[str, _matching(r"[^/\s]+(/\S+)?", "an alias or 'provider/model'")]
ProviderName = Annotated[str, _matching(r"[A-Za-z0-9_.-]+", "a name of letters, digits and . _ -")]
AliasName = Annotated[str, _matching(r"[^\s*]+|[^\s*]*\*[^\s*]*", "a name without blanks and with at most one *")]
Url = Annotated[str, _matching(r"https?://\S+", "an http:// or https:// URL")]
StoreUrl = Annotated[
    str,
    _matching(
        r"sqlite:///(?!:memory:)\S+|rediss?://\S+",
        "'sqlite:///path', with a fourth / for an absolute one, or 'redis://host:6379/0'",
    ),
]
# Strict about what it holds, because a key pasted here by mistake would be named in answers ("set ... and restart").
Variable = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
KeyHash = Annotated[str, _matching(r"[0-9a-fA-F]{64}", "the hex SHA-256 of a key (64 digits), not the key")]
Origin = Annotated[
    str,
    _matching(
        r"\*|(?!http://[^/]*:80$|https://[^/]*:443$)[a-z][a-z0-9+.-]*://[^/\s*,A-Z?#@]+",
        "an origin as browsers write it (small letters, no path, no default port: 'https://app.example'), or '*'",
    ),
]
DottedPath = Annotated[
    str, _matching(r"[^\W\d]\w*(\.[^\W\d]\w*)*[:.][^\W\d]\w*(\.[^\W\d]\w*)*", "a dotted path: 'package.module:name'")
]
ProviderKind = Literal["openai", "openai_responses", "anthropic", "langchain", "local"]

# Values that are, or by mistake may be, a key: an error names the place and not the value.
SECRET = frozenset(
    {"server.api_keys_sha256", "local.api_key", "providers.*.api_key_env", "providers.*.options", "store.url"}
)


class SettingsError(Exception):
    """The configuration can't be used; the text names the place, the key, the value and what was wanted."""


class Unusable(Exception):
    """What a provider finds wrong with its table when it is made: the value at `path` in it, and what was `wanted`."""

    def __init__(self, path: tuple[str, ...], value: object, wanted: str) -> None:
        super().__init__(wanted)
        self.path = path
        self.value = value
        self.wanted = wanted


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    max_body_bytes: Count = 1_048_576
    api_keys_sha256: tuple[KeyHash, ...] = ()
    heartbeat_s: Seconds = 15.0
    hold_s: Pause = 10.0
    max_streams: Count = 1000
    write_timeout_s: Seconds = 60.0
    drain_s: Pause = 20.0
    cors_origins: tuple[Origin, ...] = ()


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
    backoff_s: Pause = 0.5
    max_backoff_s: Pause = 8.0
    max_retry_after_s: Pause = 10.0


class Breaker(_Section):
    failures: Count = 5
    cooldown_s: Seconds = 10.0


class Store(_Section):
    url: StoreUrl = "sqlite:///var/sluiceway.db"
    resume_grace_s: Pause = 30.0
    resume_ttl_s: Seconds = 300.0


class Tools(_Section):
    enabled: tuple[str, ...] = ("clock",)
    max_steps: Count = 8


class Local(_Section):
    """The embedded model. `port` and `api_key` are set by gunicorn.conf.py, which starts its process."""

    enabled: bool | None = None  # None: when no provider has a key
    port: Annotated[int, Field(ge=1, le=65_535, strict=True)] | None = None
    api_key: str | None = Field(default=None, repr=False)
    path: Path | None = None  # where `make setup` put it; None: local-model/ in the virtual environment
    threads: Count | None = None  # None: all cores but one


class ProviderSettings(_Section):
    """`model_class` and `options`, which are its other arguments, are a langchain provider's."""

    kind: ProviderKind
    base_url: Url | None = None
    api_key_env: Variable | None = None
    default_model: Annotated[str, Field(min_length=1)] | None = None
    model_class: DottedPath = "langchain_openai:ChatOpenAI"
    options: dict[str, Any] = Field(default_factory=dict, repr=False)

    @field_validator("kind", mode="before")
    @classmethod
    def _kind_is_known(cls, kind: object) -> object:
        if isinstance(kind, str) and kind not in get_args(ProviderKind):
            raise ValueError(nearest(kind, get_args(ProviderKind)))
        return kind

    @field_validator("model_class", "options")
    @classmethod
    def _only_of_langchain(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("kind", "langchain") != "langchain":
            raise ValueError('should stand where kind = "langchain"')
        return value


Recovery: TypeAlias = Literal["continue", "restart", "off"]


class Alias(_TimeoutOverrides):
    """A `[models."name"]` table: another name for a target; one `*` stands for the rest of a name in both."""

    target: Target
    fallbacks: tuple[Target, ...] = ()
    recovery: Recovery = "continue"
    prefill: bool = False


# What exists without a file. A table of the same name in the file changes single keys of these.
_BUILT_IN: dict[str, dict[str, str]] = {
    "openai": {"kind": "openai", "api_key_env": "OPENAI_API_KEY", "default_model": "gpt-5"},
    "anthropic": {"kind": "anthropic", "api_key_env": "ANTHROPIC_API_KEY", "default_model": "claude-opus-4-7"},
    "local": {"kind": "local", "default_model": "smollm2-135m-instruct"},
    "langchain": {"kind": "langchain"},
}
# With its own class: OpenAI's key must not go to a class of somebody else.
_LANGCHAIN_AS_IT_COMES = {"api_key_env": "OPENAI_API_KEY", "default_model": "gpt-5"}


class Settings(_Section):
    default_model: Target | None = None
    server: Server = Server()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    store: Store = Store()
    tools: Tools = Tools()
    local: Local = Local()
    providers: dict[ProviderName, ProviderSettings] = Field(default_factory=dict)
    models: dict[AliasName, Alias] = Field(default_factory=dict)

    # Keys of the providers that have one, by provider name; never shown: not in repr, not in a message.
    keys: dict[str, str] = Field(default_factory=dict, repr=False, exclude=True)
    # Where each value comes from, by its path; what is not in here is a default.
    _origin: Mapping[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    def is_named(self, provider: str) -> bool:
        """Whether the configuration says something of a provider, or it just exists."""
        return any(path[:2] == ("providers", provider) for path in self._origin)

    def refuse(self, provider: str, wrong: Unusable) -> SettingsError:
        """What a provider finds wrong with its table."""
        return SettingsError(_sentence(("providers", provider, *wrong.path), wrong.value, wrong.wanted, self._origin))

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
    if "keys" in tree:
        raise SettingsError(f"{origin[('keys',)]}: unknown key 'keys'")
    said = dict(origin)
    _fill_in_langchain(tree)
    tree["keys"] = _keys(tree, environ)
    _point_where_the_sdks_would(tree, environ, origin)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as exc:
        raise SettingsError("\n".join(_explain(problem, origin) for problem in exc.errors())) from None
    if wrong := [_sentence(path, value, wanted, origin) for path, value, wanted in _leading_nowhere(settings)]:
        raise SettingsError("\n".join(wrong))
    settings._origin = said
    return settings


def _layers(config: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, the tree it gives), weakest first."""
    named = environ.get(f"{PREFIX}CONFIG") or config.get(f"{PREFIX}CONFIG")
    path = Path(str(named or "sluiceway.toml"))
    if named or path.exists():
        try:
            yield str(path), tomllib.loads(path.read_text("utf-8"))
        except OSError as exc:
            by = f"; {PREFIX}CONFIG names it" if named else ""
            raise SettingsError(f"{path}: can't be read ({exc.strerror}){by}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{path}: not valid TOML: {exc}") from None
    whole = config.get("SLUICEWAY", {})
    if not isinstance(whole, Mapping):
        raise SettingsError(f"app.config['SLUICEWAY'] = {_shown(whole)}: should be a dict, the tree of settings")
    yield "app.config['SLUICEWAY']", dict(whole)
    for name, value in config.items():
        if keys := _path(name):
            yield f"app.config[{name!r}]", _nested(keys, value)
    for name, text in environ.items():
        if keys := _path(name):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
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
            if not re.fullmatch(r"[!-~]+", key):  # it goes into a header, where only these may stand
                raise SettingsError(f"environment {variable}: should be a key, of ASCII letters, digits and signs only")
            found[name] = key
    return found


def _fill_in_langchain(tree: dict[str, Any]) -> None:
    table = tree["providers"].get("langchain") if isinstance(tree["providers"], Mapping) else None
    if isinstance(table, dict) and table.get("kind") == "langchain" and "model_class" not in table:
        table.update({**_LANGCHAIN_AS_IT_COMES, **table})


# The SDKs' own variables for another server of their protocol.
_SDK_BASE_URLS = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL", "langchain": "OPENAI_BASE_URL"}


def _point_where_the_sdks_would(
    tree: dict[str, Any], environ: Mapping[str, str], origin: dict[tuple[str, ...], str]
) -> None:
    """Fill in the SDKs' base URLs. A server given by its URL alone, without a key, is one that asks for none."""
    for name, variable in _SDK_BASE_URLS.items():
        table = tree["providers"].get(name) if isinstance(tree["providers"], Mapping) else None
        if not isinstance(table, dict) or "base_url" in table:
            continue
        if (url := environ.get(variable, "").strip()) and (name != "langchain" or _follows_openai(tree["providers"])):
            table["base_url"] = url
            origin["providers", name, "base_url"] = f"environment {variable}"
            if name not in tree["keys"]:
                table["api_key_env"] = None


def _follows_openai(providers: Mapping[str, Any]) -> bool:
    """Whether the langchain provider is as it comes, and OpenAI's URL one (of another, openai's own table tells)."""
    openai = providers.get("openai")
    url = openai.get("base_url") if isinstance(openai, Mapping) else None
    return "model_class" not in providers["langchain"] and str(url).startswith(("http://", "https://"))


def _pattern(path: tuple[str, ...]) -> str:
    """A path as `SECRET` writes it: any name of a model or a provider is `*`."""
    named = path[0] in ("models", "providers")
    return ".".join("*" if named and at == 1 else part for at, part in enumerate(path))


def _leading_nowhere(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(path, value, what was wanted) of each target that names no provider, runs in a circle, or misuses its `*`."""
    models, providers = settings.models, settings.providers
    targets: list[tuple[tuple[str, ...], str, str]] = []
    for name, table in models.items():
        targets.append((("models", name, "target"), name, table.target))
        targets += [(("models", name, "fallbacks"), name, fallback) for fallback in table.fallbacks]
    if settings.default_model is not None:
        targets.append((("default_model",), "", settings.default_model))
    for path, name, target in targets:
        head, slash, _ = target.partition("/")
        known = head in providers or target in models or any(star(alias, target) is not None for alias in models)
        circle = _circle(name, models)
        if target.count("*") > name.count("*"):
            yield path, target, "should have a * only where the alias has one"
        elif slash and not known:
            yield path, target, f"unknown provider {head!r}; {nearest(head, providers)}"
        elif not known and target not in (table.default_model for table in providers.values()):
            names = [*models, *providers]
            yield path, target, f"should be an alias, a provider, or provider/model; {nearest(target, names)}"
        elif not all(alias.partition("/")[0] in providers for alias in circle):
            yield path, target, f"should end at a provider, but runs in a circle: {' -> '.join(circle)}"


def _circle(name: str, models: Mapping[str, Alias]) -> list[str]:
    """The aliases from `name` on that lead back to it; empty where they don't. (`openai/gpt-5` may have itself as its
    target: that is how a model gets clocks of its own.)"""
    chain = [name]
    while (table := models.get(chain[-1])) is not None and table.target not in chain[1:]:
        chain.append(table.target)
        if table.target == name:
            return chain
    return []


def star(alias: str, name: str) -> str | None:
    """What the `*` of `alias` stands for in `name`; None where it has none, or they don't match."""
    before, has_star, after = alias.partition("*")
    if has_star and len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after):
        return name[len(before) : len(name) - len(after)]
    return None


def _explain(problem: Any, origin: Mapping[tuple[str, ...], str]) -> str:
    """One line for one pydantic error."""
    path = tuple(str(part) for part in problem["loc"] if part != "[key]")
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{_source(path, origin)}: unknown key {key!r}; {nearest(path[-1], _fields_at(path[:-1]))}"
    if problem["type"] == "missing":
        return f"{_source(path, origin)}: {key} is missing"
    wanted = _WANTED.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").replace("Input", "").strip()
    return _sentence(path, problem["input"], wanted, origin)


# Where pydantic's own words speak of Python.
_WANTED = {
    "model_type": "should be a table",
    "dict_type": "should be a table",
    "tuple_type": "should be a list",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a number",
}


def _sentence(path: tuple[str, ...], value: object, wanted: str, origin: Mapping[tuple[str, ...], str]) -> str:
    """Place, key, value, what was wanted."""
    secret = any(_pattern(path[:depth]) in SECRET for depth in range(1, len(path) + 1))
    return f"{_source(path, origin)}: {'.'.join(path)}{'' if secret else f' = {_shown(value)}'}: {wanted}"


def _source(path: tuple[str, ...], origin: Mapping[tuple[str, ...], str]) -> str:
    return next((origin[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in origin), "settings")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _fields_at(path: tuple[str, ...]) -> list[str]:
    """The keys that a table may hold, for "unknown key" messages."""
    sections: dict[str, type[BaseModel]] = {"providers": ProviderSettings, "models": Alias}
    if not path:
        return [name for name in Settings.model_fields if name != "keys"]
    section = sections.get(path[0]) or type(getattr(Settings(), path[0]))
    return list(section.model_fields)
