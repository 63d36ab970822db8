"""JSON while it grows: each partial value is one that its text can only grow into, the last is the value itself, held
against its schema; and what that costs."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRequest, SchemaViolated, StreamBroken
from app.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ObjectPartial,
    Order,
    ReasoningDelta,
    Recovered,
    Started,
    TextDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolOutput,
    Usage,
)
from app.formats import FORMATS
from app.formats.base import WholeAnswer
from app.formats.native import NativeSSEEncoder
from app.journals.codec import decode, encode
from app.json_schema import MAX_BYTES, MAX_PATTERNS, Checker
from app.request import Schema
from app.transforms.objects import Growing, Objects

ANY: dict[str, Any] = {}
START = Started(id="a-1", model="m", provider="p", created=7)
USAGE = Usage(input_tokens=1, output_tokens=2)
STOP = Finished(reason="stop")


def through(events: Iterable[Event | list[Event]], schema: Any = ANY, *, streamed: bool = True) -> list[Event]:
    """What the transform makes of batches (an event alone is one); the order of the result is checked."""
    objects = Objects(Schema(schema), streamed)
    out: list[Event] = []
    for batch in events:
        out += objects.feed(batch if isinstance(batch, list) else [batch], 0.0)
        assert objects.due == inf
    order = Order()
    for event in out:
        order.check(event)
    return out


def answered(*pieces: str, reason: FinishReason = "stop") -> list[Event]:
    return [START, *(TextDelta(text=piece) for piece in pieces), USAGE, Finished(reason=reason)]


def partials(events: Sequence[Event]) -> list[Any]:
    return [event.partial for event in events if isinstance(event, ObjectPartial)]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def violation(events: Sequence[Event]) -> str:
    last = events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, SchemaViolated)
    return last.error.message


def grows_into(one: Any, other: Any) -> bool:
    """Whether `other` can be what has become of `one`: only what stands last may have grown."""
    if type(one) is not type(other):
        return False
    if isinstance(one, str):
        return bool(other.startswith(one))
    if isinstance(one, dict):
        if list(one) != list(other)[: len(one)]:
            return False
        return grows_into(list(one.values()), list(other.values()))
    if isinstance(one, list):
        if len(one) > len(other):
            return False
        return not one or (one[:-1] == other[: len(one) - 1] and grows_into(one[-1], other[len(one) - 1]))
    return bool(one == other)


# What a text can only grow into, found in another way: the longest part of it that is JSON when what is open is closed.
NOTHING = object()


def known(text: str) -> Any:
    for cut in range(len(text), 0, -1):
        part, follows = text[:cut], text[cut : cut + 1]
        closed, in_string = closing(part)
        if not in_string and part[-1] in "0123456789" and (not follows or follows in "0123456789.eE+-"):
            continue  # the number may go on
        try:
            value = json.loads(part + closed)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair
        except ValueError:
            continue
        return value
    return NOTHING


def closing(text: str) -> tuple[str, bool]:
    stack: list[str] = []
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = not escaped and char == "\\"
        elif char == '"':
            in_string = True
        elif char in "[{":
            stack.append("]" if char == "[" else "}")
        elif char in "]}" and stack:
            stack.pop()
    return ('"' if in_string else "") + "".join(reversed(stack)), in_string


strings = st.text(max_size=8) | st.sampled_from(
    ["😀", 'say "hi"', "back\\slash\\", "\\u0041", "a\u2028b", "é", "12e3", "\x00\n"]
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, -0.0, 1e300, 10**40])
values = st.recursive(
    st.none() | st.booleans() | numbers | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def written(draw: st.DrawFn) -> str:
    """A JSON text: with white space or not, with escapes or not."""
    text = json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    )
    return draw(st.sampled_from(["", " ", "\n\t"])) + text + draw(st.sampled_from(["", " ", "\r\n"]))


@settings(deadline=None)
@given(written())
def test_each_state_is_what_the_text_so_far_can_only_grow_into(text: str) -> None:
    growing = Growing()
    for at, char in enumerate(text):
        growing.add(char)
        value = growing.value()
        expected = known(text[: at + 1])
        if expected is NOTHING:
            assert not isinstance(value, dict | list | str | int | float | None)
        else:
            assert json.dumps(value) == json.dumps(expected)
    assert json.dumps(growing.whole()) == json.dumps(json.loads(text))


@settings(deadline=None)
@given(written(), st.data())
def test_any_cutting_into_tokens_and_batches(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=40)))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)]) if a < b]
    events = answered(*pieces)
    ends = sorted(data.draw(st.sets(st.integers(1, len(events)), max_size=len(events))))
    out = through(events[a:b] for a, b in pairwise([0, *ends, len(events)]) if a < b)

    shown = partials(out)
    assert text_of(out) == text
    assert [event for event in out if not isinstance(event, ObjectPartial)] == events
    assert all(grows_into(one, other) and one != other for one, other in pairwise(shown))
    assert json.dumps(shown[-1]) == json.dumps(json.loads(text))
    assert [type(event) for event in out[-3:]] == [type(out[-3]), Usage, Finished]
    assert decode(encode(out)) == out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[1, 12", [1]),
        ("[1, 12,", [1, 12]),
        ("[1, 12]", [1, 12]),
        ("[1, -", [1]),
        ("[1.5", []),
        ("[1.5e", []),
        ("[1.5e3 ", [1500.0]),
        ("[tru", []),
        ("[true", [True]),
        ("[false", [False]),
        ("[null", [None]),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b"', {"a": 1}),
        ('{"a": 1, "b": ', {"a": 1}),
        ('{"a": 12', {}),
        ('["12', ["12"]),
        ('["1e', ["1e"]),
        (r'["\\', ["\\"]),
        (r'["\\"', ["\\"]),
        (r'["\\",12', ["\\"]),
        (r'["a\"12', ['a"12']),
        (r'["a\\\"12', ['a\\"12']),
        (r'"a\u00e', "a"),
        (r'"a\ud83d', "a"),
        (r'"a\ud83d\ude0', "a"),
        (r'"a\ud83d\ude00', "a😀"),
        ("  \n[", []),
        ("\ufeff[", []),
        ("[" * 199, msgspec.json.decode("[" * 199 + "]" * 199)),
        (f"[{10**400},", [10**400]),
    ],
)
def test_what_is_known_of_a_text_that_is_cut(text: str, shown: Any) -> None:
    growing = Growing()
    growing.add(text)
    assert growing.value() == shown
    assert type(growing.value()) is type(shown)


@pytest.mark.parametrize(
    "text",
    ["", " ", "12", "-", "1e5", "tru", "```json\n{}", "Sure: {", "[1e999,", "[1.5,-2e400,", "[" * 10_000, "[NaN,"],
)
def test_nothing_is_known_of(text: str) -> None:
    growing = Growing()
    growing.add(text)
    assert not isinstance(growing.value(), dict | list | str | int | float | None)


def test_a_number_of_its_own_is_told_at_the_end() -> None:
    assert partials(through(answered("1", "2"))) == [12]
    assert partials(through(answered("n", "u", "ll"))) == [None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ('{"a": 1', "EOF while parsing an object at line 1 column 7"),
        ('```json\n{"a": 1}\n```', "expected value at line 1 column 1"),
        ('{"a": 1} Done.', "trailing characters at line 1 column 10"),
        ('{"secret": 1, "secret": 2}', "duplicate key at line 1 column 24"),
        ("[" * 202 + "]" * 202, "recursion limit exceeded at line 1 column 202"),
        ("[" * 10_000, "recursion limit exceeded at line 1 column 202"),
        ("[1e999]", "a number is out of range"),
        (f"[{'9' * 250}e99]", "a number is out of range"),
        (f"[{'9' * 5000}]", "number out of range at line 1 column 4303"),
        ("[NaN]", "expected value at line 1 column 2"),
        (r'["\ud83d"]', "unexpected end of hex escape at line 1 column 9"),
        ('["a\nb"]', "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text: str, why: str) -> None:
    out = through(answered(*text))
    assert violation(out).startswith(f"the answer is not what response_format asks for: it is no JSON: {why}. ")
    assert text_of(out) == text
    assert isinstance(out[-2], Usage)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert partials(through(answered("\ufeff", "[", "]"))) == [[]]


def test_a_partial_comes_when_the_text_has_grown_by_a_32nd() -> None:
    text = json.dumps({"story": "x" * 10_000})
    grown: list[int] = []
    chars = 0
    for event in through(answered(*text)):
        if isinstance(event, TextDelta):
            chars += 1
        elif isinstance(event, ObjectPartial):
            grown.append(chars)
    assert grown[:3] == [1, 11, 12]  # {, {"story": ", and then with each character
    assert all(b - a == max(1, a // 32) for a, b in pairwise(grown[1:-1]))
    assert grown[-1] == len(text)


def test_a_batch_has_one_partial_behind_its_text() -> None:
    out = through([[START, TextDelta(text="["), TextDelta(text="1,"), TextDelta(text="2,")], STOP])
    assert [type(event).__name__ for event in out[:5]] == [
        "Started",
        "TextDelta",
        "TextDelta",
        "TextDelta",
        "ObjectPartial",
    ]
    assert partials(out) == [[1, 2]]


# The end

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"rows": {"type": "array", "items": {"type": "integer"}}},
    "required": ["rows"],
    "additionalProperties": False,
}


def test_the_last_value_is_the_whole_one_before_the_usage() -> None:
    out = through(answered('{"rows": [1, ', "2", "]}"), SCHEMA)
    assert partials(out) == [{"rows": [1]}, {"rows": [1, 2]}]
    assert out[-2:] == [USAGE, STOP]


def test_a_violation_ends_the_stream_with_its_place() -> None:
    out = through(answered('{"rows": [1, ', '"a long and private text"', "]}"), SCHEMA)
    assert violation(out) == (
        "the answer is not what response_format asks for: at $.rows[1]: should be of type integer. The text stands as "
        "it was sent; try again, or change the schema"
    )
    assert isinstance(out[-2], Usage)
    assert text_of(out) == '{"rows": [1, "a long and private text"]}'
    error = SchemaViolated("x")
    assert (error.code, error.http_status, error.retryable, isinstance(error, StreamBroken)) == (
        *("stream_broken", 502),
        *(True, True),
    )


def test_an_answer_in_one_piece_has_its_text_in_the_error() -> None:
    text = '{"rows": ["a"]}'
    last = through([answered(text)], SCHEMA, streamed=False)[-1]
    assert isinstance(last, Failed)
    told = FORMATS["native"]().error(last.error)
    assert told["text"] == text
    assert told["error"]["message"].endswith("at $.rows[0]: should be of type integer; try again, or change the schema")


@pytest.mark.parametrize("reason", ["length", "content_filter", "cancelled", "tool_calls"])
def test_what_is_not_whole_is_not_held_against_the_schema(reason: FinishReason) -> None:
    out = through(answered('{"rows": ["a', "b", reason=reason), SCHEMA)
    assert partials(out)[-1] == {"rows": ["ab"]}
    assert out[-1] == Finished(reason=reason)


def test_a_refusal_is_no_value() -> None:
    out = through([START, TextDelta(text="[1] I can't.", refusal=True), USAGE, STOP], SCHEMA)
    assert not partials(out)
    assert out[-1] == STOP


def test_what_broke_off_is_told_as_far_as_it_came() -> None:
    text = json.dumps(["x" * 3000])
    broke = Failed(error=StreamBroken("it broke"))
    out = through([START, *(TextDelta(text=char) for char in text[:-7]), broke], SCHEMA)
    assert out[-1] is broke
    assert partials(out)[-1] == ["x" * 2995]


def called(name: str) -> list[Event]:
    return [ToolCallStarted(call_id=name, name=name), ToolCallEnded(call_id=name, name=name, arguments="{}")]


def test_behind_a_tool_s_output_the_value_begins_anew() -> None:
    first: list[Event] = [START, TextDelta(text='{"rows": ["not this'), *called("a"), *called("b")]
    outputs: list[Event] = [
        ToolOutput(call_id="a", name="a", result="[5]"),
        ToolOutput(call_id="b", name="b", error="no"),
    ]
    out = through([first, *outputs, TextDelta(text='{"rows"'), TextDelta(text=": [7]}"), USAGE, STOP], SCHEMA)
    assert partials(out) == [{}, {"rows": [7]}]
    assert out[-1] == STOP

    told = through(
        [START, TextDelta(text='["looking'), *called("a"), outputs[0], TextDelta(text="it rains"), STOP], SCHEMA
    )
    assert partials(told) == [["looking"]]
    assert "it is no JSON" in violation(told)


@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
def test_an_answer_that_ends_in_a_call_owes_no_value(reason: FinishReason) -> None:
    out = through([START, TextDelta(text="Let me see. "), *called("a"), Finished(reason=reason)], SCHEMA)
    assert out[-1] == Finished(reason=reason)
    assert not partials(out)


def recovered(kept: int, *, exact: bool = False) -> Recovered:
    return Recovered(from_="a/b", to="c/d", kept_chars=kept, model="d", exact=exact)


@settings(deadline=None)
@given(written(), written(), st.data())
def test_a_recovery_takes_back_what_does_not_stand(first: str, second: str, data: st.DataObject) -> None:
    """The first answer broke off somewhere, and what stands of it is what the second begins with as well."""
    common = next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    kept = data.draw(st.integers(0, common))
    step: list[Event] = [TextDelta(text="é" * 7), *called("a"), ToolOutput(call_id="a", name="a")]
    before = data.draw(st.sampled_from([[], step]))
    out = through(
        [
            *[START, *before, *(TextDelta(text=char) for char in first[: data.draw(st.integers(kept, len(first)))])],
            recovered(kept + 7 * bool(before), exact=False),
            *(TextDelta(text=char) for char in second[kept:]),
            STOP,
        ]
    )
    at = next(at for at, event in enumerate(out) if isinstance(event, Recovered))
    for shown in (partials(out[:at]), partials(out[at:])):
        assert all(grows_into(one, other) for one, other in pairwise(shown))
    assert json.dumps(partials(out)[-1]) == json.dumps(json.loads(second))
    assert out[-1] == STOP


def test_after_a_recovery_what_is_shown_stands_at_once() -> None:
    out = through(
        [START, TextDelta(text='["é long story'), recovered(4), TextDelta(text="pic"), TextDelta(text='"]'), STOP]
    )
    assert partials(out) == [["é long story"], ["é "], ["é pic"], ["é pic"]][0:3]
    exact = through([START, TextDelta(text='["a'), recovered(3, exact=True), TextDelta(text='b"]'), STOP])
    assert partials(exact) == [["a"], ["ab"]]


def test_thoughts_are_no_part_of_it() -> None:
    out = through([START, ReasoningDelta(text='["no'), TextDelta(text="[1]"), STOP])
    assert partials(out) == [[1]]


def test_a_whole_answer_has_one_partial_and_shows_it() -> None:
    out = through([answered('{"rows": [', "1]}")], SCHEMA)
    assert len(partials(out)) == 1
    folded = WholeAnswer()
    folded.feed(out)
    assert folded.object == {"rows": [1]}


# Schemas


def refused(schema: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        Checker(schema)
    assert caught.value.param == "response_format"
    return caught.value


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strin"}, "no valid JSON Schema at $.type: should match"),
        ({"properties": {"a b": {"type": 5}}}, 'no valid JSON Schema at $.properties["a b"].type: '),
        ({"required": "a"}, "no valid JSON Schema at $.required: should be of type array"),
        ({"properties": []}, "no valid JSON Schema at $.properties: should be of type object"),
        ({"$ref": "http://127.0.0.1:1/x"}, "$.$ref: should lead to a place in the schema itself"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "$.items.$ref: should lead to a place in the schema itself"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "$.properties.a.$ref: should lead"),
        ({"$id": "http://a.example/", "anyOf": [{"$ref": "x"}]}, "$.anyOf[0].$ref: should lead"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "$.$ref: should lead"),
        ({"$dynamicRef": "#x"}, "$.$dynamicRef: use $ref"),
        ({"$schema": "https://a.example/mine"}, "meta-schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "$.$schema: use draft 7 or a later one"),
        ({"$ref": "#/$defs/none"}, "a $ref leads nowhere: "),
        ({"pattern": "(a"}, "$.pattern: this regular expression is not supported"),
        ({"pattern": "^(?=.*[0-9])"}, "$.pattern: this regular expression is not supported"),
        ({"pattern": r"(.)\1"}, "$.pattern: this regular expression is not supported"),
        ({"pattern": "((a{1000}){1000}){1000}"}, "$.pattern: this regular expression is not supported"),
        ({"patternProperties": {"(?<=a)": {}}}, "this regular expression is not supported"),
        ({"enum": ["x" * MAX_BYTES]}, f"the schema is larger than {MAX_BYTES} bytes"),
        ({"anyOf": [{"pattern": "a"}] * (MAX_PATTERNS + 1)}, f"more than {MAX_PATTERNS} patterns"),
    ],
)
def test_a_schema_that_can_t_be_used_is_refused(schema: Any, says: str) -> None:
    assert says in refused(schema).message


def checked(schema: Any, value: Any) -> str | None:
    return Checker(schema).violation(value, len(json.dumps(value)))


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"type": ["string", "null"]}, 1, "at $: should be of type null or string"),
        ({"required": ["a b"]}, {}, 'at $: "a b" is missing'),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"x" * 99: 1},
         f'at $: should not have "{"x" * 40}..."'),
        ({"additionalProperties": False}, {"private": 1}, "at $: should have no properties"),
        ({"enum": ["a", 1]}, "private", 'at $: should be one of ["a",1]'),
        ({"const": {"a": "b" * 99}}, 1, f'at $: should be {{"a":"{"b" * 74}...'),
        ({"anyOf": [{"type": "string"}, {"minimum": 3}]}, 1, "at $: should match at least one of the schemas in anyOf"),
        ({"oneOf": [{}, {}]}, 1, "at $: should match one of the schemas in oneOf"),
        ({"properties": {"a": False}}, {"a": 1}, "at $.a: should not be there"),
        ({"pattern": "^a+$"}, "private", "at $: should match ^a+$"),
        ({"not": {}}, 1, "at $: should be as not says"),
        ({"uniqueItems": True}, [1, 1], "at $: should be as uniqueItems says"),
        ({"propertyNames": {"maxLength": 1}}, {"private": 1}, "at $: should be as propertyNames says"),
        ({"maxLength": 3}, "private", "at $: should be as maxLength says: 3"),
        ({"multipleOf": 0.5}, 0.75, "at $: should be as multipleOf says: 0.5"),
        ({"minimum": 10**400}, 5, f"at $: should be as minimum says: {'1' + '0' * 79}..."),
        ({"items": {"properties": {"k" * 99: {"type": "null"}}}}, [{"k" * 99: 1}], f'at $[0]["{"k" * 40}..."]: '),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"items": {"$ref": "#/$defs/n"}, "type": "array"}}}, [[], [[3]]],
         "at $[1][0][0]: should be of type array"),
    ],
)  # fmt: skip
def test_a_violation_says_what_is_wanted_and_nothing_of_the_value(schema: Any, value: Any, says: str) -> None:
    told = checked(schema, value)
    assert told is not None
    assert told.startswith(says)
    assert "private" not in told
    assert len(told) < 300


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"format": "email"}, "no address"),  # not asserted
        ({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"type": "null"}},
          "properties": {"a": {"$ref": "#/definitions/a", "type": "string"}}}, {"a": None}),
        ({"prefixItems": [{"type": "null"}], "items": {"type": "integer"}}, [None, 1, 10**40]),
        ({"$id": "https://a.example/s", "$defs": {"a": {"$anchor": "x"}}, "items": {"$ref": "#x"}}, [1]),
        ({"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}}, {"$ref": "x", "pattern": "("}),
        ({"$ref": "#"}, 1),
    ],
)  # fmt: skip
def test_a_value_that_is_as_it_should_be(schema: Any, value: Any) -> None:
    assert checked(schema, value) is None


def nested(depth: int, leaf: Any) -> Any:
    return {"a": nested(depth - 1, leaf)} if depth else leaf


def wide(ways: int) -> dict[str, Any]:
    """Any of the definitions may stand at each level: there are `ways` to the power of the depth of ways through."""
    inner = [{"properties": {"a": {"$ref": f"#/$defs/d{way}"}}} for way in range(ways)]
    return {"$ref": "#/$defs/d0", "$defs": {f"d{way}": {"anyOf": inner, "type": "object"} for way in range(ways)}}


def doubling(times: int) -> dict[str, Any]:
    defs: dict[str, Any] = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(times)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{times}": {"type": "integer"}}}


def ring(size: int) -> dict[str, Any]:
    everyone = {"allOf": [{"$ref": f"#/$defs/d{at}"} for at in range(size)]}
    return {"$ref": "#/$defs/d0", "$defs": dict.fromkeys([f"d{at}" for at in range(size)], everyone)}


@pytest.mark.parametrize(
    ("schema", "value"), [(wide(20), nested(30, 1)), (doubling(60), 1), (ring(40), 1), (ring(9), 1)],
    ids=["wide", "doubling", "ring", "small ring"],
)  # fmt: skip
def test_a_schema_with_endless_ways_through_it_ends(schema: Any, value: Any) -> None:
    began = time.process_time()
    assert checked(schema, value) in ("to hold it against the schema takes too many steps", "at $: it does not match")
    print(f"{time.process_time() - began:.3f} s")


def test_a_grammar_of_many_kinds_of_nodes_is_checked() -> None:
    node: dict[str, Any] = {
        f"n{at}": {
            "properties": {"left": {"$ref": "#/$defs/e"}, "right": {"$ref": "#/$defs/e"}, "op": {"const": at}},
            "required": ["left", "right", "op"],
        }
        for at in range(20)
    }
    kinds = [{"type": "integer"}, *({"$ref": f"#/$defs/{name}"} for name in node)]
    schema = {"$ref": "#/$defs/e", "$defs": {"e": {"type": ["integer", "object"], "anyOf": kinds}, **node}}

    def tree(depth: int, leaf: Any) -> Any:
        return {"op": depth * 7 % 20, "left": tree(depth - 1, leaf), "right": tree(depth - 1, 1)} if depth else leaf

    assert checked(schema, tree(9, 1)) is None
    assert checked(schema, tree(9, "no")) is not None


def test_a_large_value_is_checked_without_a_copy_for_each_branch() -> None:
    schema = {"anyOf": [{"type": "string"}] * 1000}
    assert checked(schema, list(range(100_000))) == "it does not match the schema"
    assert checked({"allOf": [{"type": "array"}] * 2000}, list(range(100_000))) == (
        "it is too long to be held against a schema of this size"
    )


def test_a_pattern_that_backtracks_elsewhere_is_matched_in_linear_time() -> None:
    assert checked({"items": {"pattern": "^(a+)+$"}}, ["a" * 100_000 + "b"] * 5) == "at $[0]: should match ^(a+)+$"


# The cost


def rows(size: int) -> str:
    """Of so many bytes, in ASCII."""
    rng = random.Random(size)  # noqa: S311
    made: list[str] = []
    length = 12
    while length < size:
        row = {
            "id": len(made),
            "name": f"row {rng.random():.6f}",
            "tags": ["a", "bc"],
            "text": "word " * rng.randrange(20),
        }
        made.append(json.dumps(row))
        length += len(made[-1]) + 2
    return f'{{"rows": [{", ".join(made)}]}}'


class Cost(NamedTuple):
    """CPU of the tokens and of their objects, in seconds, with what it takes to write them; and of the objects how many
    bytes are written, and how many there are."""

    tokens_s: float
    objects_s: float
    written: int
    partials: int


def cost(text: str, piece: int = 3) -> Cost:
    tokens: list[Event] = [TextDelta(text=text[at : at + piece]) for at in range(0, len(text), piece)]
    gc.collect()
    gc.freeze()  # these are the test's own
    try:
        encoder = NativeSSEEncoder()
        began = time.process_time()
        for token in tokens:
            encoder.feed([token])
        alone_s = time.process_time() - began
        objects = Objects(Schema(ANY), True)
        written = partials = 0
        began = time.process_time()
        for batch in (*([token] for token in tokens), [STOP]):
            for event in objects.feed(batch, 0.0):
                if isinstance(event, ObjectPartial):
                    partials += 1
                    written += len(encoder.feed([event]))
        return Cost(alone_s, time.process_time() - began, written, partials)
    finally:
        gc.unfreeze()


def test_a_megabyte_in_pieces_of_three_bytes_costs_what_it_is_long(capsys: pytest.CaptureFixture[str]) -> None:
    """The bytes are counted, and the same everywhere; the seconds are the machine's, and printed."""
    lines, per_byte = [], []
    for size in (65_536, 262_144, 1_048_576):
        text = rows(size)
        seen = cost(text)
        per_byte.append(seen.written / len(text))
        lines.append(
            f"{len(text) / 1024:5.0f} KB of JSON: {seen.objects_s:.3f} s for its objects "
            f"({seen.objects_s / len(text) * 1e6:.2f} us a byte; its tokens {seen.tokens_s:.3f} s), "
            f"{seen.partials} partials of {seen.written / 1e6:.1f} MB ({per_byte[-1]:.1f} bytes a byte)"
        )
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert max(per_byte) < 34
    assert max(per_byte) < 1.1 * min(per_byte)


def test_a_small_token_is_not_a_reading_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def counted(self: Growing) -> Any:
        nonlocal read
        read += len(str(self))
        return value_of(self)

    value_of = Growing.value
    monkeypatch.setattr(Growing, "value", counted)
    text = rows(20_000)
    through(answered(*text))
    assert read < 34 * len(text)
