"""An SDK's client whose requests cost little: what is the same in all of them is worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2
import msgspec


class _Known(NamedTuple):
    """What an SDK client says in each of its requests to a path."""

    url: httpx2.URL
    headers: list[tuple[bytes, bytes]]
    at: dict[bytes, int]  # where in `headers` those stand whose values are each request's own


class Prepared:
    """Mixed into an SDK client: what is the same in all its requests to a path, it works out once.

    The first one is its own from end to end. Of that, those after it take over the options, the URL and the headers,
    with their own body, timeout and values of headers: to work them out anew took a quarter of a short answer's time in
    the app. `_build_request` is the SDKs' own, the same in both; where a later one has it no longer, only the time is
    lost again.
    """

    def __init_subclass__(cls) -> None:
        cls.__name__ = cls.__bases__[1].__name__  # it goes out as the user agent, by which a provider knows its SDK

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
        """POST, for a stream: the response as httpx2 has it, unread. Raises what the SDK raises."""
        # A key for each request: SDKs draw one otherwise, for a header that they do not send.
        own = {
            "content": msgspec.json.encode(payload),
            "headers": headers,
            "timeout": timeout,
            "idempotency_key": headers["X-Request-ID"],
        }
        options = self._options.get((path, *headers))
        if options is None:
            return self.post(  # type: ignore[attr-defined]
                path,
                content=own.pop("content"),
                options={**own, "max_retries": 0},
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=stream_cls,
            )
        return self.request(httpx2.Response, options.model_copy(update=own), stream=True, stream_cls=stream_cls)

    def request(self, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        key = (options.url, *options.headers)
        if key not in self._options:
            self._options[key] = options.model_copy(update={"content": None})
        return super().request(cast_to, options, **kwargs)  # type: ignore[misc]

    def _build_request(self, options: Any, **kwargs: Any) -> httpx2.Request:
        key, read_s = (options.url, *options.headers), str(options.timeout.read).encode()
        if (known := self._known.get(key)) is None:
            request: httpx2.Request = super()._build_request(options, **kwargs)  # type: ignore[misc]
            self._known[key] = _known(request, {name.lower().encode() for name in options.headers})
            return request
        headers = known.headers.copy()
        for name, value in options.headers.items():
            headers[known.at[name.lower().encode()]] = (name.encode(), value.encode("ascii"))
        for name_ in _TIMEOUTS:
            if (at := known.at.get(name_)) is not None:
                headers[at] = (name_, read_s)
        client: httpx2.Client = self._client  # type: ignore[attr-defined]
        return client.build_request(
            options.method, known.url, headers=headers, content=options.content, timeout=options.timeout
        )


_TIMEOUTS = (b"x-stainless-read-timeout", b"x-stainless-timeout")


def _known(request: httpx2.Request, own: set[bytes]) -> _Known:
    """Of the first request. Whoever sends one adds host and length."""
    headers = [pair for pair in request.headers.raw if pair[0].lower() not in (b"host", b"content-length")]
    at = {name.lower(): n for n, (name, _) in enumerate(headers) if name.lower() in own.union(_TIMEOUTS)}
    return _Known(request.url, headers, at)
