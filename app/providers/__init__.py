"""Who answers. One file a provider, one a protocol's reader; this table is the map.

A provider (base.Provider) turns a `ChatRequest` into an upstream response, through its sync SDK client; a reader
(base.Reader) turns that response's bytes into events, without IO. `langchain` asks a model or a chain of the
configuration instead, and its pieces are LangChain's. Adding a provider: one file and one line here.
"""

from __future__ import annotations

from ..registry import Registry
from .base import Provider, Reader, Upstream

PROVIDERS: Registry[Provider] = Registry(
    __name__,
    {
        "openai": ".openai:OpenAI",
        "openai_responses": ".openai_responses:OpenAIResponses",
        "anthropic": ".anthropic:Anthropic",
        "langchain": ".langchain:LangChain",
        "local": ".local:Local",
    },
)

__all__ = ["PROVIDERS", "Provider", "Reader", "Upstream"]
