"""Markdown, cut between its top-level blocks.

Which block a line belongs to is found as CommonMark 0.31 says in "Appendix: A parsing strategy": a line goes on with
the containers that are open, as far as it can, then begins new blocks, and what is left is text. Nothing of it is
rendered here; all that matters is where a new child of the document begins. A list is one block: that it has one more
item, or a blank line between two, changes how it looks from its beginning. Beside CommonMark there are GFM's tables
(which begin a line before they can be known), and `$$` math.

The blank lines behind a block belong to it. A definition of a link (`[name]: url`) is a block like others; what refers
to it before it came is shown without it until then, as in any renderer of a stream.
"""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_DEPTH = 32  # containers in containers, a list and its item being two; what goes deeper is text

_LINE_END = re.compile(r"\r\n|\n|\r")


class Blocks:
    """As `Units`: pieces of the text are top-level blocks."""

    def __init__(self) -> None:
        self._document = _Document()
        self._line: list[str] = []  # what has come of the line under way
        self._at = 0  # where that begins
        self._cr = False  # whether a line feed belongs to the line end before it
        self._early = True  # whether to look at the beginning of a line that is not complete
        self._begun = 0  # where the last block has
        self._any = False  # there was one

    def feed(self, text: str) -> list[int]:
        if self._cr:
            text = "\r" + text
        self._cr = text.endswith("\r")
        if self._cr:
            text = text[:-1]
        ends: list[int] = []
        begin = 0
        for found in _LINE_END.finditer(text):
            self._line.append(text[begin : found.start()])
            self._complete(found.end() - found.start(), ends)
            begin = found.end()
        if begin < len(text):
            self._line.append(text[begin:])
            if self._early:
                self._look(ends)
        return ends

    def finish(self) -> list[int]:
        ends: list[int] = []
        if self._line or self._cr:
            self._complete(0, ends)
        return ends

    def _complete(self, line_end: int, ends: list[int]) -> None:
        line = "".join(self._line)
        self._say(self._document.take(line, self._at), ends)
        self._line.clear()
        self._at += len(line) + line_end
        self._early = True

    def _look(self, ends: list[int]) -> None:
        """Most blocks can be told from the first word of the next: so they need not wait for its first line."""
        line = self._line[0] if len(self._line) == 1 else "".join(self._line)
        begins = self._document.begins(line)
        if begins:
            self._say(self._at, ends)
        self._early = begins is None and len(line) < _EARLY

    def _say(self, at: int | None, ends: list[int]) -> None:
        if at is None or (self._any and at <= self._begun):
            return
        if self._any:
            ends.append(at)
        self._begun, self._any = at, True


_EARLY = 64  # characters


class _Leaf(Enum):
    """The block in which the last line stood, that can go on; of headings, rules and the like nothing can."""

    NONE = auto()
    PARAGRAPH = auto()
    LITERAL = auto()  # a fence, `$$`, or HTML that ends at a mark
    HTML = auto()  # that ends at a blank line
    CODE = auto()  # indented
    TABLE = auto()


class _Quote:
    __slots__ = ()

    def goes_on(self, row: _Row) -> bool:
        if row.indent > 3 or row.blank or row.text[row.next] != ">":
            return False
        row.skip_quote()
        return True


class _List:
    """Of bullets, or numbers with the same mark behind them."""

    __slots__ = ("mark",)

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def goes_on(self, row: _Row) -> bool:
        return True


class _Item:
    """`width` columns stand before what it holds."""

    __slots__ = ("empty", "width")

    def __init__(self, width: int, *, empty: bool) -> None:
        self.width = width
        self.empty = empty

    def goes_on(self, row: _Row) -> bool:
        if row.blank:
            return not self.empty
        if row.indent < self.width:
            return False
        self.empty = False
        row.skip(self.width)
        return True


class _Row:
    """A line, and how far it is read. Columns count tabs as going to the next multiple of four."""

    __slots__ = ("blank", "column", "next", "next_column", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.column = 0
        self.next = self.next_column = 0  # of the first character that is not white space
        self._find(0, 0)

    @property
    def indent(self) -> int:
        return self.next_column - self.column

    @property
    def rest(self) -> str:
        return self.text[self.next :]

    def skip(self, columns: int) -> None:
        """Of white space."""
        self.column += columns

    def skip_quote(self) -> None:
        after = self.next_column + 1
        self._find(self.next + 1, after)
        self.column = after + (self.next_column > after)

    def skip_marker(self, length: int) -> int:
        """Of a list item; gives how many columns stand before what it holds."""
        before, after = self.indent, self.next_column + length
        self._find(self.next + length, after)
        spaces = self.next_column - after
        if self.blank or spaces > 4:
            spaces = 1
        self.column = after + min(spaces, self.next_column - after)
        return before + length + spaces

    def _find(self, at: int, column: int) -> None:
        text = self.text
        found = _SPACES.match(text, at)
        self.next = found.end() if found else at
        spaces = text[at : self.next]
        if "\t" in spaces:
            for char in spaces:
                column += 4 - column % 4 if char == "\t" else 1
        else:
            column += len(spaces)
        self.next_column = column
        self.blank = self.next == len(text)


class _Document:
    def __init__(self) -> None:
        self._open: list[_Quote | _List | _Item] = []  # from the outermost
        self._leaf = _Leaf.NONE
        self._closes = _MATH_ENDS  # of a `LITERAL`
        self._closes_indented = True  # whether that may be indented by more than three
        self._header: str | None = None  # of a table, if the next line says so: a paragraph's last line
        self._header_at = 0
        self._header_first = False  # whether that is the first of its paragraph
        self._began: int | None = None

    def take(self, line: str, at: int) -> int | None:
        """The next line, which begins `at`. Gives where a new block begins with it, or with the line before."""
        self._began = None
        row = _Row(line)
        matched = 0
        for container in self._open:
            if not container.goes_on(row):
                break
            matched += 1
        if matched == len(self._open) and self._goes_on(row):
            return None
        self._take(row, matched, at)
        return self._began

    def begins(self, line: str) -> bool | None:
        """Whether a line that begins so begins a new block, whatever follows. None: not to be told yet."""
        rest = line.lstrip(" \t")
        if not rest or "\t" in line[: -len(rest)]:
            return None
        indent = len(line) - len(rest)
        leaf = self._leaf
        if not self._open:
            if leaf is _Leaf.NONE:
                return True
            if leaf is _Leaf.CODE:
                return indent < 4
            if leaf is _Leaf.PARAGRAPH:
                return (indent < 4 and _INTERRUPTS.match(rest) is not None) or None
            return None if leaf is _Leaf.TABLE else False
        if leaf is _Leaf.PARAGRAPH:
            return None
        if isinstance(self._open[0], _Quote):
            return indent > 3 or rest[0] != ">"
        if len(self._open) > 1 and isinstance(item := self._open[1], _Item) and indent >= item.width:
            return False
        return (indent > 3 or not _MAY_BE_ITEM.match(rest)) or None

    def _goes_on(self, row: _Row) -> bool:
        """Whether the leaf goes on, or ends, with a line that can't be anything else."""
        match self._leaf:
            case _Leaf.LITERAL:
                if (self._closes_indented or row.indent < 4) and self._closes.search(row.rest):
                    self._leaf = _Leaf.NONE
                return True
            case _Leaf.CODE:
                return row.blank or row.indent > 3
            case _:
                if row.blank:
                    self._leaf = _Leaf.NONE
                return row.blank or self._leaf is _Leaf.HTML

    def _take(self, row: _Row, matched: int, at: int) -> None:
        paragraph = self._leaf is _Leaf.PARAGRAPH  # that can go on, be it lazily
        own = paragraph and matched == len(self._open)
        table = self._leaf is _Leaf.TABLE and matched == len(self._open)
        if own and self._becomes_table(row):
            return
        while not row.blank and row.indent < 4:
            rest = row.rest
            if rest[0] not in _SPECIAL:
                break
            if rest[0] == ">":
                if matched >= MAX_DEPTH:
                    break
                matched = self._enter(_Quote(), matched, at)
                row.skip_quote()
            elif own and _SETEXT.match(rest):
                self._leaf = _Leaf.NONE
                return
            elif (kind := self._literal(row, text=paragraph or table)) is not None:
                self._close(matched, at)
                self._leaf = kind
                return
            elif _HEADING_OR_RULE.match(rest):
                self._close(matched, at)
                return
            elif (marker := _ITEM.match(rest)) and matched < MAX_DEPTH and not (own and _only_text(marker, rest)):
                mark = marker[0][-1]
                width = row.skip_marker(len(marker[0]))
                matched = self._enter_list(mark, matched, at)
                matched = self._enter(_Item(width, empty=row.blank), matched, at)
            else:
                break
            paragraph = own = table = False
        else:
            if not row.blank and not paragraph:
                self._close(matched, at)
                self._leaf = _Leaf.CODE
                return
        if row.blank:
            self._close(matched, None)
        elif paragraph and not own:  # lazily
            self._header = None
        elif own or not table:
            if not own:
                self._close(matched, at)
                self._leaf = _Leaf.PARAGRAPH
            self._header = row.rest if row.indent < 4 else None
            self._header_at = at
            self._header_first = not own

    def _literal(self, row: _Row, *, text: bool) -> _Leaf | None:
        """What a line begins that is not read as Markdown until something closes it; None: nothing like that."""
        rest = row.rest
        found = _FENCE.match(rest)
        if found and not (rest[0] == "`" and "`" in rest[found.end() :]):
            fence = found[0]
            self._closes = re.compile(rf"\A{fence[0]}{{{len(fence)},}}[ \t]*\Z")
            self._closes_indented = False
            return _Leaf.LITERAL
        if _MATH.match(rest):
            self._closes, self._closes_indented = _MATH_ENDS, True
            return _Leaf.NONE if _MATH_ENDS.search(rest, 2) else _Leaf.LITERAL
        if rest[0] != "<":
            return None
        for begins, ends in _HTML_WITH_END:
            if begins.match(rest):
                self._closes, self._closes_indented = ends, True
                return _Leaf.NONE if ends.search(rest) else _Leaf.LITERAL
        if _HTML.match(rest) or (not text and _HTML_TAG.match(rest)):
            return _Leaf.HTML
        return None

    def _enter(self, container: _Quote | _List | _Item, matched: int, at: int) -> int:
        """Gives how many containers are open now, all of which the line is in."""
        if isinstance(container, _Item):
            del self._open[matched:]
        else:
            self._close(matched, at)
        self._leaf = _Leaf.NONE
        self._open.append(container)
        return len(self._open)

    def _enter_list(self, mark: str, matched: int, at: int) -> int:
        if matched and isinstance(last := self._open[matched - 1], _List) and last.mark == mark:
            return matched
        return self._enter(_List(mark), matched, at)

    def _close(self, matched: int, at: int | None) -> None:
        """All but the first `matched` containers; for a block that begins `at`, a list that has no item for it too."""
        del self._open[matched:]
        self._leaf = _Leaf.NONE
        if at is not None:
            if self._open and isinstance(self._open[-1], _List):
                self._open.pop()
            if not self._open:
                self._began = at

    def _becomes_table(self, row: _Row) -> bool:
        header = self._header
        if header is None or row.indent > 3 or row.blank or row.text[row.next] not in "|-:":
            return False
        columns = _columns(row.rest)
        if columns is None or "|" not in header or len(_cells(header)) != columns:
            return False
        self._leaf = _Leaf.TABLE
        if not self._header_first and not self._open:
            self._began = self._header_at
        return True


def _columns(row: str) -> int | None:
    """How many columns a table has, by the row under its header; None: that is no such row."""
    if row.startswith(("- ", "-\t")) or not _UNDER_HEADER.match(row):
        return None
    cells = row.split("|")
    columns = 0
    for at, cell in enumerate(cells):
        cell = cell.strip(" \t")
        if not cell and at not in (0, len(cells) - 1):
            return None
        if cell and not _UNDER_COLUMN.match(cell):
            return None
        columns += bool(cell)
    return columns or None


def _cells(row: str) -> list[str]:
    cells = _PIPE.split(row.strip(" \t"))
    if not cells[0].strip(" \t"):
        del cells[0]
    if cells and not cells[-1].strip(" \t"):
        del cells[-1]
    return cells


def _only_text(marker: re.Match[str], rest: str) -> bool:
    """Of what looks like a list item, inside of a paragraph: a number there is, most times, just a number."""
    return not rest[marker.end() :].strip(" \t") or (marker[1] is not None and int(marker[1]) != 1)


_SPACES = re.compile(r"[ \t]+")
_SPECIAL = frozenset(">#`~<=-_*+$0123456789")
_FENCE = re.compile(r"`{3,}|~{3,}")
_MATH = re.compile(r"\$\$(?!\$)")
_MATH_ENDS = re.compile(r"\$\$[ \t]*\Z")
_SETEXT = re.compile(r"(?:=+|-+)[ \t]*\Z")
_HEADING_OR_RULE = re.compile(
    r"#{1,6}(?:[ \t]|\Z)|(?:\*[ \t]*){3,}\Z|(?:-[ \t]*){3,}\Z|(?:_[ \t]*){3,}\Z",
)
_ITEM = re.compile(r"(?:[-+*]|([0-9]{1,9})[.)])(?=[ \t]|\Z)")
_UNDER_HEADER = re.compile(r"[|:-][|: \t-]+\Z")
_UNDER_COLUMN = re.compile(r":?-+:?\Z")
_PIPE = re.compile(r"(?<!\\)\|")

# Of the beginnings of lines, that are not complete.
_INTERRUPTS = re.compile(r"#{1,6}[ \t]|>|(?:[-+*]|1[.)])[ \t]+[^ \t]")
_MAY_BE_ITEM = re.compile(r"(?:[-+*]|[0-9]{1,9}[.)])(?:[ \t]|\Z)|[0-9]{1,9}\Z")

# The seven kinds of HTML blocks: https://spec.commonmark.org/0.31.2/#html-blocks
_HTML_WITH_END = tuple(
    (re.compile(begins, re.IGNORECASE), re.compile(ends, re.IGNORECASE))
    for begins, ends in (
        (r"<(?:script|pre|textarea|style)(?:\s|>|\Z)", r"</(?:script|pre|textarea|style)>"),
        (r"<!--", r"-->"),
        (r"<\?", r"\?>"),
        (r"<![a-z]", r">"),
        (r"<!\[CDATA\[", r"\]\]>"),
    )
)
_HTML = re.compile(
    r"</?(?:address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details|dialog|dir|div|dl"
    r"|dt|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|legend|li|link|main"
    r"|menu|menuitem|nav|noframes|ol|optgroup|option|p|param|search|section|summary|table|tbody|td|tfoot|th|thead|title"
    r"|tr|track|ul)(?:\s|/?>|\Z)",
    re.IGNORECASE,
)
_HTML_TAG = re.compile(
    r"(?:<[a-z][a-z0-9-]*(?:\s+[a-z_:][a-z0-9:._-]*(?:\s*=\s*(?:[^\s\"'=<>`]+|'[^']*'|\"[^\"]*\"))?)*\s*/?>"
    r"|</[a-z][a-z0-9-]*\s*>)\s*\Z",
    re.IGNORECASE,
)
