"""The service with two more routes: one tells what its worker holds, one gives back what it keeps for later."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

from greenlet import greenlet

from app import create_app, outcomes

app = create_app()


@app.get("/worker")
def worker() -> dict[str, Any]:
    gc.collect()
    outcomes.flush()  # the metrics' files are opened by the first stream that is counted
    return {
        "cpu_s": time.process_time(),
        "open_streams": app.extensions["sluiceway"].open_streams,
        "greenlets": sum(isinstance(thing, greenlet) and not thing.dead for thing in gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }


@app.post("/close")
def close() -> dict[str, Any]:
    """No connection to a provider is kept from now on: what is still open is in use, or forgotten."""
    app.extensions["sluiceway"].close()
    return {}
