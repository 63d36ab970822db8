"""nginx with the shipped files, in front of the real server: what comes through, and when.

The files of `nginx/` are used as they are, with addresses and paths put in. A test that shows why a line stands there
takes the line back, and has the same check fail.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import Service, eventually, free_port

from app.testing import FakeProvider, answer, text_after

SHIPPED = Path(__file__).parent.parent / "nginx"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
Change = tuple[str, str]  # a text of the shipped files, and what stands in its place


# One nginx


def written(folder: Path, port: int, app: str, changes: Sequence[Change] = (), *, key: Path | None = None) -> Path:
    """The shipped files, in `folder`: listening on `port`, by TLS where there is a `key`, and in front of `app`, which
    is `host:port` or `unix:path`. Returns the main file."""
    swaps = [
        *changes,
        ("user www-data;", "user root;"),  # root alone may change it; for anybody else nginx ignores the line
        ("pid /run/nginx.pid;", f"pid {folder}/pid;"),
        ("error_log /var/log/nginx/error.log", f"error_log {folder}/error.log"),
        ("access_log /var/log/nginx/access.log", f"access_log {folder}/access.log"),
        # The folders that are compiled in belong to root.
        ("http {", "http {" + "".join(f" {kind}_temp_path {folder}/{kind};" for kind in TEMPORARY)),
    ]
    if app.startswith("unix:"):
        swaps.append(("    proxy_pass http://127.0.0.1:8000;\n", ""))
        swaps.append(("#proxy_pass http://unix:/run/sluiceway/gunicorn.sock;", f"proxy_pass http://{app};"))
    else:
        swaps.append(("proxy_pass http://127.0.0.1:8000;", f"proxy_pass http://{app};"))
    if key is None:
        swaps.append(("listen 127.0.0.1:8080 ", f"listen 127.0.0.1:{port} "))
    else:
        swaps.append(("        listen 127.0.0.1:8080 so_keepalive=30s:10s:3;\n", ""))
        swaps.append(("#listen 443 ssl", f"listen 127.0.0.1:{port} ssl"))
        swaps.append(("#ssl_certificate /etc/ssl/sluiceway/fullchain.pem;", f"ssl_certificate {key};"))
        swaps.append(("#ssl_certificate_key /etc/ssl/sluiceway/privkey.pem;", f"ssl_certificate_key {key};"))
        swaps.append(("#ssl_protocols", "ssl_protocols"))

    texts = {name: (SHIPPED / name).read_text("utf-8") for name in ("nginx.conf", "sluiceway.conf")}
    for old, new in swaps:
        places = [name for name, text in texts.items() for _ in range(text.count(old))]
        assert len(places) == 1, f"{old!r} is to stand once in nginx/, and stands {len(places)} times"
        texts[places[0]] = texts[places[0]].replace(old, new)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return folder / "nginx.conf"


class Nginx:
    def __init__(self, binary: str, folder: Path, app: str, changes: Sequence[Change], key: Path | None) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http{'s' if key else ''}://127.0.0.1:{self.port}"
        conf = written(folder, self.port, app, changes, key=key)
        command = [binary, "-p", str(folder), "-c", str(conf), "-g", "daemon off;"]
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            eventually(self._accepts, what="nginx's first connection")
        except BaseException:
            self.stop()
            raise

    def log(self, name: str) -> str:
        """`access.log`, `error.log`, or `output`, where it says why it does not start."""
        return (self.folder / name).read_text("utf-8", "replace")

    def _accepts(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"nginx did not start:\n{self.log('output')}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=20):
            return True
        return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def nginx_binary() -> str:
    # Debian keeps it where only root's PATH looks.
    binary = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    return binary or pytest.skip("no nginx here: apt-get install nginx-light")


@pytest.fixture(scope="module")
def start_nginx(nginx_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Nginx]]:
    """`start_nginx(app, *changes, key=None) -> Nginx`; stopped at the end of the module."""
    started: list[Nginx] = []

    def start(app: str, *changes: Change, key: Path | None = None) -> Nginx:
        nginx = Nginx(nginx_binary, tmp_path_factory.mktemp("nginx"), app, changes, key)
        started.append(nginx)
        return nginx

    yield start
    for nginx in started:
        nginx.process.terminate()
    for nginx in started:
        nginx.stop()


@pytest.fixture(scope="module")
def nginx(start_nginx: Callable[..., Nginx], server: Service) -> Nginx:
    """The files as they are shipped, in front of the service that all tests share."""
    return start_nginx(address(server))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, in one file."""
    openssl = shutil.which("openssl") or pytest.skip("no openssl here to make a certificate with")
    pem = tmp_path_factory.mktemp("tls") / "both.pem"
    certificate = pem.with_suffix(".crt")
    made = ["-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([openssl, "req", *made, "-keyout", pem, "-out", certificate], check=True, capture_output=True)
    with pem.open("ab") as both:
        both.write(certificate.read_bytes())
    return pem


@pytest.fixture(scope="module")
def app_socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app") / "sock"


@pytest.fixture(scope="module")
def mortal(start_service: Callable[..., Service], fake_provider_server: FakeProvider, app_socket: Path) -> Service:
    """A service whose worker may be killed, on a port and on a unix socket; its clocks are the default ones."""
    return start_service(fake_provider_server.env, "--workers", "1", "--bind", f"unix:{app_socket}")


def address(service: Service) -> str:
    return f"127.0.0.1:{service.port}"


# Lines to switch on

LIMITED = [
    ("#limit_conn_zone", "limit_conn_zone"),
    ("#limit_conn sluiceway_per_client 20;", "limit_conn sluiceway_per_client 1;"),
    ("#limit_conn_status", "limit_conn_status"),
]
BEHIND_ANOTHER_PROXY = [
    ("#set_real_ip_from 10.0.0.0/8;", "set_real_ip_from 127.0.0.0/8;"),
    ("#real_ip_header", "real_ip_header"),
    ("#real_ip_recursive", "real_ip_recursive"),
]


# One answer


@dataclass(frozen=True)
class Wire:
    """A route: how it is asked, and where in an event's object the text stands (None: the body is the text)."""

    name: str
    path: str
    provider: str
    asked: dict[str, Any]
    text_in: Callable[[dict[str, Any]], str] | None

    def body(self, model: str) -> bytes:
        return json.dumps({"model": f"{self.provider}/{model}", **self.asked}).encode()

    def text(self, body: bytes) -> str:
        """The text in the beginning of a body; an event that is not whole yet does not count."""
        if self.text_in is None:
            return body.decode("utf-8", "ignore")
        whole, _, _ = body.rpartition(b"\n\n")
        events = re.findall(rb"(?m)^data: (\{.*\})$", whole)
        return "".join(self.text_in(json.loads(event)) for event in events)


MESSAGES = [{"role": "user", "content": "Tell me about locks."}]
CHAT = Wire(
    "chat",
    "/v1/chat/completions",
    "openai",
    {"messages": MESSAGES, "stream": True},
    lambda event: event["choices"][0]["delta"].get("content", ""),
)
WIRES = [
    CHAT,
    Wire(
        "messages",
        "/v1/messages",
        "anthropic",
        {"messages": MESSAGES, "stream": True, "max_tokens": 100},
        lambda event: event["delta"]["text"] if event["type"] == "content_block_delta" else "",
    ),
    Wire(
        "native",
        "/v1/streams",
        "openai",
        {"prompt": "Tell me about locks."},
        lambda event: event["text"] if event["type"] == "text" else "",
    ),
    Wire("plain", "/stream/openai", "openai", {"prompt": "Tell me about locks."}, None),
]
every_wire = pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])


@contextlib.contextmanager
def requested(
    url: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The response to a POST of `body`, or to a GET; leaving closes the connection, whatever is still to come."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.netloc, timeout=30, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        with connection.getresponse() as response:
            yield response


def arrivals(response: http.client.HTTPResponse) -> Iterator[tuple[float, bytes]]:
    """(`time.monotonic()`, the body so far) of every read. Raises `IncompleteRead` for a body without its end."""
    unzip = zlib.decompressobj(wbits=31) if response.headers["Content-Encoding"] == "gzip" else None
    body = b""
    while piece := response.read1():  # one read of the socket, or one chunk
        at = time.monotonic()
        body += unzip.decompress(piece) if unzip else piece
        yield at, body


def read_until(response: http.client.HTTPResponse, text: str) -> None:
    """Read a chat answer until `text` is there, or more; fails if it is another one."""
    assert any(CHAT.text(body).startswith(text) for _, body in arrivals(response))


# Every event at once

LIMIT_MS = 50.0
PLAIN: dict[str, str] = {}
GZIP = {"Accept-Encoding": "gzip"}


def delays_ms(url: str, provider: FakeProvider, wire: Wire, headers: dict[str, str], name: str) -> list[float]:
    """How long after the provider wrote it each of ten tokens was here, 200 ms lying between them.

    The provider is a thread of this process and writes token k (from 0) k x 200 ms after it had read the request, by
    the same clock that is read here. `name` is one no other stream has.
    """
    model = f"{name}-n10-i200"
    with requested(url, wire.path, wire.body(model), headers) as response:
        reads = list(arrivals(response))  # looked into when all is over: that takes time too
    texts = [(at, wire.text(body)) for at, body in reads]
    assert texts, "the answer has no body"
    assert texts[-1][1] == answer(model).text
    asked_at = next(request.at for request in provider.requests if request.body["model"] == model)
    delays = []
    for token in range(10):
        so_far = text_after(model, token + 1)
        came_at = next(at for at, text in texts if text.startswith(so_far))
        delays.append((came_at - asked_at - token * 0.2) * 1000)
    return delays


def assert_each_event_passes_at_once(
    nginx: Nginx, service: Service, provider: FakeProvider, wire: Wire, *accepting: dict[str, str], tries: int = 5
) -> None:
    """One stream for each set of request headers, and one without nginx, all at the same time.

    On a busy machine everything stands still now and then for longer than the limit, so what the stream without nginx
    is late at most is allowed on top (1 to 5 ms as a rule), and of each event the best of some tries counts: whoever
    holds events back does so each time, and the machine stands still at others.
    """
    best: list[list[float]] = []
    for _ in range(tries):
        noise, delays = measured(nginx, service, provider, wire, *accepting)
        best = [[min(pair) for pair in zip(*both, strict=True)] for both in zip(best or delays, delays, strict=True)]
        late = [max(one) > LIMIT_MS + noise for one in best]
        if not any(late):
            return
        provider.reset()
    shown = "; ".join(
        f"{headers}: {', '.join(f'{delay:.1f}' for delay in one)}"
        for headers, one, bad in zip(accepting, best, late, strict=True)
        if bad
    )
    pytest.fail(f"{wire.path}: events came late, by ms, {shown}; without nginx by {noise:.1f} ms at most")


def measured(
    nginx: Nginx, service: Service, provider: FakeProvider, wire: Wire, *accepting: dict[str, str]
) -> tuple[float, list[list[float]]]:
    """By how much the latest event was late without nginx, and each event with it, in ms."""
    with ThreadPoolExecutor() as pool:
        without = pool.submit(delays_ms, service.url, provider, wire, PLAIN, "direct")
        streams = [
            pool.submit(delays_ms, nginx.url, provider, wire, headers, f"through{number}")
            for number, headers in enumerate(accepting)
        ]
    return max(without.result()), [stream.result() for stream in streams]


@every_wire
def test_each_event_passes_at_once(nginx: Nginx, server: Service, fake_provider: FakeProvider, wire: Wire) -> None:
    assert_each_event_passes_at_once(nginx, server, fake_provider, wire, PLAIN, GZIP)


def test_each_event_passes_at_once_over_tls(
    start_nginx: Callable[..., Nginx], server: Service, fake_provider: FakeProvider, key: Path
) -> None:
    nginx = start_nginx(address(server), key=key)
    assert_each_event_passes_at_once(nginx, server, fake_provider, CHAT, PLAIN, GZIP)


def test_each_event_passes_at_once_from_a_unix_socket(
    start_nginx: Callable[..., Nginx], mortal: Service, app_socket: Path, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(f"unix:{app_socket}")
    assert_each_event_passes_at_once(nginx, mortal, fake_provider, CHAT, PLAIN, GZIP)


# The check sees what is wrong. Buffering alone holds no chunked body back, it takes one of the others beside it.

HTTP_10 = ("proxy_http_version 1.1;", "proxy_http_version 1.0;")
BUFFERED = ("proxy_buffering off;", "proxy_buffering on;")
BUFFERED_IN_SPITE = ("proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;")
GZIPPED = ("gzip off;", "gzip on; gzip_types text/event-stream text/plain;")


def test_the_check_fails_on_the_default_before_1_29_7(
    start_nginx: Callable[..., Nginx], server: Service, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(address(server), HTTP_10, BUFFERED_IN_SPITE)
    with pytest.raises(pytest.fail.Exception, match="events came late"):
        assert_each_event_passes_at_once(nginx, server, fake_provider, CHAT, PLAIN, tries=2)


def test_the_check_fails_on_a_compressor(
    start_nginx: Callable[..., Nginx], server: Service, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(address(server), GZIPPED, BUFFERED_IN_SPITE)
    with pytest.raises(pytest.fail.Exception, match=r"events came late.*gzip"):
        assert_each_event_passes_at_once(nginx, server, fake_provider, CHAT, PLAIN, GZIP, tries=2)


def test_the_app_alone_saves_a_configuration_that_knows_nothing_of_streaming(
    start_nginx: Callable[..., Nginx], server: Service, fake_provider: FakeProvider
) -> None:
    """By X-Accel-Buffering: the two above, without the line that ignores it."""
    nginx = start_nginx(address(server), HTTP_10, BUFFERED, GZIPPED)
    assert_each_event_passes_at_once(nginx, server, fake_provider, CHAT, PLAIN, GZIP)


# A cut answer looks cut


def kill_worker(service: Service) -> None:
    """SIGKILL, and wait for the next one."""
    pids = worker_pids(service)
    os.kill(pids[-1], signal.SIGKILL)
    eventually(lambda: len(worker_pids(service)) > len(pids), what="the next worker")


def worker_pids(service: Service) -> list[int]:
    """Of all workers so far, the living one last."""
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", service.log)]


def looks_complete(response: http.client.HTTPResponse) -> bool:
    try:
        response.read()
    except http.client.IncompleteRead:
        return False
    return True


def test_an_answer_cut_by_a_dying_worker_looks_cut_unless_a_tutorial_was_followed(
    start_nginx: Callable[..., Nginx], mortal: Service
) -> None:
    unchunked = ("chunked_transfer_encoding on;", "chunked_transfer_encoding off;")
    urls = {
        "without nginx": mortal.url,
        "as shipped": start_nginx(address(mortal)).url,
        "chunked_transfer_encoding off": start_nginx(address(mortal), unchunked).url,
        "HTTP/1.0 upstream": start_nginx(address(mortal), HTTP_10).url,
    }
    model = "fake-n20-stall3"
    with contextlib.ExitStack() as streams:
        responses = {
            name: streams.enter_context(requested(url, CHAT.path, CHAT.body(model))) for name, url in urls.items()
        }
        for response in responses.values():
            read_until(response, text_after(model, 3))
        kill_worker(mortal)
        assert {name: looks_complete(response) for name, response in responses.items()} == {
            "without nginx": False,
            "as shipped": False,
            "chunked_transfer_encoding off": True,
            "HTTP/1.0 upstream": True,
        }


# Bodies and errors


def told(url: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    with requested(url, path, body, {"X-Request-ID": "test-1"}) as response:
        return response.status, response.headers["Content-Type"], response.read()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/streams"])
def test_a_body_of_2_mb_is_refused_by_the_app_in_the_words_of_its_route(
    nginx: Nginx, server: Service, path: str
) -> None:
    said = told(server.url, path, b"x" * 2_000_000)
    assert said[:2] == (413, "application/json")
    assert b"server.max_body_bytes" in said[2]
    # More than once, because with `Connection: close` one in four became a 502.
    assert [told(nginx.url, path, b"x" * 2_000_000) for _ in range(4)] == [said] * 4


def test_a_body_of_5_mb_is_refused_by_nginx_in_json(nginx: Nginx) -> None:
    with requested(nginx.url, CHAT.path, b"x" * 5_000_000) as response:
        assert_error_of_nginx(response, 413, "payload_too_large", retryable=False)


def test_a_prompt_that_the_app_accepts_is_never_on_disk(start_nginx: Callable[..., Nginx], server: Service) -> None:
    nginx = start_nginx(address(server))
    largest = json.dumps({"model": "openai/fake-n1", "messages": [{"role": "user", "content": "*"}]}).encode()
    largest = largest.replace(b"*", b"x" * (1_048_576 - len(largest) + 1))
    assert told(nginx.url, CHAT.path, largest)[0] == 200
    assert "temporary file" not in nginx.log("error.log")
    assert told(nginx.url, CHAT.path, b"x" * 2_000_000)[0] == 413
    assert "temporary file" in nginx.log("error.log")


def assert_error_of_nginx(response: http.client.HTTPResponse, status: int, code: str, *, retryable: bool) -> None:
    """An object that reads as an error in each of our formats."""
    assert response.status == status
    assert response.headers["Content-Type"] == "application/json"
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])
    value = json.load(response)
    error = value["error"]
    assert (error["code"], error["status"], error["retryable"]) == (code, status, retryable)
    assert value["type"] == "error"
    assert error["type"].endswith("_error")
    assert error["message"]


def test_a_service_that_is_down_is_502_in_json(start_nginx: Callable[..., Nginx]) -> None:
    nginx = start_nginx(f"127.0.0.1:{free_port()}")
    for path, body in [(CHAT.path, b"{}"), ("/healthz", None), ("/static/page.html", None)]:
        with requested(nginx.url, path, body) as response:
            assert_error_of_nginx(response, 502, "bad_gateway", retryable=True)


def test_a_worker_that_dies_before_its_first_byte_is_502_in_json(
    start_nginx: Callable[..., Nginx], mortal: Service, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(address(mortal))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(told, nginx.url, CHAT.path, CHAT.body("fake-slow9000"))
        # The worker may be a new one, of the test before, and still be starting.
        fake_provider.wait_for(lambda stats: stats.open_streams == 1, timeout_s=30)
        kill_worker(mortal)
        status, media_type, body = waiting.result()
    assert (status, media_type) == (502, "application/json")
    assert json.loads(body)["error"]["code"] == "bad_gateway"


def test_a_service_that_says_nothing_is_504_in_json(
    start_nginx: Callable[..., Nginx], mortal: Service, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(address(mortal), ("proxy_read_timeout 620s;", "proxy_read_timeout 200ms;"))
    with requested(nginx.url, CHAT.path, CHAT.body("fake-slow9000")) as response:
        assert_error_of_nginx(response, 504, "gateway_timeout", retryable=True)


def test_more_streams_than_one_client_may_have_are_429_in_json(
    start_nginx: Callable[..., Nginx], server: Service, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(address(server), *LIMITED)
    with requested(nginx.url, CHAT.path, CHAT.body("fake-n1000-i20")) as first:
        assert first.status == 200
        with requested(nginx.url, CHAT.path, CHAT.body("fake-n1")) as second:
            assert second.headers["Retry-After"] == "1"
            assert_error_of_nginx(second, 429, "rate_limited", retryable=True)


# Both ends, as if nginx were not there


def test_a_client_that_leaves_ends_the_request_to_the_provider(nginx: Nginx, fake_provider: FakeProvider) -> None:
    model = "fake-n1000-i20"
    with requested(nginx.url, CHAT.path, CHAT.body(model)) as response:
        read_until(response, text_after(model, 3))
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


def test_a_client_that_leaves_while_nothing_is_sent_is_passed_on_too(
    start_nginx: Callable[..., Nginx], fake_provider: FakeProvider
) -> None:
    """The fake provider takes the app's place: it sees at once when nginx closes, and nobody has to write."""
    nginx = start_nginx(fake_provider.url.removeprefix("http://"))
    model = "fake-n20-stall3"
    body = json.dumps({"model": model, **CHAT.asked}).encode()
    with requested(nginx.url, CHAT.path, body, {"Authorization": "Bearer sk-test"}) as response:
        read_until(response, text_after(model, 3))
        assert fake_provider.stats().aborted == 0
    fake_provider.wait_for(lambda stats: stats.aborted == 1)


@every_wire
def test_a_complete_answer_is_the_same_through_nginx(
    nginx: Nginx, server: Service, fake_provider: FakeProvider, wire: Wire
) -> None:
    def whole(url: str) -> tuple[int, dict[str, str], bytes]:
        with requested(url, wire.path, wire.body("fake-n64-uni-think4"), {"X-Request-ID": "test-1"}) as response:
            headers = dict(response.headers)
            for of_the_hop in ("Server", "Date", "Connection", "X-Accel-Buffering"):
                headers.pop(of_the_hop, None)
            # What the provider draws for each answer, and what the app measures.
            varying = rb'fake\d{6}|"created":\d+|"(ttft|duration)_s":[\d.]+'
            return response.status, headers, re.sub(varying, b"*", response.read())

    direct = whole(server.url)
    assert direct[0] == 200
    assert direct[1]["Transfer-Encoding"] == "chunked"
    assert whole(nginx.url) == direct


@pytest.mark.parametrize(
    ("changes", "client"),
    [([], "127.0.0.1"), (BEHIND_ANOTHER_PROXY, "203.0.113.7")],
    ids=["at-the-edge", "behind-another-proxy"],
)
def test_what_the_app_is_told_and_that_no_connection_is_kept(
    start_nginx: Callable[..., Nginx], fake_provider: FakeProvider, changes: list[Change], client: str
) -> None:
    """The fake provider takes the app's place: it keeps connections for whoever wants that, and remembers headers."""
    nginx = start_nginx(fake_provider.url.removeprefix("http://"), *changes)
    headers = {"Authorization": "Bearer sk-test", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    for _ in range(2):
        with requested(nginx.url, "/v1/models", headers=headers) as response:
            assert response.status == 200
            response.read()
    for request in fake_provider.requests:
        seen = {name: request.headers.get(name) for name in ("host", "x-forwarded-for", "x-forwarded-proto")}
        assert seen == {"host": "127.0.0.1", "x-forwarded-for": client, "x-forwarded-proto": "http"}
        assert "connection" not in request.headers
    assert fake_provider.stats().connections == fake_provider.stats().requests == 2


def test_the_access_log_has_the_id_and_not_the_prompt(
    start_nginx: Callable[..., Nginx], server: Service, fake_provider: FakeProvider
) -> None:
    nginx = start_nginx(address(server))
    with requested(nginx.url, "/chat?prompt=secret&model=openai/fake-n1", None, {"X-Request-ID": "test-7"}) as response:
        assert response.status == 200
        response.read()
    line = eventually(lambda: nginx.log("access.log"), what="a line in the access log")
    assert re.fullmatch(r"127\.0\.0\.1 \S+ GET /chat 200 \d+B [\d.]+s first byte [\d.]+s id test-7\n", line)


# The files


@pytest.mark.parametrize("app", ["127.0.0.1:8000", "unix:/run/sluiceway/gunicorn.sock"], ids=["tcp", "unix"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("changes", [[], LIMITED + BEHIND_ANOTHER_PROXY], ids=["as-shipped", "all-switched-on"])
def test_nginx_takes_every_variant(
    nginx_binary: str, key: Path, tmp_path: Path, app: str, tls: bool, changes: list[Change]
) -> None:
    conf = written(tmp_path, free_port(), app, changes, key=key if tls else None)
    command = [nginx_binary, "-t", "-p", str(tmp_path), "-c", str(conf)]
    tested = subprocess.run(command, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
