"""Runnables of an application's own, for `model_class`: what they do stands in the message they are asked with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableGenerator
from langchain_openai import ChatOpenAI

closed: list[str] = []  # the answers whose generator was closed in the middle


def _answer(asked: Iterator[Any]) -> Iterator[Any]:
    """By its words: `say X` a text, `wait 0.1`, `raise`, `forever`, `chunk X`, `dict X`, `odd`, `nothing`."""
    messages: list[BaseMessage] = next(iter(asked))
    words = str(messages[-1].content).split()
    try:
        while words:
            match words.pop(0):
                case "say":
                    yield words.pop(0) + " "
                case "chunk":
                    yield AIMessageChunk(words.pop(0) + " ")
                case "dict":
                    yield {"context": ["a document"]}
                    yield {"answer": words.pop(0) + " "}
                case "odd":
                    yield {"score": 1}
                case "system":
                    yield f"{messages[0].type}:{messages[0].content}"
                case "wait":
                    time.sleep(float(words.pop(0)))
                case "forever":
                    while True:
                        yield "more "
                case "raise":
                    raise LookupError("no row for key sk-made-up-key-000001 at http://10.0.0.7/internal")
    except GeneratorExit:
        closed.append("closed")
        raise


answer = RunnableGenerator(_answer)  # type: ignore[arg-type]


def prompted(model: str, base_url: str, api_key: str, tone: str = "plain") -> Runnable[Any, Any]:
    """A prompt, a model, and a parser: what most chains are."""
    prompt = ChatPromptTemplate([("system", f"Be {tone}."), MessagesPlaceholder("messages")])
    asked = ChatOpenAI(model=model, base_url=base_url, api_key=api_key, max_retries=0)  # type: ignore[arg-type]
    return {"messages": lambda messages: messages} | prompt | asked | StrOutputParser()


class Parrot(BaseChatModel):
    """A chat model without an argument, a tool or a finish reason."""

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        for word in str(messages[-1].content).split():
            yield ChatGenerationChunk(message=AIMessageChunk(word + " "))


parrot = Parrot()
number = 5


def needs_a_folder(folder: str) -> Runnable[Any, Any]:
    raise OSError(f"no such folder: {folder}")


def makes_a_number() -> int:
    return 5
