"""The house stands: imports go down the floors, rooms on one floor keep apart, registries resolve."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from app.formats import FORMATS
from app.providers import PROVIDERS
from app.registry import Registry

APP = Path(app.__file__).parent

# The same floors as the map in `app/__init__.py`, which the last test holds against this.
FLOORS = {
    "errors": 0,
    "registry": 0,
    "stages": 0,
    "task": 0,
    "events": 1,
    "request": 1,
    "settings": 1,
    "clock": 1,
    "cancel": 1,
    "targets": 2,
    "transport": 2,
    "admission": 2,
    "breakers": 2,
    "retrying": 2,
    "recovery": 2,
    "local_model": 2,
    "json_schema": 2,
    "providers": 3,
    "formats": 3,
    "transforms": 3,
    "tools": 3,
    "stores": 3,
    "attempts": 4,
    "books": 4,
    "outcomes": 4,
    "house": 4,
    "response": 4,
    "tries": 5,
    "steps": 5,
    "turns": 6,
    "answers": 7,
    "shaped": 8,
    "journals": 9,
    "flow": 10,
    "web": 11,
    "__init__": 12,
}
BESIDE = "testing"  # the fake provider, which imports nothing of the house and nothing of the house imports

FILES = sorted(path for path in APP.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path) -> str:
    first = path.relative_to(APP).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str | None, str]]:
    """(line, room or None for another package, what was written) of each import, wherever in the file it stands."""
    here = path.relative_to(APP).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, None, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, None, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - (node.level - 1)]
            full = (*base, *((node.module or "").split(".") if node.module else ()))
            for name in [full] if full else [(alias.name,) for alias in node.names]:
                yield node.lineno, name[0], ".".join(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(APP)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    for line, target, written in imports_of(path):
        where = f"{path.relative_to(APP)}:{line}: import of {written}"
        if target is None:
            assert written.split(".")[0] not in ("app", "sluiceway"), (
                f"{where}: imports inside the package are relative"
            )
        elif room == BESIDE or target == BESIDE:
            assert room == target, f"{where}: {BESIDE}/ stands beside the house"
        elif target != room:
            assert FLOORS[target] < FLOORS[room], f"{where}: floor {FLOORS[target]} is not below floor {FLOORS[room]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(APP)))
def test_no_import_hides_in_a_function_or_behind_type_checking(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    top = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node in top, (
                f"{path.relative_to(APP)}:{node.lineno}: an import of ours stands at the top of the file"
            )
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno}: import *"


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} == {*FLOORS, BESIDE}


def test_the_map_in_the_docstring_is_true() -> None:
    drawn: dict[str, int] = {}
    floor = -1
    for line in (app.__doc__ or "").splitlines():
        if match := re.match(r"    (\d+)  ", line):
            floor = int(match[1])
        if floor >= 0 and line.startswith("    "):
            for room in re.findall(r"(?<![`\w])(\w+)(?:\.py|/)(?![\w/])", line):
                drawn[room] = floor
    assert drawn == FLOORS


@pytest.mark.parametrize("registry", [FORMATS, PROVIDERS], ids=["formats", "providers"])
def test_registries_resolve(registry: Registry[object]) -> None:
    assert len(registry) > 0
    for name in registry:
        assert isinstance(registry[name], type), f"{name} is a class"


def test_each_format_knows_its_own_name() -> None:
    assert {name: FORMATS[name]().name for name in FORMATS} == {name: name for name in FORMATS}
