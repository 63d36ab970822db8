"""The contract of the room: `Provider`, the `Upstream` it opens, and the `Reader` of its protocol."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, TypeVar

import httpx2

from ..cancel import Cancel
from ..clock import Clock
from ..errors import (
    InvalidRequest,
    ProviderError,
    SluicewayError,
)
from ..events import Event
from ..request import ChatRequest
from ..stages import Stage
from ..targets import Target
from ..task import Killed, Task
from ..transport import Body, Client, pending
from .failures import broken_off, refusal, request_name, sdk_failure

Piece_contra = TypeVar("Piece_contra", contravariant=True)


class Reader(Stage[Piece_contra, list[Event]], Protocol[Piece_contra]):
    """What an upstream gives to events, sans IO: the bytes of a body, or whatever its pieces are. `answered`: the
    finish reason is known, only the tail is open. `frames`: what the last call read, for a client of the same protocol
    (None where there is none): unchanged but for what such a client must not see, and without the failing frame, which
    its `Failed` tells. `opaque`: something of the answer was in them that no event tells of (a tool of the provider's
    own).

    `feed` never raises for what a provider may send: what can't be read becomes `Failed(StreamBroken)`, and after a
    terminal event both give `[]`. `finish` is called at the body's end, or, with the `error`, where reading it failed:
    the answer then fails with that, unless it is whole already.
    """

    answered: bool
    frames: bytes | None
    opaque: bool

    def finish(self, error: SluicewayError | None = None) -> list[Event]: ...


class Upstream(Protocol):
    """A request that is on its way to a provider; then its answer: the pieces as they arrive, and the reader for them.

    First `begin` until it is true: then it was not refused. Then `read` until it gives a piece that is empty, the end.
    `close` may be called at any time and more than once.
    """

    @property
    def reader(self) -> Reader[Any]: ...

    def begin(self, until: float) -> bool:
        """Whether there is an answer, by `until` (of `time.monotonic`) at the latest. Raises `ProviderError`."""

    @property
    def read(self) -> Callable[[float], Any]:
        """Of a time (of `time.monotonic`): what has come by then. Raises `httpx2.TimeoutException` where that is
        nothing, or a clock has rung, after which it may be called again; another `httpx2.HTTPError` where the
        connection broke, and a `SluicewayError` where there is more to say of how it ended."""

    @property
    def named(self) -> str:
        """What the provider calls the request, as `request_name`; "" where that is not known."""

    @property
    def limits(self) -> dict[str, str]:
        """What the provider says of its rate limits, by header."""

    def each(self, step: Callable[[], float], until: float) -> None:
        """Call `step`, which calls `read` with a time that is over, in the event loop, each time something has come by
        `until`, of which each call gives the next; 0.0 ends it. Returns at once where that can't be done."""

    def drain(self) -> None:
        """Read what is left, so that the connection can be used again. Only after the answer's end."""

    def close(self) -> None: ...


def _rate_limits() -> frozenset[bytes]:
    openais = [f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")]
    of = ("requests", "tokens", "input-tokens", "output-tokens")
    anthropics = [f"anthropic-ratelimit-{kind}-{what}" for kind in of for what in ("limit", "remaining", "reset")]
    return frozenset(name.encode() for name in openais + anthropics)


# In which the two providers say how much of their limits is left.
RATE_LIMITS = _rate_limits()


class HttpUpstream:
    """An `Upstream` by way of a sync SDK client: its answer begins with the response's headers, its pieces are what has
    come of the body, and `close` gives the connection back where that was read to its end."""

    def __init__(
        self,
        provider: str,
        client: Client,
        ask: Callable[[], Any],
        refused: type[Exception],
        reader: Reader[bytes],
        clock: Clock,
        cancel: Cancel,
        *,
        id_header: str,
        secret: str,
    ) -> None:
        """`ask` is an SDK's call with `cast_to=httpx2.Response`: declared as a Stream, it is that response, unread.
        `refused` is the base of what it raises beside httpx2's errors. `id_header`, in lower case, is where the
        provider names the request. Raises `ProviderError`."""
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
        except (refused, httpx2.HTTPError) as exc:
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
        """ "" before the response and after `close`."""
        return "" if self._body is None else request_name(self._body.header(self._id_header), self._secret)

    @property
    def limits(self) -> dict[str, str]:
        """Nothing before the response and after `close`."""
        said = () if self._body is None else self._body.headers()
        return {
            name.decode().lower(): value.decode()
            for name, value in said
            if name.lower() in RATE_LIMITS and value.isascii() and value.decode().isprintable()
        }

    def each(self, step: Callable[[], float], until: float) -> None:
        if self._body is not None:
            self._body.each(step, until)

    def drain(self) -> None:
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

    def each(self, step: Callable[[], float], until: float) -> None: ...

    def header(self, name: str) -> str: ...

    def headers(self) -> list[tuple[bytes, bytes]]: ...

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

    def each(self, step: Callable[[], float], until: float) -> None:
        pass

    def _next(self) -> bytes:
        return next(self._chunks, b"")

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def headers(self) -> list[tuple[bytes, bytes]]:
        return self._response.headers.raw

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


def refuse_foreign(request: ChatRequest, target: Target) -> None:
    """A field that only the client's protocol knows can't be sent to this target: say which, drop nothing silently."""
    if request.foreign:
        refuse(request.foreign[0], target)


def refuse(field: str, target: Target) -> NoReturn:
    """Raises `InvalidRequest`: the target's protocol has no place for what the client said there."""
    raise InvalidRequest(
        f"{field} can't be sent to {target.name!r}, which speaks another protocol; "
        "leave it out or choose another model",
        param=field,
    )
