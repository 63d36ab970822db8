"""What chat front ends send and are sent: the AI SDK's UI messages (`ai_sdk`), AG-UI's runs (`agui`).

A conversation comes back from such a client as it was shown: with calls and their outputs, thoughts and what signs
them, pictures, and parts that are for the eye only. How their streams look is in `recorded/written/`; here is what is
not in that answer. All of it was read by the real clients once (ai 7.0.173, @ag-ui/client 1.0.0)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from conftest import Service
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import near_misses
from test_formats import ANSWER, STARTED, many, parsed, read_frames, refused

from app.errors import InvalidRequest, ProviderOverloaded
from app.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnded,
    Recovered,
    Source,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.formats import FORMATS
from app.formats.ai_sdk import AISDK, MOST_BEFORE, AISDKReplay
from app.formats.base import json_bytes
from app.request import (
    ChatRequest,
    Image,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from app.testing import FakeProvider, answer
from app.testing.wires.anthropic import SIGNATURE

PNG = "iVBORw0KGgo="


def user(*parts: Any, **more: Any) -> dict[str, Any]:
    """A UI message of the user's."""
    return {
        "id": "u1",
        "role": "user",
        "parts": [text(each) if isinstance(each, str) else each for each in parts],
    } | more


def assistant(*parts: Any, id: str = "a1") -> dict[str, Any]:
    return {"id": id, "role": "assistant", "parts": [text(each) if isinstance(each, str) else each for each in parts]}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, "state": "done"}


def called(state: str, call_id: str = "A", type: str = "tool-clock", **more: Any) -> dict[str, Any]:
    return {"type": type, "toolCallId": call_id, "state": state, **more}


def conversation(*messages: Any) -> tuple[Message, ...]:
    return parsed("ai_sdk", {"id": "c", "messages": list(messages), "trigger": "submit-message"}).messages


STEP = {"type": "step-start"}
ASKED = Message.of("user", "Hi")
CLOCK = ToolCall("A", "clock", '{"zone":"UTC"}')


class TestUIMessages:
    def test_the_least(self) -> None:
        body = {"id": "c1", "messages": [user("Hi")], "trigger": "submit-message"}
        wanted = ChatRequest(dialect="native", body=body, messages=(ASKED,), resumable=True, chat="c1")
        assert parsed("ai_sdk", body) == wanted

    def test_resumable_is_what_has_an_id_to_ask_by_or_says_so(self) -> None:
        said = {"messages": [user("Hi")]}
        assert not parsed("ai_sdk", said).resumable
        assert parsed("ai_sdk", {**said, "resumable": True}).resumable
        assert not parsed("ai_sdk", {**said, "id": "c1", "resumable": False}).resumable
        assert not parsed("ai_sdk", {**said, "id": 7}).resumable

    @pytest.mark.parametrize(
        "body",
        [
            {"id": "c1", "message": user("Hi")},
            {"id": "c1", "message": "Hi"},
            {"prompt": "Hi"},
            {"messages": [{"role": "user", "content": "Hi"}]},
        ],
        ids=["last-only", "text", "useCompletion", "content"],
    )
    def test_other_ways_to_ask_the_same(self, body: dict[str, Any]) -> None:
        assert parsed("ai_sdk", body).messages == (ASKED,)

    def test_our_public_fields_stand_beside_the_sdks_own_and_the_apps(self) -> None:
        body = {
            "messages": [{"id": "s", "role": "system", "parts": [text("Be kind.")]}, user("Hi")],
            "model": "openai/gpt-5",
            "system": "Be brief.",
            "max_tokens": 5,
            "temperature": 0,
            "top_p": 1,
            "stop": "END",
            "tools": [{"name": "clock", "description": "The time", "parameters": {"type": "object"}}],
            "tool_choice": {"name": "clock"},
            "resumable": False,
            "shape": "token",
            "userId": 7,
            "metadata": {"plan": "pro"},
            "trigger": "regenerate-message",
            "messageId": "a9",
        }
        assert parsed("ai_sdk", body) == ChatRequest(
            dialect="native",
            body=body,
            messages=(ASKED,),
            system="Be brief.\n\nBe kind.",
            model="openai/gpt-5",
            max_tokens=5,
            temperature=0.0,
            top_p=1.0,
            stop=("END",),
            tools=(Tool("clock", "The time", {"type": "object"}),),
            tool_choice=ToolChoice("tool", "clock"),
        )

    def test_null_is_not_given(self) -> None:
        fields = ("model", "system", "max_tokens", "temperature", "top_p", "stop", "tools", "tool_choice", "resumable")
        body = {"messages": [user("Hi")], **dict.fromkeys((*fields, "message", "prompt", "shape", "response_format"))}
        assert parsed("ai_sdk", body) == ChatRequest(dialect="native", body=body, messages=(ASKED,))

    @pytest.mark.parametrize("word", ["auto", "none", "required"])
    def test_tool_choice(self, word: Any) -> None:
        assert parsed("ai_sdk", {"prompt": "Hi", "tool_choice": word}).tool_choice == ToolChoice(word)

    def test_tools_by_name_as_assistant_ui_sends_them(self) -> None:
        body = {"prompt": "Hi", "tools": {"clock": {"description": "The time", "parameters": {"type": "object"}}}}
        assert parsed("ai_sdk", body).tools == (Tool("clock", "The time", {"type": "object"}),)

    def test_tools_as_on_openais_wire(self) -> None:
        body = {"prompt": "Hi", "tools": [{"type": "function", "function": {"name": "clock", "strict": True}}]}
        assert parsed("ai_sdk", body).tools == (Tool("clock", strict=True),)

    def test_images(self) -> None:
        parts = (
            "What is",
            {"type": "file", "mediaType": "image/png", "filename": "a.png", "url": f"data:image/png;base64,{PNG}"},
            {"type": "file", "url": f"data:image/webp;charset=x;base64,{PNG}"},
            {"type": "file", "mediaType": "image/jpeg", "url": "https://example.com/a.jpg"},
        )
        assert conversation(user(*parts)) == (
            Message(
                "user",
                (
                    Text("What is"),
                    Image(media_type="image/png", data=PNG),
                    Image(media_type="image/webp", data=PNG),
                    Image(url="https://example.com/a.jpg"),
                ),
            ),
        )

    def test_thoughts_with_what_signs_them(self) -> None:
        thoughts = [
            {"type": "reasoning", "text": "Hm", "providerMetadata": {"anthropic": {"signature": "s1"}}},
            {"type": "reasoning", "text": "", "providerMetadata": {"anthropic": {"redactedData": "r1"}}},
            {"type": "reasoning", "text": "", "providerMetadata": {"other": {"signature": "s2"}}},
            {"type": "reasoning", "text": "unsigned", "providerMetadata": {"openai": {"itemId": "x"}}},
            {"type": "reasoning", "text": "", "state": "streaming"},
        ]
        said = conversation(user("Hi"), assistant(STEP, *thoughts, "Hello"), user("Hi"))
        assert said[1].parts == (
            Reasoning("Hm", signature="s1"),
            Reasoning(redacted="r1"),
            Reasoning(signature="s2"),
            Reasoning("unsigned"),
            Text("Hello"),
        )

    def test_parts_for_the_eye_are_passed_over(self) -> None:
        shown = [
            {"type": "data-weather", "id": "w", "data": {"a": 1}},
            {"type": "source-url", "sourceId": "s", "url": "https://x.example"},
            {"type": "source-document", "sourceId": "s", "mediaType": "text/plain", "title": "T"},
        ]
        said = conversation(user("Hi", *shown), assistant(STEP, *shown, "Hello", *shown), user("Hi"))
        assert said == (ASKED, Message.of("assistant", "Hello"), ASKED)

    def test_an_answer_that_said_nothing_is_no_message(self) -> None:
        empty = [assistant(), assistant(STEP), assistant(STEP, ""), assistant({"type": "reasoning", "text": "Hm"})]
        for message in empty:
            assert conversation(user("Hi"), message, user("Hi")) == (ASKED, ASKED)

    def test_a_call_and_its_output_are_two_messages_and_a_step_begins_the_next(self) -> None:
        turn = assistant(
            STEP,
            "Let me see.",
            called("output-available", input={"zone": "UTC"}, output={"time": "12:00"}),
            called("output-available", "B", "dynamic-tool", toolName="date", output="today"),
            STEP,
            "It is noon.",
        )
        assert conversation(user("Hi"), turn, user("Hi")) == (
            ASKED,
            Message("assistant", (Text("Let me see."), CLOCK, ToolCall("B", "date", "{}"))),
            Message("user", (ToolResult("A", (Text('{"time":"12:00"}'),)), ToolResult("B", (Text("today"),)))),
            Message.of("assistant", "It is noon."),
            ASKED,
        )

    @pytest.mark.parametrize(
        ("part", "call", "result"),
        [
            (called("output-available", input={"zone": "UTC"}), CLOCK, ToolResult("A", (Text("null"),))),
            (
                called("output-error", input={"zone": "UTC"}, errorText="no clock"),
                CLOCK,
                ToolResult("A", (Text("no clock"),), failed=True),
            ),
            # As the client keeps what we sent as `tool-input-error`: version 7, and those before.
            (
                called("output-error", input='{"zone":', errorText="no JSON"),
                ToolCall("A", "clock", '{"zone":'),
                ToolResult("A", (Text("no JSON"),), failed=True),
            ),
            (
                called("output-error", rawInput='{"zone":', errorText="no JSON"),
                ToolCall("A", "clock", '{"zone":'),
                ToolResult("A", (Text("no JSON"),), failed=True),
            ),
            (
                called("output-denied", input={"zone": "UTC"}, approval={"id": "p", "approved": False}),
                CLOCK,
                ToolResult("A", (Text("Tool call execution denied."),), failed=True),
            ),
            (
                called("approval-responded", input={"zone": "UTC"}, approval={"approved": False, "reason": "not now"}),
                CLOCK,
                ToolResult("A", (Text("not now"),), failed=True),
            ),
        ],
    )
    def test_what_became_of_a_call(self, part: dict[str, Any], call: ToolCall, result: ToolResult) -> None:
        assert conversation(user("Hi"), assistant(STEP, part)) == (
            ASKED,
            Message("assistant", (call,)),
            Message("user", (result,)),
        )

    def test_the_same_id_may_name_a_call_in_each_step(self) -> None:
        """Some providers name none, and count from 0 in every answer."""
        part = called("output-available", input={"zone": "UTC"}, output="12:00")
        said = conversation(user("Hi"), assistant(STEP, part, STEP, part))
        turn = (Message("assistant", (CLOCK,)), Message("user", (ToolResult("A", (Text("12:00"),)),)))
        assert said == (ASKED, *turn, *turn)

    def test_a_call_that_broke_off_never_was_one(self) -> None:
        broken = called("input-streaming", input={"zo": "U"})
        assert conversation(user("Hi"), assistant(STEP, "Let", broken), user("Hi"))[1] == Message.of("assistant", "Let")

    @pytest.mark.parametrize("state", ["input-available", "approval-requested", "approval-responded", None])
    def test_a_call_without_an_output_is_refused_by_name(self, state: Any) -> None:
        """No provider takes one."""
        part = called(state, input={}, approval={"id": "p", "approved": True})
        error = refused("ai_sdk", {"messages": [user("Hi"), assistant(STEP, "x", part), user("Hi")]})
        assert error.param == "messages[1].parts[2]"
        lacks = f"the tool call 'A' has no output (state {state!r})"
        assert error.message == f"{error.param}: {lacks}; add one with addToolOutput before you go on"

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "messages"),
            ({"messages": [user("Hi")], "prompt": "Hi"}, "prompt"),
            ({"messages": []}, "messages"),
            ({"messages": "Hi"}, "messages"),
            ({"messages": ["Hi"]}, "messages[0]"),
            ({"message": 5}, "message"),
            ({"message": ""}, "message"),
            ({"message": {"role": "user", "parts": [{"type": "text", "text": 5}]}}, "message.parts[0].text"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": ["Hi"]}, "prompt"),
            ({"messages": [{"parts": []}]}, "messages[0].role"),
            ({"messages": [{**user("Hi"), "id": ["x"]}]}, "messages[0].id"),
            ({"messages": [{"role": "robot", "parts": []}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].parts"),
            ({"messages": [{"role": "user", "parts": []}]}, "messages[0].parts"),
            ({"messages": [{"role": "user", "parts": [{"type": "data-x", "data": 1}]}]}, "messages[0].parts"),
            ({"messages": [{"role": "user", "parts": ["Hi"]}]}, "messages[0].parts[0]"),
            ({"messages": [{"role": "user", "parts": [{"text": "Hi"}]}]}, "messages[0].parts[0].type"),
            ({"messages": [{"role": "user", "parts": [{"type": "text"}]}]}, "messages[0].parts[0].text"),
            ({"messages": [user({"type": "audio"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file"})]}, "messages[0].parts[0].url"),
            ({"messages": [user({"type": "file", "url": "file:///etc/passwd"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": "blob:x"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": "data:image/png,raw"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": "data:image/png;base64,%%"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": "data:image/png;base64,"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": f"data:image/png;base64,{PNG}\n"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": f"data:;base64,{PNG}"})]}, "messages[0].parts[0]"),
            ({"messages": [user({"type": "file", "url": f"data:text/csv;base64,{PNG}"})]}, "messages[0].parts[0]"),
            (
                {"messages": [user({"type": "file", "url": "https://x.example/a", "mediaType": "application/pdf"})]},
                "messages[0].parts[0]",
            ),
            ({"messages": [user("Hi"), assistant({"type": "file", "url": "x"})]}, "messages[1].parts[0]"),
            ({"messages": [user("Hi"), assistant({"type": "custom", "kind": "a.b"})]}, "messages[1].parts[0]"),
            (
                {"messages": [assistant({"type": "tool-clock", "state": "output-available"})]},
                "messages[0].parts[0].toolCallId",
            ),
            (
                {"messages": [assistant(called("output-available", type="dynamic-tool"))]},
                "messages[0].parts[0].toolName",
            ),
            ({"messages": [assistant(called("output-available", call_id=5))]}, "messages[0].parts[0].toolCallId"),
            (
                {"messages": [assistant(called("output-available"), called("output-available"))]},
                "messages[0].parts[1]",
            ),
            ({"messages": [assistant("Hi"), {"role": "system", "parts": [text("x")]}]}, "messages[1]"),
            ({"messages": [{"role": "system", "parts": [text("x")]}]}, "messages"),
            ({"messages": [assistant(STEP)]}, "messages"),
            ({"prompt": "a", "model": ""}, "model"),
            ({"prompt": "a", "system": 5}, "system"),
            ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
            ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
            ({"prompt": "a", "temperature": 3}, "temperature"),
            ({"prompt": "a", "top_p": 0}, "top_p"),
            ({"prompt": "a", "stop": [5]}, "stop[0]"),
            ({"prompt": "a", "resumable": "no"}, "resumable"),
            ({"prompt": "a", "shape": "sentences"}, "shape"),
            ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format"),
            ({"prompt": "a", "tools": "clock"}, "tools"),
            ({"prompt": "a", "tools": [5]}, "tools[0]"),
            ({"prompt": "a", "tools": [{}]}, "tools[0].name"),
            ({"prompt": "a", "tools": [{"name": "x", "parameters": "y"}]}, "tools[0].parameters"),
            ({"prompt": "a", "tools": {"clock": 5}}, "tools.clock"),
            ({"prompt": "a", "tools": {"": {}}}, "tools..name"),
            ({"prompt": "a", "tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
            ({"prompt": "a", "tool_choice": "any"}, "tool_choice"),
            ({"prompt": "a", "tool_choice": {"name": 5}}, "tool_choice.name"),
        ],
    )  # fmt: skip
    def test_a_refusal_names_its_field(self, body: dict[str, Any], param: str) -> None:
        error = refused("ai_sdk", body)
        assert error.param == param
        assert param in error.message

    def test_a_media_type_that_cannot_be_sent_is_named(self) -> None:
        pdf = {"type": "file", "mediaType": "application/pdf", "url": f"data:application/pdf;base64,{PNG}"}
        assert "'application/pdf' can't be sent" in refused("ai_sdk", {"messages": [user(pdf)]}).message


def run(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"threadId": "t1", "runId": "r1", "messages": list(messages), **more}


AG_USER = {"id": "u1", "role": "user", "content": "Hi"}


def ag_called(*calls: tuple[str, str, str], content: str = "", **more: Any) -> dict[str, Any]:
    listed = [{"id": id, "type": "function", "function": {"name": n, "arguments": a}} for id, n, a in calls]
    return {"id": "a1", "role": "assistant", "content": content, "toolCalls": listed, **more}


def ag_image(**source: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image", "source": source}]}


def ag_result(call_id: str, content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"id": f"r-{call_id}", "role": "tool", "toolCallId": call_id, "content": content, **more}


class TestRuns:
    def test_the_least(self) -> None:
        body = run(AG_USER)
        assert parsed("agui", body) == ChatRequest(dialect="native", body=body, messages=(ASKED,))

    def test_as_http_agent_sends_it(self) -> None:
        body = run(
            {"id": "s1", "role": "system", "content": "Be brief."},
            {"id": "s2", "role": "developer", "content": "Be kind."},
            AG_USER,
            protocolVersion="1.0",
            state={"page": 3},
            tools=[{"name": "clock", "description": "The time", "parameters": {"type": "object"}}],
            context=[{"description": "The user's name", "value": "Ada"}, {"description": "Page", "value": "3"}],
            forwardedProps={"model": "openai/gpt-5", "max_tokens": 5, "stop": ["END"], "own": 1},
        )
        assert parsed("agui", body) == ChatRequest(
            dialect="native",
            body=body,
            messages=(ASKED,),
            system="Be brief.\n\nBe kind.\n\nThe user's name:\nAda\n\nPage:\n3",
            model="openai/gpt-5",
            max_tokens=5,
            stop=("END",),
            tools=(Tool("clock", "The time", {"type": "object"}),),
        )

    def test_content_in_parts(self) -> None:
        content = [
            {"type": "text", "text": "What is"},
            {"type": "image", "source": {"type": "data", "value": PNG, "mimeType": "image/png"}},
            {"type": "image", "source": {"type": "url", "value": "https://example.com/a.jpg"}},
            {"type": "binary", "mimeType": "image/gif", "data": PNG},
            {"type": "binary", "mimeType": "image/gif", "url": "https://example.com/a.gif"},
        ]
        assert parsed("agui", run({**AG_USER, "content": content})).messages[0].parts == (
            Text("What is"),
            Image(media_type="image/png", data=PNG),
            Image(url="https://example.com/a.jpg"),
            Image(media_type="image/gif", data=PNG),
            Image(url="https://example.com/a.gif"),
        )

    def test_calls_and_their_results(self) -> None:
        turn = ag_called(("A", "clock", '{"zone":"UTC"}'), ("B", "date", "{}"), content="Let me see.")
        image = [{"type": "image", "source": {"type": "data", "value": PNG, "mimeType": "image/png"}}]
        results = [ag_result("B", image), ag_result("A", "", error="no clock")]
        said = parsed(
            "agui", run(AG_USER, turn, *results, {"id": "a2", "role": "assistant", "content": "Noon."}, AG_USER)
        )
        assert said.messages == (
            ASKED,
            Message("assistant", (Text("Let me see."), CLOCK, ToolCall("B", "date", "{}"))),
            Message(
                "user",
                (
                    ToolResult("B", (Image(media_type="image/png", data=PNG),)),
                    ToolResult("A", (Text("no clock"),), failed=True),
                ),
            ),
            Message.of("assistant", "Noon."),
            ASKED,
        )

    def test_thoughts_that_are_signed_go_with_the_message_behind_them(self) -> None:
        thoughts = [
            {"id": "x1", "role": "reasoning", "content": "Hm", "encryptedValue": "s1"},
            {"id": "x2", "role": "reasoning", "content": "", "encryptedValue": "redacted:r1"},
            {"id": "x3", "role": "reasoning", "content": "unsigned"},
        ]
        said = parsed("agui", run(AG_USER, *thoughts, {"id": "a", "role": "assistant", "content": "Hello"}, AG_USER))
        signed = (Reasoning("Hm", signature="s1"), Reasoning(redacted="r1"))
        assert said.messages == (ASKED, Message("assistant", (*signed, Text("Hello"))), ASKED)
        assert parsed("agui", run(AG_USER, *thoughts, AG_USER)).messages == (ASKED, ASKED)

    def test_activities_and_empty_messages_are_passed_over(self) -> None:
        activity = {"id": "x", "role": "activity", "activityType": "plan", "content": {"steps": []}}
        said = parsed("agui", run(AG_USER, activity, {"id": "a", "role": "assistant"}, ag_called(), AG_USER))
        assert said.messages == (ASKED, ASKED)

    @pytest.mark.parametrize("arguments", ["", '{"zone":'])
    def test_a_call_that_broke_off_never_was_one(self, arguments: str) -> None:
        broken = ag_called(("A", "clock", arguments), content="Let")
        assert parsed("agui", run(AG_USER, broken, AG_USER)).messages[1] == Message.of("assistant", "Let")
        answered = parsed("agui", run(AG_USER, broken, ag_result("A"))).messages
        assert answered[1] == Message("assistant", (Text("Let"), ToolCall("A", "clock", arguments)))

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"threadId": None}, "threadId"),
            ({"threadId": 5}, "threadId"),
            ({"runId": None}, "runId"),
            ({"messages": None}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
            ({"messages": [{**AG_USER, "id": ["x"]}]}, "messages[0].id"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
            ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages[0].content[0]"),
            ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source.value"),
            ({"messages": [{"role": "user", "content": [{"type": "binary"}]}]}, "messages[0].content[0]"),
            (
                {"messages": [{"role": "user", "content": [{"type": "binary", "mimeType": "a/b", "data": PNG}]}]},
                "messages[0].content[0]",
            ),
            ({"messages": [ag_image(type="file", value="x")]}, "messages[0].content[0].source"),
            ({"messages": [ag_image(type="url", value="x")]}, "messages[0].content[0].source"),
            ({"messages": [ag_image(type="data", value=PNG)]}, "messages[0].content[0].source"),
            ({"messages": [AG_USER, {"role": "assistant", "content": {}}]}, "messages[1].content"),
            ({"messages": [AG_USER, {"role": "assistant", "content": 5}]}, "messages[1].content"),
            ({"messages": [{"role": "assistant", "toolCalls": [{"id": "A"}]}]}, "messages[0].toolCalls[0].function"),
            ({"messages": [AG_USER, {"role": "tool", "content": "ok"}]}, "messages[1].toolCallId"),
            ({"messages": [AG_USER, ag_result("A")]}, "messages[1]"),
            ({"messages": [AG_USER, ag_called(("A", "f", "{}"))]}, "messages[1]"),
            ({"messages": [AG_USER, ag_called(("A", "f", "{}")), AG_USER]}, "messages[1]"),
            ({"messages": [AG_USER, ag_called(("A", "f", "{}")), ag_result("A"), ag_result("A")]}, "messages[3]"),
            ({"messages": [AG_USER, {"role": "system", "content": "x"}]}, "messages[1]"),
            ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
            ({"tools": "clock"}, "tools"),
            ({"tools": [5]}, "tools[0]"),
            ({"tools": [{"description": "x"}]}, "tools[0].name"),
            ({"context": [{"description": "x"}]}, "context[0].value"),
            ({"context": {}}, "context"),
            ({"forwardedProps": 5}, "forwardedProps"),
            ({"forwardedProps": {"model": 5}}, "forwardedProps.model"),
            ({"forwardedProps": {"max_tokens": 0}}, "forwardedProps.max_tokens"),
            ({"forwardedProps": {"resumable": True}}, "forwardedProps.resumable"),
            ({"resume": [{"interruptId": "x", "status": "resolved"}]}, "resume"),
        ],
    )  # fmt: skip
    def test_a_refusal_names_its_field(self, change: dict[str, Any], param: str) -> None:
        body = {name: value for name, value in {**run(AG_USER), **change}.items() if value is not None}
        error = refused("agui", body)
        assert error.param == param
        assert param in error.message


RICH: dict[str, dict[str, Any]] = {
    "ai_sdk": {
        "id": "c1",
        "trigger": "submit-message",
        "messageId": "a1",
        "model": "openai/fake-n2",
        "tools": {"clock": {"description": "The time", "parameters": {"type": "object"}}},
        "messages": [
            user("Hi", {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{PNG}"}),
            assistant(
                STEP,
                {"type": "reasoning", "text": "Hm", "providerMetadata": {"anthropic": {"signature": "s1"}}},
                called("output-available", input={"zone": "UTC"}, output={"time": "12:00"}),
                called("output-error", "B", "dynamic-tool", toolName="date", input="{", errorText="no JSON"),
                called("output-denied", "C", approval={"id": "p", "approved": False, "reason": "no"}),
                STEP,
                "Noon.",
            ),
        ],
    },
    "agui": run(
        {"id": "s1", "role": "system", "content": "Be brief."},
        {**AG_USER, "content": [{"type": "text", "text": "Hi"}, *ag_image(type="url", value="https://x.y")["content"]]},
        {"id": "x1", "role": "reasoning", "content": "Hm", "encryptedValue": "s1"},
        ag_called(("A", "clock", "{}"), ("B", "date", "{}"), content="Let"),
        ag_result("A", [{"type": "binary", "mimeType": "image/png", "data": PNG}]),
        ag_result("B", "", error="no date"),
        AG_USER,
        tools=[{"name": "clock", "description": "The time", "parameters": {"type": "object"}}],
        context=[{"description": "Page", "value": "3"}],
        forwardedProps={"model": "openai/fake-n2", "stop": ["x"], "tool_choice": {"name": "clock"}},
    ),
}


@pytest.mark.parametrize("name", list(RICH))
@many
@given(data=st.data())
def test_any_conversation_is_read_or_refused(name: str, data: st.DataObject) -> None:
    assert parsed(name, RICH[name]).messages
    try:
        request = parsed(name, data.draw(near_misses(RICH[name])))
    except InvalidRequest:
        return
    assert FORMATS[name]().encoder(request).feed(ANSWER)
    if name == "ai_sdk":
        assert replayed(request, ANSWER)[-1]["type"] == "finish"


# What is written.


def parts(name: str, events: list[Event], body: dict[str, Any] | None = None) -> list[Any]:
    """The objects of a stream."""
    asked = parsed(name, body or (run(AG_USER) if name == "agui" else {"messages": [user("Hi")]}))
    data = FORMATS[name]().encoder(asked).feed(events)
    return [json.loads(frame.data) for frame in read_frames(data) if frame.data != b"[DONE]"]


def replayed(request: ChatRequest, events: list[Event]) -> list[Any]:
    """The objects of a stream as a client is given it that has nothing of it any more."""
    data = AISDKReplay().resumed(json.loads(json_bytes(AISDK().seed(request)))).feed(events)
    return [json.loads(frame.data) for frame in read_frames(data) if frame.data != b"[DONE]"]


def shown(stream: list[Any], output: Any = "ok") -> list[dict[str, Any]]:
    """The parts of the message that ai 7 makes of a stream, its calls answered by `output`."""
    kept: list[dict[str, Any]] = []
    for part in stream:
        kind = part["type"]
        if kind == "start-step":
            kept.append(STEP)
        elif kind in ("text-start", "reasoning-start"):
            kept.append({"type": kind.removesuffix("-start"), "text": ""})
        elif kind in ("text-delta", "reasoning-delta"):
            kept[-1]["text"] += part["delta"]
        elif kind == "reasoning-end" and "providerMetadata" in part:
            kept[-1]["providerMetadata"] = part["providerMetadata"]
        elif kind == "tool-input-available":
            named = {"type": f"tool-{part['toolName']}", "input": part["input"], "output": output}
            kept.append(called("output-available", part["toolCallId"], **named))
    return kept


def told(stream: list[Any]) -> list[dict[str, Any]]:
    """The messages that AG-UI's client makes of a run."""
    messages: dict[str, dict[str, Any]] = {}
    for event in stream:
        match event:
            case {"type": "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START", "messageId": named, "role": role}:
                messages.setdefault(named, {"id": named, "role": role, "content": ""})
            case {"type": "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT", "messageId": named, "delta": delta}:
                messages[named]["content"] += delta
            case {"type": "REASONING_ENCRYPTED_VALUE", "entityId": named, "encryptedValue": sealed}:
                messages[named]["encryptedValue"] = sealed
            case {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": name, "parentMessageId": named}:
                message = messages.setdefault(named, {"id": named, "role": "assistant", "content": ""})
                begun = {"id": call, "type": "function", "function": {"name": name, "arguments": ""}}
                message.setdefault("toolCalls", []).append(begun)
            case {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": delta}:
                calls = [each for message in messages.values() for each in message.get("toolCalls", ())]
                next(each for each in calls if each["id"] == call)["function"]["arguments"] += delta
            case _:
                pass
    return list(messages.values())


def of_call(arguments: str) -> list[Event]:
    return [
        STARTED,
        ToolCallStarted(call_id="A", name="f"),
        ToolCallDelta(call_id="A", arguments=arguments),
        ToolCallEnded(call_id="A", name="f", arguments=arguments),
    ]


class TestUIMessageStream:
    @pytest.mark.parametrize(
        ("reason", "told"),
        [("stop", "stop"), ("length", "length"), ("tool_calls", "tool-calls"), ("content_filter", "content-filter")],
    )
    def test_finish(self, reason: FinishReason, told: str) -> None:
        assert parts("ai_sdk", [STARTED, Finished(reason=reason)])[2:] == [
            {"type": "finish-step"},
            {"type": "finish", "finishReason": told, "messageMetadata": {"model": "m"}},
        ]

    def test_cancelled_is_abort(self) -> None:
        usage = Usage(input_tokens=3, output_tokens=2, source="estimated")
        counted = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5, "source": "estimated"}
        assert parts("ai_sdk", [STARTED, TextDelta(text="a"), usage, Finished(reason="cancelled", usage=usage)])[
            4:
        ] == [
            {"type": "text-end", "id": "text-1"},
            {"type": "finish-step"},
            {"type": "message-metadata", "messageMetadata": {"model": "m", "usage": counted}},
            {"type": "abort"},
        ]

    def test_usage_that_the_provider_broke_down(self) -> None:
        usage = Usage(input_tokens=9, output_tokens=7, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=3)
        assert parts("ai_sdk", [STARTED, usage, Finished(reason="stop", usage=usage)])[-1]["messageMetadata"][
            "usage"
        ] == {
            "inputTokens": 9,
            "outputTokens": 7,
            "totalTokens": 16,
            "cachedInputTokens": 4,
            "reasoningTokens": 3,
            "source": "provider",
        }

    def test_thoughts_that_are_signed_and_that_are_redacted(self) -> None:
        thoughts: list[Event] = [
            STARTED,
            ReasoningDelta(text="Hm"),
            ReasoningEnded(signature="s1"),
            ReasoningEnded(redacted="r1"),
            ReasoningDelta(text="So"),
            TextDelta(text="Hi"),
        ]
        assert parts("ai_sdk", thoughts)[2:-1] == [
            {"type": "reasoning-start", "id": "reasoning-1"},
            {"type": "reasoning-delta", "id": "reasoning-1", "delta": "Hm"},
            {"type": "reasoning-end", "id": "reasoning-1", "providerMetadata": {"anthropic": {"signature": "s1"}}},
            {"type": "reasoning-start", "id": "reasoning-2"},
            {"type": "reasoning-end", "id": "reasoning-2", "providerMetadata": {"anthropic": {"redactedData": "r1"}}},
            {"type": "reasoning-start", "id": "reasoning-3"},
            {"type": "reasoning-delta", "id": "reasoning-3", "delta": "So"},
            {"type": "reasoning-end", "id": "reasoning-3"},
            {"type": "text-start", "id": "text-4"},
        ]

    def test_sources_interrupt_no_text(self) -> None:
        events = [
            STARTED,
            TextDelta(text="a"),
            Source(url="https://x.y", title="T"),
            Source(url="u"),
            TextDelta(text="b"),
        ]
        assert parts("ai_sdk", events)[3:] == [
            {"type": "text-delta", "id": "text-1", "delta": "a"},
            {"type": "source-url", "sourceId": "a1-source-1", "url": "https://x.y", "title": "T"},
            {"type": "source-url", "sourceId": "a1-source-2", "url": "u"},
            {"type": "text-delta", "id": "text-1", "delta": "b"},
        ]

    @pytest.mark.parametrize("arguments", ['{"a": [1, 2.5]}', "[1]", "5", "null", r'{"a": "\"__proto__\":"}'])
    def test_arguments_come_as_their_value(self, arguments: str) -> None:
        assert parts("ai_sdk", of_call(arguments))[-1] == {
            "type": "tool-input-available",
            "toolCallId": "A",
            "toolName": "f",
            "input": json.loads(arguments),
        }

    @pytest.mark.parametrize(
        "arguments",
        [
            '{"a": ',
            '{"a": NaN}',
            r'{"a": "\ud800"}',
            # The client refuses these keys anywhere in a part, and ends the answer for it.
            '{"__proto__": 1}',
            r'{"a": [{"\u005f_proto__": {}}]}',
            '{"constructor": {"prototype": 1}}',
        ],
    )
    def test_arguments_that_the_client_cannot_read_are_shown_as_they_are(self, arguments: str) -> None:
        said = parts("ai_sdk", of_call(arguments))[-1]
        assert said.pop("errorText")
        assert said == {"type": "tool-input-error", "toolCallId": "A", "toolName": "f", "input": arguments}

    def test_the_answer_of_another_model_is_told_at_the_end(self) -> None:
        joined = Recovered(from_="a", to="b", kept_chars=1, model="m2", exact=True)
        events = [STARTED, TextDelta(text="a"), joined, TextDelta(text="b"), Finished(reason="stop")]
        said = parts("ai_sdk", events)
        assert [part["delta"] for part in said if part["type"] == "text-delta"] == ["a", "b"]
        assert said[-1]["messageMetadata"] == {"model": "m2"}

    @pytest.mark.parametrize(
        ("body", "message_id"),
        [
            ({"messages": [user("Hi")]}, "a1"),
            ({"messages": [user("Hi"), assistant("Hello", id="x7"), user("Hi")]}, "a1"),
            ({"messages": [user("Hi"), assistant(called("output-available"), id="x7")]}, "x7"),
            ({"message": assistant(called("output-available"), id="x7")}, "x7"),
            (
                {
                    "messages": [
                        user("Hi"),
                        assistant(called("output-available"), id="x7"),
                        user("Hi"),
                        assistant(id="x8"),
                    ],
                    "messageId": "x7",
                },
                "x7",
            ),
            # A message that is made again, or edited: it is not among those that are sent, or it is the user's.
            ({"messages": [user("Hi")], "messageId": "x7", "trigger": "regenerate-message"}, "a1"),
            ({"messages": [user("Hi")], "messageId": "u1"}, "a1"),
            ({"messages": [user("Hi")], "messageId": 5}, "a1"),
            ({"prompt": "Hi"}, "a1"),
        ],
    )
    def test_an_answer_that_goes_on_with_a_message_bears_its_id(self, body: dict[str, Any], message_id: str) -> None:
        """The client would show the message twice otherwise."""
        assert parts("ai_sdk", [STARTED], body)[0] == {"type": "start", "messageId": message_id}

    def test_parts_are_numbered_behind_those_the_message_has(self) -> None:
        """A client keeps the id of a thought."""
        shown = {"messages": [user("Hi"), assistant(STEP, called("output-available"), id="x7")]}
        assert parts("ai_sdk", [STARTED, ReasoningDelta(text="Hm")], shown)[2]["id"] == "reasoning-3"

    @pytest.mark.parametrize(
        ("part", "kinds"),
        [
            ({"type": "source-url", "sourceId": "s"}, []),
            ({"type": "source-url", "sourceId": "s", "url": "u", "title": None}, ["source-url"]),
            ({"type": "source-shop", "sourceId": "s", "url": "u"}, []),
            ({"type": "data-x", "id": "d"}, []),
            ({"type": "data-x", "id": 1, "data": {"constructor": {"prototype": 1}}}, []),
            (called("output-available", input={"__proto__": 1}, output=1), []),
            (called("output-available", input={}, output=[{"__proto__": 1}]), []),
            ({"type": "tool-clock", "state": "input-streaming"}, []),
            ({"type": "dynamic-tool", "toolCallId": "A", "state": "input-streaming"}, []),
            (
                called("output-error", rawInput="{", errorText="no JSON"),  # as versions 5 and 6 have it
                ["tool-input-start", "tool-input-error"],
            ),
        ],
    )
    def test_what_the_client_would_refuse_is_not_said_again(self, part: dict[str, Any], kinds: list[str]) -> None:
        request = parsed("ai_sdk", {"messages": [user("Hi"), assistant(part, "a", id="x7")]})
        told = replayed(request, [STARTED])
        assert [each["type"] for each in told] == [
            "start",
            *kinds,
            "text-start",
            "text-delta",
            "text-end",
            "start-step",
        ]
        assert None not in [each.get("title", "") for each in told]

    @pytest.mark.parametrize(("more", "again"), [(0, True), (1, False)])
    def test_a_message_that_is_too_large_is_not_kept(self, more: int, again: bool) -> None:
        about = len(json_bytes({"parts": [text("")]}))
        request = parsed("ai_sdk", {"messages": [assistant("a" * (MOST_BEFORE - about + more), id="x7")]})
        told = [part["type"] for part in replayed(request, [STARTED])]
        assert told == ["start", *(["text-start", "text-delta", "text-end"] if again else []), "start-step"]

    def test_what_was_written_comes_back_as_it_was_said(self) -> None:
        events: list[Event] = [
            STARTED,
            ReasoningDelta(text="Hm"),
            ReasoningEnded(signature="s1"),
            ReasoningEnded(redacted="r1"),
            TextDelta(text="Let me see."),
            *of_call('{"a": 1}')[1:],
            Finished(reason="tool_calls"),
        ]
        assert conversation(user("Hi"), assistant(*shown(parts("ai_sdk", events)))) == (
            ASKED,
            Message(
                "assistant",
                (
                    Reasoning("Hm", signature="s1"),
                    Reasoning(redacted="r1"),
                    Text("Let me see."),
                    ToolCall("A", "f", '{"a":1}'),
                ),
            ),
            Message("user", (ToolResult("A", (Text("ok"),)),)),
        )


RUN = {"threadId": "t1", "runId": "r1"}


class TestAGUIEvents:
    def test_cancelled_is_an_outcome(self) -> None:
        usage = Usage(input_tokens=9, output_tokens=7, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=3)
        assert parts("agui", [STARTED, usage, Finished(reason="cancelled", usage=usage)])[-1] == {
            "type": "RUN_FINISHED",
            **RUN,
            "result": {"finishReason": "cancelled"},
            "outcome": {"type": "cancelled"},
            "usage": [
                {
                    "provider": "p",
                    "model": "m",
                    "inputTokens": 9,
                    "outputTokens": 7,
                    "totalTokens": 16,
                    "reasoningTokens": 3,
                    "cachedInputTokens": 4,
                    "cacheWriteInputTokens": 2,
                }
            ],
        }

    def test_a_failure_before_anything_was_said_comes_behind_the_runs_start(self) -> None:
        assert parts("agui", [Failed(error=ProviderOverloaded("busy"))]) == [
            {"type": "RUN_STARTED", **RUN},
            {"type": "RUN_ERROR", "message": "busy", "code": "provider_overloaded"},
        ]

    def test_a_failure_ends_no_open_call(self) -> None:
        """Its end would say that the arguments are whole, and the client may act on them."""
        said = parts("agui", [*of_call('{"a":')[:-1], Failed(error=ProviderOverloaded("busy"))])
        assert [event["type"] for event in said] == ["RUN_STARTED", "TOOL_CALL_START", "TOOL_CALL_ARGS", "RUN_ERROR"]

    def test_thoughts_that_are_signed_and_that_are_redacted(self) -> None:
        thoughts: list[Event] = [
            STARTED,
            ReasoningDelta(text="Hm"),
            ReasoningEnded(signature="s1"),
            ReasoningEnded(redacted="r1"),
            TextDelta(text="Hi"),
        ]
        one, two = {"messageId": "a1-reasoning-1"}, {"messageId": "a1-reasoning-2"}
        sealed = {"type": "REASONING_ENCRYPTED_VALUE", "subtype": "message"}
        assert parts("agui", thoughts)[1:-2] == [
            {"type": "REASONING_START", **one},
            {"type": "REASONING_MESSAGE_START", **one, "role": "reasoning"},
            {"type": "REASONING_MESSAGE_CONTENT", **one, "delta": "Hm"},
            {"type": "REASONING_MESSAGE_END", **one},
            {**sealed, "entityId": "a1-reasoning-1", "encryptedValue": "s1"},
            {"type": "REASONING_END", **one},
            {"type": "REASONING_START", **two},
            {"type": "REASONING_MESSAGE_START", **two, "role": "reasoning"},
            {"type": "REASONING_MESSAGE_END", **two},
            {**sealed, "entityId": "a1-reasoning-2", "encryptedValue": "redacted:r1"},
            {"type": "REASONING_END", **two},
        ]

    def test_sources_have_no_name_here(self) -> None:
        assert parts("agui", [STARTED, Source(url="u")]) == parts("agui", [STARTED])

    def test_the_run_is_the_requests_own_and_the_model_the_one_that_answered(self) -> None:
        joined = Recovered(from_="a", to="b", kept_chars=1, model="m2", exact=True)
        usage = Usage(input_tokens=1, output_tokens=1)
        events: list[Event] = [STARTED, TextDelta(text="a"), joined, usage, Finished(reason="stop", usage=usage)]
        said = parts("agui", events, run(AG_USER, threadId='t "\u2028', runId=""))
        own = {"threadId": 't "\u2028', "runId": ""}
        assert said[0] == {"type": "RUN_STARTED", **own}
        assert said[-1]["usage"][0]["model"] == "m2"
        assert {name: said[-1][name] for name in own} == own


def test_an_id_that_the_conversation_has_already_gets_a_number() -> None:
    """The client would take a new message, or a new call, for the one it has. Some servers always give the same."""
    call = of_call("{}")[1:]
    shown = [user("Hi"), assistant(called("output-available"), id="a1"), user("Hi"), assistant(id="a1-2"), user("Hi")]
    said = parts("ai_sdk", [STARTED, Source(url="u"), *call], {"messages": shown})
    assert said[0]["messageId"] == "a1-3"
    assert said[2]["sourceId"] == "a1-3-source-1"
    assert [part["toolCallId"] for part in said[3:]] == ["A-2"] * 3

    told = run(AG_USER, ag_called(("A", "f", "{}")), ag_result("A"), AG_USER)
    events = parts("agui", [STARTED, ReasoningDelta(text="a"), TextDelta(text="b"), *call], told)
    ids = {event.get("messageId", event.get("parentMessageId")) for event in events[1:]}
    assert ids == {"a1-2-reasoning-1", "a1-2", None}
    assert {event["toolCallId"] for event in events if "toolCallId" in event} == {"A-2"}


def test_ids_are_those_of_the_answer() -> None:
    """No clock and no chance: a replay says the same."""
    other = Started(id="z9", model="m", provider="p", created=1)
    for name in ("ai_sdk", "agui"):
        events: list[Event] = [ReasoningDelta(text="a"), TextDelta(text="b"), Finished(reason="stop")]
        assert parts(name, [STARTED, *events]) == parts(name, [STARTED, *events])
        here, there = (json.dumps(parts(name, [start, *events])) for start in (STARTED, other))
        assert here.replace("a1", "z9") == there


# With a server, and a provider behind it.


def asked(server: Service, path: str, model: str) -> list[Any]:
    if path == "/agui":
        body = run(AG_USER, forwardedProps={"model": model})
    else:
        body = {"model": model, "messages": [user("Hi")]}
    response = requests.post(server.url + path, json=body, timeout=20)
    assert response.status_code == 200, response.text
    return [json.loads(frame.data) for frame in read_frames(response.content) if frame.data != b"[DONE]"]


PROVIDERS = pytest.mark.parametrize("provider", ["openai", "anthropic"])


@PROVIDERS
def test_thoughts_text_and_calls_as_ui_message_parts(server: Service, provider: str) -> None:
    model = "fake-n3-think4-tool2"
    said, told = asked(server, "/api/chat", f"{provider}/{model}"), answer(model)
    kinds = [part["type"] for part in said]
    assert "".join(part["delta"] for part in said if part["type"] == "reasoning-delta") == told.reasoning
    assert "".join(part["delta"] for part in said if part["type"] == "text-delta") == told.text
    assert kinds.index("reasoning-end") < kinds.index("text-start") < kinds.index("tool-input-start")
    inputs = {part["toolCallId"]: part["input"] for part in said if part["type"] == "tool-input-available"}
    assert inputs == {call.id: json.loads(call.arguments) for call in told.tool_calls}
    for call in told.tool_calls:
        fragments = [part for part in said if part["type"] == "tool-input-delta" and part["toolCallId"] == call.id]
        assert "".join(part["inputTextDelta"] for part in fragments) == call.arguments
    assert said[-1]["finishReason"] == "tool-calls"


@PROVIDERS
def test_thoughts_text_and_calls_as_agui_events(server: Service, provider: str) -> None:
    model = "fake-n3-think4-tool2"
    said, told = asked(server, "/agui", f"{provider}/{model}"), answer(model)

    def deltas(kind: str, **of: str) -> str:
        return "".join(each["delta"] for each in said if each["type"] == kind and of.items() <= each.items())

    assert deltas("REASONING_MESSAGE_CONTENT") == told.reasoning
    assert deltas("TEXT_MESSAGE_CONTENT") == told.text
    for call in told.tool_calls:
        assert deltas("TOOL_CALL_ARGS", toolCallId=call.id) == call.arguments
    message = next(each["messageId"] for each in said if each["type"] == "TEXT_MESSAGE_START")
    begun = [each for each in said if each["type"] == "TOOL_CALL_START"]
    assert begun == [
        {"type": "TOOL_CALL_START", "toolCallId": call.id, "toolCallName": call.name, "parentMessageId": message}
        for call in told.tool_calls
    ]
    assert (said[-1]["type"], said[-1]["result"]) == ("RUN_FINISHED", {"finishReason": "tool_calls"})


CLOCK_TOOL = {"name": "clock", "description": "The time", "parameters": {"type": "object"}}


@PROVIDERS
@pytest.mark.parametrize("path", ["/api/chat", "/agui"])
def test_a_turn_with_calls(server: Service, fake_provider: FakeProvider, path: str, provider: str) -> None:
    """A model calls two tools, the client runs them and sends all back, the model answers: what each was told."""
    model = "fake-n2-think2-tool2-once"
    first, second = answer(model, tools=["clock"]), answer(model, tools=["clock"], step=1)

    def post(*messages: Any) -> list[Any]:
        named = f"{provider}/{model}"
        if path == "/agui":
            body = run(AG_USER, *messages, tools=[CLOCK_TOOL], forwardedProps={"model": named, "max_tokens": 9000})
        else:
            body = {"model": named, "messages": [user("Hi"), *messages], "tools": [CLOCK_TOOL], "max_tokens": 9000}
        response = requests.post(server.url + path, json=body, timeout=20)
        assert response.status_code == 200, response.text
        return [json.loads(frame.data) for frame in read_frames(response.content) if frame.data != b"[DONE]"]

    said = post()
    if path == "/agui":
        again = post(*told(said), *(ag_result(call.id, "12:00") for call in first.tool_calls))
        (message,) = (each for each in told(again) if each["role"] == "assistant")
        assert message["content"] == second.text
        assert message["id"] != next(each["id"] for each in told(said) if each["role"] == "assistant")
    else:
        started = said[0]["messageId"]
        again = post(assistant(*shown(said, "12:00"), id=started))
        assert again[0]["messageId"] == started
        assert "".join(each["text"] for each in shown(again) if each["type"] == "text") == second.text

    begun, went_on = (request.body for request in fake_provider.requests)
    if provider == "openai":
        assert begun["tools"] == [{"type": "function", "function": CLOCK_TOOL}]
        calls = [
            {"id": call.id, "type": "function", "function": {"name": "clock", "arguments": call.arguments}}
            for call in first.tool_calls
        ]
        for call in (each["function"] for message in went_on["messages"] for each in message.get("tool_calls", ())):
            call["arguments"] = json.dumps(json.loads(call["arguments"]), ensure_ascii=False)
        assert went_on["messages"] == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": first.text, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": call.id, "content": "12:00"} for call in first.tool_calls),
        ]
    else:
        tool = {**CLOCK_TOOL, "input_schema": CLOCK_TOOL["parameters"]}
        assert begun["tools"] == [{name: value for name, value in tool.items() if name != "parameters"}]
        user_turn, assistant_turn, results = went_on["messages"]
        assert (user_turn["role"], assistant_turn["role"], results["role"]) == ("user", "assistant", "user")
        thought, text_block, *uses = assistant_turn["content"]
        assert thought == {"type": "thinking", "thinking": first.reasoning, "signature": SIGNATURE}
        assert text_block == {"type": "text", "text": first.text}
        assert uses == [
            {"type": "tool_use", "id": call.id, "name": "clock", "input": json.loads(call.arguments)}
            for call in first.tool_calls
        ]
        assert [each["tool_use_id"] for each in results["content"]] == [call.id for call in first.tool_calls]


@pytest.mark.parametrize("path", ["/api/chat", "/agui"])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("openai/fake-e429", 429, "provider_rate_limited"),
        ("anthropic/fake-e529", 503, "provider_overloaded"),
        ("openai/fake-e401", 502, "provider_auth"),
        ("opnai/x", 404, "not_found"),
    ],
)
def test_a_failure_before_the_first_byte_is_a_status(
    server: Service, path: str, model: str, status: int, code: str
) -> None:
    """In the native shape, which the client makes its error's message, or `payload`."""
    body = run(AG_USER, forwardedProps={"model": model}) if path == "/agui" else {"model": model, "prompt": "Hi"}
    response = requests.post(server.url + path, json=body, timeout=20)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
    assert response.json()["error"]["code"] == code
    assert ("Retry-After" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize(("path", "header"), [("/api/chat", "v1"), ("/agui", None), ("/v1/streams", None)])
def test_the_stream_says_what_it_is(server: Service, path: str, header: str | None) -> None:
    body = run(AG_USER, forwardedProps={"model": "openai/fake-n1"}) if path == "/agui" else {"prompt": "Hi"}
    response = requests.post(server.url + path, json={"model": "openai/fake-n1", **body}, timeout=20)
    assert response.status_code == 200
    assert response.headers.get("x-vercel-ai-ui-message-stream") == header
    assert response.headers["Cache-Control"] == "no-cache, no-transform"


@pytest.mark.parametrize("chat", ["c1", "a%2Fb%20c", "a/b", "%2Fa", "%0A", "%E6%9D%B1?x=1", "..."])
def test_there_is_nothing_to_resume_yet(server: Service, fake_provider: FakeProvider, chat: str) -> None:
    path, _, query = chat.partition("?")
    response = requests.get(f"{server.url}/api/chat/{path}/stream?{query}", timeout=20)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Cache-Control"] == "no-store"
    assert "Content-Type" not in response.headers
    assert fake_provider.requests == []
