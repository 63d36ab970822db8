"""How a stream is ended from outside: one object, set once, with the error that says why.

    the client has left | DELETE | a drain is over      ->  cancel.set(error)
    a connection to the provider, connecting or reading ->  cancel.add(connection.abort)

Nothing is ever thrown into the greenlet that answers: what it waits for ends under it, it finds `cancel.error`, and
goes its ordinary way out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .errors import SluicewayError

Hook = Callable[[], None]


class Cancel:
    """`set` from anywhere: a watcher in the hub, another greenlet, another thread. So there is no lock in it, hooks do
    not wait, and one may be called twice."""

    __slots__ = ("_hooks", "_was_set", "at", "error")

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self.error: SluicewayError | None = None
        self._was_set: threading.Event | None = None  # where somebody waits
        self.at = 0.0  # when it was set, of `time.monotonic`

    def set(self, error: SluicewayError) -> None:
        """Call the hooks. Only the first error counts."""
        if self.error is None:
            self.at = time.monotonic()
            self.error = error
            for hook in tuple(self._hooks):
                hook()
            if self._was_set is not None:
                self._was_set.set()

    def wait(self, until: float) -> bool:
        """Whether it is set, by `until` (of `time.monotonic`) at the latest."""
        if self._was_set is None:
            self._was_set = threading.Event()
        if self.error is None:
            self._was_set.wait(max(0.0, until - time.monotonic()))
        return self.error is not None

    def add(self, hook: Hook) -> None:
        """Have `hook` called when it is set; at once, if it is set already."""
        self._hooks.append(hook)
        if self.error is not None:
            hook()

    def remove(self, hook: Hook) -> None:
        """Of one that is not there, nothing."""
        if hook in self._hooks:
            self._hooks.remove(hook)
