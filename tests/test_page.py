"""The page at `/`, in a real browser in front of the real server: what a reader sees, hears, presses and is spared.

Whatever a test is about, the `page` fixture also holds that nothing was loaded from another host, and that neither the
page nor the browser had anything to complain about. Chromium's own line for an HTTP error status is no complaint.

The modules under `static/` are tested here too, imported into the page, so that they meet the browser's own decoder
and parser: no second JavaScript engine, no copy of the DOM.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Service, eventually
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from app.testing import FakeProvider, answer, text_after
from app.testing.answers import MARKDOWN

CHROMIUM = Path("/usr/bin/chromium")
# No sandbox, because containers run as root; the rest keeps the browser from talking to anybody on its own account.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STATIC = Path(__file__).parent.parent / "app" / "web" / "static"
expect.set_options(timeout=30_000)  # a machine may be slow; what never comes, never does


# For the module, not the session: while Playwright's synchronous API is open it keeps an asyncio loop running in this
# thread, and another file's asyncio.run() would fail.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Service:
    """Two workers: who comes back after a reload may meet either."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/streams.db"
    return start_service({**fake_provider_server.env, "SLUICEWAY_STORE__URL": store}, "--workers", "2")


@pytest.fixture
def open_page(chromium: Browser, server: Service, fake_provider: FakeProvider) -> Iterator[Callable[..., Page]]:
    """`open_page(model, url=..., **context)`: the page with that model chosen, watched until the test is over."""
    complaints: list[str] = []
    hosts: set[str] = set()
    own: set[str] = set()
    contexts = []

    def open_(model: str = "", url: str | None = None, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        page.on("request", lambda request: hosts.add(re.sub(r"^(\w+://[^/]*|\w+:).*", r"\1", request.url, flags=re.S)))
        own.add(url or server.url)
        page.goto((url or server.url) + "/" + (f"?model={model}" if model else ""))
        return page

    yield open_
    for context in contexts:
        context.close()
    expected = ("the server responded with a status of", "Failed to load resource: net::ERR_", "What this tab kept")
    assert [line for line in complaints if not any(words in line for words in expected)] == []
    assert hosts <= {server.url, *own, "data:", "blob:"}


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


@pytest.fixture(scope="module")
def modules(chromium: Browser, server: Service) -> Iterator[Page]:
    """A page to import the modules into, for tests that only compute."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.url}/")
        yield page


def ask(page: Page, question: str = "How does a lock work?") -> None:
    prompt = page.get_by_label("Your message")
    prompt.fill(question)
    prompt.press("Enter")


def shown(page: Page) -> str:
    """The text of the last answer."""
    return page.locator(".text").last.inner_text()


def until(page: Page, state: str) -> None:
    expect(page.locator(".turn").last).to_have_attribute("data-state", state)


def words(text: str) -> list[str]:
    return text.split()


def native(*events: dict[str, Any]) -> str:
    """Events as the server writes them, with a heartbeat before each."""
    frames = [f": ping\nid: {number}\ndata: {json.dumps(event)}\n\n" for number, event in enumerate(events, 1)]
    return "".join(frames)


def answering(page: Page, body: str) -> None:
    """From now on the page gets this body for every question, whole and at once."""
    page.route(
        "**/v1/streams",
        lambda route: route.fulfill(status=200, content_type="text/event-stream; charset=utf-8", body=body),
    )


START = {"type": "start", "id": "a", "model": "m", "provider": "openai", "created": 0}
FINISH = {"type": "finish", "reason": "stop", "usage": None, "timings": {"ttft_s": 0.1, "duration_s": 0.2}}


# An answer comes


def test_text_grows_while_it_is_streamed(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-n100-i20")
    page.evaluate(
        """() => {
          const text = () => document.querySelector(".text")?.textContent.length ?? 0;
          window.lengths = [];
          new MutationObserver(() => window.lengths.push(text()))
            .observe(document.querySelector("#conversation"), { childList: true, subtree: true, characterData: true });
        }"""
    )
    ask(page)
    until(page, "whole")
    lengths = page.evaluate("window.lengths")
    assert len({length for length in lengths if length}) >= 5
    assert lengths == sorted(lengths), "text that was there stays there"
    assert words(shown(page)) == words(answer("fake-n100-i20").text)


def test_speed_is_shown_while_it_runs_and_the_providers_count_at_the_end(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-n80-i20-f150")
    ask(page)
    meter = page.locator(".meter")
    expect(meter).to_contain_text("Waiting for the first token")
    running = r"Answering.*first token \d+ ms.*[\d.]+ tokens/s.*\d+ tokens.*[\d.]+ s"
    expect(meter).to_contain_text(re.compile(running, re.S))
    until(page, "whole")
    expect(meter).to_contain_text("80 tokens")
    expect(meter).to_contain_text("openai/fake-n80-i20-f150")
    ttft_ms = int(re.search(r"first token (\d+) ms", meter.inner_text())[1])  # type: ignore[index]
    assert 150 <= ttft_ms < 5000
    rate = float(re.search(r"([\d.]+) tokens/s", meter.inner_text())[1])  # type: ignore[index]
    assert 5 < rate < 100, "20 ms apart are 50 a second, give or take what a busy machine does"


def test_markdown_is_rendered_and_hostile_html_is_only_text(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-md-i20")
    ask(page)
    until(page, "whole")
    text = page.locator(".text")
    expect(text.locator("h1")).to_have_text("Locks & sluices")
    expect(text.locator("ul > li")).to_have_text(["raise the paddle", "wait for the level", "open the gate"])
    expect(text.locator("em")).to_have_text("sluice")
    expect(text.locator("strong")).to_have_text("in steps")
    expect(text.locator("li code")).to_have_text("paddle")
    expect(text.locator("pre code.language-python")).to_contain_text("<b>not bold</b>")
    expect(text.locator("td")).to_have_text(["top", "3.2", "tail", "0.4"])
    assert "window.hacked=1" in shown(page), "shown, not swallowed"
    assert page.evaluate("window.hacked") is None
    assert text.locator("script, img, iframe, style, [onerror], [href^=javascript]").count() == 0


def test_reasoning_is_shown_apart_and_folded(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-n5-think4-i20")
    ask(page)
    until(page, "whole")
    thinking = page.locator("[data-part=thinking]")
    expect(thinking).to_be_hidden()
    page.get_by_text("Reasoning", exact=True).click()
    expect(thinking).to_be_visible()
    assert words(thinking.inner_text()) == words(answer("fake-n5-think4-i20").reasoning)
    assert words(shown(page)) == words(answer("fake-n5-think4-i20").text)


def test_characters_of_every_script_arrive_whole_and_are_copied_as_written(open_page: Callable[..., Page]) -> None:
    model = "fake-uni-split"
    page = open_page(f"openai/{model}", permissions=["clipboard-read", "clipboard-write"])
    ask(page)
    until(page, "whole")
    for word in ("café", "naïve", "東京", "👩‍💻", "данные", "🇨🇭", "مرحبا", "🌊"):
        assert word in shown(page)
    page.get_by_role("button", name="Copy answer").click()
    expect(page.get_by_role("status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == answer(model).text


def test_a_question_is_sent_with_the_turns_before_it_and_a_new_chat_forgets_them(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-echo")
    ask(page, "one")
    until(page, "whole")
    ask(page, "two\n日本")
    until(page, "whole")
    expect(page.locator(".text")).to_have_count(2)
    assert fake_provider.requests[-1].body["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two\n日本"},
    ]
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_label("Your message")).to_be_focused()
    ask(page, "three")
    until(page, "whole")
    assert fake_provider.requests[-1].body["messages"] == [{"role": "user", "content": "three"}]


def test_an_answer_at_the_token_limit_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-n5-len")
    ask(page)
    until(page, "whole")
    expect(page.locator(".notice")).to_contain_text("Cut at the token limit.")


def test_tools_and_a_recovery_by_another_model_are_shown(page: Page) -> None:
    events = [
        START,
        {"type": "tool_call_start", "call_id": "c", "name": "clock"},
        {"type": "tool_call_delta", "call_id": "c", "arguments": '{"zone": '},
        {"type": "tool_call", "call_id": "c", "name": "clock", "arguments": {"zone": "UTC"}},
        {"type": "tool_result", "call_id": "c", "name": "clock", "result": "12:00"},
        {"type": "text", "text": "🌊 It is no"},
        {"type": "recovered", "from": "openai/m", "to": "anthropic/n", "kept_chars": 7},
        {"type": "text", "text": " noon."},
        {"type": "invented_later", "text": "unknown events change nothing"},
        FINISH,
    ]
    answering(page, native(*events) + "data: [DONE]\n\n")
    ask(page)
    until(page, "whole")
    assert shown(page) == "🌊 It is noon."
    expect(page.locator(".meter")).to_contain_text("anthropic/n")
    page.get_by_text("Tool clock").click()
    expect(page.locator("[data-part=tools]")).to_contain_text('"zone": "UTC"')
    expect(page.locator("[data-part=tools]")).to_contain_text("12:00")


# It is stopped


@pytest.mark.parametrize("by", ["button", "Escape"])
def test_stop_closes_the_stream_at_the_provider(
    by: str, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-n200-i20")
    ask(page)
    expect(page.locator(".text")).to_contain_text(text_after("fake-n200-i20", 3).strip())
    if by == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    until(page, "stopped")
    fake_provider.wait_for(lambda stats: stats.open_streams == 0 and stats.aborted == 1)
    assert words(answer("fake-n200-i20").text)[:3] == words(shown(page))[:3], "what had come stays"
    expect(page.locator(".notice")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_label("Your message")).to_be_focused()


def test_a_new_chat_stops_the_answer_of_the_old_one(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-n200-i20")
    ask(page)
    until(page, "answering")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    fake_provider.wait_for(lambda stats: stats.open_streams == 0 and stats.aborted == 1)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


@pytest.mark.parametrize("by", ["Stop", "New chat"])
def test_stop_before_the_first_token_ends_the_stream_at_the_provider(
    by: str, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-n500-i20-f30000")
    ask(page)
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    clicked = time.monotonic()
    page.get_by_role("button", name=by).click()
    fake_provider.wait_for(lambda stats: stats.open_streams == 0 and stats.aborted == 1)
    assert fake_provider.departures[0].at - clicked < 10.0
    if by == "Stop":
        until(page, "stopped")
        expect(page.locator(".notice")).to_contain_text("Stopped.")
    assert fake_provider.stats().requests == 1


def test_stop_that_overtakes_the_question_ends_the_stream_at_the_provider(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-n500-i20")
    held: list[Route] = []
    page.route("**/v1/streams", lambda route: held.append(route) if not held else route.continue_())
    with page.expect_request("**/v1/streams"):
        ask(page)
    with page.expect_response("**/v1/streams") as early:
        page.get_by_role("button", name="Stop").click()
    assert (early.value.request.method, early.value.status) == ("DELETE", 404)
    until(page, "stopped")
    held[0].continue_()
    fake_provider.wait_for(lambda stats: stats.open_streams == 0 and stats.aborted == 1)


# The page is loaded again, or loses its connection


def begun(page: Page, model: str, tokens: int) -> None:
    """Wait for the first so many tokens."""
    eventually(lambda: words(shown(page))[:tokens] == words(text_after(model, tokens)), what=f"{tokens} tokens")


def test_a_reload_goes_on_with_the_same_answer(open_page: Callable[..., Page], fake_provider: FakeProvider) -> None:
    model = "fake-n200-i20"
    page = open_page(f"openai/{model}")
    ask(page, "Once\nmore?")
    for tokens in (3, 40, 80, 120):
        begun(page, model, tokens)
        page.reload()
        page.evaluate("new Promise(requestAnimationFrame)")
        assert words(shown(page))[:tokens] == words(text_after(model, tokens)), "it is there at once"
    until(page, "whole")
    assert words(shown(page)) == words(answer(model).text)
    assert page.locator("[data-part=question]").inner_text() == "Once\nmore?"
    expect(page.locator(".meter")).to_contain_text("200 tokens")
    assert fake_provider.stats().requests == 1
    assert fake_provider.stats().completed == 1


@pytest.mark.parametrize("by", ["Stop", "New chat"])
def test_what_goes_on_after_a_reload_can_be_stopped(
    by: str, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n1000-i20"
    page = open_page(f"openai/{model}")
    ask(page)
    begun(page, model, 5)
    page.reload()
    begun(page, model, 20)
    page.get_by_role("button", name=by).click()
    fake_provider.wait_for(lambda stats: stats.open_streams == 0 and stats.aborted == 1)
    if by == "Stop":
        until(page, "stopped")
        expect(page.locator(".notice")).to_contain_text("Stopped.")
    page.reload()
    expect(page.locator(".turn")).to_have_count(1 if by == "Stop" else 0)
    if by == "Stop":
        expect(page.locator(".notice")).to_contain_text("Stopped.")
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert fake_provider.stats().requests == 1


def test_a_reload_before_the_first_token_goes_on_waiting_for_it(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n20-f2500"
    page = open_page(f"openai/{model}")
    ask(page)
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    for _ in range(2):
        page.reload()
        expect(page.locator(".meter")).to_contain_text("Waiting for the first token")
    until(page, "whole")
    assert words(shown(page)) == words(answer(model).text)
    assert fake_provider.stats().requests == 1
    ttft_ms = int(re.search(r"first token (\d+) ms", page.locator(".meter").inner_text())[1])  # type: ignore[index]
    assert ttft_ms >= 2500, "counted from the question, not from the reload"


def test_stop_after_a_reload_before_the_first_token(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-n500-i20-f30000")
    ask(page)
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    page.reload()
    clicked = time.monotonic()
    page.get_by_role("button", name="Stop").click()
    until(page, "stopped")
    fake_provider.wait_for(lambda stats: stats.open_streams == 0 and stats.aborted == 1)
    assert fake_provider.departures[0].at - clicked < 10.0
    assert fake_provider.stats().requests == 1


def test_a_reload_shows_the_whole_conversation_and_asks_nothing(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    page = open_page("openai/fake-echo")
    ask(page, "one **bold**")
    until(page, "whole")
    page.get_by_label("Model", exact=True).select_option("Other…")
    page.keyboard.type("openai/fake-md-n20-think4-len")
    page.keyboard.press("Enter")
    ask(page, "two")
    expect(page.locator(".turn")).to_have_count(2)
    until(page, "whole")
    look = "[...document.querySelectorAll('.turn')].map((turn) => turn.outerHTML)"
    before = page.evaluate(look)
    page.evaluate("document.querySelector('[role=status]').textContent = ''")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    assert page.evaluate(look) == before
    expect(page.get_by_role("status")).to_have_text("")
    expect(page.locator(".turn").last.locator(".notice")).to_contain_text("Cut at the token limit.")
    assert page.evaluate("document.body.className") == ""
    page.wait_for_load_state("networkidle")
    assert not [url for url in asked if "/v1/streams" in url]
    assert fake_provider.stats().requests == 2
    ask(page, "three")
    expect(page.locator(".turn")).to_have_count(3)
    until(page, "whole")
    sent = fake_provider.requests[-1].body["messages"]
    assert [message["content"] for message in sent[::2]] == ["one **bold**", "two", "three"]
    assert sent[1]["content"] == "one **bold**"
    assert sent[3]["content"] == answer("fake-md-n20-think4-len").text

    tab = page.context.new_page()
    tab.goto(page.url)
    expect(tab.locator("#welcome")).to_be_visible()
    expect(tab.locator(".turn")).to_have_count(0)


def test_a_duplicated_tab_follows_the_same_answer(open_page: Callable[..., Page], fake_provider: FakeProvider) -> None:
    model = "fake-n200-i20"
    page = open_page(f"openai/{model}")
    ask(page)
    begun(page, model, 5)
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # a copy is made of what is kept by then
    with page.expect_popup() as opened:
        page.evaluate("window.open(location.href) && null")
    for tab in (page, opened.value):
        until(tab, "whole")
        assert words(shown(tab)) == words(answer(model).text)
    assert fake_provider.stats().requests == 1


def test_tools_and_a_recovery_are_there_after_a_reload(page: Page) -> None:
    events = [
        START,
        {"type": "reasoning", "text": "Well, "},
        {"type": "reasoning", "text": "well."},
        {"type": "tool_call_start", "call_id": "c", "name": "clock"},
        {"type": "tool_call", "call_id": "c", "name": "clock", "arguments": {"zone": "UTC"}},
        {"type": "tool_result", "call_id": "c", "name": "clock", "result": "12:00"},
        {"type": "text", "text": "🌊 It is"},
        {"type": "text", "text": " no"},
        {"type": "recovered", "from": "openai/m", "to": "anthropic/n", "kept_chars": 7},
        {"type": "text", "text": " noon."},
        FINISH,
    ]
    answering(page, native(*events) + "data: [DONE]\n\n")
    ask(page)
    until(page, "whole")
    look = "document.querySelector('.turn').outerHTML"
    before = page.evaluate(look)
    page.reload()
    until(page, "whole")
    assert shown(page) == "🌊 It is noon."
    assert page.evaluate(look) == before


class Line:
    """A TCP connection's way to `port`, which can be cut, and be there again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self._whole = True
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, call: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=call, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def cut(self) -> None:
        with self._lock:
            self._whole = False
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (*self._sockets, self._listener):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with self._lock:
                    if not self._whole:
                        near.close()
                        continue
                    far = socket.create_connection(("127.0.0.1", self._port))
                    self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    self._start(self._carry, *pair)

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(server: Service) -> Iterator[Line]:
    made = Line(server.port)
    yield made
    made.close()


def test_a_lost_connection_is_made_again(
    line: Line, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n200-i20"
    page = open_page(f"openai/{model}", url=line.url)
    ask(page)
    for tokens in (5, 60):
        begun(page, model, tokens)
        line.cut()
        until(page, "reconnecting")
        expect(page.get_by_role("status")).to_have_text("The connection was lost; reconnecting")
        line.mend()
    until(page, "whole")
    assert words(shown(page)) == words(answer(model).text)
    assert fake_provider.stats().requests == 1


def test_a_connection_lost_before_the_first_token_is_made_again(
    line: Line, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n20-f4000"
    page = open_page(f"openai/{model}", url=line.url)
    ask(page)
    fake_provider.wait_for(lambda stats: stats.open_streams == 1)
    eventually(lambda: float(page.locator("[data-part=elapsed]").inner_text().split()[0]) >= 1.5, what="some waiting")
    line.cut()
    until(page, "reconnecting")
    line.mend()
    until(page, "whole")
    assert words(shown(page)) == words(answer(model).text)
    assert fake_provider.stats().requests == 1


def test_a_connection_that_stays_lost_is_told_and_trying_again_stops_what_runs(
    line: Line, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n2000-i20"
    page = open_page(f"openai/{model}", url=line.url)
    ask(page)
    begun(page, model, 5)
    line.cut()
    expect(page.locator(".turn")).to_have_attribute("data-state", "broken", timeout=40_000)
    notice = page.locator(".notice")
    expect(notice).to_contain_text("The answer is incomplete. The server cannot be reached.")
    assert words(shown(page))[:5] == words(text_after(model, 5))
    line.mend()
    page.get_by_role("button", name="Try again").click()
    fake_provider.wait_for(lambda stats: stats.aborted == 1 and stats.open_streams == 1)
    page.get_by_role("button", name="New chat").click()
    fake_provider.wait_for(lambda stats: stats.aborted == 2 and stats.open_streams == 0)


def test_a_server_that_cannot_go_on_just_now_is_asked_again(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n200-i20"
    page = open_page(f"openai/{model}")
    ask(page)
    begun(page, model, 5)
    refused = json.dumps({"error": {"code": "overloaded", "message": "the store (sqlite) can't be used"}})
    page.route("**/v1/streams/*", lambda route: route.fulfill(status=503, body=refused), times=2)
    page.reload()
    until(page, "reconnecting")
    until(page, "whole")
    assert words(shown(page)) == words(answer(model).text)
    assert fake_provider.stats().requests == 1


def test_an_answer_that_is_gone_after_a_reload_is_called_incomplete(
    open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n1000-i20"
    page = open_page(f"openai/{model}")
    ask(page)
    begun(page, model, 5)
    page.route("**/v1/streams/*", lambda route: route.fulfill(status=404, body="{}"), times=1)
    page.reload()
    until(page, "broken")
    assert words(shown(page))[:5] == words(text_after(model, 5))
    expect(page.locator(".notice")).to_contain_text("The server no longer keeps the rest of this answer")
    page.reload()
    expect(page.locator(".notice")).to_contain_text("the answer is incomplete.")
    page.get_by_label("Model", exact=True).select_option("Other…")
    page.keyboard.type("openai/fake-echo")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Try again").click()
    until(page, "whole")
    assert shown(page) == "How does a lock work?"
    stream = fake_provider.requests[0]
    assert stream.body["model"] == model


FORBIDDEN = "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError') } })"
FULL = "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError') }"


@pytest.mark.parametrize("trouble", [FORBIDDEN, FULL], ids=["forbidden", "full"])
def test_without_storage_leaving_ends_the_answer(
    trouble: str, open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    model = "fake-n1000-i20"
    page = open_page()
    page.add_init_script(trouble)
    page.goto(f"{page.url}?model=openai/{model}")
    with page.expect_request("**/v1/streams") as asked:
        ask(page)
    assert "resumable" not in asked.value.post_data_json
    begun(page, model, 5)
    page.reload()
    fake_provider.wait_for(lambda stats: stats.aborted == 1 and stats.open_streams == 0)
    expect(page.locator(".turn")).to_have_count(0)
    page.goto(page.url.replace(model, "fake-echo"))
    ask(page, "Still here")
    until(page, "whole")
    assert shown(page) == "Still here"


@pytest.mark.parametrize(
    "kept",
    [
        "{",
        "7",
        "{}",
        "[]",
        "[{}]",
        '[{"question": "q", "events": [{}], "meter": 1}]',
        '[{"question": "q", "events": [], "meter": [0, null, null, 0, false]}]',
    ],
)
def test_what_the_tab_keeps_is_not_trusted(kept: str, page: Page) -> None:
    page.add_init_script(f"sessionStorage.setItem('sluiceway.chat /', {json.dumps(kept)})")
    page.goto(page.url + "?model=openai/fake-echo")
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "Hello")
    until(page, "whole")
    assert shown(page) == "Hello"


def test_without_a_store_the_page_works_and_leaving_ends_the_answer(
    start_service: Callable[..., Service], open_page: Callable[..., Page], fake_provider: FakeProvider
) -> None:
    service = start_service({**fake_provider.env, "SLUICEWAY_STORE__URL": "sqlite:////dev/null/streams.db"})
    model = "fake-n1000-i20"
    page = open_page(f"openai/{model}", url=service.url)
    ask(page)
    begun(page, model, 5)
    page.reload()
    until(page, "broken")
    fake_provider.wait_for(lambda stats: stats.aborted == 1 and stats.open_streams == 0)
    assert words(shown(page))[:5] == words(text_after(model, 5))
    expect(page.locator(".notice")).to_contain_text("The page was left before this answer was whole")
    page.get_by_role("button", name="Try again").click()
    begun(page, model, 3)
    page.get_by_role("button", name="Stop").click()
    until(page, "stopped")
    fake_provider.wait_for(lambda stats: stats.aborted == 2 and stats.open_streams == 0)


# It fails


def test_a_refusal_names_the_cause_and_the_time_to_wait(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-e429-ra30")  # longer than the server itself would wait
    ask(page)
    until(page, "broken")
    notice = page.locator(".notice")
    expect(notice).to_contain_text("provider_rate_limited")
    expect(notice).to_contain_text(re.compile(r"Try again in (30|29|28) s\."))
    expect(notice).to_contain_text("request ")
    expect(notice.get_by_role("button", name="Try again")).to_be_visible()


@pytest.mark.parametrize("model", ["fake-n30-i10-err5", "fake-n30-i10-cut5"])
def test_what_came_before_a_break_stays_and_is_called_incomplete(model: str, open_page: Callable[..., Page]) -> None:
    page = open_page(f"openai/{model}")
    ask(page)
    until(page, "broken")
    assert words(shown(page)) == words(text_after(model, 5))
    expect(page.locator(".notice")).to_contain_text("incomplete")


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n", 'id: 3\ndata: {"type": "finish", "reason": "stop"}\n'])
def test_a_body_that_just_ends_is_never_taken_for_an_answer(end: str, page: Page) -> None:
    answering(page, native(START, {"type": "text", "text": "Half an ans"}) + end)
    ask(page)
    until(page, "broken")
    assert shown(page) == "Half an ans"
    expect(page.locator(".notice")).to_contain_text("The connection was lost; the answer is incomplete.")


def test_a_question_can_be_asked_again(open_page: Callable[..., Page], fake_provider: FakeProvider) -> None:
    page = open_page("openai/fake-echo")
    page.route("**/v1/streams", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"), times=1)
    ask(page, "Are you there?")
    until(page, "broken")
    expect(page.locator(".notice")).to_contain_text("The server answered 502")
    page.get_by_role("button", name="Try again").click()
    until(page, "whole")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".notice")).to_be_hidden()
    assert shown(page) == "Are you there?"


def test_an_unreachable_server_is_called_that(page: Page) -> None:
    # Not by cutting the line: Chromium would write its own complaint into the console.
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('Failed to fetch')) }")
    ask(page)
    until(page, "broken")
    expect(page.locator(".notice")).to_contain_text("The server cannot be reached.")


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_this_tab_only(
    start_service: Callable[..., Service], fake_provider: FakeProvider, chromium: Browser
) -> None:
    accepted = json.dumps([hashlib.sha256(b"open sesame").hexdigest()])
    service = start_service({**fake_provider.env, "SLUICEWAY_SERVER__API_KEYS_SHA256": accepted})
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{service.url}/?model=openai/fake-echo")
        field = page.get_by_label("This server asks for an API key.")
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_label("This key was not accepted.")).to_be_focused()
        page.get_by_label("This key was not accepted.").fill("open sesame")
        page.get_by_role("button", name="Use key").click()
        expect(page.locator("#key-form")).to_be_hidden()
        page.reload()
        ask(page, "Hello")
        until(page, "whole")
        assert shown(page) == "Hello"
        names = ["sluiceway.chat /", "sluiceway.key"]
        assert page.evaluate("[Object.keys(sessionStorage).sort(), localStorage.length, document.cookie]") == [
            names,
            0,
            "",
        ]
        assert context.new_page().goto(service.url) is not None
        other = context.pages[-1]
        expect(other.get_by_label("This server asks for an API key.")).to_be_focused()
        expect(other.locator(".turn")).to_have_count(0)


# Whoever uses it, and on whatever


def test_everything_can_be_done_from_the_keyboard(open_page: Callable[..., Page], fake_provider: FakeProvider) -> None:
    page = open_page("openai/fake-echo-i20")
    prompt = page.get_by_label("Your message")
    expect(prompt).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    expect(prompt).to_have_value("first line\nsecond line")
    expect(page.locator(".turn")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(prompt).to_have_value("")
    expect(prompt).to_be_focused()
    until(page, "whole")
    assert fake_provider.requests[-1].body["messages"][-1]["content"] == "first line\nsecond line"

    page.keyboard.type("x")  # Send can be pressed again
    page.get_by_role("heading", name="Sluiceway").click()
    for name in ("New chat", "Copy answer", "Your message", "Model", "Send"):
        page.keyboard.press("Tab")
        control = page.locator(":focus")
        expect(control).to_have_accessible_name(name)
        if name == "Your message":  # the box around it shows its focus
            expect(page.locator("#composer")).to_have_css("border-color", "rgb(15, 118, 110)")
        else:
            expect(control).to_have_css("outline-style", "solid")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)


def test_screen_readers_hear_states_not_tokens(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-n40-i20")
    page.evaluate(
        """() => {
          window.heard = [];
          const status = document.querySelector("[role=status]");
          new MutationObserver(() => window.heard.push(status.textContent)).observe(status, { childList: true });
        }"""
    )
    ask(page)
    expect(page.locator("[data-part=answer]")).to_have_attribute("aria-busy", "true")
    until(page, "whole")
    expect(page.locator("[data-part=answer]")).to_have_attribute("aria-busy", "false")
    assert page.evaluate("window.heard") == ["Waiting for the first token", "Answering", "The answer is complete."]
    assert page.locator("[aria-live]:has(.text), [role=log], [role=alert]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(scheme: str, open_page: Callable[..., Page]) -> None:
    phone = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    page = open_page("openai/fake-md", **phone)
    sideways = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(sideways)
    ask(page, "https://example.invalid/" + "very-long-" * 30)
    until(page, "whole")
    wide = f"`{'a' * 200}` {'b' * 200}\n\n| {'c |' * 30}\n| {'- |' * 30}"
    answering(page, native(START, {"type": "text", "text": wide}, FINISH))
    ask(page)
    until(page, "whole")
    assert not page.evaluate(sideways)
    for control in ("#prompt", "#model"):
        size = page.locator(control).evaluate("(node) => parseFloat(getComputedStyle(node).fontSize)")
        assert size >= 16, "below that, iOS zooms into the field"
    for name in ("Send", "New chat"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= 320


def test_the_page_follows_the_answer_until_the_reader_looks_back(open_page: Callable[..., Page]) -> None:
    page = open_page("openai/fake-n600-i5", viewport={"width": 400, "height": 480})
    at_end = "document.documentElement.scrollHeight - innerHeight - scrollY < 8"
    ask(page)
    eventually(lambda: page.evaluate(f"scrollY > 200 && {at_end}"), what="following")
    page.mouse.move(200, 200)
    page.mouse.wheel(0, -150)
    eventually(lambda: page.evaluate(f"!({at_end})"), what="looking back")
    there, length = page.evaluate("[scrollY, document.querySelector('.text').textContent.length]")
    grown = f"document.querySelector('.text').textContent.length > {length + 300}"
    eventually(lambda: page.evaluate(grown), what="more text")
    assert page.evaluate("scrollY") <= there, "nobody is pulled back"
    page.get_by_role("button", name="Go to the end of the answer").click()
    eventually(lambda: page.evaluate(at_end), what="following again")
    page.keyboard.press("Escape")
    until(page, "stopped")


def test_the_list_of_models_begins_with_the_servers_default(page: Page, server: Service) -> None:
    listed = page.request.get(f"{server.url}/v1/models").json()["data"]
    expect(page.get_by_label("Model", exact=True)).to_have_value(listed[0]["id"])


def test_any_model_can_be_named_and_the_address_remembers_it(open_page: Callable[..., Page]) -> None:
    page = open_page()
    choice = page.get_by_label("Model", exact=True)
    choice.select_option("Other…")
    page.keyboard.type("openai/fake-echo-n3")
    page.keyboard.press("Enter")
    expect(choice).to_have_value("openai/fake-echo-n3")
    expect(choice).to_be_focused()
    page.reload()
    expect(choice).to_have_value("openai/fake-echo-n3")
    choice.select_option("Other…")
    page.keyboard.press("Escape")
    expect(choice).to_have_value("openai/fake-echo-n3")
    ask(page, "Still here")
    until(page, "whole")
    expect(page.locator(".meter")).to_contain_text("openai/fake-echo-n3")


def test_the_demonstration_model_is_called_that(open_page: Callable[..., Page]) -> None:
    note = "Demonstration model: fluent, not truthful."
    expect(open_page("local/anything").get_by_text(note)).to_be_visible()
    expect(open_page("openai/fake-echo").get_by_text(note)).to_be_hidden()


def test_the_page_works_under_any_prefix(chromium: Browser, server: Service, fake_provider: FakeProvider) -> None:
    strays = []

    def unprefixed(route: Route) -> None:
        path = route.request.url.removeprefix(server.url)
        if not path.startswith("/deep/down/"):
            strays.append(path)
        route.continue_(url=server.url + path.removeprefix("/deep/down"))

    with chromium.new_context() as context:
        context.route("**/*", unprefixed)
        page = context.new_page()
        page.goto(f"{server.url}/deep/down/?model=openai/fake-echo")
        ask(page, "Down here")
        until(page, "whole")
        assert shown(page) == "Down here"
        page.goto(f"{server.url}/deep/down/?model=openai/fake-n100-i20")
        ask(page)
        begun(page, "fake-n100-i20", 3)
        page.reload()
        until(page, "whole")
        assert words(shown(page)) == words(answer("fake-n100-i20").text)
        assert page.evaluate("document.querySelector('h1 img').naturalWidth") > 0
    assert strays == []


def test_the_browser_is_told_to_run_and_load_nothing_foreign(server: Service, page: Page) -> None:
    policy = page.request.get(f"{server.url}/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    html = page.request.get(f"{server.url}/").text()
    assert not re.search(r"""<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|(?:src|href)=["'](?:\w+:|/)""", html)


# sse.js: bytes in, events out

SSE_CASES = [
    pytest.param(b"data: a\n\n", [("message", "a", "")], id="LF"),
    pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [("message", "a", ""), ("message", "b", "")], id="CRLF"),
    pytest.param(b"data: a\r\rdata: b\r\r", [("message", "a", ""), ("message", "b", "")], id="CR"),
    pytest.param(b"data: a\r\ndata: b\n\rdata: c\r\n\n", [("message", "a\nb", ""), ("message", "c", "")], id="mixed"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "")], id="one BOM is dropped"),
    pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], id="a second one is not"),
    pytest.param("data: é東🌊\u2028\u0085\x0b.\n\n".encode(), [("message", "é東🌊\u2028\u0085\x0b.", "")], id="UTF-8"),
    pytest.param(b"data: \xff\xc3.\n\n", [("message", "\ufffd\ufffd.", "")], id="broken UTF-8"),
    pytest.param(b"data:a\ndata:  b\ndata\ndata:\n\n", [("message", "a\n b\n\n", "")], id="data lines"),
    pytest.param(b"data\n\n", [("message", "", "")], id="empty data is an event"),
    pytest.param(b": ping\n: ping\n\n:\n\n", [], id="comments are not"),
    pytest.param(b"data: a\n: ping\ndata: b\n\n", [("message", "a\nb", "")], id="comment inside an event"),
    pytest.param(b"event: x\n\nid: 7\n\ndata: a\n\n", [("message", "a", "7")], id="no data, no event"),
    pytest.param(b"event: x\nid: 1\ndata: a\n\ndata: b\n\n", [("x", "a", "1"), ("message", "b", "1")], id="id stays"),
    pytest.param(b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\nid\ndata: c\n\n",
                 [("message", "a", "1"), ("message", "b", "1"), ("message", "c", "")], id="NUL in an id"),
    pytest.param(b"Data: a\ndata : b\n data: c\nfoo: d\n\n", [], id="unknown fields"),
    pytest.param(b"data: a:b: c\n\n", [("message", "a:b: c", "")], id="colons"),
    pytest.param(b"data: a\n\ndata: half", [("message", "a", "")], id="unfinished line"),
    pytest.param(b"data: a\n\ndata: half\n", [("message", "a", "")], id="unfinished event"),
    pytest.param(b"\n\n\ndata: a\n\n\n\n", [("message", "a", "")], id="blank lines"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "events"), SSE_CASES)
def test_sse_events_are_the_same_wherever_the_bytes_are_cut(
    body: bytes, events: list[tuple[str, str, str]], modules: Page
) -> None:
    cuts = modules.evaluate(
        """async (body) => {
          const { SSEParser } = await import(new URL("static/sse.js", document.baseURI));
          const bytes = new Uint8Array(body);
          const parsed = (...chunks) => {
            const parser = new SSEParser();
            return chunks.flatMap((chunk) => parser.feed(chunk)).map((e) => [e.event, e.data, e.id]);
          };
          const inTwo = [...bytes.keys()].map((at) => parsed(bytes.slice(0, at), new Uint8Array(), bytes.slice(at)));
          return [...inTwo, parsed(bytes), parsed(...[...bytes].map((byte) => new Uint8Array([byte])))];
        }""",
        list(body),
    )
    for position, got in enumerate(cuts):
        assert [tuple(event) for event in got] == events, f"cut at {position}"


def test_an_sse_event_comes_with_the_byte_that_completes_it(modules: Page) -> None:
    given = modules.evaluate(
        """async () => {
          const { SSEParser } = await import(new URL("static/sse.js", document.baseURI));
          const parser = new SSEParser();
          return [..."data: a\\r\\r\\ndata: b\\n\\nretry: 1500\\nretry: 1x\\n"]
            .map((char) => parser.feed(new TextEncoder().encode(char)).length).concat(parser.retryMs);
        }"""
    )
    assert given == [0] * 8 + [1] + [0] * 9 + [1] + [0] * 22 + [1500]


# markdown.js: growing text, the same page

DOCUMENT = (
    MARKDOWN
    + """
Setext
======

1. one

2. two
   - inner `co

     de`

   more

10. ten
* star
- [x] done
- [ ] open

> quoted
lazy

| a | b |
|---|:-:|
| 1 | **2** |

    indented

~~~~js
``` inside
~~~~
Text with <br> and <b>open, H<sub>2</sub>O, **bold
over** lines, [later], [l](https://example.invalid) &amp; ![i](https://example.invalid/i.png)
***

[later]: https://example.invalid/later
<!-- comment

still --> é東👩‍💻
"""
)
# How a browser module turns a document into HTML: cut in two, `mend`ed and painted in between as while it streams.
GROWN = """async ([source, crlf]) => {
  const { Blocks, mend, morph, paint, render } = await import(new URL("static/markdown.js", document.baseURI));
  const html = (node) => { const box = document.createElement("div"); box.append(node); return box.innerHTML; };
  const wire = crlf ? source.replaceAll("\\n", "\\r\\n") : source;
  const whole = html(render(source));
  const different = [];
  for (let cut = 0; cut <= wire.length; cut++) {
    const root = document.createElement("div");
    const blocks = new Blocks();
    let finished = 0;
    const show = (shape) => {
      const fresh = paint(blocks.takeFinished());
      const count = fresh.childNodes.length;
      fresh.append(render(shape(blocks.tail), blocks.links));
      morph(root, fresh, finished);
      finished += count;
    };
    blocks.feed(wire.slice(0, cut));
    show(mend);
    blocks.feed(wire.slice(cut));
    blocks.finish();
    show((tail) => tail);
    if (root.innerHTML !== whole) different.push([cut, root.innerHTML, whole]);
  }
  return different;
}"""


@pytest.mark.parametrize("crlf", [False, True], ids=["LF", "CRLF"])
def test_markdown_is_the_same_wherever_the_text_is_cut(crlf: bool, modules: Page) -> None:
    settled = DOCUMENT.replace("[later]: ", "later: ")  # the definition has its own test
    assert modules.evaluate(GROWN, [settled, crlf]) == []


def test_markdown_painted_frame_by_frame_ends_as_the_whole(modules: Page) -> None:
    grown, whole, nodes_kept = modules.evaluate(
        """async (source) => {
          const { MarkdownView, render } = await import(new URL("static/markdown.js", document.baseURI));
          const root = document.createElement("div");
          const view = new MarkdownView(root);
          let first;
          for (let at = 0; at < source.length; at += 17) {
            view.push(source.slice(at, at + 17));
            await new Promise(requestAnimationFrame);
            first ??= root.querySelector("h1");
          }
          view.finish();
          const whole = document.createElement("div");
          whole.append(render(source));
          return [root.innerHTML, whole.innerHTML, first === root.querySelector("h1")];
        }""",
        DOCUMENT,
    )
    assert grown == whole
    assert 'href="https://example.invalid/later"' in grown, "a definition that came late reaches back"
    assert nodes_kept, "a finished block is not built again"


@pytest.mark.parametrize(
    ("tail", "mended"),
    [
        ("Fruit:\n-", "Fruit:\n"),
        ("Text\n==", "Text\n"),
        ("1", ""),
        ("a\n``", "a\n"),
        ("so **bold", "so **bold**"),
        ("so **bold*", "so **bold**"),
        ("so **bold ", "so **bold**"),
        ("so **", "so "),
        ("an *emphasis", "an *emphasis*"),
        ("2 * 3 and x*y", "2 * 3 and x*y"),
        ("use `code", "use `code`"),
        ("use `code` and **b `c", "use `code` and **b `c`**"),
        ("see [the page](https://exa", "see the page"),
        ("see [the page](https://example.invalid) now", "see [the page](https://example.invalid) now"),
        ("see ![a gate](https://exa", "see a gate"),
        ("```python\nx = 2**3", "```python\nx = 2**3"),
        ("- a\n  ```\n  `b", "- a\n  ```\n  `b"),
        ("done.\n", "done.\n"),
    ],
)
def test_half_written_signs_do_not_flash(tail: str, mended: str, modules: Page) -> None:
    got = modules.evaluate(
        "async (tail) => (await import(new URL('static/markdown.js', document.baseURI))).mend(tail)", tail
    )
    assert got == mended


@pytest.mark.parametrize(
    "source",
    [
        "<script>window.hacked=1</script>",
        "a <img src=x onerror=window.hacked=1> b",
        "<svg onload=window.hacked=1><script>window.hacked=1</script></svg>",
        "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
        "[a](javascript:window.hacked=1) [b](  JaVaScRiPt:window.hacked=1) [c](data:text/html,x) [d](/v1/streams)",
        "<javascript:window.hacked=1>",
        '![x](https://example.invalid/x.png) ![y](x" onerror="window.hacked=1)',
        "<b onclick=window.hacked=1>b</b> <sub style='position:fixed'>s</sub>",
        '```"><img src=x onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```',
        "<style>*{display:none}</style><link rel=stylesheet href=//example.invalid><base href=//example.invalid>",
        "<form action=/><button formaction=//example.invalid>x</button><input autofocus onfocus=window.hacked=1>",
        "<math><mtext><table><mglyph><style><img src=x onerror=window.hacked=1>",
        "| <img src=x onerror=window.hacked=1> |\n|---|\n| <script>window.hacked=1</script> |",
        "# <a id=prompt name=body class=go href=https://example.invalid>x</a>",
    ],
)
def test_nothing_a_model_writes_becomes_a_part_of_the_page(source: str, page: Page) -> None:
    answering(page, native(START, {"type": "text", "text": source}, FINISH))
    ask(page)
    until(page, "whole")
    text = page.locator(".text")
    assert text.locator("script, img, svg, iframe, style, link, base, form, input, math, [id], [style]").count() == 0
    attributes = text.evaluate(
        "(root) => [...new Set([...root.querySelectorAll('*')].flatMap((node) => node.getAttributeNames()))]"
    )
    assert not [name for name in attributes if name.startswith("on")]
    for link in text.locator("a[href]").all():
        assert link.get_attribute("href").startswith(("https://", "mailto:"))  # type: ignore[union-attr]
        assert "noopener" in (link.get_attribute("rel") or "")
    assert page.evaluate("window.hacked") is None


def test_what_a_long_answer_costs_follows_its_last_block(modules: Page) -> None:
    """50 KB, 500 characters a frame: every node is built about once, however often the page is painted."""
    built, there, chars = modules.evaluate(
        """async (source) => {
          const { MarkdownView } = await import(new URL("static/markdown.js", document.baseURI));
          const root = document.createElement("div");
          const view = new MarkdownView(root);
          let built = 0;
          const count = (records) => records.forEach((record) => (built += record.addedNodes.length));
          const watch = new MutationObserver(count);
          watch.observe(root, { childList: true, subtree: true });
          for (let at = 0; at < source.length; at += 500) {
            view.push(source.slice(at, at + 500));
            await new Promise(requestAnimationFrame);
          }
          view.finish();
          count(watch.takeRecords());
          return [built, root.querySelectorAll("*").length, root.textContent.length];
        }""",
        MARKDOWN * 100,
    )
    assert chars > 30_000
    assert built < 2 * there


def test_vendored_libraries_are_what_their_readme_says() -> None:
    table = (STATIC / "vendor" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (\S+) \|.*`([0-9a-f]{64})` \|$", table, re.M)
    assert {name for name, *_ in rows} == {path.name for path in (STATIC / "vendor").glob("*.js")}
    for name, package, version, digest in rows:
        source = (STATIC / "vendor" / name).read_bytes()
        assert hashlib.sha256(source).hexdigest() == digest, f"{name} is not {package} {version}"
        assert version.encode() in source[:200]
        assert (STATIC / "vendor" / f"{Path(name).stem}.LICENSE").exists()
