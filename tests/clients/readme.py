"""Writes the table of the clients into the README: `python tests/clients/readme.py README.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from cases import CASES, CLIENTS, NOT_YET_PROVIDERS, PROVIDERS, Case, Cell, Client

BEGIN, END = "<!-- clients -->", "<!-- /clients -->"
YES, OWN, NO, LATER = "yes", "own", "–", "later"
ASKED = [provider for provider in PROVIDERS if provider not in NOT_YET_PROVIDERS]


def cell(client: Client, case: Case) -> str:
    if case.name in client.without:
        return NO
    not_yet = sum(Cell(client, case, provider).not_yet for provider in ASKED)
    return YES if not not_yet else OWN if not_yet < len(ASKED) else LATER


def table_of() -> str:
    """In Markdown: a row a client, a column a case, what the columns are, and why a client has no notion of one."""
    shown = [client for client in CLIENTS.values() if cell(client, CASES["text"]) != LATER]
    lines = [f"| | asks | {' | '.join(CASES)} |", "|---" * (len(CASES) + 2) + "|"]
    for client in shown:
        cells = [cell(client, case) for case in CASES.values()]
        lines.append(f"| {client.name} | `{client.door.route}` | {' | '.join(cells)} |")
    lines += ["", "; ".join(f"*{case.name}*: {case.about}" for case in CASES.values()) + "."]
    if any(f"| {OWN} |" in line for line in lines):
        lines += ["", f"`{OWN}`: with models of the protocol's own provider only."]
    why: dict[str, dict[str, list[str]]] = {}
    for client in shown:
        for name, reason in client.without.items():
            names = why.setdefault(reason, {}).setdefault(client.name, [])
            names.append(name)
    lines += ["", f"`{NO}`, and why:", ""]
    for reason, of in why.items():
        cases = list(dict.fromkeys(name for names in of.values() for name in names))
        lines.append(f"* {', '.join(cases)}: {reason} ({', '.join(of)})")
    return "\n".join(lines)


def write(path: Path) -> None:
    """Put the table between the two marks, and leave everything else as it is. Raises ValueError without the marks."""
    before, begin, rest = path.read_text("utf-8").partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name}: the lines {BEGIN} and {END} are missing")
    path.write_text(f"{before}{begin}{table_of()}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
