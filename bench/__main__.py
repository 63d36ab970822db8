"""`python -m bench`: the runs in their order, and what they came to."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import report
from .peers import BY_DEFAULT, PEERS, NotInstalled, Peer
from .rig import Broken, Figures, Rig, Server, raise_file_limit
from .scenarios import SCENARIOS, WORKERS

ALL = (*SCENARIOS, WORKERS.name)
NOTEWORTHY_CORES = 0.25  # used by others; below it the kernel's own work is in it


def log(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)


def remarks(figures: Figures) -> str:
    """What casts doubt on them."""
    failed = f"; failed: {figures.failed}" if figures.failed else ""
    others = (
        f"; other processes used {figures.others_cores:.1f} cores" if figures.others_cores > NOTEWORTHY_CORES else ""
    )
    return failed + others


def names_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """An argparse type: names with commas between them, in the order of `known`."""

    def read(text: str) -> tuple[str, ...]:
        wanted = {name for name in text.split(",") if name}
        if unknown := wanted - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return tuple(name for name in known if name in wanted)

    return read


def start_all(rig: Rig, peers: Sequence[Peer]) -> list[Server]:
    servers = []
    for peer in peers:
        try:
            servers.append(rig.start(peer))
        except NotInstalled as exc:
            log(f"without {peer.name}: {exc}")
    return servers


def rounds(rig: Rig, servers: list[Server], scenarios: Sequence[str], count: int) -> Iterator[Figures]:
    """Interleaved, so that what else happens on the machine meets all peers alike."""
    for number in range(1, count + 1):
        for name in scenarios:
            scenario = SCENARIOS[name]
            # A heap that has grown once is reused by the next round: memory is measured once, in a fresh process.
            if scenario.kind == "memory" and number > 1:
                continue
            for at, server in enumerate(servers):
                doors = [door for door in server.peer.doors if name in door.only]
                if not doors:
                    continue
                if scenario.kind == "memory":
                    if server.process is None:
                        continue
                    server.stop()
                    servers[at] = server = rig.start(server.peer)
                for door in doors:
                    began = time.monotonic()
                    figures = rig.measure(server, door, scenario)
                    took_s = time.monotonic() - began
                    log(f"round {number} of {count}: {name} {door.row}, {took_s:.1f} s{remarks(figures)}")
                    yield figures


def workers(rig: Rig, count: int) -> tuple[str, dict[str, list[Figures]]]:
    """What a second worker brings, in words, and the figures. The rig needs a part of the machine itself, so on a
    small one this shows the machine's limit and not the server's; then the words say so."""
    peer = PEERS["sluiceway"]
    found: dict[str, list[Figures]] = {"1": [], "2": []}
    with rig.unpinned():
        servers = {number: rig.start(peer, workers=int(number)) for number in found}
        for at in range(1, count + 1):
            for number, server in servers.items():
                found[number].append(rig.measure(server, peer.doors[0], WORKERS))
                log(f"round {at} of {count}: {WORKERS.name}, {number} worker(s){remarks(found[number][-1])}")
        for server in servers.values():
            server.stop()

    cores = os.cpu_count() or 1
    lines = [f"{WORKERS.name}: {WORKERS.about}"]
    rates, used = {}, {}
    for number, figures in found.items():
        rates[number] = statistics.median(one.tokens / one.wall_s for one in figures)
        parts = {
            "server": statistics.median(one.cpu_s / one.wall_s for one in figures),
            "provider and client": statistics.median(
                (one.provider_cpu_s + one.load_cpu_s) / one.wall_s for one in figures
            ),
            "others": statistics.median(one.others_cores for one in figures),
        }
        used[number] = sum(parts.values())
        spent = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
        lines.append(f"  {number} worker(s): {rates[number]:>9,.0f} tokens/s; of {cores} cores used: {spent}")
    lines.append(f"  2 workers over 1: {rates['2'] / rates['1']:.2f} times the tokens")
    if used["2"] > 0.9 * cores:
        lines.append("  With 2 workers no core was left to spare: the limit is the machine's, not the server's.")
    return "\n".join([*lines, ""]), found


def machine(rig: Rig) -> str:
    where = "peers on the last core, provider and client on the first" if rig.pinned else "nothing pinned to a core"
    return (
        f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}; {where}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Sluiceway beside its peers.")
    parser.add_argument("--peers", type=names_of(tuple(PEERS)), default=BY_DEFAULT, help=f"of {', '.join(PEERS)}")
    parser.add_argument("--scenarios", type=names_of(ALL), default=ALL, help=f"of {', '.join(ALL)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure of every round into this file")
    parser.add_argument("--readme", type=Path, help="put the table between the marks of this file, after a whole run")
    parser.add_argument("--nopin", action="store_true", help="leave it to the kernel which process runs on which core")
    options = parser.parse_args(argv)

    if (files := raise_file_limit()) < 5000 and "M" in options.scenarios:
        log(f"without M: it needs 5,000 open files a process, and {files} are allowed (ulimit -Hn)")
        options.scenarios = tuple(name for name in options.scenarios if name != "M")
    figures: list[Figures] = []
    servers: list[Server] = []
    about, about_workers, of_workers = "", "", dict[str, list[Figures]]()
    broken = False
    try:
        with Rig(pinned=not options.nopin) as rig:
            about = f"{machine(rig)}; medians of {options.rounds} round(s)"
            servers = start_all(rig, [PEERS[name] for name in options.peers])
            figures.extend(
                rounds(rig, servers, [name for name in options.scenarios if name in SCENARIOS], options.rounds)
            )
            for server in servers:
                server.stop()
            if WORKERS.name in options.scenarios and "sluiceway" in options.peers:
                about_workers, of_workers = workers(rig, options.rounds)
    except Broken as exc:
        log(str(exc))
        broken = True  # what was measured until then is shown all the same
    except KeyboardInterrupt:
        return 130

    # Runs shorter than a second are left out: the kernel's count of idle time is too coarse for them.
    others = statistics.median([one.others_cores for one in figures if one.wall_s > 1] or [0.0])
    if others > NOTEWORTHY_CORES:
        about += f"; disturbed: other processes used {others:.1f} cores meanwhile"
    results = report.Results(figures)
    print(f"{about}\n\n{report.tables(results)}\n{about_workers}")
    if options.json:
        every = {
            "about": about,
            "figures": [dataclasses.asdict(one) for one in figures],
            "workers": {text: [dataclasses.asdict(one) for one in ones] for text, ones in of_workers.items()},
        }
        options.json.write_text(json.dumps(every, indent=1), "utf-8")
    if options.readme:
        measured = {server.peer.name for server in servers}
        if not broken and measured >= set(BY_DEFAULT) and set(options.scenarios) == set(ALL):
            report.write_readme(options.readme, f"{report.readme_table(results)}\n\n{about}.")
            log(f"{options.readme} has the new table")
        else:
            log(f"{options.readme} is left as it was: not every peer and scenario was run")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
