"""OpenAI Responses in detail: what a request says, how an answer is written, what a provider of it is asked.

Its golden file, and what holds for every format, are in test_formats; what its providers send is in test_readers.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseCompletedEvent, ResponseIncompleteEvent
from test_formats import ANSWER, HI, answers, calls, folded, many, parsed, refused, texts, written
from test_readers import CREATED, OURS, RECORDED, event, item_done

from app.books import Books
from app.errors import InvalidRequest, ProviderOverloaded
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
    Usage,
)
from app.formats import FORMATS
from app.formats.base import WholeAnswer, json_bytes
from app.providers.openai_responses import OpenAIResponses
from app.providers.openai_responses_reader import OpenAIResponsesReader
from app.providers.sse import read_frames
from app.request import (
    ChatRequest,
    Image,
    Message,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from app.settings import ProviderSettings, Timeouts
from app.targets import Target

NAME = "openai_responses"
CALL = {"type": "function_call", "call_id": "A", "name": "f", "arguments": '{"a": 1}'}
RESULT = {"type": "function_call_output", "call_id": "A", "output": "4"}


def asked(**fields: Any) -> ChatRequest:
    return parsed(NAME, {"input": "Hi", **fields})


def said(*items: Any) -> tuple[Message, ...]:
    request = parsed(NAME, {"input": list(items)})
    assert request.foreign == ()
    return request.messages


class TestRequests:
    def test_the_least(self) -> None:
        body = {"input": "Hi"}
        assert parsed(NAME, body) == ChatRequest(
            dialect="openai_responses", body=body, messages=HI, stream=False, include_usage=True
        )

    def test_everything_that_other_protocols_know_too(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        body = {
            "model": "gpt-5",
            "instructions": "Be brief.",
            "input": [
                {"role": "developer", "content": "Be kind."},
                {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be right."}]},
                {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            ],
            "max_output_tokens": 50,
            "temperature": 1,
            "top_p": 0.5,
            "tools": [
                {"type": "function", "name": "f", "description": "F.", "parameters": schema, "strict": True},
                {"type": "function", "name": "g", "parameters": None, "strict": None, "defer_loading": False},
            ],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "text": {
                "format": {"type": "json_schema", "name": "sum", "schema": schema, "strict": True, "description": "S."},
                "verbosity": "medium",
            },
            "reasoning": {"effort": "high", "summary": "auto"},
            "user": "u",
            "safety_identifier": "s",
            "stream": True,
        }
        assert parsed(NAME, body) == ChatRequest(
            dialect="openai_responses",
            body=body,
            model="gpt-5",
            messages=HI,
            system="Be brief.\n\nBe kind.\n\nBe right.",
            max_tokens=50,
            temperature=1.0,
            top_p=0.5,
            tools=(Tool("f", "F.", schema, True), Tool("g")),
            tool_choice=ToolChoice("tool", "f"),
            parallel_tool_calls=False,
            schema=Schema(schema, "sum", "S.", True),
            effort="high",
            user="s",
            stream=True,
            include_usage=True,
        )

    @pytest.mark.parametrize("choice", ["auto", "none", "required"])
    def test_tool_choices(self, choice: Any) -> None:
        assert asked(tool_choice=choice).tool_choice == ToolChoice(choice)

    def test_images_at_an_address_and_in_the_request(self) -> None:
        image = {"type": "input_image", "image_url": "data:image/png;base64,iVBO+/=", "detail": "auto"}
        far = {"type": "input_image", "image_url": "https://example.org/a.png"}
        assert said({"role": "user", "content": [{"type": "input_text", "text": "See"}, image, far]}) == (
            Message(
                "user",
                (Text("See"), Image(media_type="image/png", data="iVBO+/="), Image(url="https://example.org/a.png")),
            ),
        )

    def test_a_turn_of_the_assistants_is_one_message(self) -> None:
        """As it comes back from a client that appends the output to its input, to whatever it said beside."""
        thought = {
            "type": "reasoning",
            "id": "rs_1",
            "status": "completed",
            "summary": [{"type": "summary_text", "text": "H"}, {"type": "summary_text", "text": "m"}],
            "content": None,
            "encrypted_content": "E",
        }
        part = {"type": "output_text", "text": "See.", "annotations": [{"type": "url_citation"}], "logprobs": []}
        message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
        turn = [
            {"role": "user", "content": "Hi"},
            thought,
            {**message, "phase": "commentary"},
            {**CALL, "id": "fc_1", "status": "completed"},
            {**CALL, "call_id": "B", "caller": {"type": "direct"}},
            {**RESULT, "id": None},
            {**RESULT, "call_id": "B", "output": [{"type": "input_text", "text": "5"}]},
            {"role": "assistant", "content": "So"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": "Why?"},
        ]
        assert said(*turn) == (
            *HI,
            Message(
                "assistant",
                (
                    Reasoning(text="H\n\nm", signature="E"),
                    Text("See."),
                    ToolCall("A", "f", '{"a": 1}'),
                    ToolCall("B", "f", '{"a": 1}'),
                ),
            ),
            Message("user", (ToolResult("A", (Text("4"),)), ToolResult("B", (Text("5"),)))),
            Message.of("assistant", "So"),
            Message.of("assistant", "no"),
            Message.of("user", "Why?"),
        )

    @pytest.mark.parametrize(
        ("item", "thought"),
        [
            ({"summary": [], "encrypted_content": "E"}, Reasoning(redacted="E")),
            ({"summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}, Reasoning(text="Hm")),
            ({"summary": [{"type": "summary_text", "text": "Hm"}]}, Reasoning(text="Hm")),
        ],
    )
    def test_thoughts(self, item: dict[str, Any], thought: Reasoning) -> None:
        assert said({"type": "reasoning", **item}) == (Message("assistant", (thought,)),)

    def test_a_thought_with_nothing_in_it_is_nothing(self) -> None:
        assert said({"role": "user", "content": "Hi"}, {"type": "reasoning", "id": "rs_1", "summary": []}) == HI

    def test_what_asks_for_nothing_is_no_obstacle(self) -> None:
        names = (
            *("model", "instructions", "max_output_tokens", "temperature", "top_p", "tools", "tool_choice", "text"),
            *(
                "parallel_tool_calls",
                "reasoning",
                "user",
                "safety_identifier",
                "stream",
                "metadata",
                "store",
                "include",
            ),
            *("previous_response_id", "conversation", "background", "truncation", "service_tier", "prompt"),
        )
        least = parsed(NAME, {"input": "Hi"})
        for fields in (
            dict.fromkeys(names),
            {"tools": [], "text": {}, "reasoning": {}, "metadata": {}, "include": []},
            {"store": False, "background": False, "truncation": "disabled", "service_tier": "auto", "top_logprobs": 0},
            {"text": {"format": {"type": "text"}}, "include": ["reasoning.encrypted_content"]},
            {"stream_options": {"include_obfuscation": False}, "reasoning": {"effort": None, "summary": "auto"}},
        ):
            body = {"input": "Hi", **fields}
            assert parsed(NAME, body) == ChatRequest(
                dialect=least.dialect, body=body, messages=HI, stream=False, include_usage=True
            )

    @pytest.mark.parametrize(
        ("fields", "foreign"),
        [
            ({"store": True}, ("store",)),
            ({"background": True}, ("background",)),
            ({"previous_response_id": "resp_1"}, ("previous_response_id",)),
            ({"conversation": {"id": "conv_1"}}, ("conversation",)),
            ({"prompt": {"id": "pmpt_1"}}, ("prompt",)),
            ({"truncation": "auto"}, ("truncation",)),
            ({"service_tier": "flex"}, ("service_tier",)),
            ({"metadata": {"a": "b"}}, ("metadata",)),
            ({"include": ["message.output_text.logprobs"]}, ("include",)),
            ({"top_logprobs": 3, "max_tool_calls": 2}, ("top_logprobs", "max_tool_calls")),
            ({"of_the_future": 1}, ("of_the_future",)),
            ({"text": {"verbosity": "low", "x": 1}}, ("text.x", "text.verbosity")),
            ({"text": {"format": {"type": "json_object"}}}, ("text.format",)),
            ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "x": 1}}}, ("text.format.x",)),
            ({"reasoning": {"summary": "detailed", "mode": "pro"}}, ("reasoning.summary", "reasoning.mode")),
            ({"reasoning": {"effort": "of_the_future"}}, ("reasoning.effort",)),
            ({"tools": [{"type": "web_search"}, {"type": "function", "name": "f"}]}, ("tools[0]",)),
            ({"tools": [{"type": "function", "name": "f", "defer_loading": True}]}, ("tools[0].defer_loading",)),
            ({"tool_choice": {"type": "web_search"}}, ("tool_choice",)),
            ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, ("tool_choice",)),
            ({"input": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"}]}, ("input[1].role",)),
            ({"input": [{"type": "item_reference", "id": "msg_1"}]}, ("input[0]",)),
            ({"input": [{"id": "msg_1"}]}, ("input[0]",)),
            ({"input": [{"type": "computer_call_output", "output": {"a": 1}, "content": 5}]}, ("input[0]",)),
            ({"input": [{**RESULT, "call_id": None}]}, ("input[0]",)),
            ({"input": [{**CALL, "namespace": "n"}]}, ("input[0].namespace",)),
            ({"input": [{**RESULT, "output": [{"type": "input_file"}]}]}, ("input[0].output[0]",)),
            ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, ("input[0].content[0]",)),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
                ("input[0].content[0]",),
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u", "detail": "high"}]}]},
                ("input[0].content[0].detail",),
            ),
            ({"input": [{"role": "user", "content": "Hi", "name": "bob"}]}, ("input[0].name",)),
            (
                {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi", "cached": 1}]}]},
                ("input[0].content[0].cached",),
            ),
        ],
    )  # fmt: skip
    def test_what_only_this_protocol_knows_is_noted_by_name(
        self, fields: dict[str, Any], foreign: tuple[str, ...]
    ) -> None:
        assert asked(**fields).foreign == foreign

    @pytest.mark.parametrize("where", ["previous_response_id", "conversation", "prompt"])
    def test_without_input_where_it_is_somewhere_else(self, where: str) -> None:
        body = {where: "x"}
        assert parsed(NAME, body).body is body

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "input"),
            ({"input": None}, "input"),
            ({"input": []}, "input"),
            ({"input": 5}, "input"),
            ({"input": {"role": "user"}}, "input"),
            ({"input": ["Hi"]}, "input[0]"),
            ({"input": [{"content": "Hi"}]}, "input[0].role"),
            ({"input": [{"role": "robot", "content": "Hi"}]}, "input[0].role"),
            ({"input": [{"role": "user"}]}, "input[0].content"),
            ({"input": [{"type": "message", "role": "user", "content": 5}]}, "input[0].content"),
            ({"input": [{"role": "user", "content": ["Hi"]}]}, "input[0].content[0]"),
            ({"input": [{"role": "user", "content": [{"text": "Hi"}]}]}, "input[0].content[0].type"),
            ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]"),
            ({"input": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "input[0].content[0].text"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {}}]}]},
                "input[0].content[0].image_url",
            ),
            ({"input": [{"type": 5}]}, "input[0].type"),
            ({"input": [{"type": None, "role": 5, "content": "x"}]}, "input[0].role"),
            ({"input": [{**CALL, "arguments": {"a": 1}}]}, "input[0].arguments"),
            ({"input": ["x", {"type": "function_call", "call_id": "A"}]}, "input[0]"),
            ({"input": [{"type": "function_call", "call_id": "A", "arguments": "{}"}]}, "input[0].name"),
            ({"input": [{"type": "function_call_output", "call_id": "A"}]}, "input[0].output"),
            ({"input": [{"type": "function_call_output", "call_id": 5, "output": ""}]}, "input[0].call_id"),
            ({"input": [{"type": "reasoning"}]}, "input[0].summary"),
            ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
            ({"input": "a", "instructions": ["x"]}, "instructions"),
            ({"input": "a", "model": ""}, "model"),
            ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
            ({"input": "a", "max_output_tokens": True}, "max_output_tokens"),
            ({"input": "a", "temperature": "1"}, "temperature"),
            ({"input": "a", "temperature": 2.1}, "temperature"),
            ({"input": "a", "top_p": -0.1}, "top_p"),
            ({"input": "a", "stream": "true"}, "stream"),
            ({"input": "a", "tools": {}}, "tools"),
            ({"input": "a", "tools": ["clock"]}, "tools[0]"),
            ({"input": "a", "tools": [{"name": "f"}]}, "tools[0].type"),
            ({"input": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
            ({"input": "a", "tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools[0].parameters"),
            ({"input": "a", "tool_choice": "f"}, "tool_choice"),
            ({"input": "a", "tool_choice": 5}, "tool_choice"),
            ({"input": "a", "tool_choice": {}}, "tool_choice.type"),
            ({"input": "a", "tool_choice": {"type": "function"}}, "tool_choice.name"),
            ({"input": "a", "parallel_tool_calls": "no"}, "parallel_tool_calls"),
            ({"input": "a", "text": "x"}, "text"),
            ({"input": "a", "text": {"format": "json"}}, "text.format"),
            ({"input": "a", "text": {"format": {}}}, "text.format.type"),
            ({"input": "a", "text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
            ({"input": "a", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
            ({"input": "a", "reasoning": "high"}, "reasoning"),
            ({"input": "a", "reasoning": {"effort": 5}}, "reasoning.effort"),
            ({"input": "a", "user": 5}, "user"),
        ],
    )  # fmt: skip
    def test_a_refusal_names_its_field(self, body: dict[str, Any], param: str) -> None:
        error = refused(NAME, body)
        assert error.param == param
        assert error.message.startswith(param)


STARTED = Started(id="resp_1", model="m", provider="p", created=1763720000)
COUNTED = Usage(input_tokens=9, output_tokens=7, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=3)


def done(reason: Any = "stop", usage: Usage | None = COUNTED) -> list[Event]:
    return [*([usage] if usage else []), Finished(reason=reason, usage=usage)]


def told(*events: Event, request: ChatRequest | None = None) -> list[dict[str, Any]]:
    """The data of the frames; their names and numbers are checked."""
    encoder = FORMATS[NAME]().encoder(request or asked())
    frames = read_frames(encoder.feed([STARTED, *events]))
    values = [json.loads(frame.data) for frame in frames]
    assert [value["type"] for value in values] == [frame.event.decode() for frame in frames]
    assert [value["sequence_number"] for value in values] == list(range(len(values)))
    return values


def types(values: list[dict[str, Any]]) -> list[str]:
    return [value["type"].removeprefix("response.") for value in values]


class TestAnswers:
    def test_a_refusal_is_a_part_of_its_own_kind(self) -> None:
        values = told(
            TextDelta(text="Hm"), TextDelta(text="I ca", refusal=True), TextDelta(text="n't", refusal=True), *done()
        )
        assert types(values) == [
            *("created", "in_progress", "output_item.added"),
            *("content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
            *("content_part.added", "refusal.delta", "refusal.delta", "refusal.done", "content_part.done"),
            *("output_item.done", "completed"),
        ]  # fmt: skip
        assert [value["content_index"] for value in values if "content_index" in value] == [0] * 4 + [1] * 5
        assert values[-1]["response"]["output"][0]["content"][1] == {"type": "refusal", "refusal": "I can't"}

    def test_a_signed_thought_and_one_that_only_the_provider_can_read(self) -> None:
        values = told(
            *(ReasoningDelta(text="Hm"), ReasoningEnded(signature="S"), ReasoningEnded(redacted="R")),
            *(TextDelta(text="a"), *done()),
        )
        signed, redacted, message = values[-1]["response"]["output"]
        summary = [{"type": "summary_text", "text": "Hm"}]
        assert signed == {"id": "rs_1_0", "type": "reasoning", "summary": summary, "encrypted_content": "S"}
        assert redacted == {"id": "rs_1_1", "type": "reasoning", "summary": [], "encrypted_content": "R"}
        assert message["id"] == "msg_1_2"
        assert [value["item"] for value in values if value["type"] == "response.output_item.done"][:2] == [
            signed,
            redacted,
        ]

    def test_sources_stand_behind_the_text_so_far(self) -> None:
        values = told(TextDelta(text="Hé😀"), Source(url="u", title="T"), TextDelta(text="!"), Source(url="v"), *done())
        cited = [
            {"type": "url_citation", "start_index": at, "end_index": at, "url": url, "title": title}
            for at, url, title in ((3, "u", "T"), (4, "v", ""))
        ]
        added = [value for value in values if value["type"] == "response.output_text.annotation.added"]
        assert [(value["annotation_index"], value["annotation"]) for value in added] == list(enumerate(cited))
        assert values[-1]["response"]["output"][0]["content"] == [
            {"type": "output_text", "text": "Hé😀!", "annotations": cited, "logprobs": []}
        ]

    def test_a_source_before_any_text_opens_the_text_without_a_delta(self) -> None:
        values = told(Source(url="u"), TextDelta(text="a"), *done())
        assert types(values)[2:6] == [
            "output_item.added", "content_part.added", "output_text.annotation.added", "output_text.delta"
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("reason", "status", "why", "item"),
        [
            ("stop", "completed", None, "completed"),
            ("tool_calls", "completed", None, "completed"),
            ("cancelled", "completed", None, "completed"),
            ("length", "incomplete", {"reason": "max_output_tokens"}, "incomplete"),
            ("content_filter", "incomplete", {"reason": "content_filter"}, "incomplete"),
        ],
    )
    def test_every_finish_reason_has_its_word(self, reason: Any, status: str, why: Any, item: str) -> None:
        last = told(TextDelta(text="a"), *done(reason))[-1]
        assert last["type"] == f"response.{status}"
        assert (last["response"]["status"], last["response"]["incomplete_details"]) == (status, why)
        assert last["response"]["output"][0]["status"] == item

    def test_usage_in_detail(self) -> None:
        assert told(*done())[-1]["response"]["usage"] == {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 16,
        }

    def test_one_identity_from_first_to_last(self) -> None:
        values = told(TextDelta(text="a"), *done())
        lives = [value["response"] for value in values if "response" in value]
        assert [(life["id"], life["created_at"], life["model"]) for life in lives] == [("resp_1", 1763720000, "m")] * 3
        assert [life["status"] for life in lives] == ["in_progress", "in_progress", "completed"]

    def test_a_response_says_what_it_was_asked(self) -> None:
        fields: dict[str, Any] = {
            "instructions": "Be brief.",
            "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "temperature": 0.5,
            "max_output_tokens": 99,
            "metadata": {"a": "b"},
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "text"}, "verbosity": "low"},
        }
        for value in told(TextDelta(text="a"), *done(), request=asked(**fields)):
            if "response" in value:
                assert {name: value["response"][name] for name in fields} == fields
        Response.model_validate(value["response"])

    def test_after_a_failure_nothing_follows(self) -> None:
        values = told(TextDelta(text="a"), Failed(error=ProviderOverloaded("busy")))
        assert types(values)[-2:] == ["output_text.delta", "error"]
        assert values[-1]["error"]["message"] == "busy"

    def test_the_models_of_the_sdk_take_it(self) -> None:
        frames = read_frames(written(NAME, ANSWER))
        ResponseCompletedEvent.model_validate_json(frames[-1].data)
        frames = read_frames(written(NAME, [*ANSWER[:-1], Finished(reason="length", usage=COUNTED)]))
        ResponseIncompleteEvent.model_validate_json(frames[-1].data)

    def test_whole_is_what_the_last_event_says(self) -> None:
        whole = FORMATS[NAME]().whole(asked(), folded(ANSWER))
        last = json.loads(read_frames(written(NAME, ANSWER))[-1].data)["response"]
        assert json.loads(json_bytes(whole)) == last
        Response.model_validate(last)
        assert [item["type"] for item in last["output"]] == [
            "reasoning", "message", "function_call", "function_call", "message"
        ]  # fmt: skip

    def test_nothing_said_is_an_empty_output(self) -> None:
        assert told(*done())[-1]["response"]["output"] == []

    def test_a_long_text_is_whole_at_its_end(self) -> None:
        pieces = [f"{at} " for at in range(1000)]
        last = told(*[TextDelta(text=piece) for piece in pieces], *done())[-1]
        assert last["response"]["output"][0]["content"][0]["text"] == "".join(pieces)


class TestWholeAsTheProviderSaysIt:
    def whole(self, body: bytes, size: int = 64) -> Any:
        reader = OpenAIResponsesReader(OURS, relay_end=True)
        answer, books = WholeAnswer(), Books(asked(), lambda: 0.0)
        frames = b""
        for at in range(0, len(body), size):
            answer.feed(books.feed(reader.feed(body[at : at + size])))
            frames += reader.frames or b""
        assert frames == body[body.rindex(b"event: ") :]
        answer.frames = frames
        return json.loads(json_bytes(FORMATS[NAME]().whole(asked(), answer)))

    @pytest.mark.parametrize("size", [1, 64, 10_000])
    def test_unknown_fields_and_items_included(self, size: int) -> None:
        custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "A", "name": "sql", "input": "select 1"}
        last = {"id": "c", "created_at": 9, "model": "m", "output": [custom], "x": 0.1, "usage": None}
        body = CREATED + item_done(0, custom) + event("response.completed", response=last, sequence_number=2)
        assert self.whole(body, size) == last

    def test_where_the_output_is_in_its_pieces_alone_it_is_put_together(self) -> None:
        whole = self.whole((RECORDED / NAME / "thinking_tools.sse").read_bytes())
        assert [item["type"] for item in whole["output"]] == ["reasoning", "function_call", "function_call"]
        assert whole["output"][0]["encrypted_content"] == "gAAAAAwhole"
        assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 128}
        Response.model_validate(whole)


@st.composite
def rich_answers(draw: st.DrawFn) -> list[Event]:
    """`answers` with refusals, sources, thoughts that are signed or redacted, and usage in detail."""
    events: list[Event] = []
    for said in draw(answers()):
        match said:
            case TextDelta(text=text):
                events.append(TextDelta(text=text, refusal=draw(st.booleans())))
                if draw(st.integers(0, 3)) == 0:
                    events.append(Source(url=draw(texts), title=draw(texts)))
            case ReasoningDelta():
                events.append(said)
                if draw(st.booleans()):
                    events.append(ReasoningEnded(signature=draw(texts)))
                    if draw(st.booleans()):
                        events.append(ReasoningEnded(redacted=draw(texts)))
            case ReasoningEnded():
                pass  # drawn here, behind the thoughts
            case Usage():
                counts = st.integers(0, 10**6)
                usage = Usage(
                    input_tokens=said.input_tokens,
                    output_tokens=said.output_tokens,
                    cached_tokens=draw(counts),
                    cache_write_tokens=draw(counts),
                    reasoning_tokens=draw(counts),
                )
                events.append(usage)
            case Finished(reason=reason):
                events.append(Finished(reason=reason, usage=usage))
            case _:
                events.append(said)
    return events


OF_TEXT = (TextDelta, ReasoningDelta, ReasoningEnded, Source)


@many
@given(rich_answers())
def test_everything_that_is_written_is_read_back(events: list[Event]) -> None:
    reader = OpenAIResponsesReader(OURS)
    read = reader.feed(written(NAME, events)) + reader.finish()
    said, again = ([event for event in side if isinstance(event, OF_TEXT)] for side in (events, read))
    assert again == said
    assert calls(folded(read)) == calls(folded(events))
    assert folded(read).usage == folded(events).usage


@many
@given(rich_answers())
def test_every_item_is_opened_and_closed_once_and_stands_in_the_end(events: list[Event]) -> None:
    opened: dict[int, str] = {}
    ended: dict[int, dict[str, Any]] = {}
    parts: set[tuple[str, int]] = set()
    for frame in read_frames(written(NAME, events)):
        value = json.loads(frame.data)
        kind = value["type"].removeprefix("response.")
        index = value.get("output_index")
        if kind == "output_item.added":
            assert index == len(opened)
            opened[index] = value["item"]["id"]
        elif kind == "output_item.done":
            assert value["item"]["id"] == opened[index]
            assert index not in ended
            assert not parts & {(opened[index], at) for at in range(99)}
            ended[index] = value["item"]
        elif index is not None:
            assert value["item_id"] == opened[index]
            assert index not in ended
            part = (value["item_id"], value.get("content_index", value.get("summary_index", 0)))
            if kind.endswith("_part.added"):
                assert part not in parts
                parts.add(part)
            elif not kind.startswith("function_call"):
                assert part in parts
            if kind.endswith("_part.done"):
                parts.remove(part)
    assert value["response"]["output"] == [ended[index] for index in range(len(opened))]


class TestGoingOn:
    """Somebody else goes on with an answer whose provider's own frames the client has got so far."""

    BODY = (RECORDED / NAME / "text.sse").read_bytes()
    MORE: list[Event] = [TextDelta(text=" Ade"), TextDelta(text="."), *done()]  # noqa: RUF012

    def went_on(self, kept: bytes, size: int, *then: Event) -> bytes:
        reader = OpenAIResponsesReader(OURS, relay=True)
        encoder = FORMATS[NAME]().encoder(asked(stream=True))
        body = b""
        for at in range(0, len(kept), size):
            events = reader.feed(kept[at : at + size])
            if events or reader.frames:
                body += encoder.relay(reader.frames or b"", events)
        return body + encoder.feed(list(then))

    @pytest.mark.parametrize("size", [1, 50, 10_000])
    def test_in_the_middle_of_a_text(self, size: int) -> None:
        kept = self.BODY[: self.BODY.index(b"event: response.output_text.done")]
        recovered = Recovered(from_="a", to="b", kept_chars=10, model="other", exact=True)
        body = self.went_on(kept, size, recovered, *self.MORE)
        values = [json.loads(frame.data) for frame in read_frames(body)]
        assert [value["sequence_number"] for value in values] == list(range(len(values)))
        deltas = [value for value in values if value["type"] == "response.output_text.delta"]
        assert {(value["item_id"], value["output_index"], value["content_index"]) for value in deltas} == {
            ("msg_R1", 0, 0)
        }
        assert types(values)[6:] == [
            "output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
            "completed",
        ]  # fmt: skip
        last = values[-1]["response"]
        assert (last["id"], last["model"], last["status"]) == ("resp_R1", "other", "completed")
        assert last["output"] == [
            {
                "id": "msg_R1",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "Grüezi 東京 👩‍💻 Ade.", "annotations": [], "logprobs": []}
                ],
            }
        ]
        Response.model_validate(last)

    @pytest.mark.parametrize("size", [1, 50, 10_000])
    def test_between_two_items(self, size: int) -> None:
        kept = self.BODY[: self.BODY.index(b"event: response.completed")]
        values = [json.loads(frame.data) for frame in read_frames(self.went_on(kept, size, *self.MORE))]
        assert [item["id"] for item in values[-1]["response"]["output"]] == ["msg_R1", "msg_R1_1"]
        assert [value["sequence_number"] for value in values] == list(range(len(values)))

    def test_in_the_middle_of_a_thought(self) -> None:
        whole = (RECORDED / NAME / "thinking_tools.sse").read_bytes()
        kept = whole[: whole.rindex(b"event: response.reasoning_summary_text.done")]
        body = self.went_on(kept, 70, ReasoningDelta(text=" Or"), *self.MORE)
        values = [json.loads(frame.data) for frame in read_frames(body)]
        thought, message = values[-1]["response"]["output"]
        assert thought["summary"] == [
            {"type": "summary_text", "text": "**Weather**"},
            {"type": "summary_text", "text": "A tool, then. Or"},
        ]
        assert message["content"][0]["text"] == " Ade."

    def test_a_failure_has_the_next_number(self) -> None:
        kept = self.BODY[: self.BODY.index(b"event: response.output_text.done")]
        reader = OpenAIResponsesReader(OURS, relay=True)
        encoder = FORMATS[NAME]().encoder(asked(stream=True))
        events = [*reader.feed(kept), Failed(error=ProviderOverloaded("busy"))]
        body = encoder.relay(reader.frames or b"", events)
        assert body.startswith(kept[kept.index(b"event: ") :])
        assert json.loads(read_frames(body)[-1].data)["sequence_number"] == 6


class TestWhatAProviderIsAsked:
    TARGET = Target("r", "gpt-5", Timeouts())

    def payload(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        provider = OpenAIResponses("r", ProviderSettings(kind="openai_responses", base_url="http://127.0.0.1:9/v1"), "")
        try:
            return provider.payload(parsed(name, body), self.TARGET)
        finally:
            provider.close()

    def test_the_clients_own_body_where_it_speaks_the_protocol(self) -> None:
        body = {"model": "x", "input": [{"type": "of_the_future", "a": None}], "store": True, "y": {"z": 1}}
        assert self.payload(NAME, body) == {**body, "model": "gpt-5", "stream": True}

    def test_the_least_of_another(self) -> None:
        assert self.payload("native", {"prompt": "Hi"}) == {
            "model": "gpt-5",
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            "store": False,
            "stream": True,
        }

    def request(self, **fields: Any) -> dict[str, Any]:
        provider = OpenAIResponses("r", ProviderSettings(kind="openai_responses", base_url="http://127.0.0.1:9/v1"), "")
        request = ChatRequest(**{"dialect": "native", "messages": HI, **fields})
        try:
            return provider.payload(request, self.TARGET)
        finally:
            provider.close()

    def test_everything_that_both_know(self) -> None:
        schema = {"type": "object"}
        conversation = (
            Message("user", (Text("See"), Image(url="u"), Image(media_type="image/png", data="iVBO"))),
            Message(
                "assistant",
                (Reasoning("Hm", "gAAAAS"), Reasoning(redacted="gAAAAR"), Reasoning("no seal"), Reasoning("other", "E"),
                 Text("a"), Text("b"), ToolCall("A", "f", "{}"), ToolCall("B", "f", "{}")),
            ),
            Message(
                "user",
                (ToolResult("A", (Text("4"), Text("2"))), ToolResult("B", (Text("x"), Image(url="u")), failed=True),
                 Text("Go on")),
            ),
        )  # fmt: skip
        body = self.request(
            messages=conversation,
            system="Be brief.",
            max_tokens=50,
            temperature=0.5,
            top_p=0.25,
            tools=(Tool("f", "F.", schema, True), Tool("g")),
            tool_choice=ToolChoice("tool", "f"),
            parallel_tool_calls=False,
            schema=Schema(schema, "sum", "S.", True),
            effort="high",
            user="u",
        )
        summary = [{"type": "summary_text", "text": "Hm"}]
        failed = {"type": "input_text", "text": "Error: "}
        far = {"type": "input_image", "image_url": "u", "detail": "auto"}
        near = {"type": "input_image", "image_url": "data:image/png;base64,iVBO", "detail": "auto"}
        assert body == {
            "model": "gpt-5",
            "stream": True,
            "instructions": "Be brief.",
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "See"}, far, near]},
                {"type": "reasoning", "summary": summary, "encrypted_content": "gAAAAS"},
                {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAR"},
                {"type": "message", "role": "assistant", "content": "ab"},
                {"type": "function_call", "call_id": "A", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "B", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "A", "output": "42"},
                {
                    "type": "function_call_output",
                    "call_id": "B",
                    "output": [failed, {"type": "input_text", "text": "x"}, far],
                },
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go on"}]},
            ],
            "max_output_tokens": 50,
            "temperature": 0.5,
            "top_p": 0.25,
            "tools": [
                {"type": "function", "name": "f", "parameters": schema, "strict": True, "description": "F."},
                # Strict is what this protocol takes for granted, and what nobody asked for.
                {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": False},
            ],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "text": {
                "format": {"type": "json_schema", "name": "sum", "schema": schema, "description": "S.", "strict": True}
            },
            "reasoning": {"effort": "high", "summary": "auto"},
            "user": "u",
            "store": False,
            "include": ["reasoning.encrypted_content"],
        }

    def test_thoughts_are_asked_for_only_where_there_are_some(self) -> None:
        """A model that does not think refuses to give them in their encrypted form."""
        assert "include" not in self.request()
        none = self.request(effort="none")
        assert none["reasoning"] == {"effort": "none"}
        assert "include" not in none
        thought = Message("assistant", (Reasoning(redacted="gAAAAR"),))
        assert self.request(messages=(*HI, thought))["include"] == ["reasoning.encrypted_content"]

    @pytest.mark.parametrize("choice", ["auto", "none", "required"])
    def test_tool_choices(self, choice: Any) -> None:
        assert self.request(tool_choice=ToolChoice(choice))["tool_choice"] == choice

    def test_it_is_read_back_as_it_was_asked(self) -> None:
        """What we send to a provider of this protocol says the same as what we were asked in it."""
        body = {
            "input": [{"role": "user", "content": "Hi"}, CALL, RESULT],
            "tools": [{"type": "function", "name": "f"}],
        }
        request = parsed(NAME, body)
        again = parsed(NAME, self.request(messages=request.messages, tools=request.tools))
        assert again.messages == request.messages
        assert again.foreign == ()

    @pytest.mark.parametrize(
        ("name", "fields", "param"),
        [
            ("native", {"stop": ["END"]}, "stop"),
            ("openai_chat", {"stop": "END"}, "stop"),
            ("anthropic_messages", {"stop_sequences": ["END"]}, "stop_sequences"),
            ("openai_chat", {"logit_bias": {"1": 2}}, "logit_bias"),
        ],
    )
    def test_what_has_no_place_is_refused_by_name(self, name: str, fields: dict[str, Any], param: str) -> None:
        with pytest.raises(InvalidRequest, match=f"^{param} can't be sent to 'r/gpt-5'") as refusal:
            self.payload(name, {"messages": [{"role": "user", "content": "Hi"}], **fields})
        assert refusal.value.param == param

    def test_no_model_goes_on_with_an_assistants_message(self) -> None:
        provider = OpenAIResponses("r", ProviderSettings(kind="openai_responses", base_url="http://127.0.0.1:9/v1"), "")
        assert provider.prefill("Once upon") == ""
        provider.close()
