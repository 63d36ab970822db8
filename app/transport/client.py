"""`http_client()`, and the transport inside it."""

from __future__ import annotations

import contextlib
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any, cast

import httpcore2
import httpx2

from ..clock import Clock

# An idle connection older than this is not trusted: load balancers of the large providers drop theirs after 60 s or
# more.
KEEPALIVE_EXPIRY_S = 30.0
MAX_IDLE_CONNECTIONS = 100


class _ClockedTimeout(httpx2.Timeout):
    clock: Clock


def clocked(clock: Clock, *, connect_s: float) -> httpx2.Timeout:
    """The `timeout=` of an SDK call whose answer runs under `clock`."""
    left = clock.remaining_s()
    timeout = _ClockedTimeout(connect=connect_s, read=left, write=left, pool=left)
    timeout.clock = clock
    return timeout


class _Client(httpx2.Client):
    """Hands the clock of a clocked timeout to the transport: the SDKs pass `timeout=` on, but no `extensions=`."""

    def build_request(self, *args: Any, **kwargs: Any) -> httpx2.Request:
        timeout = kwargs.get("timeout")
        if isinstance(timeout, _ClockedTimeout):
            kwargs["extensions"] = {**(kwargs.get("extensions") or {}), "clock": timeout.clock}
        return super().build_request(*args, **kwargs)


def http_client() -> httpx2.Client:
    """A client for an SDK's `http_client=`. Whoever makes it closes it."""
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return httpx2.Client()
    return _Client(transport=ClockedTransport())


class ClockedTransport(httpx2.BaseTransport):
    """httpcore2's pool with clocked streams; failures come out as httpx2's exceptions, which the SDKs expect."""

    def __init__(self) -> None:
        self._pool = httpcore2.ConnectionPool(
            # Explicit, so that SSL_CERT_FILE and Debian's store count as everywhere else in Python; httpx2's own
            # default asks the operating system's verifier.
            ssl_context=ssl.create_default_context(),
            max_connections=None,  # admission is the application's, not a queue in a pool
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_EXPIRY_S,
            http1=True,
            http2=False,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        with _as_httpx2(request):
            answer = self._pool.handle_request(
                httpcore2.Request(
                    method=request.method,
                    url=httpcore2.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=cast(Any, request.stream),
                    extensions=request.extensions,
                )
            )
        connection = answer.extensions.get("network_stream")
        if isinstance(connection, _ClockedStream):
            connection.clock = request.extensions.get("clock")
        return httpx2.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer, request, connection if isinstance(connection, _ClockedStream) else None),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, answer: httpcore2.Response, request: httpx2.Request, connection: _ClockedStream | None) -> None:
        self._answer = answer
        self._request = request
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx2(self._request):
            yield from cast("Iterator[bytes]", self._answer.stream)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.clock = None  # the connection may go back to the pool, for another answer
        with _as_httpx2(self._request):
            self._answer.close()


class _Backend(httpcore2.NetworkBackend):
    def __init__(self) -> None:
        self._sync = httpcore2.SyncBackend()

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _ClockedStream(self._sync.connect_tcp(*args, **kwargs))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _ClockedStream(self._sync.connect_unix_socket(*args, **kwargs))

    def sleep(self, seconds: float) -> None:
        self._sync.sleep(seconds)


class _ClockedStream(httpcore2.NetworkStream):
    """A connection; while it belongs to an answer (`clock` is set) its reads wait as long as the clock allows."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self.clock: Clock | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.clock is not None:
            timeout = self.clock.remaining_s()
            if timeout <= 0.0:  # not 0: a socket timeout of 0 means "do not block", another error
                raise httpcore2.ReadTimeout("the answer's clock has rung")
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _ClockedStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


# Most specific first.
_EXCEPTIONS: list[tuple[type[Exception], type[httpx2.RequestError]]] = [
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx2.ReadTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.TimeoutException, httpx2.TimeoutException),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.ReadError, httpx2.ReadError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.NetworkError, httpx2.NetworkError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
    (httpcore2.LocalProtocolError, httpx2.LocalProtocolError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
    (httpcore2.ProtocolError, httpx2.ProtocolError),
    # A header or URL the pool can't send (h11 raises its own), an address that can't be looked up, and the like.
    (OSError, httpx2.NetworkError),
]


@contextlib.contextmanager
def _as_httpx2(request: httpx2.Request) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        for theirs, ours in _EXCEPTIONS:
            if isinstance(exc, theirs):
                raise ours(str(exc), request=request) from exc
        raise
