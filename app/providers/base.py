"""The contract of the room: `Provider`, the `Upstream` it opens, and the `Reader` of its protocol."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx2

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
)
from ..events import Event
from ..request import ChatRequest
from ..stages import Stage
from ..targets import Target


class Reader(Stage[bytes, list[Event]], Protocol):
    """The bytes of one upstream body to events; sans IO. `answered`: the finish reason is known, only the tail is open.

    `feed` never raises for what a provider may send: what can't be read becomes `Failed(StreamBroken)`, and after a
    terminal event both give `[]`. `finish` is called at the body's end, or, with the `error`, where reading it failed:
    the answer then fails with that, unless it is whole already.
    """

    answered: bool

    def finish(self, error: ProviderError | None = None) -> list[Event]: ...


class Upstream:
    """An upstream response whose headers have come: the body's chunks as they arrive, and the reader for them.

    `chunks` raises httpx2's exceptions; `close` may be called at any time and more than once, and gives the connection
    back where the body was read to its end.
    """

    def __init__(self, response: httpx2.Response, reader: Reader) -> None:
        self.reader = reader
        self._response = response
        self.chunks: Iterator[bytes] = response.iter_bytes()

    def drain(self) -> None:
        """Read what is left, so that the connection can be used again. Only after the answer's end."""
        with contextlib.suppress(httpx2.HTTPError):
            for _ in self.chunks:
                pass

    def close(self) -> None:
        self._response.close()


class Provider(Protocol):
    """One configured provider; made once a process, used by many greenlets or threads at a time."""

    def open(self, request: ChatRequest, target: Target, clock: Clock, *, request_id: str) -> Upstream:
        """Send the request and wait for the response's headers. Raises `ProviderError` and `InvalidRequest`."""

    def close(self) -> None:
        """Give back the pooled connections."""


# What the large providers answer when a prompt does not fit: OpenAI's code, Anthropic's and llama.cpp's sentences.
_CONTEXT_LENGTH = re.compile(
    r"context_length_exceeded|prompt is too long|exceed_context_size|maximum context length"
    r"|exceeds? the (available )?context|context window",
    re.IGNORECASE,
)
_CONTENT_FILTER = re.compile(r"content_filter|content (management|filtering) policy|content_policy_violation", re.IGNORECASE)

# 408 and 409 are the provider's "not now" as much as a 5xx is; 529 is Anthropic's "overloaded".
_AUTH = frozenset({401, 403})
_UNAVAILABLE = frozenset({408, 409})


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
    said = scrub(message, secret)
    saying = f": {said}" if said else ""
    if status in _AUTH or (status is None and re.search(r"authentication|permission|invalid_api_key", kind)):
        return ProviderAuth(f"provider {provider!r} refused our key; the operator has to check it")
    if status == 429 or (status is None and re.search(r"rate_limit|insufficient_quota", kind)):
        return ProviderRateLimited(f"provider {provider!r} is limiting our rate{saying}", retry_after_s=retry_after_s)
    if (status is not None and status >= 500) or (status is None and re.search(r"overloaded|server_error|api_error", kind)):
        return ProviderOverloaded(f"provider {provider!r} can't answer now{saying}", retry_after_s=retry_after_s)
    if status in _UNAVAILABLE:
        return ProviderUnavailable(f"provider {provider!r} asks to try again{saying}", retry_after_s=retry_after_s)
    if _CONTEXT_LENGTH.search(f"{kind} {message}"):
        return ContextLengthExceeded(f"the prompt is too long for the model{saying}")
    if _CONTENT_FILTER.search(f"{kind} {message}"):
        return ContentFiltered(f"provider {provider!r} filtered the content{saying}")
    if status is not None or re.search(r"invalid_request|not_found|too_large", kind):
        return ProviderRejected(f"provider {provider!r} refused the request{saying}")
    return ProviderUnavailable(f"provider {provider!r} failed{saying}")


def sdk_failure(provider: str, exc: Exception, clock: Clock, *, secret: str) -> ProviderError:
    """Our error for what a sync SDK client raised before the body. Both SDKs raise classes of the same shape: with a
    `status_code`, `response` and `body` for an HTTP status, otherwise with httpx2's exception as the cause."""
    status = getattr(exc, "status_code", None)
    if status is not None:
        kind, message = error_parts(getattr(exc, "body", None))
        response: httpx2.Response = exc.response  # type: ignore[attr-defined]
        return provider_failure(
            provider,
            status=status,
            kind=kind,
            message=message,
            retry_after_s=retry_after_s(response.headers),
            secret=secret,
        )
    match exc.__cause__:
        case httpx2.ConnectTimeout():
            return ProviderUnavailable(f"provider {provider!r} did not accept a connection in time; try again")
        case httpx2.TimeoutException():
            return clock.alarm() or FirstTokenTimeout(f"provider {provider!r} did not answer in time; try again")
        case _:
            return ProviderUnavailable(f"provider {provider!r} can't be reached; try again")


_KEY = re.compile(r"\b(sk|pk|rk|key|api|gsk|xai)[-_][A-Za-z0-9_*.\-]{6,}")
_BEARER = re.compile(r"(?i)\b(bearer|x-api-key:?)\s+\S+")
_URL = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s\"'<>)]+")
_ADDRESS = re.compile(r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b")


def scrub(text: str, secret: str = "") -> str:
    """`text` without keys, URLs and addresses, in one line of at most 500 characters: fit for an answer or a log."""
    if secret:
        text = text.replace(secret, "[key]")
    text = _KEY.sub("[key]", _BEARER.sub(r"\1 [key]", text))
    text = _ADDRESS.sub("[address]", _URL.sub("[url]", text))
    return " ".join(text.split())[:500]


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
