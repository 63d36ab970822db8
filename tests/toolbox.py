"""An app with tools of every temper. What the fake provider calls them with is a city and a number of days."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from flask import Flask, current_app

import app as sluiceway

logging.basicConfig(level=logging.INFO, format="%(message)s")  # a line for each stream

app = Flask("toolbox")
toolbox = sluiceway.Sluiceway(app)

# What a tool does is written here, a line each.
DIARY = Path(os.environ["TOOLBOX_DIARY"])
BOTH = threading.Barrier(2)


def write(line: str) -> None:
    with DIARY.open("a") as file:
        file.write(f"{line}\n")


@sluiceway.tool
def weather(city: str, days: int = 1) -> dict[str, Any]:
    """The weather forecast of a city.

    Args:
        city: Its name
        days: How many days from today
    """
    return {"city": city, "days": days, "app": current_app.name}


@toolbox.tool
def together(city: str, days: int) -> str:
    """Comes back when it was called twice at the same time."""
    BOTH.wait(20)
    return f"{days} days in {city}"


@toolbox.tool(timeout_s=0.3)
def slow(city: str, days: int) -> str:
    try:
        threading.Event().wait(60)
    finally:
        write("slow ended")
    return "never"


@toolbox.tool(timeout_s=120)
def patient(city: str, days: int) -> str:
    write("patient began")
    try:
        threading.Event().wait(60)
    finally:
        write("patient ended")
    return "never"


@toolbox.tool
def fails(city: str, days: int) -> str:
    raise RuntimeError("the password is hunter2")


@toolbox.tool
def refuses(city: str, days: int) -> str:
    raise sluiceway.ToolError(f"{city} is not on the map")


@toolbox.tool
def no_json(city: str, days: int) -> object:
    return object()


@toolbox.tool
def too_much(city: str, days: int) -> str:
    return "x" * 2_000_000


@toolbox.tool
def leaves(city: str, days: int) -> None:
    sys.exit(f"{city} is too far")


@toolbox.tool
def counts(city: str, days: str) -> list[int]:
    """Wants another type than it is given."""
    return [len(days)]
