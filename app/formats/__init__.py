"""What was asked, and how the answer is written: one file a wire format; this table is the map.

A format (base.Format) reads a client's body into a `ChatRequest` and writes events as bytes of its own. Adding one: one
file and one line here; the doors ask for a format by its name.
"""

from __future__ import annotations

from ..registry import Registry
from .base import Encoder, Format

FORMATS: Registry[Format] = Registry(
    __name__,
    {
        "native": ".native:NativeSSE",
        "ndjson": ".native:NDJSON",
        "openai_chat": ".openai_chat:OpenAIChat",
        "openai_responses": ".openai_responses:OpenAIResponses",
        "anthropic_messages": ".anthropic_messages:AnthropicMessages",
        "ai_sdk": ".ai_sdk:AISDK",
        "agui": ".agui:AGUI",
        "plain_text": ".plain_text:PlainText",
        "text_sse": ".text_sse:TextSSE",
        "token_sse": ".token_sse:TokenSSE",
        "meta_sse": ".meta_sse:MetaSSE",
    },
)

__all__ = ["FORMATS", "Encoder", "Format"]
