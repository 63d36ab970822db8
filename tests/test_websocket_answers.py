"""What an answer by WebSocket may be beside text: tools of the service's own, an object, pieces of a shape; and what a
conversation keeps of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from callers import Watched
from callers import watched as under_watch
from conftest import Service, eventually
from sockets import Client, Refused, frame, handshake
from test_objects_served import SCHEMA, TEXT, VALUE, WANTED, WRONG, assert_grown
from test_shaping_served import SHAPES, pieces
from test_shaping_served import TEXT as PROSE
from test_tool_loop import Toolbox, results_sent
from test_websocket import said_to
from wsproto.connection import CLIENT, Connection
from wsproto.events import CloseConnection, TextMessage

from app import create_app
from app.house import House
from app.request import Shape
from app.testing import FakeProvider, answer
from app.web.ws import Talk


@pytest.fixture(scope="module")
def toolbox(
    start_service: Callable[..., Service],
    fake_provider_server: FakeProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Toolbox]:
    diary = tmp_path_factory.mktemp("toolbox") / "diary"
    env = {
        **fake_provider_server.env,
        "TOOLBOX_DIARY": str(diary),
        "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2",
        "SLUICEWAY_DEFAULT_MODEL": "openai/fake-n5",
    }
    watched = under_watch(start_service, env, app="tests.toolbox:app")
    yield Toolbox(watched, diary)
    watched.assert_no_complaint()
    watched.service.stop()


@pytest.fixture
def watched(toolbox: Toolbox, fake_provider: FakeProvider) -> Watched:
    toolbox.diary.unlink(missing_ok=True)
    return toolbox.watched


def told(client: Client) -> list[dict[str, Any]]:
    """All messages of the answer that is running."""
    messages = [client.read()]
    while messages[-1]["type"] not in ("done", "error"):
        messages.append(client.read())
    return messages


def text_of(messages: list[dict[str, Any]]) -> str:
    return "".join(message["text"] for message in messages if message["type"] == "chunk")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_tool_of_ours_runs_and_the_answer_goes_on(
    watched: Watched, fake_provider: FakeProvider, provider: str
) -> None:
    model = "fake-tool2-once-n5"
    with Client(watched.address) as client:
        client.ask(f"{provider}/{model}", tools=["weather"])
        messages = told(client)
        kinds = [message["type"] for message in messages]
        kinds = [kind for kind in kinds if kind != "chunk"]
        assert sorted(kinds[:4]) == ["tool_call", "tool_call", "tool_call_start", "tool_call_start"]
        assert kinds[4:] == ["tool_result", "tool_result", "done"]
        calls = {message["call_id"]: message["arguments"] for message in messages if message["type"] == "tool_call"}
        gave = {message["call_id"]: message["result"] for message in messages if message["type"] == "tool_result"}
        assert gave == {call_id: {**arguments, "app": "toolbox"} for call_id, arguments in calls.items()}
        text = answer(model, tools=["weather"]).text + answer(model, step=1).text
        assert text_of(messages) == text
        assert messages[-1]["reason"] == "stop"
        assert results_sent(dict(fake_provider.requests[1].body)).keys() == calls.keys()  # type: ignore[call-overload]
        client.say("and now?")
        assert told(client)[-1]["reason"] == "stop"
        assert [(said["role"], said["content"]) for said in said_to(fake_provider)] == [
            ("user", "hi"),
            ("assistant", text),
            ("user", "and now?"),
        ]


@pytest.mark.parametrize("way", ["stop", "leave"])
def test_a_tool_ends_with_its_answer(toolbox: Toolbox, watched: Watched, fake_provider: FakeProvider, way: str) -> None:
    with Client(watched.address) as client:
        client.ask("openai/fake-tool1-once", tools=["patient"])
        eventually(toolbox.wrote("patient began"), what="the tool's beginning")
        if way == "stop":
            client.say({"type": "stop"})
            assert told(client)[-1]["reason"] == "cancelled"
            client.say("Hello")
            assert text_of(told(client)) == answer("fake-n5").text
        else:
            client.leave("reset")
        eventually(toolbox.wrote("patient ended"), what="the tool's end")


def test_a_tool_that_is_none_of_ours_is_refused(watched: Watched, fake_provider: FakeProvider) -> None:
    with Client(watched.address) as client:
        client.ask("openai/fake-n5", tools=["wether"])
        said = client.read()
        assert (said["type"], said["status"]) == ("error", 400)
        assert "Did you mean 'weather'?" in said["message"]
        client.say("Hello")
        assert text_of(told(client)) == answer("fake-n5").text


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_object_grows_beside_its_text(watched: Watched, fake_provider: FakeProvider, provider: str) -> None:
    with Client(watched.address) as client:
        client.ask(f"{provider}/fake-by3", TEXT, response_format=SCHEMA)
        messages = told(client)
        assert text_of(messages) == TEXT
        assert_grown([message["partial"] for message in messages if message["type"] == "object"], VALUE)
        assert messages[-1]["reason"] == "stop"
        client.ask(f"{provider}/fake-by3", WRONG, response_format=SCHEMA)
        messages = told(client)
        assert (messages[-1]["type"], messages[-1]["code"]) == ("error", "stream_broken")
        assert WANTED in messages[-1]["message"]
        assert "private" not in messages[-1]["message"]
        client.say("Hello")
        assert told(client)[-1]["type"] == "done"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("model", ["openai/fake-echo-i5", "openai/fake-echo"], ids=["slowly", "at once"])
def test_a_chunk_is_a_piece_of_the_shape(watched: Watched, fake_provider: FakeProvider, shape: Any, model: str) -> None:
    """Also where several pieces come at once."""
    wanted = pieces(PROSE, Shape(shape) if isinstance(shape, str) else Shape(**shape))
    with Client(watched.address) as client:
        client.ask(model, PROSE, shape=shape)
        messages = told(client)
    assert [message["text"] for message in messages[:-1]] == wanted
    assert len(wanted) > 2


# What a conversation keeps


def test_a_system_prompt_of_a_message_that_was_refused_is_not_kept(
    watched: Watched, fake_provider: FakeProvider
) -> None:
    with Client(watched.address) as client:
        client.say({"system": "be brief"})
        for wrong in ({"model": "nobody/x"}, {"tools": ["wether"]}):
            client.say({"message": "hi", "system": "be long", **wrong})
            assert client.read()["type"] == "error"
        client.say("Hello")
        told(client)
        assert said_to(fake_provider) == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "Hello"},
        ]


def test_calls_are_not_kept_without_their_results(watched: Watched, fake_provider: FakeProvider) -> None:
    """Every provider refuses a conversation in which somebody speaks between the two."""
    call = {"call_id": "c1", "name": "look_up", "arguments": {}}
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "Hm."},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "call_id": "c1", "result": 42},
    ]
    with Client(watched.address) as client:
        client.say({"messages": messages, "model": "openai/fake-stall0"})
        fake_provider.wait_for(lambda stats: stats.open_streams == 1)
        assert [said["role"] for said in said_to(fake_provider)] == ["user", "assistant", "user", "assistant", "tool"]
        client.say({"type": "stop"})
        assert told(client)[-1]["reason"] == "cancelled"
        client.say("third")
        told(client)
        assert said_to(fake_provider) == [*messages[:2], {"role": "user", "content": "third"}]
        client.say({"messages": messages})
        text = text_of(told(client))
        client.say("third")
        told(client)
        assert [said["role"] for said in said_to(fake_provider)][3:] == ["assistant", "tool", "assistant", "user"]
        assert json.dumps(said_to(fake_provider)[5]["content"]) == json.dumps(text)


@pytest.mark.parametrize("origin", ["http://[", "https://[::1", "null", "http://", "://", "a" * 2000])
def test_an_origin_that_is_none_is_refused(watched: Watched, origin: str) -> None:
    with pytest.raises(Refused) as refused:
        Client(watched.address, handshake(Origin=origin))
    assert (refused.value.status, refused.value.body["error"]["code"]) == (403, "invalid_request")


# The end of a worker


class _StillTaken:
    """The task of an answer whose end the client has not taken yet; meanwhile the worker is about to end."""

    def __init__(self, house: House) -> None:
        self._house = house

    def wait(self, until: float) -> bool:
        self._house.admission.drain()
        return True


def test_a_message_that_came_before_a_drain_is_answered(
    monkeypatch: pytest.MonkeyPatch, fake_provider: FakeProvider
) -> None:
    """Also where it waits for the end of the answer before it."""
    # A thread looks up from its waiting only then.
    for name, value in {**fake_provider.env, "SLUICEWAY_SERVER__HEARTBEAT_S": "0.2"}.items():
        monkeypatch.setenv(name, value)
    sluiceway = create_app().extensions["sluiceway"]
    here = sluiceway.house
    talk = Talk(here, {}, "r")
    talk._task = _StillTaken(here)  # type: ignore[assignment]
    here.admission.sit(talk.leave)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as pool:
        theirs.settimeout(30)
        theirs.sendall(frame(1, b'{"message": "hi", "model": "openai/fake-n5-i20"}'))
        running = pool.submit(talk.run, ours, b"")
        protocol = Connection(CLIENT)
        texts, code = [], None
        while code is None:
            protocol.receive_data(theirs.recv(65536))
            for event in protocol.events():
                if isinstance(event, TextMessage):
                    texts.append(json.loads(event.data))
                elif isinstance(event, CloseConnection):
                    code = event.code
                    theirs.sendall(protocol.send(event.response()))
        running.result(30)
    sluiceway.close()
    assert text_of(texts) == answer("fake-n5-i20").text
    assert (texts[-1]["type"], code) == ("done", 1001)
