"""`http_client()`, and the transport inside it."""

from __future__ import annotations

import functools
import ipaddress
import math
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from ..cancel import Cancel
from ..clock import Clock
from .connection import Connection
from .http1 import ProtocolError, ResponseParser, request_bytes
from .pool import Origin, Pool

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_ERROR_BYTES = 256 * 1024  # of a refusal's body; a larger one says nothing to us


class _ClockedTimeout(httpx2.Timeout):
    clock: Clock
    cancel: Cancel


def clocked(clock: Clock, cancel: Cancel, *, connect_s: float) -> httpx2.Timeout:
    """The `timeout=` of an SDK call whose answer runs under `clock`, and ends when `cancel` is set."""
    left = clock.remaining_s()
    timeout = _ClockedTimeout(connect=connect_s, read=left, write=left, pool=left)
    timeout.clock = clock
    timeout.cancel = cancel
    return timeout


# An SDK client asks one URL all its life; to parse it costs as much as to read a short answer.
_parsed = functools.lru_cache(maxsize=64)(httpx2.URL)


class Client(httpx2.Client):
    """Hands clock and cancel of a clocked timeout to the transport (the SDKs pass `timeout=` on, but no `extensions=`);
    keeps a refusal a refusal: where its body breaks off, stalls, never ends or is badly compressed, the SDKs would
    raise the body's trouble, and the status with its Retry-After would be lost.

    A clocked request over our own transport goes there straight, and `send` does not wait for its answer, as a wait
    inside an SDK's call can't be taken up again: what it returns stands for that, and `pending(response)` waits. What
    httpx2 would do on the way is merging defaults, cookies (which one caller's answer must not hand to another's
    request) and redirects; for a redirect it is asked after all.
    """

    def __init__(self, transport: Transport | None = None) -> None:
        super().__init__(transport=transport)
        self._straight = transport

    @property
    def waits(self) -> bool:
        """Whether `send` waits for the response's headers: where a proxy is configured."""
        return self._straight is None

    def build_request(self, method: str, url: httpx2.URL | str, **kwargs: Any) -> httpx2.Request:
        timeout = kwargs.get("timeout")
        if not isinstance(timeout, _ClockedTimeout):
            return super().build_request(method, url, **kwargs)
        content = kwargs.get("content")
        if self._straight is None or not isinstance(content, bytes) or kwargs.get("params"):
            ours = {"clock": timeout.clock, "cancel": timeout.cancel}
            kwargs["extensions"] = {**(kwargs.get("extensions") or {}), **ours}
            return super().build_request(method, url, **kwargs)
        where = _parsed(url)
        given = kwargs["headers"]  # pairs, or httpx2's own object: the two SDKs differ
        headers = [
            (b"Host", where.netloc),
            *(given.raw if isinstance(given, httpx2.Headers) else given),
            (b"Content-Length", b"%d" % len(content)),
        ]
        return httpx2.Request(
            method,
            where,
            headers=headers,
            stream=httpx2.ByteStream(content),
            extensions={
                "timeout": timeout.as_dict(),
                "clock": timeout.clock,
                "cancel": timeout.cancel,
                "pending": True,
            },
        )

    def send(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        if self._straight is not None and kwargs.get("stream") and "pending" in request.extensions:
            return _Provisional(Pending(self, request, self._straight.begin(request)), request)
        response = super().send(request, **kwargs)
        return _refusal(request, response) if response.is_error else response


class Pending(httpx2.SyncByteStream):
    """A request that is on its way, and whose response has not begun; also the stream of what stands for it."""

    def __init__(self, client: Client, request: httpx2.Request, body: Body) -> None:
        self._client = client
        self._request = request
        self._body = body

    def head(self, until: float) -> httpx2.Response | Body:
        """The response, its headers there; a refusal with its body read. Of an ordinary success only the body, as
        nobody asks for more, and an `httpx2.Response` costs a thirtieth of a short answer. Raises `ReadTimeout` at
        `until` (of `time.monotonic`) or when the clock rings, and may be called again then."""
        if self._body.plain(until):
            return self._body
        response = self._body.head(until)
        response.request = self._request
        if response.is_redirect:
            response.close()
            response = httpx2.Client.send(self._client, self._request, stream=True, follow_redirects=True)
        return _refusal(self._request, response) if response.is_error else response

    def close(self) -> None:
        self._body.close()


class _Provisional(httpx2.Response):
    """What an SDK is given for a response that has not begun: a success of which nothing more is known."""

    def __init__(self, waiting: Pending, request: httpx2.Request) -> None:
        # Not httpx2's own, which takes as long as reading a short answer; only what the SDKs look at.
        self.status_code = 200
        self.headers = _NO_HEADERS
        self.extensions = {"pending": waiting}
        self.stream = waiting
        self.is_closed = False
        self.is_stream_consumed = False
        self._request = request

    def close(self) -> None:
        self.extensions["pending"].close()


_NO_HEADERS = httpx2.Headers()


def pending(response: httpx2.Response) -> Pending | None:
    """What a response stands for that `Client.send` has not waited for."""
    found: Pending | None = response.extensions.get("pending")
    return found


def _refusal(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    """A refusal with its body read, as far as that can be done."""
    content = b""
    try:
        for piece in response.iter_bytes():
            content += piece
            if len(content) > MAX_ERROR_BYTES:
                content = b""
                break
    except httpx2.HTTPError:
        content = b""
    finally:
        response.close()
    about_the_body = (b"content-encoding", b"content-length", b"transfer-encoding")
    # As bytes: httpx2 encodes text as ASCII, and a header may hold more than that.
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in about_the_body]
    return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


def http_client(base_url: str | None = None) -> Client:
    """A client for an SDK's `http_client=`, for a server at `base_url` (None: somewhere on the internet).

    Whoever makes it closes it. What is on this machine, or in NO_PROXY, is never asked through a proxy.
    """
    host = httpx2.URL(base_url).host if base_url else ""
    proxies = urllib.request.getproxies().keys() & {"http", "https", "all"}
    if proxies and not _is_here(host) and not (host and urllib.request.proxy_bypass(host)):
        return Client()
    return Client(Transport())


_LONG_S = 600.0  # where the caller set no limit


class _Fixed:
    """What a request without a clock waits: the same for every read."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds or _LONG_S

    @property
    def due(self) -> float:
        return time.monotonic() + self._seconds


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Transport(httpx2.BaseTransport):
    """Requests over pooled connections. `tls` is explicit, so that SSL_CERT_FILE and the system's store count here as
    everywhere else in Python. The body stands also under `response.extensions["body"]`, without httpx2's wrapping."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._pool = Pool(tls or ssl.create_default_context())

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        body = self.begin(request)
        try:
            return body.head()
        except BaseException:
            body.close()
            raise

    def begin(self, request: httpx2.Request) -> Body:
        """Send the request; its answer, of which nothing has come."""
        url = request.url
        timeout = request.extensions.get("timeout", {})
        clock: Clock | _Fixed = request.extensions.get("clock") or _Fixed(timeout.get("read"))
        origin = (url.scheme, url.host, url.port or DEFAULT_PORTS.get(url.scheme, 0))
        if "transfer-encoding" in request.headers:  # a generator's body; here every body is sent whole, by its length
            del request.headers["transfer-encoding"]
            request.headers["content-length"] = str(len(request.read()))
        try:
            data = request_bytes(request.method, url.raw_path, request.headers.raw, request.read())
        except ProtocolError as exc:
            raise httpx2.LocalProtocolError(str(exc), request=request) from exc
        cancel: Cancel | None = request.extensions.get("cancel")
        connection = self._pool.take(origin, timeout.get("connect") or _LONG_S, cancel)
        body = Body(self._pool, origin, connection, clock, cancel)
        try:
            write_s = timeout.get("write")
            connection.send(request.method, data, _LONG_S if write_s is None else write_s)
        except BaseException:
            body.close()
            raise
        return body

    def close(self) -> None:
        self._pool.close()


class Body(httpx2.SyncByteStream):
    """A response, its head and then its body: each piece is what one read from the socket brought. Raises httpx2's read
    errors."""

    def __init__(
        self, pool: Pool, origin: Origin, connection: Connection, clock: Clock | _Fixed, cancel: Cancel | None
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._connection: Connection | None = connection
        self._clock = clock
        self._cancel = cancel

    def plain(self, until: float) -> bool:
        """Whether the response is a success whose body is sent as it is. Raises `ReadTimeout` as `read` does."""
        head = self._head(until)
        return head.status == 200 and not any(name.lower() == b"content-encoding" for name, _ in head.headers)

    def _head(self, until: float) -> ResponseParser:
        connection = self._connection
        if connection is None:
            raise httpx2.ReadError("the connection is closed")
        return connection.read_head(min(until, self._clock.due))

    def head(self, until: float = math.inf) -> httpx2.Response:
        """The response, whose stream this is. Raises `ReadTimeout` as `read` does."""
        head = self._head(until)
        response = httpx2.Response(
            head.status,
            headers=head.headers,
            stream=self,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": head.reason, "body": self},
        )
        response.headers.encoding = "iso-8859-1"  # all bytes have a meaning in it, so httpx2 need not try others
        return response

    def header(self, name: str) -> str:
        """Of the response, once its head is known and until `close`; "" where it has none of that name."""
        wanted = name.encode()
        return b", ".join(value for known, value in self.headers() if known.lower() == wanted).decode("iso-8859-1")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the response, once its head is known and until `close`: nothing then."""
        return [] if self._connection is None else self._connection.read_head(0.0).headers

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def read(self, until: float = math.inf) -> bytes:
        """One piece, b"" at the end. Raises `ReadTimeout` at `until` (of `time.monotonic`) or when the clock rings, and
        may be called again then."""
        connection = self._connection
        return b"" if connection is None else connection.read(min(until, self._clock.due))

    def each(self, step: Callable[[], float], until: float) -> None:
        """As `Connection.each`."""
        if self._connection is not None:
            self._connection.each(step, until)

    def close(self) -> None:
        """Give the connection back, or close it where the body was not read to its end. More than once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._cancel is not None:
                self._cancel.remove(connection.abort)
            self._pool.give_back(self._origin, connection)
