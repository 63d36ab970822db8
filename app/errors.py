"""Every way an answer can fail, as one tree.

    SluicewayError
    ├── RequestError                 the client must change something
    │   ├── InvalidRequest           400  invalid_request      (and 403, 405, ...: MethodNotAllowed, ...)
    │   ├── Unauthorized             401  unauthorized
    │   ├── NotFound                 404  not_found
    │   ├── PayloadTooLarge          413  payload_too_large
    │   └── RateLimited              429  rate_limited
    ├── ServiceError                 we cannot take it now
    │   ├── Overloaded               503  overloaded           (and StoreUnavailable)
    │   ├── Draining                 503  draining
    │   ├── Cancelled                499  cancelled            (and Stopped)
    │   └── Internal                 500  internal
    └── ProviderError                the provider, or the way to it, failed
        ├── ProviderNotConfigured    503  provider_not_configured
        ├── ProviderAuth             502  provider_auth
        ├── ProviderRejected         400  provider_rejected
        │   ├── ContextLengthExceeded 400 context_length_exceeded
        │   └── ContentFiltered      400  content_filtered
        ├── ProviderRateLimited      429  provider_rate_limited
        ├── ProviderOverloaded       503  provider_overloaded
        ├── ProviderUnavailable      502  provider_unavailable
        ├── FirstTokenTimeout        504  first_token_timeout
        ├── IdleTimeout              504  idle_timeout
        ├── TotalTimeout             504  total_timeout
        └── StreamBroken             502  stream_broken        (and SchemaViolated)

A class carries `code` (ours, stable), `http_status` (used when nothing has been sent yet) and `retryable`
(the same request may succeed later). The message says what to do next; it never shows a key, an internal
address or a traceback. Before the first byte an error is an HTTP status, after it an event in the stream:
the class is the same, only its clothes differ (each format wears it in its own shape).
"""

from __future__ import annotations

import math
from typing import ClassVar


class SluicewayError(Exception):
    """Base of the tree. `param` names the offending field of the request, `retry_after_s` becomes `Retry-After`."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.named_retry_after_s = retry_after_s  # by whoever failed; None: by nobody
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.request_id = ""  # set where the error meets its request
        self.provider_request_id = ""  # what the provider calls it; "" where it said nothing, or nothing that is a name

    @property
    def logged(self) -> str:
        """The message as our operator gets it."""
        named = self.provider_request_id
        return f"{self.message} (provider_request_id={named})" if named else self.message

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to this error as an HTTP answer."""
        if self.retry_after_s is None:
            return {}
        # Whole seconds (RFC 9110, 10.2.3), rounded up: a client that waits that long is never too early.
        return {"Retry-After": str(math.ceil(self.retry_after_s))}


class RequestError(SluicewayError):
    http_status = 400


class InvalidRequest(RequestError):
    code = "invalid_request"


class MethodNotAllowed(InvalidRequest):
    http_status = 405

    def __init__(self, message: str, *, allow: list[str]) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": ", ".join(self.allow)}


class UnsupportedMediaType(InvalidRequest):
    http_status = 415


class ForeignOrigin(InvalidRequest):
    """A page of another site may not ask here."""

    http_status = 403


class Busy(InvalidRequest):
    """On a WebSocket: one answer at a time."""

    http_status = 409
    retryable = True


class UpgradeRequired(InvalidRequest):
    """This route speaks WebSocket only."""

    http_status = 426

    @property
    def headers(self) -> dict[str, str]:
        # RFC 9110, 15.5.22; the version is RFC 6455's, 4.4.
        return {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}


class NoWebSocket(InvalidRequest):
    """Nor does the server that the app runs on."""

    http_status = 501


class Unauthorized(RequestError):
    code = "unauthorized"
    http_status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class NotFound(RequestError):
    code = "not_found"
    http_status = 404


class PayloadTooLarge(RequestError):
    code = "payload_too_large"
    http_status = 413


class RateLimited(RequestError):
    code = "rate_limited"
    http_status = 429
    retryable = True
    default_retry_after_s = 1.0


class ServiceError(SluicewayError):
    pass


class Overloaded(ServiceError):
    code = "overloaded"
    http_status = 503
    retryable = True
    default_retry_after_s = 1.0


class StoreUnavailable(Overloaded):
    """Resumable streams are not served just now; plain ones are."""

    def __init__(self, store: str, why: str) -> None:
        super().__init__(
            f"the store ({store}) can't be used: resumable streams are refused for now; try again, or ask without "
            "resumable"
        )
        self.why = why  # for the log: may name an address


class Draining(ServiceError):
    code = "draining"
    http_status = 503
    retryable = True
    default_retry_after_s = 1.0


class Cancelled(ServiceError):
    code = "cancelled"
    http_status = 499  # nginx's "client closed request"; nobody is left to read it, logs are


class Stopped(Cancelled):
    """A resumable stream was told to end: its readers get a `finish`. `by` is "stop" or "grace"."""

    def __init__(self, message: str, *, by: str) -> None:
        super().__init__(message)
        self.by = by


class Internal(ServiceError):
    code = "internal"
    http_status = 500


class ProviderError(SluicewayError):
    http_status = 502


class ProviderNotConfigured(ProviderError):
    code = "provider_not_configured"
    http_status = 503
    default_retry_after_s = 60.0  # a person has to act first


class ProviderAuth(ProviderError):
    code = "provider_auth"


class ProviderRejected(ProviderError):
    code = "provider_rejected"
    http_status = 400


class ContextLengthExceeded(ProviderRejected):
    code = "context_length_exceeded"


class ContentFiltered(ProviderRejected):
    code = "content_filtered"


class ProviderRateLimited(ProviderError):
    code = "provider_rate_limited"
    http_status = 429
    retryable = True
    default_retry_after_s = 1.0


class ProviderOverloaded(ProviderError):
    code = "provider_overloaded"
    http_status = 503
    retryable = True
    default_retry_after_s = 1.0


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    retryable = True


class FirstTokenTimeout(ProviderError):
    code = "first_token_timeout"
    http_status = 504
    retryable = True


class IdleTimeout(ProviderError):
    code = "idle_timeout"
    http_status = 504
    retryable = True


class TotalTimeout(ProviderError):
    code = "total_timeout"
    http_status = 504


class StreamBroken(ProviderError):
    code = "stream_broken"
    retryable = True


class SchemaViolated(StreamBroken):
    """The answer is whole, and not the JSON that was asked for. `text` is what it is instead, for a client that has not
    been sent it; the provider did what it does, so nothing is held against it."""

    def __init__(self, why: str, *, text: str = "") -> None:
        super().__init__(f"the answer is not what response_format asks for: {why}; try again, or change the schema")
        self.text = text
