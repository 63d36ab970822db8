"""The table: what is asked of every client (`CASES`), who they are (`CLIENTS`), what each makes of it, and what it has
no notion of. A cell is a client, a case, and the provider whose model answers.

`test_conformance.py` runs the cells, `readme.py` writes the table into the README.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

# Each is asked in another protocol: chat completions, messages, responses.
PROVIDERS = ("openai", "anthropic", "responses")

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOLS = [
    {"name": "get_weather", "description": "The weather now", "parameters": WEATHER},
    {"name": "get_forecast", "description": "The weather to come", "parameters": WEATHER},
]
TOOL_NAMES = [str(tool["name"]) for tool in TOOLS]


class Told(NamedTuple):
    """An error of ours: its status (of the status line, or what it would have been), its code, and words of its
    message."""

    status: int
    code: str
    words: str


Kind = Literal["answer", "declined", "refused", "broken", "left"]


@dataclass(frozen=True)
class Case:
    """`parts` make the fake provider's model (see `app/testing/behaviour.py`): what it says, what goes wrong. `kind`:
    the answer comes whole and as it is; or is a refusal of the model's; or the request is refused, or its stream
    breaks after so many `tokens`, with the error `told`; or the client leaves.

    `hasty`: asked of a service whose status line waits for nothing, so that every failure comes after it.
    """

    name: str
    parts: str
    about: str
    kind: Kind = "answer"
    told: Told | None = None
    tokens: int = 0
    hasty: bool = False
    tools: bool = False
    whole: bool = False
    wrong_key: bool = False
    retries: int = 0

    @property
    def on_request(self) -> bool:
        """It asks the client for something, which one that can't do it can't be asked for."""
        return self.whole or self.retries > 0


OVERLOADED = Told(503, "provider_overloaded", "can't answer now")
RATE_LIMITED = Told(429, "provider_rate_limited", "is limiting our rate")
FILTERED = Told(400, "content_filtered", "filtered the content")
BROKEN_OFF = Told(502, "stream_broken", "broke before the answer was complete")
NOT_ACCEPTED = Told(401, "unauthorized", "this API key is not accepted")

CASES = {
    case.name: case
    for case in (
        Case("text", "n12", "an answer in pieces, and why it ended"),
        Case("Unicode", "n40-uni-split", "exactly the provider's text: é, emoji, CJK, U+2028, U+0085, newlines"),
        Case("tools", "tool2", "two parallel calls with their ids, names and arguments", tools=True),
        Case("reasoning", "n6-think4", "what the model thought, beside the text"),
        Case("usage", "n9", "the provider's numbers"),
        Case("length", "n8-len", "the client says that the answer was cut short"),
        Case("refusal", "n8-decline", "what a model says that refuses, and that it does", "declined"),
        Case("whole", "n12-uni", "an answer that is not streamed", whole=True),
        Case("silence", "n3-f1500-i1500", "heartbeats before and between tokens, and none of them shown", hasty=True),
        Case("leaving", "n1000-i20", "the client aborts, and upstream is closed", "left"),
        Case("401", "n1", "a wrong key", "refused", NOT_ACCEPTED, wrong_key=True),
        Case("429", "e429-ra3", "the provider's rate limit, with its `Retry-After`", "refused", RATE_LIMITED),
        Case("529", "e529", "the provider is overloaded", "refused", OVERLOADED),
        Case("retry", "n8-e429-ra1-times1", "the client tries again by itself, after `Retry-After`", retries=2),
        Case("filter", "filter", "the provider's content filter refuses", "refused", FILTERED),
        Case("late", "e529", "an error between the status line and the first token", "broken", OVERLOADED, hasty=True),
        Case("error", "n9-i1-err5", "the provider's error event in the middle of the text", "broken", OVERLOADED, 5),
        Case("cut", "n9-i1-cut5", "the provider's connection breaks in the middle", "broken", BROKEN_OFF, 5),
    )
}

Shown = Literal["class", "status", "code", "message", "retry_after"]


@dataclass(frozen=True)
class Errors:
    """What a client shows of errors. `refused`: the class of one before the status line, by its status; `broken` of one
    after it, `late` where that is another one before the first token. `shows_refused`, `shows_broken`: what else there
    is to see. `codes`: what the protocol calls our codes."""

    refused: Mapping[int, str]
    broken: str
    late: str = ""
    shows_refused: frozenset[Shown] = frozenset({"status", "code", "message", "retry_after"})
    shows_broken: frozenset[Shown] = frozenset({"code", "message"})
    codes: Mapping[str, str] = field(default_factory=dict)


class Door(NamedTuple):
    """A route as a client asks it. `finish`: its word for each reason; None: none. `takes_tools`: the client can offer
    its own; the fake provider calls one without, too."""

    route: str
    finish: Mapping[str, str] | None
    takes_tools: bool = False


@dataclass(frozen=True)
class Client:
    """`driver` is its program, `way` what that calls this use of it. `without`: cases that it has no notion of, and
    why; what it does show must be right there, too. `finish`: its own words, where they are not the door's."""

    name: str
    driver: str
    way: str
    door: Door
    errors: Errors
    without: Mapping[str, str] = field(default_factory=dict)
    finish: Mapping[str, str] | None = None

    @property
    def slug(self) -> str:
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.").replace("-.", ".")

    def word_for(self, reason: str) -> str | None:
        words = self.finish or self.door.finish
        return None if words is None else words[reason]


ANTHROPIC_CODES = {
    "unauthorized": "authentication_error",
    "provider_rate_limited": "rate_limit_error",
    "provider_overloaded": "overloaded_error",
    "content_filtered": "invalid_request_error",
    "stream_broken": "api_error",
}
MESSAGE: frozenset[Shown] = frozenset({"message"})
BY_STATUS = {400: "BadRequestError", 401: "AuthenticationError", 429: "RateLimitError", 503: "InternalServerError"}
OPENAI = Errors(BY_STATUS, "APIError")
ANTHROPIC = Errors({**BY_STATUS, 503: "ServiceUnavailableError"}, "APIError", codes=ANTHROPIC_CODES)
ANTHROPIC_PYTHON = Errors(ANTHROPIC.refused, "APIStatusError", codes=ANTHROPIC_CODES)
AI_SDK = Errors(
    dict.fromkeys(BY_STATUS, "APICallError"),
    "StreamProviderError",
    shows_refused=frozenset({"status", "message", "retry_after"}),
    shows_broken=MESSAGE,
)
# Through the two providers' own packages an error that comes first fails the call itself.
AI_SDK_OWN = replace(AI_SDK, late="APICallError")
USE_CHAT = Errors(AI_SDK.refused, "Error", shows_refused=MESSAGE, shows_broken=MESSAGE)
AG_UI = Errors(dict.fromkeys(BY_STATUS, "Error"), "RUN_ERROR", shows_refused=MESSAGE)
LANGCHAIN_OPENAI = Errors(
    {
        400: "OpenAIInvalidRequestError",
        401: "OpenAIAuthenticationError",
        429: "OpenAIRateLimitError",
        503: "OpenAIAPIError",
    },
    "APIError",
)
LANGCHAIN_ANTHROPIC = Errors(
    {
        400: "AnthropicInvalidRequestError",
        401: "AnthropicAuthenticationError",
        429: "AnthropicRateLimitError",
        503: "AnthropicAPIError",
    },
    "APIStatusError",
    codes=ANTHROPIC_CODES,
)
# The readers, which leave it to their user to look: `status` for a response that is no stream, `error` for our event.
READER = Errors(dict.fromkeys(BY_STATUS, "status"), "error")
EVENT_SOURCE = Errors(dict.fromkeys(BY_STATUS, "ErrorEvent"), "error", shows_refused=frozenset({"status"}))
CURL = Errors(dict.fromkeys(BY_STATUS, "exit 22"), "error", shows_refused=frozenset({"code"}))
CURL_PLAIN = Errors(CURL.refused, "last line", shows_refused=MESSAGE, shows_broken=MESSAGE)

AI_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool-calls", "content_filter": "content-filter"}

CHAT_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}
RESPONSES_FINISH = {
    "stop": "completed",
    "length": "max_output_tokens",
    "tool_calls": "completed",
    "content_filter": "content_filter",
}
MESSAGES_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

CHAT = Door("/v1/chat/completions", CHAT_FINISH, takes_tools=True)
RESPONSES = Door("/v1/responses", RESPONSES_FINISH, takes_tools=True)
MESSAGES = Door("/v1/messages", MESSAGES_FINISH, takes_tools=True)
UI = Door("/api/chat", AI_FINISH)
AGUI = Door("/agui", CHAT_FINISH, takes_tools=True)
STREAMS = Door("/v1/streams", CHAT_FINISH)
TEXT_SSE = Door("/chat", dict.fromkeys(CHAT_FINISH, "[DONE]"))
TOKEN_SSE = Door("/chat/stream", dict.fromkeys(CHAT_FINISH, "done"))
PLAIN = Door("/stream/<provider>", None)

NOT_WHOLE = {"whole": "only streams"}
NO_FIELD = {"reasoning": "reads nothing that OpenAI's own chat protocol does not have"}
NO_REFUSAL = {"refusal": "leaves out what OpenAI's protocols keep apart from the text"}
NO_RETRY = NOT_WHOLE | {"retry": "leaves that to its user"}
JUST_TEXT = dict.fromkeys(("tools", "reasoning", "usage", "length"), "the route gives text only")
ONLY_TEXT = NO_RETRY | JUST_TEXT

CLIENTS = {
    client.slug: client
    for client in (
        Client("openai-python `create`", "openai_sdk.py", "chat_create", CHAT, OPENAI),
        Client("openai-python `.stream()`", "openai_sdk.py", "chat_stream", CHAT, OPENAI, NOT_WHOLE),
        Client("openai-python `responses.create`", "openai_sdk.py", "responses_create", RESPONSES, OPENAI),
        Client("openai-python `responses.stream`", "openai_sdk.py", "responses_stream", RESPONSES, OPENAI, NOT_WHOLE),
        Client("openai-node `create`", "openai.mjs", "chat_create", CHAT, OPENAI),
        Client("openai-node `.stream()`", "openai.mjs", "chat_stream", CHAT, OPENAI, NOT_WHOLE),
        Client("openai-node `responses.create`", "openai.mjs", "responses_create", RESPONSES, OPENAI),
        Client("openai-node `responses.stream`", "openai.mjs", "responses_stream", RESPONSES, OPENAI, NOT_WHOLE),
        Client("anthropic-python `create`", "anthropic_sdk.py", "create", MESSAGES, ANTHROPIC_PYTHON),
        Client("anthropic-python `.stream()`", "anthropic_sdk.py", "stream", MESSAGES, ANTHROPIC_PYTHON, NOT_WHOLE),
        Client("@anthropic-ai/sdk `create`", "anthropic.mjs", "create", MESSAGES, ANTHROPIC),
        Client("@anthropic-ai/sdk `.stream()`", "anthropic.mjs", "stream", MESSAGES, ANTHROPIC, NOT_WHOLE),
        Client("@ai-sdk/openai `.chat`", "ai_sdk.mjs", "openai_chat", CHAT, AI_SDK_OWN, NO_FIELD, AI_FINISH),
        Client("@ai-sdk/openai `.responses`", "ai_sdk.mjs", "openai_responses", RESPONSES, AI_SDK_OWN, {}, AI_FINISH),
        Client("@ai-sdk/openai-compatible", "ai_sdk.mjs", "openai_compatible", CHAT, AI_SDK, {}, AI_FINISH),
        Client("@ai-sdk/anthropic", "ai_sdk.mjs", "anthropic", MESSAGES, AI_SDK_OWN, {}, AI_FINISH),
        Client("@ai-sdk/react `useChat`", "ai_sdk.mjs", "use_chat", UI, USE_CHAT, NO_RETRY),
        Client("langchain-openai", "langchain_chat.py", "chat", CHAT, LANGCHAIN_OPENAI, NO_FIELD | NO_REFUSAL),
        Client(
            "langchain-openai `use_responses_api`",
            "langchain_chat.py",
            "responses",
            RESPONSES,
            LANGCHAIN_OPENAI,
            NO_REFUSAL,
        ),
        Client("langchain-anthropic", "langchain_chat.py", "anthropic", MESSAGES, LANGCHAIN_ANTHROPIC),
        Client("llm", "llm_cli.py", "prompt", CHAT, OPENAI, NO_FIELD | NO_REFUSAL),
        Client("@ag-ui/client `HttpAgent`", "ag_ui.mjs", "run", AGUI, AG_UI, NO_RETRY),
        Client("eventsource", "event_source.mjs", "chat", TEXT_SSE, EVENT_SOURCE, ONLY_TEXT),
        Client("@microsoft/fetch-event-source", "fetch_event_source.mjs", "streams", STREAMS, READER, NO_RETRY),
        Client("httpx2 `EventSource`", "readers.py", "httpx2", STREAMS, READER, NO_RETRY),
        Client("sseclient-py", "readers.py", "sseclient", TEXT_SSE, READER, ONLY_TEXT),
        Client("requests", "readers.py", "requests", TOKEN_SSE, READER, ONLY_TEXT),
        Client("curl, text", "curl.py", "plain", PLAIN, CURL_PLAIN, NOT_WHOLE | JUST_TEXT),
        Client("curl, NDJSON", "curl.py", "ndjson", STREAMS, CURL),
    )
}


class Cell(NamedTuple):
    client: Client
    case: Case
    provider: str

    @property
    def id(self) -> str:
        return f"{self.client.slug}-{self.case.name}-{self.provider}"

    @property
    def offers_tools(self) -> bool:
        return self.case.tools and self.client.door.takes_tools


def cells() -> Iterator[Cell]:
    """Those that are run. A client without a notion of a case is asked all the same, where it can be: it must not
    stumble over what it does not know."""
    for client in CLIENTS.values():
        for case in CASES.values():
            for provider in PROVIDERS:
                if not (case.on_request and case.name in client.without):
                    yield Cell(client, case, provider)
