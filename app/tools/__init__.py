"""Tools that we run when a model calls them: an app's own functions, and those that come along.

@sluiceway.tool
def weather(city: str, days: int = 1) -> dict:
    "The weather forecast of a city."
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

import msgspec

from ..errors import InvalidRequest
from ..registry import Registry, nearest
from ..request import ChatRequest
from .base import DEFAULT_TIMEOUT_S, ServedTool, ToolError, served_tool
from .running import Running

__all__ = ["BUILT_IN", "EVERYWHERE", "Running", "ServedTool", "ToolError", "Tools"]

BUILT_IN: Registry[Any] = Registry(__name__, {"clock": ".clock:clock"})

F = TypeVar("F", bound=Callable[..., Any])


class Tools:
    """The built-in ones that are `enabled`, what is added, and those `beside`, unless of the same name. Raises
    `ValueError` for a name in `enabled` that no built-in tool has."""

    def __init__(self, enabled: Iterable[str] = (), *, beside: Tools | None = None) -> None:
        self._beside = beside
        self._tools: dict[str, ServedTool] = {}
        for name in enabled:
            if name not in BUILT_IN:
                raise ValueError(f"no such tool: {name!r}; {nearest(name, BUILT_IN)}")
            self.tool(BUILT_IN[name])

    @overload
    def tool(self, function: F, /) -> F: ...
    @overload
    def tool(
        self, /, *, name: str | None = ..., description: str | None = ..., timeout_s: float = ...
    ) -> Callable[[F], F]: ...
    def tool(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> F | Callable[[F], F]:
        """A function that a model may call, where a request names it in `tools`: `@tool`, or `@tool(timeout_s=5)`.

        Name, description and the JSON Schema of its arguments come from signature and docstring. It runs beside the
        stream, in an app context, for at most `timeout_s` (seconds); what it returns must have a JSON form. `ToolError`
        tells the model what is wrong. Raises `TypeError` for an async function, and for one that can't be called by
        names.
        """

        def add(function: F) -> F:
            served = served_tool(function, name=name, description=description, timeout_s=timeout_s)
            self._tools[served.name] = served  # one of the same name makes place for it
            return function

        return add if function is None else add(function)

    def known(self) -> Mapping[str, ServedTool]:
        return self._tools if self._beside is None else {**self._tools, **self._beside.known()}

    def offered(self, request: ChatRequest) -> tuple[ChatRequest, Mapping[str, ServedTool]]:
        """The request with the tools of ours that it names, and those. Raises `InvalidRequest`."""
        if not request.served:
            return request, {}
        known = self.known()
        for name in request.served:
            if name not in known:
                raise InvalidRequest(
                    f"tools: no such tool of this service: {name!r}; {nearest(name, known)}", param="tools"
                )
        if twice := {tool.name for tool in request.tools} & set(request.served):
            raise InvalidRequest(f"tools: {min(twice)!r} is named twice", param="tools")
        served = {name: known[name] for name in request.served}
        about = (one.about for one in served.values())
        return msgspec.structs.replace(request, tools=(*request.tools, *about)), served


# What `sluiceway.tool` has been put on, for every app of the process.
EVERYWHERE = Tools()
