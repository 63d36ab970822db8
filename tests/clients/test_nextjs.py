"""`examples/nextjs` as it stands, built and started in front of the real server, in Chromium and by curl."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from browsing import launched, watched
from conftest import ROOT, Service, eventually, free_port
from driving import NODE
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect
from test_resuming import Cutting

from app.testing import FakeProvider, answer, text_after

EXAMPLE = ROOT / "examples/nextjs"
MADE = ("node_modules", ".next", "next-env.d.ts", "*.tsbuildinfo")
KEY = "sk-of-the-server-in-between"
ACTION = "action-n30-i30-err10-times1"  # the model of the server action: breaks the first time


class Next:
    """`next start` on a port of its own."""

    def __init__(self, app: Path, **env: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = app / f"log-{port}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command(app), "start", "--hostname", "127.0.0.1", "--port", str(port)],
                cwd=app,
                env=clean(app) | env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            eventually(self._answers, within_s=60, what="the first answer of Next.js")
        except BaseException:
            self.stop()
            raise

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log
        try:
            return requests.get(self.url, timeout=5).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def command(app: Path) -> list[Path | str]:
    return [NODE, app / "node_modules/next/dist/bin/next"]


def clean(home: Path) -> dict[str, str]:
    """None of the machine's own settings, and nobody is told anything."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "NEXT_TELEMETRY_DISABLED": "1"}


# What asks another host fails: the app builds where there is none.
NOWHERE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NODE_USE_ENV_PROXY": "1"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app, built: types are checked, too."""
    if not NODE.exists() or not (EXAMPLE / "node_modules/.packages").exists():
        pytest.skip("Next.js is not installed: make clients")
    folder = tmp_path_factory.mktemp("nextjs") / "app"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(*MADE))
    try:
        shutil.copytree(EXAMPLE / "node_modules", folder / "node_modules", symlinks=True, copy_function=os.link)
    except (OSError, shutil.Error):  # another file system
        shutil.copytree(EXAMPLE / "node_modules", folder / "node_modules", symlinks=True, dirs_exist_ok=True)
    # 25 s with two processors of one's own. On a busy machine that can be more than pytest gives a test.
    faulthandler.cancel_dump_traceback_later()
    env = clean(folder) | NOWHERE
    made = subprocess.run([*command(folder), "build"], cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


class Services(NamedTuple):
    behind: Service
    front: Next


@pytest.fixture(scope="module")
def services(
    app: Path, start_service: Callable[..., Service], fake_provider_server: FakeProvider
) -> Iterator[Services]:
    hashes = json.dumps([hashlib.sha256(KEY.encode()).hexdigest()])
    behind = start_service({**fake_provider_server.env, "SLUICEWAY_SERVER__API_KEYS_SHA256": hashes})
    front = Next(app, SLUICEWAY_URL=behind.url, SLUICEWAY_API_KEY=KEY, SLUICEWAY_MODEL=f"openai/{ACTION}")
    yield Services(behind, front)
    front.stop()
    behind.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with watched(chromium) as context:
        yield context


Open = Callable[..., Page]


@pytest.fixture
def open_page(context: BrowserContext, services: Services, fake_provider: FakeProvider) -> Open:
    """`open_page(model, path="/", url=...)`: the page, whose questions are for that model."""

    def open_(model: str = "", path: str = "/", url: str = services.front.url) -> Page:
        def name_it(route: Route) -> None:
            route.continue_(post_data={**route.request.post_data_json, "model": f"openai/{model}"})

        page = context.new_page()
        page.route("**/api/chat", name_it)
        page.goto(url + path)
        page.get_by_role("textbox").wait_for()
        return page

    return open_


def ask(page: Page, question: str = "How does a lock work?") -> None:
    page.get_by_label("Your message").fill(question)
    page.get_by_role("button", name="Send").click()


def answer_in(page: Page) -> Locator:
    return page.locator("[data-role=assistant]").last


def alert_in(page: Page) -> Locator:
    """Beside it, Next.js has an element of its own with this role."""
    return page.get_by_role("main").get_by_role("alert")


def until(page: Page, status: str) -> None:
    expect(page.get_by_label("Conversation")).to_have_attribute("data-status", status)


def begun(page: Page, chars: int = 30) -> str:
    """Some of the answer."""
    page.wait_for_function("n => document.querySelector('[data-role=assistant]')?.textContent.length >= n", arg=chars)
    return str(answer_in(page).inner_text())


def recorded(page: Page, where: str) -> None:
    """`lengths`: of the text there, from now on, at each change."""
    page.evaluate(
        """(where) => {
          window.lengths = [];
          const look = () => lengths.push(document.querySelector(where)?.textContent.length ?? 0);
          const changes = { childList: true, subtree: true, characterData: true };
          new MutationObserver(look).observe(document.querySelector("main"), changes);
        }""",
        where,
    )


def body_for(model: str, chat: str, **more: Any) -> dict[str, Any]:
    """What `useChat` posts."""
    question = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
    return {"id": chat, "messages": [question], "trigger": "submit-message", "model": f"openai/{model}", **more}


def curl(url: str, *more: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body; asked as a browser asks, for whatever compression there is, and told without it."""
    asked = ["curl", "--silent", "--show-error", "--no-buffer", "--include", "--compressed", *more, url]
    done = subprocess.run(asked, capture_output=True, check=True, timeout=60)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = (line.split(": ", 1) for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, value in fields}, body


def posted(body: dict[str, Any], *headers: str) -> list[str]:
    more = [part for header in ("Content-Type: application/json", *headers) for part in ("--header", header)]
    return ["--data", json.dumps(body), *more]


AUTHORIZED = f"Authorization: Bearer {KEY}"


# The route


def test_what_comes_through_is_what_was_sent(services: Services, fake_provider: FakeProvider) -> None:
    """Asked for twice with one key, it is one answer. The second time nobody would know which way it came."""
    model = "same-n40-i10-uni-think3"
    asked = posted(body_for(model, "same"), "Idempotency-Key: same", "X-Request-ID: same")
    status, headers, body = curl(f"{services.front.url}/api/chat", *asked)
    direct = curl(f"{services.behind.url}/api/chat", *asked, "--header", AUTHORIZED)
    assert (status, body) == (direct[0], direct[2])
    assert body.endswith(b"data: [DONE]\n\n")
    assert fake_provider.stats().requests == 1
    lost = {name: value for name, value in direct[1].items() if headers.get(name) != value}
    assert lost.keys() <= {"server", "date", "connection"}, lost
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache, no-transform", "no")
    assert "content-encoding" not in headers


def test_a_chat_is_resumed_and_stopped_through_it(services: Services, fake_provider: FakeProvider) -> None:
    chat = "a/b c"
    stream = f"/api/chat/{requests.utils.quote(chat, safe='')}/stream"
    assert curl(services.front.url + stream)[0] == 204
    asked = body_for("resumed-n500-i20", chat)
    with requests.post(f"{services.front.url}/api/chat", json=asked, stream=True, timeout=30) as response:
        lines = response.iter_lines()
        assert next(lines)
        told = curl(services.front.url + stream, "--request", "DELETE")
        assert (told[0], json.loads(told[2])["status"]) == (202, "stopping")
        assert b"data: [DONE]" in list(lines)
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    through = curl(services.front.url + stream)
    assert through[0] == 200
    assert through[2] == curl(services.behind.url + stream, "--header", AUTHORIZED)[2]
    assert b"text-delta" in through[2]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        body_for("overloaded-e529", "refused"),
        body_for("limited-e429-ra7", "refused"),
        body_for("never", "x" * 1_100_000),
    ],
    ids=["nothing asked", "overloaded", "rate limited", "too much asked"],
)
def test_a_refusal_is_the_servers_own(services: Services, asked: dict[str, Any], tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text(json.dumps(asked))
    told = [*posted({}, "X-Request-ID: same", "Transfer-Encoding: chunked", "Expect:")[2:], "--data", f"@{body}"]
    through = curl(f"{services.front.url}/api/chat", *told)
    direct = curl(f"{services.behind.url}/api/chat", *told, "--header", AUTHORIZED)
    assert through[0] == direct[0] >= 400
    ours, theirs = (json.loads(told[2])["error"] for told in (through, direct))
    assert ours.pop("provider_request_id", None) != theirs.pop("provider_request_id", "none")
    assert ours == theirs
    assert through[1].get("retry-after") == direct[1].get("retry-after")


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_token_does_not_wait_for_the_next(services: Services, fake_provider: FakeProvider, tokens: int) -> None:
    model = f"each-n9-stall{tokens}"
    asked = body_for(model, "each", resumable=False)
    headers = {"Accept-Encoding": "gzip, br"}
    with requests.post(f"{services.front.url}/api/chat", json=asked, headers=headers, stream=True, timeout=30) as told:
        text = ""
        for line in told.iter_lines(chunk_size=None):
            if b'"text-delta"' in line:
                text += json.loads(line.removeprefix(b"data: "))["delta"]
                if text == text_after(model, tokens):
                    break
        assert text == text_after(model, tokens)


@pytest.mark.parametrize("parts", ["n500-i20", "n5-f60000"], ids=["in the middle", "before the first byte"])
def test_leaving_closes_upstream(services: Services, fake_provider: FakeProvider, parts: str) -> None:
    asked = body_for(f"left-{parts}", "left", resumable=False)
    program = ["curl", "--silent", "--no-buffer", *posted(asked), f"{services.front.url}/api/chat"]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as leaving:
        assert leaving.stdout is not None
        if parts.startswith("n500"):
            assert leaving.stdout.readline()
        fake_provider.wait_for(lambda stats: stats.requests == 1, 10)
        leaving.kill()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    assert "rror" not in services.front.log


def test_nobody_behind_it_is_told(app: Path) -> None:
    alone = Next(app, SLUICEWAY_URL=f"http://127.0.0.1:{free_port()}")
    try:
        response = requests.post(f"{alone.url}/api/chat", json=body_for("nobody", "nobody"), timeout=30)
    finally:
        alone.stop()
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "unreachable"
    assert "ECONNREFUSED" in alone.log


# The page with `useChat`


def test_text_grows(open_page: Open) -> None:
    model = "grows-n60-i30"
    page = open_page(model)
    recorded(page, "[data-role=assistant]")
    ask(page)
    begun(page)
    until(page, "ready")
    lengths = page.evaluate("lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5
    assert answer_in(page).text_content() == answer(model).text


def test_what_has_come_is_shown_while_nothing_follows(open_page: Open) -> None:
    model = "silent-n20-stall5"
    page = open_page(model)
    ask(page)
    expect(answer_in(page)).to_have_text(text_after(model, 5).strip())
    until(page, "streaming")


def test_a_reload_goes_on_with_the_answer(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "reload-n60-i40"
    page = open_page(model)
    ask(page)
    before = begun(page)
    page.reload()
    assert begun(page, len(before)).startswith(before)
    until(page, "ready")
    assert answer_in(page).text_content() == answer(model).text
    assert page.locator("[data-role]").count() == 2
    assert fake_provider.stats().requests == 1


def test_stop_ends_the_answer_at_the_provider(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "stop-n500-i20"
    page = open_page(model)
    ask(page)
    begun(page)
    page.get_by_role("button", name="Stop").click()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    until(page, "ready")
    text = answer_in(page).text_content()
    assert answer(model).text.startswith(text)
    page.reload()
    expect(answer_in(page)).to_have_text(text)
    until(page, "ready")


def test_a_second_question_has_the_first_before_it(open_page: Open, fake_provider: FakeProvider) -> None:
    page = open_page("twice-n8")
    ask(page, "First?")
    begun(page)
    until(page, "ready")
    ask(page, "Second?")
    expect(page.locator("[data-role]")).to_have_count(4)
    until(page, "ready")
    said = [message["role"] for message in fake_provider.requests[1].body["messages"]]
    assert said == ["user", "assistant", "user"]
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("[data-role]")).to_have_count(0)


def test_a_refusal_is_told_in_words(open_page: Open) -> None:
    page = open_page("refused-e529")
    ask(page)
    expect(alert_in(page)).to_contain_text("can't answer now")
    expect(alert_in(page)).not_to_contain_text("{")
    until(page, "error")


def test_an_error_in_the_middle_is_told_and_the_question_asked_again(open_page: Open) -> None:
    model = "broken-n20-i10-err9-times1"
    page = open_page(model)
    ask(page)
    until(page, "error")
    expect(alert_in(page)).to_contain_text("can't answer now")
    assert answer_in(page).text_content() == text_after(model, 9)
    page.get_by_role("button", name="Try again").click()
    until(page, "ready")
    assert answer_in(page).text_content() == answer(model).text
    assert alert_in(page).count() == 0


def test_a_broken_connection_is_told_and_the_same_answer_goes_on(
    app: Path, services: Services, open_page: Open, fake_provider: FakeProvider
) -> None:
    model = "lost-n60-i30"
    behind = json.dumps(answer(model).deltas[12].text).encode()  # type: ignore[union-attr]
    with Cutting(services.behind.port, *[behind] * 9) as line:
        front = Next(app, SLUICEWAY_URL=line.url, SLUICEWAY_API_KEY=KEY)
        try:
            page = open_page(model, url=front.url)
            ask(page)
            until(page, "error")
            expect(alert_in(page)).to_contain_text("The connection was lost.")
            line.mend()
            alert_in(page).get_by_role("button", name="Try again").click()
            until(page, "ready")
            assert answer_in(page).text_content() == answer(model).text
            assert alert_in(page).count() == 0
        finally:
            front.stop()
    assert fake_provider.stats().requests == 1


def test_thoughts_and_calls_are_shown(open_page: Open) -> None:
    model = "calls-n5-i10-think4-tool2"
    page = open_page(model)
    ask(page)
    tools = page.locator("[data-tool]")
    expect(tools).to_have_count(2)
    until(page, "ready")
    want = answer(model)
    for at, call in enumerate(want.tool_calls):
        expect(tools.nth(at)).to_have_attribute("data-state", "input-available")
        assert tools.nth(at).get_attribute("data-tool") == call.name
        assert json.loads(tools.nth(at).locator("pre").text_content() or "") == json.loads(call.arguments)
    assert page.locator("details", has_text="Thoughts").locator("p").text_content() == want.reasoning


def test_what_a_call_came_to_is_shown(open_page: Open) -> None:
    """As a server writes it that runs tools itself."""
    page = open_page()

    def called(call_id: str, name: str) -> list[dict[str, Any]]:
        named = {"toolCallId": call_id, "toolName": name}
        return [
            {"type": "tool-input-start", **named},
            {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": '{"zone":'},
            {"type": "tool-input-available", **named, "input": {"zone": "UTC"}, "providerExecuted": True},
        ]

    parts = [
        {"type": "start", "messageId": "m"},
        {"type": "start-step"},
        *called("A", "clock"),
        *called("B", "search_web"),
        {"type": "tool-input-start", "toolCallId": "C", "toolName": "slow"},
        {"type": "tool-output-available", "toolCallId": "A", "output": {"time": "12:00"}, "providerExecuted": True},
        {"type": "tool-output-error", "toolCallId": "B", "errorText": "no such page", "providerExecuted": True},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop"},
    ]
    stream = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"
    page.route("**/api/chat", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
    ask(page)
    until(page, "ready")
    clock, search, slow = page.locator("[data-tool]").all()
    expect(clock).to_have_attribute("data-state", "output-available")
    expect(clock.locator("summary")).to_have_text("clock has answered")
    assert json.loads(clock.locator("pre").last.text_content() or "") == {"time": "12:00"}
    expect(search.locator("summary")).to_have_text("search_web has failed")
    assert search.locator("p").text_content() == "no such page"
    expect(slow.locator("summary")).to_have_text("slow is being called")


# The server action


def test_a_server_action_streams(open_page: Open, fake_provider: FakeProvider) -> None:
    """The model breaks the first time, and not the second; the third time the page is closed."""
    page = open_page(path="/summary")
    summary, button = page.get_by_label("Summary"), page.get_by_role("button", name="Summarize")
    page.get_by_label("Text").fill("Locks raise boats.")
    button.click()
    expect(alert_in(page)).to_contain_text("can't answer now")
    assert summary.text_content() == text_after(ACTION, 10)
    recorded(page, "[aria-label=Summary]")
    button.click()
    expect(summary).to_have_text(answer(ACTION).text.strip())
    expect(summary).to_have_attribute("aria-busy", "false")
    assert alert_in(page).count() == 0
    assert len(set(page.evaluate("lengths"))) >= 5
    assert fake_provider.requests[1].body["messages"][-1]["content"] == "Locks raise boats."
    button.click()
    expect(summary).to_contain_text(text_after(ACTION, 1).strip())
    page.close()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)


# The lock file


def test_every_package_is_pinned() -> None:
    """What a lock file names is what everyone gets; none says from where."""
    lock = json.loads((EXAMPLE / "package-lock.json").read_text("utf-8"))
    wanted = json.loads((EXAMPLE / "package.json").read_text("utf-8"))
    for kind in ("dependencies", "devDependencies"):
        assert lock["packages"][""][kind] == wanted[kind]
        assert all(version[0].isdigit() for version in wanted[kind].values())
    for name, package in lock["packages"].items():
        if name:
            assert package["integrity"].startswith("sha512-"), name
            assert "resolved" not in package, name
