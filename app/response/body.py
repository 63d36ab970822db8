"""The two bodies an answer can have: a stream, written batch by batch, or one JSON object.

A stream's generator must not raise. Flask's error handlers never see it, gunicorn cuts the body without its last
chunk, and an `OSError` (a broken upstream socket, say) it even takes for the client's departure and logs nothing. So
whatever happens in here becomes an error event, and the body ends properly. The one thing that passes is
`GeneratorExit`: the server closes the generator when a write fails, which is how a departed client is noticed.

Flask's `stream_with_context` gives the generator the view's contexts again (and runs teardown functions a second
time, at the stream's end). Nothing in our own stream uses them; an embedding app's code that runs at the end of one
may.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flask import Response, stream_with_context

from ..errors import Internal, SluicewayError
from ..events import Batch, Failed
from ..formats import Encoder
from ..formats.base import json_bytes

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("sluiceway")


class Batches(Protocol):
    """Where an answer comes from: `read(until)` until a batch has ended (None: nothing by then, of `time.monotonic`),
    `fail` where what was read could not be sent (it gives the last event, then), `close` at any time and more than
    once. Between two reads `each` has what comes delivered from the event loop, if it can, until that says False, or
    there is something to be read."""

    def read(self, until: float) -> Batch | None: ...

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None: ...

    def fail(self, error: SluicewayError) -> Failed: ...

    def close(self) -> None: ...


# Right behind every proxy we know of: no cache and no compressor may wait for more of the body, and nginx does not
# buffer it (it strips X-Accel-Buffering). Never `Connection`: it is the server's.
STREAM_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def streamed(
    first: Batch | None,
    rest: Batches,
    encoder: Encoder,
    mimetype: str,
    *,
    headers: Mapping[str, str],
    heartbeat_s: float,
    request_id: str,
) -> Response:
    """The response of an answer that begins with `first` (None: with a heartbeat). Closing it closes `rest`, also if it
    never started."""
    # `mimetype`, not `content_type`: Flask adds the charset, without which `requests` reads UTF-8 as Latin-1.
    body = stream_with_context(_written(first, rest, encoder, heartbeat_s, request_id, _Dropped(rest)))
    response = Streamed(body, mimetype=mimetype, headers={**headers, **STREAM_HEADERS, **encoder.HEADERS})
    response.shortcut = _Shortcut(body, rest, encoder, heartbeat_s)
    # A generator that was never started has no `finally` to run; this covers a client that is gone before the first
    # byte.
    response.call_on_close(rest.close)
    return response


class _Dropped:
    """Held by the body's generator: whoever iterates that, the server or a body of the app's own around it, when all
    have let go of it the answer is closed, begun or not."""

    __slots__ = ("_rest",)

    def __init__(self, rest: Batches) -> None:
        self._rest = rest

    def __del__(self) -> None:
        self._rest.close()


class _Shortcut(NamedTuple):
    """What a body is made of, for whoever need not wait for its pieces one by one."""

    body: object
    batches: Batches
    encoder: Encoder
    heartbeat_s: float


class Streamed(Response):
    """Hands its pieces on as they are: bytes already, which werkzeug would look at one by one. Until it is `handed` to
    the server nobody but its maker closes it."""

    handed = False
    shortcut: _Shortcut | None = None

    def iter_encoded(self) -> Iterator[bytes]:
        self.handed = True
        return iter(self.response)  # type: ignore[arg-type]

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().get_app_iter(environ)
        return _Pieces(self)


class _Pieces:
    """What the server iterates. werkzeug's own stands between it and the generator at every piece, which costs a call,
    and a sixth of the C stack that gevent copies away at each wait."""

    __slots__ = ("_response",)

    def __init__(self, response: Streamed) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_encoded()

    def write_each(self, write: Callable[[bytes], bool]) -> None:
        """Between two pieces: write what comes from the event loop, as long as `write`, which must not wait, says so,
        and nothing comes that needs the generator. Only for the server itself: whoever stands between, a middleware or
        a body of the app's own, would not see what is written so."""
        way = self._response.shortcut
        if way is not None and way.body is self._response.response:
            feed, relay = way.encoder.feed, way.encoder.relay

            def deliver(batch: Batch) -> bool:
                frames = batch.frames
                data = feed(batch.events) if frames is None else relay(frames, batch.events)
                return not data or write(data)

            way.batches.each(deliver, way.heartbeat_s)

    def close(self) -> None:
        self._response.close()


def whole(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(json_bytes(value), status, mimetype="application/json", headers=dict(headers or {}))


def _written(
    first: Batch | None, rest: Batches, encoder: Encoder, heartbeat_s: float, request_id: str, _dropped: _Dropped
) -> Generator[bytes, None, None]:
    try:
        batch = first
        while True:
            if batch is None:
                yield encoder.HEARTBEAT  # where there is none, at least the headers go out
            else:
                frames = batch.frames
                if data := encoder.feed(batch.events) if frames is None else encoder.relay(frames, batch.events):
                    yield data
                if batch.ended:
                    return
            batch = rest.read(time.monotonic() + heartbeat_s)
    except Exception:
        log.exception("%s a stream failed by a defect of ours", request_id)
        error = Internal("the stream failed inside the service; try again")
        error.request_id = request_id
        last = rest.fail(error)
    finally:
        rest.close()
    yield encoder.feed([last])
