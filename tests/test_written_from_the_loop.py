"""Behind its first piece a stream is written from gunicorn's event loop, which nobody can tell: not where it breaks,
and not where somebody stands between the stream and the client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from conftest import Service
from test_tls import FRAMES
from test_transport import CHUNKED, Peer, Server, certificates, identity, serve

from app.testing import FakeProvider, answer

__all__ = ["certificates", "serve"]  # fixtures

MODEL = "fake-n30-i20"


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service], fake_provider_server: FakeProvider) -> Iterator[Service]:
    service = start_service(fake_provider_server.env, app="tests.written_where:app")
    yield service
    service.stop()


def ask(service: Service, how: str, model: str = MODEL) -> str:
    body = {"prompt": how, "model": model}
    url = f"{service.url}/stream/openai"
    response = requests.post(url, json=body, headers={"X-How": how, "Connection": "close"}, timeout=30)
    assert response.status_code == 200
    return response.text


def test_the_first_piece_in_the_greenlet_and_the_rest_in_the_loop(service: Service) -> None:
    written = ask(service, "as it comes")
    # One machine is slower than the other: a token may come together with the first, or with the end.
    assert written.startswith("g")
    assert written.count("l") >= 25
    assert len(written) <= 30


@pytest.mark.parametrize("how", ["middleware", "filter"])
def test_who_stands_between_sees_every_piece(service: Service, how: str) -> None:
    written = ask(service, how)
    assert set(written) == {"G"}
    assert len(written) >= 25


def test_a_defect_in_the_loop_is_an_error_in_the_stream(service: Service) -> None:
    assert ask(service, "defect") == "g[Error: the stream failed inside the service; try again]\n"
    assert "a stream failed by a defect of ours" in service.log
    assert set(ask(service, "the next one")) == {"g", "l"}


def test_under_threads_there_is_no_loop(start_service: Callable[..., Service], fake_provider: FakeProvider) -> None:
    args = ("--config", os.devnull, "--worker-class", "gthread", "--threads", "4")
    service = start_service(fake_provider.env, *args, app="tests.written_where:app")
    assert set(ask(service, "as it comes")) == {"g"}
    service.stop()


def test_over_tls_too(certificates: Path, serve: Callable[..., Server], start_service: Callable[..., Service]) -> None:
    """Also where one record of TLS holds the end of one frame and the next: what is decrypted no longer shows in the
    socket."""
    texts = [FRAMES[0].replace(b"Hello", str(number).encode()) for number in range(40)]
    body = b"".join(texts) + FRAMES[1] + FRAMES[2]

    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(CHUNKED)
            for at in range(0, len(body), 150):
                piece = body[at : at + 150]
                peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                peer.server.closed.wait(0.01)
            peer.send(b"0\r\n\r\n")

    server = serve(script, identity(certificates, "good"))
    env = {"OPENAI_BASE_URL": f"{server.url}v1", "OPENAI_API_KEY": "sk-test-0123456789"}
    service = start_service({**env, "SSL_CERT_FILE": str(certificates / "ca.pem")}, app="tests.written_where:app")
    written = ask(service, "as it comes", "m")
    assert written.startswith("g")
    assert written.count("l") >= 30
    asked = {"model": "openai/m", "messages": [{"role": "user", "content": "hi"}]}
    native = requests.post(f"{service.url}/v1/streams", json=asked, timeout=20).text
    assert native.count('"type":"text"') == 40
    assert server.handshakes == 1
    service.stop()


def test_the_text_is_the_same(service: Service) -> None:
    """In another format, which the witness leaves alone."""
    body = {"model": f"openai/{MODEL}-uni", "messages": [{"role": "user", "content": "hi"}], "format": "ndjson"}
    lines = requests.post(f"{service.url}/v1/streams", json=body, timeout=30).text.splitlines()
    texts = [line["text"] for line in map(json.loads, lines) if line["type"] == "text"]
    assert "".join(texts) == answer(f"{MODEL}-uni").text
