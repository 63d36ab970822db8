"""What a provider's failure is in our words: from a status and a body, from an event in the stream, from the transport.

What a provider says goes on to the client where it helps to mend the request, and never with a key or an address in it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Container
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx2
import msgspec

from ..clock import Clock
from ..errors import (
    ContentFiltered,
    ContextLengthExceeded,
    FirstTokenTimeout,
    ProviderAuth,
    ProviderError,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)


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
    _Row(range(400, 500), "invalid_|not_found|too_large|image|policy", "", ProviderRejected, "refused the request"),
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
    """Our error for what a sync SDK client, or httpx2 under it, raised before the body.

    Both SDKs raise classes of the same shape: with `response` for an HTTP status, otherwise with httpx2's exception as
    the cause.
    """
    response: httpx2.Response | None = getattr(exc, "response", None)
    if response is not None:
        return refusal(provider, response, id_header=id_header, secret=secret)
    cause = exc if isinstance(exc, httpx2.HTTPError) else exc.__cause__
    return (clock.alarm() if isinstance(cause, httpx2.TimeoutException) else None) or broken_off(provider, cause)


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


def error_parts(body: object) -> tuple[str, str]:
    """(kind, message) of an error body: `{"error": {type, code, message}}` in either protocol, `{"error": "text"}`."""
    error: Any = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        kind = " ".join(str(error[name]) for name in ("type", "code") if error.get(name) is not None)
        return kind, str(error.get("message") or "")
    return "", error if isinstance(error, str) else ""
