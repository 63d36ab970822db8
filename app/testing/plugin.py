"""The pytest fixtures. One server for the session, fresh books for every test."""

from collections.abc import Iterator

import pytest

from .server import FakeProvider


@pytest.fixture(scope="session")
def fake_provider_server() -> Iterator[FakeProvider]:
    """The server all tests share. Take `fake_provider`; this one is for session fixtures that need its URL."""
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def fake_provider(fake_provider_server: FakeProvider) -> Iterator[FakeProvider]:
    """A fake LLM provider: no requests seen yet, and whatever the test leaves open is cut at its end."""
    fake_provider_server.reset()
    yield fake_provider_server
    fake_provider_server.reset()
