"""`examples/react` as it stands, bundled by esbuild, in Chromium, in StrictMode, in front of the real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import launched, watched
from conftest import ROOT, Service
from driving import HERE, NODE, NODE_MODULES
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect
from test_resuming import Cutting

from app.testing import FakeProvider, answer, text_after

ESBUILD = NODE_MODULES / ".bin/esbuild"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture(scope="module")
def document() -> str:
    """An HTML page with the example in it. React as for development: only that mounts everything twice."""
    if not ESBUILD.exists():
        pytest.skip("esbuild is not installed: make clients")
    program = [*ESBUILD.parent.glob("node"), ESBUILD]
    options = ["--bundle", "--jsx=automatic", '--define:process.env.NODE_ENV="development"', "--log-level=warning"]
    env = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    done = subprocess.run(
        [*program, HERE / "react_page.jsx", *options], env=env, capture_output=True, check=True, timeout=60
    )
    assert not done.stderr, done.stderr.decode()
    script = done.stdout.decode().replace("</script", "<\\/script")
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><main></main><script>{script}</script></html>'


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with watched(chromium) as context:
        yield context


Open = Callable[..., Page]


@pytest.fixture
def open_page(context: BrowserContext, document: str, server: Service, fake_provider: FakeProvider) -> Open:
    """`open_page(model, url=..., provider="openai")`: the page, as if the server (or who stands before it) had it."""

    def open_(model: str, url: str = server.url, provider: str = "openai") -> Page:
        page = context.new_page()
        page.route(re.compile(r"/ask\?"), lambda route: route.fulfill(content_type="text/html", body=document))
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page.goto(f"{url}/ask?model={provider}/{model}")
        return page

    return open_


def ask(page: Page, question: str = "How does a lock work?") -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def shown(page: Page) -> str:
    return page.get_by_label("Answer").inner_text()


def until(page: Page, status: str) -> None:
    expect(page.get_by_role("status")).to_have_attribute("data-status", status)


def begun(page: Page, chars: int = 30) -> str:
    """Some of the answer."""
    page.wait_for_function("n => document.querySelector('[aria-label=Answer]').textContent.length >= n", arg=chars)
    return shown(page)


def asked_of(page: Page) -> list[Request]:
    """From now on, what the page asks the server."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request) if "/v1/streams" in request.url else None)
    return requests


def recorded(page: Page) -> None:
    """`statuses`, `lengths`, `pictures`: what is shown from now on, at each change, and how often it is drawn."""
    page.evaluate(
        """() => {
          const [status, answer] = ["[role=status]", "[aria-label=Answer]"].map((at) => document.querySelector(at));
          Object.assign(window, { statuses: [], lengths: [], pictures: 0 });
          new MutationObserver(() => statuses.push(status.dataset.status)).observe(status, { attributes: true });
          const change = { characterData: true, childList: true, subtree: true };
          new MutationObserver(() => lengths.push(answer.textContent.length)).observe(answer, change);
          const frame = () => requestAnimationFrame(frame, window.pictures++);
          frame();
        }"""
    )


def answering(page: Page, *bodies: str, at: int | None = None) -> None:
    """From now on a stream is one of these, in turn; and comes in pieces of so many bytes."""
    page.evaluate(
        """([bodies, at]) => {
          window.fetch = async (url, { method = "GET" } = {}) => {
            if (method === "DELETE") return Response.json({}, { status: 202 });
            const bytes = new TextEncoder().encode(bodies.shift());
            const size = at ?? bytes.length;
            const body = new ReadableStream({
              start(controller) {
                for (let i = 0; i < bytes.length; i += size) controller.enqueue(bytes.slice(i, i + size));
                controller.close();
              },
            });
            return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
          };
        }""",
        [list(bodies), at],
    )


START = {"type": "start", "id": "strm_1", "model": "m", "provider": "openai", "created": 0}
USAGE = {"type": "usage", "input_tokens": 3, "output_tokens": 7, "source": "provider"}
FINISH = {"type": "finish", "reason": "stop", "usage": None, "timings": None}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def native(*events: dict[str, Any], first: int = 1) -> str:
    return "".join(f"id: {number}\ndata: {json.dumps(event)}\n\n" for number, event in enumerate(events, first))


def test_text_grows_and_the_usage_is_the_providers(open_page: Open) -> None:
    model = "grows-n60-i20-uni"
    page = open_page(model)
    recorded(page)
    ask(page)
    until(page, "done")
    assert page.get_by_label("Answer").text_content() == answer(model).text
    lengths = page.evaluate("lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5
    assert page.evaluate("statuses") == ["waiting", "streaming", "done"]
    expect(page.get_by_role("status")).to_have_text("Done (60 tokens)")
    assert page.get_by_role("alert").count() == 0


def test_what_has_come_is_shown_while_nothing_follows(open_page: Open) -> None:
    model = "silent-n20-stall5"
    page = open_page(model)
    ask(page)
    expect(page.get_by_label("Answer")).to_have_text(text_after(model, 5).strip())
    until(page, "streaming")


def test_there_are_no_more_renderings_than_pictures(open_page: Open) -> None:
    model = "fast-n1500-i0.5"
    page = open_page(model)
    recorded(page)
    ask(page)
    until(page, "done")
    renderings, pictures = page.evaluate("[lengths.length, pictures]")
    assert renderings <= pictures + 1  # the end is shown at once
    assert renderings < 1500
    assert shown(page) == answer(model).text


def test_a_reload_goes_on_with_the_answer(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "reload-n40-i40"
    page = open_page(model)
    ask(page)
    before = begun(page)
    requests = asked_of(page)
    page.reload()
    assert begun(page).startswith(before)
    until(page, "done")
    assert shown(page) == answer(model).text
    assert {request.method for request in requests} == {"GET"}
    assert fake_provider.stats().requests == 1


def test_a_reload_before_the_first_token_asks_for_the_same_answer(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "early-n12-f1500"
    page = open_page(model)
    ask(page)
    fake_provider.wait_for(lambda stats: stats.requests == 1, 10)
    page.reload()
    until(page, "done")
    assert shown(page) == answer(model).text
    assert fake_provider.stats().requests == 1


def test_what_is_not_kept_any_more_is_forgotten(open_page: Open) -> None:
    page = open_page("forgotten-n4")
    place = {"key": "k", "body": {}, "askedMs": 0, "stream": "strm_never", "last": 0, "ended": False}
    page.evaluate("place => sessionStorage.setItem('sluiceway', JSON.stringify(place))", place)
    with page.expect_response("**/v1/streams/strm_never") as told:
        page.reload()
    assert told.value.status == 404
    until(page, "idle")
    assert page.get_by_role("alert").count() == 0
    ask(page)
    until(page, "done")


def test_a_cut_connection_is_followed_by_one_that_goes_on_behind_it(
    open_page: Open, server: Service, fake_provider: FakeProvider
) -> None:
    model = "cut-n40-i20-uni"
    with Cutting(server.port, b"id: 12\n", b"id: 25\n") as line:
        page = open_page(model, line.url)
        recorded(page)
        requests = asked_of(page)
        ask(page)
        until(page, "done")
        assert len(line.cut) == 2
    assert page.get_by_label("Answer").text_content() == answer(model).text
    assert [request.method for request in requests] == ["POST", *["GET"] * (len(requests) - 1)]
    behind = [int(request.header_value("Last-Event-ID") or 0) for request in requests]
    assert behind == sorted(behind)
    # What had come with the end of a connection is lost with it: the browser throws it away.
    assert 0 < behind[1] <= 11
    assert behind[-1] <= 24
    statuses = page.evaluate("statuses")
    assert statuses[:3] == ["waiting", "streaming", "reconnecting"]
    assert statuses[-1] == "done"
    assert fake_provider.stats().requests == 1


def test_a_body_that_just_stops_is_not_an_end(open_page: Open) -> None:
    page = open_page("unused")
    answering(page, native(START, text("One, ")), native(text("two."), USAGE, FINISH, first=3))
    ask(page)
    until(page, "done")
    assert shown(page) == "One, two."
    expect(page.get_by_role("status")).to_have_text("Done (7 tokens)")


def test_what_does_not_come_back_is_told_and_the_text_stands(open_page: Open) -> None:
    page = open_page("unused")
    page.clock.install()
    answering(page, native(START, text("One, ")), *[": nothing\n"] * 5)
    ask(page)
    expect(page.get_by_label("Answer")).to_have_text("One,")
    until(page, "reconnecting")
    for _ in range(8):
        page.clock.run_for(8000)
    until(page, "error")
    assert page.get_by_role("alert").inner_text() == "The connection was lost."
    assert shown(page).strip() == "One,"


def test_an_error_of_the_connections_own_is_not_the_answers(open_page: Open) -> None:
    """It has no number: a worker that is being drained says so, and another goes on."""
    told = 'event: error\ndata: {"type": "error", "code": "draining", "message": "m"}\n\ndata: [DONE]\n\n'
    page = open_page("unused")
    answering(page, native(START, text("One, ")) + told, native(text("two."), FINISH, first=3))
    ask(page)
    until(page, "done")
    assert shown(page) == "One, two."


def test_stop_ends_the_answer_at_the_provider(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "stop-n500-i20"
    page = open_page(model)
    ask(page)
    begun(page)
    page.get_by_role("button", name="Stop").click()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    until(page, "stopped")
    text = shown(page)
    assert answer(model).text.startswith(text)
    expect(page.get_by_role("status")).to_contain_text("tokens)")
    page.reload()
    until(page, "stopped")
    assert shown(page) == text


def test_stop_before_the_first_token(open_page: Open, fake_provider: FakeProvider) -> None:
    page = open_page("patience-n5-f60000")
    ask(page)
    fake_provider.wait_for(lambda stats: stats.requests == 1, 10)
    page.get_by_role("button", name="Stop").click()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    until(page, "stopped")


def test_stop_that_overtakes_the_question_is_said_again(open_page: Open, fake_provider: FakeProvider) -> None:
    page = open_page("overtaken-n500-i20")
    held = []
    page.route(
        "**/v1/streams", lambda route: held.append(route) if route.request.method == "POST" else route.continue_()
    )
    ask(page)
    with page.expect_response("**/v1/streams") as told:
        page.get_by_role("button", name="Stop").click()
    assert told.value.status == 404
    held[0].continue_()
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    until(page, "stopped")


def test_a_new_question_ends_the_answer_before(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "again-n100-i20"
    page = open_page(model)
    ask(page)
    before = begun(page)
    page.evaluate("document.querySelector('form').requestSubmit()")
    page.wait_for_function("n => document.querySelector('[aria-label=Answer]').textContent.length < n", arg=len(before))
    fake_provider.wait_for(lambda stats: stats.aborted == 1, 10)
    until(page, "done")
    assert shown(page) == answer(model).text
    assert fake_provider.stats().requests == 2


def test_who_is_gone_hears_nothing_and_who_comes_back_the_rest(open_page: Open, fake_provider: FakeProvider) -> None:
    model = "gone-n40-i40"
    page = open_page(model)
    ask(page)
    before = begun(page)
    page.evaluate("unmount()")
    assert page.locator("main").inner_text() == ""
    page.evaluate("mount()")
    assert begun(page).startswith(before)
    until(page, "done")
    assert shown(page) == answer(model).text
    assert fake_provider.stats().requests == 1


def test_a_refusal_is_told(open_page: Open) -> None:
    page = open_page("refused-e529")
    ask(page)
    until(page, "error")
    expect(page.get_by_role("alert")).to_contain_text("can't answer now")
    assert shown(page) == ""


def test_a_model_that_nobody_knows_is_told(open_page: Open) -> None:
    page = open_page("unused", provider="nobody")
    ask(page)
    until(page, "error")
    expect(page.get_by_role("alert")).to_contain_text("unknown model 'nobody/unused'")


def test_an_error_in_the_middle_is_told_below_what_came(open_page: Open) -> None:
    model = "broken-n20-i10-err9"
    page = open_page(model)
    ask(page)
    until(page, "error")
    assert shown(page) == text_after(model, 9).strip()
    assert page.get_by_role("alert").inner_text()


def test_nobody_there_is_told(open_page: Open, server: Service) -> None:
    page = open_page("unreachable")
    page.route("**/v1/streams", lambda route: route.abort())
    ask(page)
    until(page, "error")
    assert page.get_by_role("alert").inner_text() == "The connection was lost."


def test_another_model_goes_on_behind_what_stands(open_page: Open) -> None:
    page = open_page("unused")
    recovered = {"type": "recovered", "from": "a", "to": "b", "kept_chars": 3}
    answering(page, native(START, text("a🚢b🚢"), recovered, text("c"), FINISH))
    ask(page)
    until(page, "done")
    assert shown(page) == "a🚢bc"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_stream_is_read_by_the_standard(open_page: Open, end: str) -> None:
    lines = [
        "\ufeff: a comment, and a field that nobody knows",
        "unknown: x",
        "id: 1",
        'data:{"type": "start",',
        'data: "id": "strm_1"}',
        "",
        "event: ping",
        "id",
        "",
        "id: 2",
        "retry: 10",
        'data: {"type": "text", "text": "é🚢\u2028\u0085 a"}',
        "",
        "",
        "id: \0",
        ": ping",
        "id: 3",
        "data:  ",
        'data: {"type": "text", "text": "b: c"}',
        "",
        "id: 4",
        "data: " + json.dumps(FINISH),
        "",
        "data: [DONE]",
        "",
        "id: 5",
        'data: {"type": "text", "text": "unfinished"}',
    ]
    page = open_page("unused")
    for size in (1, 2, 3, 7, None):
        answering(page, end.join(lines), at=size)
        ask(page)
        until(page, "done")
        assert page.get_by_label("Answer").text_content() == "é🚢\u2028\u0085 ab: c"
        page.evaluate("() => { unmount(); sessionStorage.clear(); mount(); }")


TYPESCRIPT = ROOT / "examples/nextjs/node_modules"
USED = """
import { type Status, useSluiceway } from "HOOK";

export function Used() {
  const { text, status, error, usage, send, stop } = useSluiceway({ headers: () => ({ Authorization: "Bearer x" }) });
  const shown: [string, Status, string | undefined, number | undefined] = [
    text, status, error?.code, usage?.output_tokens,
  ];
  // @ts-expect-error: a question is a string or the fields of one
  const wrong = () => send(7);
  return <p onClick={() => { send("x"); send({ model: "m", prompt: "x" }); stop(); wrong(); }}>{shown}</p>;
}
"""


def test_its_types_hold_in_a_project_of_typescript(tmp_path: Path) -> None:
    if not (TYPESCRIPT / ".packages").exists():
        pytest.skip("TypeScript is not installed: make clients")
    hook = ROOT / "examples/react/useSluiceway.js"
    (tmp_path / "used.tsx").write_text(USED.replace("HOOK", str(hook)))
    react = TYPESCRIPT / "@types/react"
    options = {
        **dict.fromkeys(("strict", "noEmit", "checkJs", "skipLibCheck"), True),
        "target": "es2022",
        "lib": ["dom", "dom.iterable", "esnext"],
        "module": "esnext",
        "moduleResolution": "bundler",
        "jsx": "react-jsx",
        "types": [],
        "paths": {"react": [str(react)], "react/jsx-runtime": [str(react / "jsx-runtime")]},
    }
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["used.tsx"]}))
    program = [NODE, TYPESCRIPT / "typescript/bin/tsc", "--project", tmp_path]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
