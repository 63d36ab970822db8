"""The public request fields that more than one of our own formats has: how the text is cut, what JSON it has to be,
and the tools: the client's own, as objects, and ours, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

import pydantic

from ..errors import InvalidRequest
from ..json_schema import Checker
from ..request import Schema, Shape, Tool, ToolChoice, Unit
from .base import Body, validated

UNITS = get_args(Unit)


class _ShapeBody(Body):
    unit: Unit = "token"
    min_chars: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 0
    max_wait_ms: Annotated[int, pydantic.Field(ge=1, le=600_000)] | None = None


class _JSONSchemaBody(Body):
    name: Annotated[str, pydantic.Field(min_length=1)] = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any], pydantic.Field(alias="schema")]
    strict: bool | None = None


def read_shape(value: Any, where: str = "shape") -> Shape | None:
    """None: as it comes. Raises `InvalidRequest`."""
    if isinstance(value, Mapping):
        said = _at(where, _ShapeBody, value)
        asked = Shape(said.unit, said.min_chars, said.max_wait_ms)
    elif value is None or value in UNITS:
        asked = Shape(value or "token")
    else:
        wanted = '"token", "sentence", "block", or {"unit", "min_chars", "max_wait_ms"}'
        raise InvalidRequest(f"{where}: should be {wanted}", param=where)
    as_it_comes = asked.unit == "token" and not asked.min_chars and asked.max_wait_ms is None
    return None if as_it_comes else asked


def read_schema(value: Any, where: str = "response_format") -> Schema | None:
    """As `_schema`, of one that an answer can be held against."""
    schema = _schema(value, where)
    if schema is not None:
        Checker(schema.schema, where)
    return schema


def _schema(value: Any, where: str) -> Schema | None:
    """None: any text. OpenAI's two ways of writing it down, `{"type": "json_schema", "json_schema": {"schema": ...}}`
    and the same without the object between, or a JSON Schema itself. Raises `InvalidRequest`."""
    if value is None or value == {"type": "text"}:
        return None
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where}: should be an object with a JSON Schema", param=where)
    if value.get("type") == "json_schema":
        inner = value.get("json_schema")
        if isinstance(inner, Mapping):
            said = _at(f"{where}.json_schema", _JSONSchemaBody, inner)
        else:
            said = _at(where, _JSONSchemaBody, {name: value[name] for name in value if name != "type"})
        return Schema(said.schema_, said.name, said.description, said.strict)
    if value.get("type") in ("text", "json_object"):
        wanted = '{"type": "json_schema", "json_schema": {"schema": ...}}'
        raise InvalidRequest(f"{where}: say which JSON: {wanted}", param=where)
    return Schema(dict(value))


class _ChosenBody(Body):
    model_config = pydantic.ConfigDict(extra="ignore")
    name: Annotated[str, pydantic.Field(min_length=1)]


def read_choice(value: Any, where: str = "tool_choice") -> ToolChoice | None:
    """`"auto"`, `"none"`, `"required"` or `{"name": ...}`. Raises `InvalidRequest`."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return ToolChoice("tool", _at(where, _ChosenBody, value).name)
    if value not in ("auto", "none", "required"):
        raise InvalidRequest(f'{where}: should be "auto", "none", "required" or {{"name": ...}}', param=where)
    return ToolChoice(value)


def read_tools(value: Any, where: str = "tools") -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """(the client's own, the names of ours), from a list, or from a mapping by name, as assistant-ui sends the
    client's. Raises `InvalidRequest`."""
    if value is None:
        return (), ()
    if isinstance(value, Mapping):
        return tuple(read_tool(each, f"{where}.{name}", name) for name, each in value.items()), ()
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}: should be an array, or an object by name", param=where)
    served = tuple(dict.fromkeys(each for each in value if isinstance(each, str)))
    own = (read_tool(each, f"{where}[{at}]") for at, each in enumerate(value) if not isinstance(each, str))
    return tuple(own), served


def read_tool(value: Any, where: str, name: str | None = None) -> Tool:
    """A tool of the client's, from `{name, description?, parameters?, strict?}`, or the same under `function` as on
    OpenAI's wire. `name` stands for its own where they come as a mapping."""
    if not isinstance(value, Mapping):
        wanted = "an object, or the name of one of the server's tools"
        raise InvalidRequest(f"{where}: should be {wanted}", param=where)
    if isinstance(value.get("function"), Mapping):
        return read_tool(value["function"], f"{where}.function")
    name = value.get("name") if name is None else name
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where}.name: should be a string, and not empty", param=f"{where}.name")
    description, parameters, strict = (value.get(key) for key in ("description", "parameters", "strict"))
    for key, given, kind, wanted in (
        ("description", description, str, "a string"),
        ("parameters", parameters, Mapping, "an object, a JSON Schema"),
        ("strict", strict, bool, "true or false"),
    ):
        if given is not None and not isinstance(given, kind):
            raise InvalidRequest(f"{where}.{key}: should be {wanted}", param=f"{where}.{key}")
    return Tool(name=name, description=description or None, parameters=parameters, strict=strict)


def _at(where: str, model: type[Any], value: Mapping[str, Any]) -> Any:
    """As `validated`, of a field of a body."""
    try:
        return validated(model, value)
    except InvalidRequest as exc:
        about_a_field = exc.param is not None and exc.message.startswith(exc.param)
        text = f"{where}.{exc.message}" if about_a_field else f"{where}: {exc.message}"
        raise InvalidRequest(text, param=f"{where}.{exc.param}" if exc.param else where) from None
