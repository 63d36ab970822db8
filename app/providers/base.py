"""The contract of the room: `Provider`, the `Upstream` it opens, and the `Reader` of its protocol."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import ssl
from collections.abc import Callable, Container
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Protocol

import httpx2
import msgspec

from ..cancel import Cancel
from ..clock import Clock
from ..errors import (
    ContentFiltered,
    ContextLengthExceeded,
    FirstTokenTimeout,
    InvalidRequest,
    ProviderAuth,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    SluicewayError,
)
from ..events import Event
from ..request import ChatRequest
from ..stages import Stage
from ..targets import Target
from ..task import Killed, Task
from ..transport import Body, Client, pending


class Reader(Stage[bytes, list[Event]], Protocol):
    """The bytes of one upstream body to events; sans IO. `answered`: the finish reason is known, only the tail is open.
    `frames`: what the last call read, for a client of the same protocol (None where there is none): unchanged but for
    what such a client must not see, and without the failing frame, which its `Failed` tells.

    `feed` never raises for what a provider may send: what can't be read becomes `Failed(StreamBroken)`, and after a
    terminal event both give `[]`. `finish` is called at the body's end, or, with the `error`, where reading it failed:
    the answer then fails with that, unless it is whole already.
    """

    answered: bool
    frames: bytes | None

    def finish(self, error: SluicewayError | None = None) -> list[Event]: ...


class Upstream:
    """A request that is on its way to a provider; then its response: the body's chunks as they arrive, and the reader
    for them.

    First `begin` until it is true. Then `read(until)` gives what has come of the body, b"" at its end; it raises
    httpx2's exceptions, `ReadTimeout` where nothing has come by then (of `time.monotonic`), or when a clock has rung,
    after which it may be called again. `close` may be called at any time and more than once, and gives the connection
    back where the body was read to its end.
    """

    def __init__(
        self,
        provider: str,
        client: Client,
        ask: Callable[[], Any],
        refused: type[Exception],
        reader: Reader,
        clock: Clock,
        cancel: Cancel,
        *,
        id_header: str,
        secret: str,
    ) -> None:
        """`ask` is an SDK's call with `cast_to=httpx2.Response`: declared as a Stream, it is that response, unread.
        `refused` is the base of what it raises. `id_header`, in lower case, is where the provider names the request.
        Raises `ProviderError`."""
        self.reader = reader
        self._provider = provider
        self._clock = clock
        self._cancel = cancel
        self._id_header = id_header
        self._secret = secret
        self._body: _Body | None = None
        self.read: Callable[[float], bytes] = _not_begun
        self._asked: Task[httpx2.Response] | httpx2.Response
        if client.waits:  # it would keep us in the SDK's call, so that is made beside us
            self._asked = Task(lambda: self._ask(ask, refused), httpx2.Response.close)
            cancel.add(self._asked.kill)
        else:
            self._asked = self._ask(ask, refused)

    def _ask(self, ask: Callable[[], Any], refused: type[Exception]) -> httpx2.Response:
        try:
            response: httpx2.Response = ask()
        except refused as exc:
            raise sdk_failure(self._provider, exc, self._clock, id_header=self._id_header, secret=self._secret) from exc
        return response

    def begin(self, until: float) -> bool:
        """Whether the response's headers have come, by `until` (of `time.monotonic`) at the latest. Raises
        `ProviderError`."""
        try:
            response = self._answered(until)
        except httpx2.TimeoutException as exc:
            if (alarm := self._clock.alarm()) is None:
                return False
            raise alarm from exc
        except httpx2.HTTPError as exc:
            raise broken_off(self._provider, exc) from exc
        body: _Body
        if isinstance(response, Body):  # our transport's own
            body = response
        elif response.is_error:
            raise refusal(self._provider, response, id_header=self._id_header, secret=self._secret)
        else:
            body = _Aside(response, self._clock, self._cancel)
        self._body = body
        self.read = body.read
        return True

    def _answered(self, until: float) -> httpx2.Response | Body:
        asked = self._asked
        if isinstance(asked, Task):
            if not asked.wait(min(until, self._clock.due)):
                raise httpx2.ReadTimeout("no response in time")
            try:
                return asked.result()
            except Killed as exc:
                raise httpx2.ReadError("the connection is closed") from exc
        waiting = pending(asked)
        return asked if waiting is None else waiting.head(until)

    @property
    def named(self) -> str:
        """What the provider calls the request, as `request_name`; "" before the response and after `close`."""
        return "" if self._body is None else request_name(self._body.header(self._id_header), self._secret)

    def drain(self) -> None:
        """Read what is left, so that the connection can be used again. Only after the answer's end."""
        with contextlib.suppress(httpx2.HTTPError):
            while self.read(math.inf):
                pass

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            return
        asked = self._asked
        if isinstance(asked, Task):
            asked.kill()
            with contextlib.suppress(Killed, ProviderError):
                asked.result().close()
        else:
            asked.close()


def _not_begun(until: float) -> bytes:
    raise RuntimeError("the response has not begun")


class _Body(Protocol):
    def read(self, until: float) -> bytes: ...

    def header(self, name: str) -> str: ...

    def close(self) -> None: ...


class _Aside:
    """A body that does not come straight from our transport: each piece is waited for in a task of its own.

    httpx2's transport can't go on with a read that was given up, and waits only where there is nothing to read: so the
    task is kept until it is done, and to wait for one is to let the others have their turn.
    """

    def __init__(self, response: httpx2.Response, clock: Clock, cancel: Cancel) -> None:
        self._response = response
        self._clock = clock
        self._cancel = cancel
        self._chunks = response.iter_bytes()
        self._task: Task[bytes] | None = None
        cancel.add(self._abort)

    def read(self, until: float) -> bytes:
        task = self._task = self._task or Task(self._next)
        if not task.wait(min(until, self._clock.due)):
            raise httpx2.ReadTimeout("nothing to read in time")
        self._task = None
        try:
            return task.result()
        except httpx2.TimeoutException as exc:  # its own; there is no going on after it
            raise httpx2.ReadError(str(exc)) from exc

    def _next(self) -> bytes:
        return next(self._chunks, b"")

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def _abort(self) -> None:
        connection = self._response.extensions.get("network_stream")  # httpx2's; ours ends its connections itself
        sock = connection.get_extra_info("socket") if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._cancel.remove(self._abort)
        if self._task is not None:  # a thread that reads would not notice that its socket is closed
            self._abort()
        self._response.close()


class Provider(Protocol):
    """One configured provider; made once a process, used by many greenlets or threads at a time."""

    def open(self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str) -> Upstream:
        """Send the request. Raises `ProviderError` and `InvalidRequest`. `cancel` ends the connection in every phase,
        which looks like one that broke."""

    def prefill(self, text: str) -> str:
        """As much of `text` as can be given to a model as the beginning of its answer: all, or all but the white space
        at its end."""

    def close(self) -> None:
        """Give back the pooled connections."""


class _Row(NamedTuple):
    """One row of the table below: which answers are of this class, and what is said of them."""

    statuses: Container[int]  # over HTTP
    kind: str  # in the stream, where there is no status any more: the provider's own type and code, a pattern
    said: str  # in either, what the provider's words must hold ("": anything), a pattern
    error: type[ProviderError]
    sentence: str


# The first row that fits decides, so the more special stands before the more general. 408 and 409 are a provider's
# "not now" as much as a 5xx is; 529 is Anthropic's "overloaded". The sentences of a prompt that does not fit are
# OpenAI's code, Anthropic's and llama.cpp's words.
_FAILURES = (
    _Row({401, 402, 403}, "authentication|permission|invalid_api_key|billing", "", ProviderAuth, "refused our key"),
    _Row({429}, "rate_limit|insufficient_quota", "", ProviderRateLimited, "is limiting our rate"),
    _Row(range(500, 600), "overloaded|server_error|api_error", "", ProviderOverloaded, "can't answer now"),
    _Row({408, 409}, "timeout_error|conflict_error", "", ProviderUnavailable, "asks to try again"),
    _Row(
        range(400, 500),
        "",
        r"context_length_exceeded|prompt is too long|exceed_context_size|maximum context length"
        r"|exceeds? the (available )?context|context window",
        ContextLengthExceeded,
        "finds the prompt too long for the model",
    ),
    _Row(
        range(400, 500),
        "",
        r"content_filter|content (management|filtering) policy|content_policy_violation",
        ContentFiltered,
        "filtered the content",
    ),
    _Row(range(400, 500), "invalid_request|not_found|too_large", "", ProviderRejected, "refused the request"),
    _Row(range(1000), "", "", ProviderUnavailable, "failed"),
)


def provider_failure(
    provider: str,
    *,
    status: int | None,
    kind: str = "",
    message: str = "",
    retry_after_s: float | None = None,
    secret: str = "",
) -> ProviderError:
    """Our error for what a provider said, over HTTP (`status`) or inside a stream (`status` None, `kind` decides).

    `kind` is the provider's own type and code, joined. The message goes on to the client where it helps to mend the
    request, scrubbed; where only our operator can act (a wrong key) it does not.
    """
    said = f"{kind} {message}"
    row = next(
        row
        for row in _FAILURES
        if (re.search(row.kind, kind) if status is None else status in row.statuses)
        and re.search(row.said, said, re.IGNORECASE)
    )
    text = f"provider {provider!r} {row.sentence}"
    if row.error is ProviderAuth:
        return ProviderAuth(f"{text}; the operator has to check it")
    if detail := scrub(message, secret):
        text = f"{text}: {detail}"
    return row.error(text, retry_after_s=retry_after_s)


def sdk_failure(provider: str, exc: Exception, clock: Clock, *, id_header: str, secret: str) -> ProviderError:
    """Our error for what a sync SDK client raised before the body.

    Both SDKs raise classes of the same shape: with `response` for an HTTP status, otherwise with httpx2's exception as
    the cause.
    """
    response: httpx2.Response | None = getattr(exc, "response", None)
    if response is not None:
        return refusal(provider, response, id_header=id_header, secret=secret)
    timed_out = isinstance(exc.__cause__, httpx2.TimeoutException)
    return (clock.alarm() if timed_out else None) or broken_off(provider, exc.__cause__)


def refusal(provider: str, response: httpx2.Response, *, id_header: str, secret: str) -> ProviderError:
    """Our error for a response of an error status, whose body has been read."""
    try:
        said = msgspec.json.decode(response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = response.text
    kind, message = error_parts(said)
    error = provider_failure(
        provider,
        status=response.status_code,
        kind=kind,
        message=message,
        retry_after_s=retry_after_s(response.headers),
        secret=secret,
    )
    error.provider_request_id = request_name(response.headers.get(id_header, ""), secret)
    return error


def broken_off(provider: str, exc: BaseException | None) -> ProviderError:
    """Our error for a request that came to no response."""
    match exc:
        case httpx2.ConnectTimeout():
            return ProviderUnavailable(f"provider {provider!r} did not accept a connection in time; try again")
        case httpx2.RemoteProtocolError():
            return ProviderUnavailable(f"provider {provider!r} closed the connection without an answer; try again")
        case httpx2.ConnectError(__cause__=ssl.SSLCertVerificationError() as refused):
            # OpenSSL's sentence up to the comma: after it stands the host's name.
            why = refused.verify_message.partition(",")[0]
            return ProviderUnavailable(
                f"provider {provider!r} shows a certificate that is not trusted ({why}); the operator has to check it: "
                "where it is from an authority of your own, SSL_CERT_FILE names that"
            )
        case httpx2.TimeoutException():
            return FirstTokenTimeout(f"provider {provider!r} did not answer in time; try again")
        case _:
            return ProviderUnavailable(f"provider {provider!r} can't be reached; try again")


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_KEY = re.compile(r"\b((sk|pk|rk|key|api|gsk|xai)[-_]|AIza)[A-Za-z0-9_*.\-]{6,}")
_BEARER = re.compile(r"(?i)\b(bearer|x-api-key:?)\s+\S+")
_URL = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s\"'<>)]+")
_ADDRESS = re.compile(r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b|\[[0-9A-Fa-f:.]+\](:\d+)?|\b[\w-]+(\.[\w-]+)+:\d{2,5}\b")


def scrub(text: str, secret: str = "") -> str:
    """`text` without keys, URLs, addresses and control characters, in one line of at most 500 characters: fit for an
    answer or a log."""
    if secret:
        text = text.replace(secret, "[key]")
    text = _CONTROL.sub(" ", text)
    text = _KEY.sub("[key]", _BEARER.sub(r"\1 [key]", text))
    text = _ADDRESS.sub("[address]", _URL.sub("[url]", text))
    return " ".join(text.split())[:500]


_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_name(said: str, secret: str) -> str:
    """What a provider calls a request: `said`, or "" where that is no name, or holds what `scrub` hides."""
    return said if _NAME.fullmatch(said) and scrub(said, secret) == said else ""


def retry_after_s(headers: httpx2.Headers) -> float | None:
    """`Retry-After` in seconds; it may be seconds or an HTTP date (RFC 9110, 10.2.3). None: absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value)
    return seconds if 0 <= seconds <= 86_400 * 365 else None


def _seconds_until(date: str) -> float | None:
    try:
        when = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def refuse_foreign(request: ChatRequest, target: Target) -> None:
    """A field that only the client's protocol knows can't be sent to this target: say which, drop nothing silently."""
    if request.foreign:
        field = request.foreign[0]
        raise InvalidRequest(
            f"{field} can't be sent to {target.name!r}, which speaks another protocol; "
            "leave it out or choose another model",
            param=field,
        )


def error_parts(body: object) -> tuple[str, str]:
    """(kind, message) of an error body: `{"error": {type, code, message}}` in either protocol, `{"error": "text"}`."""
    error: Any = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        kind = " ".join(str(error[name]) for name in ("type", "code") if error.get(name) is not None)
        return kind, str(error.get("message") or "")
    return "", error if isinstance(error, str) else ""
