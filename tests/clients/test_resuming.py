"""What it means to real, unmodified clients that an answer can be gone on with: they are cut off, killed, come back by
their own means, to one of two workers; or they stop it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import pytest
import requests
from conftest import Service, eventually
from driving import Drivers, Seen, installed

from app.testing import FakeProvider, answer

KEYS = ("sk-one-that-is-accepted", "sk-another-that-is-accepted")


class Services(NamedTuple):
    provider: FakeProvider
    open: Service
    keyed: Service  # with API keys


@pytest.fixture(scope="module")
def services(start_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with FakeProvider() as provider:

        def started(name: str, **more: str) -> Service:
            store = tmp_path_factory.mktemp(name) / "sluiceway.db"
            env = {**provider.env, "SLUICEWAY_STORE__URL": f"sqlite:///{store}", **more}
            return start_service(env, "--workers", "2")

        hashes = json.dumps([hashlib.sha256(key.encode()).hexdigest() for key in KEYS])
        both = (started("open"), started("keyed", SLUICEWAY_SERVER__API_KEYS_SHA256=hashes))
        yield Services(provider, *both)
        for service in both:
            service.stop()


@pytest.fixture
def asked_of(services: Services) -> Callable[[str], int]:
    """How many requests the provider had for a model."""
    return lambda model: sum(request.body["model"] == model for request in services.provider.requests)


def drive(driver: str, way: str, **job: Any) -> Seen:
    """What came of a job, in a process that is killed as soon as that is known."""
    if not installed(driver):
        pytest.skip(f"{driver}: its client is not installed: make clients")
    asked = {"id": way, "way": way, "key": "", "leave_after": None, **job}
    with Drivers({driver: [asked]}, lambda _: True) as running:
        return running.seen(way)


def page(services: Services, way: str, chat: str, model: str, provider: str = "openai", **job: Any) -> Seen:
    """A page with a chat of the AI SDK's in it. `chars`: of text, until it is killed, or has it stopped."""
    more = {"chat": chat, "model": f"{provider}/{model}", "messages": [], "chars": 40, **job}
    return drive("use_chat_resume.mjs", way, **{"url": services.open.url, **more})


def text_of(message: dict[str, Any], kind: str = "text") -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == kind)


def written(services: Services, model: str) -> None:
    """Wait until the answer has ended, whoever reads it."""
    done = services.provider.wait_for(lambda stats: stats.open_streams == 0, 20)
    assert done.requests


class Cutting:
    """In front of the service: it breaks off its first connections, each behind the first occurrence of so-and-so in
    what the service sends; all later ones go through. `cut`: what those that were broken off had brought."""

    def __init__(self, port: int, *behind: bytes) -> None:
        self._target = port
        self._behind = list(behind)
        self._mended = False
        self.cut: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def mend(self) -> None:
        """From now on all connections go through, those that there are too."""
        self._mended = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                behind = self._behind.pop(0) if self._behind else None
                service = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._up, args=[client, service], daemon=True).start()
                threading.Thread(target=self._down, args=[service, client, behind], daemon=True).start()

    def _up(self, client: socket.socket, service: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                service.sendall(data)
        with contextlib.suppress(OSError):
            service.shutdown(socket.SHUT_RDWR)

    def _down(self, service: socket.socket, client: socket.socket, behind: bytes | None) -> None:
        brought = b""
        with contextlib.suppress(OSError), service, client:
            while data := service.recv(65536):
                if behind is not None and not self._mended and behind in brought + data:
                    end = (brought + data).index(behind) + len(behind)
                    client.sendall(data[: end - len(brought)])
                    self.cut.append((brought + data)[:end])
                    client.shutdown(socket.SHUT_RDWR)
                    service.shutdown(socket.SHUT_RDWR)
                    return
                brought += data
                client.sendall(data)


def created(services: Services, model: str, **more: Any) -> tuple[str, requests.Response]:
    """A resumable stream's path, and the response that creates it."""
    body = {"model": f"openai/{model}", "prompt": "hi", "resumable": True}
    response = requests.post(f"{services.open.url}/v1/streams", json=body, stream=True, timeout=30, **more)
    assert response.status_code == 200, response.text
    return response.headers["Location"], response


def frames(body: bytes) -> list[tuple[int, dict[str, Any]]]:
    """The numbered events of a native stream."""
    found = []
    for frame in body.decode().split("\n\n"):
        lines = [line for line in frame.split("\n") if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines if line)
        if "id" in fields:
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


# --- the AI SDK ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["resume", "hook"])
def test_a_chat_without_an_answer_stays_as_it_is(services: Services, way: str) -> None:
    said = [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]
    seen = page(services, way, f"never-heard-of-{way}", "never", messages=said)
    assert seen["asked"] == [["GET", 204]]
    assert (seen["status"], seen["error"], seen["messages"], seen["finished"]) == ("ready", None, said, [])


@pytest.mark.parametrize("way", ["resume", "hook"])
@pytest.mark.parametrize("partial", [False, True], ids=["the question", "half of the answer"])
def test_a_page_goes_on_with_the_answer_that_another_began(
    services: Services, asked_of: Callable[[str], int], way: str, partial: bool
) -> None:
    model = f"{way}{partial}-n40-i30"
    chat = f"goes-on-{way}-{partial}"
    killed = page(services, "begin", chat, model)
    question, begun = killed["messages"]
    assert 40 <= len(text_of(begun)) < len(answer(model).text)
    seen = page(services, way, chat, model, messages=killed["messages"] if partial else [question])
    assert (seen["asked"], seen["status"], seen["error"]) == ([["GET", 200]], "ready", None)
    assert [message["id"] for message in seen["messages"]] == [question["id"], begun["id"]]
    assert text_of(seen["messages"][1]) == answer(model).text
    assert seen["finished"] == [[False, "stop"]]
    assert asked_of(model) == 1


@pytest.mark.parametrize("partial", [False, True], ids=["the question", "half of the answer"])
def test_a_page_that_comes_after_the_end_is_shown_the_whole(services: Services, partial: bool) -> None:
    model = f"ended{partial}-n40-i10-uni"
    chat = f"ended-{partial}"
    killed = page(services, "begin", chat, model)
    question, begun = killed["messages"]
    written(services, model)
    seen = page(services, "resume", chat, model, messages=killed["messages"] if partial else [question])
    assert [message["id"] for message in seen["messages"]] == [question["id"], begun["id"]]
    assert text_of(seen["messages"][1]) == answer(model).text
    assert seen["status"] == "ready"


def test_reasoning_and_calls_are_there_again(services: Services) -> None:
    model = "all-n20-i20-think8-tool2"
    killed = page(services, "begin", "all", model, chars=1)
    question, begun = killed["messages"]
    seen = page(services, "resume", "all", model, messages=[question])
    want = answer(model)
    message = seen["messages"][1]
    assert message["id"] == begun["id"]
    assert (text_of(message), text_of(message, "reasoning")) == (want.text, want.reasoning)
    calls = [part for part in message["parts"] if "toolCallId" in part]
    assert [part["toolCallId"] for part in calls] == [call.id for call in want.tool_calls]
    assert [part["input"] for part in calls] == [json.loads(call.arguments) for call in want.tool_calls]
    assert {part["state"] for part in calls} == {"input-available"}
    assert {part["state"] for part in message["parts"] if part["type"] == "text"} == {"done"}
    assert seen["finished"] == [[False, "tool-calls"]]


@pytest.mark.parametrize("chat", ["a/b c", "a//b", "a/", "/a", "//", "a\nb", "ä%2F?#", "stream", "a/stream", "日本"])
def test_an_id_is_whatever_the_app_takes_for_one(services: Services, chat: str) -> None:
    model = "named-n12"
    done = page(services, "whole", chat, model)
    seen = page(services, "resume", chat, model, messages=done["messages"][:1])
    assert seen["asked"] == [["GET", 200]]
    assert seen["messages"] == done["messages"]


SUNNY: dict[str, Any] = {"output": {"sun": True, "wind": [None, 1.5, "\u2028"]}}
FAILED: dict[str, Any] = {"state": "output-error", "errorText": "no such city"}


def before_the_last_step(message: dict[str, Any]) -> list[dict[str, Any]]:
    starts = [at for at, part in enumerate(message["parts"]) if part["type"] == "step-start"]
    parts: list[dict[str, Any]] = message["parts"][: starts[-1]]
    return parts


@pytest.mark.parametrize("has", ["the question", "the first step", "half of the second"])
def test_a_message_of_two_steps_is_gone_on_with_in_its_second(services: Services, has: str) -> None:
    """The page has answered the calls, and goes on with the same message."""
    model = f"{has.replace(' ', '')}-i30-tool2-once"
    killed = page(services, "tools", f"steps {has}", model, chars=20, outputs=[SUNNY])
    question, begun = killed["messages"]
    first = before_the_last_step(begun)
    assert [part["state"] for part in first if "toolCallId" in part] == ["output-available"] * 2
    shown = {"the question": [], "the first step": [{**begun, "parts": first}], "half of the second": [begun]}[has]
    seen = page(services, "resume", f"steps {has}", model, messages=[question, *shown])
    assert (seen["asked"], seen["status"], seen["error"]) == ([["GET", 200]], "ready", None)
    assert [message["id"] for message in seen["messages"]] == [question["id"], begun["id"]]
    message = seen["messages"][1]
    text = {"type": "text", "text": answer(model, step=1).text, "state": "done"}
    assert message["parts"] == [*first, {"type": "step-start"}, text]
    assert seen["tools"] == []  # nobody is asked again for what has its output


@pytest.mark.parametrize(
    ("provider", "parts", "outputs"),
    [
        ("openai", "n5-tool2-think4-once", [SUNNY]),
        ("anthropic", "n5-tool2-think4-once", [SUNNY]),
        ("openai", "tool3-once", [SUNNY, FAILED, {"output": None}]),
    ],
    ids=["thoughts and text", "thoughts that are signed", "an error among the outputs"],
)
def test_a_message_of_two_steps_is_the_same_again(
    services: Services, provider: str, parts: str, outputs: list[dict[str, Any]]
) -> None:
    model = f"twice-{parts}"
    done = page(services, "tools", f"{provider} {model}", model, provider, chars=None, outputs=outputs)
    assert [method for method, _ in done["asked"]] == ["POST", "POST"]
    for messages in (done["messages"][:1], done["messages"]):
        seen = page(services, "resume", f"{provider} {model}", model, messages=messages)
        assert (seen["asked"], seen["status"], seen["error"]) == ([["GET", 200]], "ready", None)
        assert seen["messages"] == done["messages"]
        assert seen["tools"] == []


def test_whatever_a_message_had_is_there_again(services: Services) -> None:
    """Parts that other services write, and other clients: as this one has them."""
    sealed = {"maker": {"seal": "s"}}
    called = {"toolCallId": "A", "input": {"city": "Zürich"}}
    asked = {"id": "approval", "requestReason": "it costs", "descriptor": {"price": 3}, "signature": "s"}
    allowed = {**asked, "approved": True, "reason": "go on"}
    parts: list[dict[str, Any]] = [
        {"type": "step-start"},
        {"type": "reasoning", "id": "thought", "text": "Hm", "state": "done", "providerMetadata": sealed},
        {"type": "reasoning", "id": "redacted", "text": "", "state": "done", "providerMetadata": sealed},
        {"type": "text", "text": "Let me see.", "state": "done", "providerMetadata": sealed},
        {"type": "text", "text": "", "state": "streaming"},
        {"type": "source-url", "sourceId": "s1", "url": "https://a.example", "title": "A", "providerMetadata": sealed},
        {"type": "source-document", "sourceId": "s2", "mediaType": "text/plain", "title": "B", "filename": "b.txt"},
        {"type": "data-weather", "id": "d1", "data": {"sun": None}},
        {"type": "data-weather", "data": None},
        {"type": "tool-look", **called, "state": "output-available", "output": 1, "approval": allowed},
        {"type": "step-start"},
        {
            **called,
            "type": "dynamic-tool",
            "toolName": "look",
            "toolCallId": "B",
            "state": "output-available",
            "output": "sun",
            "title": "Look",
            "toolMetadata": {"from": "there"},
            "providerExecuted": True,
            "preliminary": True,
            "callProviderMetadata": sealed,
            "resultProviderMetadata": {"maker": {"seal": "t"}},
        },
        {**called, "type": "dynamic-tool", "toolName": "look", "toolCallId": "C", "state": "output-error", **FAILED},
        {"type": "tool-look", **called, "toolCallId": "D", "input": "no JSON", "state": "output-error", **FAILED},
        {
            "type": "tool-look",
            "toolCallId": "E",
            "state": "input-streaming",
            "input": {"ci": "Z"},
            "rawInput": '{"ci":"Z',
        },
        {"type": "tool-look", "toolCallId": "F", "state": "input-streaming"},
        {"type": "step-start"},
        {
            **called,
            "type": "tool-look",
            "toolCallId": "G",
            "state": "output-denied",
            "approval": {**asked, "id": "another", "approved": False, "reason": "too much"},
        },
    ]
    said: list[dict[str, Any]] = [
        {"id": "q", "role": "user", "parts": [{"type": "text", "text": "hi"}]},
        {"id": "a", "role": "assistant", "metadata": {"from": {"elsewhere": [1]}}, "parts": parts},
    ]
    done = page(services, "more", "foreign", "foreign-n5", messages=said)
    assert (done["asked"], done["status"], done["error"]) == ([["POST", 200]], "ready", None)
    assert done["messages"][1]["parts"][: len(parts)] == parts
    seen = page(services, "resume", "foreign", "foreign-n5", messages=said[:1])
    assert (seen["asked"], seen["status"], seen["error"]) == ([["GET", 200]], "ready", None)
    denied = seen["messages"][1]["parts"][len(parts) - 1]
    assert json.loads(denied.pop("rawInput")) == denied["input"]  # the client keeps that until there is an output
    assert seen["messages"] == done["messages"]
    assert seen["tools"] == []


def test_who_asks_again_by_post_still_has_what_was_before(services: Services) -> None:
    parts = [
        {"type": "text", "text": "Let me see."},
        {"type": "tool-look", "toolCallId": "A", "input": {}, "state": "output-available", "output": 1},
    ]
    body = {
        "id": "posted again",
        "model": "openai/posted-n3",
        "messages": [
            {"id": "q", "role": "user", "parts": [{"type": "text", "text": "hi"}]},
            {"id": "a", "role": "assistant", "parts": parts},
        ],
    }
    url, key = f"{services.open.url}/api/chat", {"Idempotency-Key": "posted-again"}
    first, again = (requests.post(url, json=body, headers=key, timeout=30) for _ in range(2))
    assert first.headers["Location"] == again.headers["Location"]
    assert first.content == again.content
    assert b"Let me see." not in again.content
    assert b"Let me see." in requests.get(f"{url}/posted%20again/stream", timeout=30).content


@pytest.mark.parametrize("shows", [2, 3, 4], ids=["one answer", "another question", "another answer"])
def test_a_plain_answer_leaves_its_chat_to_the_one_before(services: Services, shows: int) -> None:
    chat, model = f"plain {shows}", "plain-n5"
    done = page(services, "whole", chat, model)
    asked = [*done["messages"], {"id": "q2", "role": "user", "parts": [{"type": "text", "text": "And then?"}]}]
    body = {"id": chat, "model": f"openai/{model}", "messages": asked, "resumable": False}
    plain = requests.post(f"{services.open.url}/api/chat", json=body, timeout=30)
    assert plain.status_code == 200
    assert "Location" not in plain.headers
    told = [*asked, {"id": "a2", "role": "assistant", "parts": [{"type": "text", "text": answer(model).text}]}]
    seen = page(services, "resume", chat, model, messages=told[:shows])
    assert (seen["asked"], seen["status"], seen["error"]) == ([["GET", 200]], "ready", None)
    assert seen["messages"] == told[:shows]


def test_an_answer_that_is_stopped_ends_for_its_page(services: Services) -> None:
    model = "stopped-n400-i30"
    seen = page(services, "stopped", "stopped", model)
    assert seen["stop"]["status"] == "stopping"
    services.provider.wait_for(
        lambda _: any(gone.request.body["model"] == model for gone in services.provider.departures)
    )
    assert (seen["status"], seen["error"]) == ("ready", None)
    message = seen["messages"][1]
    assert answer(model).text.startswith(text_of(message))
    assert {part["state"] for part in message["parts"] if part["type"] == "text"} == {"done"}
    assert message["metadata"]["usage"]["source"] == "estimated"
    again = page(services, "resume", "stopped", model, messages=seen["messages"][:1])
    assert again["messages"] == seen["messages"]


# --- EventSource ---------------------------------------------------------------------------------------------------


def test_an_event_source_comes_back_by_itself_until_it_has_everything(
    services: Services, asked_of: Callable[[str], int]
) -> None:
    model = "source-n40-i30"
    location, response = created(services, model)
    response.close()
    # Behind an event's number, in its text, and in the number.
    with Cutting(services.open.port, b"id: 5\n", b'id: 15\ndata: {"type":"te', b"id: 26") as cutting:
        seen = drive("event_source_resume.mjs", "follow", stream_url=f"{cutting.url}{location}")
    assert len(cutting.cut) == 3
    count = seen["ids"][-1]
    assert seen["ids"] == list(range(1, count + 1))
    assert seen["text"] == answer(model).text
    assert seen["events"][0] == "start"
    assert seen["events"][-3:] == ["usage", "finish", "[DONE]"]
    assert seen["asked"] == [[None, 200], ["4", 200], ["14", 200], ["25", 200], [str(count), 204]]
    assert min(seen["waits"]) >= 900  # ms: its own pause, which nothing of ours has changed
    assert asked_of(model) == 1


# --- fetch-event-source --------------------------------------------------------------------------------------------


_TAKEN_TOO_EARLY = pytest.mark.xfail(
    strict=True, reason="it takes a number for read with the line, not with the frame, and ours come first in theirs"
)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param([b"id: 9", b"id: 20"], id="between two"),
        pytest.param([b"id: 9\ndata: {", b"id: 20\n"], id="in one", marks=_TAKEN_TOO_EARLY),
    ],
)
def test_what_posts_again_attaches_and_pays_once(
    services: Services, asked_of: Callable[[str], int], behind: list[bytes]
) -> None:
    model = f"again{len(behind[1])}-n40-i30"
    with Cutting(services.open.port, *behind) as cutting:
        seen = drive(
            "fetch_event_source_resume.mjs",
            "post",
            url=cutting.url,
            model=f"openai/{model}",
            idempotency_key=f"key-{model}",
        )
    assert len(cutting.cut) == 2
    assert asked_of(model) == 1
    assert len(seen["asked"]) == 3
    assert len({where for _, _, where in seen["asked"]}) == 1
    assert seen["ids"] == list(range(1, seen["ids"][-1] + 1))
    assert seen["text"] == answer(model).text
    assert (seen["finish"], seen["done"], seen["error"]) == ("stop", True, None)


# --- Python --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sseclient", "httpx2", "lines"])
@pytest.mark.parametrize("parts", ["n40-i10", "n40-i10-uni-think4", "n10-i20-tool2-think4"])
def test_a_reader_goes_on_behind_its_last_event(
    services: Services, asked_of: Callable[[str], int], way: str, parts: str
) -> None:
    model = f"{way}-{parts}"
    seen = drive("resuming.py", way, url=services.open.url, model=f"openai/{model}", leave_after=3)
    want = answer(model)
    assert seen["error"] is None
    assert (seen["text"], seen["reasoning"], seen["finish"]) == (want.text, want.reasoning, want.finish_reason)
    assert [call[0] for call in seen["calls"]] == [call.id for call in want.tool_calls]
    assert seen["usage"] == [want.input_tokens, want.output_tokens]
    assert asked_of(model) == 1


# --- idempotency keys, API keys, DELETE ----------------------------------------------------------------------------


def post(service: Service, model: str, key: str, api_key: str = "", **more: Any) -> requests.Response:
    body = {"model": f"openai/{model}", "prompt": "hi", "resumable": True, **more}
    headers = {"Idempotency-Key": key, **bearer(api_key)}
    return requests.post(f"{service.url}/v1/streams", json=body, headers=headers, timeout=30)


def bearer(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def said(response: requests.Response) -> tuple[str, str]:
    """A native stream's id, and its text."""
    events = [event for _, event in frames(response.content)]
    return events[0]["id"], "".join(event["text"] for event in events if event["type"] == "text")


def test_two_at_once_with_one_key_share_an_answer(services: Services, asked_of: Callable[[str], int]) -> None:
    model = "twice-n40-i10"
    with ThreadPoolExecutor(8) as pool:
        both = list(pool.map(lambda _: post(services.open, model, "twice"), range(8)))
    assert [response.status_code for response in both] == [200] * 8
    heard = {said(response) for response in both}
    assert [text for _, text in heard] == [answer(model).text]
    assert {response.headers["Location"] for response in both} == {f"/v1/streams/{heard.pop()[0]}"}
    assert asked_of(model) == 1
    assert said(post(services.open, model, "twice"))[1] == answer(model).text  # after its end, too
    assert asked_of(model) == 1


def test_a_key_belongs_to_its_request(services: Services, asked_of: Callable[[str], int]) -> None:
    assert post(services.open, "first-n4", "mine").status_code == 200
    other = post(services.open, "second-n4", "mine")
    assert other.status_code == 400
    assert other.json()["error"]["code"] == "invalid_request"
    assert "Idempotency-Key" in other.json()["error"]["message"]
    assert asked_of("second-n4") == 0
    for wrong in ("", "a b", "x" * 256):
        assert post(services.open, "second-n4", wrong).status_code == 400


def test_a_stream_is_its_api_keys_own(services: Services, asked_of: Callable[[str], int]) -> None:
    ours, theirs = KEYS
    model = "owned-n20"
    mine = post(services.keyed, model, "same", ours)
    stream = f"{services.keyed.url}{mine.headers['Location']}"
    for method in ("GET", "DELETE"):
        stranger = requests.request(method, stream, headers=bearer(theirs), timeout=30)
        nowhere = requests.request(method, f"{services.keyed.url}/v1/streams/x", headers=bearer(theirs), timeout=30)
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (404, "not_found")
        assert stranger.json()["error"]["message"] == nowhere.json()["error"]["message"]
        assert requests.request(method, stream, timeout=30).status_code == 401
    assert said(requests.get(stream, headers=bearer(ours), timeout=30)) == said(mine)
    assert requests.get(stream, headers={"x-api-key": ours}, timeout=30).content == mine.content
    other = post(services.keyed, model, "same", theirs)
    assert said(other)[1] == said(mine)[1]
    assert said(other)[0] != said(mine)[0]
    assert asked_of(model) == 2


def test_a_chat_is_its_api_keys_own(services: Services) -> None:
    ours, theirs = KEYS
    model = "chat-n12"
    done = page(services, "whole", "same", model, url=services.keyed.url, key=ours)
    question = done["messages"][:1]
    stranger = page(services, "resume", "same", model, url=services.keyed.url, key=theirs, messages=question)
    assert (stranger["asked"], stranger["status"], stranger["messages"]) == ([["GET", 204]], "ready", question)
    where = f"{services.keyed.url}/api/chat/same/stream"
    assert requests.delete(where, headers=bearer(theirs), timeout=30).status_code == 204
    assert requests.delete(where, timeout=30).status_code == 401
    assert requests.get(where, timeout=30).status_code == 401
    seen = page(services, "resume", "same", model, url=services.keyed.url, key=ours, messages=question)
    assert seen["messages"] == done["messages"]


def test_a_stop_is_the_end_for_every_reader(services: Services) -> None:
    model = "delete-n400-i30"
    location, response = created(services, model)
    url = f"{services.open.url}{location}"
    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(lambda: requests.get(url, timeout=30).content) for _ in range(4)]
        mine = pool.submit(lambda: response.content)
        eventually(lambda: any(request.body["model"] == model for request in services.provider.requests))
        curl = ["curl", "--silent", "--fail", "--request", "DELETE", url]
        told = json.loads(subprocess.run(curl, capture_output=True, check=True, timeout=30).stdout)
        assert told == {"id": location.rpartition("/")[2], "status": "stopping"}
        bodies = {mine.result(30), *(reader.result(30) for reader in readers)}
    assert len(bodies) == 1
    events = [event for _, event in frames(bodies.pop())]
    assert [event["type"] for event in events[-2:]] == ["usage", "finish"]
    assert events[-2]["source"] == "estimated"
    assert events[-1]["reason"] == "cancelled"
    services.provider.wait_for(
        lambda _: any(gone.request.body["model"] == model for gone in services.provider.departures)
    )
    again = requests.delete(url, timeout=30)
    assert (again.status_code, again.json()["status"]) == (200, "ended")


def test_leaving_ends_an_answer_that_is_not_to_be_resumed(services: Services) -> None:
    model = "plain-n400-i30"
    asked = {
        "id": "plain",
        "model": f"openai/{model}",
        "resumable": False,
        "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}],
    }
    with requests.post(f"{services.open.url}/api/chat", json=asked, stream=True, timeout=30) as response:
        assert "Location" not in response.headers
        assert next(response.iter_lines())
    services.provider.wait_for(
        lambda _: any(gone.request.body["model"] == model for gone in services.provider.departures)
    )
    assert requests.get(f"{services.open.url}/api/chat/{quote('plain')}/stream", timeout=30).status_code == 204
