"""The pages to copy, in Chromium, as examples/flask_app.py serves them: browser_fetch.html and eventsource.html."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import requests
from bad_line import BadLine
from conftest import Service
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_page import CHROMIUM, FLAGS

from app.testing import FakeProvider, answer, text_after

PAGES = ["browser_fetch.html", "eventsource.html"]
WAIT_MS = 60_000
WAIT_S = WAIT_MS / 1000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Service]:
    one = start_service(fake_provider_server.env, "--workers", "2", app="examples.flask_app:app", health="/ai/healthz")
    yield one
    one.stop()


@pytest.fixture
def open_page(chromium: Browser, service: Service, fake_provider: FakeProvider) -> Iterator[Callable[..., Page]]:
    """`open_page(name, url=...)`: its errors fail the test."""
    complaints: list[str] = []
    contexts = []

    def open_(name: str, url: str = service.url) -> Page:
        contexts.append(chromium.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}/{name}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def ask(page: Page, model: str, prompt: str = "hi") -> None:
    page.get_by_label("Your message").fill(prompt)
    page.get_by_label("Model").fill(model)
    page.get_by_role("button", name="Ask").click()


def over(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=WAIT_MS)


def shown(page: Page) -> str:
    text: str = page.evaluate("document.querySelector('pre').textContent")
    return text


def problem(page: Page) -> str:
    return page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("name", PAGES)
def test_text_grows_while_it_is_streamed(
    open_page: Callable[..., Page], fake_provider: FakeProvider, name: str
) -> None:
    page = open_page(name)
    page.evaluate(
        """() => {
          window.lengths = [];
          const text = document.querySelector("pre");
          new MutationObserver(() => lengths.push(text.textContent.length)).observe(text, { childList: true });
        }"""
    )
    ask(page, "openai/fake-n60-i20")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    over(page)
    lengths = page.evaluate("lengths")
    assert len({length for length in lengths if length}) >= 5
    assert lengths == sorted(lengths)
    assert (shown(page), problem(page)) == (answer("fake-n60-i20").text, "")


@pytest.mark.parametrize("name", PAGES)
def test_characters_of_every_script(open_page: Callable[..., Page], fake_provider: FakeProvider, name: str) -> None:
    page = open_page(name)
    ask(page, "openai/fake-n40-uni-split")
    over(page)
    assert shown(page) == answer("fake-n40-uni-split").text
    ask(page, "openai/fake-echo", "日本 & <b>?")
    expect(page.locator("pre")).to_have_text("日本 & <b>?", timeout=WAIT_MS)


def test_an_event_source_is_closed_at_its_end(open_page: Callable[..., Page], fake_provider: FakeProvider) -> None:
    """It would ask again, for another answer."""
    page = open_page("eventsource.html")
    for model in ("openai/fake-n5", "openai/fake-n5-err3", "openai/fake-e429"):
        ask(page, model)
        over(page)
        assert page.evaluate("source.readyState") == 2
    assert fake_provider.stats().requests == 3


@pytest.mark.parametrize("name", PAGES)
def test_stop_closes_upstream(open_page: Callable[..., Page], fake_provider: FakeProvider, name: str) -> None:
    page = open_page(name)
    ask(page, "openai/fake-n5000-i20")
    expect(page.locator("pre")).to_contain_text(text_after("fake-n5000-i20", 2), timeout=WAIT_MS)
    page.get_by_role("button", name="Stop").click()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, WAIT_S)
    over(page)
    assert problem(page) == ""
    ask(page, "openai/fake-n5")
    over(page)
    assert shown(page) == answer("fake-n5").text, "the next one is not mixed with it"


@pytest.mark.parametrize("name", PAGES)
def test_another_question_ends_the_one_before(
    open_page: Callable[..., Page], fake_provider: FakeProvider, name: str
) -> None:
    page = open_page(name)
    ask(page, "openai/fake-n5000-i20")
    expect(page.locator("pre")).to_contain_text(text_after("fake-n5000-i20", 2), timeout=WAIT_MS)
    ask(page, "openai/other-n30-i10")
    fake_provider.wait_for(lambda stats: stats.aborted == 1 and stats.completed == 1, WAIT_S)
    over(page)
    assert shown(page) == answer("other-n30-i10").text


@pytest.mark.parametrize("name", PAGES)
def test_an_error_in_the_middle_is_shown_beside_what_had_come(
    open_page: Callable[..., Page], fake_provider: FakeProvider, name: str
) -> None:
    page = open_page(name)
    ask(page, "openai/fake-n9-i10-err4")
    expect(page.get_by_role("alert")).not_to_be_empty(timeout=WAIT_MS)
    assert "can't answer now" in problem(page)
    assert shown(page) == text_after("fake-n9-i10-err4", 4)
    over(page)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("openai/fake-e429-ra3", "provider_rate_limited"),
        ("openai/fake-e529", "provider_overloaded"),
        ("x/y", "not_found"),
    ],
)
def test_a_refusal_is_shown(open_page: Callable[..., Page], fake_provider: FakeProvider, model: str, code: str) -> None:
    page = open_page("browser_fetch.html")
    ask(page, model)
    expect(page.get_by_role("alert")).to_contain_text(f"({code})", timeout=WAIT_MS)
    page = open_page("eventsource.html")
    ask(page, model)
    expect(page.get_by_role("alert")).to_have_text("The server refused, or the connection was lost.", timeout=WAIT_MS)


def test_a_connection_that_is_cut_is_gone_on_with(
    open_page: Callable[..., Page], service: Service, fake_provider: FakeProvider
) -> None:
    model = "fake-n40-i20-uni-split"
    # In the middle of a frame's characters, behind a number, and twice in a row.
    with BadLine(service.port, b'id: 7\ndata: {"type":"text","text":" \xe6\x9d', b"id: 12\n", b"id: 1") as line:
        page = open_page("browser_fetch.html", url=line.url)
        ask(page, f"openai/{model}")
        over(page)
        assert (shown(page), problem(page)) == (answer(model).text, "")
        assert len(line.ended) == 3
    assert fake_provider.stats().requests == 1


def test_the_rest_of_the_app(service: Service, fake_provider: FakeProvider) -> None:
    home = requests.get(f"{service.url}/", timeout=20).text
    for link in re.findall('href="(.*?)"', home):
        assert requests.get(f"{service.url}/{link}", timeout=20).headers["Content-Type"].startswith("text/html")
    for other in ("flask_app.py", "../pyproject.toml", "nothing"):
        assert requests.get(f"{service.url}/{other}", timeout=20).status_code == 404
    said = requests.post(f"{service.url}/ask", json={"model": "openai/fake-uni", "prompt": "hi"}, timeout=20)
    assert said.content.decode() == answer("fake-uni").text
    refused = requests.post(f"{service.url}/ask", json={"model": "openai/fake-e429-ra3", "prompt": "hi"}, timeout=20)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "3")
