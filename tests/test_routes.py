"""Every route that answers, as DESIGN's table gives it: what it takes, the bytes it sends, how it fails half-way."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from conftest import Service

from app import create_app
from app.testing import FakeProvider, answer, text_after
from app.testing.answers import Text

EVENT_STREAM = "text/event-stream; charset=utf-8"
UNICODE = "fake-n16-uni"  # é, emoji, CJK, U+2028, U+0085, quotes, backslash, newline
BROKEN = "fake-n9-err5"


def tokens(model: str) -> list[str]:
    """The pieces of text that the provider sends, each of which becomes one event here."""
    return [delta.text for delta in answer(model).deltas if isinstance(delta, Text)]


class Frame(NamedTuple):
    """One SSE message, its fields as they stand in it; `data` is the JSON value, or the text `[DONE]`."""

    data: Any
    event: str | None = None
    id: str | None = None


DONE = Frame("[DONE]")


def frames(body: bytes) -> list[Frame]:
    """Every frame of a body that holds nothing else: no comment, no half frame at its end, one data line each."""
    *blocks, rest = body.decode().split("\n\n")
    assert rest == "", f"the body ends within a frame: {rest!r}"
    return [_frame(block) for block in blocks]


def _frame(block: str) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    assert len(fields) == block.count("\n") + 1, f"a field stands twice in {block!r}"
    data = fields.pop("data")
    return Frame(data if data == "[DONE]" else json.loads(data), **fields)


@dataclass(frozen=True)
class Door:
    """A streaming route: how it is asked, and how its text reads. `provider` is the one that answers."""

    name: str
    path: str
    provider: str
    ask: dict[str, Any]
    line_text: Callable[[str], str | None]
    method: str = "POST"
    content_type: str = EVENT_STREAM
    own_names: bool = False  # the route names the provider, `model` is one of the provider's own
    more: dict[str, Any] = field(default_factory=dict)
    posted: Callable[[dict[str, Any]], dict[str, Any]] = dict  # the body in the route's own shape

    def __str__(self) -> str:
        return f"{self.name}-{self.provider}"

    def body(self, model: str, prompt: str = "hi") -> dict[str, Any]:
        name = model if self.own_names else f"{self.provider}/{model}"
        asked = {key: value if value is not PROMPT else prompt for key, value in self.ask.items()}
        if asked.get("messages") is MESSAGES:
            asked["messages"] = [{"role": "user", "content": prompt}]
        return self.posted({"model": name, **asked, **self.more})

    def open(self, server: Service, model: str, prompt: str = "hi", **options: Any) -> requests.Response:
        sent = {"params" if self.method == "GET" else "json": self.body(model, prompt)}
        return requests.request(self.method, server.url + self.path, **sent, timeout=20, stream=True, **options)

    def stream(self, server: Service, model: str, prompt: str = "hi") -> bytes:
        with self.open(server, model, prompt) as response:
            assert response.status_code == 200, response.text
            return response.content


PROMPT, MESSAGES = object(), object()


def _data(line: str) -> Any:
    return json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}


def _chat_text(line: str) -> str | None:
    choices = _data(line).get("choices") or [{"delta": {}}]
    return choices[0]["delta"].get("content") or None


def _messages_text(line: str) -> str | None:
    return _data(line).get("delta", {}).get("text")


def _text(line: str) -> str | None:
    return _data(line).get("text") or None


def _token(line: str) -> str | None:
    return _data(line).get("token") or None


def _part(line: str) -> str | None:
    part = _data(line)
    return part["delta"] if part.get("type") in ("text-delta", "TEXT_MESSAGE_CONTENT") else None


def _ui_messages(body: dict[str, Any]) -> dict[str, Any]:
    """As `useChat` posts it, of an answer that ends with its client as all the others do."""
    parts = [
        {"id": f"m{at}", "role": said["role"], "parts": [{"type": "text", "text": said["content"]}]}
        for at, said in enumerate(body["messages"])
    ]
    return {**body, "id": "chat-1", "messages": parts, "trigger": "submit-message", "resumable": False}


def _run_input(body: dict[str, Any]) -> dict[str, Any]:
    """As AG-UI's `HttpAgent` posts it."""
    messages = [{"id": f"m{at}", **said} for at, said in enumerate(body.pop("messages"))]
    run = {"threadId": "thread-1", "runId": "run-1", "protocolVersion": "1.0", "state": {}, "tools": [], "context": []}
    return {**run, "messages": messages, "forwardedProps": body}


def _ndjson_text(line: str) -> str | None:
    return json.loads(line).get("text") if line else None


def _doors() -> Iterator[Door]:
    for provider in ("openai", "anthropic"):
        yield Door("chat", "/v1/chat/completions", provider, {"messages": MESSAGES, "stream": True}, _chat_text)
        yield Door("messages", "/v1/messages", provider, {"messages": MESSAGES, "stream": True}, _messages_text)
        yield Door("streams", "/v1/streams", provider, {"messages": MESSAGES}, _text)
        ndjson = {"prompt": PROMPT, "format": "ndjson"}
        yield Door("ndjson", "/v1/streams", provider, ndjson, _ndjson_text, content_type="application/x-ndjson")
        yield Door("text", f"/stream/{provider}/sse", provider, {"prompt": PROMPT}, _text, own_names=True)
        yield Door("post-chat", "/chat", provider, {"messages": MESSAGES}, _text)
        yield Door("get-chat", "/chat", provider, {"prompt": PROMPT}, _text, "GET")
        yield Door("token", "/chat/stream", provider, {"message": PROMPT}, _token)
        yield Door("meta", "/chat/stream-meta", provider, {"message": PROMPT}, _token)
        yield Door("ui", "/api/chat", provider, {"messages": MESSAGES}, _part, posted=_ui_messages)
        yield Door("agui", "/agui", provider, {"messages": MESSAGES}, _part, posted=_run_input)
    yield Door("token-anthropic", "/anthropic/stream", "anthropic", {"message": PROMPT}, _token, own_names=True)


LINES = list(_doors())  # the routes that answer in lines; plain text has none
PLAIN = [
    Door(
        "plain",
        f"/stream/{name}",
        name,
        {"prompt": PROMPT},
        str,
        content_type="text/plain; charset=utf-8",
        own_names=True,
    )
    for name in ("openai", "anthropic")
]
DOORS = [*LINES, *PLAIN]


def of(*names: str) -> Any:
    """The doors of these names, both providers, as parameters."""
    return pytest.mark.parametrize("door", [door for door in DOORS if door.name in names], ids=str)


def across(name: str, provider: str) -> Any:
    """The door `name`, answered by a provider of another protocol. (Of the same: tests/test_relay.py.)"""
    found = [door for door in DOORS if (door.name, door.provider) == (name, provider)]
    assert len(found) == 1
    return pytest.mark.parametrize("door", found, ids=str)


every_door = pytest.mark.parametrize("door", DOORS, ids=str)


# What each route sends, frame by frame.


@across("chat", "anthropic")
@pytest.mark.parametrize("with_usage", [False, True], ids=["", "usage"])
def test_chat_completions_streams_chunks(server: Service, door: Door, with_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    sent = {**door.body(UNICODE), **options}
    response = requests.post(server.url + door.path, json=sent, timeout=20)

    *chunks, done = frames(response.content)
    assert done == DONE
    assert {(chunk.event, chunk.id) for chunk in chunks} == {(None, None)}
    heads = {tuple(chunk.data[name] for name in ("id", "object", "created", "model")) for chunk in chunks}
    assert [(kind, model) for _, kind, _, model in heads] == [("chat.completion.chunk", UNICODE)]  # one identity
    counted = {"prompt_tokens": 25, "completion_tokens": 16, "total_tokens": 41}
    if with_usage:
        assert [chunk.data["usage"] for chunk in chunks] == [None] * (len(chunks) - 1) + [counted]
        assert chunks.pop().data["choices"] == []
    else:
        assert not any("usage" in chunk.data for chunk in chunks)
    deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in tokens(UNICODE)), {}]
    reasons = [None] * (len(deltas) - 1) + ["stop"]
    assert [chunk.data["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in zip(deltas, reasons, strict=True)
    ]


@of("chat")
def test_chat_completions_whole(server: Service, door: Door) -> None:
    sent = {**door.body(UNICODE), "stream": False}
    response = requests.post(server.url + door.path, json=sent, timeout=20)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    said = response.json()
    assert (said.pop("id")[:4], said.pop("created") > 0) in [("chat", True), ("msg_", True)]
    of_the_provider = {}
    if door.provider == "openai":  # what only its protocol knows is there as well
        assert (said.pop("service_tier"), said.pop("system_fingerprint")) == ("default", "fp_sluiceway")
        details = ("prompt_tokens_details", "completion_tokens_details")
        of_the_provider = {name: said["usage"][name] for name in details}
        assert of_the_provider["completion_tokens_details"]["accepted_prediction_tokens"] == 0
    assert said == {
        "object": "chat.completion",
        "model": UNICODE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer(UNICODE).text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 25, "completion_tokens": 16, "total_tokens": 41, **of_the_provider},
    }


@across("messages", "openai")
def test_messages_streams_named_events(server: Service, door: Door) -> None:
    events = frames(door.stream(server, UNICODE))
    assert all(event.event == event.data["type"] and event.id is None for event in events)
    start, *rest = (event.data for event in events)
    message = start["message"]
    assert message.pop("id")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": UNICODE,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},  # OpenAI has not counted yet
    }
    assert rest == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
            for text in tokens(UNICODE)
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"input_tokens": 25, "output_tokens": 16},
        },
        {"type": "message_stop"},
    ]


@of("messages")
def test_messages_whole(server: Service, door: Door) -> None:
    sent = {**door.body(UNICODE), "stream": False}
    response = requests.post(server.url + door.path, json=sent, timeout=20)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    said = response.json()
    assert said.pop("id")
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}  # the provider's own counts
    of_the_provider = cached if door.provider == "anthropic" else {}
    assert said == {
        "type": "message",
        "role": "assistant",
        "model": UNICODE,
        "content": [{"type": "text", "text": answer(UNICODE).text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 16, **of_the_provider},
    }


def native_events(model: str, provider: str, start: dict[str, Any], finish: dict[str, Any]) -> list[dict[str, Any]]:
    """The native events of an answer; what differs from run to run is taken from `start` and `finish`."""
    usage = {"input_tokens": 25, "output_tokens": len(tokens(model)), "source": "provider"}
    begun = {"type": "start", "id": start["id"], "model": model, "provider": provider, "created": start["created"]}
    ended = {"type": "finish", "reason": "stop", "usage": usage, "timings": finish["timings"]}
    return [begun, *({"type": "text", "text": text} for text in tokens(model)), {"type": "usage", **usage}, ended]


@of("streams")
def test_streams_sends_numbered_events(server: Service, door: Door) -> None:
    *events, done = frames(door.stream(server, UNICODE))
    assert done == DONE
    said = [event.data for event in events]
    assert said == native_events(UNICODE, door.provider, said[0], said[-1])
    assert [event.id for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert {event.event for event in events} == {None}
    timings = said[-1]["timings"]
    assert 0 < timings["ttft_s"] <= timings["duration_s"]


@of("ndjson")
def test_streams_as_ndjson(server: Service, door: Door) -> None:
    *lines, rest = door.stream(server, UNICODE).decode().split("\n")
    assert rest == ""
    said = [json.loads(line) for line in lines]
    assert [event.pop("event_id") for event in said] == list(range(1, len(said) + 1))
    assert said == native_events(UNICODE, door.provider, said[0], said[-1])


@of("streams")
def test_streams_whole(server: Service, door: Door) -> None:
    sent = {**door.body(UNICODE), "stream": False}
    said = requests.post(server.url + door.path, json=sent, timeout=20).json()
    usage = {"input_tokens": 25, "output_tokens": 16, "source": "provider"}
    assert said["finish"] == {"type": "finish", "reason": "stop", "usage": usage, "timings": said["finish"]["timings"]}
    assert (said["text"], said["reasoning"], said["tool_calls"]) == (answer(UNICODE).text, "", [])
    assert (said["model"], said["provider"]) == (UNICODE, door.provider)


@of("plain")
def test_plain_text_is_the_text_and_nothing_else(server: Service, door: Door) -> None:
    assert door.stream(server, UNICODE).decode() == answer(UNICODE).text


@of("text", "post-chat", "get-chat")
def test_text_frames(server: Service, door: Door) -> None:
    assert frames(door.stream(server, UNICODE)) == [*(Frame({"text": text}) for text in tokens(UNICODE)), DONE]


@of("token", "token-anthropic")
def test_token_frames(server: Service, door: Door) -> None:
    assert frames(door.stream(server, UNICODE)) == [
        *(Frame({"token": text, "text": text, "done": False}) for text in tokens(UNICODE)),
        Frame({"token": "", "text": "", "done": True}),
        DONE,
    ]


@of("meta")
def test_meta_frames(server: Service, door: Door) -> None:
    events = frames(door.stream(server, "fake-n5-i20"))
    latency_ms = events[-1].data["latency_ms"]
    assert events == [
        Frame({"event": "start", "model": "fake-n5-i20"}),
        *(Frame({"event": "token", "token": text}) for text in tokens("fake-n5-i20")),
        Frame({"event": "done", "tokens": 5, "latency_ms": latency_ms}),
    ]
    assert isinstance(latency_ms, int)
    assert latency_ms >= 80  # four intervals of 20 ms


@of("ui")
def test_ui_message_parts(server: Service, door: Door) -> None:
    *parts, done = frames(door.stream(server, UNICODE))
    start, *rest = [frame.data for frame in parts]
    assert done == DONE
    assert start == {"type": "start", "messageId": start["messageId"]}
    usage = {"inputTokens": 25, "outputTokens": 16, "totalTokens": 41, "source": "provider"}
    assert rest == [
        {"type": "start-step"},
        {"type": "text-start", "id": "text-1"},
        *({"type": "text-delta", "id": "text-1", "delta": text} for text in tokens(UNICODE)),
        {"type": "text-end", "id": "text-1"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop", "messageMetadata": {"model": UNICODE, "usage": usage}},
    ]


@of("agui")
def test_agui_events(server: Service, door: Door) -> None:
    events = [frame.data for frame in frames(door.stream(server, UNICODE))]
    run = {"threadId": "thread-1", "runId": "run-1"}
    message = {"messageId": events[1]["messageId"]}
    counted = {"inputTokens": 25, "outputTokens": 16, "totalTokens": 41}
    usage = [{"provider": door.provider, "model": UNICODE, **counted}]
    assert events == [
        {"type": "RUN_STARTED", **run},
        {"type": "TEXT_MESSAGE_START", **message, "role": "assistant"},
        *({"type": "TEXT_MESSAGE_CONTENT", **message, "delta": text} for text in tokens(UNICODE)),
        {"type": "TEXT_MESSAGE_END", **message},
        {"type": "RUN_FINISHED", **run, "result": {"finishReason": "stop"}, "usage": usage},
    ]


@every_door
def test_line_separators_are_escaped_and_letters_are_not(server: Service, door: Door) -> None:
    body = door.stream(server, UNICODE)
    assert "café".encode() in body  # é as itself: the client is told the charset
    if door.name != "plain":
        assert not any(separator.encode() in body for separator in "\u2028\u2029\u0085")
        assert b"\\u2028" in body
        assert b"\\u0085" in body


# Headers.


@every_door
def test_headers_of_every_stream(server: Service, door: Door) -> None:
    with door.open(server, "fake-n2", headers={"X-Request-ID": "order-66.a:b_c"}) as response:
        assert response.headers["Content-Type"] == door.content_type
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["X-Request-ID"] == "order-66.a:b_c"
        assert "Content-Length" not in response.headers


@pytest.mark.parametrize(
    "hostile",
    ["a b", "x" * 129, "id\u00e9", "<script>", "a,b", 'say "hi"', ""],
    ids=["blank", "long", "latin-1", "markup", "list", "quotes", "empty"],
)
def test_a_hostile_request_id_is_replaced(server: Service, fake_provider: FakeProvider, hostile: str) -> None:
    sent = {"model": "openai/fake-n1", "prompt": "hi"}
    headers = {"X-Request-ID": hostile.encode("latin-1")}
    response = requests.post(f"{server.url}/v1/streams", json=sent, headers=headers, timeout=20)
    ours = response.headers["X-Request-ID"]
    assert len(ours) == 32
    assert int(ours, 16)
    assert fake_provider.requests[0].headers["x-request-id"] == ours  # the one that both sides can be asked about


def test_errors_carry_the_request_id_too(server: Service) -> None:
    for path, status in [("/v1/streams", 400), ("/v1/messages", 400), ("/nowhere", 404), ("/healthz", 405)]:
        response = requests.post(server.url + path, json={}, headers={"X-Request-ID": "mine"}, timeout=20)
        assert (response.status_code, response.headers["X-Request-ID"]) == (status, "mine")


@pytest.mark.usefixtures("fake_provider")
def test_connection_is_the_servers_header_never_ours(
    monkeypatch: pytest.MonkeyPatch, fake_provider: FakeProvider
) -> None:
    for name, value in fake_provider.env.items():
        monkeypatch.setenv(name, value)
    app = create_app()
    try:
        for door in DOORS:
            sent = {"query_string" if door.method == "GET" else "json": door.body("fake-n2")}
            with app.test_client().open(door.path, method=door.method, **sent) as response:
                assert response.status_code == 200
                assert not {name for name, _ in response.headers} & {"Connection", "Transfer-Encoding", "Keep-Alive"}
                response.get_data()
    finally:
        app.extensions["sluiceway"].close()


# When it comes: each piece as soon as the provider has sent it.

PACED = "fake-n10-i300"


class Arrival(NamedTuple):
    at_s: float
    text: str


@pytest.fixture(scope="module")
def arrivals(server: Service) -> dict[str, list[Arrival]]:
    """What each door showed and when, all doors read at the same time: ten tokens, 300 ms apart."""

    def read(door: Door) -> list[Arrival]:
        with door.open(server, PACED) as response:
            pieces = response.iter_content(None) if door.name == "plain" else response.iter_lines()
            return [Arrival(time.monotonic(), text) for piece in pieces if (text := door.line_text(piece.decode()))]

    with ThreadPoolExecutor(len(DOORS)) as threads:
        return dict(zip(map(str, DOORS), threads.map(read, DOORS), strict=True))


@every_door
def test_text_arrives_as_it_is_sent(arrivals: dict[str, list[Arrival]], door: Door) -> None:
    seen = arrivals[str(door)]
    assert [arrival.text for arrival in seen] == tokens(PACED)
    # A buffer anywhere would bring pieces together, and if only two by two. A machine that stands still for a second
    # brings some together too, but not half of them.
    gaps = [later.at_s - earlier.at_s for earlier, later in itertools.pairwise(seen)]
    assert sum(gap > 0.1 for gap in gaps) >= 5, gaps


@pytest.mark.parametrize("door", LINES, ids=str)
def test_requests_reads_lines_with_every_letter_intact(server: Service, door: Door) -> None:
    prompt = "né à Zürich, 東京 🌊 e\u0301"
    with door.open(server, "fake-echo", prompt) as response:
        texts = [text for line in response.iter_lines() if (text := door.line_text(line.decode()))]
    assert "".join(texts) == prompt


@of("text", "token", "meta", "streams")
def test_requests_decodes_by_the_charset_it_is_told(server: Service, door: Door) -> None:
    with door.open(server, "fake-echo", "né à Zürich") as response:
        lines = response.iter_lines(decode_unicode=True)
        assert "".join(text for line in lines if (text := door.line_text(line))) == "né à Zürich"


# How it fails half-way: in the route's own words, once, and the body ends as it should.


@pytest.fixture(scope="module")
def failures(server: Service) -> dict[str, dict[str, Any]]:
    """provider -> its failure as the native events tell it in full; every other route wears the same one."""
    told = {}
    for door in LINES:
        if door.name == "streams":
            (error,) = (frame.data for frame in frames(door.stream(server, BROKEN)) if frame.event == "error")
            told[door.provider] = error
    return told


def ending(door: Door, server: Service) -> list[Frame]:
    """The frames that follow the five tokens before the failure."""
    seen = frames(door.stream(server, BROKEN))
    texts = [door.line_text(f"data: {json.dumps(frame.data)}") or "" for frame in seen]
    assert "".join(texts) == text_after(BROKEN, 5)
    return seen[max(at for at, text in enumerate(texts) if text) + 1 :]


@of("chat")
def test_a_broken_chat_ends_with_an_error_object(server: Service, door: Door, failures: dict[str, Any]) -> None:
    said = failures[door.provider]
    error = {"message": said["message"], "type": "api_error", "param": None, "code": said["code"]}
    (frame,) = ending(door, server)  # no finish reason, no [DONE]
    assert frame.data["error"].pop("provider_request_id")
    assert frame == Frame({"error": error})


@of("messages")
def test_a_broken_message_ends_with_an_error_event(server: Service, door: Door, failures: dict[str, Any]) -> None:
    (frame,) = ending(door, server)  # no content_block_stop, no message_stop
    said = failures[door.provider]
    kind = "overloaded_error" if said["code"] == "provider_overloaded" else "api_error"
    assert (frame.event, frame.data["type"]) == ("error", "error")
    assert frame.data["error"].pop("provider_request_id")
    assert frame.data["error"] == {"type": kind, "message": said["message"]}


@of("streams")
def test_a_broken_stream_ends_with_an_error_event_and_done(server: Service, door: Door) -> None:
    *before, error, done = ending(door, server)
    assert [frame.data["type"] for frame in before] in ([], ["usage"])  # what is known of the bill by then
    assert (error.event, error.data["type"], done) == ("error", "error", DONE)
    assert error.data["code"].startswith("provider_")
    assert error.data["message"].startswith(f"provider '{door.provider}' ")
    assert error.data["retryable"] is True
    assert error.data["status"] in (502, 503)


@of("ndjson")
def test_broken_ndjson_ends_with_the_error(server: Service, door: Door, failures: dict[str, Any]) -> None:
    said = [json.loads(line) for line in door.stream(server, BROKEN).splitlines()]
    assert "".join(event["text"] for event in said if event["type"] == "text") == text_after(BROKEN, 5)
    assert [event["type"] for event in said].count("error") == 1
    told = {name: value for name, value in failures[door.provider].items() if not name.endswith("request_id")}
    assert {name: said[-1][name] for name in told} == told
    assert said[-1]["event_id"] == len(said)


@of("plain")
def test_broken_plain_text_ends_with_a_line_that_says_so(server: Service, door: Door, failures: dict[str, Any]) -> None:
    body = door.stream(server, BROKEN).decode()
    assert body == f"{text_after(BROKEN, 5)}\n[Error: {failures[door.provider]['message']}]\n"


@of("text", "post-chat", "get-chat")
def test_broken_text_frames_end_with_event_error_instead_of_done(
    server: Service, door: Door, failures: dict[str, Any]
) -> None:
    said = failures[door.provider]
    assert ending(door, server) == [Frame({"message": said["message"], "code": said["code"]}, event="error")]


@of("token", "token-anthropic")
def test_broken_token_frames_end_with_done_and_the_error(server: Service, door: Door, failures: dict[str, Any]) -> None:
    said = failures[door.provider]
    last = {"token": "", "text": "", "done": True, "error": said["message"], "code": said["code"]}
    assert ending(door, server) == [Frame(last), DONE]


@of("meta")
def test_broken_meta_frames_end_with_an_error(server: Service, door: Door, failures: dict[str, Any]) -> None:
    assert ending(door, server) == [Frame({"event": "error", "message": failures[door.provider]["message"]})]


@of("ui")
def test_a_broken_ui_message_ends_with_an_error_part(server: Service, door: Door, failures: dict[str, Any]) -> None:
    closed, error, done = ending(door, server)  # no finish
    assert closed == Frame({"type": "text-end", "id": "text-1"})
    assert (error, done) == (Frame({"type": "error", "errorText": failures[door.provider]["message"]}), DONE)


@of("agui")
def test_a_broken_run_ends_with_run_error(server: Service, door: Door, failures: dict[str, Any]) -> None:
    said = failures[door.provider]
    closed, error = ending(door, server)  # no RUN_FINISHED
    assert closed.data["type"] == "TEXT_MESSAGE_END"
    assert error == Frame({"type": "RUN_ERROR", "message": said["message"], "code": said["code"]})


# What is asked: each route's own words reach the provider.

SIMPLE = ["/stream/openai", "/stream/openai/sse", "/chat", "/chat/stream", "/chat/stream-meta"]


def sent_upstream(fake_provider: FakeProvider) -> tuple[str, dict[str, Any]]:
    (request,) = fake_provider.requests
    return request.path, request.body


@pytest.mark.parametrize("path", SIMPLE)
@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "hi", "system": "be brief"},
        {"message": "hi", "system_prompt": "be brief"},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "hi"}], "system": "be brief"},
    ],
    ids=["prompt", "message", "messages", "messages-system"],
)
def test_simple_routes_take_the_same_in_several_words(
    server: Service, fake_provider: FakeProvider, path: str, asked: dict[str, Any]
) -> None:
    name = "fake-n2" if path.startswith("/stream/") else "openai/fake-n2"
    response = requests.post(server.url + path, json={"model": name, "max_tokens": 7, **asked}, timeout=20)
    assert response.status_code == 200
    _, body = sent_upstream(fake_provider)
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("fake-n2", 7, True)


def test_get_chat_takes_a_query(server: Service, fake_provider: FakeProvider) -> None:
    query = {"prompt": "né & wie? +1", "system": "be brief", "model": "openai/fake-echo"}
    response = requests.get(f"{server.url}/chat", params=query, timeout=20)
    assert "".join(frame.data["text"] for frame in frames(response.content)[:-1]) == "né & wie? +1"
    _, body = sent_upstream(fake_provider)
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "né & wie? +1"},
    ]


def test_head_chat_asks_no_model(server: Service, fake_provider: FakeProvider) -> None:
    response = requests.head(f"{server.url}/chat?prompt=hi&model=openai/fake-n2", timeout=20)
    assert (response.status_code, response.headers["Content-Type"], response.content) == (200, EVENT_STREAM, b"")
    assert fake_provider.stats().requests == 0


def test_a_conversation_keeps_its_order(server: Service, fake_provider: FakeProvider) -> None:
    talk = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    for path in ("/chat", "/v1/streams", "/v1/chat/completions", "/v1/messages"):
        fake_provider.reset()
        asked = {"model": "anthropic/fake-n1", "messages": talk}
        assert requests.post(server.url + path, json=asked, timeout=20).status_code == 200
        assert sent_upstream(fake_provider)[1]["messages"] == talk


# The names a request may give.


@pytest.fixture(scope="module")
def named(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """A service with names of its own, from a file."""
    file: Path = tmp_path_factory.mktemp("named") / "sluiceway.toml"
    file.write_text(
        """
        default_model = "chat"

        [providers.openai]
        default_model = "fake-n2"

        [providers.anthropic]
        default_model = "fake-n2"

        [models."chat"]
        target = "openai/fake-n3"

        [models."claude"]
        target = "anthropic/fake-n4"

        [models."claude-*"]
        target = "anthropic/fake-*"
        """
    )
    return start_service({**fake_provider_server.env, "SLUICEWAY_CONFIG": str(file)})


OPENAI_WIRE, ANTHROPIC_WIRE = "/v1/chat/completions", "/v1/messages"
WIRE = {"openai": OPENAI_WIRE, "anthropic": ANTHROPIC_WIRE}

# (name given, who answers with what; None: the route's own provider)
NAMES = [
    pytest.param(None, "openai", "fake-n3", id="none"),
    pytest.param("chat", "openai", "fake-n3", id="alias"),
    pytest.param("claude", "anthropic", "fake-n4", id="alias-before-glob"),
    pytest.param("claude-n5", "anthropic", "fake-n5", id="glob"),
    pytest.param("openai/fake-n6", "openai", "fake-n6", id="openai-model"),
    pytest.param("anthropic/fake-n6", "anthropic", "fake-n6", id="anthropic-model"),
    pytest.param("openai", "openai", "fake-n2", id="openai-alone"),
    pytest.param("anthropic", "anthropic", "fake-n2", id="anthropic-alone"),
    pytest.param("fake-n7", None, "fake-n7", id="bare"),
    pytest.param("fake-n2", None, "fake-n2", id="bare-and-both-providers-default"),
]
ANY_NAME = {
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/v1/streams": "openai",
    "/chat": "openai",
    "/chat/stream": "openai",
    "/chat/stream-meta": "openai",
    "/api/chat": "openai",
}


@pytest.mark.parametrize("path", ANY_NAME)
@pytest.mark.parametrize(("name", "provider", "model"), NAMES)
def test_a_name_leads_to_its_model(
    named: Service, fake_provider: FakeProvider, path: str, name: str | None, provider: str | None, model: str
) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    response = requests.post(named.url + path, json=asked | ({"model": name} if name else {}), timeout=20)
    assert response.status_code == 200
    wire, body = sent_upstream(fake_provider)
    assert (wire, body["model"]) == (WIRE[provider or ANY_NAME[path]], model)


@pytest.mark.parametrize("path", ["/stream/anthropic", "/stream/anthropic/sse", "/anthropic/stream"])
@pytest.mark.parametrize(
    ("name", "model"),
    [
        pytest.param(None, "fake-n2", id="none"),
        pytest.param("fake-n7", "fake-n7", id="own-name"),
        pytest.param("anthropic/fake-n6", "fake-n6", id="with-its-provider"),
        pytest.param("claude", "fake-n4", id="alias-that-leads-here"),
        pytest.param("claude-n5", "fake-n5", id="glob-that-leads-here"),
        pytest.param("chat", "chat", id="alias-that-leads-elsewhere-is-an-own-name"),
    ],
)
def test_a_route_that_names_its_provider(
    named: Service, fake_provider: FakeProvider, path: str, name: str | None, model: str
) -> None:
    response = requests.post(named.url + path, json={"prompt": "hi"} | ({"model": name} if name else {}), timeout=20)
    assert response.status_code == 200
    wire, body = sent_upstream(fake_provider)
    assert (wire, body["model"]) == (ANTHROPIC_WIRE, model)


# The rest of the table.


def test_models_lists_what_a_request_may_name(named: Service, fake_provider: FakeProvider) -> None:
    listed = requests.get(f"{named.url}/v1/models", timeout=20)
    assert (listed.status_code, listed.headers["Content-Type"]) == (200, "application/json")
    said = listed.json()
    assert said["object"] == "list"
    assert [(model["id"], model["owned_by"]) for model in said["data"]] == [
        ("chat", "alias"),
        ("claude", "alias"),
        ("openai/fake-n2", "openai"),
        ("anthropic/fake-n2", "anthropic"),
    ]
    assert {model["object"] for model in said["data"]} == {"model"}
    assert fake_provider.stats().requests == 0
    for model in said["data"]:
        asked = {"model": model["id"], "messages": [{"role": "user", "content": "hi"}]}
        assert requests.post(named.url + OPENAI_WIRE, json=asked, timeout=20).status_code == 200


def test_health_and_readiness(server: Service, fake_provider: FakeProvider) -> None:
    for path, state in [("/healthz", "ok"), ("/readyz", "ready")]:
        response = requests.get(server.url + path, timeout=20)
        assert (response.status_code, response.json()) == (200, {"status": state})
    assert fake_provider.stats().requests == 0


def test_not_ready_while_the_embedded_model_is_not(start_service: Callable[..., Service]) -> None:
    """A port where nothing listens: gunicorn.conf.py takes it that somebody else runs the model there."""
    waiting = start_service({"SLUICEWAY_LOCAL__PORT": "9"})
    response = requests.get(f"{waiting.url}/readyz", timeout=20)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert response.json()["status"] == "not ready"
    assert "embedded model" in response.json()["waiting_for"][0]
    assert requests.get(f"{waiting.url}/healthz", timeout=20).status_code == 200
    waiting.stop()
