"""Every error code in every wire format, byte for byte, as files to be read: `golden/errors/<format>.txt`.

A changed byte is a change for somebody's client. Where it is meant, `GOLDEN=write pytest tests/test_golden_errors.py`
writes the files anew, and the diff shows what was changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app import errors
from app.errors import SluicewayError
from app.events import Failed, Started, TextDelta
from app.formats import FORMATS
from app.formats.base import json_bytes
from app.request import ChatRequest, Message

GOLDEN = Path(__file__).parent / "golden" / "errors"
BODY = {"threadId": "t-1", "runId": "run-1", "messages": []}  # what AG-UI names its answers by
REQUEST = ChatRequest(dialect="native", body=BODY, messages=(Message.of("user", "Hi"),), include_usage=True)


def codes(cls: type[SluicewayError] = SluicewayError) -> list[type[SluicewayError]]:
    """The classes that bring a code of their own, in the tree's order."""
    own = [cls] if "code" in vars(cls) and cls is not SluicewayError else []
    return own + [
        found for child in cls.__subclasses__() if child.__module__ == errors.__name__ for found in codes(child)
    ]


def told(cls: type[SluicewayError]) -> SluicewayError:
    error = cls(f"what {cls.code} says\u2028of it")
    error.request_id = "r-1"
    return error


def shown(name: str) -> str:
    form = FORMATS[name]()
    parts = []
    for cls in codes():
        error = told(cls)
        before = json_bytes(form.error(error)).decode()
        encoder = form.encoder(REQUEST)
        encoder.feed([Started(id="a-1", model="m", provider="p", created=7), TextDelta(text="Hello")])
        inside = encoder.feed([Failed(error=error)]).decode()
        parts.append(
            f"===== {error.code}\nbefore the first byte: {error.http_status}\n{before}\nin the stream:\n{inside}"
        )
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts)


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_code_in_the_bytes_that_are_agreed(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(shown(name), "utf-8")
    assert shown(name) == path.read_text("utf-8")


def test_there_is_a_file_for_each_format_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(FORMATS)
