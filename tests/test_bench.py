"""The bench measures what it says: tokens are counted wherever an answer is cut, and a run is whole. No times."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

import bench.__main__ as command_line
from bench import report
from bench.load import Answer
from bench.rig import Figures
from bench.scenarios import SCENARIOS, Scenario

MARKS = [b"000000000000000001", b"000000000000000022", b"000000000000000333"]


# The client's counting


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


# Each token its own chunk, with an @ that is none; two in one; one through which a proxy's chunks go.
WHOLE = {
    "chunks": chunked(
        b'data: {"text":"@%b@"}\n\n' % MARKS[0], b"data: a@b.example\n\n", b"data: @%b@@%b@\n\n" % (*MARKS[1:],)
    ),
    "chunks of a proxy": chunked(
        b"@%b" % MARKS[0][:7], MARKS[0][7:], b"@@", MARKS[1] + b"@@" + MARKS[2][:17], MARKS[2][17:] + b"@"
    ),
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n" + b"".join(b"@%b@" % mark for mark in MARKS),
}


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE.keys())
def test_marks_count_wherever_the_answer_is_cut(whole: bytes) -> None:
    for cut in range(1, len(whole)):
        answer = Answer()
        first = answer.feed(whole[:cut])
        assert not answer.ended
        assert first + answer.feed(whole[cut:]) == MARKS, cut
        assert (answer.status, answer.tokens, answer.ended, answer.keep_alive) == (200, 3, True, True)


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE.keys())
def test_marks_count_byte_by_byte(whole: bytes) -> None:
    answer = Answer()
    assert [mark for at in range(len(whole)) for mark in answer.feed(whole[at : at + 1])] == MARKS
    assert answer.ended


def test_a_mark_counts_once_it_is_whole() -> None:
    answer = Answer()
    whole = chunked(b"@%b@" % MARKS[0])
    end = whole.index(MARKS[0]) + len(MARKS[0])
    assert answer.feed(whole[:end]) == []
    assert answer.feed(whole[end : end + 1]) == MARKS[:1]


def test_a_body_whose_end_nobody_could_tell_is_none() -> None:
    with pytest.raises(ValueError, match="neither chunks nor a length"):
        Answer().feed(b"HTTP/1.1 200 OK\r\n\r\n@%b@" % MARKS[0])


def test_a_connection_that_closes_is_not_kept() -> None:
    answer = Answer()
    answer.feed(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert (answer.status, answer.ended, answer.keep_alive) == (503, True, False)


# What it is written down as

FIGURES = Figures(
    row="flask",
    scenario="S2b",
    completed=200,
    failed={},
    tokens=20_000,
    wall_s=5.0,
    cpu_s=2.0,
    grown_kb=0,
    delivered=0.97,
    open_peak=200,
    ttft_ms=(1.0, 2.0),
    latency_ms=(0.5, 12.25),
    provider_cpu_s=0.5,
    load_cpu_s=0.5,
    others_cores=0.0,
)


def test_the_table_has_a_row_a_peer_and_medians() -> None:
    rounds = [dataclasses.replace(FIGURES, cpu_s=cpu_s) for cpu_s in (9.0, 2.0, 1.0)]
    direct = dataclasses.replace(FIGURES, row="direct", cpu_s=0.0)
    memory = dataclasses.replace(FIGURES, scenario="M", grown_kb=100_000)
    lines = report.readme_table(report.Results([direct, *rounds, memory])).splitlines()
    assert lines[2:] == [
        "| direct | – | – | 0.5 / 12 | – | – | – | – |",
        "| flask | – | 100 | 0.5 / 12 | – | – | – | 50 |",
    ]
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")


def test_the_table_says_what_failed() -> None:
    broken = dataclasses.replace(FIGURES, failed={"status 503": 2, "closed early": 1})
    assert "| 100 (3 failed) |" in report.readme_table(report.Results([broken]))
    assert report.tables(report.Results([broken])).splitlines()[-1].split()[-2:] == ["3", "1"]


def test_the_readme_keeps_everything_outside_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    for text in ("| a | table |", "another\n\nof three lines"):
        report.write_readme(readme, text)
        assert readme.read_text("utf-8") == f"before\n{report.BEGIN}\n{text}\n{report.END}\nafter\n"


def test_a_readme_without_marks_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}\nno end\n", "utf-8")
    with pytest.raises(ValueError, match="are missing"):
        report.write_readme(readme, "text")
    assert readme.read_text("utf-8") == f"{report.BEGIN}\nno end\n"


def test_our_readme_has_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    report.write_readme(readme, "")


# A run, small but whole

SMALL = (
    Scenario("S1", "saturated", "saturated", 4, 300),
    Scenario("S2b", "paced", "paced", 5, 6, 20),
    Scenario("S3b", "requests", "requests", 2, 1, seconds=0.2),
    Scenario("M", "memory", "memory", 20, 2, 300),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for scenario in SMALL:
        monkeypatch.setitem(SCENARIOS, scenario.name, scenario)
    monkeypatch.setattr(command_line, "WORKERS", Scenario("W", "workers", "saturated", 4, 300, seconds=0.2))


DOORS = (
    "native",
    "native, resumable (SQLite)",
    "messages of an OpenAI model",
    "chat of an Anthropic model",
    "AI SDK",
)


@pytest.mark.usefixtures("small")
def test_a_run_gets_every_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("nginx", path="/usr/sbin:/sbin:/usr/bin:/bin") is None and shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    kept, readme = tmp_path / "figures.json", tmp_path / "README.md"
    readme.write_text("as it was", "utf-8")
    peers = "--peers=direct,nginx,sluiceway"
    chosen = "--scenarios=S1,S2b,S3b,M,W"
    assert command_line.main([peers, chosen, "--rounds=1", f"--json={kept}", f"--readme={readme}"]) == 0

    found = json.loads(kept.read_text("utf-8"))
    by = {(figures["row"], figures["scenario"]): figures for figures in found["figures"]}
    rows = ("direct", "nginx", "sluiceway")
    wanted = {(row, name) for row in rows for name in ("S1", "S2b", "S3b", "M")} - {("direct", "M")}
    native = {(f"sluiceway, {door}", "S2b") for door in DOORS if door.startswith("native")}
    assert by.keys() == wanted | native | {(f"sluiceway, {door}", "S1") for door in DOORS}
    for (row, name), figures in by.items():
        scenario = SCENARIOS[name]
        assert figures["failed"] == {}, (row, name)
        assert figures["completed"] > 0
        assert figures["tokens"] == figures["completed"] * scenario.tokens
        assert (figures["cpu_s"] > 0) == (row != "direct")
        if name in ("S2b", "M"):
            assert figures["completed"] == scenario.streams
            assert all(ms > 0 for ms in (*figures["latency_ms"], *figures["ttft_ms"]))
    assert 1 <= by["sluiceway", "M"]["open_peak"] <= 20
    assert [figures["failed"] for number in "12" for figures in found["workers"][number]] == [{}, {}]

    said = capsys.readouterr()
    for part in ("S1: saturated", "  sluiceway, messages of an OpenAI model ", "W: workers", "2 workers over 1:"):
        assert part in said.out
    assert readme.read_text("utf-8") == "as it was", "a run of some peers is no comparison"
    assert "is left as it was" in said.err


def test_a_name_it_does_not_know_is_told_with_those_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--peers", "ngnix"])
    assert "unknown: ngnix; known: direct, nginx, sluiceway" in capsys.readouterr().err
