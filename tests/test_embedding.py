"""Inside an app that is there already: routes under a prefix, one answer from its own view, its errors left alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from flask import Flask, Response, g, request

import app as sluiceway
from app import SettingsError, Sluiceway, create_app
from app.testing import FakeProvider, answer

BODY = {"model": "openai/fake-n5", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def keys(fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeProvider:
    monkeypatch.setenv("SLUICEWAY_STORE__URL", f"sqlite:///{tmp_path}/sluiceway.db")
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    return fake_provider


@pytest.fixture(autouse=True)
def closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every house that a test builds is closed after it: a forgotten socket fails the test."""
    built: list[Sluiceway] = []
    init_app = Sluiceway.init_app

    def remembered(self: Sluiceway, app: Flask) -> None:
        init_app(self, app)
        built.append(self)

    monkeypatch.setattr(Sluiceway, "init_app", remembered)
    yield
    for house in built:
        house.close()


@pytest.fixture
def shop(keys: FakeProvider) -> Flask:
    """Somebody's app: its own page, its own 404, its own view that streams."""
    shop = Flask("shop")
    Sluiceway(shop, url_prefix="/ai")

    @shop.get("/")
    def home() -> str:
        return "<h1>Shop</h1>"

    @shop.errorhandler(404)
    def lost(_error: Exception) -> tuple[str, int]:
        return "<h1>Not in this shop</h1>", 404

    @shop.post("/ask")
    def ask() -> Response:
        return sluiceway.stream(request)

    return shop


def texts(response: Any) -> str:
    frames = [frame.partition("data: ")[2] for frame in response.get_data(as_text=True).split("\n\n")]
    events = [json.loads(data) for data in frames if data and data != "[DONE]"]
    return "".join(event["text"] for event in events if event["type"] == "text")


def test_routes_stand_under_the_prefix(shop: Flask) -> None:
    client = shop.test_client()
    assert texts(client.post("/ai/v1/streams", json=BODY)) == answer("fake-n5").text
    assert client.get("/ai/healthz").json == {"status": "ok"}
    assert client.post("/v1/streams", json=BODY).status_code == 404
    for chat in ("a", "%2Fa", "a%2F%2Fb"):
        assert client.get(f"/ai/api/chat/{chat}/stream").status_code == 204


def test_the_apps_own_pages_and_errors_stay_its_own(shop: Flask) -> None:
    client = shop.test_client()
    assert client.get("/").text == "<h1>Shop</h1>"
    assert client.get("/nowhere").text == "<h1>Not in this shop</h1>"
    assert "X-Request-ID" not in client.get("/").headers


def test_errors_under_the_prefix_are_json_in_the_routes_shape(shop: Flask) -> None:
    client = shop.test_client()
    refused = client.post("/ai/v1/chat/completions", json={"messages": []})
    assert refused.status_code == 400
    assert refused.json is not None
    assert refused.json["error"]["param"] == "messages"
    assert client.post("/ai/v1/messages", json={"messages": []}).json["type"] == "error"


def test_one_answer_from_a_view_of_the_app(shop: Flask, keys: FakeProvider) -> None:
    client = shop.test_client()
    assert texts(client.post("/ask", json=BODY)) == answer("fake-n5").text
    refused = client.post("/ask", json={**BODY, "model": "opnai/fake-n5"})
    assert refused.status_code == 404
    assert refused.json is not None
    assert refused.json["error"]["code"] == "not_found"
    assert refused.headers["X-Request-ID"]


def test_a_view_may_choose_the_format(keys: FakeProvider) -> None:
    shop = Flask("shop")
    Sluiceway(shop)
    shop.add_url_rule("/say", view_func=lambda: sluiceway.stream(request, format="plain_text"), methods=["POST"])
    said = shop.test_client().post("/say", json={"prompt": "hi", "model": "anthropic/fake-n5-uni"})
    assert said.mimetype == "text/plain"
    assert said.text == answer("fake-n5-uni").text


def test_settings_come_from_the_apps_config(keys: FakeProvider) -> None:
    shop = Flask("shop")
    shop.config["SLUICEWAY_SERVER__MAX_BODY_BYTES"] = 2048
    shop.config["SLUICEWAY"] = {"models": {"house": {"target": "anthropic/fake-n3"}}}
    Sluiceway().init_app(shop)
    client = shop.test_client()
    assert client.post("/v1/streams", json={"model": "house", "prompt": "x" * 4000}).status_code == 413
    assert texts(client.post("/v1/streams", json={"model": "house", "prompt": "hi"})) == answer("fake-n3").text


def test_a_wrong_setting_stops_the_app() -> None:
    shop = Flask("shop")
    shop.config["SLUICEWAY_SERVER__MAX_BODY_BYTES"] = "much"
    with pytest.raises(SettingsError, match=r"app\.config\['SLUICEWAY_SERVER__MAX_BODY_BYTES'\]"):
        Sluiceway(shop)


def test_two_apps_are_two_houses(keys: FakeProvider) -> None:
    first = create_app({"SLUICEWAY": {"models": {"a": {"target": "openai/fake-n1"}}}})
    second = create_app({"SLUICEWAY": {"models": {"b": {"target": "openai/fake-n2"}}}})
    assert [names(app)[1] for app in (first, second)] == ["a", "b"]
    for app, name, model in ((first, "a", "fake-n1"), (second, "b", "fake-n2")):
        said = app.test_client().post("/v1/streams", json={"model": name, "prompt": "hi"})
        assert texts(said) == answer(model).text


def names(app: Flask) -> list[str]:
    listed = app.test_client().get("/v1/models").get_json()
    return [model["id"] for model in listed["data"]]


def test_code_at_the_end_of_a_stream_has_the_views_context(keys: FakeProvider) -> None:
    """`stream_with_context`: what an app runs when the stream is over may use `g`, `request` and its extensions."""
    shop = Flask("shop")
    Sluiceway(shop)
    seen: list[str] = []

    @shop.post("/ask")
    def ask() -> Response:
        g.user = "ada"
        response = sluiceway.stream(request)
        body = response.response

        def recorded() -> Any:
            yield from body
            seen.append(f"{g.user} {request.path}")

        from flask import stream_with_context

        response.response = stream_with_context(recorded())
        return response

    shop.test_client().post("/ask", json=BODY).get_data()
    assert seen == ["ada /ask"]


def test_an_answer_nobody_reads_is_closed(shop: Flask, keys: FakeProvider) -> None:
    """The client can be gone before the body's first byte: the generator never starts, and upstream is closed still."""
    response = shop.test_client().post("/ask", json={**BODY, "model": "openai/fake-n1000-i20"})
    response.close()
    keys.wait_for(lambda stats: stats.aborted == 1 and stats.open_streams == 0)


def test_upstream_connections_are_used_again(shop: Flask, keys: FakeProvider) -> None:
    client = shop.test_client()
    for _ in range(5):
        assert texts(client.post("/ask", json=BODY)) == answer("fake-n5").text
    assert keys.stats().connections <= 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    # From a copy: setuptools leaves its build/ and egg-info beside the sources.
    source = tmp_path_factory.mktemp("source")
    for name in ("app", "pyproject.toml", "README.md", "LICENSE", "requirements.in"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    subprocess.run([*build, str(source)], check=True)
    return next(out.glob("sluiceway-*.whl"))


def shipped(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files}


def test_the_wheel_holds_the_whole_folder_as_sluiceway(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.removeprefix("sluiceway/") for name in archive.namelist() if name.startswith("sluiceway/")}
    assert inside == shipped(ROOT / "app")


RUN = """
import {name} as house
from {name}.testing import FakeProvider, answer
import os
with FakeProvider() as provider:
    os.environ.update(provider.env)
    client = house.create_app().test_client()
    said = client.post("/stream/openai", json={{"prompt": "hi", "model": "fake-n5"}}).text
    assert said == answer("fake-n5").text, said
    assert client.get("/static/app.js").status_code == 200
"""


def test_it_runs_installed_as_sluiceway(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    subprocess.run([sys.executable, "-c", RUN.format(name="sluiceway")], cwd=tmp_path, check=True)


def test_it_runs_vendored_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    subprocess.run(["cp", "-r", str(ROOT / "app"), str(tmp_path / "shop" / "llm")], check=True)
    subprocess.run([sys.executable, "-c", RUN.format(name="shop.llm")], cwd=tmp_path, check=True)
