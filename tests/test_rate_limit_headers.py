"""What a provider says of its rate limits stands in our answer too, streamed and whole, for the client's own pacing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
import requests
from conftest import Service
from test_tls import FRAMES
from test_transport import Server, answering, serve

__all__ = ["serve"]  # a fixture

SAID = {"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-tokens": "6m0s"}
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-RateLimit-Remaining-Requests: 59\r\n"
    b"x-ratelimit-reset-tokens: 6m0s\r\nx-ratelimit-limit-tokens: Z\xfcrich\r\nopenai-organization: secret\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
ANSWER = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in FRAMES) + b"0\r\n\r\n"
ASKED: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def service(serve: Callable[..., Server], start_service: Callable[..., Service]) -> Any:
    server = serve(answering(ANSWER))
    env = {"OPENAI_BASE_URL": f"{server.url}v1", "OPENAI_API_KEY": "sk-test-0123456789"}
    service = start_service({**env, "SLUICEWAY_SERVER__CORS_ORIGINS": '["https://app.example"]'})
    yield service
    service.stop()


def test_in_an_answer_of_either_kind(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="k", max_retries=0)
    whole = client.chat.completions.with_raw_response.create(model="openai/m", messages=ASKED)
    streamed = client.chat.completions.with_raw_response.create(model="openai/m", messages=ASKED, stream=True)
    for raw in (whole, streamed):
        assert {name: value for name, value in raw.headers.items() if "ratelimit" in name} == SAID
        assert "openai-organization" not in raw.headers
    for _ in streamed.parse():
        pass


def test_pages_of_other_origins_may_read_them(service: Service) -> None:
    body = {"model": "openai/m", "messages": ASKED, "stream": True}
    origin = {"Origin": "https://app.example"}
    answer = requests.post(f"{service.url}/v1/chat/completions", json=body, headers=origin, timeout=20)
    exposed = {name.strip().lower() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {*SAID, "x-request-id", "retry-after"}
