"""What the README says is so: its tables are the code's, its tests exist, its commands are the Makefile's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from conftest import ROOT
from pydantic import BaseModel

from app import create_app, errors
from app.settings import Settings

README = (ROOT / "README.md").read_text("utf-8")


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the section's first table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_error_codes() -> None:
    def tree(of: type[errors.SluicewayError]) -> Iterator[type[errors.SluicewayError]]:
        yield of
        for below in of.__subclasses__():
            yield from tree(below)

    own = {error.code: error.http_status for error in tree(errors.SluicewayError) if "code" in vars(error)}
    assert {code.strip("`"): int(status) for code, status, _ in rows("Errors")} == own


def settings_of(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from settings_of(value, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in ("keys", "providers", "models"):
            yield f"{prefix}{name}", value


def test_settings() -> None:
    known = dict(settings_of(Settings()))
    shown = {key.strip("`"): default.strip("`") for key, default, _ in rows("Settings")}
    assert shown == {key: _written(value) for key, value in known.items()}


def _written(value: Any) -> str:
    """As in a file; nothing for none."""
    if isinstance(value, tuple):
        return json.dumps(value) if value else ""
    return "" if value is None else str(value)


def test_routes() -> None:
    shown = {tuple(route.strip("`").split(" ")) for route, _, _ in rows("Routes")}
    served = {
        (method, rule.rule.replace("<sluiceway_any:chat_id>", "<id>"))
        for rule in create_app().url_map.iter_rules()
        if not rule.endpoint.endswith(".static")
        for method in rule.methods or set()
        if method in ("GET", "POST", "PUT", "DELETE")
    }
    assert shown == served


def test_every_row_of_what_happens_names_a_test_that_exists() -> None:
    for when, _, shown_by in rows("What happens when"):
        names = re.findall(r"`([^`]+)`", shown_by)
        assert names, when
        for name in names:
            file, _, test = name.partition("::")
            source = (ROOT / "tests" / file).read_text("utf-8")
            assert not test or f"def {test}(" in source, name


def test_commands_and_files_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", README)) - {"sure"} <= targets
    for path in re.findall(r"\]\(((?!#|http)[^)]+)\)", README):
        assert (ROOT / path).exists(), path
    assert "@@" not in README
