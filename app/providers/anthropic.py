"""Anthropic Messages through `anthropic.Anthropic`, called so that the raw body comes back (see openai.py).

What this protocol wants and others do not say: `max_tokens` is required, so a request without it gets
`DEFAULT_MAX_TOKENS`; the system prompt is a field, not a message; and the API version the SDK sends (2026-10-21)
rejects `temperature`, `top_p` and `top_k`, so a request that has one goes out under the version before.
"""

from __future__ import annotations

import os
import time
from typing import Any

import anthropic

from ..cancel import Cancel
from ..clock import Clock
from ..events import Started
from ..request import ChatRequest, with_prefill
from ..settings import ProviderSettings
from ..targets import Target
from ..transport import clocked, http_client
from . import anthropic_payload
from .anthropic_payload import DEFAULT_MAX_TOKENS
from .anthropic_reader import AnthropicReader
from .base import HttpUpstream, Upstream, refuse_foreign
from .prepared import Prepared

SAMPLING = ("temperature", "top_p", "top_k")
LAST_VERSION_WITH_SAMPLING = "2023-06-01"


class _Client(Prepared, anthropic.Anthropic):
    pass


class Anthropic:
    """A `base.Provider`."""

    def __init__(self, name: str, settings: ProviderSettings, key: str) -> None:
        self.name = name
        self._key = key
        self._http = http_client(settings.base_url)
        self._client = _Client(
            api_key=key or "none",
            base_url=settings.base_url,  # None: the SDK's own
            max_retries=0,
            http_client=self._http,
        )

    def open(self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str) -> Upstream:
        payload = self.payload(request, target)
        headers = {"X-Request-ID": request_id}
        if request.dialect == "anthropic":
            headers |= request.headers
        elif any(name in payload for name in SAMPLING):
            headers["anthropic-version"] = LAST_VERSION_WITH_SAMPLING

        def ask() -> Any:
            return self._client.ask(
                "/v1/messages",
                payload,
                headers=headers,
                timeout=clocked(clock, cancel, connect_s=target.timeouts.connect_s),
                stream_cls=anthropic.Stream[object],
            )

        own_id = f"msg_{os.urandom(16).hex()}"
        start = Started(id=own_id, model=target.model, provider=self.name, created=int(time.time()))
        reader = AnthropicReader(start, secret=self._key, relay=request.relayable("anthropic"))
        return HttpUpstream(
            self.name,
            self._http,
            ask,
            anthropic.AnthropicError,
            reader,
            clock,
            cancel,
            id_header="request-id",
            secret=self._key,
        )

    def prefill(self, text: str) -> str:
        return text.rstrip()  # with white space at its end it is refused

    def close(self) -> None:
        self._client.close()

    def payload(self, request: ChatRequest, target: Target) -> dict[str, Any]:
        """The body to send: the client's own where it speaks this protocol, otherwise what all know of it."""
        if request.dialect == "anthropic":
            messages = anthropic_payload.own(request.body["messages"])
            body = {**request.body, "messages": with_prefill(messages, request.prefill)}
        else:
            refuse_foreign(request, target)
            body = anthropic_payload.payload(request)
            body["messages"] = with_prefill(body["messages"], request.prefill)
        return {
            **body,
            "max_tokens": body.get("max_tokens") or DEFAULT_MAX_TOKENS,
            "model": target.model,
            "stream": True,
        }
