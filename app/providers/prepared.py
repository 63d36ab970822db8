"""An SDK's client whose requests cost little: what is the same in all of them is worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2
import msgspec

from ..transport import Client


class _Known(NamedTuple):
    """What an SDK client says in each of its requests to a path."""

    method: str
    url: httpx2.URL
    headers: list[tuple[bytes, bytes]]
    at: dict[bytes, int]  # where in `headers` those stand whose values are each request's own


class Prepared:
    """Mixed into an SDK client: what is the same in all its requests to a path, it works out once.

    The first one is its own from end to end. Of that, those after it take over the options, the URL and the headers,
    with their own body, timeout and values of headers: to work them out anew took a quarter of a short answer's time in
    the app. `_build_request` is the SDKs' own, the same in both; where a later one has it no longer, only the time is
    lost again.

    `straight`: they are handed to our transport without the SDK's request loop, where that has nothing to add: it
    copies the options for tries that are not made, and looks at a status that is not known yet (`transport.pending`).
    A sixth of a short answer's time in the app. OpenAI's is like that; Anthropic's tells OpenTelemetry of each request.
    """

    straight = False

    def __init_subclass__(cls) -> None:
        cls.__name__ = cls.__bases__[1].__name__  # it goes out as the user agent, by which a provider knows its SDK

    def __init__(self, *, http_client: httpx2.Client, **kwargs: Any) -> None:
        super().__init__(http_client=http_client, **kwargs)  # type: ignore[call-arg]
        self._http = http_client
        self._loops = not self.straight or not isinstance(http_client, Client) or http_client.waits
        self._options: dict[tuple[str, ...], Any] = {}
        self._known: dict[tuple[str, ...], _Known] = {}
        # The first of a process asks the operating system about itself, by a subprocess: not while clients wait.
        _ = self.default_headers  # type: ignore[attr-defined]

    def ask(
        self,
        path: str,
        payload: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        timeout: httpx2.Timeout,
        stream_cls: type[Any],
    ) -> Any:
        """POST, for a stream: the response as httpx2 has it, unread. Raises what the SDK raises, or httpx2."""
        content = msgspec.json.encode(payload)
        known = self._known.get((path, *headers))
        if known is not None and not self._loops:
            return self._http.send(self._built(known, content, headers, timeout), stream=True)
        # A key for each request: SDKs draw one otherwise, for a header that they do not send.
        own = {"headers": headers, "timeout": timeout, "idempotency_key": headers["X-Request-ID"]}
        options = self._options.get((path, *headers))
        if options is None:
            return self.post(  # type: ignore[attr-defined]
                path,
                content=content,
                options={**own, "max_retries": 0},
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=stream_cls,
            )
        options = options.model_copy(update={**own, "content": content})
        return self.request(httpx2.Response, options, stream=True, stream_cls=stream_cls)

    def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        key = (options.url, *options.headers)
        if key not in self._options:
            self._options[key] = options.model_copy(update={"content": None})
        return super().request(cast_to, options, **kwargs)  # type: ignore[misc]

    def _build_request(self, options: Any, **kwargs: Any) -> httpx2.Request:
        key = (options.url, *options.headers)
        if (known := self._known.get(key)) is None:
            request: httpx2.Request = super()._build_request(options, **kwargs)  # type: ignore[misc]
            self._known[key] = _known(request, options.headers)
            return request
        return self._built(known, options.content, options.headers, options.timeout)

    def _built(self, known: _Known, content: bytes, own: Mapping[str, str], timeout: httpx2.Timeout) -> httpx2.Request:
        headers = known.headers.copy()
        for name, value in own.items():
            headers[known.at[name.lower().encode()]] = (name.encode(), value.encode("ascii"))
        for name_ in _TIMEOUTS:
            if (at := known.at.get(name_)) is not None:
                headers[at] = (name_, str(timeout.read).encode())
        return self._http.build_request(known.method, known.url, headers=headers, content=content, timeout=timeout)


_TIMEOUTS = (b"x-stainless-read-timeout", b"x-stainless-timeout")


def _known(request: httpx2.Request, own: Mapping[str, str]) -> _Known:
    """Of the first request. Whoever sends one adds host and length."""
    names = {*_TIMEOUTS, *(name.lower().encode() for name in own)}
    headers = [pair for pair in request.headers.raw if pair[0].lower() not in (b"host", b"content-length")]
    at = {name.lower(): n for n, (name, _) in enumerate(headers) if name.lower() in names}
    return _Known(request.method, request.url, headers, at)
