"""What a client can do wrong. Each is a 4xx with a JSON body in the route's own shape that names what is wrong; no
provider is asked, nothing is logged as a defect, and the next request is answered."""

from __future__ import annotations

import copy
import json
import math
import re
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import requests
from conftest import Service
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import create_app
from app.testing import FakeProvider

CHAT, MESSAGES, STREAMS = "/v1/chat/completions", "/v1/messages", "/v1/streams"
RESPONSES = "/v1/responses"
HI = [{"role": "user", "content": "hi"}]

# Every POST route with the least body it answers.
DOORS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "openai/fake-n2", "messages": HI},
    RESPONSES: {"model": "anthropic/fake-n2", "input": "hi"},
    MESSAGES: {"model": "anthropic/fake-n2", "messages": HI},
    STREAMS: {"model": "openai/fake-n2", "messages": HI},
    "/stream/openai": {"model": "fake-n2", "prompt": "hi"},
    "/stream/anthropic/sse": {"model": "fake-n2", "prompt": "hi"},
    "/chat": {"model": "anthropic/fake-n2", "messages": HI},
    "/chat/stream": {"model": "openai/fake-n2", "message": "hi"},
    "/chat/stream-meta": {"model": "anthropic/fake-n2", "message": "hi"},
    "/anthropic/stream": {"model": "fake-n2", "message": "hi"},
    "/api/chat": {
        "model": "openai/fake-n2",
        "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}],
    },
    "/agui": {
        "threadId": "t",
        "runId": "r",
        "messages": [{"id": "u", "role": "user", "content": "hi"}],
        "forwardedProps": {"model": "anthropic/fake-n2"},
    },
}
UI = ["/api/chat", "/agui"]
SIMPLE = [path for path in DOORS if not path.startswith("/v1/") and path not in UI]
every_door = pytest.mark.parametrize("path", DOORS)


class Refusal(NamedTuple):
    """An error body, read in its route's shape. Anthropic's has a type in place of our code, and names no field."""

    code: str
    message: str
    param: str | None = None


BESIDES = {"provider_request_id"}  # where the provider refused it, and has a name for that


def refusal(path: str, status: int, headers: Any, body: bytes) -> Refusal:
    """Reads an error strictly: JSON, the keys of the shape, all of them and no others."""
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Request-ID"]
    said = json.loads(body)
    error = said["error"]
    if path.startswith(MESSAGES):
        assert said == {"type": "error", "error": error, "request_id": headers["X-Request-ID"]}
        assert set(error) - BESIDES == {"type", "message"}
        return Refusal(error["type"], error["message"])
    assert set(said) == {"error"}
    if path.startswith("/v1/") and not path.startswith(STREAMS):
        assert set(error) - BESIDES == {"message", "type", "param", "code"}
        assert error["type"] == ("invalid_request_error" if status < 500 else "api_error")
        return Refusal(error["code"], error["message"], error["param"])
    assert set(error) - {"param"} - BESIDES == {"code", "message", "retryable", "status", "request_id"}
    assert (error["status"], error["request_id"]) == (status, headers["X-Request-ID"])
    return Refusal(error["code"], error["message"], error.get("param"))


@pytest.fixture(autouse=True)
def goes_on(server: Service, fake_provider: FakeProvider) -> Iterator[None]:
    """After every test: a good request is answered, and nothing was logged that one of us has to look at."""
    before = len(server.log)
    yield
    response = requests.post(server.url + STREAMS, json=DOORS[STREAMS], timeout=20)
    assert (response.status_code, response.text[-14:]) == (200, "data: [DONE]\n\n")
    assert "Traceback" not in server.log[before:]
    assert "defect" not in server.log[before:]


Refused = Callable[..., Refusal]


@pytest.fixture
def refused(server: Service, fake_provider: FakeProvider) -> Refused:
    """`refused(path, body, status=400)` asks and gives the refusal. `body` is bytes, or a value to be sent as JSON."""

    def ask(path: str, body: Any, status: int = 400, **headers: str) -> Refusal:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers}
        response = requests.post(server.url + path, data=data, headers=sent, timeout=20)
        assert response.status_code == status, response.text
        assert fake_provider.requests == []
        return refusal(path, response.status_code, response.headers, response.content)

    return ask


def accepted(server: Service, path: str, body: bytes) -> None:
    response = requests.post(server.url + path, data=body, headers={"Content-Type": "application/json"}, timeout=20)
    assert response.status_code == 200, response.text


def code(path: str, ours: str) -> str:
    """What stands for our code in this route's errors."""
    types = {
        "invalid_request": "invalid_request_error",
        "not_found": "not_found_error",
        "payload_too_large": "request_too_large",
        "unauthorized": "authentication_error",
    }
    return types[ours] if path.startswith(MESSAGES) else ours


# Bodies that are no JSON object.

DEEP = b"[" * 100_000
NO_OBJECT = {
    "empty": (b"", "the body is empty; send a JSON object"),
    "blanks": (b" \n ", "the body is not valid JSON: EOF while parsing a value"),
    "cut": (b'{"model": "x"', "the body is not valid JSON: EOF while parsing an object"),
    "quotes": (b"{'model': 'x'}", "the body is not valid JSON: key must be a string"),
    "trailing": (b"{} {}", "the body is not valid JSON: trailing characters"),
    "form": (b"model=x&prompt=hi", "the body is not valid JSON: expected value"),
    "array": (b"[]", "the body must be a JSON object, not an array"),
    "text": (b'"hi"', "the body must be a JSON object, not a string"),
    "number": (b"5", "the body must be a JSON object, not a number"),
    "boolean": (b"true", "the body must be a JSON object, not a boolean"),
    "null": (b"null", "the body must be a JSON object, not null"),
    "deep": (DEEP, "the body is not valid JSON: recursion limit exceeded"),
    "deep-inside": (b'{"metadata": ' + DEEP, "the body is not valid JSON: recursion limit exceeded"),
    "deep-objects": (b'{"a":' * 100_000, "the body is not valid JSON: recursion limit exceeded"),
    "nan": (b'{"temperature": NaN}', "the body is not valid JSON: expected value"),
    "infinity": (b'{"temperature": -Infinity}', "the body is not valid JSON: invalid number"),
    "endless-number": (b'{"max_tokens": 1' + b"0" * 5000 + b"}", "the body is not valid JSON: number out of range"),
    "latin-1": ('{"prompt": "né"}'.encode("latin-1"), "the body is not valid JSON: invalid unicode code point"),
    "utf-16": ('{"prompt": "né"}'.encode("utf-16"), "the body is not valid JSON: expected value"),
    "lone-surrogate": (rb'{"prompt": "\ud800"}', "the body is not valid JSON: "),
    "raw-surrogate": (b'{"prompt": "\xed\xa0\x80"}', "the body is not valid JSON: invalid unicode code point"),
    "raw-control": (b'{"prompt": "\x00"}', "the body is not valid JSON: control character"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "the body is not valid JSON: expected value"),
}


@pytest.mark.parametrize("name", NO_OBJECT)
def test_a_body_that_is_no_json_object(refused: Refused, name: str) -> None:
    body, message = NO_OBJECT[name]
    for path in DOORS:
        said = refused(path, body)
        assert (said.code, said.param) == (code(path, "invalid_request"), None)
        assert said.message.startswith(message)


@every_door
def test_a_number_beyond_all_floats_is_refused_by_name(refused: Refused, path: str) -> None:
    """`1e999` is valid JSON; read as an infinity it could not be sent on."""
    for field, value in [("seed", "1e999"), ("max_tokens", "-1e999"), ("metadata", '{"a": [0, 1e400]}')]:
        body = json.dumps(DOORS[path])[:-1] + f', "{field}": {value}}}'
        said = refused(path, body.encode())
        where = "metadata.a[1]" if field == "metadata" else field
        assert said.message == f"{where}: the number is out of range"


@every_door
def test_a_compressed_body_is_a_415(refused: Refused, path: str) -> None:
    said = refused(path, b"\x1f\x8b\x08", 415, **{"Content-Encoding": "gzip"})
    assert said == Refusal(
        code(path, "invalid_request"), "send the body uncompressed: Content-Encoding is not supported on requests"
    )


# Fields of the wrong type or value. Whatever is wrong with it, the field is named.

NO_COUNT = [-1, 0, True, 1.5, "5", [5], {}]
NO_TEXT = [5, True, ["x"], {}]
NO_MESSAGES = [5, "hi", {}, [], [5], [None], [[]], [{}], [{"content": "hi"}], [{"role": "nobody", "content": "hi"}]]
NO_CONTENT = [5, True, {}, [5], [{}], [{"type": 5}], [{"type": "text", "text": 5}]]
NO_SAMPLING = [-0.1, 2.1, "1", True, [1]]

WRONG: dict[str, dict[str, list[Any]]] = {
    CHAT: {
        "messages": [None, *NO_MESSAGES],
        "model": [*NO_TEXT, "", " ", "a\nb", "\x00", "x" * 300],
        "max_tokens": NO_COUNT,
        "max_completion_tokens": NO_COUNT,
        "temperature": NO_SAMPLING,
        "top_p": NO_SAMPLING,
        "stop": [5, True, [5], {}],
        "stream": ["yes", 1, []],
        "stream_options": [5, "x", [], {"include_usage": "x"}],
        "n": [0, -1, 2, "1", True, 1.5],
    },
    RESPONSES: {
        "input": [None, *(value for value in NO_MESSAGES if value != "hi")],
        "instructions": NO_TEXT,
        "model": [*NO_TEXT, "", " ", "a\nb", "\x00", "x" * 300],
        "max_output_tokens": NO_COUNT,
        "temperature": NO_SAMPLING,
        "top_p": NO_SAMPLING,
        "tools": [5, "x", {}, [5], [{}], [{"type": 5}], [{"type": "function"}], [{"type": "function", "name": ""}]],
        "tool_choice": [5, "x", [], {}, {"type": 5}, {"type": "function"}],
        "parallel_tool_calls": ["x", 1, []],
        "text": [5, "x", [], {"format": 5}, {"format": {}}, {"format": {"type": "json_schema"}}, {"verbosity": 5}],
        "reasoning": [5, "x", [], {"effort": 5}],
        "user": NO_TEXT,
        "safety_identifier": NO_TEXT,
        "stream": ["yes", 1, []],
    },
    MESSAGES: {
        "messages": [None, *NO_MESSAGES],
        "model": [*NO_TEXT, "", " ", "a\nb"],
        "max_tokens": NO_COUNT,
        "system": [5, True, {}, [5], [{}], [{"type": "text", "text": 5}]],
        "temperature": [-0.1, 1.1, "1", True],
        "top_p": [-0.1, 1.1, "1", True],
        "stop_sequences": [5, "x", [5], {}],
        "stream": ["yes", 1],
    },
    STREAMS: {
        "messages": NO_MESSAGES,
        "model": [*NO_TEXT, "", " ", "a\nb"],
        "system": NO_TEXT,
        "max_tokens": NO_COUNT,
        "temperature": NO_SAMPLING,
        "top_p": [*NO_SAMPLING, 0],
        "stop": [5, True, [5], {}],
        "stream": ["yes", 1, None],
        "format": [5, "xml", "NDJSON", None, {}],
    },
}
WRONG |= {
    path: {
        "model": [*NO_TEXT, "", " ", "a\nb"],
        "system": NO_TEXT,
        "system_prompt": NO_TEXT,
        "max_tokens": NO_COUNT,
    }
    for path in SIMPLE
}
WRONG["/chat"]["messages"] = NO_MESSAGES
WRONG["/api/chat"] = {
    "messages": NO_MESSAGES,
    "model": [*NO_TEXT, "", " ", "a\nb"],
    "system": NO_TEXT,
    "max_tokens": NO_COUNT,
    "temperature": NO_SAMPLING,
    "top_p": [*NO_SAMPLING, 0],
    "stop": [5, True, [5], {}],
    "resumable": [5, "yes"],
    "tools": [5, "clock", [5], ["no_such_tool"], [{}]],
}
WRONG["/agui"] = {
    "threadId": [None, *NO_TEXT],
    "runId": [None, *NO_TEXT],
    "messages": [None, *NO_MESSAGES],
    "tools": [5, "clock", {}, [5], [{}]],
    "context": [5, "x", {}, [5], [{"value": "x"}]],
    "forwardedProps": [5, "x", [], {"model": 5}, {"model": ""}, {"max_tokens": 0}, {"stop": 5}],
}
FIELDS = [(path, field) for path, fields in WRONG.items() for field in fields]


def names(said: Refusal, field: str) -> bool:
    """`field` is named, alone or with the place inside it: `messages[0].role`."""
    named = rf"{re.escape(field)}\b"
    return bool(re.match(named, said.message) and (said.param is None or re.match(named, said.param)))


@pytest.mark.parametrize(("path", "field"), FIELDS, ids=[f"{path}-{field}" for path, field in FIELDS])
def test_a_wrong_value_names_its_field(refused: Refused, path: str, field: str) -> None:
    for value in WRONG[path][field]:
        said = refused(path, {**DOORS[path], field: value})
        assert said.code == code(path, "invalid_request")
        assert names(said, field), said
        assert said.param or path == MESSAGES


@pytest.mark.parametrize("path", [CHAT, MESSAGES, STREAMS, "/chat"])
def test_a_wrong_content_names_its_place(refused: Refused, path: str) -> None:
    contents = NO_CONTENT if path in (CHAT, MESSAGES) else [*NO_CONTENT, None, [{"type": "text", "text": "hi"}]]
    for content in contents:
        said = refused(path, {**DOORS[path], "messages": [*HI, {"role": "user", "content": content}]})
        assert names(said, "messages[1].content"), said


def test_a_wrong_content_of_an_item_names_its_place(refused: Refused) -> None:
    for content in [*NO_CONTENT, None, [{"type": "input_text"}], [{"type": "input_image", "image_url": 5}]]:
        said = refused(RESPONSES, {**DOORS[RESPONSES], "input": [*HI, {"role": "user", "content": content}]})
        assert names(said, "input[1].content"), said


@pytest.mark.parametrize("path", [path for path in DOORS if "prompt" in DOORS[path] or "message" in DOORS[path]])
def test_a_wrong_prompt_is_named(refused: Refused, path: str) -> None:
    for field in ("prompt", "message"):
        for value in (5, True, "", ["hi"], {}):
            assert names(refused(path, {"model": DOORS[path]["model"], field: value}), field)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_missing_messages(refused: Refused, path: str) -> None:
    assert refused(path, {"model": "fake-n2"}).message == "messages is required"


@pytest.mark.parametrize("path", [STREAMS, *SIMPLE])
def test_one_way_to_ask_is_wanted(refused: Refused, path: str) -> None:
    model = {"model": DOORS[path]["model"]}
    assert refused(path, model).message.endswith("; found none of them")
    assert refused(path, {**model, "prompt": None}).message.endswith("; found none of them")
    both = refused(path, {**model, "prompt": "hi", "message": "hi"})
    assert both.message.endswith("; found prompt and message")
    system = {"messages": [{"role": "system", "content": "be brief"}]}
    assert refused(path, {**model, **system}) == Refusal(
        "invalid_request", "messages: a user message is required", "messages"
    )
    late = {"messages": [*HI, {"role": "system", "content": "be brief"}]}
    assert refused(path, {**model, **late}) == Refusal(
        "invalid_request", "messages[1]: a system message must come before the others", "messages[1]"
    )


@pytest.mark.parametrize("path", [STREAMS, *SIMPLE])
def test_an_unknown_field_is_answered_with_the_nearest(refused: Refused, path: str) -> None:
    said = refused(path, {**DOORS[path], "max_token": 5})
    assert said.param == "max_token"
    assert re.fullmatch(
        r"unknown field 'max_token'; known: .*\bmax_tokens\b.*\. Did you mean 'max_tokens'\?", said.message
    )
    for odd in ("a b", "5", "str", "né", "a\nb", "x" * 100_000):
        assert refused(path, {**DOORS[path], odd: 5}).message.startswith(f"unknown field {odd!r}; known: ")


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (CHAT, "tools[0]", [{"type": "custom", "custom": {"name": "clock"}}]),
        (CHAT, "logprobs", True),
        (CHAT, "response_format", {"type": "json_object"}),
        (RESPONSES, "previous_response_id", "resp_1"),
        (RESPONSES, "background", True),
        (MESSAGES, "tools[0]", [{"type": "web_search_20250305", "name": "web_search"}]),
        (MESSAGES, "thinking", {"type": "enabled"}),
        (MESSAGES, "top_k", 5),
    ],
)
def test_a_field_that_the_other_protocol_lacks_is_refused_by_name(
    refused: Refused, path: str, field: str, value: Any
) -> None:
    model = "openai/fake-n2" if path == MESSAGES else "anthropic/fake-n2"
    said = refused(path, {**DOORS[path], "model": model, field.partition("[")[0]: value})
    assert said.message.startswith(f"{field} can't be sent to '{model}', which speaks another protocol")


# Names that lead nowhere.


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, STREAMS, "/chat", "/chat/stream", "/chat/stream-meta"])
def test_an_unknown_model_is_a_404_with_the_nearest(refused: Refused, path: str) -> None:
    said = refused(path, {**DOORS[path], "model": "opnai/gpt-5"}, 404)
    assert said.code == code(path, "not_found")
    assert said.message.startswith("unknown model 'opnai/gpt-5'; known: ")
    assert said.message.endswith("Did you mean 'openai/gpt-5'?")
    assert said.param == (None if path == MESSAGES else "model")


@pytest.mark.parametrize("path", ["/stream/opnai", "/stream/opnai/sse"])
def test_an_unknown_provider_is_a_404_with_the_nearest(refused: Refused, path: str) -> None:
    said = refused(path, {"prompt": "hi"}, 404)
    assert said == Refusal(
        "not_found", "unknown provider 'opnai'; known: anthropic, langchain, local, openai. Did you mean 'openai'?"
    )


def test_a_provider_without_a_key_is_a_503_that_says_what_to_set(refused: Refused) -> None:
    said = refused("/stream/local", {"prompt": "hi"}, 503)
    assert said.code == "provider_not_configured"
    assert said.message.endswith("set [local] enabled = true")


UNKNOWN = ["/index.html", "/v1", "/v1/", "/v1/nowhere", "/v1/chat/completions/x", "/v1/messages/", "/v1/streams/"]
UNKNOWN += [
    "/v1/responses/",
    "/v1/responses/resp_1",
    "/chat/",
    "/stream/",
    "/stream/openai/ssh",
    "/%00%ff",
    "/<script>",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_route_is_a_404_in_json(server: Service, method: str, path: str) -> None:
    response = requests.request(method, server.url + path, json={}, timeout=20)
    assert response.status_code == 404
    said = refusal(path, 404, response.headers, response.content)
    assert said.code == code(path, "not_found")
    assert said.message.startswith("no such route: ")
    assert "/v1/chat/completions" in said.message


def test_an_unknown_file_is_a_404_in_json(server: Service) -> None:
    response = requests.get(f"{server.url}/static/nothing.js", timeout=20)
    assert response.status_code == 404
    assert refusal("/static", 404, response.headers, response.content).code == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *(("GET", path, {"OPTIONS", "POST"}) for path in DOORS if path not in ("/chat", STREAMS)),
        ("GET", STREAMS, {"DELETE", "OPTIONS", "POST"}),  # by an Idempotency-Key
        *(("DELETE", path, {"OPTIONS", "POST"}) for path in (CHAT, RESPONSES, MESSAGES, "/stream/openai")),
        ("PUT", "/chat", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("BREW", "/chat", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/readyz", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_a_405_with_allow(server: Service, method: str, path: str, allow: set[str]) -> None:
    response = requests.request(method, server.url + path, timeout=20)
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allow
    said = refusal(path, 405, response.headers, response.content)
    assert said.code == code(path, "invalid_request")
    use = " or ".join(sorted(allow - {"HEAD", "OPTIONS"}))
    assert said.message == f"{method} is not answered here; use {use}"


def test_head_has_the_status_and_no_body(server: Service) -> None:
    response = requests.head(server.url + MESSAGES, timeout=20)
    assert (response.status_code, response.content) == (405, b"")


# The query of GET /chat.


@pytest.mark.parametrize(
    ("query", "message", "param"),
    [
        ("", "give one of prompt, message or messages; found none of them", "prompt"),
        ("?prompt=", None, "prompt"),
        ("?prompt=a&prompt=b", "prompt is given more than once", "prompt"),
        ("?prompt=a&message=b", "give one of prompt, message or messages; found prompt and message", "message"),
        (
            "?promt=a",
            "unknown parameter 'promt'; known: message, model, prompt, system, system_prompt. Did you mean 'prompt'?",
            "promt",
        ),
        ("?prompt=%ff", "the query string is not UTF-8", None),
        ("?prompt=%ed%a0%80", "the query string is not UTF-8", None),
        ("?prompt=a&model=b%0Ac", "model: a name has 1 to 256 printable characters", "model"),
    ],
)
def test_a_wrong_query(
    server: Service, fake_provider: FakeProvider, query: str, message: str | None, param: str | None
) -> None:
    response = requests.get(f"{server.url}/chat{query}", timeout=20)
    assert response.status_code == 400
    said = refusal("/chat", 400, response.headers, response.content)
    assert (said.code, said.param) == ("invalid_request", param)
    assert message is None or said.message == message
    assert fake_provider.requests == []


def test_pages_of_other_sites_can_not_spend_our_tokens(server: Service, fake_provider: FakeProvider) -> None:
    """What a browser sends without asking us first: a form, an image, an EventSource."""
    browser = {"Sec-Fetch-Site": "cross-site"}
    form = {**browser, "Content-Type": "text/plain"}
    posted = requests.post(f"{server.url}/chat", data=json.dumps(DOORS["/chat"]), headers=form, timeout=20)
    assert posted.status_code == 415
    refusal("/chat", 415, posted.headers, posted.content)
    got = requests.get(f"{server.url}/chat?prompt=hi&model=openai/fake-n2", headers=browser, timeout=20)
    assert got.status_code == 400
    refusal("/chat", 400, got.headers, got.content)
    assert fake_provider.requests == []
    for ours in ("same-origin", "same-site", "none"):
        headers = {"Sec-Fetch-Site": ours, "Content-Type": "text/plain"}
        answered = requests.post(f"{server.url}/chat", data=json.dumps(DOORS["/chat"]), headers=headers, timeout=20)
        assert answered.status_code == 200


# What looks odd and is fine.


def test_of_a_doubled_key_the_last_counts_everywhere(server: Service, fake_provider: FakeProvider) -> None:
    for path, body in DOORS.items():
        if path == "/agui":
            continue  # it has no such field at the top
        fake_provider.reset()
        limit = b'"max_output_tokens"' if path == RESPONSES else b'"max_tokens"'
        accepted(
            server, path, b"{" + limit + b': "wrong", ' + json.dumps(body).encode()[1:-1] + b", " + limit + b": 7}"
        )
        assert fake_provider.requests[0].body["max_tokens"] == 7


def test_nul_and_every_other_character_go_through(server: Service, fake_provider: FakeProvider) -> None:
    text = "".join(map(chr, [*range(0x80), 0x85, 0xA0, 0xFEFF, 0xFFFF, 0x2028, 0x1F30A, 0x10FFFF]))
    for path, body in DOORS.items():
        fake_provider.reset()
        asked = {**body, "input" if path == RESPONSES else "messages": [{"role": "user", "content": text}]}
        asked = {name: value for name, value in asked.items() if name not in ("prompt", "message")}
        accepted(server, path, json.dumps(asked).encode())
        assert fake_provider.requests[0].body["messages"][-1]["content"] == text


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_nesting_within_reason_goes_through(server: Service, fake_provider: FakeProvider, path: str) -> None:
    nested: Any = 1
    for _ in range(198):  # 199 with the body itself
        nested = {"a": nested}
    accepted(server, path, json.dumps({**DOORS[path], "metadata": nested}).encode())
    assert fake_provider.requests[0].body["metadata"] == nested


# The body's size, and its way here. Bare sockets: what is sent and what is not is the point.


class Wire:
    """One connection. `answer` reads a whole response and gives (status, headers, body); the rest may stay unsent."""

    def __init__(self, server: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)

    def head(self, path: str, *headers: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: sluiceway.test", "Content-Type: application/json", *headers]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        file = self.socket.makefile("rb")
        status = int(file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := file.readline().strip():
            name, _, value = line.decode("latin-1").partition(": ")
            headers[name] = value
        if headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(file.readline(), 16):
                body += file.read(size)
                file.readline()
            file.readline()
            return status, headers, body
        return status, headers, file.read(int(headers["Content-Length"]))

    def refusal(self, path: str, status: int) -> Refusal:
        got, headers, body = self.answer()
        assert got == status, body
        return refusal(path, got, headers, body)

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture
def wire(server: Service) -> Iterator[Wire]:
    connection = Wire(server)
    yield connection
    connection.close()


LIMIT = 1_048_576
TOO_LARGE = f"the body is larger than {LIMIT} bytes (server.max_body_bytes)"


def padded(path: str, size: int) -> bytes:
    body = json.dumps(DOORS[path]).encode()
    return body + b" " * (size - len(body))


@every_door
def test_a_body_announced_too_large_is_refused_unread(wire: Wire, fake_provider: FakeProvider, path: str) -> None:
    wire.head(path, f"Content-Length: {LIMIT + 1}")  # and not one byte of it
    assert wire.refusal(path, 413) == Refusal(code(path, "payload_too_large"), TOO_LARGE)
    assert fake_provider.requests == []


def test_the_announcement_may_be_any_number(wire: Wire) -> None:
    wire.head(CHAT, "Content-Length: 99999999999999999999")
    assert wire.refusal(CHAT, 413).message == TOO_LARGE


@every_door
def test_a_chunked_body_that_grows_too_large_is_refused_before_its_end(
    wire: Wire, fake_provider: FakeProvider, path: str
) -> None:
    """Its beginning is a good body: to cut it off there in silence would be to answer something else than was asked."""
    wire.head(path, "Transfer-Encoding: chunked")
    wire.chunk(padded(path, LIMIT))
    wire.chunk(b" " * 1024)  # gunicorn reads by so many; and no last chunk
    assert wire.refusal(path, 413) == Refusal(code(path, "payload_too_large"), TOO_LARGE)
    assert fake_provider.requests == []


@pytest.mark.parametrize("path", [CHAT, STREAMS])
def test_a_body_of_exactly_the_limit_is_answered(server: Service, path: str) -> None:
    body = padded(path, LIMIT)
    accepted(server, path, body)
    response = requests.post(server.url + path, data=iter([body[:70_000], body[70_000:]]), timeout=20)
    assert response.status_code == 200
    response = requests.post(server.url + path, data=iter([body, b" "]), timeout=20)
    assert response.status_code == 413


def test_expect_continue_is_no_way_around_the_limit(wire: Wire) -> None:
    wire.head(CHAT, f"Content-Length: {LIMIT + 1}", "Expect: 100-continue")
    assert b"100 Continue" in wire.socket.recv(25, socket.MSG_WAITALL)
    assert wire.refusal(CHAT, 413).message == TOO_LARGE


@every_door
@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n"],
    ids=["size", "end", "negative"],
)
def test_broken_chunks(wire: Wire, path: str, chunks: bytes) -> None:
    wire.head(path, "Transfer-Encoding: chunked")
    wire.send(chunks)
    said = wire.refusal(path, 400)
    assert said.message == "the body can't be read: it ended early or its chunks are malformed"


@every_door
def test_a_body_that_ends_early(server: Service, fake_provider: FakeProvider, path: str) -> None:
    """The client stops sending and still listens. What has come may be a good body by itself: it is not what was
    announced."""
    body = json.dumps(DOORS[path]).encode()
    for header, sent, message in [
        (f"Content-Length: {len(body) + 5}", body, f"the body ended early: {len(body)} of {len(body) + 5} bytes came"),
        (
            "Transfer-Encoding: chunked",
            b"%x\r\n%b\r\n" % (len(body), body),
            "the body can't be read: it ended early or its chunks are malformed",
        ),
    ]:
        wire = Wire(server)
        wire.head(path, header)
        wire.send(sent)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.refusal(path, 400).message == message
        wire.close()
    assert fake_provider.requests == []


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("header", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_aborted_upload_is_forgotten(server: Service, fake_provider: FakeProvider, reset: bool, header: str) -> None:
    for _ in range(20):
        wire = Wire(server)
        wire.head(CHAT, header)
        wire.send(b'{"model": ' if "Length" in header else b'100\r\n{"model": ')
        wire.close(reset=reset)
    assert fake_provider.requests == []  # and see `goes_on`


def test_a_connection_goes_on_after_a_refusal(wire: Wire) -> None:
    """The refused body is read past, so that the next request on the connection is understood."""
    body = b'{"model": 5}'
    wire.head(STREAMS, f"Content-Length: {len(body)}")
    wire.send(body)
    assert wire.refusal(STREAMS, 400).param == "model"
    wire.head(STREAMS, f"Content-Length: {LIMIT + 1}")
    wire.send(b" " * (LIMIT + 1))
    assert wire.refusal(STREAMS, 413).message == TOO_LARGE
    good = json.dumps(DOORS[STREAMS]).encode()
    wire.head(STREAMS, f"Content-Length: {len(good)}")
    wire.send(good)
    assert wire.answer()[0] == 200


# What gunicorn refuses by itself, before there is a request for the app.


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/streams HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 300_000 + b"\r\n\r\n", 431),
        (b"GET /chat?prompt=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /chat?prompt=\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST /v1/streams HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/streams HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
    ids=["header", "query", "raw-utf-8", "length", "two-lengths", "nonsense"],
)
def test_what_is_no_http_is_refused_in_json(wire: Wire, head: bytes, status: int) -> None:
    wire.send(head)
    got, headers, body = wire.answer()
    assert (got, headers["Content-Type"]) == (status, "application/json")
    assert json.loads(body)["error"]["code"] == "invalid_request"


def test_a_doubled_slash_is_an_unknown_route(server: Service) -> None:
    response = requests.post(f"{server.url}/v1//streams", json=DOORS[STREAMS], timeout=20, allow_redirects=False)
    assert response.status_code == 404
    assert refusal(STREAMS, 404, response.headers, response.content).message.endswith("Did you mean '/v1/streams'?")


# Keys, where some are set: asked for before anything of the request is read.


def test_without_a_key_nothing_is_read(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, fake_provider: FakeProvider
) -> None:
    digest = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"  # of "password"
    keyed = start_service({**fake_provider_server.env, "SLUICEWAY_SERVER__API_KEYS_SHA256": f'["{digest}"]'})
    for path in DOORS:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wr\xf6ng"}, {"Authorization": "Basic x"}):
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            response = requests.post(keyed.url + path, data=b"no JSON", headers=sent, timeout=20)
            assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            if path not in (CHAT, RESPONSES):  # there the type says it too
                said = refusal(path, 401, response.headers, response.content)
                assert said.code == code(path, "unauthorized")
    assert requests.get(f"{keyed.url}/v1/models", timeout=20).status_code == 401
    assert requests.get(f"{keyed.url}/chat?prompt=hi", timeout=20).status_code == 401
    assert requests.get(f"{keyed.url}/healthz", timeout=20).status_code == 200
    assert fake_provider.requests == []
    for headers in ({"Authorization": "bearer  password "}, {"x-api-key": "password"}):
        response = requests.post(keyed.url + STREAMS, json=DOORS[STREAMS], headers=headers, timeout=20)
        assert response.status_code == 200
    keyed.stop()


# Any body at all.

WORDS = [
    *("model", "messages", "prompt", "message", "system", "system_prompt", "max_tokens", "temperature", "top_p"),
    *("stop", "stop_sequences", "stream", "stream_options", "include_usage", "format", "shape", "resumable", "n"),
    *("id", "messageId", "parts", "type", "text", "tool-x", "toolCalls", "toolCallId", "tools"),
    *("state", "output-available", "forwardedProps"),
    *("role", "content", "user", "assistant", "hi", "ndjson", "sse", "max_completion_tokens", "openai/fake-n2"),
]
odd_text = st.text(st.characters(), max_size=8)  # lone surrogates too, which become escapes in the JSON
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()  # NaN and Infinity too, as Python's json writes them
    | st.sampled_from([-1, 0, 0.5, 10**30, 1e308, "5", "", " ", "\x00"])
    | st.sampled_from(WORDS)
    | odd_text
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | odd_text, inner, max_size=4),
    max_leaves=8,
)


# Fields that some routes take as they are, so that not every body is refused for the first thing that is odd.
FITTING = [
    *(("max_tokens", value) for value in (1, 7, 10**30)),
    *(("temperature", value) for value in (0, 1, 0.5)),
    *(("stop", value) for value in ("x", [], ["x", "y"])),
    *(("stream", value) for value in (True, False)),
    *(("system", value) for value in ("", "be brief", "\x00\u2028")),
    *(("messages", value) for value in (HI, [*HI, *HI], [{"role": "assistant", "content": ""}])),
    *(("model", value) for value in ("fake-n0", "fake-n1-uni", "openai/fake-n1", "anthropic/fake-n1-think2", None)),
    ("stream_options", {"include_usage": True}),
    ("stop_sequences", ["x"]),
    ("format", "ndjson"),
    ("user", "someone"),
    ("seed", math.inf),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*at, key)
        yield from places(part, (*at, key))


@st.composite
def near_misses(draw: st.DrawFn, good: dict[str, Any]) -> Any:
    """A good body with one to three things changed: a fitting field set, any field, a part replaced or taken away."""
    body = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(["fit", "fit", "add", "replace", "remove"]))
        if change == "fit":
            body.update([copy.deepcopy(draw(st.sampled_from(FITTING)))])
        elif change == "add":
            body[draw(st.sampled_from(WORDS) | odd_text)] = draw(values)
        elif found := list(places(body)):
            *above, last = draw(st.sampled_from(found))
            part = body
            for key in above:
                part = part[key]
            if change == "replace":
                part[last] = draw(values)
            else:
                del part[last]
    return body


def bodies(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """As they are sent: one in eight any JSON, one any bytes, the others near misses (`one_of` takes no weights)."""
    kinds = {0: st.binary(), 1: values.map(_sent)}
    return st.integers(0, 7).flatmap(lambda kind: kinds.get(kind, near_misses(good).map(_sent)))


def _sent(value: Any) -> bytes:
    # Python's `Infinity` is no JSON; `1e999`, which many parsers read as one, is.
    return json.dumps(value).replace("Infinity", "1e999").encode()


@pytest.fixture(scope="module")
def client(fake_provider_server: FakeProvider) -> Iterator[FlaskClient]:
    """The app in this process, for speed: nothing here is about sockets."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fake_provider_server.env.items():
            patch.setenv(name, value)
        app = create_app()
    yield app.test_client()
    app.extensions["sluiceway"].close()


@every_door
@settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_body_is_answered_or_refused(
    client: FlaskClient, fake_provider: FakeProvider, path: str, data: st.DataObject
) -> None:
    fake_provider.reset()
    sent = data.draw(bodies(DOORS[path]))
    with client.post(path, data=sent, content_type="application/json") as response:
        got = response.get_data()
        if response.status_code == 200:
            assert response.mimetype in ("application/json", "application/x-ndjson", "text/event-stream", "text/plain")
            assert len(fake_provider.requests) == 1
            assert b"internal" not in got
            return
        said = refusal(path, response.status_code, response.headers, got)
    if fake_provider.requests:  # it was a good request for all we know, and the provider did not like it
        assert response.status_code == 400
        assert said.message.startswith("provider '")
    else:
        assert response.status_code in (400, 404) or said.message.startswith("the embedded model is off")
        assert said.message
