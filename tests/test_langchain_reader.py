"""What LangChain packages give, and which events it is; taken piece by piece, and in two at every position.

The pieces are real messages of langchain-core, as langchain-openai, langchain-anthropic and chains give them.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

from app.errors import IdleTimeout, StreamBroken
from app.events import (
    Event,
    Failed,
    Finished,
    Order,
    ReasoningDelta,
    ReasoningEnded,
    Source,
    Started,
    State,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.providers.langchain_reader import LangChainReader

START = Started(id="run-1", model="m", provider="p", created=5)


def text(*texts: str) -> list[Event]:
    return [TextDelta(text=one) for one in texts]


def read(*batches: list[Any], one_model: bool = True) -> list[Event]:
    """All events, which are in a legal order with one end."""
    reader = LangChainReader(START, one_model=one_model)
    events = [event for batch in batches for event in reader.feed(batch)]
    events += reader.finish()
    assert reader.feed(["more"]) == []
    assert reader.finish() == []
    order = Order()
    for event in events:
        order.check(event)
    assert order.state is State.ENDED
    return events


def call(**fields: Any) -> AIMessageChunk:
    chunk = {"type": "tool_call_chunk", "name": None, "args": "", "id": None, "index": None, **fields}
    return AIMessageChunk("", tool_call_chunks=[chunk])  # type: ignore[list-item]


def ended(reason: str, field: str = "finish_reason", **more: Any) -> AIMessageChunk:
    return AIMessageChunk("", response_metadata={field: reason, **more})


def counted(**usage: Any) -> AIMessageChunk:
    usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, **usage}
    return AIMessageChunk("", usage_metadata=usage)  # type: ignore[arg-type]


def block(**fields: Any) -> AIMessageChunk:
    return AIMessageChunk([fields])


STOP = Finished(reason="stop")

CASES: dict[str, tuple[list[Any], list[Event]]] = {
    "strings": (["Hello", "", " you"], [START, *text("Hello", " you"), STOP]),
    "chunks": ([AIMessageChunk("Hello"), AIMessageChunk(" you"), ended("stop")], [START, *text("Hello", " you"), STOP]),
    "a whole message": (
        [AIMessage("Hello", id="x")],
        [Started(id="x", model="m", provider="p", created=5), *text("Hello"), STOP],
    ),
    "an answer under its key": (
        [{"input": "hi", "context": []}, {"answer": "Hello"}, {"answer": " you"}],
        [START, *text("Hello", " you"), STOP],
    ),
    "an agent's": ([{"output": "Hello"}], [START, *text("Hello"), STOP]),
    "a message as a dict": ([{"role": "assistant", "content": "Hello"}], [START, *text("Hello"), STOP]),
    "a message in a dict": ([{"output": AIMessageChunk("Hello")}], [START, *text("Hello"), STOP]),
    "others' messages": (
        [HumanMessage("hi"), ToolMessage("42", tool_call_id="c"), AIMessageChunk("Hello")],
        [START, *text("Hello"), STOP],
    ),
    "text blocks, and strings among them": (
        [AIMessageChunk(["Hello", {"type": "text", "text": " you", "index": 0}])],
        [START, *text("Hello", " you"), STOP],
    ),
    "its model, where the first chunk names it": (
        [AIMessageChunk("", response_metadata={"model_name": "m-2026"}), "Hello"],
        [Started(id="run-1", model="m-2026", provider="p", created=5), *text("Hello"), STOP],
    ),
    "Anthropic's thoughts": (
        [
            block(type="thinking", thinking="Let me", index=0),
            block(type="thinking", thinking=" see", index=0),
            block(type="thinking", thinking="", signature="Eu", index=0),
            block(type="thinking", thinking="", signature="Yx", index=0),
            block(type="redacted_thinking", data="sealed", index=1),
            block(type="text", text="Hello", index=2),
            ended("end_turn", "stop_reason"),
        ],
        [
            START,
            ReasoningDelta(text="Let me"),
            ReasoningDelta(text=" see"),
            ReasoningEnded(signature="EuYx"),
            ReasoningEnded(redacted="sealed"),
            *text("Hello"),
            STOP,
        ],
    ),
    "a signature at the end": (
        [block(type="thinking", thinking="Hm", signature="Eu")],
        [START, ReasoningDelta(text="Hm"), ReasoningEnded(signature="Eu"), STOP],
    ),
    "thoughts in LangChain's own shape": (
        [block(type="reasoning", reasoning="Hm", extras={"signature": "Eu"}), AIMessageChunk("Hello")],
        [START, ReasoningDelta(text="Hm"), ReasoningEnded(signature="Eu"), *text("Hello"), STOP],
    ),
    "OpenAI's summaries": (
        [
            block(type="reasoning", summary=[{"type": "summary_text", "text": "Hm", "index": 0}], index=0),
            block(type="reasoning", summary=[], encrypted_content="gAAAA1", index=0),
            ended("completed", "status"),
        ],
        [START, ReasoningDelta(text="Hm"), ReasoningEnded(redacted="gAAAA1"), STOP],
    ),
    "DeepSeek's thoughts": (
        [AIMessageChunk("", additional_kwargs={"reasoning_content": "Hm"}), AIMessageChunk("Hello")],
        [START, ReasoningDelta(text="Hm"), *text("Hello"), STOP],
    ),
    "a refusal": (
        [block(type="refusal", refusal="No."), ended("stop")],
        [START, TextDelta(text="No.", refusal=True), Finished(reason="content_filter")],
    ),
    "sources": (
        [
            block(type="text", text="So", citations=[{"url": "https://a.example", "title": "A"}, {"cited_text": "x"}]),
            block(type="text", text="", annotations=[{"type": "url_citation", "url": "https://b.example"}]),
        ],
        [START, *text("So"), Source(url="https://a.example", title="A"), Source(url="https://b.example"), STOP],
    ),
    "calls by their index": (
        [
            call(name="look", id="c1", index=0),
            call(args='{"a":', index=0),
            call(name="find", id="c2", args="{}", index=1),
            call(args="1}", index=0),
            ended("tool_calls"),
        ],
        [
            START,
            ToolCallStarted(call_id="c1", name="look"),
            ToolCallDelta(call_id="c1", arguments='{"a":'),
            ToolCallStarted(call_id="c2", name="find"),
            ToolCallDelta(call_id="c2", arguments="{}"),
            ToolCallDelta(call_id="c1", arguments="1}"),
            ToolCallEnded(call_id="c1", name="look", arguments='{"a":1}'),
            ToolCallEnded(call_id="c2", name="find", arguments="{}"),
            Finished(reason="tool_calls"),
        ],
    ),
    "whole calls without an index or an id": (
        [call(name="look", args="{}"), call(name="look", args="")],
        [
            START,
            ToolCallStarted(call_id="call_0", name="look"),
            ToolCallDelta(call_id="call_0", arguments="{}"),
            ToolCallStarted(call_id="call_1", name="look"),
            ToolCallEnded(call_id="call_0", name="look", arguments="{}"),
            ToolCallDelta(call_id="call_1", arguments="{}"),
            ToolCallEnded(call_id="call_1", name="look", arguments="{}"),
            Finished(reason="tool_calls"),
        ],
    ),
    "calls of a whole message, one of them invalid": (
        [
            AIMessage(
                "",
                tool_calls=[{"name": "look", "args": {"a": "é"}, "id": "c1"}],
                invalid_tool_calls=[
                    {"name": "find", "args": "{", "id": "c2", "error": None, "type": "invalid_tool_call"}
                ],
            )
        ],
        [
            START,
            ToolCallStarted(call_id="c1", name="look"),
            ToolCallDelta(call_id="c1", arguments='{"a":"é"}'),
            ToolCallStarted(call_id="c2", name="find"),
            ToolCallDelta(call_id="c2", arguments="{"),
            ToolCallEnded(call_id="c1", name="look", arguments='{"a":"é"}'),
            ToolCallEnded(call_id="c2", name="find", arguments="{"),
            Finished(reason="tool_calls"),
        ],
    ),
    "usage, added up as LangChain does": (
        [
            "Hello",
            counted(input_tokens=9, input_token_details={"cache_read": 3, "cache_creation": 2}),
            counted(output_tokens=5, output_token_details={"reasoning": 4}),
        ],
        [
            START,
            *text("Hello"),
            Usage(input_tokens=9, output_tokens=5, cached_tokens=3, cache_write_tokens=2, reasoning_tokens=4),
            STOP,
        ],
    ),
    "Anthropic's two kinds of written cache": (
        [
            "Hello",
            counted(
                input_tokens=9,
                input_token_details={
                    "cache_creation": 0,
                    "ephemeral_5m_input_tokens": 2,
                    "ephemeral_1h_input_tokens": 1,
                },
            ),
        ],
        [START, *text("Hello"), Usage(input_tokens=9, output_tokens=0, cache_write_tokens=3), STOP],
    ),
    "length": (["Hello", ended("max_tokens", "stop_reason")], [START, *text("Hello"), Finished(reason="length")]),
    "Google's word": (["Hello", ended("MAX_TOKENS")], [START, *text("Hello"), Finished(reason="length")]),
    "no word yet": (
        [ended("FINISH_REASON_UNSPECIFIED"), "Hello", ended("SAFETY")],
        [START, *text("Hello"), Finished(reason="content_filter")],
    ),
    "Responses' word": (
        ["Hello", ended("incomplete", "status", incomplete_details={"reason": "max_output_tokens"})],
        [START, *text("Hello"), Finished(reason="length")],
    ),
    "an unknown word": (["Hello", ended("because")], [START, *text("Hello"), STOP]),
    "a stop sequence": (
        ["Hello", ended("stop_sequence", "stop_reason", stop_sequence="\n")],
        [START, *text("Hello"), Finished(reason="stop", stop_sequence="\n")],
    ),
    "what is no answer": (
        [5, {"score": 1}, "Hello", None, object()],
        [START, *text("Hello"), STOP],
    ),
    "usage that is none": (
        ["Hello", AIMessageChunk.model_construct(content="", usage_metadata={"input_tokens": "many"})],
        [START, *text("Hello"), Usage(input_tokens=0, output_tokens=0), STOP],
    ),
}


@pytest.mark.parametrize(("pieces", "events"), CASES.values(), ids=CASES.keys())
def test_pieces(pieces: list[Any], events: list[Event]) -> None:
    assert read(pieces) == events
    assert read(*([piece] for piece in pieces)) == events
    for cut in range(len(pieces)):
        assert read(pieces[:cut], pieces[cut:]) == events


FAILURES: dict[str, tuple[list[Any], list[Event], str]] = {
    "nothing": ([], [], "had no answer in it"),
    "nothing that is an answer": ([{"score": 1}, 5], [], "had no answer in it: there was a dict with 'score', a int"),
    "no reason, of one who always names one": (
        [AIMessageChunk("Hello", response_metadata={"model_provider": "openai"})],
        [START, *text("Hello")],
        "ended before the answer did",
    ),
    "broken off": (["Hello", ended("error")], [START, *text("Hello")], "broke the answer off (error)"),
}


@pytest.mark.parametrize(("pieces", "events", "said"), FAILURES.values(), ids=FAILURES.keys())
def test_what_is_no_whole_answer(pieces: list[Any], events: list[Event], said: str) -> None:
    *before, last = read(pieces)
    assert before == events
    assert isinstance(last, Failed)
    assert type(last.error) is StreamBroken
    assert said in last.error.message


def test_a_failure_keeps_what_was_counted() -> None:
    reader = LangChainReader(START, one_model=True)
    assert reader.feed(["Hello", counted(input_tokens=3)]) == [START, *text("Hello")]
    error = IdleTimeout("silent")
    assert reader.finish(error) == [Usage(input_tokens=3, output_tokens=0), Failed(error=error)]


def test_what_fails_behind_the_reason_is_no_failure() -> None:
    reader = LangChainReader(START, one_model=True)
    reader.feed(["Hello", ended("stop")])
    assert reader.answered
    assert reader.finish(IdleTimeout("silent")) == [STOP]


def test_a_reason_ends_no_chain() -> None:
    """Another of its models may have its say."""
    pieces = ["Hello", ended("stop"), " you", ended("length")]
    reader = LangChainReader(START, one_model=False)
    reader.feed(pieces[:2])
    assert not reader.answered
    assert read(pieces, one_model=False) == [START, *text("Hello", " you"), Finished(reason="length")]


def test_a_message_that_can_not_be_read_breaks_the_answer() -> None:
    class Odd:
        content = "x"

        @property
        def tool_call_chunks(self) -> None:
            raise KeyError("secret")

    *before, last = read(["Hello", Odd()])
    assert before == [START, *text("Hello", "x")]
    assert isinstance(last, Failed)
    assert "secret" not in last.error.message


def test_a_block_of_the_providers_own_is_opaque() -> None:
    reader = LangChainReader(START, one_model=True)
    reader.feed([block(type="server_tool_use", id="s", name="web_search", input={})])
    assert reader.opaque


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "text",
                    "thinking",
                    "signature",
                    "reasoning",
                    "summary",
                    "extras",
                    "content",
                    "answer",
                    "citations",
                    "url",
                    "id",
                    "name",
                    "args",
                    "index",
                    "input_tokens",
                    "input_token_details",
                    "cache_read",
                    "finish_reason",
                ]
            ),
            inner | st.sampled_from(["text", "thinking", "reasoning", "refusal"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        any_value
        | st.builds(
            lambda **fields: type("Message", (), fields)(),
            content=any_value,
            tool_call_chunks=any_value,
            usage_metadata=any_value,
            response_metadata=any_value,
            additional_kwargs=any_value,
            id=any_value,
            type=any_value,
        ),
        max_size=5,
    )
)
def test_whatever_comes_has_one_end(pieces: list[Any]) -> None:
    read(pieces)
