"""Calls of tools under way: all of an answer's step at once, each beside the stream, with an end to its time."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

import gevent

from ..cancel import Cancel
from ..events import ToolCallEnded, ToolOutput
from ..task import Task
from .base import ServedTool, ToolError

log = logging.getLogger("sluiceway")

MAX_ERROR_CHARS = 10_000


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
        self._lock = threading.Lock()  # a call is in one of the next two
        self._outputs: list[ToolOutput] = []
        self._waiting: dict[str, tuple[ToolCallEnded, float, str]] = {}  # by call id; until when, and what is said then
        self._tasks: dict[str, Task[None]] = {}
        cancel.add(self._changed.set)
        for tool, said in calls:
            late = f"{tool.name} took longer than {tool.timeout_s:g} s, and was stopped"
            self._waiting[said.call_id] = said, time.monotonic() + tool.timeout_s, late
            self._tasks[said.call_id] = Task(partial(self._run, tool, said))

    def _run(self, tool: ServedTool, said: ToolCallEnded) -> None:
        if self._cancel.error is not None:
            return  # nobody wants it, and it may do something
        try:
            output = self._output(tool, said)
        except BaseException as exc:  # `gevent.Timeout` is no Exception
            if isinstance(exc, gevent.GreenletExit) and said.call_id not in self._waiting:
                raise  # it was given up
            log.exception("%s the tool %s failed", self._request_id, tool.name)
            output = failed(said, f"{tool.name} failed ({type(exc).__name__})")
        self._give(output)

    def _output(self, tool: ServedTool, said: ToolCallEnded) -> ToolOutput:
        try:
            with self._around():
                result = tool.call(tool.read(said.arguments))
            return ToolOutput(call_id=said.call_id, name=said.name, result=result)
        except ToolError as exc:
            return failed(said, str(exc) or f"{tool.name} failed")

    def _give(self, output: ToolOutput) -> bool:
        """Whether it was waited for."""
        with self._lock:
            if self._waiting.pop(output.call_id, None) is None:
                return False
            self._outputs.append(output)
        self._changed.set()
        return True

    @property
    def over(self) -> bool:
        with self._lock:
            return not self._waiting and not self._outputs

    def read(self, until: float) -> list[ToolOutput]:
        while True:
            self._changed.clear()
            now = time.monotonic()
            for call_id, (said, its_end, late) in tuple(self._waiting.items()):
                if now >= its_end and self._give(failed(said, late)):
                    self._tasks[call_id].kill()
            with self._lock:
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
    """`error` is told as far as it can be: so much of it, and no half characters."""
    told = error[:MAX_ERROR_CHARS].encode(errors="replace").decode()
    return ToolOutput(call_id=said.call_id, name=said.name, error=told)
