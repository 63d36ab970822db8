"""The requests that the SDK clients are spared building are, the ones they build."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Mapping
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from app.cancel import Cancel
from app.clock import Clock
from app.providers.prepared import Prepared
from app.transport import clocked
from app.transport.client import Body, Client, Transport


class _OpenAI(Prepared, openai.OpenAI):
    pass


class _Straight(Prepared, openai.OpenAI):
    straight = True


class _Anthropic(Prepared, anthropic.Anthropic):
    pass


KINDS = {
    "openai": (_OpenAI, openai.OpenAI, openai.Stream[object], "/chat/completions"),
    "openai, straight": (_Straight, openai.OpenAI, openai.Stream[object], "/chat/completions"),
    "anthropic": (_Anthropic, anthropic.Anthropic, anthropic.Stream[object], "/v1/messages"),
}
PAYLOADS: list[dict[str, Any]] = [
    {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True},
    {"model": "m", "messages": [{"role": "user", "content": "\u2028 é 😀 \x00"}], "temperature": 1e-7, "n": 2**70},
    {"model": "n", "stop": [], "tools": [{"deep": [None, True, {"": ""}]}]},
]


class _Noting(Transport):
    """Notes what it is to send, and sends nothing."""

    def __init__(self, sent: list[httpx2.Request]) -> None:
        super().__init__(ssl.create_default_context())
        self._sent = sent

    def begin(self, request: httpx2.Request) -> Body:
        self._sent.append(request)
        return _Unsent()


class _Unsent(Body):
    def __init__(self) -> None:
        pass

    def head(self, until: float = math.inf) -> httpx2.Response:
        return httpx2.Response(200)

    def close(self) -> None:
        pass


class _Wire:
    """Both clients' way to a provider that notes what it is sent."""

    def __init__(self, kind: str, **options: Any) -> None:
        ours, theirs, self.stream_cls, self.path = KINDS[kind]
        self.sent: list[httpx2.Request] = []
        common = {"api_key": "sk-x", "base_url": "http://provider.test/base/v1", "max_retries": 0, **options}
        http = (lambda: Client(_Noting(self.sent))) if ours.straight else self._http
        self.ours: Any = ours(**common, http_client=http())
        self.theirs: Any = theirs(**common, http_client=http())

    def _http(self) -> httpx2.Client:
        def handle(request: httpx2.Request) -> httpx2.Response:
            self.sent.append(request)
            return httpx2.Response(200, content=b"data: [DONE]\n\n")

        return httpx2.Client(transport=httpx2.MockTransport(handle))

    def ask(self, payload: Mapping[str, Any], headers: Mapping[str, str], read_s: float) -> None:
        """The same request by the one and by the other."""
        clock = Clock(first_token_s=read_s, idle_s=read_s, total_s=read_s, now=lambda: 0.0)
        timeout = clocked(clock, Cancel(), connect_s=1.0)
        self.ours.ask(self.path, payload, headers=headers, timeout=timeout, stream_cls=self.stream_cls).close()
        self.theirs.post(
            self.path,
            body=payload,
            options={"headers": headers, "timeout": timeout},
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=self.stream_cls,
        ).close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"default_headers": {"X-Team": "blue"}, "default_query": {"v": "1"}}])
def test_each_request_is_the_one_that_the_sdk_would_have_sent(kind: str, options: dict[str, Any]) -> None:
    wire = _Wire(kind, **options)
    beta = {"anthropic-version": "2023-06-01", "anthropic-beta": "one"} if kind == "anthropic" else {"X-Beta": "one"}
    for n, payload in enumerate(PAYLOADS * 2):
        wire.ask(payload, {"X-Request-ID": f"r{n}"}, 30.0 - n)
        wire.ask(payload, {"X-Request-ID": f"s{n}", **{name: f"{value}{n}" for name, value in beta.items()}}, 5.0 + n)
    assert len(wire.sent) == 4 * 2 * len(PAYLOADS)
    for ours, theirs in zip(wire.sent[::2], wire.sent[1::2], strict=True):
        assert (ours.method, str(ours.url)) == (theirs.method, str(theirs.url))
        assert _as_json(ours) == _as_json(theirs)
        assert _headers(ours) == _headers(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_says_nothing_of_the_one_before(kind: str) -> None:
    wire = _Wire(kind)
    wire.ask(PAYLOADS[0], {"X-Request-ID": "first", "X-Only": "here"}, 1.0)
    wire.ask(PAYLOADS[2], {"X-Request-ID": "second"}, 2.0)
    wire.ask(PAYLOADS[2], {"X-Request-ID": "third"}, 2.0)
    for request in wire.sent[2:]:
        assert "x-only" not in request.headers
        assert b"hi" not in request.read()


def _headers(request: httpx2.Request) -> list[tuple[str, str]]:
    """All of them; lengths differ with the spelling of the JSON."""
    return sorted((name, value) for name, value in request.headers.multi_items() if name != "content-length")


def _as_json(request: httpx2.Request) -> Any:

    return json.loads(request.read())
