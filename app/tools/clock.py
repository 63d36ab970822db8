"""The time: the one tool that a bare service has, to see tools at work with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from .base import ToolError


def clock(
    timezone: Annotated[str, Field(description="A name of the IANA database, such as Europe/Berlin")] = "UTC",
) -> dict[str, str]:
    """The current date, time and day of the week."""
    try:
        now = datetime.now(ZoneInfo(timezone))
    except (KeyError, ValueError, OSError):  # unknown; no name at all; a directory of the database
        raise ToolError(f"no such time zone: {timezone[:100]!r}; use a name like Europe/Berlin, or UTC") from None
    return {"time": now.isoformat(timespec="seconds"), "weekday": now.strftime("%A"), "timezone": timezone}
