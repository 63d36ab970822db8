"""A fake LLM provider for tests: a real HTTP server whose behaviour is chosen by the model's name.

    def test_my_app_survives_a_cut_line(fake_provider):
        shown = my_app_asks(base_url=fake_provider.openai_base_url, model="fake-n20-cut5")
        assert shown == text_after("fake-n20-cut5", 5)
        assert fake_provider.stats().faults == 1

`answer(model)` is what a model says, `text_after(model, n)` its first n tokens, `grammar()` all that a name can ask
for. As a pytest plugin: `pytest -p sluiceway.testing`, or `pytest_plugins = ["sluiceway.testing"]` in the top
conftest.py. By hand: `python -m sluiceway.testing --port 9000`. It needs the standard library and pytest, nothing
else of this package.

    behaviour.py    the model's name, read; the grammar as a table
    answers.py      what is said: a pure function of the name
    wires/          how OpenAI and Anthropic write it
    framing.py      as bytes of a chunked body, whole, split, dripped, with comments
    script.py       what happens when, as steps; no time, no socket
    routes.py       which script a request gets
    connection.py   one HTTP/1.1 connection
    books.py        what was seen
    server.py       FakeProvider: threads that act the scripts out
    plugin.py       the fixtures

PYTEST_DONT_REWRITE: a conftest may import from here before it names the plugin, and there is no assert in here to
rewrite.
"""

from .answers import Answer, ToolCall, answer, text_after
from .behaviour import GRAMMAR, UnknownPart, grammar
from .books import Departure, Stats
from .connection import Request
from .plugin import fake_provider, fake_provider_server
from .server import FakeProvider

__all__ = [
    "GRAMMAR",
    "Answer",
    "Departure",
    "FakeProvider",
    "Request",
    "Stats",
    "ToolCall",
    "UnknownPart",
    "answer",
    "fake_provider",
    "fake_provider_server",
    "grammar",
    "text_after",
]
