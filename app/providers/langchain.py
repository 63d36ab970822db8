"""LangChain models and chains, by their sync `.stream()`.

The package is optional: this file imports nothing of it, and what does is not looked for before a provider is asked,
or, where the configuration names one, at the start, so that a wrong path or argument stops that. To import
langchain_openai takes a second, in which its worker does nothing else.

A generator of somebody else's can't be left in the middle of a wait and taken up again, so it runs in a greenlet
beside the stream, which takes what has come. To cancel is to kill that greenlet where it stands: what it has open is
closed on its way out, whichever HTTP client that is. Without gevent it is a thread, and nobody can end a thread: it
sees at the next piece that nobody wants it, or, where none comes, by the model's own `timeout`.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from ..cancel import Cancel
from ..clock import Clock
from ..errors import ProviderError, ProviderNotConfigured, ProviderUnavailable, SluicewayError, StreamBroken
from ..events import Started
from ..registry import Registry
from ..request import ChatRequest
from ..settings import ProviderSettings, Unusable
from ..targets import Target
from ..task import Iteration, Killed
from .base import Upstream
from .failures import broken_off, error_parts, provider_failure, refusal, scrub
from .langchain_reader import LangChainReader

log = logging.getLogger("sluiceway")

# What imports LangChain.
_LATE: Registry[Any] = Registry(
    __package__,
    {
        "Models": ".langchain_model:Models",
        "is_chat_model": ".langchain_model:is_chat_model",
        "asking": ".langchain_payload:asking",
    },
)


class LangChain:
    """A `base.Provider`. `named`: the configuration speaks of it, so it is made ready at once, or raises `Unusable`."""

    def __init__(self, name: str, settings: ProviderSettings, key: str, named: bool) -> None:
        self.name = name
        self._settings = settings
        self._key = key
        self._models: Any = None
        if named:
            self._ready()

    def _ready(self) -> Any:
        if self._models is None:
            try:
                make = _LATE["Models"]
            except ModuleNotFoundError as exc:
                if not (exc.name or "").startswith("langchain_core"):
                    raise
                wanted = "LangChain is not installed: pip install langchain-core, and the package of the model"
                raise Unusable(("model_class",), self._settings.model_class, wanted) from None
            self._models = make(self._settings, self._key)
        return self._models

    def open(self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str) -> Upstream:
        try:
            model = self._ready().of(target)
        except Unusable as exc:
            raise ProviderNotConfigured(f"provider {self.name!r} can't be used: {exc.wanted}") from exc
        begin = _LATE["asking"](model, request, target, {"metadata": {"request_id": request_id}})
        start = Started(
            id=f"run-{os.urandom(16).hex()}", model=target.model, provider=self.name, created=int(time.time())
        )
        reader = LangChainReader(start, one_model=_LATE["is_chat_model"](model))
        return _Running(begin, reader, clock, cancel, provider=self.name, secret=self._key, request_id=request_id)

    def prefill(self, text: str) -> str:
        return text.rstrip()  # Anthropic refuses white space at its end, and whose model it is, is not known here

    def close(self) -> None:
        pass  # the packages share their connections, and close them when nobody has a model any more


class _Running:
    """A `base.Upstream` of lists of pieces. It begins with the first piece, so a refusal is none of a stream."""

    def __init__(
        self,
        begin: Callable[[], Iterator[Any]],
        reader: LangChainReader,
        clock: Clock,
        cancel: Cancel,
        *,
        provider: str,
        secret: str,
        request_id: str,
    ) -> None:
        self.reader = reader
        self.named = ""
        self.limits: dict[str, str] = {}
        self._clock = clock
        self._cancel = cancel
        self._provider = provider
        self._secret = secret
        self._request_id = request_id
        self._first: list[Any] | None = None
        self._begun = False
        self._pieces = Iteration(begin)
        cancel.add(self._pieces.kill)

    def begin(self, until: float) -> bool:
        try:
            self._first = self.read(until)
        except httpx2.TimeoutException as exc:
            if (alarm := self._clock.alarm()) is None:
                return False
            raise alarm from exc
        except httpx2.HTTPError as exc:
            raise broken_off(self._provider, exc) from exc
        self._begun = True
        return True

    def read(self, until: float) -> list[Any]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._pieces.wait(min(until, self._clock.due)):
            raise httpx2.ReadTimeout("nothing came in time")
        taken = self._pieces.take()
        if not taken and (error := self._pieces.error) is not None:
            if isinstance(error, Killed):
                raise httpx2.ReadError("the iteration was ended")
            failed = self._failure(error)
            if isinstance(failed, ProviderError):
                self.named = failed.provider_request_id
            raise failed
        return taken

    def each(self, step: Callable[[], float], until: float) -> None:
        pass

    def drain(self) -> None:
        pass

    def close(self) -> None:
        self._cancel.remove(self._pieces.kill)
        self._pieces.kill()

    def _failure(self, error: BaseException) -> SluicewayError:
        known = failure(self._provider, error, begun=self._begun, secret=self._secret)
        if known is not None:
            return known
        frames = traceback.extract_tb(error.__traceback__)
        at = f" at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
        said = scrub(str(error), self._secret)
        log.error("%s %s: %s%s: %s", self._request_id, self._provider, type(error).__name__, at, said)
        return ProviderUnavailable(
            f"provider {self._provider!r} failed ({type(error).__name__}); the service's log says more"
        )


# The classes that langchain-core has for its packages' errors, as the status that they stand for.
_STATUSES = {
    "ModelAuthenticationError": 401,
    "ModelPermissionDeniedError": 403,
    "ModelNotFoundError": 404,
    "ModelInvalidRequestError": 400,
    "ContextOverflowError": 400,
    "ModelRateLimitError": 429,
    "ModelAPIError": 500,
}
# Whose errors are those of a connection, where they have no status.
_TRANSPORTS = ("httpx2", "httpx", "httpcore2", "httpcore", "requests", "urllib3", "aiohttp")


def failure(provider: str, error: BaseException, *, begun: bool, secret: str) -> SluicewayError | None:
    """Our error for what a model's package raised; None for what is none of the provider's refusals, and no broken
    connection either.

    An SDK's error has a `response`, or, of an error inside a stream, a `body`; a package may have wrapped it, with the
    first as the cause. `begun`: something of the answer has come.
    """
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, SluicewayError):
            return one
        response = getattr(one, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return refusal(provider, _readable(response, status), id_header=_ID, secret=secret)
        if (body := getattr(one, "body", None)) is not None:
            kind, message = error_parts(body)
            if kind or message:
                return provider_failure(provider, status=None, kind=kind, message=message, secret=secret)
    for one in chain:
        statuses = [_STATUSES[base.__name__] for base in type(one).__mro__ if base.__name__ in _STATUSES]
        if isinstance(said := getattr(one, "status_code", None), int) and 400 <= said < 600:  # ollama's, boto's
            statuses.append(said)
        if statuses:
            too_long = any(base.__name__ == "ContextOverflowError" for base in type(one).__mro__)
            kind = "context_length_exceeded" if too_long else ""
            return provider_failure(provider, status=statuses[0], kind=kind, message=str(one), secret=secret)
    for one in chain:
        if isinstance(one, ConnectionError | TimeoutError) or type(one).__module__.startswith(_TRANSPORTS):
            if begun:
                return StreamBroken("the connection to the provider broke before the answer was complete; try again")
            return broken_off(provider, one)
    return None


_ID = "x-request-id"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. At most ten: somebody may have tied them into a circle."""
    one: BaseException | None = error
    for _ in range(10):
        if one is None:
            return
        yield one
        one = one.__cause__


def _readable(response: Any, status: int) -> httpx2.Response:
    """What is to be known of a response of httpx2, httpx or requests, whose body may not have been read."""
    try:
        content = bytes(response.content)
    except Exception:
        content = b""
    try:
        said = {str(name).lower(): str(value) for name, value in response.headers.items()}
    except Exception:
        said = {}
    headers = {"retry-after": said.get("retry-after", ""), _ID: said.get(_ID) or said.get("request-id") or ""}
    # As bytes: httpx2 encodes text as ASCII, and a header may hold more than that.
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return httpx2.Response(status, headers=raw, content=content)
