"""What is measured: each peer a command that serves on a port, in front of the fake provider, with one worker.

`sluiceway` is the server of this repository as it comes, and `sluiceway-redis` the same with its resumable streams in a
Redis, whose own work is not counted. `nginx` is a proxy that only passes bytes on: nobody can be
much cheaper. `fastapi` and `flask` are what tutorials build, `fastapi_app.py` and `flask_app.py` here. `direct` is the
client at the provider, with nothing between them: what the rig itself adds. `litellm` runs only when named.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
_VENVS = ROOT / "bench" / ".venv"

MODEL = "__MODEL__"  # stands for the model's name in a door's body
_CHAT = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Say something."}]})


class NotInstalled(Exception):
    """The peer can't run here; says what is missing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is to serve."""

    port: int
    provider: str  # URL without a path
    folder: Path  # for what it has to write
    workers: int = 1
    second_port: int = 0  # for what has to run beside it


@dataclass(frozen=True, slots=True)
class Command:
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    beside: tuple[str, ...] = ()  # what has to run before it, on the rig's cores; no part of what is measured


@dataclass(frozen=True, slots=True)
class Door:
    """A way to ask a peer; each is a row of the results."""

    row: str
    path: str
    body: str = _CHAT
    only: tuple[str, ...] = tuple(SCENARIOS)


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    doors: tuple[Door, ...]
    command: Callable[[Place], Command] | None  # raises NotInstalled; None: nothing to start
    ready: str = "/healthz"
    repeat: int = 1  # how often S1 asks for its streams, where once would be over too soon to measure


def _program(*path: str) -> str:
    program = _VENVS.joinpath(*path)
    if not program.exists():
        raise NotInstalled(f"{program.relative_to(ROOT)} is missing: `make bench` installs it")
    return str(program)


def _openai(place: Place) -> dict[str, str]:
    """The variables from which the SDK knows its server."""
    return {"OPENAI_BASE_URL": f"{place.provider}/v1", "OPENAI_API_KEY": "any"}


def _anthropic(place: Place) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": place.provider, "ANTHROPIC_API_KEY": "any"}


def _sluiceway(place: Place) -> Command:
    config = place.folder / "sluiceway.toml"
    config.touch()  # empty, so that one of your own does not change what is measured
    return Command(
        [sys.executable, "-m", "gunicorn", "wsgi:app", "-w", str(place.workers), "-b", f"127.0.0.1:{place.port}"],
        # The most streams a worker takes is a setting; M asks for more than its default.
        {
            **_openai(place),
            **_anthropic(place),
            "SLUICEWAY_CONFIG": str(config),
            "SLUICEWAY_SERVER__MAX_STREAMS": "4000",
            "SLUICEWAY_STORE__URL": f"sqlite:///{place.folder}/streams.db",
        },
    )


def _sluiceway_redis(place: Place) -> Command:
    program = shutil.which("redis-server")
    if program is None:
        raise NotInstalled("no redis-server here")
    plain = _sluiceway(place)
    env = {**plain.env, "SLUICEWAY_STORE__URL": f"redis://127.0.0.1:{place.second_port}/0"}
    quiet = ("--save", "", "--appendonly", "no", "--dir", str(place.folder), "--loglevel", "warning")
    return Command(
        plain.argv, env, plain.cwd, (program, "--port", str(place.second_port), "--bind", "127.0.0.1", *quiet)
    )


def _nginx(place: Place) -> Command:
    # Debian keeps it where only root's PATH looks.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise NotInstalled("no nginx here")
    text = (_HERE / "nginx.conf").read_text("utf-8")
    for name, value in (
        ("@PORT@", str(place.port)),
        ("@PROVIDER@", place.provider.removeprefix("http://")),
        ("@FOLDER@", str(place.folder)),
    ):
        text = text.replace(name, value)
    config = place.folder / "nginx.conf"
    config.write_text(text, "utf-8")
    return Command([program, "-c", str(config), "-p", str(place.folder), "-e", "stderr"])


def _fastapi(place: Place) -> Command:
    program = _program("peers", "bin", "uvicorn")
    return Command(
        [program, "fastapi_app:app", "--port", str(place.port), "--log-level", "warning"], _openai(place), _HERE
    )


def _flask(place: Place) -> Command:
    program = _program("peers", "bin", "gunicorn")
    # Its default of 1,000 connections would leave half of M's in the backlog.
    options = ["-k", "gevent", "-w", "1", "--worker-connections", "4000", "--log-level", "warning"]
    return Command([program, *options, "-b", f"127.0.0.1:{place.port}", "flask_app:app"], _openai(place), _HERE)


def _litellm(place: Place) -> Command:
    program = _program("litellm", "bin", "litellm")
    models = [
        {
            "model_name": model,
            "litellm_params": {"model": f"openai/{model}", "api_base": f"{place.provider}/v1", "api_key": "any"},
        }
        for model in {scenario.model for scenario in SCENARIOS.values()} | {WARM_UP}
    ]
    config = place.folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models}), "utf-8")  # JSON is YAML
    return Command(
        [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port), "--telemetry", "False"],
        {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches the list of prices from elsewhere
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
        place.folder,
    )


# The model every peer is asked for before it is measured: imports, pools, caches.
WARM_UP = "bench-n50"

_CHAT_PATH = "/v1/chat/completions"
_NATIVE = json.dumps({"model": MODEL, "prompt": "Say something."})
_RESUMABLE = json.dumps({"model": MODEL, "prompt": "Say something.", "resumable": True})
_MESSAGES = json.dumps(
    {
        "model": f"openai/{MODEL}",
        "max_tokens": 100000,
        "stream": True,
        "messages": [{"role": "user", "content": "Say something."}],
    }
)

_UI_MESSAGE = {"id": "1", "role": "user", "parts": [{"type": "text", "text": "Say something."}]}
_AI_SDK = json.dumps({"id": "1", "model": f"openai/{MODEL}", "messages": [_UI_MESSAGE], "resumable": False})
_CHAT_OF_ANTHROPIC = _CHAT.replace(MODEL, f"anthropic/{MODEL}")

PEERS = {
    peer.name: peer
    for peer in (
        Peer("direct", (Door("direct", _CHAT_PATH),), None, repeat=10),
        Peer("nginx", (Door("nginx", _CHAT_PATH),), _nginx, "/stats", repeat=10),
        Peer(
            "sluiceway",
            (
                Door("sluiceway", _CHAT_PATH),
                Door("sluiceway, native", "/v1/streams", _NATIVE, ("S1", "S2b")),
                Door("sluiceway, native, resumable (SQLite)", "/v1/streams", _RESUMABLE, ("S1", "S2b")),
                Door("sluiceway, messages of an OpenAI model", "/v1/messages", _MESSAGES, ("S1",)),
                Door("sluiceway, chat of an Anthropic model", _CHAT_PATH, _CHAT_OF_ANTHROPIC, ("S1",)),
                Door("sluiceway, AI SDK", "/api/chat", _AI_SDK, ("S1",)),
            ),
            _sluiceway,
            repeat=5,
        ),
        Peer(
            "sluiceway-redis",
            (Door("sluiceway, native, resumable (Redis)", "/v1/streams", _RESUMABLE, ("S1", "S2b")),),
            _sluiceway_redis,
            repeat=5,
        ),
        Peer("fastapi", (Door("fastapi", "/chat"),), _fastapi),
        Peer("flask", (Door("flask", "/chat"),), _flask),
        Peer("litellm", (Door("litellm", _CHAT_PATH),), _litellm, "/health/liveliness"),
    )
}
BY_DEFAULT = tuple(name for name in PEERS if name != "litellm")
