"""The official Python clients, unmodified, against the real service: what they show is what the provider said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from conftest import Service, silences_end
from test_failures import ANTHROPIC_TYPES

from app.testing import FakeProvider, answer, text_after

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]

# Every model of one provider through both protocols: same-protocol and across.
PROVIDERS = ["openai", "anthropic"]
CONTENTS = ["fake-n12", "fake-n40-uni-split", "fake-n8-comments-crlf", "fake-n8-drip-uni", "fake-n8-len", "fake-big200"]


@pytest.fixture
def gpt(server: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("model", CONTENTS)
def test_openai_stream(gpt: openai.OpenAI, provider: str, model: str) -> None:
    want = answer(model)
    with gpt.chat.completions.create(
        model=f"{provider}/{model}", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == want.text
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == [
        want.finish_reason
    ]
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (want.input_tokens, want.output_tokens)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {model}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_openai_stream_helper(gpt: openai.OpenAI, provider: str) -> None:
    """The strictest reader of the protocol: it raises where object, index or role are missing."""
    with gpt.chat.completions.stream(model=f"{provider}/fake-n12-uni", messages=MESSAGES) as stream:
        final = stream.until_done().get_final_completion()
    assert final.choices[0].message.content == answer("fake-n12-uni").text
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_openai_tool_calls(gpt: openai.OpenAI, provider: str) -> None:
    want = answer("fake-tool2")
    with gpt.chat.completions.stream(model=f"{provider}/fake-tool2", messages=MESSAGES) as stream:
        choice = stream.until_done().get_final_completion().choices[0]
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or []] == [
        (call.id, call.name, call.arguments) for call in want.tool_calls
    ]
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_openai_reasoning(gpt: openai.OpenAI, provider: str) -> None:
    with gpt.chat.completions.create(model=f"{provider}/fake-n4-think6", messages=MESSAGES, stream=True) as stream:
        deltas = [choice.delta for chunk in stream for choice in chunk.choices]
    want = answer("fake-n4-think6")
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == want.reasoning
    assert "".join(delta.content or "" for delta in deltas) == want.text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_openai_whole(gpt: openai.OpenAI, provider: str) -> None:
    want = answer("fake-n12-uni-think2")
    completion = gpt.chat.completions.create(model=f"{provider}/fake-n12-uni-think2", messages=MESSAGES)
    assert completion.choices[0].message.content == want.text
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == want.output_tokens


def test_openai_errors_before_the_first_token(gpt: openai.OpenAI) -> None:
    for behaviour, error in (
        ("e429-ra3", openai.RateLimitError),
        ("e500", openai.InternalServerError),
        ("e401", openai.InternalServerError),
        ("e400", openai.BadRequestError),
    ):
        with pytest.raises(error) as raised:
            gpt.chat.completions.create(model=f"openai/fake-{behaviour}", messages=MESSAGES, stream=True)
        assert raised.value.request_id
    with pytest.raises(openai.NotFoundError, match=r"unknown model 'opnai/gpt-5'.*Did you mean"):
        gpt.chat.completions.create(model="opnai/gpt-5", messages=MESSAGES, stream=True)


def test_openai_models(gpt: openai.OpenAI) -> None:
    assert [model.id for model in gpt.models.list()] == ["openai/gpt-5", "anthropic/claude-opus-4-7"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("model", CONTENTS)
def test_anthropic_stream(claude: anthropic.Anthropic, provider: str, model: str) -> None:
    want = answer(model)
    with claude.messages.stream(model=f"{provider}/{model}", max_tokens=99, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == want.text
    assert final.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[want.finish_reason]
    assert (final.usage.input_tokens, final.usage.output_tokens) == (want.input_tokens, want.output_tokens)
    assert final.model == model


@pytest.mark.parametrize("provider", PROVIDERS)
def test_anthropic_tool_calls_and_thinking(claude: anthropic.Anthropic, provider: str) -> None:
    want = answer("fake-n3-tool2-think2")
    with claude.messages.stream(model=f"{provider}/fake-n3-tool2-think2", max_tokens=99, messages=MESSAGES) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, *calls = final.content
    assert thinking.type == "thinking"
    assert thinking.thinking == want.reasoning
    assert text.type == "text"
    assert text.text == want.text
    assert [(call.id, call.name) for call in calls if call.type == "tool_use"] == [
        (call.id, call.name) for call in want.tool_calls
    ]
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_anthropic_whole(claude: anthropic.Anthropic, provider: str) -> None:
    message = claude.messages.create(model=f"{provider}/fake-n12-uni", max_tokens=99, messages=MESSAGES)
    assert [block.text for block in message.content if block.type == "text"] == [answer("fake-n12-uni").text]
    assert message.stop_reason == "end_turn"


def test_anthropic_errors_before_the_first_token(claude: anthropic.Anthropic) -> None:
    for behaviour, error in (
        ("e429-ra3", anthropic.RateLimitError),
        ("e529", anthropic.InternalServerError),
        ("e400", anthropic.BadRequestError),
    ):
        with pytest.raises(error) as raised:
            claude.messages.create(model=f"anthropic/fake-{behaviour}", max_tokens=9, messages=MESSAGES, stream=True)
        assert raised.value.request_id


# What breaks off in the middle, and the code of the error that has to follow: text, text after reasoning, the arguments
# of a tool call.
BREAKS = {"err5": "provider_overloaded", **dict.fromkeys(("cut5", "rst5", "eof5", "bad5"), "stream_broken")}
IN_THE_MIDDLE = {f"{before}-{how}": code for before in ("n9", "n9-think2", "tool2") for how, code in BREAKS.items()}
IN_THE_MIDDLE["n9-stall5"] = "idle_timeout"
# The same before anything was said: the status line is out already, so it can only be told in the stream.
AT_ONCE = {
    "err0": "provider_overloaded",
    **dict.fromkeys(("cut0", "rst0", "eof0", "bad0", "html", "empty"), "stream_broken"),
    "stall0": "first_token_timeout",
    "refuse": "provider_unavailable",
    "e401": "provider_auth",
    "e429": "provider_rate_limited",
    "e503": "provider_overloaded",
    "ctx": "context_length_exceeded",
    "filter": "content_filtered",
}
IN_BAND = IN_THE_MIDDLE | AT_ONCE

each_failure = pytest.mark.parametrize(("behaviour", "code"), IN_BAND.items(), ids=list(IN_BAND))


@pytest.fixture(scope="module")
def hasty(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Its status line waits for nothing, so that every failure comes after it."""
    file = tmp_path_factory.mktemp("hasty") / "sluiceway.toml"
    file.write_text(silences_end("openai", "anthropic"))
    settings = {"SLUICEWAY_CONFIG": str(file), "SLUICEWAY_SERVER__HOLD_S": "0"}
    service = start_service({**fake_provider_server.env, **settings})
    yield service
    service.stop()


# As they come, with their own retries: those are for what fails before the status line.


@pytest.fixture(scope="module")
def hasty_gpt(hasty: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hasty.url}/v1", api_key="any") as client:
        yield client


@pytest.fixture(scope="module")
def hasty_claude(hasty: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=hasty.url, api_key="any") as client:
        yield client


def openai_created(client: openai.OpenAI, model: str, read: Callable[[str], None]) -> None:
    with client.chat.completions.create(model=model, messages=MESSAGES, stream=True) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                read(choice.delta.content or "")


def openai_helper(client: openai.OpenAI, model: str, read: Callable[[str], None]) -> None:
    with client.chat.completions.stream(model=model, messages=MESSAGES) as stream:
        for event in stream:
            if event.type == "content.delta":
                read(event.delta)


def openai_final(client: openai.OpenAI, model: str, read: Callable[[str], None]) -> None:
    with client.chat.completions.stream(model=model, messages=MESSAGES) as stream:
        read(stream.get_final_completion().choices[0].message.content or "")


def anthropic_created(client: anthropic.Anthropic, model: str, read: Callable[[str], None]) -> None:
    with client.messages.create(model=model, max_tokens=99, messages=MESSAGES, stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                read(event.delta.text)


def anthropic_helper(client: anthropic.Anthropic, model: str, read: Callable[[str], None]) -> None:
    with client.messages.stream(model=model, max_tokens=99, messages=MESSAGES) as stream:
        for text in stream.text_stream:
            read(text)


def anthropic_final(client: anthropic.Anthropic, model: str, read: Callable[[str], None]) -> None:
    with client.messages.stream(model=model, max_tokens=99, messages=MESSAGES) as stream:
        read(stream.get_final_text())


def text_before(behaviour: str, way: Callable[..., None]) -> str:
    """What a client has been told by then; who asks for the whole of it is told nothing."""
    whole = way in (openai_final, anthropic_final)
    return text_after(f"fake-i1-{behaviour}", 5) if behaviour.startswith("n9") and not whole else ""


@pytest.mark.parametrize("provider", PROVIDERS)
@each_failure
@pytest.mark.parametrize("way", [openai_created, openai_helper, openai_final])
def test_openai_raises_on_every_failure_in_the_stream(
    hasty_gpt: openai.OpenAI, way: Callable[..., None], behaviour: str, code: str, provider: str
) -> None:
    got: list[str] = []
    with pytest.raises(openai.APIError) as raised:
        way(hasty_gpt, f"{provider}/fake-i1-{behaviour}", got.append)
    # Its classes for a status and for a connection that broke are other ones.
    assert type(raised.value) is openai.APIError
    assert raised.value.code == code
    assert raised.value.message
    assert "".join(got) == text_before(behaviour, way)


@pytest.mark.parametrize("provider", PROVIDERS)
@each_failure
@pytest.mark.parametrize("way", [anthropic_created, anthropic_helper, anthropic_final])
def test_anthropic_raises_on_every_failure_in_the_stream(
    hasty_claude: anthropic.Anthropic, way: Callable[..., None], behaviour: str, code: str, provider: str
) -> None:
    got: list[str] = []
    with pytest.raises(anthropic.APIStatusError) as raised:
        way(hasty_claude, f"{provider}/fake-i1-{behaviour}", got.append)
    assert raised.value.status_code == 200
    body: Any = raised.value.body
    assert body["error"]["type"] == ANTHROPIC_TYPES[code]
    assert body["error"]["message"]
    assert "".join(got) == text_before(behaviour, way)


def test_protocol_fields_go_through_unchanged(
    gpt: openai.OpenAI, claude: anthropic.Anthropic, fake_provider: FakeProvider
) -> None:
    """A field of the client's protocol is the provider's business where that speaks the same."""
    gpt.chat.completions.create(
        model="openai/fake-n1",
        messages=[{"role": "developer", "content": "be brief"}, *MESSAGES],
        seed=7,
        logit_bias={"50256": -100},
        metadata={"team": "blue"},
        extra_body={"not_in_any_schema": {"deep": [1, None]}},
    )
    sent = fake_provider.requests[-1].body
    assert isinstance(sent, dict)
    assert {name: sent[name] for name in ("seed", "logit_bias", "metadata", "not_in_any_schema")} == {
        "seed": 7,
        "logit_bias": {"50256": -100},
        "metadata": {"team": "blue"},
        "not_in_any_schema": {"deep": [1, None]},
    }
    assert sent["messages"][0] == {"role": "developer", "content": "be brief"}
    assert sent["model"] == "fake-n1"

    claude.messages.create(
        model="anthropic/fake-n1",
        max_tokens=5,
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        messages=MESSAGES,
        metadata={"user_id": "u1"},
        extra_headers={"anthropic-beta": "some-beta-2026-01-01"},
    )
    request = fake_provider.requests[-1]
    assert isinstance(request.body, dict)
    assert request.body["metadata"] == {"user_id": "u1"}
    assert request.body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert request.headers["anthropic-beta"] == "some-beta-2026-01-01"
