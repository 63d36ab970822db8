"""A request of one protocol as another's body: conversation, images, tools and what they gave, thoughts, schemas."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from conftest import Service

from app.formats import FORMATS
from app.providers import anthropic_payload, openai_chat_payload
from app.request import ChatRequest, Message, Reasoning, Text
from app.testing import FakeProvider, answer

PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HI = [{"role": "user", "content": "Hi"}]

# The same conversation in both protocols.
CHAT_MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ],
    },
    {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city":"Zürich"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "A gate."},
    {"role": "tool", "tool_call_id": "call_2", "content": "Error: it stopped"},
    {"role": "user", "content": "And now?"},
]
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"city": "Zürich"}},
            {"type": "tool_use", "id": "call_2", "name": "clock", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": "A gate."},
            {"type": "tool_result", "tool_use_id": "call_2", "content": "it stopped", "is_error": True},
        ],
    },
    {"role": "user", "content": "And now?"},
]


def from_chat(**fields: Any) -> dict[str, Any]:
    """A chat request's body for the Messages protocol."""
    request = FORMATS["openai_chat"]().parse({"messages": HI, **fields}, {})
    assert request.foreign == ()
    return anthropic_payload.payload(request)


def from_messages(**fields: Any) -> dict[str, Any]:
    """A Messages request's body for the chat protocol."""
    request = FORMATS["anthropic_messages"]().parse({"messages": HI, "max_tokens": 9, **fields}, {})
    assert request.foreign == ()
    return openai_chat_payload.payload(request, "max_tokens")


def test_a_conversation_of_chat_for_messages() -> None:
    body = from_chat(messages=CHAT_MESSAGES)
    assert body["system"] == "Be brief."
    told = json.loads(json.dumps(MESSAGES))
    told[2]["content"][1] = {"type": "tool_result", "tool_use_id": "call_2", "content": "Error: it stopped"}
    assert body["messages"] == told


def test_a_conversation_of_messages_for_chat() -> None:
    body = from_messages(system=[{"type": "text", "text": "Be brief."}], messages=MESSAGES)
    assert body["messages"] == CHAT_MESSAGES


def test_an_image_that_a_tool_gave_follows_its_result() -> None:
    """A `tool` message of the chat protocol holds text only."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    result = {"type": "tool_result", "tool_use_id": "A", "content": [{"type": "text", "text": "Here:"}, image]}
    said = {"type": "text", "text": "What is it?"}
    assert from_messages(messages=[{"role": "user", "content": [result, said]}])["messages"] == [
        {"role": "tool", "tool_call_id": "A", "content": "Here:"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]


def test_what_a_model_breaks_a_line_with_before_it_calls_is_no_text() -> None:
    """Models that think aloud do; Anthropic: "text content blocks must contain non-whitespace text"."""
    call = CHAT_MESSAGES[2]["tool_calls"][0]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "A gate."}
    said = {"role": "assistant", "content": "\n\n", "tool_calls": [call]}
    assert [block["type"] for block in from_chat(messages=[*HI, said, result])["messages"][1]["content"]] == [
        "tool_use"
    ]


def test_thoughts_go_back_to_whom_they_came_from() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln"},
        {"type": "reasoning.encrypted", "data": "eHl6"},
        {"type": "reasoning.summary", "summary": "about it"},
    ]
    said = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm.", "reasoning_details": details}
    assert from_chat(messages=[*HI, said])["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eHl6"},
        {"type": "text", "text": "Hello"},
    ]


def test_thoughts_that_another_provider_has_sealed_stay_out() -> None:
    """As where a client, or a fallback, changes the model in the middle of a conversation."""
    for thought in (Reasoning("Hm.", signature="gAAAABo"), Reasoning(redacted="gAAAABo")):
        messages = (Message.of("user", "Hi"), Message("assistant", (thought, Text("Hello"))))
        request = ChatRequest(dialect="native", messages=messages)
        assert anthropic_payload.payload(request)["messages"][1]["content"] == [{"type": "text", "text": "Hello"}]


def test_nor_do_they_go_in_a_messages_clients_own_body() -> None:
    said = {"type": "text", "text": "Hello"}
    signed = {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCg"}
    sealed = [
        {"type": "thinking", "thinking": "Hm.", "signature": "gAAAABo"},
        {"type": "redacted_thinking", "data": "gAAAA"},
    ]
    asked = [*HI, {"role": "assistant", "content": [*sealed, signed, said]}]
    assert anthropic_payload.own(asked) == [*HI, {"role": "assistant", "content": [signed, said]}]
    assert anthropic_payload.own(HI)[0] is HI[0]


def test_thoughts_of_another_model_stay_out() -> None:
    unsigned = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm."}
    assert from_chat(messages=[*HI, unsigned])["messages"][1]["content"] == [{"type": "text", "text": "Hello"}]
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "text", "text": "Hello"}]
    body = from_messages(messages=[*HI, {"role": "assistant", "content": blocks}])
    assert body["messages"][1] == {"role": "assistant", "content": "Hello"}


CHAT_TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}
TOOL = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}


def test_tools() -> None:
    bare = {"type": "function", "function": {"name": "clock", "strict": True}}
    assert from_chat(tools=[CHAT_TOOL, bare])["tools"] == [
        TOOL,
        {"name": "clock", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert from_messages(tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}])["tools"] == [CHAT_TOOL]


@pytest.mark.parametrize(
    ("chat", "messages"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "tool", "name": "look"}),
    ],
)
def test_which_tool_is_to_be_called(chat: Any, messages: dict[str, Any]) -> None:
    assert from_chat(tools=[CHAT_TOOL], tool_choice=chat)["tool_choice"] == messages
    assert from_messages(tools=[TOOL], tool_choice=messages)["tool_choice"] == chat


def test_one_call_at_a_time() -> None:
    one = {"disable_parallel_tool_use": True}
    assert from_chat(tools=[CHAT_TOOL], parallel_tool_calls=False)["tool_choice"] == {"type": "auto", **one}
    chosen = from_chat(tools=[CHAT_TOOL], parallel_tool_calls=False, tool_choice="required")["tool_choice"]
    assert chosen == {"type": "any", **one}
    assert "tool_choice" not in from_chat(tools=[CHAT_TOOL], parallel_tool_calls=True)
    assert from_messages(tools=[TOOL], tool_choice={"type": "auto", **one})["parallel_tool_calls"] is False
    assert "tool_choice" not in from_chat(parallel_tool_calls=False)  # both providers refuse it without tools
    assert "parallel_tool_calls" not in from_messages(tool_choice={"type": "auto", **one})


def test_an_answer_of_a_schema() -> None:
    wanted = {"name": "place", "schema": SCHEMA, "strict": True}
    body = from_chat(response_format={"type": "json_schema", "json_schema": wanted})
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    asked = from_messages(output_config={"format": {"type": "json_schema", "schema": SCHEMA}})["response_format"]
    assert asked == {"type": "json_schema", "json_schema": {**wanted, "name": "answer"}}
    assert "output_config" not in from_chat(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("effort", "thinking", "config"),
    [
        ("none", {"type": "disabled"}, None),
        ("minimal", {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        ("high", {"type": "adaptive", "display": "summarized"}, {"effort": "high"}),
        (None, None, None),
    ],
)
def test_how_much_to_think(effort: str | None, thinking: Any, config: Any) -> None:
    body = from_chat(reasoning_effort=effort)
    assert (body.get("thinking"), body.get("output_config")) == (thinking, config)


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "xhigh"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_how_much_to_think_the_other_way(fields: dict[str, Any], effort: str | None) -> None:
    assert from_messages(**fields).get("reasoning_effort") == effort


def test_small_fields() -> None:
    body = from_chat(user="u1", stop=["END"], temperature=0.5, top_p=0.9)
    assert body["metadata"] == {"user_id": "u1"}
    assert (body["stop_sequences"], body["temperature"], body["top_p"]) == (["END"], 0.5, 0.9)
    assert body["max_tokens"] == 4096  # it is required there
    assert from_messages(metadata={"user_id": "u1"})["user"] == "u1"


def test_ids_and_arguments_that_the_other_protocol_refuses() -> None:
    """Its ids are letters, digits, _ and -; its arguments are objects."""
    call = {"id": "functions.look:0", "type": "function", "function": {"name": "look", "arguments": "not json"}}
    said = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.look:0", "content": [{"type": "text", "text": "?"}]},
    ]
    asked, called, result = from_chat(messages=said)["messages"]
    assert asked == HI[0]
    use = {"type": "tool_use", "id": "functions_look_0", "name": "look", "input": {"_invalid_json": "not json"}}
    assert called["content"] == [use]
    assert result["content"] == [{"type": "tool_result", "tool_use_id": "functions_look_0", "content": "?"}]


def test_a_body_goes_to_its_own_protocol_as_it_came(server: Service, fake_provider: FakeProvider) -> None:
    odd = {"tools": [{"type": "custom", "custom": {"name": "x"}}], "logit_bias": {"5": 1}, "made_up": [1, {"a": None}]}
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    client.chat.completions.create(model="openai/fake-n2", messages=CHAT_MESSAGES, extra_body=odd)  # type: ignore[arg-type]
    body = fake_provider.requests[-1].body
    assert {name: body[name] for name in odd} == odd
    assert body["messages"] == CHAT_MESSAGES


# The loop of an agent, by the official SDKs, with the other one's model.

LOOP = "fake-n5-tool2-once"


def test_openais_sdk_calls_tools_with_anthropics_model(server: Service, fake_provider: FakeProvider) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    asked: list[Any] = [{"role": "user", "content": "Where am I?"}]
    tools: Any = [CHAT_TOOL]
    with client.chat.completions.stream(model=f"anthropic/{LOOP}", messages=asked, tools=tools) as stream:
        said = stream.get_final_completion().choices[0].message
    assert said.tool_calls is not None
    assert [call.function.arguments for call in said.tool_calls] == [c.arguments for c in answer(LOOP).tool_calls]
    asked.append(said.model_dump(exclude_none=True))
    asked += [{"role": "tool", "tool_call_id": call.id, "content": "Zürich"} for call in said.tool_calls]
    with client.chat.completions.stream(model=f"anthropic/{LOOP}", messages=asked, tools=tools) as stream:
        end = stream.get_final_completion().choices[0]
    assert (end.finish_reason, bool(end.message.content)) == ("stop", True)
    body = fake_provider.requests[-1].body
    assert [block["type"] for block in body["messages"][1]["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["tool_use_id"] for block in body["messages"][2]["content"]] == [call.id for call in said.tool_calls]
    assert body["tools"] == [TOOL]


def test_anthropics_sdk_calls_tools_with_openais_model(server: Service, fake_provider: FakeProvider) -> None:
    client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
    asked: list[Any] = [{"role": "user", "content": "Where am I?"}]
    tools: Any = [TOOL]
    with client.messages.stream(model=f"openai/{LOOP}", max_tokens=99, messages=asked, tools=tools) as stream:
        said = stream.get_final_message()
    calls = [block for block in said.content if block.type == "tool_use"]
    assert [call.input for call in calls] == [json.loads(call.arguments) for call in answer(LOOP).tool_calls]
    assert said.stop_reason == "tool_use"
    asked.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in said.content]})
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "Zürich"} for call in calls]
    asked.append({"role": "user", "content": results})
    with client.messages.stream(model=f"openai/{LOOP}", max_tokens=99, messages=asked, tools=tools) as stream:
        end = stream.get_final_message()
    assert (end.stop_reason, end.content[0].type) == ("end_turn", "text")
    body = fake_provider.requests[-1].body
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in body["messages"][1]["tool_calls"]] == [call.id for call in calls]
    assert body["tools"] == [CHAT_TOOL]


def test_thoughts_come_back_signed_over_two_turns(server: Service, fake_provider: FakeProvider) -> None:
    """A chat client that sends a message back as it got it, with a model that signs its thoughts."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    model = "anthropic/fake-n3-think4"
    first = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    said = first.choices[0].message.model_dump(exclude_none=True)
    assert said["reasoning_content"] == answer("fake-n3-think4").reasoning
    asked: Any = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Go on"}]
    client.chat.completions.create(model=model, messages=asked)
    thought = fake_provider.requests[-1].body["messages"][1]["content"][0]
    assert (thought["type"], thought["thinking"]) == ("thinking", said["reasoning_content"])
    assert thought["signature"]
