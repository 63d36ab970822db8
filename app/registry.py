"""A string table `name -> "module:Class"` is the map of all implementations of a kind.

Adding one is a file and a line; nothing is imported before it is asked for. The resolver keeps two mistakes apart:
a name nobody registered (the caller's, answered with the nearest names) and a module whose own import fails (ours or
a missing optional dependency, passed on untouched).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

T = TypeVar("T")


# No name of ours comes near it. difflib indexes what it compares: 1 MB would hold up the event loop for 0.2 s.
_LONGEST_COMPARED = 100


def nearest(name: str, known: Iterable[str]) -> str:
    """`known: a, b, c. Did you mean 'b'?`: the end of every "unknown ..." message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5) if len(name) <= _LONGEST_COMPARED else []
    hint = f". Did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(names) or 'none'}{hint}"


class Registry(Generic[T], Mapping[str, Callable[..., T]]):
    """`registry["openai"]` imports `.openai` relative to `package` and gives its class; `KeyError` for no such name."""

    def __init__(self, package: str, table: Mapping[str, str]) -> None:
        self._package = package
        self._table = dict(table)
        self._found: dict[str, Callable[..., T]] = {}

    def __getitem__(self, name: str) -> Callable[..., T]:
        if (found := self._found.get(name)) is None:
            module, _, attribute = self._table[name].partition(":")
            found = cast(Callable[..., T], getattr(importlib.import_module(module, self._package), attribute))
            self._found[name] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
