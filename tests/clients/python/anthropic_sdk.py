"""anthropic-python: `create` and the `.stream()` helper."""

from __future__ import annotations

from functools import cache
from typing import Any

import anthropic
from driver import MAX_TOKENS, PROMPT, TIMEOUT_S, Job, Seen, main

USAGE = ("input_tokens", "output_tokens")


@cache
def client_for(url: str, key: str, retries: int) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=retries, timeout=TIMEOUT_S)


def client(job: Job) -> anthropic.Anthropic:
    return client_for(job.url, job.key, job.retries)


def asked(job: Job) -> dict[str, Any]:
    tools = [
        {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
        for tool in job.tools
    ]
    body: dict[str, Any] = {
        "model": job.model,
        "max_tokens": MAX_TOKENS,
        "messages": [{"role": "user", "content": PROMPT}],
    }
    return body | ({"tools": tools} if tools else {})


def message(final: Any, seen: Seen) -> None:
    seen.text = "".join(block.text for block in final.content if block.type == "text")
    seen.reasoning = "".join(block.thinking for block in final.content if block.type == "thinking")
    for block in final.content:
        if block.type == "tool_use":
            seen.called(block.id, block.name, block.input)
    seen.finish = final.stop_reason
    seen.counted(final.usage, USAGE)


def create(job: Job, seen: Seen) -> None:
    if job.whole:
        message(client(job).messages.create(**asked(job)), seen)
        return
    calls: dict[int, list[str]] = {}
    input_tokens = 0
    with client(job).messages.create(**asked(job), stream=True) as stream:
        for event in stream:
            match event.type:
                case "message_start":
                    input_tokens = event.message.usage.input_tokens
                case "content_block_start" if event.content_block.type == "tool_use":
                    calls[event.index] = [event.content_block.id, event.content_block.name, ""]
                case "content_block_delta" if event.delta.type == "text_delta":
                    if seen.says(event.delta.text):
                        return
                case "content_block_delta" if event.delta.type == "thinking_delta":
                    seen.reasoning += event.delta.thinking
                case "content_block_delta" if event.delta.type == "input_json_delta":
                    calls[event.index][2] += event.delta.partial_json
                case "message_delta":
                    seen.finish = event.delta.stop_reason
                    seen.usage = (event.usage.input_tokens or input_tokens, event.usage.output_tokens)
    for call in calls.values():
        seen.called(*call)


def stream(job: Job, seen: Seen) -> None:
    with client(job).messages.stream(**asked(job)) as stream:
        for text in stream.text_stream:
            if seen.says(text):
                return
        said = seen.text
        message(stream.get_final_message(), seen)
        assert seen.text == said


main({"create": create, "stream": stream})
