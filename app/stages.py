"""The one shape of everything that is fed: `feed` what has arrived, `finish` at the end.

A stage does no IO and reads no clock; each call gives what can be said now and keeps the rest. So a stage is tested
by feeding recorded input cut at every position, and two stages compose by feeding one's output to the other.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Stage(Protocol[In_contra, Out_co]):
    def feed(self, piece: In_contra, /) -> Out_co:
        """Take what has arrived; give what it completes (possibly nothing)."""

    def finish(self) -> Out_co:
        """Nothing more will come; give what is left. Called at most once."""
