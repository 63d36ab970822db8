"""Figures to text: medians of the rounds, a table for each scenario, and the one table in README.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .rig import Figures
from .scenarios import SCENARIOS

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
NOTHING = "–"  # where a figure has no meaning, or there is none

Value = Callable[[Figures], float | None]
Write = Callable[[float], str]


def us_per_token(figures: Figures) -> float | None:
    return figures.cpu_s * 1e6 / figures.tokens if figures.cpu_s and figures.tokens else None


def us_per_request(figures: Figures) -> float | None:
    return figures.cpu_s * 1e6 / figures.completed if figures.cpu_s and figures.completed else None


def kb_per_stream(figures: Figures) -> float | None:
    return figures.grown_kb / SCENARIOS[figures.scenario].streams if figures.cpu_s else None


COLUMNS: dict[str, list[tuple[str, Value, Write]]] = {
    "saturated": [
        ("CPU us/token", us_per_token, "{:.2f}".format),
        ("tokens/s", lambda figures: figures.tokens / figures.wall_s, "{:,.0f}".format),
    ],
    "paced": [
        ("CPU us/token", us_per_token, "{:.1f}".format),
        ("latency p50 ms", lambda figures: figures.latency_ms[0], "{:.2f}".format),
        ("p99", lambda figures: figures.latency_ms[1], "{:.2f}".format),
        ("TTFT p50 ms", lambda figures: figures.ttft_ms[0], "{:.1f}".format),
        ("p99", lambda figures: figures.ttft_ms[1], "{:.1f}".format),
        ("delivered", lambda figures: figures.delivered, "{:.0%}".format),
    ],
    "requests": [
        ("CPU us/request", us_per_request, "{:,.0f}".format),
        ("requests/s", lambda figures: figures.completed / figures.wall_s, "{:,.0f}".format),
        ("TTFT p50 ms", lambda figures: figures.ttft_ms[0], "{:.2f}".format),
        ("p99", lambda figures: figures.ttft_ms[1], "{:.2f}".format),
    ],
    "memory": [
        ("KB/stream", kb_per_stream, "{:.1f}".format),
        ("open at once", lambda figures: figures.open_peak, "{:,.0f}".format),
        ("TTFT p99 ms", lambda figures: figures.ttft_ms[1], "{:,.0f}".format),
    ],
}


class Results:
    """Of all rounds; `rows` in the order in which they were first measured."""

    def __init__(self, figures: Iterable[Figures]) -> None:
        self._by: dict[tuple[str, str], list[Figures]] = {}
        for one in figures:
            self._by.setdefault((one.row, one.scenario), []).append(one)
        self.rows = list(dict.fromkeys(row for row, _ in self._by))
        self.scenarios = [name for name in SCENARIOS if any(scenario == name for _, scenario in self._by)]

    def of(self, row: str, scenario: str) -> list[Figures]:
        return self._by.get((row, scenario), [])

    def text(self, row: str, scenario: str, value: Value, write: Write) -> str:
        """The median."""
        values = [each for one in self.of(row, scenario) if (each := value(one)) is not None]
        return write(statistics.median(values)) if values else NOTHING

    def failed(self, row: str, scenario: str) -> int:
        return sum(sum(one.failed.values()) for one in self.of(row, scenario))


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def tables(results: Results) -> str:
    """For the terminal: one a scenario, every column."""
    parts = []
    for name in results.scenarios:
        columns = COLUMNS[SCENARIOS[name].kind]
        cells = [["", *(title for title, _, _ in columns), "failed", "rounds"]]
        for row in results.rows:
            if rounds := results.of(row, name):
                figures = [results.text(row, name, value, write) for _, value, write in columns]
                cells.append([row, *figures, str(results.failed(row, name)), str(len(rounds))])
        parts.append("\n".join([f"{name}: {SCENARIOS[name].about}", *_lines(cells), ""]))
    return "\n".join(parts)


def _rounded(value: float) -> str:
    """Two digits: on a shared machine a third is chance."""
    return f"{float(f'{value:.2g}'):,.10g}"


# Title, and of what: two values stand in one cell.
_README: list[tuple[str, list[tuple[str, Value, Write]]]] = [
    ("CPU µs/token, saturated", [("S1", us_per_token, _rounded)]),
    ("CPU µs/token, paced", [("S2b", us_per_token, _rounded)]),
    (
        "latency p50 / p99, ms",
        [
            ("S2b", lambda figures: figures.latency_ms[0], _rounded),
            ("S2b", lambda figures: figures.latency_ms[1], _rounded),
        ],
    ),
    ("20,000 tokens/s: delivered", [("S2c", lambda figures: figures.delivered, "{:.0%}".format)]),
    ("and TTFT p99, ms", [("S2c", lambda figures: figures.ttft_ms[1], _rounded)]),
    ("CPU µs/request, one / 32 at a time", [("S3a", us_per_request, _rounded), ("S3b", us_per_request, _rounded)]),
    ("KB/stream", [("M", kb_per_stream, _rounded)]),
]


def readme_table(results: Results) -> str:
    """In Markdown. A figure of which streams failed says how many."""
    lines = ["| | " + " | ".join(title for title, _ in _README) + " |", "|---" * (len(_README) + 1) + "|"]
    for row in results.rows:
        cells = []
        for _, values in _README:
            texts = [results.text(row, *value) for value in values]
            failed = sum(results.failed(row, scenario) for scenario in {scenario for scenario, _, _ in values})
            cell = NOTHING if set(texts) == {NOTHING} else " / ".join(texts)
            cells.append(f"{cell} ({failed} failed)" if failed else cell)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_readme(path: Path, text: str) -> None:
    """Put `text` between the two marks, and leave everything else as it is. Raises ValueError without the marks."""
    before, begin, rest = path.read_text("utf-8").partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name}: the lines {BEGIN} and {END} are missing")
    path.write_text(f"{before}{begin}{text}\n{end}{after}", "utf-8")
