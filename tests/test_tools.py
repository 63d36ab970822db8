"""A Python function as a tool, and calls of tools beside one another; the whole way is in test_tool_loop.py."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import sys
import threading
import time
from collections.abc import Iterator
from math import inf
from typing import Annotated, Any, Literal

import gevent
import pydantic
import pytest
from pydantic import AfterValidator

from app.cancel import Cancel
from app.errors import Cancelled, InvalidRequest
from app.events import ToolCallEnded, ToolOutput
from app.request import ChatRequest, Message, Tool
from app.tools import Running, ServedTool, ToolError, Tools
from app.tools.base import served_tool


def made(function: Any, **more: Any) -> ServedTool:
    return served_tool(function, **{"name": None, "description": None, "timeout_s": 30.0, **more})


def looked_up(city: str) -> str:
    return {"Bern": "BRN"}[city]


class Place(pydantic.BaseModel):
    city: str
    country: str = "CH"


class TestWhatAModelIsTold:
    def test_name_description_and_schema_come_from_the_function(self) -> None:
        def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> dict[str, Any]:
            """The weather forecast of a city.

            From the national service, or the nearest one.

            Args:
                city: Its name in English
                days (int): How many days from today
            """
            return {}

        assert made(weather).about == Tool(
            name="weather",
            description="The weather forecast of a city.\n\nFrom the national service, or the nearest one.",
            parameters={
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name in English"},
                    "days": {"type": "integer", "default": 1, "description": "How many days from today"},
                    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        )

    @pytest.mark.parametrize(
        "doc",
        [
            "Says it.\n\n    :param word: what to say",
            "Says it.\n\n    Parameters\n    ----------\n    word : str\n        what to say",
            "Says it.\n\n    Args:\n        word: what to say",
        ],
        ids=["Sphinx", "NumPy", "Google"],
    )
    def test_each_way_to_write_a_docstring(self, doc: str) -> None:
        def say(word: str) -> None:
            raise NotImplementedError

        say.__doc__ = doc
        about = made(say).about
        assert about.description == "Says it."
        assert about.parameters is not None
        assert about.parameters["properties"]["word"]["description"] == "what to say"

    def test_what_is_said_by_hand_comes_first(self) -> None:
        def f(city: Annotated[str, pydantic.Field(description="Its name", max_length=5)]) -> None:
            """Not this."""

        about = made(f, name="weather-2", description="This.").about
        assert (about.name, about.description) == ("weather-2", "This.")
        assert about.parameters is not None
        assert about.parameters["properties"]["city"] == {"type": "string", "description": "Its name", "maxLength": 5}

    def test_one_without_parameters_or_words(self) -> None:
        about = made(lambda: 1, name="one").about
        assert about == Tool(name="one", parameters={"type": "object", "properties": {}, "additionalProperties": False})

    def test_parameters_named_as_pydantics_own(self) -> None:
        def f(schema: str, model_config: int, _x: int = 0, title: str = "") -> list[Any]:
            return [schema, model_config, _x, title]

        tool = made(f)
        assert tool.about.parameters is not None
        assert set(tool.about.parameters["properties"]) == {"schema", "model_config", "_x", "title"}
        assert tool.call(tool.read('{"schema": "s", "model_config": 1, "_x": 2, "title": "t"}')) == '["s",1,2,"t"]'

    def test_a_method_and_an_object_that_can_be_called(self) -> None:
        class Weather:
            def of(self, city: str) -> str:
                return f"sun in {city}"

            def __call__(self, city: str) -> str:
                return f"rain in {city}"

        assert made(Weather().of).call({"city": "Chur"}) == '"sun in Chur"'
        assert made(Weather(), name="weather").call({"city": "Chur"}) == '"rain in Chur"'

    def test_what_can_t_be_a_tool(self) -> None:
        async def later(city: str) -> None: ...

        def pieces(city: str) -> Iterator[str]:
            yield city

        def many(*cities: str) -> None: ...

        def more(**cities: str) -> None: ...

        def first(city: str, /) -> None: ...

        def strange(thing: threading.Event) -> None: ...

        class Later:
            async def __call__(self, city: str) -> None: ...

        for function, said in (
            (later, "later is async"),
            (Later(), "Later is async"),
            (pieces, "pieces is a generator"),
            (many, "many takes "),
            (more, "more takes "),
            (first, "first: the parameter city can't be given by its name"),
            (strange, "strange: a parameter's type has no JSON Schema"),
        ):
            with pytest.raises(TypeError, match=said):
                made(function)
        with pytest.raises(ValueError, match="can't be a tool's name"):
            made(lambda: 1)
        with pytest.raises(ValueError, match="timeout_s"):
            made(first, timeout_s=0)


class TestACall:
    def test_arguments_are_read_as_their_types(self) -> None:
        seen: list[Any] = []

        def f(place: Place, at: datetime.date, tags: list[str] = ["x"]) -> None:  # noqa: B006
            seen.append((place, at, tags))

        tool = made(f)
        assert tool.call(tool.read('{"place": {"city": "Chur"}, "at": "2026-11-22"}')) == "null"
        assert seen == [(Place(city="Chur"), datetime.date(2026, 11, 22), ["x"])]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "Invalid JSON"),
            ("[]", "should be an object|valid dictionary"),
            ("5", "should be an object|valid dictionary"),
            ("{}", "city: Field required"),
            ('{"city": 5}', "city: Input should be a valid string"),
            ('{"city": "x", "town": "y"}', "town: Extra inputs"),
            ('{"city": "x", "days": "many"}', "days: Input should be a valid integer"),
        ],
    )
    def test_wrong_arguments_are_told_to_the_model(self, text: str, said: str) -> None:
        def weather(city: str, days: int = 1) -> None:
            raise AssertionError("not called")

        with pytest.raises(ToolError, match=said) as told:
            made(weather).read(text)
        assert str(told.value).startswith("the arguments of weather are wrong: ")
        assert "http" not in str(told.value)

    def test_no_text_at_all_is_no_arguments(self) -> None:
        tool = made(lambda: 7, name="seven")
        assert tool.call(tool.read("")) == "7"

    def test_results_have_a_json_form_or_are_refused(self) -> None:
        @dataclasses.dataclass
        class Point:
            x: int

        for value, told in (
            (None, "null"),
            ("ü", '"ü"'),
            ({"a": (1, 2)}, '{"a":[1,2]}'),
            (Point(3), '{"x":3}'),
            (Place(city="Chur"), '{"city":"Chur","country":"CH"}'),
            (datetime.date(2026, 11, 22), '"2026-11-22"'),
            (float("nan"), "null"),
        ):
            assert made(lambda value=value: value, name="it").call({}) == told
        with pytest.raises(ToolError, match="it gave a object, which can't be written as JSON"):
            made(lambda: object(), name="it").call({})
        with pytest.raises(ToolError, match="at most 1000000 can be passed on"):
            made(lambda: "x" * 1_000_000, name="it").call({})

    def test_the_clock(self) -> None:
        clock = Tools(["clock"]).known()["clock"]
        now = json.loads(clock.call(clock.read("{}")))
        assert abs(datetime.datetime.fromisoformat(now["time"]).timestamp() - time.time()) < 60
        assert json.loads(clock.call(clock.read('{"timezone": "Asia/Tokyo"}')))["time"].endswith("+09:00")
        for wrong in ("Middle/Earth", "", "../etc", "Europe", "x" * 5000):
            with pytest.raises(ToolError, match="no such time zone"):
                clock.call({"timezone": wrong})


def asking(*served: str, own: tuple[Tool, ...] = ()) -> ChatRequest:
    return ChatRequest(dialect="native", messages=(Message.of("user", "Hi"),), served=served, tools=own)


class TestTools:
    def test_what_is_enabled_is_there_and_nothing_else(self) -> None:
        assert set(Tools().known()) == set()
        assert set(Tools(["clock"]).known()) == {"clock"}
        with pytest.raises(ValueError, match=r"no such tool: 'clok'; known: clock\. Did you mean 'clock'"):
            Tools(["clok"])

    def test_an_apps_own_take_the_place_of_what_comes_along(self) -> None:
        own = Tools()

        @own.tool
        def clock() -> str:
            return "late"

        @own.tool(name="other", timeout_s=2)
        def another() -> str:
            return "x"

        assert (clock(), another()) == ("late", "x"), "they stay functions"
        tools = Tools(["clock"], beside=own)
        assert tools.known()["clock"].call({}) == '"late"'
        assert tools.known()["other"].timeout_s == 2

    def test_a_request_gets_those_that_it_names(self) -> None:
        tools = Tools(["clock"])
        search = Tool("search")
        request, served = tools.offered(asking("clock", own=(search,)))
        assert [tool.name for tool in request.tools] == ["search", "clock"]
        assert set(served) == {"clock"}
        plain = asking(own=(search,))
        assert tools.offered(plain) == (plain, {})

    def test_a_name_that_nobody_has_or_two_have_is_refused(self) -> None:
        tools = Tools(["clock"])
        with pytest.raises(InvalidRequest, match=r"no such tool of this service: 'clok'; known: clock\. Did"):
            tools.offered(asking("clok"))
        with pytest.raises(InvalidRequest, match="'clock' is named twice"):
            tools.offered(asking("clock", own=(Tool("clock"),)))


def call(name: str, arguments: str = "{}", call_id: str = "") -> ToolCallEnded:
    return ToolCallEnded(call_id=call_id or f"c-{name}", name=name, arguments=arguments)


class TestCallsBesideOneAnother:
    def run(self, *calls: tuple[ServedTool, ToolCallEnded], cancel: Cancel | None = None) -> Running:
        return Running(calls, cancel or Cancel(), contextlib.nullcontext, "req")

    def all_of(self, running: Running) -> list[ToolOutput]:
        outputs: list[ToolOutput] = []
        while not running.over:
            outputs += running.read(inf)
        return outputs

    def test_outputs_come_as_they_are_there(self) -> None:
        first = threading.Event()

        def waits() -> str:
            assert first.wait(20)
            return "second"

        def goes() -> str:
            return "first"

        running = self.run((made(waits), call("waits")), (made(goes), call("goes")))
        assert [output.name for output in running.read(time.monotonic() + 20)] == ["goes"]
        assert running.read(time.monotonic()) == []
        first.set()
        assert self.all_of(running) == [ToolOutput(call_id="c-waits", name="waits", result='"second"')]
        running.close()

    def test_what_fails_is_an_output_too(self, caplog: pytest.LogCaptureFixture) -> None:
        def fails() -> None:
            raise RuntimeError("hunter2")

        def refuses() -> None:
            raise ToolError("not today")

        def leaves() -> None:
            raise SystemExit(3)

        tools = (fails, refuses, leaves)
        outputs = self.all_of(self.run(*((made(tool), call(tool.__name__)) for tool in tools)))
        said = {output.name: output.error for output in outputs}
        assert said == {
            "fails": "fails failed (RuntimeError)",
            "refuses": "not today",
            "leaves": "leaves failed (SystemExit)",
        }
        assert "hunter2" in caplog.text, "the operator is told"

    @pytest.mark.parametrize("raised", [gevent.Timeout(1), gevent.GreenletExit(), KeyboardInterrupt()])
    def test_what_is_no_exception_fails_at_once_too(self, raised: BaseException) -> None:
        def fails() -> None:
            raise raised

        (output,) = self.all_of(self.run((made(fails, timeout_s=600), call("fails"))))
        assert output.error == f"fails failed ({type(raised).__name__})"

    def test_a_check_of_the_arguments_that_fails_is_a_failed_call(self) -> None:
        def weather(city: Annotated[str, AfterValidator(looked_up)]) -> str:
            return city

        outputs = self.all_of(self.run((made(weather), call("weather", '{"city": "Rome"}'))))
        assert [output.error for output in outputs] == ["weather failed (KeyError)"]

    @pytest.mark.parametrize(
        ("said", "told"), [("half \ud83d", "half ?"), ("x" * 3_000_000, "x" * 10_000)], ids=["half", "long"]
    )
    def test_an_error_can_always_be_written(self, said: str, told: str) -> None:
        def refuses() -> None:
            raise ToolError(said)

        (output,) = self.all_of(self.run((made(refuses), call("refuses"))))
        assert output.error == told

    def test_nothing_is_begun_for_an_answer_that_is_over(self) -> None:
        began: list[str] = []
        cancel = Cancel()
        cancel.set(Cancelled("gone"))
        running = self.run((made(lambda: began.append("it"), name="acts"), call("acts")), cancel=cancel)
        assert running.read(inf) == []
        running.close()
        assert not began

    def test_outputs_of_threads_are_never_lost(self) -> None:
        tool = made(lambda: None, name="quick")
        switches_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(500):
                running = self.run(*((tool, call("quick", call_id=f"c{at}")) for at in range(4)))
                assert len(self.all_of(running)) == 4
                running.close()
        finally:
            sys.setswitchinterval(switches_s)

    def test_wrong_arguments_begin_nothing(self) -> None:
        def weather(city: str) -> None:
            raise AssertionError("not called")

        outputs = self.all_of(self.run((made(weather), call("weather", '{"town": 1}'))))
        assert [output.error.partition(":")[0] for output in outputs] == ["the arguments of weather are wrong"]

    def test_one_that_takes_too_long_is_given_up(self) -> None:
        ended = threading.Event()

        def slow() -> None:
            ended.wait(20)

        running = self.run((made(slow, timeout_s=0.05), call("slow")))
        (output,) = self.all_of(running)
        assert output.error == "slow took longer than 0.05 s, and was stopped"
        ended.set()
        assert running.over

    def test_a_cancel_ends_the_wait(self) -> None:
        cancel, ended = Cancel(), threading.Event()
        running = self.run((made(lambda: ended.wait(20), name="slow"), call("slow")), cancel=cancel)
        threading.Timer(0.05, cancel.set, [Cancelled("gone")]).start()
        assert running.read(inf) == []
        running.close()
        running.close()
        ended.set()

    def test_nothing_to_run_is_over_at_once(self) -> None:
        assert self.run().over
