"""How an answer is shaped: transforms of its events, by what a request asks for."""

from __future__ import annotations

from ..request import ChatRequest
from .base import Transform
from .objects import Objects
from .shape import Shaping

__all__ = ["Transform", "transforms_of"]


def transforms_of(request: ChatRequest) -> list[Transform]:
    """In the order in which an answer's events go through them; none for most requests. How the text is cut comes last:
    the others read it as it comes."""
    transforms: list[Transform] = []
    if request.partials and request.schema is not None:
        transforms.append(Objects(request.schema, request.stream))
    if request.stream and request.shape is not None:
        transforms.append(Shaping(request.shape))
    return transforms
