"""Calls of tools under way: all of an answer's step at once, each beside the stream, with an end to its time."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..cancel import Cancel
from ..events import ToolCallEnded, ToolOutput
from ..task import Task
from .base import ServedTool, ToolError

log = logging.getLogger("sluiceway")


class Running:
    """Begun when made. `read(until)` gives the outputs that have come, in the order in which they came, and none where
    nothing has by then (of `time.monotonic`) or `cancel` was set; `over` when all were given. `close` at any time.

    Without gevent a call runs in a thread, which nobody can end: it goes on, and what it gives is thrown away.
    """

    def __init__(
        self,
        calls: Iterable[tuple[ServedTool, ToolCallEnded]],
        cancel: Cancel,
        around: Callable[[], AbstractContextManager[object]],
        request_id: str,
    ) -> None:
        self._cancel = cancel
        self._around = around
        self._request_id = request_id
        self._changed = threading.Event()
        self._outputs: list[ToolOutput] = []
        self._waiting: dict[str, tuple[ToolCallEnded, float, str]] = {}  # by call id; until when, and what is said then
        self._tasks: dict[str, Task[None]] = {}
        cancel.add(self._changed.set)
        for tool, said in calls:
            try:
                arguments = tool.read(said.arguments)
            except ToolError as exc:
                self._outputs.append(failed(said, str(exc)))
                continue
            late = f"{tool.name} took longer than {tool.timeout_s:g} s, and was stopped"
            self._waiting[said.call_id] = said, time.monotonic() + tool.timeout_s, late
            self._tasks[said.call_id] = Task(partial(self._run, tool, said, arguments))

    def _run(self, tool: ServedTool, said: ToolCallEnded, arguments: Mapping[str, Any]) -> None:
        output = self._output(tool, said, arguments)
        if self._waiting.pop(said.call_id, None) is not None:
            self._outputs.append(output)
            self._changed.set()

    def _output(self, tool: ServedTool, said: ToolCallEnded, arguments: Mapping[str, Any]) -> ToolOutput:
        try:
            with self._around():
                return ToolOutput(call_id=said.call_id, name=said.name, result=tool.call(arguments))
        except ToolError as exc:
            return failed(said, str(exc) or f"{tool.name} failed")
        except (Exception, SystemExit) as exc:
            log.exception("%s the tool %s failed", self._request_id, tool.name)
            return failed(said, f"{tool.name} failed ({type(exc).__name__})")

    @property
    def over(self) -> bool:
        return not self._waiting and not self._outputs

    def read(self, until: float) -> list[ToolOutput]:
        while True:
            self._changed.clear()
            now = time.monotonic()
            for call_id, (said, its_end, late) in tuple(self._waiting.items()):
                if now >= its_end and self._waiting.pop(call_id, None) is not None:
                    self._tasks[call_id].kill()
                    self._outputs.append(failed(said, late))
            if self._outputs or not self._waiting or self._cancel.error is not None or now >= until:
                given, self._outputs = self._outputs, []
                return given
            next_end = min((its_end for _, its_end, _ in tuple(self._waiting.values())), default=until)
            wait_s = min(until, next_end) - now
            self._changed.wait(None if wait_s == math.inf else max(0.0, wait_s))

    def close(self) -> None:
        self._cancel.remove(self._changed.set)
        self._waiting.clear()
        for task in self._tasks.values():
            task.kill()


def failed(said: ToolCallEnded, error: str) -> ToolOutput:
    return ToolOutput(call_id=said.call_id, name=said.name, error=error)
