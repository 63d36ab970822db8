"""OpenAI Chat Completions through `openai.OpenAI`, and whatever else speaks that protocol under another base URL.

The SDK owns keys, base URLs, headers and typed errors. Its stream objects are not used: 76 % of that loop is building
pydantic models. `client.post(..., cast_to=httpx2.Response, stream=True)` gives the body itself, and `OpenAIChatReader`
reads it. `max_retries=0`: trying again is decided in one place, and not here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import openai

from ..cancel import Cancel
from ..clock import Clock
from ..events import Started
from ..request import ChatRequest, with_prefill
from ..settings import ProviderSettings
from ..targets import Target
from ..transport import clocked, http_client
from . import openai_chat_payload
from .base import HttpUpstream, Upstream, refuse_foreign
from .openai_chat_reader import OpenAIChatReader
from .prepared import Prepared


class _Client(Prepared, openai.OpenAI):
    straight = True


class OpenAI:
    """A `base.Provider`. `key` may be empty: some servers of this protocol ask for none."""

    keep_model = False
    headers: Mapping[str, str] = {}

    def __init__(self, name: str, settings: ProviderSettings, key: str) -> None:
        self.name = name
        self._key = key
        self._http = http_client(settings.base_url)
        self._client = _Client(
            api_key=key or "none",
            base_url=settings.base_url,  # None: the SDK's own
            max_retries=0,
            http_client=self._http,
            default_headers=self.headers,
        )
        # OpenAI's newer models reject `max_tokens`; many other servers of the protocol know nothing else.
        own = self._client.base_url.host.endswith((".openai.com", ".azure.com"))
        self._max_tokens_field = "max_completion_tokens" if own else "max_tokens"

    def open(self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str) -> Upstream:
        payload = self.payload(request, target)

        def ask() -> Any:
            return self._client.ask(
                "/chat/completions",
                payload,
                headers={"X-Request-ID": request_id},
                timeout=clocked(clock, cancel, connect_s=target.timeouts.connect_s),
                stream_cls=openai.Stream[object],
            )

        own_id = f"chatcmpl-{os.urandom(16).hex()}"
        reader = OpenAIChatReader(
            Started(id=own_id, model=target.model, provider=self.name, created=int(time.time())),
            secret=self._key,
            relay=request.relayable("openai"),
            relay_usage=request.include_usage or not request.stream,
            keep_model=self.keep_model,
        )
        return HttpUpstream(
            self.name,
            self._http,
            ask,
            openai.OpenAIError,
            reader,
            clock,
            cancel,
            id_header="x-request-id",
            secret=self._key,
        )

    def prefill(self, text: str) -> str:
        return text

    def close(self) -> None:
        self._client.close()

    def payload(self, request: ChatRequest, target: Target) -> dict[str, Any]:
        """The body to send: the client's own where it speaks this protocol, otherwise what all know of it."""
        if request.dialect == "openai":
            body = {**request.body, "messages": with_prefill(request.body["messages"], request.prefill)}
        else:
            refuse_foreign(request, target)
            body = openai_chat_payload.payload(request, self._max_tokens_field)
            body["messages"] = with_prefill(body["messages"], request.prefill)
        # Usage is always asked for: our own books need it; whether the client sees it is its format's business.
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        return {**body, "model": target.model, "stream": True, "stream_options": options}
