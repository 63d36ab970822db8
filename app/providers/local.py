"""The embedded model: llama.cpp's own HTTP server in a loopback process, spoken to like any OpenAI-style server.

`gunicorn.conf.py` starts that process and says where it listens. It is a demonstration model (SmolLM2-135M): fluent,
not truthful, and without tool calls, which are refused here because its server would accept and ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cancel import Cancel
from ..clock import Clock
from ..errors import InvalidRequest, ProviderNotConfigured
from ..request import ChatRequest
from ..settings import Local as LocalSettings
from ..settings import ProviderSettings
from ..targets import Target
from .base import Upstream
from .openai import OpenAI

DEFAULT_MAX_TOKENS = 512  # a 135M model left alone repeats itself until its context is full


class Local(OpenAI):
    """A `base.Provider`."""

    keep_model = True  # a model of one's own at `local.port` may report a path of its weights
    # llama.cpp drops idle connections after 5 s; on loopback a new one is cheaper than the race against that.
    headers: Mapping[str, str] = {"Connection": "close"}

    def __init__(self, name: str, settings: ProviderSettings, _key: str, local: LocalSettings) -> None:
        self._running = local.port is not None
        address = f"http://127.0.0.1:{local.port or 9}/v1"
        super().__init__(name, settings.model_copy(update={"base_url": address}), local.api_key or "")

    def open(self, request: ChatRequest, target: Target, clock: Clock, cancel: Cancel, *, request_id: str) -> Upstream:
        if not self._running:
            raise ProviderNotConfigured(
                "the embedded model is not running; start the server with gunicorn and its gunicorn.conf.py (make run)"
            )
        return super().open(request, target, clock, cancel, request_id=request_id)

    def payload(self, request: ChatRequest, target: Target) -> dict[str, Any]:
        body = super().payload(request, target)
        for field in ("tools", "functions"):
            if body.get(field):
                raise InvalidRequest("the embedded model has no tool calls; use another model", param=field)
        if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
            body["max_tokens"] = DEFAULT_MAX_TOKENS
        return body
