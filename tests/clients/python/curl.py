"""curl: `curl -N` prints what it is sent, and its user reads along."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import native
from driver import PROMPT, TIMEOUT_S, Job, Seen, main


def asking(job: Job, path: str, body: object) -> subprocess.Popen[bytes]:
    # With a retry the first body would come before the second.
    fail = ("--fail", "--retry", str(job.retries)) if job.retries else ("--fail-with-body",)
    return subprocess.Popen(
        [
            *("curl", "--silent", "--show-error", "--no-buffer", "--max-time", str(TIMEOUT_S), *fail),
            *("--json", json.dumps(body), "--oauth2-bearer", job.key, f"{job.url}{path}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes], seen: Seen) -> None:
    _, told = process.communicate()
    if process.returncode and not seen.left:
        code = seen.error["code"] if seen.error else None
        seen.told(f"exit {process.returncode}", told.decode() + seen.text, code=code)
        seen.text = ""  # it was the error's body


def plain(job: Job, seen: Seen) -> None:
    """`POST /stream/<provider>`: the text, and nothing else; a failure is a last line, or a status."""
    body = {"model": job.own_name, "prompt": PROMPT}
    process = asking(job, f"/stream/{job.provider}", body)
    assert process.stdout is not None
    told = b""
    while piece := os.read(process.stdout.fileno(), 65536):
        told += piece
        seen.text, before = told.decode(errors="ignore"), seen.text
        if seen.text != before:
            seen.pieces += 1
        if seen.leave_after is not None and seen.pieces >= seen.leave_after:
            seen.left = True
            process.send_signal(signal.SIGINT)
            break
    if failed := re.search(r"(?:^|\n)\[Error: (.*)\]\n$", seen.text):
        seen.text = seen.text[: failed.start()]
        seen.told("last line", failed[1])
    ended(process, seen)


def ndjson(job: Job, seen: Seen) -> None:
    """`POST /v1/streams` as NDJSON, for `jq`; an empty line is a heartbeat. Whole: one object."""
    body: dict[str, object] = {"model": job.model, "prompt": PROMPT}
    body |= {"stream": False} if job.whole else {"format": "ndjson"}
    process = asking(job, "/v1/streams", body)
    assert process.stdout is not None
    for line in process.stdout:
        if not line.strip():
            continue
        said = json.loads(line)
        if "type" not in said and "error" in said:
            seen.told("status", said["error"]["message"], code=said["error"]["code"])
        elif job.whole:
            seen.says(said["text"])
            seen.reasoning = said["reasoning"]
            seen.finish = said["finish"]["reason"]
            seen.counted(said["finish"]["usage"], ("input_tokens", "output_tokens"))
        elif native.take(said, seen):
            process.send_signal(signal.SIGINT)
            break
    ended(process, seen)


main({"plain": plain, "ndjson": ndjson})
