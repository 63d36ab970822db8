"""LangChain's chat models of OpenAI (chat completions, responses) and of Anthropic: `stream` and `invoke`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from driver import MAX_TOKENS, PROMPT, TIMEOUT_S, Job, Seen, main
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI

FINISH = ("finish_reason", "stop_reason", "status")  # what each calls it


def openai(job: Job, *, responses: bool) -> BaseChatModel:
    return ChatOpenAI(
        model=job.model,
        base_url=f"{job.url}/v1",
        api_key=job.key,
        max_retries=job.retries,
        timeout=TIMEOUT_S,
        stream_usage=True,
        use_responses_api=responses,
    )


def anthropic(job: Job) -> BaseChatModel:
    return ChatAnthropic(
        model=job.model,
        base_url=job.url,
        api_key=job.key,
        max_retries=job.retries,
        timeout=TIMEOUT_S,
        max_tokens=MAX_TOKENS,
    )


def ask(model: BaseChatModel, job: Job, seen: Seen) -> None:
    bound: Any = model
    if job.tools:
        bound = model.bind_tools([{"type": "function", "function": tool} for tool in job.tools])
    if job.whole:
        message(bound.invoke(PROMPT), seen)
        return
    whole = None
    with closing(bound.stream(PROMPT)) as chunks:
        for chunk in chunks:
            whole = chunk if whole is None else whole + chunk
            if seen.says(chunk.text):
                return
    said = seen.text
    message(whole, seen)
    assert seen.text == said


def message(answer: Any, seen: Seen) -> None:
    seen.text = answer.text
    for block in answer.content_blocks:
        if block["type"] == "reasoning":
            seen.reasoning += block.get("reasoning", "")
    for call in answer.tool_calls:
        seen.called(call["id"], call["name"], call["args"])
    said = answer.response_metadata
    details = said.get("incomplete_details") or {}
    seen.finish = details.get("reason") or next((said[name] for name in FINISH if said.get(name)), None)
    seen.counted(answer.usage_metadata, ("input_tokens", "output_tokens"))


main(
    {
        "chat": lambda job, seen: ask(openai(job, responses=False), job, seen),
        "responses": lambda job, seen: ask(openai(job, responses=True), job, seen),
        "anthropic": lambda job, seen: ask(anthropic(job), job, seen),
    }
)
