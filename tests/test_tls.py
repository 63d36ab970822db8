"""The service in front of a provider over TLS: connections are reused, and a wrong certificate is told as such.

The transport's own part is in test_transport.py, whose servers and certificates these are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from conftest import Service
from test_transport import CHUNKED, Server, answering, certificates, identity, serve

__all__ = ["certificates", "serve"]  # fixtures

FRAMES = (
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"Hello"},"finish_reason":null}]}\n\n',
    b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},'
    b'"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
ANSWER = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in FRAMES) + b"0\r\n\r\n"
ASKED = {"model": "openai/m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def in_front_of(server: Server, certificates: Path, start_service: Callable[..., Service]) -> Service:
    env = {"OPENAI_BASE_URL": f"{server.url}v1", "OPENAI_API_KEY": "sk-test-0123456789"}
    return start_service({**env, "SSL_CERT_FILE": str(certificates / "ca.pem")})


def test_forty_requests_take_few_handshakes(
    certificates: Path, serve: Callable[..., Server], start_service: Callable[..., Service]
) -> None:
    server = serve(answering(ANSWER), identity(certificates, "good"))
    service = in_front_of(server, certificates, start_service)
    for _ in range(40):
        answer = requests.post(f"{service.url}/v1/chat/completions", json=ASKED, timeout=20)
        assert answer.status_code == 200
        assert b'"content":"Hello"' in answer.content
        assert answer.content.endswith(b"data: [DONE]\n\n")
    assert len(server.requests) == 40
    assert server.handshakes == 1
    service.stop()


@pytest.mark.parametrize(
    ("name", "why"),
    [("wrong_host", "mismatch"), ("unknown", "self-signed certificate"), ("expired", "certificate has expired")],
)
def test_a_wrong_certificate_is_refused_and_the_error_says_why(
    name: str, why: str, certificates: Path, serve: Callable[..., Server], start_service: Callable[..., Service]
) -> None:
    server = serve(answering(ANSWER), identity(certificates, name))
    service = in_front_of(server, certificates, start_service)
    answer = requests.post(f"{service.url}/v1/chat/completions", json=ASKED, timeout=20)
    assert answer.status_code == 502
    error = answer.json()["error"]
    assert error["code"] == "provider_unavailable"
    assert "certificate that is not trusted" in error["message"]
    assert why in error["message"]
    assert "127.0.0.1" not in answer.text
    assert str(server.port) not in answer.text
    service.stop()
    server.close()
    assert server.requests == [], "nothing was sent, the key least of all"
    assert "127.0.0.1:" + str(server.port) not in service.log
