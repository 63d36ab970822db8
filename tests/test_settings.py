"""The knobs: where they come from, which source wins, and the sentence with which a mistake stops the server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Service, free_port

from app import create_app
from app.settings import Settings, SettingsError, load_settings

# The whole published configuration. A key that is taken out of the code, or renamed, fails here.
PUBLISHED = """
default_model = "openai/gpt-5"

[server]
heartbeat_s = 15.0
hold_s = 10.0
max_streams = 1000
max_body_bytes = 1048576
write_timeout_s = 60.0
drain_s = 20.0
api_keys_sha256 = []
cors_origins = []

[timeouts]
connect_s = 5.0
first_token_s = 30.0
idle_s = 30.0
total_s = 600.0

[retry]
attempts = 3
backoff_s = 0.5
max_backoff_s = 8.0
max_retry_after_s = 10.0

[breaker]
failures = 5
cooldown_s = 10.0

[store]
url = "sqlite:///var/sluiceway.db"
resume_grace_s = 30.0
resume_ttl_s = 300.0

[tools]
enabled = ["clock"]
max_steps = 8

[providers.openai]
kind = "openai"
base_url = "https://example.com/v1"
api_key_env = "OPENAI_API_KEY"
default_model = "gpt-5"

[models."chat"]
target = "openai/gpt-5"
fallbacks = ["anthropic/claude-opus-4-7"]
recovery = "continue"
prefill = false

[models."gpt-*"]
target = "openai/gpt-*"
"""

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(toml, config, **environment)`: the settings of these sources and no others. The file is `{file}` in an
    error's text."""

    def load(toml: str = "", config: dict[str, Any] | None = None, **environ: str) -> Settings:
        file = tmp_path / "sluiceway.toml"
        file.write_text(toml)
        try:
            return load_settings(config, {"SLUICEWAY_CONFIG": str(file), **environ})
        except SettingsError as exc:
            raise SettingsError(str(exc).replace(str(file), "{file}")) from None

    return load


def refusal(load: Load, *sources: Any, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*sources, **environ)
    return str(caught.value)


def test_the_whole_published_file_loads_and_is_the_default(load: Load) -> None:
    settings = load(PUBLISHED)
    defaults = Settings()
    for section in ("server", "timeouts", "retry", "breaker", "store", "tools"):
        assert getattr(settings, section) == getattr(defaults, section)
        assert set(type(getattr(defaults, section)).model_fields) == set(getattr(settings, section).model_fields_set)
    assert settings.models["chat"].fallbacks == ("anthropic/claude-opus-4-7",)
    assert settings.models["gpt-*"].target == "openai/gpt-*"
    assert settings.providers["openai"].base_url == "https://example.com/v1"


def test_without_any_source(load: Load) -> None:
    settings = load()
    assert list(settings.providers) == ["openai", "anthropic", "local", "langchain"]
    assert settings.providers["openai"].api_key_env == "OPENAI_API_KEY"
    assert settings.providers["anthropic"].api_key_env == "ANTHROPIC_API_KEY"
    assert settings.models == {}


def test_a_table_of_a_built_in_provider_changes_single_keys(load: Load) -> None:
    changed = load('[providers.openai]\nbase_url = "http://10.0.0.9/v1"').providers["openai"]
    assert (changed.kind, changed.api_key_env, changed.default_model) == ("openai", "OPENAI_API_KEY", "gpt-5")


# Which source wins.


def test_environment_over_app_config_over_file_over_defaults(load: Load) -> None:
    file = "[timeouts]\nfirst_token_s = 1\nidle_s = 1\ntotal_s = 1"
    config = {"SLUICEWAY": {"timeouts": {"idle_s": 2, "total_s": 2}}, "SLUICEWAY_TIMEOUTS__TOTAL_S": 3}
    environ = {"SLUICEWAY_TIMEOUTS__TOTAL_S": "4"}
    assert load().timeouts.model_dump() == {"connect_s": 5, "first_token_s": 30, "idle_s": 30, "total_s": 600}
    assert load(file).timeouts.model_dump() == {"connect_s": 5, "first_token_s": 1, "idle_s": 1, "total_s": 1}
    assert load(file, config).timeouts.model_dump() == {"connect_s": 5, "first_token_s": 1, "idle_s": 2, "total_s": 3}
    assert load(file, config, **environ).timeouts.total_s == 4


def test_the_environment_reads_json_where_it_is_json(load: Load) -> None:
    digest = "a" * 64
    settings = load(
        SLUICEWAY_DEFAULT_MODEL="openai/gpt-5",
        SLUICEWAY_SERVER__MAX_BODY_BYTES="2048",
        SLUICEWAY_SERVER__API_KEYS_SHA256=f'["{digest}"]',
        SLUICEWAY_LOCAL__ENABLED="true",
        SLUICEWAY_PROVIDERS__VLLM__KIND="openai",
        SLUICEWAY_PROVIDERS__VLLM__BASE_URL="http://10.0.0.9/v1",
        SLUICEWAY_MODELS__CHAT__TARGET="vllm/llama",
        SLUICEWAY_MODELS__CHAT__IDLE_S="2.5",
    )
    assert settings.default_model == "openai/gpt-5"
    assert settings.server.max_body_bytes == 2048
    assert settings.server.api_keys_sha256 == (digest,)
    assert settings.local.enabled is True
    assert settings.providers["vllm"].base_url == "http://10.0.0.9/v1"
    assert (settings.models["chat"].target, settings.models["chat"].idle_s) == ("vllm/llama", 2.5)


def test_names_that_others_set_are_not_ours(load: Load) -> None:
    """Kubernetes gives every pod the addresses of a service called `sluiceway` under such names."""
    settings = load(
        SLUICEWAY_PORT="tcp://10.0.0.1:8000",
        SLUICEWAY_SERVICE_HOST="10.0.0.1",
        SLUICEWAY_SERVICE_PORT_HTTP="8000",
        SLUICEWAY_PORT_8000_TCP_ADDR="10.0.0.1",
        SLUICEWAYS__X="1",
        SERVER__MAX_BODY_BYTES="1",
    )
    assert settings == load()


def test_the_config_path_may_stand_in_app_config(tmp_path: Path) -> None:
    for name in ("weaker", "stronger"):
        (tmp_path / name).write_text(f'default_model = "openai/{name}"')
    config = {"SLUICEWAY_CONFIG": str(tmp_path / "weaker")}
    assert load_settings(config, {}).default_model == "openai/weaker"
    environ = {"SLUICEWAY_CONFIG": str(tmp_path / "stronger")}
    assert load_settings(config, environ).default_model == "openai/stronger"


def test_the_working_directorys_file_is_read_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}, {}) == load_settings({}, {"SLUICEWAY_CONFIG": os.devnull})
    (tmp_path / "sluiceway.toml").write_text("[timeouts]\nidle_s = 9")
    assert load_settings({}, {}).timeouts.idle_s == 9


def test_the_sdks_own_base_urls_count_where_the_file_gives_none(load: Load) -> None:
    elsewhere = {"OPENAI_BASE_URL": "http://gpu:8000/v1", "ANTHROPIC_BASE_URL": " http://claude "}
    providers = load('[providers.openai]\nbase_url = "http://file/v1"', **elsewhere).providers
    assert providers["openai"].base_url == "http://file/v1"
    assert providers["anthropic"].base_url == "http://claude"
    ours = load(SLUICEWAY_PROVIDERS__OPENAI__BASE_URL="http://env/v1", **elsewhere).providers["openai"]
    assert ours.base_url == "http://env/v1"
    assert refusal(load, OPENAI_BASE_URL="gpu:8000/v1") == (
        "environment OPENAI_BASE_URL: providers.openai.base_url = 'gpu:8000/v1': should be an http:// or https:// URL"
    )


# Mistakes: place, key, value, what was wanted.

SERVER_KEYS = (
    "api_keys_sha256, cors_origins, drain_s, heartbeat_s, hold_s, max_body_bytes, max_streams, write_timeout_s"
)
SECTIONS = "breaker, default_model, local, models, providers, retry, server, store, timeouts, tools"
ORIGIN = "an origin as browsers write it (small letters, no path, no default port: 'https://app.example'), or '*'"
MISTAKES = [
    # unknown keys, with the nearest
    ("[sever]", f"unknown key 'sever'; known: {SECTIONS}. Did you mean 'server'?"),
    (
        "[server]\nmax_body_byte = 1",
        f"unknown key 'server.max_body_byte'; known: {SERVER_KEYS}. Did you mean 'max_body_bytes'?",
    ),
    (
        '[providers.openai]\napi_key = "sk-secret"',
        "unknown key 'providers.openai.api_key'; known: api_key_env, base_url, default_model, kind, "
        "model_class, options. Did you mean 'api_key_env'?",
    ),
    (
        '[models.chat]\ntarget = "local"\nfallback = []',
        "unknown key 'models.chat.fallback'; known: connect_s, fallbacks, first_token_s, idle_s, prefill, recovery, "
        "target, total_s. Did you mean 'fallbacks'?",
    ),
    ("keys = {}", "unknown key 'keys'"),
    # wrong types
    ("server = 5", "server = 5: should be a table"),
    ("providers = 5", "providers = 5: should be a table"),
    ("[models]\nchat = 5", "models.chat = 5: should be a table"),
    ('[server]\nmax_body_bytes = "1 MB"', "server.max_body_bytes = '1 MB': should be a whole number"),
    ("[server]\nmax_body_bytes = 1.5", "server.max_body_bytes = 1.5: should be a whole number"),
    ("[server]\nmax_body_bytes = true", "server.max_body_bytes = True: should be a whole number"),
    ("[timeouts]\nidle_s = true", "timeouts.idle_s = True: should be a number"),
    ('[timeouts]\nidle_s = "30s"', "timeouts.idle_s = '30s': should be a number"),
    ('[server]\ncors_origins = "*"', "server.cors_origins = '*': should be a list"),
    *(
        (f'[server]\ncors_origins = ["*", "{wrong}"]', f"server.cors_origins.1 = '{wrong}': should be {ORIGIN}")
        for wrong in (
            *("app.example", "https://app.example/", "https://App.example", "https://app.example:443", "http://x:80"),
            *("null", "", "https://*.example", "https://a,https://b", "https://u@a.example", "https://a?x", "//a"),
        )
    ),
    ("default_model = 5", "default_model = 5: should be text"),
    ("[local]\nenabled = 5", "local.enabled = 5: should be a valid boolean, unable to interpret input"),
    # wrong values
    ("[server]\nmax_body_bytes = 0", "server.max_body_bytes = 0: should be greater than or equal to 1"),
    ("[timeouts]\nidle_s = 0", "timeouts.idle_s = 0: should be greater than 0"),
    ("[timeouts]\nidle_s = inf", "timeouts.idle_s = inf: should be a number"),
    ("[timeouts]\ntotal_s = 100000", "timeouts.total_s = 100000: should be less than or equal to 86400"),
    ("[server]\ndrain_s = -1", "server.drain_s = -1: should be greater than or equal to 0"),
    ("[local]\nport = 70000", "local.port = 70000: should be less than or equal to 65535"),
    (
        '[models.chat]\ntarget = "local"\nrecovery = "maybe"',
        "models.chat.recovery = 'maybe': should be 'continue', 'restart' or 'off'",
    ),
    # providers
    (
        '[providers.openai]\nkind = "opnai"',
        "providers.openai.kind = 'opnai': known: anthropic, langchain, local, openai, openai_responses. "
        "Did you mean 'openai'?",
    ),
    ('[providers.mine]\nbase_url = "http://x"', "providers.mine.kind is missing"),
    (
        '[providers.openai]\nbase_url = "example.com"',
        "providers.openai.base_url = 'example.com': should be an http:// or https:// URL",
    ),
    (
        '[providers."a/b"]\nkind = "openai"',
        "providers.a/b = 'a/b': should be a name of letters, digits and . _ -",
    ),
    ('[providers.openai]\ndefault_model = ""', "providers.openai.default_model = '': should not be empty"),
    # targets
    ("[models.chat]", "models.chat.target is missing"),
    ('[models.chat]\ntarget = "/gpt"', "models.chat.target = '/gpt': should be an alias or 'provider/model'"),
    (
        '[models.chat]\ntarget = "opnai/gpt-5"',
        "models.chat.target = 'opnai/gpt-5': unknown provider 'opnai'; known: anthropic, langchain, local, openai. "
        "Did you mean 'openai'?",
    ),
    (
        '[models.chat]\ntarget = "openai/gpt-5"\nfallbacks = ["local", "antropic/claude"]',
        "models.chat.fallbacks = 'antropic/claude': unknown provider 'antropic'; known: anthropic, langchain, local, "
        "openai. Did you mean 'anthropic'?",
    ),
    (
        'default_model = "opnai/gpt-5"',
        "default_model = 'opnai/gpt-5': unknown provider 'opnai'; known: anthropic, langchain, local, openai. "
        "Did you mean 'openai'?",
    ),
    (
        '[models.chat]\ntarget = "openai/*"',
        "models.chat.target = 'openai/*': should have a * only where the alias has one",
    ),
    (
        '[models."a*b*"]\ntarget = "local"',
        "models.a*b* = 'a*b*': should be a name without blanks and with at most one *",
    ),
    (
        '[models.chat]\ntarget = "chat"',
        "models.chat.target = 'chat': should end at a provider, but runs in a circle: chat -> chat",
    ),
]


@pytest.mark.parametrize(("toml", "sentence"), MISTAKES, ids=[row[1][:50] for row in MISTAKES])
def test_a_mistake_in_the_file(load: Load, toml: str, sentence: str) -> None:
    assert refusal(load, toml) == f"{{file}}: {sentence}"


def test_a_circle_is_shown_from_each_of_its_aliases(load: Load) -> None:
    toml = '[models.a]\ntarget = "b"\n[models.b]\ntarget = "c"\n[models.c]\ntarget = "a"\n[models.x]\ntarget = "a"'
    assert refusal(load, toml).splitlines() == [
        "{file}: models.a.target = 'b': should end at a provider, but runs in a circle: a -> b -> c -> a",
        "{file}: models.b.target = 'c': should end at a provider, but runs in a circle: b -> c -> a -> b",
        "{file}: models.c.target = 'a': should end at a provider, but runs in a circle: c -> a -> b -> c",
    ]


def test_several_mistakes_are_told_at_once_each_with_its_place(load: Load) -> None:
    config = {"SLUICEWAY": {"timeouts": {"connect_s": 0}}, "SLUICEWAY_TIMEOUTS__IDLE_S": "fast"}
    told = refusal(load, "[timeouts]\ntotal_s = 0", config, SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S="soon")
    assert told.splitlines() == [
        "app.config['SLUICEWAY']: timeouts.connect_s = 0: should be greater than 0",
        "environment SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S: timeouts.first_token_s = 'soon': should be a number",
        "app.config['SLUICEWAY_TIMEOUTS__IDLE_S']: timeouts.idle_s = 'fast': should be a number",
        "{file}: timeouts.total_s = 0: should be greater than 0",
    ]


def test_an_unknown_key_in_the_environment(load: Load) -> None:
    assert refusal(load, SLUICEWAY_TIMEOUTS__IDEL_S="5") == (
        "environment SLUICEWAY_TIMEOUTS__IDEL_S: unknown key 'timeouts.idel_s'; "
        "known: connect_s, first_token_s, idle_s, total_s. Did you mean 'idle_s'?"
    )


def test_app_config_must_hold_a_tree(load: Load) -> None:
    assert refusal(load, "", {"SLUICEWAY": 5}) == "app.config['SLUICEWAY'] = 5: should be a dict, the tree of settings"


def test_a_long_value_is_cut(load: Load) -> None:
    assert refusal(load, SLUICEWAY_TIMEOUTS__IDLE_S="[" * 100_000).endswith(f"= '{'[' * 99}...: should be a number")


def test_a_file_that_can_not_be_read(load: Load, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as missing:
        load_settings({}, {"SLUICEWAY_CONFIG": "/nowhere/s.toml"})
    assert str(missing.value) == (
        "/nowhere/s.toml: can't be read (No such file or directory); SLUICEWAY_CONFIG names it"
    )
    assert refusal(load, "[server").startswith("{file}: not valid TOML: Expected ']'")
    (tmp_path / "latin").write_bytes(b'default_model = "mod\xe8le"')
    with pytest.raises(SettingsError, match="latin: not valid TOML: 'utf-8' codec can't decode"):
        load_settings({}, {"SLUICEWAY_CONFIG": str(tmp_path / "latin")})


# Keys.


def test_keys_stand_in_no_text(load: Load) -> None:
    settings = load(OPENAI_API_KEY="sk-secret", ANTHROPIC_API_KEY="sk-secret", SLUICEWAY_LOCAL__API_KEY="local-secret")
    assert settings.keys == dict.fromkeys(("openai", "anthropic", "langchain"), "sk-secret")
    assert settings.local.api_key == "local-secret"
    for text in (repr(settings), str(settings), f"{settings!r:>10}"):
        assert "secret" not in text
    assert "sk-secret" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        (
            '[server]\napi_keys_sha256 = ["my-secret"]',
            "server.api_keys_sha256.0: should be the hex SHA-256 of a key (64 digits), not the key",
        ),
        ('[server]\napi_keys_sha256 = "my-secret"', "server.api_keys_sha256: should be a list"),
        (
            '[providers.openai]\napi_key_env = "sk-my-secret"',
            "providers.openai.api_key_env: should be the name of an environment variable",
        ),
        ('[local]\napi_key = ["my-secret"]', "local.api_key: should be text"),
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(load: Load, toml: str, sentence: str) -> None:
    assert refusal(load, toml) == f"{{file}}: {sentence}"


@pytest.mark.parametrize(
    ("toml", "environ", "start_model", "local"),
    [
        ("", {}, "local/smollm2-135m-instruct", True),
        ("", {"OPENAI_API_KEY": " "}, "local/smollm2-135m-instruct", True),
        ("", {"OPENAI_API_KEY": "k"}, "openai/gpt-5", False),
        ("", {"ANTHROPIC_API_KEY": "k"}, "anthropic/claude-opus-4-7", False),
        ("", {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}, "openai/gpt-5", False),
        ('default_model = "anthropic"', {"OPENAI_API_KEY": "k"}, "anthropic", False),
        ("[local]\nenabled = true", {"OPENAI_API_KEY": "k"}, "openai/gpt-5", True),
        ("[local]\nenabled = false", {}, "local/smollm2-135m-instruct", False),
        (
            '[providers.azure]\nkind = "openai"\napi_key_env = "AZURE_KEY"\ndefault_model = "gpt-az"',
            {"AZURE_KEY": "k"},
            "azure/gpt-az",
            False,
        ),
        (
            '[providers.azure]\nkind = "openai"\napi_key_env = "AZURE_KEY"\ndefault_model = "gpt-az"',
            {"AZURE_KEY": "k", "ANTHROPIC_API_KEY": "k"},
            "anthropic/claude-opus-4-7",
            False,
        ),
    ],
)
def test_the_default_model_goes_by_the_keys(
    load: Load, toml: str, environ: dict[str, str], start_model: str, local: bool
) -> None:
    settings = load(toml, **environ)
    assert (settings.start_model, settings.local_enabled) == (start_model, local)


def test_a_tool_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEWAY_CONFIG", os.devnull)
    with pytest.raises(
        SettingsError, match=r"tools\.enabled: no such tool: 'clok'; known: clock\. Did you mean 'clock'"
    ):
        create_app({"SLUICEWAY_TOOLS__ENABLED": ["clok"]})


def test_a_key_that_can_not_stand_in_a_header_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({}, {"OPENAI_API_KEY": "sk-SECRET”QUOTE"})
    assert str(refused.value) == "environment OPENAI_API_KEY: should be a key, of ASCII letters, digits and signs only"


def test_a_bare_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"default_model = 'opneai': should be an alias, a provider, or provider/mod"
    ):
        load_settings({}, {"SLUICEWAY_DEFAULT_MODEL": "opneai"})


# The server.


def test_the_server_does_not_start_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "sluiceway.toml"
    file.write_text("[server]\nmax_body_bytes = -1\n[timeouts]\nidel_s = 5\n")
    ended = start(file, "--workers", "2")
    assert ended.returncode == 4
    started, *told = ended.stderr.splitlines()
    assert "Starting gunicorn" in started
    assert told == [
        f"sluiceway: {file}: server.max_body_bytes = -1: should be greater than or equal to 1",
        f"{file}: unknown key 'timeouts.idel_s'; known: connect_s, first_token_s, idle_s, total_s. "
        "Did you mean 'idle_s'?",
    ]


def test_without_the_projects_gunicorn_conf_a_worker_says_it(tmp_path: Path) -> None:
    file = tmp_path / "sluiceway.toml"
    file.write_text("[server]\nmax_body_bytes = -1\n")
    ended = start(file, "--config", os.devnull)
    assert ended.returncode == 4
    told = ended.stderr.splitlines()
    assert f"sluiceway: {file}: server.max_body_bytes = -1: should be greater than or equal to 1" in told
    assert not any("Traceback" in line for line in told)


def test_an_open_door_is_announced(start_service: Callable[..., Service]) -> None:
    digest = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    everywhere = ("--workers", "1", "--bind", f"0.0.0.0:{free_port()}")
    for env, args, told in (
        ({}, ("--workers", "1"), False),
        ({}, everywhere, True),
        ({"SLUICEWAY_SERVER__API_KEYS_SHA256": f'["{digest}"]'}, everywhere, False),
    ):
        service = start_service({"SLUICEWAY_LOCAL__ENABLED": "false", **env}, *args)
        assert ("OPEN TO EVERYBODY: listening on 0.0.0.0" in service.log) is told
        service.stop()


def start(config: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", "wsgi:app", "--bind", f"127.0.0.1:{free_port()}", *args],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "SLUICEWAY_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
