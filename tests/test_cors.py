"""`server.cors_origins`: pages of which other origins may ask us, and read what we answer.

On every answer of ours, errors, streams and unknown routes too, so that a page sees what went wrong and not just that
something did. Inside somebody's app: on our routes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from conftest import Service
from flask import Flask, Response, request
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page
from test_page import chromium

import app as sluiceway
from app import Sluiceway, create_app
from app.testing import FakeProvider, answer

__all__ = ["chromium"]  # a fixture of this module too

OURS, OTHER = "https://app.example", "https://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST"}
STREAM = {"model": "openai/fake-n2", "prompt": "hi"}
EXPOSED = {"x-request-id", "request-id", "location", "retry-after", "x-vercel-ai-ui-message-stream"}

# (method, path, body, headers) -> status: a stream, one in each shape, a whole answer, and all kinds of refusals.
ANSWERS: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/streams", STREAM, 200),
    ("POST", "/v1/streams", {**STREAM, "stream": False}, 200),
    ("POST", "/v1/chat/completions", {"model": "openai/fake-n2", "messages": [], "stream": True}, 400),
    ("POST", "/v1/messages", {"model": "anthropic/fake-e529", "messages": [{"role": "user", "content": "hi"}]}, 503),
    ("POST", "/api/chat", STREAM, 200),
    ("GET", "/api/chat/c1/stream", None, 204),
    ("POST", "/stream/openai", {"model": "fake-n2", "prompt": "hi"}, 200),
    ("POST", "/chat", {**STREAM, "model": "opnai/x"}, 404),
    ("POST", "/chat/stream", {**STREAM, "prompt": "x" * 3000}, 413),
    ("GET", "/v1/models", None, 200),
    ("GET", "/healthz", None, 200),
    ("GET", "/nowhere", None, 404),
    ("GET", "/v1/streams", None, 405),
    ("OPTIONS", "/v1/streams", None, 200),
    ("GET", "/", None, 200),
    ("GET", "/static/app.js", None, 200),
]
every_answer = pytest.mark.parametrize(
    ("method", "path", "body", "status"), ANSWERS, ids=[f"{m}-{p}-{s}" for m, p, _, s in ANSWERS]
)


@pytest.fixture(scope="module")
def open_to(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Service]:
    """A service for pages of two origins."""
    origins = f'["{OURS}", "http://localhost:3000"]'
    settings = {"SLUICEWAY_SERVER__CORS_ORIGINS": origins, "SLUICEWAY_SERVER__MAX_BODY_BYTES": "2000"}
    service = start_service({**fake_provider_server.env, **settings})
    yield service
    assert "Traceback" not in service.log
    service.stop()


def asked(service: Service, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    return requests.request(method, service.url + path, json=body, headers=headers, timeout=20)


def cors(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control-")}


def varies(response: Any) -> set[str]:
    return {name.strip() for name in response.headers.get("Vary", "").split(",")} - {""}


@every_answer
@pytest.mark.usefixtures("fake_provider")
def test_a_page_of_a_configured_origin_may_read_it(
    open_to: Service, method: str, path: str, body: Any, status: int
) -> None:
    for origin in (OURS, "http://localhost:3000"):
        response = asked(open_to, method, path, body, Origin=origin)
        assert response.status_code == status
        told = cors(response)
        exposed = told.pop("Access-Control-Expose-Headers")
        names = {name.strip().lower() for name in exposed.split(",")}
        assert {name for name in names if "ratelimit" not in name} == EXPOSED
        assert {"x-ratelimit-remaining-tokens", "anthropic-ratelimit-requests-reset"} < names
        assert told == {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
        assert "Origin" in varies(response)
        assert response.headers["X-Request-ID"]


@every_answer
@pytest.mark.usefixtures("fake_provider")
def test_a_page_of_another_origin_may_not(open_to: Service, method: str, path: str, body: Any, status: int) -> None:
    """It is answered as anybody is (a browser is not what guards us), and told nothing that would let it read."""
    for origin in (OTHER, "null", f"{OURS}:8443", f"{OURS}.evil.example", OURS.upper(), "*", ""):
        response = asked(open_to, method, path, body, Origin=origin)
        assert (response.status_code, cors(response)) == (status, {}), origin
        assert "Origin" in varies(response)


@pytest.mark.usefixtures("fake_provider")
def test_a_cache_is_told_that_the_origin_counts_also_where_none_is_given(open_to: Service) -> None:
    for method, path, body, status in ANSWERS:
        response = asked(open_to, method, path, body)
        assert (response.status_code, cors(response)) == (status, {})
        assert "Origin" in varies(response)


ASKED_FOR = [
    "authorization, content-type",
    "content-type,x-api-key,anthropic-version,anthropic-beta,anthropic-dangerous-direct-browser-access",
    "authorization,x-stainless-arch,x-stainless-retry-count,x-stainless-timeout",
    "last-event-id, idempotency-key, x-request-id",
    "x-whatever-comes-next",
]


@pytest.mark.parametrize("names", ASKED_FOR)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/models", "/nowhere"])
def test_a_preflight_lets_every_sdk_send_its_headers(open_to: Service, path: str, names: str) -> None:
    sent = {"Origin": OURS, **PREFLIGHT, "Access-Control-Request-Headers": names}
    response = asked(open_to, "OPTIONS", path, **sent)
    assert (response.status_code, response.content) == (204, b"")
    told = cors(response)
    assert told.pop("Access-Control-Expose-Headers")
    assert told == {
        "Access-Control-Allow-Origin": OURS,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": names,
        "Access-Control-Max-Age": "600",
    }
    assert varies(response) == {"Origin", "Access-Control-Request-Headers"}


@pytest.mark.parametrize("names", ["a b", "x\xe9", "a;b", ",", "a,,b", "<script>"])
def test_what_is_no_list_of_headers_is_not_repeated(open_to: Service, names: str) -> None:
    sent = {"Origin": OURS, **PREFLIGHT, "Access-Control-Request-Headers": names}
    response = asked(open_to, "OPTIONS", "/v1/messages", **sent)
    assert response.status_code == 204
    assert "Access-Control-Allow-Headers" not in response.headers


def test_a_preflight_from_another_origin_allows_nothing(open_to: Service) -> None:
    response = asked(open_to, "OPTIONS", "/v1/messages", **{"Origin": OTHER, **PREFLIGHT})
    assert "Access-Control-Allow-Origin" not in response.headers
    assert "Origin" in varies(response)


def test_a_preflight_needs_no_key_and_asks_no_model(fake_provider: FakeProvider, inside: Callable[..., Any]) -> None:
    """A browser sends none with it. The request behind it needs one."""
    client = inside(cors_origins=[OURS], api_keys_sha256=["0" * 64])
    for path in ("/v1/streams", "/api/chat", "/api/chat/c1/stream"):
        before = client.options(path, headers={"Origin": OURS, **PREFLIGHT})
        assert (before.status_code, before.headers["Access-Control-Allow-Origin"]) == (204, OURS)
        refused = client.open(path, method="GET" if "c1" in path else "POST", json=STREAM, headers={"Origin": OURS})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, OURS)
    assert fake_provider.requests == []


class TestPagesOfOtherSites:
    """What a browser sends without asking first is refused (`from_another_site`), unless the page is a welcome one."""

    def test_a_configured_origin_may_get_and_post_as_it_likes(self, open_to: Service) -> None:
        browser = {"Origin": OURS, "Sec-Fetch-Site": "cross-site"}
        query = "?prompt=hi&model=openai/fake-n2"
        assert asked(open_to, "GET", f"/chat{query}", **browser).status_code == 200
        form = {**browser, "Content-Type": "text/plain"}
        assert asked(open_to, "POST", "/chat", STREAM, **form).status_code == 200

    @pytest.mark.parametrize("origin", [{"Origin": OTHER}, {"Origin": "null"}, {}])
    def test_others_may_not(self, open_to: Service, fake_provider: FakeProvider, origin: dict[str, str]) -> None:
        browser = {**origin, "Sec-Fetch-Site": "cross-site"}
        assert asked(open_to, "GET", "/chat?prompt=hi&model=openai/fake-n2", **browser).status_code == 400
        form = {**browser, "Content-Type": "text/plain"}
        assert asked(open_to, "POST", "/chat", STREAM, **form).status_code == 415
        assert fake_provider.requests == []

    def test_an_image_does_not_say_its_origin_so_it_is_no_welcome_page(self, inside: Callable[..., Any]) -> None:
        client = inside(cors_origins=["*"])
        path = "/chat?prompt=hi&model=openai/fake-n2"
        image = client.get(path, headers={"Sec-Fetch-Site": "cross-site"})
        assert image.status_code == 400
        event_source = client.get(path, headers={"Sec-Fetch-Site": "cross-site", "Origin": OTHER})
        assert event_source.status_code == 200


# In this process: other settings, and an app of somebody else's.


@pytest.fixture
def inside(fake_provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FlaskClient]]:
    """`inside(cors_origins=[...], ...)`: a client of an app with these in `[server]`."""
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    made: list[Flask] = []

    def make(*, app: Flask | None = None, **server: Any) -> FlaskClient:
        config = {"SLUICEWAY": {"server": server}}
        if app is None:
            app = create_app(config)
        else:
            app.config.update(config)
            Sluiceway(app, url_prefix="/ai")
        made.append(app)
        return app.test_client()

    yield make
    for app in made:
        app.extensions["sluiceway"].close()


@every_answer
def test_without_origins_nothing_is_said(
    inside: Callable[..., FlaskClient], method: str, path: str, body: Any, status: int
) -> None:
    client = inside(cors_origins=[], max_body_bytes=2000)
    with client.open(path, method=method, json=body, headers={"Origin": OURS}) as response:
        assert (response.status_code, cors(response), varies(response)) == (status, {}, set())
        response.get_data()


def test_without_origins_a_preflight_is_any_options(inside: Callable[..., FlaskClient]) -> None:
    response = inside(cors_origins=[]).options("/v1/streams", headers={"Origin": OURS, **PREFLIGHT})
    assert (response.status_code, cors(response)) == (200, {})
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST", "DELETE"}


@pytest.mark.parametrize("origins", [["*"], [OURS, "*"]])
def test_a_star_is_for_everybody_and_for_nobodys_cookies(
    inside: Callable[..., FlaskClient], origins: list[str]
) -> None:
    client = inside(cors_origins=origins)
    for origin in (OURS, OTHER, "null"):
        response = client.post("/v1/streams", json=STREAM, headers={"Origin": origin})
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert varies(response) == {"Origin"}
        response.get_data()


def test_inside_an_app_our_routes_alone_speak_of_it(inside: Callable[..., FlaskClient]) -> None:
    shop = Flask("shop")

    @shop.get("/")
    def home() -> str:
        return "<h1>Shop</h1>"

    @shop.post("/ask")
    def ask() -> Response:
        return sluiceway.stream(request)

    @shop.after_request
    def own(response: Response) -> Response:
        response.vary.add("Cookie")
        return response

    client = inside(app=shop, cors_origins=[OURS])
    page = {"Origin": OURS}
    ours = client.post("/ai/v1/streams", json=STREAM, headers=page)
    assert (ours.status_code, ours.headers["Access-Control-Allow-Origin"]) == (200, OURS)
    assert varies(ours) == {"Origin", "Cookie"}
    ours.get_data()
    refused = client.post("/ai/v1/streams", json={}, headers=page)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (400, OURS)
    before = client.options("/ai/api/chat", headers={**page, **PREFLIGHT})
    assert (before.status_code, before.headers["Access-Control-Allow-Origin"]) == (204, OURS)
    for path in ("/", "/nowhere"):
        assert cors(client.get(path, headers=page)) == {}
        assert cors(client.options(path, headers={**page, **PREFLIGHT})) == {}
    answered = client.post("/ask", json=STREAM, headers=page)  # a view of the app's own: its own business
    assert (answered.status_code, cors(answered)) == (200, {})
    answered.get_data()


# In a real browser: three origins, of which the one that is asked is on another site than the two that ask.

FETCH = """async ([url, body]) => {
    const headers = {"content-type": "application/json", "x-api-key": "k", "anthropic-version": "2023-06-01"};
    try {
        const got = await fetch(url, {method: "POST", headers, body: JSON.stringify(body)});
        const named = got.headers.get("x-request-id") !== null;
        return [got.status, named, got.headers.get("retry-after"), await got.text()];
    } catch (error) { return [0, false, null, String(error)]; }
}"""
LISTEN = """url => new Promise(done => {
    const source = new EventSource(url);
    let text = "";
    source.onmessage = event => {
        if (event.data !== "[DONE]") { text += JSON.parse(event.data).text; return; }
        source.close();
        done(text);
    };
    source.onerror = () => { source.close(); done(null); };
})"""


@pytest.fixture(scope="module")
def beside(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, server: Service
) -> Iterator[Service]:
    """A service for pages of `server`, under the name that makes that another site."""
    origins = f'["http://localhost:{server.port}"]'
    service = start_service({**fake_provider_server.env, "SLUICEWAY_SERVER__CORS_ORIGINS": origins})
    yield service
    service.stop()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context() as context:
        yield context.new_page()


def test_a_page_of_a_configured_origin_reads_answers_and_errors(
    page: Page, beside: Service, server: Service, fake_provider: FakeProvider
) -> None:
    page.goto(f"http://localhost:{server.port}/healthz")

    def fetched(path: str, body: Any) -> Any:
        return page.evaluate(FETCH, [beside.url + path, body])

    message = {"messages": [{"role": "user", "content": "hi"}]}
    status, named, _, text = fetched("/api/chat", {**message, "model": "openai/fake-n3"})
    assert (status, named, text[-14:]) == (200, True, "data: [DONE]\n\n")
    status, named, retry_after, text = fetched("/v1/messages", {**message, "model": "anthropic/fake-e529-ra3"})
    assert (status, named, retry_after) == (503, True, "3")
    assert "overloaded_error" in text
    assert fetched("/nowhere", {})[:2] == [404, True]
    query = "?prompt=hi&model=openai/fake-n3"
    assert page.evaluate(LISTEN, f"{beside.url}/chat{query}") == answer("fake-n3").text
    assert len(fake_provider.requests) == 3


def test_a_strangers_page_reads_nothing_and_asks_no_model(
    page: Page, beside: Service, fake_provider: FakeProvider
) -> None:
    page.goto(fake_provider.openai_base_url.replace("127.0.0.1", "localhost"))
    status, *_, text = page.evaluate(FETCH, [f"{beside.url}/v1/streams", STREAM])
    assert (status, text) == (0, "TypeError: Failed to fetch")
    assert page.evaluate(LISTEN, f"{beside.url}/chat?prompt=hi&model=openai/fake-n3") is None
    assert not any(request.method == "POST" for request in fake_provider.requests)  # it is the page's own host, too
