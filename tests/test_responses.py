"""`/v1/responses` and providers of its protocol, over HTTP: the official client, the real server, the fake provider."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
import requests
from conftest import Service, silences_end
from openai.types.responses import Response
from test_failures import BEFORE

from app.providers.sse import read_frames
from app.testing import FakeProvider, answer, text_after

ROUTE = "/v1/responses"
SAME = "responses"  # the provider that speaks the protocol too
PROVIDERS = [SAME, "openai", "anthropic"]
CONTENTS = ["fake-n12", "fake-n40-uni-split", "fake-n8-comments-crlf", "fake-n8-drip-uni", "fake-big200", "fake-n0"]
MODELS = [*CONTENTS, "fake-n16-uni-think3", "fake-n3-tool2-think2", "fake-tool1", "fake-n9-len", "fake-md", "fake-echo"]

every_provider = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., Service], fake_provider_server: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("responses") / "sluiceway.toml"
    file.write_text(f"""
[providers.{SAME}]
kind = "openai_responses"
base_url = "{fake_provider_server.openai_base_url}"
api_key_env = "OPENAI_API_KEY"
default_model = "fake-n12"

[models.breaks]
target = "{SAME}/fake-n12-uni-cut7"
fallbacks = ["openai/fake-n12-uni"]

[models.is-mended]
target = "openai/fake-n12-uni-cut7"
fallbacks = ["mends"]

[models.mends]
target = "{SAME}/fake-n12-uni-cont"
prefill = true

[models.differs]
target = "{SAME}/fake-n12-uni-cut7"
fallbacks = ["{SAME}/other-n5"]

{silences_end(*PROVIDERS)}
""")
    one = start_service({**fake_provider_server.env, "SLUICEWAY_CONFIG": str(file)})
    yield one
    one.stop()


@pytest.fixture(scope="module")
def gpt(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def read(response: Any) -> tuple[str, str, list[tuple[str, str, str]]]:
    """(text, reasoning, calls) of a response's output."""
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.summary]
    calls = [(item.call_id, item.name, item.arguments) for item in response.output if item.type == "function_call"]
    return response.output_text, "".join(thoughts), calls


def told(model: str, prompt: str = "hi") -> tuple[str, str, list[tuple[str, str, str]]]:
    said = answer(model, prompt)
    return said.text, said.reasoning, [tuple(call) for call in said.tool_calls]  # type: ignore[misc]


@every_provider
@pytest.mark.parametrize("model", MODELS)
def test_a_stream(gpt: openai.OpenAI, provider: str, model: str) -> None:
    with gpt.responses.create(model=f"{provider}/{model}", input="hi", stream=True) as stream:
        events: list[Any] = [event for event in stream if event.type != "response.provider_heartbeat"]
    want = answer(model, "hi")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == want.text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    first, last = events[0], events[-1]
    assert first.type == "response.created"
    assert last.type == ("response.incomplete" if want.finish_reason == "length" else "response.completed")
    assert (first.response.id, first.response.created_at) == (last.response.id, last.response.created_at)
    assert last.response.model == model
    assert read(last.response) == told(model)
    assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == (
        want.input_tokens,
        want.output_tokens,
    )
    Response.model_validate(last.response.to_dict())


@every_provider
@pytest.mark.parametrize("model", ["fake-n12-uni", "fake-n3-tool2-think2"])
def test_the_stream_helper_which_is_the_strictest_reader(gpt: openai.OpenAI, provider: str, model: str) -> None:
    with gpt.responses.stream(model=f"{provider}/{model}", input="hi") as stream:
        final = stream.get_final_response()
    assert read(final) == told(model)
    assert final.status == "completed"


@every_provider
@pytest.mark.parametrize("model", MODELS)
def test_whole(gpt: openai.OpenAI, provider: str, model: str) -> None:
    response = gpt.responses.create(model=f"{provider}/{model}", input="hi", instructions="Be brief.")
    want = answer(model, "hi")
    assert read(response) == told(model)
    assert response.status == ("incomplete" if want.finish_reason == "length" else "completed")
    assert response.error is None
    assert response.instructions == "Be brief."
    assert response.usage is not None
    assert response.usage.output_tokens == want.output_tokens
    Response.model_validate(response.to_dict())


def frames(body: bytes) -> list[dict[str, Any]]:
    """What differs from one request to the next is made equal."""
    text = body.replace(b"\r\n", b"\n")
    values = [json.loads(frame.data) for frame in read_frames(text)]
    created = [value["response"]["created_at"] for value in values if "response" in value]
    ids = [value["response"]["id"].removeprefix("resp_") for value in values if "response" in value]
    for name in {*map(str, created), *ids}:
        text = text.replace(name.encode(), b"0")
    return [json.loads(frame.data) for frame in read_frames(text)]


@pytest.mark.parametrize("model", MODELS)
def test_the_providers_own_frames_reach_a_client_of_its_protocol(
    service: Service, fake_provider_server: FakeProvider, model: str
) -> None:
    def ask(url: str, model: str) -> list[dict[str, Any]]:
        body = {"model": model, "input": "hi", "stream": True}
        return frames(requests.post(url + ROUTE, json=body, headers={"Authorization": "Bearer k"}, timeout=20).content)

    ours = ask(service.url, f"{SAME}/{model}")
    assert ours == ask(fake_provider_server.url, model)
    assert any("obfuscation" in frame for frame in ours) or model == "fake-n0"


def test_the_providers_own_response_reaches_a_client_of_its_protocol_whole(
    service: Service, fake_provider_server: FakeProvider
) -> None:
    """With what no event of ours tells: here the service tier, and that it is stored."""

    def ask(url: str, model: str) -> dict[str, Any]:
        body = {"model": model, "input": "hi", "include": ["reasoning.encrypted_content"]}
        response = requests.post(url + ROUTE, json=body, headers={"Authorization": "Bearer k"}, timeout=20)
        value: dict[str, Any] = json.loads(response.text.replace(response.json()["id"].removeprefix("resp_"), "0"))
        return value | {"created_at": 0}

    for model in MODELS:
        ours = ask(service.url, f"{SAME}/{model}")
        assert ours == ask(fake_provider_server.url, model)
        assert (ours["service_tier"], ours["store"]) == ("default", True)


def test_a_body_goes_as_it_came_where_the_provider_speaks_the_protocol(
    service: Service, fake_provider: FakeProvider
) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi", "x": None}]}
    body = {"input": [item], "store": True, "metadata": {"a": "b"}, "of_the_future": {"y": [1]}, "stream": False}
    assert requests.post(service.url + ROUTE, json={**body, "model": SAME}, timeout=20).status_code == 200
    (request,) = fake_provider.requests
    assert request.path == ROUTE
    assert request.body == {**body, "model": "fake-n12", "stream": True}


def test_across_protocols_the_text_is_what_was_asked(gpt: openai.OpenAI, fake_provider: FakeProvider) -> None:
    for provider in ("openai", "anthropic"):
        messages: list[Any] = [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "second"},
            {"role": "user", "content": [{"type": "input_text", "text": "third"}]},
        ]
        response = gpt.responses.create(
            model=f"{provider}/fake-echo",
            instructions="Be brief.",
            input=messages,
            max_output_tokens=50,
            temperature=0.5,
            store=False,
        )
        assert response.output_text == "third"
    chat, other = (request.body for request in fake_provider.requests)
    assert chat["messages"][0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert [message["role"] for message in chat["messages"]] == ["system", "user", "assistant", "user"]
    assert (chat["max_tokens"], chat["temperature"]) == (50, 0.5)
    assert other["system"] == "Be brief.\n\nBe kind."
    assert [message["role"] for message in other["messages"]] == ["user", "assistant", "user"]


def test_a_tool_loop(gpt: openai.OpenAI) -> None:
    model = f"{SAME}/fake-n4-think2-tool2-once"
    tools: list[Any] = [{"type": "function", "name": "clock", "parameters": {"type": "object"}, "strict": False}]
    conversation: list[Any] = [{"role": "user", "content": "hi"}]
    first = gpt.responses.create(model=model, input=conversation, tools=tools, include=["reasoning.encrypted_content"])
    thought, _, *calls = first.output
    assert thought.type == "reasoning"
    assert thought.encrypted_content == "gAAAAfakeSluiceway=="
    assert [call.name for call in calls if call.type == "function_call"] == ["clock", "clock"]
    conversation += [item.to_dict() for item in first.output]
    conversation += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}
        for call in calls
        if call.type == "function_call"
    ]
    second = gpt.responses.create(model=model, input=conversation, tools=tools)
    assert [item.type for item in second.output] == ["reasoning", "message"]


class TestProvidersOfTheProtocolForOtherClients:
    MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]  # noqa: RUF012

    @pytest.mark.parametrize("model", ["fake-n12-uni", "fake-n3-tool2-think2", "fake-n9-len"])
    def test_openai_chat(self, gpt: openai.OpenAI, model: str) -> None:
        want = answer(model)
        completion = gpt.chat.completions.create(model=f"{SAME}/{model}", messages=self.MESSAGES)
        choice = completion.choices[0]
        assert (choice.message.content, choice.finish_reason) == (want.text, want.finish_reason)
        made: list[Any] = choice.message.tool_calls or []
        assert [(call.id, call.function.name, call.function.arguments) for call in made] == list(want.tool_calls)
        with gpt.chat.completions.create(model=f"{SAME}/{model}", messages=self.MESSAGES, stream=True) as chunks:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == want.text

    @pytest.mark.parametrize("model", ["fake-n12-uni", "fake-n3-tool2-think2"])
    def test_anthropic(self, service: Service, model: str) -> None:
        want = answer(model)
        with (
            anthropic.Anthropic(base_url=service.url, api_key="any", max_retries=0) as claude,
            claude.messages.stream(model=f"{SAME}/{model}", max_tokens=99, messages=self.MESSAGES) as stream,
        ):
            final = stream.get_final_message()
        assert "".join(block.text for block in final.content if block.type == "text") == want.text
        assert [(block.id, block.name) for block in final.content if block.type == "tool_use"] == [
            (call.id, call.name) for call in want.tool_calls
        ]

    def test_native(self, service: Service, fake_provider: FakeProvider) -> None:
        asked = {
            "model": f"{SAME}/fake-echo",
            "prompt": "say it",
            "system": "Be brief.",
            "max_tokens": 50,
            "stream": False,
        }
        assert requests.post(f"{service.url}/v1/streams", json=asked, timeout=20).json()["text"] == "say it"
        (request,) = fake_provider.requests
        assert request.body == {
            "model": "fake-echo",
            "instructions": "Be brief.",
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "say it"}]}],
            "max_output_tokens": 50,
            "store": False,
            "stream": True,
        }

    def test_stop_sequences_are_refused(self, gpt: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match=r"stop can't be sent to 'responses/fake-n3'") as refused:
            gpt.chat.completions.create(model=f"{SAME}/fake-n3", messages=self.MESSAGES, stop=["END"])
        assert refused.value.param == "stop"


@every_provider
@pytest.mark.parametrize(("behaviour", "status", "code", "retry_after"), BEFORE, ids=[row[0] for row in BEFORE])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_failure_before_the_first_token_is_a_status(
    service: Service, provider: str, behaviour: str, status: int, code: str, retry_after: str | None, stream: bool
) -> None:
    body = {"model": f"{provider}/fake-{behaviour}", "input": "hi", "stream": stream}
    response = requests.post(service.url + ROUTE, json=body, timeout=20)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    assert {*error} >= {"message", "type", "param", "code"}
    assert response.headers.get("Retry-After") == retry_after


AFTER = {
    **dict.fromkeys(("cut5", "rst5", "eof5", "bad5"), "stream_broken"),
    "stall5": "idle_timeout",
    "err5": "provider_overloaded",
}


@every_provider
@pytest.mark.parametrize(("behaviour", "code"), AFTER.items())
def test_a_failure_after_the_first_token_raises(gpt: openai.OpenAI, provider: str, behaviour: str, code: str) -> None:
    heard: list[str] = []
    model = f"fake-n9-i1-{behaviour}"
    with (
        pytest.raises(openai.APIError) as raised,
        gpt.responses.create(model=f"{provider}/{model}", input="hi", stream=True) as stream,
    ):
        heard.extend(event.delta for event in stream if event.type == "response.output_text.delta")
    assert "".join(heard) == text_after(model, 5)
    assert raised.value.code == code
    with (
        pytest.raises(openai.APIError) as raised,
        gpt.responses.stream(model=f"{provider}/{model}", input="hi") as helped,
    ):
        helped.get_final_response()
    assert raised.value.code == code


@pytest.mark.parametrize("tokens", [0, 5])
def test_secrets_of_an_error_are_not_passed_on(
    service: Service, fake_provider_server: FakeProvider, tokens: int
) -> None:
    body = {"model": f"{SAME}/fake-n9-i1-err{tokens}-leak", "input": "hi", "stream": True}
    said = requests.post(service.url + ROUTE, json=body, timeout=20).text
    assert "refused key" in said, "it is said, but for these"
    for secret in (fake_provider_server.env["OPENAI_API_KEY"], "10.0.0.7", "internal/v1"):
        assert secret not in said


def test_usage_that_the_provider_left_out_stays_out(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model=f"{SAME}/fake-n9-nousage", input="hi") as stream:
        assert stream.get_final_response().usage is None
    assert gpt.responses.create(model=f"{SAME}/fake-n9-nousage", input="hi").usage is None
    ours = gpt.responses.create(model="openai/fake-n9-nousage", input="hi")
    assert ours.usage is not None
    assert ours.usage.output_tokens == -(-len(answer("fake-n9").text) // 4), "an estimate"


@pytest.mark.parametrize("model", ["breaks", "is-mended"])
def test_an_answer_that_breaks_off_is_made_whole(gpt: openai.OpenAI, fake_provider: FakeProvider, model: str) -> None:
    """By the other protocol in the middle of a provider's own frames; and by this one, from the beginning, since no
    model of it takes a prefill."""
    with gpt.responses.create(model=model, input="hi", stream=True) as stream:
        events: list[Any] = list(stream)
    want = answer("fake-n12-uni").text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == want
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events].count("response.output_item.added") == 1
    last = events[-1].response
    assert (last.output_text, last.status, last.id) == (want, "completed", events[0].response.id)
    assert len(fake_provider.requests) == 2
    fake_provider.reset()
    with gpt.responses.stream(model=model, input="hi") as helped:
        assert helped.get_final_response().output_text == want


def test_another_answer_is_never_passed_off_as_the_same(gpt: openai.OpenAI) -> None:
    with (
        pytest.raises(openai.APIError) as raised,
        gpt.responses.create(model="differs", input="hi", stream=True) as stream,
    ):
        list(stream)
    assert raised.value.code == "stream_broken"


class TestWrongRequests:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "input"),
            ({"input": [{"role": "robot", "content": "hi"}]}, "input[0].role"),
            ({"input": "hi", "max_output_tokens": 0}, "max_output_tokens"),
            ({"input": "hi", "tools": [{"type": "function"}]}, "tools[0].name"),
        ],
    )
    def test_a_field_is_named(self, service: Service, body: dict[str, Any], param: str) -> None:
        response = requests.post(service.url + ROUTE, json={"model": SAME, **body}, timeout=20)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["param"], error["code"], error["type"]) == (param, "invalid_request", "invalid_request_error")

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"background": True}, "background"),
            ({"store": True}, "store"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ],
    )
    @pytest.mark.parametrize("provider", ["openai", "anthropic"])
    def test_what_only_this_protocol_knows_is_refused_by_name(
        self, gpt: openai.OpenAI, provider: str, fields: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            gpt.responses.create(model=f"{provider}/fake-n3", input="hi", **fields)
        assert refused.value.param == param
        assert f"'{provider}/fake-n3', which speaks another protocol" in refused.value.message

    def test_an_unknown_model_is_a_404(self, gpt: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="Did you mean"):
            gpt.responses.create(model="opnai/gpt-5", input="hi")

    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", ROUTE, 405), ("GET", f"{ROUTE}/resp_1", 404), ("POST", f"{ROUTE}/", 404)]
    )
    def test_what_is_no_route_is_told_in_the_routes_shape(
        self, service: Service, method: str, path: str, status: int
    ) -> None:
        response = requests.request(method, service.url + path, timeout=20)
        assert response.status_code == status
        assert {*response.json()["error"]} == {"message", "type", "param", "code"}
