"""From a name to the model that answers: the order of resolution, aliases and their `*`, clocks, what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import InvalidRequest, NotFound, ProviderNotConfigured
from app.settings import Timeouts, load_settings
from app.targets import MAX_NAME_CHARS, Targets

KEYS = {"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-anthropic"}

Named = Callable[..., Targets]


@pytest.fixture
def named(tmp_path: Path) -> Named:
    """`named(toml, **environment)`; without an environment both providers have keys."""

    def build(toml: str = "", **environ: str) -> Targets:
        file = tmp_path / "sluiceway.toml"
        file.write_text(toml)
        return Targets(load_settings({}, {"SLUICEWAY_CONFIG": str(file), **(environ or KEYS)}))

    return build


FILE = """
default_model = "chat"

[models."chat"]
target = "openai/gpt-5"

[models."gpt-*"]
target = "openai/gpt-*-mini"

[models."*-fast"]
target = "anthropic/haiku-*"

[models."gpt-4-fast"]
target = "anthropic/claude-exact"

[models."claude-opus-4-7"]
target = "openai/taken"
"""


@pytest.mark.parametrize(
    ("name", "provider", "found"),
    [
        (None, "anthropic", "openai/gpt-5"),  # the default is an alias, whatever the route
        ("chat", "anthropic", "openai/gpt-5"),
        ("gpt-4", "anthropic", "openai/gpt-4-mini"),
        ("gpt-", "anthropic", "openai/gpt--mini"),  # the rest of a name may be nothing
        ("poem-fast", "openai", "anthropic/haiku-poem"),
        ("gpt-4-fast", "openai", "anthropic/claude-exact"),  # exact before *, wherever it stands in the file
        ("gpt-3-fast", "openai", "openai/gpt-3-fast-mini"),  # of two that fit, the first in the file
        ("claude-opus-4-7", "anthropic", "openai/taken"),  # an alias before a model of that name
        ("openai/o9", "anthropic", "openai/o9"),
        ("anthropic/a/b/c", "openai", "anthropic/a/b/c"),  # a model's own name may hold slashes
        ("openai", "anthropic", "openai/gpt-5"),
        ("anthropic", "openai", "anthropic/claude-opus-4-7"),  # its default_model itself, not the alias of that name
        ("o9", "openai", "openai/o9"),
        ("o9", "anthropic", "anthropic/o9"),
    ],
)
def test_the_order_in_which_a_name_is_read(named: Named, name: str | None, provider: str, found: str) -> None:
    assert named(FILE).find(name, provider=provider).name == found


def test_a_bare_name_belongs_to_the_route_also_if_it_is_anothers_default(named: Named) -> None:
    targets = named('[providers.openai]\ndefault_model = "m"\n[providers.anthropic]\ndefault_model = "m"')
    assert targets.find("m", provider="anthropic").name == "anthropic/m"
    assert targets.find("m", provider="openai").name == "openai/m"
    assert targets.find("claude-opus-4-7", provider="openai").name == "openai/claude-opus-4-7"


def test_without_the_routes_provider_a_bare_name_may_be_anothers_default(named: Named) -> None:
    assert named().find("gpt-5").name == "openai/gpt-5"
    keyless = named("", HOME="/")
    assert keyless.find("smollm2-135m-instruct", provider="openai").name == "local/smollm2-135m-instruct"
    assert keyless.find(None, provider="anthropic").name == "local/smollm2-135m-instruct"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("anything", "openai/anything"),
        ("meta/llama-4", "openai/meta/llama-4"),
        ("anthropic/claude-x", "anthropic/claude-x"),  # who names a provider means it
        ("anthropic", "anthropic/claude-opus-4-7"),
        ("openai/gpt-5", "openai/gpt-5"),
        ("chat", "anthropic/claude-x"),  # nor is the target of an alias caught
    ],
)
def test_a_star_does_not_reach_across_a_providers_name(named: Named, name: str, found: str) -> None:
    targets = named('[models."*"]\ntarget = "openai/*"\n[models.chat]\ntarget = "anthropic/claude-x"')
    assert targets.find(name, provider="openai").name == found


def test_a_star_behind_a_providers_name_moves_its_models(named: Named) -> None:
    targets = named('[models."openai/*"]\ntarget = "anthropic/*"\n[models.chat]\ntarget = "openai/a"')
    assert targets.find("openai/gpt-5").name == "anthropic/gpt-5"
    assert targets.find("chat").name == "anthropic/a"


def test_an_alias_of_a_provider_and_model_adds_to_it(named: Named) -> None:
    targets = named('[models."openai/gpt-5"]\ntarget = "openai/gpt-5"\nidle_s = 7')
    assert targets.find("openai/gpt-5").name == "openai/gpt-5"
    assert targets.find("openai/gpt-5").timeouts.idle_s == 7
    assert targets.find("openai/gpt-4").timeouts.idle_s == 30


CHAIN = """
[timeouts]
connect_s = 1
first_token_s = 2
idle_s = 3
total_s = 4

[models.outer]
target = "middle"
first_token_s = 20

[models.middle]
target = "inner-x"
first_token_s = 200
idle_s = 30

[models."inner-*"]
target = "anthropic/claude-*"
idle_s = 300
total_s = 40
"""


def test_aliases_of_aliases_add_their_clocks_the_outer_wins(named: Named) -> None:
    targets = named(CHAIN)
    outer = targets.find("outer")
    assert outer.name == "anthropic/claude-x"
    assert outer.timeouts == Timeouts(connect_s=1, first_token_s=20, idle_s=30, total_s=40)
    assert targets.find("middle").timeouts == Timeouts(connect_s=1, first_token_s=200, idle_s=30, total_s=40)
    assert targets.find("inner-y").timeouts == Timeouts(connect_s=1, first_token_s=2, idle_s=300, total_s=40)
    assert targets.find("openai/o9").timeouts == Timeouts(connect_s=1, first_token_s=2, idle_s=3, total_s=4)


def test_a_circle_through_a_star_ends(named: Named) -> None:
    """A circle of plain aliases stops the server at start (test_settings.py); one through a `*` may show itself only
    with a name, and then each alias is followed once."""
    targets = named('[models."a-*"]\ntarget = "b-*"\n[models."b-*"]\ntarget = "a-*+"')
    assert targets.find("a-x", provider="openai").name == "openai/a-x+"


# A route that names its provider.


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (None, "openai/gpt-5"),
        ("o9", "openai/o9"),
        ("openai/o9", "openai/o9"),
        ("chat", "openai/gpt-5"),
        ("gpt-4", "openai/gpt-4-mini"),
        ("poem-fast", "openai/poem-fast"),  # an alias that leads elsewhere: then it is one of the provider's names
        ("anthropic/claude-x", "openai/anthropic/claude-x"),  # as OpenRouter's are
        ("openai", "openai/openai"),
    ],
)
def test_where_the_route_names_the_provider_the_model_is_its_own(named: Named, model: str | None, found: str) -> None:
    assert named(FILE).find_at("openai", model).name == found


def test_an_alias_that_leads_to_the_routes_provider_brings_its_clocks(named: Named) -> None:
    targets = named('[models.slow]\ntarget = "openai/o9"\nfirst_token_s = 99\n[models.lost]\ntarget = "local"')
    assert targets.find_at("openai", "slow").timeouts.first_token_s == 99
    assert targets.find_at("openai", "lost").name == "openai/lost"


# What can't be found says what there is.


@pytest.mark.parametrize(
    ("name", "provider", "message"),
    [
        (
            "opnai/gpt-5",
            "openai",
            "unknown model 'opnai/gpt-5'; known: anthropic, anthropic/claude-opus-4-7, chat, langchain, local, openai, "
            "openai/gpt-5. Did you mean 'openai/gpt-5'?",
        ),
        (
            "chad",
            None,
            "unknown model 'chad'; known: anthropic, anthropic/claude-opus-4-7, chat, langchain, local, openai, "
            "openai/gpt-5. Did you mean 'chat'?",
        ),
        ("openai/", "openai", "unknown model 'openai/': after the slash stands one of its models"),
        (
            "/gpt-5",
            "openai",
            "unknown model '/gpt-5'; known: anthropic, anthropic/claude-opus-4-7, chat, langchain, local, openai, "
            "openai/gpt-5. Did you mean 'openai/gpt-5'?",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    named: Named, name: str, provider: str | None, message: str
) -> None:
    targets = named('[models.chat]\ntarget = "openai/gpt-5"')
    with pytest.raises(NotFound) as caught:
        targets.find(name, provider=provider)
    assert caught.value.message == message
    assert (caught.value.param, caught.value.http_status) == ("model", 404)


def test_a_bare_name_without_the_routes_provider_says_so(named: Named) -> None:
    targets = named("", OPENAI_API_KEY="sk-openai")
    with pytest.raises(NotFound, match=r"unknown model 'claude-x' \(provider 'anthropic' is not configured\); known: "):
        targets.find("claude-x", provider="anthropic")


def test_an_unknown_provider_of_a_route(named: Named) -> None:
    with pytest.raises(NotFound) as caught:
        named().find_at("opnai", None)
    assert caught.value.message == (
        "unknown provider 'opnai'; known: anthropic, langchain, local, openai. Did you mean 'openai'?"
    )


def test_a_provider_without_a_default_wants_a_model(named: Named) -> None:
    targets = named('[providers.vllm]\nkind = "openai"\nbase_url = "http://10.0.0.9/v1"')
    for ask in (lambda: targets.find("vllm"), lambda: targets.find_at("vllm", None)):
        with pytest.raises(NotFound, match="provider 'vllm' has no default_model; name a model"):
            ask()
    assert targets.find("vllm/llama").name == "vllm/llama"  # no api_key_env: a server that asks for no key


@pytest.mark.parametrize(
    "name",
    ["", " ", "\t", "a\nb", "a\x00b", "a\u2028b", "a\u202eb", "x" * (MAX_NAME_CHARS + 1)],
    ids=["empty", "blank", "tab", "newline", "nul", "separator", "right-to-left", "long"],
)
def test_what_is_no_name_is_refused(named: Named, name: str) -> None:
    for ask in (lambda: named().find(name, provider="openai"), lambda: named().find_at("openai", name)):
        with pytest.raises(InvalidRequest, match=r"^model: a name has 1 to 256 printable characters$"):
            ask()
    assert named().find("x" * MAX_NAME_CHARS, provider="openai").provider == "openai"
    assert named().find("modèle 東京", provider="openai").name == "openai/modèle 東京"


# What is known, but can't be called.


@pytest.mark.parametrize(
    ("toml", "name", "message"),
    [
        ("", "anthropic/claude-x", "provider 'anthropic' has no key; set ANTHROPIC_API_KEY and restart"),
        ("", "anthropic", "provider 'anthropic' has no key; set ANTHROPIC_API_KEY and restart"),
        ("", "local", "the embedded model is off because a provider key is set; set [local] enabled = true"),
        ("[local]\nenabled = false", "local/x", "the embedded model is off; set [local] enabled = true"),
        (
            '[providers.mine]\nkind = "openai"\napi_key_env = "MINE_KEY"',
            "mine/x",
            "provider 'mine' has no key; set MINE_KEY and restart",
        ),
    ],
)
def test_not_configured_says_what_to_set(named: Named, toml: str, name: str, message: str) -> None:
    targets = named(toml, OPENAI_API_KEY="sk-openai")
    with pytest.raises(ProviderNotConfigured) as caught:
        targets.find(name, provider="openai")
    assert caught.value.message == message
    assert caught.value.http_status == 503


def test_a_blank_key_is_none(named: Named) -> None:
    assert named("", OPENAI_API_KEY=" ", ANTHROPIC_API_KEY="").usable == ["local"]
    assert named("[local]\nenabled = true").usable == ["openai", "anthropic", "local", "langchain"]


def test_known_lists_the_default_first_and_no_patterns(named: Named) -> None:
    assert named(FILE).known() == [
        "chat",
        "gpt-4-fast",
        "claude-opus-4-7",
        "openai/gpt-5",
        "anthropic/claude-opus-4-7",
    ]
    assert named("", HOME="/").known() == ["local/smollm2-135m-instruct"]


def test_a_server_given_by_its_url_alone_needs_no_key() -> None:
    """`OPENAI_BASE_URL=http://gpu:8000/v1` and nothing else: what the SDKs would ask, without a key."""
    settings = load_settings({}, {"OPENAI_BASE_URL": "http://gpu:8000/v1", "ANTHROPIC_API_KEY": "sk-ant-0123456789"})
    assert settings.providers["openai"].base_url == "http://gpu:8000/v1"
    assert settings.providers["anthropic"].base_url is None
    assert Targets(settings).find("qwen3", provider="openai").name == "openai/qwen3"
    assert "openai" not in settings.keys


# Fallbacks


def chain(targets: Targets, name: str) -> list[tuple[str, float]]:
    """Whom a name asks in turn, and how long each has for its first token."""
    found = targets.find(name)
    assert not any(fallback.fallbacks for fallback in found.fallbacks)
    return [(target.name, target.timeouts.first_token_s) for target in (found, *found.fallbacks)]


def test_who_is_not_the_last_to_be_asked_has_ten_seconds(named: Named) -> None:
    targets = named('[models.chat]\ntarget = "openai/a"\nfallbacks = ["anthropic/b", "openai/c"]')
    assert chain(targets, "chat") == [("openai/a", 10), ("anthropic/b", 10), ("openai/c", 30)]
    assert chain(targets, "openai/a") == [("openai/a", 30)]
    assert targets.find("chat").timeouts.idle_s == 30


def test_a_first_token_clock_that_is_set_holds_with_fallbacks_too(named: Named) -> None:
    toml = '[models.chat]\ntarget = "openai/a"\nfallbacks = ["openai/b"]\n'
    assert chain(named(toml + "first_token_s = 25"), "chat") == [("openai/a", 25), ("openai/b", 30)]
    everywhere = toml + "[timeouts]\nfirst_token_s = 30"  # the default's own value, but said
    assert chain(named(everywhere), "chat") == [("openai/a", 30), ("openai/b", 30)]
    by_the_environment = named(toml, **KEYS, SLUICEWAY_TIMEOUTS__FIRST_TOKEN_S="20")
    assert chain(by_the_environment, "chat") == [("openai/a", 20), ("openai/b", 20)]


def test_an_alias_as_a_fallback_brings_its_clocks_but_not_its_own_fallbacks(named: Named) -> None:
    targets = named(
        '[models.chat]\ntarget = "openai/a"\nfallbacks = ["slow", "other"]\n'
        '[models.slow]\ntarget = "anthropic/b"\nfirst_token_s = 50\nidle_s = 60\n'
        '[models.other]\ntarget = "openai/c"\nfallbacks = ["openai/d"]'
    )
    assert chain(targets, "chat") == [("openai/a", 10), ("anthropic/b", 50), ("openai/c", 30)]
    assert targets.find("chat").fallbacks[0].timeouts.idle_s == 60
    assert chain(targets, "other") == [("openai/c", 10), ("openai/d", 30)]


def test_an_alias_of_an_alias_has_its_fallbacks_unless_it_names_its_own(named: Named) -> None:
    targets = named(
        '[models.chat]\ntarget = "openai/a"\nfallbacks = ["openai/b"]\n'
        '[models.same]\ntarget = "chat"\n[models.own]\ntarget = "chat"\nfallbacks = ["openai/c"]'
    )
    assert chain(targets, "same") == [("openai/a", 10), ("openai/b", 30)]
    assert chain(targets, "own") == [("openai/a", 10), ("openai/c", 30)]


def test_a_star_stands_in_fallbacks_too(named: Named) -> None:
    targets = named('[models."fast-*"]\ntarget = "openai/*-mini"\nfallbacks = ["anthropic/*", "openai/c"]')
    assert [name for name, _ in chain(targets, "fast-x")] == ["openai/x-mini", "anthropic/x", "openai/c"]


def test_a_route_that_names_its_provider_has_the_fallbacks_of_an_alias_there(named: Named) -> None:
    targets = named('[models.chat]\ntarget = "openai/a"\nfallbacks = ["anthropic/b"]')
    assert targets.find_at("openai", "chat").fallbacks[0].name == "anthropic/b"
    assert targets.find_at("openai", "chat").timeouts.first_token_s == 10


def test_a_fallback_without_a_key_is_left_out(named: Named) -> None:
    for fallback in ("anthropic/b", "anthropic", "claude-opus-4-7"):
        targets = named(f'[models.chat]\ntarget = "openai/a"\nfallbacks = ["{fallback}"]', OPENAI_API_KEY="sk-x")
        assert chain(targets, "chat") == [("openai/a", 30)], fallback


def test_a_target_without_a_key_is_passed_over_where_it_has_fallbacks(named: Named) -> None:
    toml = '[models.chat]\ntarget = "anthropic/a"\nfallbacks = ["openai/b", "openai/c"]'
    assert chain(named(toml, OPENAI_API_KEY="sk-x"), "chat") == [("openai/b", 10), ("openai/c", 30)]
    with pytest.raises(ProviderNotConfigured, match="ANTHROPIC_API_KEY"):
        named(toml, HOME="/").find("chat")
