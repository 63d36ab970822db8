"""A provider's stream merged into the whole answer that its own protocol has: nothing that only that protocol knows is
lost, and what is only handed on keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
from conftest import Service
from test_transport import CHUNKED, Server, answering, serve

from app.formats.base import json_bytes
from app.formats.merged import merged_chat, merged_message
from app.testing import answer

__all__ = ["serve"]  # a fixture


def frames(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunk(delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **choice}]}


def merged(*chunks: Any) -> Any:
    return json.loads(json_bytes(merged_chat(frames(*chunks))))


def test_text_and_the_fields_around_it() -> None:
    assert merged(
        {**chunk({"role": "assistant", "content": ""}), "system_fingerprint": None, "model": "m"},
        {**chunk({"content": "Hel"}), "system_fingerprint": "fp_1", "made_up": {"a": [1]}},
        chunk({"content": "lo"}, content_filter_results={"hate": "safe"}),
        chunk({}, finish_reason="stop", stop_reason=5),
        {"id": "c1", "choices": [], "usage": {"prompt_tokens": 1, "audio": 0}, "service_tier": "flex"},
    ) == {
        "object": "chat.completion",
        "id": "c1",
        "model": "m",
        "system_fingerprint": "fp_1",
        "made_up": {"a": [1]},
        "usage": {"prompt_tokens": 1, "audio": 0},
        "service_tier": "flex",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "content_filter_results": {"hate": "safe"},
                "stop_reason": 5,
            }
        ],
    }


def test_logprobs_keep_their_bytes() -> None:
    """As text: 1e-05 and -0.00 are other bytes after a decoder and an encoder."""
    items = [b'{"token":"a","logprob":-1e-05,"top_logprobs":[]}', b'{"token":"b","logprob":-0.00,"bytes":[98]}']
    body = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[%b],"refusal":null}}]}\n\n' % item
        for item in items
    )
    said = json_bytes(merged_chat(body))
    assert b'"logprobs":{"content":[%b],"refusal":null}' % b",".join(items) in said


def test_parallel_calls_in_pieces() -> None:
    first = {"index": 0, "id": "A", "type": "function", "function": {"name": "f", "arguments": ""}}
    second = {"index": 1, "id": "B", "type": "function", "function": {"name": "g", "arguments": '{"b"'}, "extra": "x"}
    message = merged(
        chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
        chunk({"tool_calls": [second]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": ":1}"}}]}),
        chunk({}, finish_reason="tool_calls"),
    )["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "A", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "B", "type": "function", "function": {"name": "g", "arguments": '{"b":1}'}, "extra": "x"},
        ],
    }


def test_what_a_delta_may_hold_beside() -> None:
    message = merged(
        chunk({"refusal": "I "}),
        chunk({"refusal": "can't."}),
        chunk({"annotations": [{"type": "url_citation"}]}),
        chunk({"annotations": [{"type": "file"}], "audio": {"id": "a1"}}),
        chunk({"audio": {"data": "AA"}}),
        chunk({"audio": {"data": "BB"}}),
    )["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": "I can't.",
        "annotations": [{"type": "url_citation"}, {"type": "file"}],
        "audio": {"id": "a1", "data": "AABB"},
    }


def test_an_answer_without_a_word_has_an_empty_text() -> None:
    assert merged(chunk({}, finish_reason="stop"))["choices"][0]["message"]["content"] == ""


def events(*datas: dict[str, Any]) -> bytes:
    return b"".join(b"event: " + data["type"].encode() + b"\n" + frames(data) for data in datas)


def test_a_message_of_anthropics() -> None:
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "container": {"id": "x"}}
    used = {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": 3}
    delta = "content_block_delta"
    cited = {"type": "char_location", "cited_text": "x"}
    body = events(
        {"type": "message_start", "message": {**start, "usage": used}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "H"}},
        {"type": delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "m"}},
        {"type": delta, "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "I", "citations": None}},
        {"type": delta, "index": 1, "delta": {"type": "text_delta", "text": " see"}},
        {"type": delta, "index": 1, "delta": {"type": "citations_delta", "citation": cited}},
        {"type": delta, "index": 1, "delta": {"type": "delta_of_the_future"}},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "server_tool_use", "input": {}}},
        {"type": delta, "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"q"'}},
        {"type": delta, "index": 2, "delta": {"type": "input_json_delta", "partial_json": ":1}"}},
        {"type": "content_block_start", "index": 3, "content_block": {"type": "odd_result", "content": [{"url": "u"}]}},
        {"type": "event_of_the_future"},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 9, "server_tool_use": {"web_search_requests": 1}, "input_tokens": None},
        },
        {"type": "message_stop"},
    )
    assert json.loads(json_bytes(merged_message(body))) == {
        **start,
        "usage": {**used, "output_tokens": 9, "server_tool_use": {"web_search_requests": 1}},
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
            {"type": "text", "text": "I see", "citations": [cited]},
            {"type": "server_tool_use", "input": {"q": 1}},
            {"type": "odd_result", "content": [{"url": "u"}]},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }


def test_through_the_service(serve: Any, start_service: Any) -> None:
    """What a client of the same protocol gets without streaming has all that the stream had."""
    item = b'{"token":"Hello","logprob":-1e-05}'
    body = (
        b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"fp",'
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"logprobs":{"content":[%b]}}]}\n\n'
        b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"made_up":2}}\n\n'
        b"data: [DONE]\n\n"
    ) % item
    upstream: Server = serve(answering(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)))
    env = {"OPENAI_BASE_URL": f"{upstream.url}v1", "OPENAI_API_KEY": "sk-test-0123456789"}
    service: Service = start_service(env)
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="k", max_retries=0)
    asked: Any = [{"role": "user", "content": "Hi"}]
    raw = client.chat.completions.with_raw_response.create(model="openai/m", messages=asked)
    assert b'"logprobs":{"content":[%b]}' % item in raw.content
    said = raw.parse()
    assert (said.choices[0].message.content, said.system_fingerprint) == ("Hello", "fp")
    assert said.usage is not None
    assert said.usage.model_extra == {"made_up": 2}
    service.stop()


@pytest.mark.parametrize("model", ["fake-n5-uni", "fake-n3-think4", "fake-n2-tool2", "fake-n4-len"])
def test_the_sdks_read_it(server: Service, model: str) -> None:
    told = answer(model)
    chat = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    asked: Any = [{"role": "user", "content": "Hi"}]
    choice = chat.chat.completions.create(model=f"openai/{model}", messages=asked).choices[0]
    assert (choice.message.content or "") == told.text
    assert [call.function.arguments for call in choice.message.tool_calls or ()] == [  # type: ignore[union-attr]
        call.arguments for call in told.tool_calls
    ]
    messages = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
    message = messages.messages.create(model=f"anthropic/{model}", max_tokens=99, messages=asked)
    assert "".join(block.text for block in message.content if block.type == "text") == told.text
    thoughts = [block for block in message.content if block.type == "thinking"]
    assert "".join(block.thinking for block in thoughts) == told.reasoning
    assert all(block.signature for block in thoughts)
    calls = [block.input for block in message.content if block.type == "tool_use"]
    assert calls == [json.loads(call.arguments) for call in told.tool_calls]
    assert message.usage.output_tokens == told.output_tokens
