"""simonw's `llm`, as a library, with the service in its `extra-openai-models.yaml`. Who leaves has the command, and
presses Ctrl-C: the library leaves a stream that nobody reads any further to the garbage collector."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Lock
from typing import Any

import llm
from driver import PROMPT, Job, Seen, main

reading = Lock()


def described(job: Job, home: str) -> None:
    """`home` says what the job's model is; the file's kind is YAML, so JSON will do."""
    model = {
        "model_id": job.id,
        "model_name": job.model,
        "api_base": f"{job.url}/v1",
        "api_key_name": "sluiceway",
        "supports_tools": True,
    }
    Path(home, "extra-openai-models.yaml").write_text(json.dumps([model]), "utf-8")


def prompt(job: Job, seen: Seen) -> None:
    if job.leave_after is not None:
        leave(job, seen)
        return
    with reading:
        described(job, os.environ["LLM_USER_PATH"])
        model = llm.get_model(job.id)
    tools: Any = [
        llm.Tool(name=tool["name"], description=tool["description"], input_schema=tool["parameters"])
        for tool in job.tools
    ]
    response = model.prompt(PROMPT, key=job.key, tools=tools, stream=not job.whole)
    for piece in response:
        seen.says(piece)
    for call in response.tool_calls():
        seen.called(call.tool_call_id, call.name, call.arguments)
    usage = response.usage()
    seen.usage = (usage.input, usage.output)
    said = response.response_json
    seen.finish = said["choices"][0]["finish_reason"] if job.whole else said["finish_reason"]


def leave(job: Job, seen: Seen) -> None:
    with tempfile.TemporaryDirectory() as home:
        described(job, home)
        process = subprocess.Popen(
            [Path(sys.executable).with_name("llm"), "-m", job.id, "--key", job.key, "--no-log", PROMPT],
            env={**os.environ, "LLM_USER_PATH": home},
            stdin=subprocess.DEVNULL,  # it would read it as a part of the prompt
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        while piece := os.read(process.stdout.fileno(), 4096):
            if seen.says(piece.decode(errors="replace")):
                process.send_signal(signal.SIGINT)
                break
        _, told = process.communicate()
        if not seen.left:
            seen.told(f"exit {process.returncode}", told.decode())


with tempfile.TemporaryDirectory() as home:
    os.environ["LLM_USER_PATH"] = home
    main({"prompt": prompt})
