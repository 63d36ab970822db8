"""A text cut into sentences, as soon as it is sure that one has ended.

Where a sentence ends is UAX #29's question (https://unicode.org/reports/tr29/#Sentence_Boundaries); abbreviations,
initials and numbers, which it leaves to others, are added. A mark decides nothing alone: what stands before it does
("Mr."), the closing quotes and brackets behind it belong to it, and the next word has a say (a small letter: the
sentence goes on). So an end is known with the beginning of the next sentence, and how far is looked ahead is bounded.

White space behind a sentence belongs to it, up to the last line break: what indents a line belongs to that line. A
blank line ends a sentence, an item of a list begins one; lines that are no prose (headings, rows of tables, code in
fences) are pieces of their own.
"""

from __future__ import annotations

import re
from enum import Enum, auto


class _Phase(Enum):
    """Where in the text. The steps from `MARKS` on follow each other."""

    PROSE = auto()  # before a mark, or a line break
    LITERAL = auto()  # before a line break
    MARKS = auto()
    CLOSERS = auto()
    SPACE = auto()
    NEXT = auto()  # at what follows: now it can be said whether a sentence has ended


class _Mark(Enum):
    NONE = auto()  # only a line break
    DOT = auto()  # which may stand for other things
    ELLIPSIS = auto()
    STRONG = auto()
    WIDE = auto()  # needs no white space behind it


class _Line(Enum):
    PROSE = auto()
    QUOTE = auto()
    ITEM = auto()
    ALONE = auto()  # a heading, a row of a table, code
    RULE = auto()  # what stands before it may be its heading


class Sentences:
    """As `Units`."""

    def __init__(self) -> None:
        self._text = ""  # from a little before the place that was reached
        self._dropped = 0  # characters before that
        self._at = 0  # the place, in `_text`
        self._final = False
        self._phase = _Phase.SPACE
        self._begun = False  # there was something but white space
        self._begin = 0  # of the sentence
        self._line = _Line.PROSE
        self._fence = ""  # which closes it
        self._mark = _Mark.NONE
        self._marks = 0
        self._head = ""  # what stands before the marks, of this sentence
        self._quoted = False  # a quote or a bracket is closed behind them
        self._space = 0
        self._breaks = 1  # line breaks in the white space
        self._break_end = 0

    def feed(self, text: str) -> list[int]:
        drop = self._at - _BEHIND
        if drop > 0:
            self._dropped += drop
            self._at = _BEHIND
            text = self._text[drop:] + text
        else:
            text = self._text + text
        self._text = text
        return self._read()

    def finish(self) -> list[int]:
        self._final = True
        return self._read()

    def _read(self) -> list[int]:
        ends: list[int] = []
        while self._at < len(self._text):
            match self._phase:
                case _Phase.PROSE:
                    self._find(_STOP)
                case _Phase.LITERAL:
                    self._find(_BREAK)
                case _Phase.MARKS:
                    self._pass_marks()
                case _Phase.CLOSERS:
                    if not self._pass_closers():
                        break
                case _Phase.SPACE:
                    if not self._pass_space():
                        break
                case _Phase.NEXT:
                    if not self._decide(ends):
                        break
        return ends

    def _find(self, stop: re.Pattern[str]) -> None:
        found = stop.search(self._text, self._at)
        if found is None:
            self._at = len(self._text)
            return
        self._at = at = found.start()
        self._mark = _Mark.NONE
        self._marks = 0
        self._space = self._breaks = 0
        self._quoted = False
        if found[0] in "\r\n":
            self._phase = _Phase.SPACE
        else:
            self._phase = _Phase.MARKS
            self._head = self._text[max(0, at - _BEHIND, self._begin - self._dropped) : at]

    def _pass_marks(self) -> None:
        found = _MARKS.match(self._text, self._at)
        if found is None:
            self._phase = _Phase.CLOSERS
            return
        self._at = found.end()
        self._marks += len(found[0])
        if self._mark is _Mark.WIDE or _WIDE.search(found[0]):
            self._mark = _Mark.WIDE
        elif self._mark is _Mark.STRONG or _STRONG.search(found[0]):
            self._mark = _Mark.STRONG
        else:
            self._mark = _Mark.DOT if self._marks == 1 and found[0] == "." else _Mark.ELLIPSIS

    def _pass_closers(self) -> bool:
        """False: more must come."""
        text, at = self._text, self._at
        if self._mark is _Mark.WIDE and (found := _EITHER.match(text, at)):
            # There is no white space to tell an opening one from a closing one.
            if self._waits(found.end(), found.end() - at < 3):
                return False
            if self._head.count(found[0]) % 2 == 0:
                self._phase = _Phase.SPACE
                return True
        else:
            found = (_WIDE_CLOSERS if self._mark is _Mark.WIDE else _CLOSERS).match(text, at)
        if found is None and text[at] == "[":
            found = _NOTE.match(text, at)
            if found is None and self._waits(len(text), _NOTE_BEGUN.fullmatch(text, at) is not None):
                return False
        if found is None:
            self._phase = _Phase.SPACE
        else:
            self._at = found.end()
            self._quoted = self._quoted or _QUOTED.search(found[0]) is not None
        return True

    def _pass_space(self) -> bool:
        """False: more must come."""
        found = _WHITE.match(self._text, self._at)
        if found is None:
            self._phase = _Phase.NEXT
            return True
        end = found.end()
        if self._waits(end, self._text[end - 1] == "\r"):
            end -= 1  # a line feed may belong to it
        space = self._text[self._at : end]
        for at_break in _BREAK.finditer(space):
            self._breaks += 1
            self._break_end = self._dropped + self._at + at_break.end()
        self._space += len(space)
        self._at = end
        return end == found.end()

    def _decide(self, ends: list[int]) -> bool:
        """False: more must come."""
        at = self._at
        ahead = self._text[at : at + _AHEAD]
        all_there = self._final or len(ahead) == _AHEAD
        here = self._dropped + at
        line, skip = self._line, 0
        if self._breaks:
            if not all_there and _UNSURE.fullmatch(ahead):
                return False
            line, skip = (_Line.ALONE, 0) if self._fence else _line(ahead)
        elif self._mark is not _Mark.WIDE and ahead[0] in "»›" and self._in_guillemets():
            self._at += 1
            self._space = 0
            self._quoted = True
            self._phase = _Phase.CLOSERS
            return True
        ended: bool | None = self._breaks > 1 or (self._breaks == 1 and _parts(self._line, line))
        if not ended and self._mark is not _Mark.NONE:
            ended = self._ends(ahead, all_there)
            if ended is None:
                return False
        end = self._break_end if self._breaks else here
        if ended and self._begun:
            ends.append(end)
            self._begin = here
        elif not self._begun:
            self._begin = here
            self._begun = True
        if skip:
            self._begin = here + skip
        if self._breaks:
            self._line = line
            if self._fence:
                if ahead.startswith(self._fence):
                    self._fence = ""
            elif line is _Line.ALONE and (fence := _FENCE.match(ahead)):
                self._fence = fence[1] or fence[2]
        self._at += skip
        self._phase = _Phase.LITERAL if line in (_Line.ALONE, _Line.RULE) else _Phase.PROSE
        return True

    def _waits(self, end: int, may_go_on: bool) -> bool:
        """Whether what was found up to `end` may go on with what has not come yet."""
        return may_go_on and end == len(self._text) and not self._final

    def _in_guillemets(self) -> bool:
        return self._space > 0 and self._head.count("«") > self._head.count("»")

    def _ends(self, ahead: str, all_there: bool) -> bool | None:
        """Whether the marks end the sentence, where `ahead` follows; None: more must come."""
        following = ahead[0]
        if self._space == 0:
            if self._mark is _Mark.WIDE:
                return following not in _GOES_ON
            between = self._mark in (_Mark.DOT, _Mark.STRONG) and _CJK.match(self._head, len(self._head) - 1)
            return between is not None and between is not False and _CJK.match(ahead) is not None
        if following in _GOES_ON:
            return False
        if _MARKS.match(following):  # a spaced ellipsis, and not a name like .NET
            if len(ahead) == 1 and not all_there:
                return None
            return not (ahead[1:2].isspace() or _MARKS.match(ahead[1:2] or "."))
        if self._mark is _Mark.WIDE:
            return True
        opened = _OPENERS.match(ahead)
        at = opened.end() if opened else 0
        if at == len(ahead):
            return True if all_there else None
        if ahead[at].islower():
            return self._mark is _Mark.STRONG and not self._quoted
        if self._mark is not _Mark.DOT or self._quoted:
            return True
        word = _NEXT_WORD.match(ahead, at)
        end = word.end() if word else at
        if end == len(ahead) and not all_there:
            return None
        return _ends_behind(self._head, ahead[at:end], ahead[end : end + 1])


def _ends_behind(head: str, word: str, behind: str) -> bool:
    """Whether the dot behind `head` ends a sentence, where the next word is `word`, and `behind` stands behind that."""
    found = _LAST_WORD.search(head, max(0, len(head) - _LONGEST))
    if found is None:
        return True
    last = found[0]
    if _NUMBERING.fullmatch(last) and not head[: found.start()].strip(_NO_LETTERS):
        return False
    if last.isdecimal():
        return word not in _MONTHS
    if found.start() and head[found.start() - 1] in "./@_":
        return True  # a host, a file
    name = last.lower()
    if name in _NEVER or (name in _TITLES and last[0].isupper()):
        return False
    if name in _BEFORE_NUMBERS:
        return not (word[:1].isdecimal() or (name in _BEFORE_LETTERS and _ROMAN.fullmatch(word)))
    begins = word in _BEGINNINGS and (len(word) > 1 or behind.isspace())
    if len(last) > 1:
        return begins or not ("." in last or name in _WITH_NAMES)
    initial = len(word) == 1 and behind == "."
    if last.islower():
        return not (initial or word[:1].isdecimal())
    if last == "I" and _I.search(head):
        return not initial
    return begins or not last.isupper()


def _line(ahead: str) -> tuple[_Line, int]:
    """What begins so, and how many characters of it are an item's marker."""
    first = ahead[0]
    if first == ">":
        return _Line.QUOTE, 0
    if first == "|" or _HEADING.match(ahead) or _FENCE.match(ahead):
        return _Line.ALONE, 0
    if _RULE.match(ahead):
        return _Line.RULE, 0
    if item := _ITEM.match(ahead):
        return _Line.ITEM, item.end()
    return _Line.PROSE, 0


def _parts(before: _Line, after: _Line) -> bool:
    """Whether the break between two lines ends a sentence."""
    if before in (_Line.ALONE, _Line.RULE) or after in (_Line.ALONE, _Line.ITEM):
        return True
    return after is _Line.QUOTE and before is not _Line.QUOTE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BEHIND = 200  # characters that are kept of what was read
_AHEAD = 64  # characters that are looked at of what follows
_LONGEST = 40  # a word

_DOTS = ".…"
_STRONG_MARKS = "!?‼⁇⁈⁉؟۔।॥։።၊။។"
_WIDE_MARKS = "。！？｡．"
_STOP = re.compile(f"[{_DOTS}{_STRONG_MARKS}{_WIDE_MARKS}\r\n]")
_BREAK = re.compile(r"\r\n|\n|\r")
_MARKS = re.compile(f"[{_DOTS}{_STRONG_MARKS}{_WIDE_MARKS}]+")
_WIDE = re.compile(f"[{_WIDE_MARKS}]")
_STRONG = re.compile(f"[{_STRONG_MARKS}]")
_WHITE = re.compile(r"\s+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_GOES_ON = frozenset(",;:-–—，、；：､")

_EMOJI = r"\u2600-\u27bf\ufe0f\u200d\U0001f000-\U0001faff"
_BRACKETS = r"”’»›)\]}」』）】》〉〕］｝〙〗｣"
_WIDE_CLOSERS = re.compile(f"[{_BRACKETS}{_EMOJI}]+")
_CLOSERS = re.compile(f"[{_BRACKETS}{_EMOJI}\"'“‘«‹*_~`]+")  # in „these“ and »those« the openers of others close
_QUOTED = re.compile(f"[{_BRACKETS}\"'“‘«‹]")
_EITHER = re.compile(r"([*_~`\"'])\1{0,2}")
_NOTE = re.compile(r"\[\^?[0-9]{1,3}\]")
_NOTE_BEGUN = re.compile(r"\[\^?[0-9]{0,3}")
_OPENERS = re.compile(r"[\"'“‘„‚«‹»›(\[{*_~`>¿¡「『（【《〈]{0,8}")
_NEXT_WORD = re.compile(r"\w{1,16}")

_UNSURE = re.compile(
    r"#{1,6}|[-*+_=](?:[ \t]*[-*+_=])*[ \t]*|[0-9]{1,3}[.)]?|[0-9]{1,3}[.)][ \t]+|`{1,2}|`{3,}[^`\n]*|~+"
)
_HEADING = re.compile(r"#{1,6}\s")
_FENCE = re.compile(r"(`{3,64})[^`\n]*(?:\n|\Z)|(~{3,64})")
_RULE = re.compile(r"([-*_=])(?:[ \t]*\1)+[ \t]*(?:[\r\n]|\Z)")
_ITEM = re.compile(r"(?:[-*+]|[0-9]{1,3}[.)])[ \t]+")

_LAST_WORD = re.compile(r"(?<![^\W_])(?:(?:[^\W\d_]{1,2}\.)*[^\W\d_]+|[0-9]+)\Z")
_NUMBERING = re.compile(r"[0-9]{1,3}|[^\W\d_]|[ivx]{1,4}|[IVX]{1,4}")
_NO_LETTERS = " \t\r\n*_~`\"'“‘«([>"
_ROMAN = re.compile(r"[A-Z]|[IVXLC]+")
_I = re.compile(r"[^\W\d_A-Z]\s+I\Z")

_NEVER = _words(
    """vs cf viz approx ca esp incl resp e.g i.e eg ie n.b bzw vgl evtl ggf inkl zzgl d.h z.b u.a s.o s.u o.ä i.d.r p.ex
    c.-à-d messrs"""
)
_TITLES = _words(
    """mr mrs ms mx dr prof st ste mt rev hon gen col capt lt sgt cpl cmdr maj adm gov sen rep pres mme mlle hr sra srta
    dra ud uds"""
)
_BEFORE_NUMBERS = _words(
    """no nos nr nrn fig figs eq eqs sec sect ch chap vol vols pp p pg art tab tbl abb kap bd max min tel ext ver
    jan feb mar apr jun jul aug sep sept oct nov dec"""
)
_BEFORE_LETTERS = _words("fig figs eq eqs sec sect ch chap vol vols art tab abb kap bd")
_WITH_NAMES = _words("inc ltd co corp llc plc jr sr sen bros al ave blvd rd dept univ assn esq am pm")

# With which sentences begin, and names do not.
_BEGINNINGS = _words(
    """The This That These Those There Here It Its He She We They You I My His Her Their Our Your A An And But So Then
    If When While Where What Who Why How However For From To With After Before Since Because Although Also As At By In
    On Is Are Was Were Do Does Did Can Could Will Would Should May Let Not No Now Once Today Some Many Most Each Every
    Both Such Another All Even Still Yet Thus Hence Therefore Later Finally First Next Please
    Der Die Das Ein Eine Er Sie Es Wir Ich Und Aber Dann Wenn Im"""
)
_MONTHS = _words("Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember")
