"""A Python function as a tool: what a model is told of it, and a call of it by the JSON that a model writes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import docstring_parser
import msgspec
import pydantic
import pydantic_core

from ..request import Tool

# What both providers take for a name.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

DEFAULT_TIMEOUT_S = 30.0
MAX_RESULT_BYTES = 1_000_000  # of JSON


class ToolError(Exception):
    """Raised by a tool, with a text (10,000 characters of it at most) for the model, and for whoever reads the stream.
    What else a tool raises is logged, and told by its type alone: nobody knows what is in its text."""


class ServedTool(msgspec.Struct, frozen=True):
    """`arguments` reads and checks a call's; `function` is called with their values by name."""

    about: Tool
    arguments: type[pydantic.BaseModel]
    names: dict[str, str]  # of the fields of `arguments` -> of the function's parameters
    function: Callable[..., Any]
    timeout_s: float

    @property
    def name(self) -> str:
        return self.about.name

    def read(self, text: str) -> dict[str, Any]:
        """The arguments of a call from its JSON. Raises `ToolError`, which says what is wrong to the model."""
        try:
            read = self.arguments.model_validate_json(text.strip() or "{}")
        except pydantic.ValidationError as exc:
            raise ToolError(f"the arguments of {self.name} are wrong: {_problems(exc)}") from None
        said = read.model_fields_set
        return {name: getattr(read, field) for field, name in self.names.items() if field in said}

    def call(self, arguments: Mapping[str, Any]) -> str:
        """What the function gives, as JSON text. Raises `ToolError`, and what the function raises."""
        value = self.function(**arguments)
        try:
            told = pydantic_core.to_json(value, inf_nan_mode="null")
        except pydantic_core.PydanticSerializationError:
            raise ToolError(f"{self.name} gave a {type(value).__name__}, which can't be written as JSON") from None
        if len(told) > MAX_RESULT_BYTES:
            raise ToolError(f"{self.name} gave {len(told)} bytes; at most {MAX_RESULT_BYTES} can be passed on")
        return told.decode()


def served_tool(
    function: Callable[..., Any], *, name: str | None, description: str | None, timeout_s: float
) -> ServedTool:
    """Name, description and JSON Schema from the function's signature and docstring (Google's, NumPy's or Sphinx's
    way). Raises `TypeError` and `ValueError` for a function that can't be a tool."""
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be a tool's name: up to 64 letters, digits, '_' and '-'; give another: name=")
    if timeout_s <= 0:
        raise ValueError(f"{name}: timeout_s should be more than 0 seconds")
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(f"{name} is async; a tool is an ordinary function, which may wait: it runs in a greenlet")
    if inspect.isgeneratorfunction(called):
        raise TypeError(f"{name} is a generator; a tool returns its result as a whole")
    said = docstring_parser.parse(inspect.getdoc(function) or "")
    described = {param.arg_name: param.description for param in said.params if param.description}
    hints = get_type_hints(called, include_extras=True)
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for at, (parameter, about) in enumerate(inspect.signature(function).parameters.items()):
        if about.kind is about.VAR_POSITIONAL or about.kind is about.VAR_KEYWORD:
            raise TypeError(f"{name} takes {about}; a model can only name parameters that are named")
        if about.kind is about.POSITIONAL_ONLY:
            raise TypeError(f"{name}: the parameter {parameter} can't be given by its name")
        default = ... if about.default is about.empty else about.default
        # pydantic's own attributes can't be fields, so none has the parameter's name.
        names[f"field_{at}"] = parameter
        more: dict[str, Any] = {"description": described[parameter]} if parameter in described else {}
        fields[f"field_{at}"] = (hints.get(parameter, Any), pydantic.Field(default, alias=parameter, **more))
    config = pydantic.ConfigDict(extra="forbid", title=name)
    try:
        arguments: type[pydantic.BaseModel] = pydantic.create_model(name, __config__=config, **fields)
        schema = _untitled(arguments.model_json_schema())
    except (pydantic.errors.PydanticUserError, pydantic_core.SchemaError) as exc:
        raise TypeError(f"{name}: a parameter's type has no JSON Schema: {exc.args[0].splitlines()[0]}") from exc
    text = description or "\n\n".join(filter(None, (said.short_description, said.long_description)))
    about_tool = Tool(name=name, description=text or None, parameters={"properties": {}, **schema})
    return ServedTool(about_tool, arguments, names, function, timeout_s)


def _untitled(schema: Any) -> Any:
    """Without pydantic's titles, which say a name twice."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
        named = ("properties", "$defs")  # in these the keys are names
        return {
            key: {name: _untitled(one) for name, one in value.items()} if key in named else _untitled(value)
            for key, value in kept.items()
        }
    return [_untitled(each) for each in schema] if isinstance(schema, list) else schema


def _problems(exc: pydantic.ValidationError) -> str:
    told = []
    for problem in exc.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(map(str, problem["loc"]))
        told.append(f"{where}: {problem['msg']}" if where else problem["msg"])
    return "; ".join(told)
