"""Text in units that a renderer can use: where sentences and Markdown's blocks end, that this depends on the text
alone, and that nothing is lost, taken back wrongly, or held for too long."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import accumulate, pairwise
from math import inf
from typing import ClassVar, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from app.errors import InvalidRequest, SluicewayError, StreamBroken
from app.events import (
    Batch,
    Event,
    Failed,
    Finished,
    ObjectPartial,
    ReasoningDelta,
    Recovered,
    Source,
    Started,
    TextDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)
from app.formats import FORMATS
from app.request import ChatRequest, Message, Shape
from app.shaped import shaped as shaping_of
from app.transforms import transforms_of
from app.transforms.shape import Shaping

Unit = Literal["token", "sentence", "block"]

END = Finished(reason="stop")


def told(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


def shaped(tokens: list[str], shape: Shape) -> list[str]:
    """The pieces of a text that ends."""
    shaping = Shaping(shape)
    events = [event for token in tokens for event in shaping.feed([TextDelta(text=token)], 0.0)]
    last = shaping.feed([END], 0.0)
    assert last[-1] is END
    assert shaping.due == inf
    return told(events + last)


def pieces(text: str, unit: Unit) -> list[str]:
    return shaped([text], Shape(unit))


# ---- Sentences: each case is written as its sentences.

ENGLISH = [
    ["Dr. Smith met Mr. and Mrs. Jones at 5 p.m. in the U.S. embassy. ", "They talked. ", "Prof. Lee left."],
    ["J. R. R. Tolkien wrote it. ", "So did C. S. Lewis. ", "I. M. Pei built."],
    ["So do I. ", "Take plan B. ", "The other failed."],
    ["Use tools, e.g. a hammer, i.e. Thor's, etc. and so on. ", "Apples, pears, etc. ", "Then we left."],
    ["It cost $3.14 (approx. 3 USD), see Fig. 3, No. 5 and Vol. II of it. ", "Next."],
    ["Is it? ", "No. ", "It is not!"],
    ["Team A vs. Team B at 10 a.m. Monday. ", "Acme Inc. Chairman Smith et al. (2020) said so. ", "Ph.D. Jones too."],
    ["He lives in the U.S. ", "He works at 9 a.m. ", "It is early."],
    [
        "Version 1.2.3 is out. ",
        "Python 3.14. ",
        "See https://a.com/x.y?q=1!z and mail me@b.co.uk. ",
        "Edit foo.py, .env.",
    ],
    ["I like .NET. ", "Wait... what? ", "Wait... ", "No! ", "Really?! ", "Yes."],
    ["Well . . . perhaps. ", "Stop!!! ", "Go."],
    ['"Stop!" he said. ', '"Go on." ', "She left. ", "(See above.) ", "Then ‘that.’ ", "“Ok.” ", "End"],
    ["**Bold.** ", "Then *it.* ", "The `foo.py.` ", "Text.[1] ", "More.[^2] ", "Great!😀 ", "End"],
    ["Solve for x. ", "Then add 2. ", "Done in 2024. ", "Good."],
    ["1. First this. ", "Then that.\n", "2. Second\n", "10. Tenth."],
    ["a. One thing. ", "End"],
    ["He said:\n", "- item one. more of it\n", "- item two\n", "* Item three\n\n", "After it. ", "End"],
    ["A line\nthat goes on. ", "Then\nanother.\n", "End"],
    ["No mark at all\n\n", "Next paragraph\n \t\n\n", "  indented"],
    ["# Title. One\n", "Text. ", "More\n", "## Next\n\n", "Title\n===\n", "End"],
    ["Text:\n", "```py\n", "a = b. C\n\n", "  d! E\n", "```\n", "After. ", "End"],
    ["Text:\n", "| a. B | c |\n", "|---|---|\n", "| x! Y | z |\n\n", "End."],
    ["Quote:\n", "> One. ", "Two\n> goes on. ", "\n\n", "End"],
    ["Yes!\r\n\r\n", "No.\r\n", "End.\r"],
]
OTHERS = [
    ["你好。", "「走吧！」", "他说。", "真的吗？！", "是的……不知道。", "他说“对。”", "然后走了。"],
    ["第一句。 ", "**重要。**", "第二句！😀", "**三**，好。", "版本3.14。", "完了"],
    ["他走了.", "我来了?", "好3.年。"],
    ["これは本です。", "（はい。）", "いいえ｡", "そう。"],
    ["„Hallo.“ ", "Er ging. ", "»Ja.« ", "Sie blieb, z.B. am 3. Oktober, bzw. danach. ", "Hr. Maier, d. h. er."],
    ["« Bonjour. » ", "M. Dupont part. ", "Mme. Curie, p. ex. ici, reste. ", "Fin"],
    ["¿Qué? ", "¡Hola! ", "El Sr. López, Ud. y la Dra. Ruiz. ", "Fin."],
    ["यह एक है। ", "वह दो है। ", "अंत"],
    ["هل هذا؟ ", "نعم."],
]


@pytest.mark.parametrize("sentences", ENGLISH + OTHERS, ids=lambda sentences: sentences[0][:20])
def test_sentences(sentences: list[str]) -> None:
    text = "".join(sentences)
    assert pieces(text, "sentence") == _merged(sentences)
    assert shaped(list(text), Shape("sentence")) == pieces(text, "sentence")


def _merged(sentences: list[str]) -> list[str]:
    """White space alone belongs to what stands before it."""
    merged: list[str] = []
    for sentence in sentences:
        if merged and not sentence.strip():
            merged[-1] += sentence
        else:
            merged.append(sentence)
    return merged


def test_a_sentence_leaves_with_the_first_letter_of_the_next() -> None:
    shaping = Shaping(Shape("sentence"))
    for token in ("It", " rains", ".", " "):
        assert shaping.feed([TextDelta(text=token)], 0.0) == []
    assert (
        told(shaping.feed([TextDelta(text="We")], 0.0)) == []
    )  # "We" may become "Western": "It rains. W" may not be I.
    assert told(shaping.feed([TextDelta(text=" go")], 0.0)) == ["It rains. "]


# ---- Blocks: each case is written as its blocks.

BLOCKS = [
    ["One\ntwo\n\n", "Three\n\n\n", "Four"],
    ["# One\n", "Text\n", "## Two ##\n\n", "Title\n===\n", "Next\nline\n---\n", "Text\n", "***\n", "- - -\n", "End"],
    ["Text\n", "```py\na\n\n~~~\n``\n```\n", "Text\n", "~~~ `x`\n\n```\n~~~~\n\n", "End"],
    ["````md\n```\nx\n```\n\n# no\n````\n", "End\n"],
    ["```x``` is code\nin text\n\n", "```\nunclosed\n\n# no\n\n- no\n"],
    ["- a\n- b\n\n  more\n\n  ```\n  x\n\n\n  y\n  ```\n- c\nlazy\n\n\n- d\n\n", "End\n"],
    ["- a\n  - b\n    - c\n\n      deep\n\n  back\n\n", "* other\n", "+ other\n\n", "1. one\n2. two\n\n", "1) other\n"],
    [
        "Text\n",
        "- a\n- b\n",
        "# Head\n",
        "1. a\n   1. b\n\n   > q\n   > r\n\n2. c\n\n",
        "Text\n\n",
        "    code\n\n    code\n\n",
        "End",
    ],
    ["Text\n2. no list\n-\n", "1. list\n"],
    ["> a\nlazy\n> - b\n> - c\n>\n> ```\n> x\n", "```\nnot in it\n```\n", "> a\n\n", "> b\n"],
    ["| a | b |\n|---|:-:|\n| 1 | 2 |\nno pipe\n\n", "Text\n", "a | b\n-|-\n1 | 2\n", "# End\n"],
    ["| a \\| b |\n|---|\n| 1 |\n\n", "| a | b |\n|---|\nno table\n\n", "| a |\n|-|\n", "- x\n"],
    [
        "<div>\n*a*\n\n",
        "b\n",
        "</div>\n\n",
        "<b>x</b>\n\n",
        "<!-- a\n\nb -->\n",
        "<pre>\n\nx\n</pre>\n",
        "<x-y>\na\n\n",
        "End",
    ],
    ["[a]: /b\n\n", "[c]: <d> 'e'\n[f]: g\n\n", "[a] End\n"],
    ["\n\n  Text\n\n", "    code\n\n\n    more\n", "Text\n    no code\n\n", "\tcode\n"],
    ["Text\r\n\r\n", "Text\rline\r\r", "# Head\r\n", "End\r"],
    ["- \n\n", "no item\n\n", "-\n  item\n\n", "End"],
    ["1. a\n\n   b\n2. c\n   - d\n\n     e\n\n10. f\n\n    in it\n\n", "   not in it\n"],
]


@pytest.mark.parametrize("blocks", BLOCKS, ids=range(len(BLOCKS)))
def test_blocks(blocks: list[str]) -> None:
    text = "".join(blocks)
    assert pieces(text, "block") == blocks
    assert shaped(list(text), Shape("block")) == blocks
    agree_with_markdown_it(text)


@pytest.mark.parametrize(
    "blocks",
    [
        ["Text\n", "$$\na\n\nb\n$$\n", "Text\n\n", "$$ a = b $$\n", "Text $$ a\n\n", "$$ a\n\n- b $$\n", "End"],
        ["1. a\n\n   $$\n   x\n\n   y\n   $$\n2. b\n\n", "$$\nunclosed\n\n# no\n"],
    ],
)
def test_math_is_not_split(blocks: list[str]) -> None:
    """markdown-it knows it by plugins only."""
    text = "".join(blocks)
    assert pieces(text, "block") == blocks
    assert shaped(list(text), Shape("block")) == blocks


MARKDOWN = MarkdownIt("commonmark", {"maxNesting": 1000}).enable("table")


def agree_with_markdown_it(text: str) -> None:
    """Each of its top-level blocks is in a piece of its own, and none is in two. What gives no token (a definition)
    may be a piece or not."""
    lines = [0, *accumulate(map(len, re.findall(r"[^\r\n]*(?:\r\n|\r|\n)", text)))]
    maps = [token.map for token in MARKDOWN.parse(text) if token.level == 0 and token.map]
    ends = list(accumulate(map(len, pieces(text, "block"))))
    for begin, end in maps:
        inside = [at for at in ends if lines[begin] < at < (lines[end] if end < len(lines) else len(text))]
        assert not inside, f"cut at {inside} inside of lines {begin} to {end} of {text!r}"
    for _, (begin, _) in pairwise(maps):
        assert lines[begin] in ends, f"no cut at line {begin} of {text!r}"


INDENTS = ("", "", "", " ", "  ", "   ")
BEGINNINGS = (
    "- ", "* ", "+ ", "1. ", "2. ", "7) ", "10. ", "> ", ">", "# ", "### ", "```", "````py", "~~~", "---", "***", "===",
    "-", "+", "<div>", "</div>", "<b>", "</x-y>", "<!--", "-->", "<?", "<script>", "</script>", "<pre>", "[a]: b", "",
)  # fmt: skip
WORDS = (
    "a",
    "b c",
    "`d`",
    "**e**",
    "| f | g |",
    "h | i",
    "|---|---|",
    "-|-",
    "|-|",
    "|j|",
    "",
    "",
    "---",
    "-->",
    "```",
)
LINE = st.builds(
    lambda first, marks, word: first + "".join(marks) + word,
    st.sampled_from(INDENTS),
    st.lists(st.sampled_from(BEGINNINGS), max_size=2),
    st.sampled_from(WORDS),
)
PLAIN = st.sampled_from(("    a", "     b", "\tc", "      d e", "  f", "g", "", ""))
DOCUMENT = st.lists(st.one_of(LINE, LINE, PLAIN), max_size=14).map(lambda lines: "\n".join(lines) + "\n")

# Where markdown-it goes another way than CommonMark, or than GFM where that is asked about tables.
OWN_WAYS = (
    r"^[ >\t]*(?:(?:[-+*]|\d+[.)])[ \t]*)+\n[ \t>]*\n[ \t>]*\n",  # an empty item before two blank lines ends its list
    r"^[ \t>]*(?:[#>\-+*<~`=]|\d).*\n[ >\t]*[|:-]+[|: -]*$",  # anything at all is a table's header
    r"^ {4}.*\n[ >\t]*[|:-]+[|: -]*$|\n[^\n]*\|[^\n]*\n {1,3}[|:-]+[|: -]*$",  # also a line that goes on lazily
    r"^(?: {4,}| *\t) *>",  # a quote goes on with a mark that is indented by four
    r"\[a\]: b.*\n(?!\n)",  # what follows a definition begins a block, and interrupts nothing
)


@settings(deadline=None)
@given(DOCUMENT)
def test_blocks_are_those_of_a_markdown_parser(text: str) -> None:
    assume(not any(re.search(way, text, re.MULTILINE) for way in OWN_WAYS))
    agree_with_markdown_it(text)


def test_a_block_leaves_with_the_first_character_of_the_next() -> None:
    shaping = Shaping(Shape("block"))
    for token in ("One", "\n", "\n", " "):
        assert shaping.feed([TextDelta(text=token)], 0.0) == []
    assert told(shaping.feed([TextDelta(text="T")], 0.0)) == ["One\n\n"]
    for token in ("wo\n\n", "- a", "\n\n"):
        shaping.feed([TextDelta(text=token)], 0.0)
    assert told(shaping.feed([TextDelta(text="-")], 0.0)) == []  # one more item?
    assert told(shaping.feed([TextDelta(text=" b\n\n")], 0.0)) == []
    assert told(shaping.feed([TextDelta(text="End")], 0.0)) == ["- a\n\n- b\n\n"]


# ---- Both.

_MARKS = """. ! ? … 。 ！ 」 「 " ' ” “ ) ( [1] [ ] * ** _ ` ``` ~~~ # - + 1. 12) > | $$ < <div> <!-- --> --- === Mr Dr
    U.S e.g etc No I J. x 3 14 The the Then and A Für « » , ; : – ... 你好 かな 😀 a b\\"""
_SPACES = [" ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "    ", "\n\n\n", "\n    ", "\u00a0", "\u2028"]
_LINES = ["\n> ", "\n- ", "\n```\n", "\n|-|\n", "|a|"]
SCRAPS = st.sampled_from([*_MARKS.split(), *_SPACES, *_LINES])
TEXT = st.one_of(st.lists(SCRAPS, max_size=40).map("".join), st.text(max_size=60), DOCUMENT)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    text = draw(TEXT)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=60)))
    return [text[begin:end] for begin, end in pairwise([0, *cuts, len(text)])]


@settings(deadline=None)
@given(cut_texts(), st.sampled_from(["sentence", "block"]), st.sampled_from([0, 1, 5, 30]))
def test_pieces_are_those_of_the_whole_text_however_it_comes(tokens: list[str], unit: Unit, least: int) -> None:
    text = "".join(tokens)
    got = shaped(tokens, Shape(unit, least))
    assert "".join(got) == text
    assert got == shaped([text], Shape(unit, least))
    assert got == shaped(list(text), Shape(unit, least))
    assert all(got)
    assert all(len(piece) >= least for piece in got[:-1])
    units = set(accumulate(map(len, pieces(text, unit))))
    assert set(accumulate(map(len, got))) <= units


@settings(deadline=None)
@given(cut_texts(), st.integers(1, 30))
def test_tokens_are_gathered(tokens: list[str], least: int) -> None:
    got = shaped(tokens, Shape("token", least))
    assert "".join(got) == "".join(tokens)
    assert all(len(piece) >= least for piece in got[:-1])
    assert set(accumulate(map(len, got))) <= set(accumulate(map(len, tokens)))


@settings(deadline=None)
@given(cut_texts(), st.sampled_from(["token", "sentence", "block"]), st.data())
def test_nothing_is_held_for_longer_than_it_may(tokens: list[str], unit: Unit, data: st.DataObject) -> None:
    shaping = Shaping(Shape(unit, max_wait_ms=100))
    now = 0.0
    came: list[float] = []  # when each character did
    left = 0
    said = ""
    for token in tokens:
        due = now + data.draw(st.sampled_from([0.0, 0.01, 0.05, 0.25]))
        while shaping.due <= due:
            now = shaping.due
            assert shaping.release(now - 0.001) == []
            said += "".join(told(shaping.release(now)))
            assert now - came[left] == pytest.approx(0.1)
            left = len(said)
        now = due
        came += [now] * len(token)
        said += "".join(told(shaping.feed([TextDelta(text=token)], now)))
        left = len(said)
        assert shaping.due == (inf if left == len(came) else pytest.approx(came[left] + 0.1))
    said += "".join(told(shaping.feed([END], now)))
    assert said == "".join(tokens)


def test_what_is_late_leaves_with_what_comes_then() -> None:
    """As from a provider that is never waited for."""
    shaping = Shaping(Shape("block", max_wait_ms=100))
    assert shaping.feed([TextDelta(text="a")], 1.0) == []
    assert shaping.due == pytest.approx(1.1)
    assert told(shaping.feed([TextDelta(text="b")], 1.2)) == ["ab"]
    assert shaping.due == inf


# ---- Other events.

START = Started(id="a", model="m", provider="p", created=0)
USAGE = Usage(input_tokens=1, output_tokens=1)
CALL = ToolCallStarted(call_id="c", name="f")
CALLED = ToolCallEnded(call_id="c", name="f", arguments="{}")


def text(*texts: str) -> list[Event]:
    return [TextDelta(text=each) for each in texts]


@pytest.mark.parametrize(
    "event",
    [ReasoningDelta(text="hm"), CALL, Source(url="u"), USAGE, END, Failed(error=StreamBroken("broken"))],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("unit", ["token", "sentence", "block"])
def test_what_is_held_leaves_before_every_other_event(unit: Unit, event: Event) -> None:
    shaping = Shaping(Shape(unit, 100))
    assert shaping.feed([START, *text("One. Two", " and")], 0.0) == [START]
    assert shaping.feed([event], 0.0) == [*text("One. Two and"), event]
    assert shaping.due == inf
    assert shaping.feed([event], 0.0) == [event]


def test_objects_pass_what_is_held() -> None:
    shaping = Shaping(Shape("block"))
    grown = [ObjectPartial(partial={}), ObjectPartial(partial={"a": 1})]
    assert shaping.feed([*text('{"a"'), grown[0], *text(":1}"), grown[1], END], 0.0) == [*grown, *text('{"a":1}'), END]


def test_a_refusal_is_a_text_of_its_own() -> None:
    shaping = Shaping(Shape("sentence"))
    no = TextDelta(text="No. I", refusal=True)
    events = shaping.feed([*text("One. Two"), no, TextDelta(text=" can't.", refusal=True), *text("Oh"), END], 0.0)
    refused = [TextDelta(text="No. ", refusal=True), TextDelta(text="I can't.", refusal=True)]
    assert events == [*text("One. ", "Two"), *refused, *text("Oh"), END]


def test_behind_a_call_a_text_begins_and_behind_a_source_it_goes_on() -> None:
    fenced = text("```\na\n\nb\n```\n\nc")
    shaping = Shaping(Shape("block"))
    assert shaping.feed([*text("```\n"), CALL, CALLED, *text("a\n\nb\n\n"), END], 0.0) == [
        *text("```\n"), CALL, CALLED, *text("a\n\n", "b\n\n"), END
    ]  # fmt: skip
    shaping = Shaping(Shape("block"))
    source = Source(url="u")
    assert shaping.feed([*text("```\na"), source, *text("\n\nb\n```\n\nc"), END], 0.0) == [
        *text("```\na"), source, *text("\n\nb\n```\n\n", "c"), END
    ]  # fmt: skip
    assert told(Shaping(Shape("block")).feed([*fenced, END], 0.0)) == ["```\na\n\nb\n```\n\n", "c"]


# ---- An answer that broke off.


def recovered(kept: int, *, exact: bool) -> Recovered:
    return Recovered(from_="a", to="b", kept_chars=kept, model="m", exact=exact)


def test_what_is_held_goes_on_behind_an_exact_recovery() -> None:
    shaping = Shaping(Shape("sentence"))
    assert shaping.feed(text("One. Two"), 0.0) == text("One. ")[:0]
    assert shaping.feed(text(" and"), 0.0) == text("One. ")
    assert shaping.feed([recovered(12, exact=True)], 0.0) == [recovered(5, exact=True)]
    assert shaping.feed([*text(" three. F", "our"), END], 0.0) == [*text("Two and three. ", "Four"), END]


def test_what_was_held_only_is_taken_back_unheard() -> None:
    shaping = Shaping(Shape("sentence", max_wait_ms=1000))
    assert shaping.feed(text("One. Two and"), 1.0) == text("One. ")
    shaping.feed(text(" three"), 1.5)
    assert shaping.feed([recovered(9, exact=False)], 1.6) == [recovered(5, exact=True)]
    assert shaping.due == 2.0
    assert shaping.release(2.0) == text("Two ")
    assert shaping.feed([recovered(5, exact=False)], 2.1) == [recovered(5, exact=False)]
    assert shaping.due == inf
    assert shaping.feed([*text("2."), END], 2.2) == [*text("2."), END]


@settings(deadline=None)
@given(cut_texts(), cut_texts(), st.sampled_from(["token", "sentence", "block"]), st.sampled_from([0, 7]), st.data())
def test_a_reader_that_goes_by_the_characters_that_stand_has_the_text(
    first: list[str], then: list[str], unit: Unit, least: int, data: st.DataObject
) -> None:
    """And what comes behind it is cut as the text that it goes on with."""
    said, rest = "".join(first), "".join(then)
    kept = data.draw(st.integers(0, len(said)))
    whole = said[:kept] + rest
    shaping = Shaping(Shape(unit, least, 100))
    read = ""
    cuts: list[int] = []
    for event in [*text(*first), recovered(kept, exact=kept == len(said)), *text(*then), END]:
        for out in shaping.feed([event], 0.0):
            if isinstance(out, TextDelta):
                read += out.text
                cuts.append(len(read))
            elif isinstance(out, Recovered):
                assert out.exact == (out.kept_chars == len(read))
                read = read[: out.kept_chars]
                cuts = [cut for cut in cuts if cut <= len(read)]
    assert read == whole
    if unit != "token" and not least:
        units = set(accumulate(map(len, pieces(whole, unit))))
        assert {cut for cut in cuts if cut > kept} <= units


# ---- What is asked for.


def asked(shape: object) -> Shape | None:
    return FORMATS["native"]().parse({"prompt": "hi", "shape": shape}, {}.get).shape


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("token", None),
        (None, None),
        ({}, None),
        ("sentence", Shape("sentence")),
        ("block", Shape("block")),
        ({"min_chars": 20}, Shape("token", 20)),
        ({"max_wait_ms": 20}, Shape("token", 0, 20)),
        ({"unit": "block", "min_chars": 5, "max_wait_ms": 300}, Shape("block", 5, 300)),
    ],
)
def test_shapes(said: object, read: Shape | None) -> None:
    assert asked(said) == read


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ("word", "shape"),
        (["block"], "shape"),
        (7, "shape"),
        (True, "shape"),
        ({"unit": "word"}, "shape.unit"),
        ({"min_chars": -1}, "shape.min_chars"),
        ({"min_chars": "5"}, "shape.min_chars"),
        ({"max_wait_ms": 0}, "shape.max_wait_ms"),
        ({"units": "block"}, "shape.units"),
    ],
)
def test_wrong_shapes(said: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(said)
    assert refused.value.param == param


class Nothing:
    """As `Source`: an answer that never says anything."""

    request_id = "r"
    limits: ClassVar[dict[str, str]] = {}

    def read(self, until: float) -> Batch | None:
        return None

    def each(self, deliver: Callable[[Batch], bool], silence_s: float) -> None:
        pass

    def fail(self, error: SluicewayError) -> Failed:
        return Failed(error=error)

    def cancel(self, error: SluicewayError) -> None:
        pass

    def close(self) -> None:
        pass


def test_nothing_stands_on_the_way_of_an_answer_without_a_shape() -> None:
    answer = Nothing()
    request = ChatRequest(dialect="native", messages=(Message.of("user", "hi"),))
    assert transforms_of(request) == []
    assert shaping_of(answer, request) is answer
    block = ChatRequest(dialect="native", messages=request.messages, shape=Shape("block"))
    assert [type(each) for each in transforms_of(block)] == [Shaping]
    whole = ChatRequest(dialect="native", messages=request.messages, shape=Shape("block"), stream=False)
    assert transforms_of(whole) == []


# ---- What it costs.

ENDLESS = {
    "no boundary": "a",
    "white space": " ",
    "backticks": "```",
    "dots": ".",
    "sentences": "It rains, e.g. now. ",
    "nested": "- > ",
    "items": "- a\n\n",
}
# One line, that is long before it can be said what it is.
LINES = (
    ("", "`"), ("<a", " b='c'"), ("<a", " "), ("", "- "), ("", "* "), ("", "-"), ("", "> "), ("", "| a "), ("", "$$ "),
    ("", "[a]: "),
)  # fmt: skip
KB = (64, 256, 1024)


@pytest.mark.parametrize("unit", ["sentence", "block"])
def test_the_cost_is_linear(unit: Unit, capsys: pytest.CaptureFixture[str]) -> None:
    """In tokens of three bytes."""
    rows = []
    for name, scrap in ENDLESS.items():
        costs = [_cost_s(scrap, kb * 1024, unit) for kb in KB]
        rows.append(f"{name:14}" + "".join(f"{cost * 1000:9.0f}" for cost in costs))
        # Sixteen times the text: what is quadratic costs 256 times as much.
        assert costs[-1] < 80 * costs[0], rows[-1]
    with capsys.disabled():
        print(f"\n{unit + ', ms':14}" + "".join(f"{kb:6} KB" for kb in KB), *rows, sep="\n")


@pytest.mark.parametrize(("begin", "scrap"), LINES)
@pytest.mark.parametrize("end", ["x`", "x\n|-|\n", "\n---x\n"])
def test_a_long_line_costs_what_it_is_long(begin: str, scrap: str, end: str) -> None:
    def cost_s(length: int) -> float:
        text = begin + scrap * (length // len(scrap)) + end
        began = time.process_time()
        assert "".join(pieces(text, "block") + pieces(text, "sentence")) == text * 2
        return time.process_time() - began

    assert cost_s(512 * 1024) < 80 * max(cost_s(32 * 1024), 0.002)


def _cost_s(scrap: str, length: int, unit: Unit) -> float:
    text = (scrap * (length // len(scrap) + 1))[:length]
    shaping = Shaping(Shape(unit))
    feed = shaping.feed
    began = time.process_time()
    for at in range(0, length, 3):
        feed([TextDelta(text=text[at : at + 3])], 0.0)
    feed([END], 0.0)
    return time.process_time() - began
