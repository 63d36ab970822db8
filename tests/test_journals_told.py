"""What workers tell each other of resumable streams, and what a late reader is written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app import errors
from app.events import (
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.formats.base import After
from app.formats.native import NativeSSEEncoder, NDJSONEncoder
from app.journals import _mails
from app.journals.codec import decode, encode
from app.journals.mail import News, unpack
from app.stores import MAIL_BYTES, Entry

USAGE = Usage(input_tokens=3, output_tokens=5, source="estimated", cached_tokens=1)
SAID: list[Event] = [
    Started(id="strm_1", model="m", provider="p", created=1_795_000_000, input_tokens=3),
    ReasoningDelta(text="hm \u2028 é 🙂"),
    ReasoningEnded(signature="s"),
    ReasoningEnded(redacted="r"),
    TextDelta(text='"\\ \x00 🙂'),
    TextDelta(text="no", refusal=True),
    Source(url="https://x.example/?a=b", title="T"),
    ToolCallStarted(call_id="c1", name="clock"),
    ToolCallDelta(call_id="c1", arguments='{"a": '),
    ToolCallEnded(call_id="c1", name="clock", arguments='{"a": 1}'),
    Recovered(from_="a/b", to="c/d", kept_chars=2, model="d", exact=False),
    USAGE,
    Finished(reason="stop", usage=USAGE, timings=Timings(ttft_s=None, duration_s=1.5), stop_sequence="END"),
]


def tree(of: type[errors.SluicewayError]) -> Iterator[type[errors.SluicewayError]]:
    for below in of.__subclasses__():
        yield below
        yield from tree(below)


KINDS = [kind for kind in tree(errors.SluicewayError) if "code" in vars(kind)]


def test_events_come_back_as_they_went() -> None:
    assert decode(encode(SAID)) == SAID


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_so_do_errors(kind: type[errors.SluicewayError]) -> None:
    error = kind("no such thing", param="p", retry_after_s=7.5)
    error.request_id, error.provider_request_id = "r1", "req_2"
    (event,) = decode(encode([Failed(error=error)]))
    assert isinstance(event, Failed)
    back = event.error
    assert type(back) is kind
    assert not event.beside
    assert (back.message, back.param, back.retry_after_s) == ("no such thing", "p", 7.5)
    assert (back.request_id, back.provider_request_id, back.headers) == ("r1", "req_2", error.headers)


@pytest.mark.parametrize(
    "error", [errors.StoreUnavailable("redis", "no"), errors.Stopped("stopped", by="stop")], ids=["store", "stopped"]
)
def test_a_special_case_comes_back_by_its_code(error: errors.SluicewayError) -> None:
    (event,) = decode(encode([Failed(error=error)]))
    assert isinstance(event, Failed)
    assert (event.error.code, event.error.message) == (error.code, error.message)


@pytest.mark.parametrize("kind", [NativeSSEEncoder, NDJSONEncoder])
def test_after_a_number_comes_what_follows_it(kind: type[NativeSSEEncoder | NDJSONEncoder]) -> None:
    whole = [kind().feed(SAID[: at + 1]) for at in range(len(SAID))]
    encoder = kind()
    for at, event in enumerate(SAID):
        encoder.feed([event])
        assert After(kind(), encoder.number).feed(SAID) == whole[-1][len(whole[at]) :]


def test_what_happens_to_a_reader_has_no_number_and_is_always_said() -> None:
    error = Failed(error=errors.Draining("restarting"), beside=True)
    for encoder in (NativeSSEEncoder(), After(NativeSSEEncoder(), 100)):
        encoder.feed(SAID[:3])
        said = encoder.feed([error])
        assert said.startswith(b"event: error\ndata: ")
        assert b"id: " not in said
    assert NDJSONEncoder().feed([error]).startswith(b'{"type":"error"')


@pytest.mark.parametrize("text", ["x", '"', "é", "🙂", "\\", "\x00"])
def test_mails_are_never_too_large_and_keep_the_order(text: str) -> None:
    lengths = [1, 3000, 10, 20_000, 5, 70_000, 8000, 8000, 8000]
    entries = [Entry("strm_1", at, at, encode([TextDelta(text=text * length)])) for at, length in enumerate(lengths)]
    mails = _mails(entries)
    assert all(len(mail) <= MAIL_BYTES for mail in mails)
    told: list[Entry] = []
    for mail in mails:
        news = unpack(mail)
        assert isinstance(news, News)
        told += news.entries
    assert [entry.first for entry in told] == [entry.first for entry in entries]
    for entry, sent in zip(told, entries, strict=True):
        assert entry.data in (sent.data, "")
    assert told[0].data
