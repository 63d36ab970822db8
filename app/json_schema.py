"""A value held against a JSON Schema that a client has sent, by jsonschema-rs: draft 2020-12 where it names no other.

The schema is a stranger's, so it can cost no more than it should:

- nothing is fetched: a `$ref` leads to a place in the schema itself, and another is refused;
- a `pattern` is matched in linear time, by an engine without look-around and back-references: those are refused;
- `$ref`s can fan out to any number of ways through a schema, and through a value. So each is counted on its way, and
  behind so many as a value of its length may take they lead nowhere;
- an error of the library's copies what it is about, once for every branch of an `anyOf`: the place is looked for only
  where that is little.

As the standard has it, `format` is not asserted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import msgspec

from .errors import InvalidRequest

# Of a schema as compact JSON. OpenAI takes 120,000 characters of names and values (Structured Outputs, 2026-11).
MAX_BYTES = 131_072
MAX_PATTERNS = 100  # of the largest take 0.3 s and 80 MB
_PATTERN_BYTES = 1 << 20  # of one when it is compiled: `^\w{1,255}$` takes less than a tenth
_STATES_BYTES = 1 << 18  # of one while it matches

# `$ref`s that may be followed for a value, at 0.25 us each: so many, and a few more for each character of its text.
_FREE_STEPS = 20_000
_STEPS_PER_CHAR = 4
# To find the place takes more, where a `$ref` stands in an `anyOf`: an error of each branch, with what it is about.
_STEPS_TO_THE_PLACE = 2_000
_CHARS_PER_STEP_TO_THE_PLACE = 8
# Of a schema's subschemas times the characters of a value's text: 10**9 take 1.5 s where all are at each of its places.
_MAX_WORK = 1_000_000_000
# Of a value's characters times the branches that may have to be told about: 4 MB of copies, 50 ms.
_MAX_TOLD = 2_000_000


class Checker:
    """Raises `InvalidRequest` about the field `where` for a schema that can't be used."""

    def __init__(self, schema: Mapping[str, Any], where: str = "response_format") -> None:
        if len(msgspec.json.encode(schema)) > MAX_BYTES:
            raise InvalidRequest(f"{where}: the schema is larger than {MAX_BYTES} bytes", param=where)
        self._where = where
        self._subschemas = self._branches = self._patterns = 0
        self._steps = steps = _Steps()
        counted = self._counted(dict(schema), "$")
        if self._patterns > MAX_PATTERNS:
            raise InvalidRequest(f"{where}: the schema has more than {MAX_PATTERNS} patterns", param=where)

        class Step:
            def __init__(self, parent: Any, value: Any, path: Any) -> None:
                pass

            def validate(self, value: Any) -> None:
                steps.left -= 1
                if steps.left < 0:
                    raise ValueError

        try:
            self._validator = jsonschema_rs.validator_for(
                counted,
                keywords={_STEP: Step},
                validate_formats=False,
                retriever=_nothing_at,
                pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES, dfa_size_limit=_STATES_BYTES),
                mask="the value",
            )
        except jsonschema_rs.ValidationError as exc:
            raise self._unusable(exc) from None
        except (ValueError, jsonschema_rs.ReferencingError) as exc:
            raise InvalidRequest(f"{where}: this is no JSON Schema that can be used: {exc}", param=where) from None

    def violation(self, value: Any, chars: int) -> str | None:
        """What is wrong with a value whose text has so many characters, as `at $.a[1]: should be of type string`; None:
        it is as it should be."""
        if self._subschemas * chars > _MAX_WORK:
            return "it is too long to be held against a schema of this size"
        self._steps.left = _FREE_STEPS + _STEPS_PER_CHAR * chars
        valid = self._validator.is_valid(value)
        if self._steps.left < 0:
            return "to hold it against the schema takes too many steps"
        if valid:
            return None
        if self._branches * chars > _MAX_TOLD:
            return "it does not match the schema"
        self._steps.left = _STEPS_TO_THE_PLACE + chars // _CHARS_PER_STEP_TO_THE_PLACE
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as exc:
            if self._steps.left >= 0:
                return f"at {_path(exc.instance_path)}: {_wanted(exc.kind, *exc.schema_path[-1:])}"
        return "it does not match the schema"

    def _counted(self, schema: Any, at: str) -> Any:
        """The same schema, in which each `$ref` takes a step."""
        self._subschemas += 1
        if not isinstance(schema, dict):
            return schema
        made = dict(schema)
        for name, inner in schema.items():
            here = f"{at}.{name}"
            if name in _REFERENCES:
                self._allowed(name, inner, here)
            elif name == "$schema" and inner in _WITHOUT_CONDITIONS:
                raise InvalidRequest(f"{self._where}: {here}: use draft 7 or a later one", param=self._where)
            elif name == "pattern":
                self._patterns += 1
            elif name in _BY_NAME and isinstance(inner, dict):
                self._patterns += len(inner) if name == "patternProperties" else 0
                made[name] = {key: self._counted(each, f"{here}.{key}") for key, each in inner.items()}
            elif name in _LISTS and isinstance(inner, list):
                self._branches += len(inner) if name in ("anyOf", "oneOf") else 0
                made[name] = [self._counted(each, f"{here}[{index}]") for index, each in enumerate(inner)]
            elif name in _SINGLE:
                made[name] = self._counted(inner, here)
        # Around it: what stands beside a `$ref` is looked at in no certain order, and not at all by draft 7. By a
        # condition: of an `allOf` all is looked at where errors are collected.
        return {"if": {_STEP: True}, "then": made, "else": False} if "$ref" in made and at != "$" else made

    def _allowed(self, name: str, to: Any, at: str) -> None:
        if name != "$ref":
            raise InvalidRequest(f"{self._where}: {at}: use $ref; {name} is not supported", param=self._where)
        if isinstance(to, str) and not to.startswith("#"):
            raise InvalidRequest(
                f"{self._where}: {at}: should lead to a place in the schema itself, as #/$defs/name: nothing is "
                "fetched",
                param=self._where,
            )

    def _unusable(self, exc: jsonschema_rs.ValidationError) -> InvalidRequest:
        kind = exc.kind
        if kind.name == "format":
            what = "this regular expression is not supported: it is not valid, or very large, or looks around or back"
        elif kind.name == "$ref":
            what = f"a $ref leads nowhere: {_short(str(kind.value), 200)}"
        else:
            what = _wanted(kind)
        path = [part for part in exc.instance_path if part != _STEP]
        return InvalidRequest(f"{self._where}: no valid JSON Schema at {_path(path)}: {what}", param=self._where)


class _Steps:
    left = 0


_STEP = "x-sluiceway-step"
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_WITHOUT_CONDITIONS = tuple(
    f"http://json-schema.org/draft-0{draft}/schema{end}" for draft in (3, 4, 6) for end in ("", "#")
)
# Where subschemas stand, in all drafts (https://json-schema.org/draft/2020-12/json-schema-core#section-10).
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = (
    *("items", "additionalItems", "unevaluatedItems", "contains"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("not", "if", "then", "else", "contentSchema"),
)


def _nothing_at(uri: str) -> Any:
    raise ValueError("nothing is fetched")


def _wanted(kind: jsonschema_rs.ValidationErrorKind, keyword: str | int = "") -> str:
    """What the schema says, by the last keyword on the way to it; of the value no more than a few properties' names."""
    of: Any = kind
    match kind.name:
        case "type":
            return f"should be of type {' or '.join(sorted(of.types))}"
        case "required":
            return f"{_quoted(of.property)} is missing"
        case "additionalProperties" | "unevaluatedProperties":
            return f"should not have {', '.join(_quoted(name) for name in of.unexpected[:3])}"
        case "enum":
            return f"should be one of {_shown(of.options)}"
        case "const":
            return f"should be {_shown(of.expected_value)}"
        case "anyOf" | "oneOf":
            return f"should match {'one' if kind.name == 'oneOf' else 'at least one'} of the schemas in {kind.name}"
        case "falseSchema":
            by_itself = isinstance(keyword, str) and keyword in ("additionalProperties", "unevaluatedProperties")
            return "should have no properties" if by_itself else "should not be there"
        case "pattern":
            return f"should match {_short(of.pattern)}"
        case "not" | "contains" | "uniqueItems" | "propertyNames" | "unevaluatedItems" | "contentMediaType":
            return f"should be as {kind.name} says"
        case name:
            limit = of.value
            return f"should be as {name} says" + (f": {_shown(limit)}" if isinstance(limit, int | float | str) else "")


def _shown(value: Any) -> str:
    return _short(msgspec.json.encode(value).decode())


def _short(text: str, chars: int = 80) -> str:
    return text if len(text) <= chars else f"{text[:chars]}..."


def _quoted(name: str) -> str:
    return msgspec.json.encode(_short(name, 40)).decode()


def _path(parts: list[str | int]) -> str:
    """As a JSONPath: `$.rows[1]["a b"]`, of which the last steps are kept."""
    steps = [f"[{part}]" if isinstance(part, int) else _step(part) for part in parts]
    return "$" + ("..." if len(steps) > _MAX_STEPS_TOLD else "") + "".join(steps[-_MAX_STEPS_TOLD:])


_MAX_STEPS_TOLD = 12


def _step(name: str) -> str:
    return f".{name}" if _PLAIN.fullmatch(name) else f"[{_quoted(name)}]"


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
