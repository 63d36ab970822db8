"""openai-python: `create` and the `.stream()` helper, of chat completions and of responses."""

from __future__ import annotations

from functools import cache
from typing import Any

import openai
from driver import PROMPT, TIMEOUT_S, Job, Seen, main

MESSAGES: Any = [{"role": "user", "content": PROMPT}]
CHAT_USAGE = ("prompt_tokens", "completion_tokens")
USAGE = ("input_tokens", "output_tokens")


@cache
def client_for(url: str, key: str, retries: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, timeout=TIMEOUT_S)


def client(job: Job) -> openai.OpenAI:
    return client_for(job.url, job.key, job.retries)


def chat_asked(job: Job) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": job.model, "messages": MESSAGES}
    return asked | ({"tools": [{"type": "function", "function": tool} for tool in job.tools]} if job.tools else {})


def chat_message(choice: Any, seen: Seen) -> None:
    seen.says(choice.message.content or choice.message.refusal)
    seen.reasoning = getattr(choice.message, "reasoning_content", None) or ""
    for call in choice.message.tool_calls or []:
        seen.called(call.id, call.function.name, call.function.arguments)
    seen.finish = choice.finish_reason


def chat_create(job: Job, seen: Seen) -> None:
    if job.whole:
        completion = client(job).chat.completions.create(**chat_asked(job))
        chat_message(completion.choices[0], seen)
        seen.counted(completion.usage, CHAT_USAGE)
        return
    calls: dict[int, list[str]] = {}
    with client(job).chat.completions.create(
        **chat_asked(job), stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            seen.counted(chunk.usage, CHAT_USAGE)
            for choice in chunk.choices:
                seen.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                seen.finish = choice.finish_reason or seen.finish
                for part in choice.delta.tool_calls or []:
                    call = calls.setdefault(part.index, ["", "", ""])
                    said = (part.id, part.function.name, part.function.arguments)
                    calls[part.index] = [old + (new or "") for old, new in zip(call, said, strict=True)]
                if seen.says(choice.delta.content or choice.delta.refusal):
                    return
    for _, call in sorted(calls.items()):
        seen.called(*call)


def chat_stream(job: Job, seen: Seen) -> None:
    try:
        with client(job).chat.completions.stream(**chat_asked(job), stream_options={"include_usage": True}) as stream:
            for event in stream:
                if event.type in ("content.delta", "refusal.delta") and seen.says(event.delta):
                    return
                if event.type == "chunk":
                    for choice in event.chunk.choices:
                        seen.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            final = stream.get_final_completion()
    except openai.LengthFinishReasonError as exc:  # its way to say that
        final = exc.completion
    except openai.ContentFilterFinishReasonError:  # the same, without the rest
        seen.finish = "content_filter"
        return
    assert seen.text == (final.choices[0].message.content or final.choices[0].message.refusal or "")
    seen.text = ""
    reasoning = seen.reasoning
    chat_message(final.choices[0], seen)
    seen.reasoning = reasoning
    seen.counted(final.usage, CHAT_USAGE)


SAID = ("response.output_text.delta", "response.refusal.delta")


def responses_asked(job: Job) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": job.model, "input": PROMPT}
    tools = [{"type": "function", "strict": False, **tool} for tool in job.tools]
    return asked | ({"tools": tools} if tools else {})


def response(final: Any, seen: Seen) -> None:
    seen.text = final.output_text
    for item in final.output:
        if item.type == "message":
            seen.text += "".join(part.refusal for part in item.content if part.type == "refusal")
        if item.type == "function_call":
            seen.called(item.call_id, item.name, item.arguments)
        elif item.type == "reasoning":
            seen.reasoning = "".join(part.text for part in [*item.summary, *(item.content or [])])
    seen.finish = final.incomplete_details.reason if final.incomplete_details else final.status
    seen.counted(final.usage, USAGE)


def responses_create(job: Job, seen: Seen) -> None:
    if job.whole:
        response(client(job).responses.create(**responses_asked(job)), seen)
        return
    with client(job).responses.create(**responses_asked(job), stream=True) as stream:
        for event in stream:
            if event.type in SAID and seen.says(event.delta):
                return
            if event.type in ("response.completed", "response.incomplete", "response.failed"):
                said = seen.text
                response(event.response, seen)
                assert seen.text == said


def responses_stream(job: Job, seen: Seen) -> None:
    with client(job).responses.stream(**responses_asked(job)) as stream:
        for event in stream:
            if event.type in SAID and seen.says(event.delta):
                return
            if event.type == "response.incomplete":  # `get_final_response` knows only completed ones
                response(event.response, seen)
                return
        said = seen.text
        response(stream.get_final_response(), seen)
        assert seen.text == said


main(
    {
        "chat_create": chat_create,
        "chat_stream": chat_stream,
        "responses_create": responses_create,
        "responses_stream": responses_stream,
    }
)
