"""Answers that break off after they have begun, from both sides: what the caller got, and what providers were asked.

An alias `o-same-cut7` is OpenAI's `fake-n12-uni-cut7` with a fallback that gives the same answer; the other words are
in `MENDERS`. `a-...` is Anthropic's, with the fallback at OpenAI.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import anthropic
import openai
import pytest
import requests
from callers import STREAMED, Caller, Watched, request_bytes
from callers import watched as under_watch
from conftest import Service, eventually
from scraped import Numbers
from test_failures import CHAT, MESSAGES
from test_failures import expected as code_on
from test_heartbeats import apart
from test_routes import Door
from test_tries import PROVIDERS, ask, asked, line_of

from app import create_app
from app.testing import FakeProvider, answer, text_after

NATIVE = "/v1/streams"
ROUTES = (CHAT, MESSAGES, NATIVE)
SAYS = "fake-n12-uni"
BACKUP = "backup-n5"
FAULTS = ("cut7", "rst7", "eof7", "bad7", "err7", "stall7")
CODES = {"err7": "provider_overloaded", "stall7": "idle_timeout"}  # the others' is stream_broken

# How the fallback mends it: its model, what is set for it, and whether it is asked to go on (else: from the beginning).
MENDERS = {
    "same": (SAYS, "", False),
    "cont": (f"{SAYS}-cont", "prefill = true", True),
    "again": (f"{SAYS}-again3", "prefill = true", True),
    "begins": (SAYS, "prefill = true", True),  # with the beginning, in spite of the prefill
}


def model_of(fault: str) -> str:
    return f"{SAYS}-{fault}"


def alias(name: str, provider: str, target: str, *fallbacks: str, more: str = "") -> str:
    return f'[models."{name}"]\ntarget = "{provider}/{target}"\nfallbacks = {json.dumps(fallbacks)}\n{more}\n'


def aliases() -> Iterator[str]:
    for one, other in PROVIDERS.items():
        short = one[0]
        for word, (says, how, _) in MENDERS.items():
            yield alias(f"{short}-mends-{word}", other, says, more=how)
        for fault in FAULTS:
            clock = "idle_s = 0.3" if fault == "stall7" else ""
            for word in MENDERS:
                yield alias(f"{short}-{word}-{fault}", one, model_of(fault), f"{short}-mends-{word}", more=clock)
            yield alias(f"{short}-other-{fault}", one, model_of(fault), f"{other}/{BACKUP}", more=clock)
            yield alias(f"{short}-alone-{fault}", one, model_of(fault), more=clock)
        yield alias(f"{short}-refuses", other, f"{SAYS}-noprefill", more="prefill = true")
        yield alias(f"{short}-refused-cut7", one, model_of("cut7"), f"{short}-refuses")
        yield alias(f"{short}-refuses-all", other, f"{SAYS}-e400", more="prefill = true")
        yield alias(f"{short}-refused-all-cut7", one, model_of("cut7"), f"{short}-refuses-all")
        yield alias(f"{short}-off", one, model_of("cut7"), f"{short}-mends-same", more='recovery = "off"')
        yield alias(f"{short}-restart", one, model_of("cut7"), f"{short}-mends-cont", more='recovery = "restart"')
        yield alias(f"{short}-twice", one, model_of("cut3"), f"{other}/{model_of('rst8')}", f"{short}-mends-same")
        yield alias(f"{short}-flaps", one, model_of("cut7-times1"))
        yield alias(f"{short}-goes-on-itself", one, f"{SAYS}-cut7-times1-cont", more="prefill = true")
        yield alias(f"{short}-tools", one, "fake-n5-tool2-cut9", f"{other}/fake-n5-tool2")
        yield alias(f"{short}-before-tools", one, "fake-n5-tool2-cut4", f"{other}/fake-n5-tool2")
        yield alias(f"{short}-thinks", one, f"{SAYS}-think3-cut7", f"{other}/{SAYS}-think3")
        yield alias(f"{short}-late", one, model_of("cut7"), f"{other}/{SAYS}-f1200")
        yield alias(f"{short}-hangs", one, model_of("cut7"), f"{other}/{SAYS}-f60000")
        yield alias(f"{short}-third", one, model_of("cut7"), f"{other}/{SAYS}-e400", f"{short}-mends-same")
        yield alias(f"{short}-down", one, model_of("cut7-times1"), f"{other}/{SAYS}-e503")
        yield alias(f"{short}-filters", one, model_of("cut7"), f"{other}/{SAYS}-filter")


Start = Callable[..., Service]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory, fake_provider_server: FakeProvider) -> dict[str, str]:
    file = tmp_path_factory.mktemp("broken-off") / "sluiceway.toml"
    file.write_text("".join(aliases()))
    return {
        **fake_provider_server.env,
        "SLUICEWAY_CONFIG": str(file),
        "SLUICEWAY_RETRY__ATTEMPTS": "3",
        "SLUICEWAY_RETRY__BACKOFF_S": "0.05",
    }


@pytest.fixture(scope="module")
def watched(start_service: Start, environ: dict[str, str]) -> Iterator[Watched]:
    one = under_watch(start_service, environ)
    yield one
    one.assert_no_complaint()
    one.service.stop()


@pytest.fixture(scope="module")
def service(watched: Watched) -> Service:
    return watched.service


class Heard:
    """A streamed answer as its client has it in the end: every format's own rules are checked on the way."""

    def __init__(self, route: str, body: bytes) -> None:
        self.text = ""
        self.reasoning = ""
        self.models: list[str] = []  # as they change
        self.code = ""  # of the error it ended with; "": it is whole
        self.usage: dict[str, int] | None = None
        self.kept: list[int] = []
        self._route = route
        self._open: int | None = None
        self._blocks = 0
        self._ids: set[str] = set()
        self._over = False
        lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
        done = lines[-1] == "[DONE]"
        for line in lines[:-1] if done else lines:
            assert not self._over, f"after the end: {line}"
            {CHAT: self._chat, MESSAGES: self._message, NATIVE: self._native}[route](json.loads(line))
        assert self._over or (route == CHAT and done and self.models)
        assert done is (route == NATIVE or (route == CHAT and not self.code))
        assert len(self._ids) == 1 or (self.code and not self.models)  # it failed before it began

    def _chat(self, data: dict[str, Any]) -> None:
        if "error" in data:
            self.code, self._over = data["error"]["code"], True
            return
        self._ids.add(data["id"])
        self._named(data["model"])
        for choice in data["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.reasoning += choice["delta"].get("reasoning_content") or ""

    def _message(self, data: dict[str, Any]) -> None:
        match data["type"]:
            case "message_start":
                self._ids.add(data["message"]["id"])
                self._named(data["message"]["model"])
            case "content_block_start":
                assert self._open is None
                assert data["index"] == self._blocks
                self._open = data["index"]
                self._blocks += 1
            case "content_block_delta":
                assert data["index"] == self._open
                self.text += data["delta"].get("text", "")
                self.reasoning += data["delta"].get("thinking", "")
            case "content_block_stop":
                assert data["index"] == self._open
                self._open = None
            case "message_delta":
                assert self._open is None
                self.usage = data["usage"]
            case "message_stop":
                self._over = True
            case "error":
                self.code, self._over = data["error"]["type"], True

    def _native(self, data: dict[str, Any]) -> None:
        match data["type"]:
            case "start":
                self._ids.add(data["id"])
                self._named(data["model"])
            case "text":
                self.text += data["text"]
            case "reasoning":
                self.reasoning += data["text"]
            case "recovered":
                self.kept.append(data["kept_chars"])
                self.text = self.text[: data["kept_chars"]]
            case "finish":
                self._over, self.usage = True, data["usage"]
            case "error":
                self.code, self._over = data["code"], True

    def _named(self, model: str) -> None:
        if model not in self.models:
            self.models.append(model)


def heard(service: Service, route: str, model: str, **more: Any) -> Heard:
    response = ask(service, route, model, **more)
    assert response.status_code == 200, response.text
    return Heard(route, response.content)


def expected(route: str, code: str) -> str:
    return code if route == NATIVE else code_on(route, code)


WHOLE = answer(SAYS).text
BEGUN = text_after(SAYS, 7)

# By the names of the aliases, on every route.
ALIASED = [replace(door, own_names=True) for door in STREAMED]

both = pytest.mark.parametrize("provider", PROVIDERS)
everywhere = pytest.mark.parametrize("route", ROUTES)
whatever = pytest.mark.parametrize("fault", FAULTS)


@whatever
@everywhere
@both
@pytest.mark.parametrize("mender", MENDERS)
def test_the_fallback_makes_it_whole(
    service: Service, fake_provider: FakeProvider, provider: str, route: str, fault: str, mender: str
) -> None:
    began = time.monotonic()
    response = ask(service, route, f"{provider[0]}-{mender}-{fault}")
    got = Heard(route, response.content)
    assert (got.text, got.code, got.kept) == (WHOLE, "", [])
    assert time.monotonic() - began < 20
    says, _, prefilled = MENDERS[mender]
    assert asked(fake_provider) == [model_of(fault), says]
    if route == CHAT:
        assert got.models == [model_of(fault), says]  # each chunk names the model that said it
    first, second = (request.body["messages"] for request in fake_provider.requests)
    assert second[: len(first)] == first
    assert [(one["role"], one["content"]) for one in second[len(first) :]] == [("assistant", BEGUN)] * prefilled
    line = line_of(service, response)
    assert (line["outcome"], line["attempts"], line["code"]) == ("finished", 2, None)
    assert (line["provider"], line["model"], line["usage_source"]) == (PROVIDERS[provider], says, "provider")


@whatever
@everywhere
@both
def test_another_answer_is_never_passed_off_as_the_same(
    service: Service, fake_provider: FakeProvider, provider: str, route: str, fault: str
) -> None:
    response = ask(service, route, f"{provider[0]}-other-{fault}")
    got = Heard(route, response.content)
    assert asked(fake_provider) == [model_of(fault), BACKUP]
    line = line_of(service, response)
    if route == NATIVE:  # the one that can say so
        assert (got.text, got.code) == (answer(BACKUP).text, "")
        assert len(got.kept) == 1
        assert (line["outcome"], line["attempts"], line["model"]) == ("finished", 2, BACKUP)
    else:
        code = CODES.get(fault, "stream_broken")
        assert (got.text, got.code) == (BEGUN, expected(route, code))
        assert (line["outcome"], line["attempts"], line["code"]) == ("error", 2, code)
        assert line["output_tokens"] > 0
        if line["usage_source"] == "provider":  # the other answer came in one read, its usage with it
            assert line["output_tokens"] == answer(BACKUP).output_tokens
    eventually(lambda: fake_provider.stats().open_streams == 0)


@pytest.mark.parametrize("door", [door for door in ALIASED if door.path not in ROUTES], ids=str)
def test_the_simple_formats_as_well(service: Service, fake_provider: FakeProvider, door: Door) -> None:
    for mender, whole in (("same", True), ("cont", True), ("other", door.name == "ndjson")):
        with Caller(("127.0.0.1", service.port), request_bytes(door, f"{door.provider[0]}-{mender}-cut7")) as caller:
            caller.read_until(b"\r\n0\r\n\r\n")
        body = caller.body.decode()
        assert ("stream_broken" not in body and "[Error" not in body and '"error"' not in body) is whole, body
        if mender != "other":
            assert answer(SAYS).text.rpartition(" ")[2] in body.replace("\\u0085", "\x85")


@both
@everywhere
def test_a_refused_prefill_is_asked_from_the_beginning(
    service: Service, fake_provider: FakeProvider, provider: str, route: str
) -> None:
    got = heard(service, route, f"{provider[0]}-refused-cut7")
    assert (got.text, got.code) == (WHOLE, "")
    assert asked(fake_provider) == [model_of("cut7"), f"{SAYS}-noprefill", f"{SAYS}-noprefill"]
    assert [request.body["messages"][-1]["role"] for request in fake_provider.requests] == ["user", "assistant", "user"]


@both
@everywhere
@pytest.mark.parametrize("model", ["refused-all-cut7", "filters"])
def test_what_the_fallback_refuses_is_not_what_the_caller_hears(
    service: Service, fake_provider: FakeProvider, provider: str, route: str, model: str
) -> None:
    got = heard(service, route, f"{provider[0]}-{model}")
    assert (got.text, got.code) == (BEGUN, expected(route, "stream_broken"))


@both
@everywhere
def test_what_one_fallback_refuses_another_may_answer(
    service: Service, fake_provider: FakeProvider, provider: str, route: str
) -> None:
    got = heard(service, route, f"{provider[0]}-third")
    assert (got.text, got.code) == (WHOLE, "")
    assert asked(fake_provider) == [model_of("cut7"), f"{SAYS}-e400", SAYS]


@both
def test_where_the_fallback_is_left_alone_the_same_target_is_asked(
    start_service: Start, environ: dict[str, str], fake_provider: FakeProvider, provider: str
) -> None:
    service = start_service(
        {**environ, "SLUICEWAY_BREAKER__FAILURES": "1", "SLUICEWAY_BREAKER__COOLDOWN_S": "60", "WEB_CONCURRENCY": "1"}
    )
    assert ask(service, CHAT, f"{PROVIDERS[provider]}/{SAYS}-e503").status_code == 503
    got = heard(service, CHAT, f"{provider[0]}-down")
    assert (got.text, got.code) == (WHOLE, "")
    assert asked(fake_provider) == [f"{SAYS}-e503"] + [model_of("cut7-times1")] * 2
    service.stop()


@both
@everywhere
def test_off_is_off(service: Service, fake_provider: FakeProvider, provider: str, route: str) -> None:
    got = heard(service, route, f"{provider[0]}-off")
    assert (got.text, got.code) == (BEGUN, expected(route, "stream_broken"))
    assert asked(fake_provider) == [model_of("cut7")]


@both
@everywhere
def test_restart_prefills_nobody(service: Service, fake_provider: FakeProvider, provider: str, route: str) -> None:
    got = heard(service, route, f"{provider[0]}-restart")
    assert (got.text, got.code) == (WHOLE, "")
    assert [request.body["messages"][-1]["role"] for request in fake_provider.requests] == ["user", "user"]


@both
@everywhere
def test_what_breaks_off_twice_is_mended_twice(
    service: Service, fake_provider: FakeProvider, provider: str, route: str
) -> None:
    got = heard(service, route, f"{provider[0]}-twice")
    assert (got.text, got.code) == (WHOLE, "")
    assert asked(fake_provider) == [model_of("cut3"), model_of("rst8"), SAYS]


@both
@everywhere
def test_without_a_fallback_the_same_target_is_asked(
    service: Service, fake_provider: FakeProvider, provider: str, route: str
) -> None:
    got = heard(service, route, f"{provider[0]}-flaps")
    assert (got.text, got.code) == (WHOLE, "")
    assert asked(fake_provider) == [model_of("cut7-times1")] * 2
    fake_provider.reset()
    got = heard(service, route, f"{provider[0]}-goes-on-itself")
    assert (got.text, got.code) == (WHOLE, "")
    assert [request.body["messages"][-1]["role"] for request in fake_provider.requests] == ["user", "assistant"]


@whatever
@both
@everywhere
def test_what_lasts_ends_by_its_error(
    service: Service, fake_provider: FakeProvider, provider: str, route: str, fault: str
) -> None:
    got = heard(service, route, f"{provider[0]}-alone-{fault}")
    assert (got.text, got.code) == (BEGUN, expected(route, CODES.get(fault, "stream_broken")))
    assert len(asked(fake_provider)) == (1 if fault == "stall7" else 3)  # who is silent is not asked again
    assert heard(service, route, f"{provider}/{SAYS}").text == WHOLE  # a healthy request right after


@both
@everywhere
def test_nothing_follows_a_tool_call(service: Service, fake_provider: FakeProvider, provider: str, route: str) -> None:
    got = heard(service, route, f"{provider[0]}-tools")
    assert (got.text, got.code) == (text_after("fake-n5-tool2", 5), expected(route, "stream_broken"))
    assert len(asked(fake_provider)) == 1
    got = heard(service, route, f"{provider[0]}-before-tools")
    assert (got.text, got.code) == (answer("fake-n5-tool2").text, "")


class Unfinished(BaseHTTPRequestHandler):
    """A provider of both protocols whose answers hold what only its own clients understand, and break off in it."""

    asked: ClassVar[list[str]] = []
    chat: ClassVar[list[Any]] = [
        {"role": "assistant", "content": "One"},
        {"function_call": {"name": "look_up", "arguments": '{"a":'}},
    ]
    messages: ClassVar[list[Any]] = [
        {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "One"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "server_tool_use", "id": "s"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"q":'}},
    ]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if self.path.endswith("messages"):
            frames = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in self.messages]
        else:
            chunks = [{"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]} for delta in self.chat]
            frames = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.wfile.write("".join(frames).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("route", [CHAT, MESSAGES])
def test_nothing_follows_what_only_the_client_understands(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unfinished)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Unfinished.asked.clear()
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-of-this-test")
        monkeypatch.setenv(f"{name}_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    model = "openai/m" if route == CHAT else "anthropic/m"
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 9}
    got = create_app().test_client().post(route, json=body).get_data(as_text=True)
    server.shutdown()
    server.server_close()
    assert ("look_up" if route == CHAT else "server_tool_use") in got
    assert ("stream_broken" if route == CHAT else "api_error") in got
    assert len(Unfinished.asked) == 1


@both
@everywhere
def test_reasoning_is_given_once(service: Service, fake_provider: FakeProvider, provider: str, route: str) -> None:
    got = heard(service, route, f"{provider[0]}-thinks")
    assert (got.text, got.code) == (WHOLE, "")
    assert got.reasoning == answer(f"{SAYS}-think3").reasoning


@both
def test_what_is_left_of_max_tokens_is_asked_for(service: Service, fake_provider: FakeProvider, provider: str) -> None:
    for route in (CHAT, MESSAGES):
        fake_provider.reset()
        assert heard(service, route, f"{provider[0]}-cont-cut7", max_tokens=100).text == WHOLE
        limits = [
            request.body.get("max_tokens") or request.body["max_completion_tokens"]
            for request in fake_provider.requests
        ]
        assert limits[0] == 100
        assert 93 <= limits[1] < 100  # seven have been said, in as many reads or fewer
        fake_provider.reset()
        assert heard(service, route, f"{provider[0]}-same-cut7", max_tokens=100).text == WHOLE
        assert [request.body["max_tokens"] for request in fake_provider.requests] == [100, 100]


def test_a_request_of_instructions_alone_is_gone_on_with(service: Service, fake_provider: FakeProvider) -> None:
    """The text so far is then all that the conversation holds besides the system prompt."""
    for word in ("cont", "same"):
        body = {"model": f"o-{word}-cut7", "messages": [{"role": "system", "content": "Say hi."}], "stream": True}
        response = requests.post(service.url + CHAT, json=body, timeout=30)
        got = Heard(CHAT, response.content)
        # The fake provider, as Anthropic, refuses a conversation without a message: then the break is what is heard.
        assert (got.text, got.code) in ((WHOLE, ""), (BEGUN, "stream_broken"))
        assert line_of(service, response)["code"] != "internal"


@both
def test_usage_is_the_providers(service: Service, fake_provider: FakeProvider, provider: str) -> None:
    for route in (MESSAGES, NATIVE):
        usage = heard(service, route, f"{provider[0]}-same-cut7").usage
        assert usage is not None
        assert (usage["input_tokens"], usage["output_tokens"]) == (
            answer(SAYS).input_tokens,
            answer(SAYS).output_tokens,
        )


@both
def test_real_clients_read_one_answer(service: Service, fake_provider: FakeProvider, provider: str) -> None:
    for word in MENDERS:
        chat = openai.OpenAI(api_key="k", base_url=f"{service.url}/v1", max_retries=0)
        with chat.chat.completions.stream(
            model=f"{provider[0]}-{word}-cut7", messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            for _ in stream:
                pass
            assert stream.get_final_completion().choices[0].message.content == WHOLE
        messages = anthropic.Anthropic(api_key="k", base_url=service.url, max_retries=0)
        with messages.messages.stream(
            model=f"{provider[0]}-{word}-cut7", max_tokens=100, messages=[{"role": "user", "content": "hi"}]
        ) as said:
            assert said.get_final_text() == WHOLE
            assert len(said.get_final_message().content) == 1


# While it is being mended


@pytest.mark.parametrize("door", ALIASED, ids=str)
def test_heartbeats_go_on_meanwhile(
    start_service: Start, environ: dict[str, str], fake_provider: FakeProvider, hasty: Service, door: Door
) -> None:
    with Caller(("127.0.0.1", hasty.port), request_bytes(door, f"{door.provider[0]}-late")) as caller:
        caller.read_until(b"\r\n0\r\n\r\n")
    _, beats = apart(door, caller.body)
    assert beats >= 3 or door.name == "plain"


@pytest.fixture(scope="module")
def hasty(start_service: Start, environ: dict[str, str]) -> Iterator[Service]:
    service = start_service({**environ, "SLUICEWAY_SERVER__HEARTBEAT_S": "0.1"})
    yield service
    service.stop()


@pytest.mark.parametrize("door", ALIASED, ids=str)
def test_a_client_that_leaves_meanwhile_ends_it(watched: Watched, fake_provider: FakeProvider, door: Door) -> None:
    with Caller(watched.address, request_bytes(door, f"{door.provider[0]}-hangs")):
        eventually(lambda: len(asked(fake_provider)) == 2)
    eventually(lambda: fake_provider.stats().open_streams == 0, what="the end of the request upstream")
    eventually(lambda: watched.holds()["open_streams"] == 0, what="the place given back")


def test_a_drain_ends_it_by_its_own_error(
    start_service: Start, environ: dict[str, str], fake_provider: FakeProvider
) -> None:
    service = start_service({**environ, "SLUICEWAY_SERVER__DRAIN_S": "0.5"})
    door = next(door for door in ALIASED if str(door) == "chat-openai")
    with Caller(("127.0.0.1", service.port), request_bytes(door, "o-hangs")) as caller:
        eventually(lambda: len(asked(fake_provider)) == 2)
        service.process.send_signal(signal.SIGTERM)
        caller.read_until(b"\r\n0\r\n\r\n")
    assert b'"draining"' in caller.body
    service.process.wait(timeout=60)


def test_metrics_count_the_tries_where_they_were_made(
    start_service: Start, environ: dict[str, str], fake_provider: FakeProvider
) -> None:
    service = start_service(environ)
    for _ in range(3):
        assert heard(service, CHAT, "o-same-cut7").text == WHOLE
    seen = Numbers(requests.get(f"{service.url}/metrics", timeout=10).text)
    attempts = "sluiceway_attempts_total"
    assert seen[attempts, {"provider": "openai", "model": model_of("cut7"), "result": "stream_broken"}] == 3
    assert seen[attempts, {"provider": "anthropic", "model": SAYS, "result": "ok"}] == 3
    assert seen["sluiceway_streams_total", {"model": SAYS, "outcome": "finished"}] == 3
    assert seen["sluiceway_streams_total"] == 3
    service.stop()
