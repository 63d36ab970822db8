"""A browser for the examples, and what it had to complain about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from test_page import CHROMIUM, FLAGS

DEADLINE_MS = 30_000  # of whatever has to come to hold in a page

# Chromium's own lines for a status that is an error, and for a connection that broke; React's greeting in development.
EXPECTED = ("the server responded with a status of", "net::ERR_", "Download the React DevTools")


def launched() -> Iterator[Browser]:
    """For a fixture of the module: see `test_page.chromium`."""
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        expect.set_options(timeout=DEADLINE_MS)
        yield browser
        expect.set_options(timeout=None)
        browser.close()


@contextmanager
def watched(browser: Browser) -> Iterator[BrowserContext]:
    """A context whose pages have nothing to complain about until it is over."""
    complaints: list[str] = []

    def watch(page: Page) -> None:
        page.set_default_timeout(DEADLINE_MS)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("console", lambda said: complaints.append(f"console {said.type}: {said.text}"))

    with browser.new_context() as context:
        context.on("page", watch)
        yield context
    assert [line for line in complaints if not any(words in line for words in EXPECTED)] == []
