"""The protocols the fake provider speaks, by path. Another one is a module with `base.Wire`'s functions, and a row."""

from . import anthropic, openai, openai_responses
from .base import Call, Frame, Wire

WIRES: dict[str, Wire] = {
    "/v1/chat/completions": openai,
    "/v1/responses": openai_responses,
    "/v1/messages": anthropic,
}

__all__ = ["WIRES", "Call", "Frame", "Wire"]
