"""How long a stream keeps a gevent worker to itself: run by test_fairness.py, in a process that gevent has patched.

    python -m gevent.monkey --module tests.longest_turn BASE_URL [alone]

reads 30 MB of an endless answer, as a provider's upstream or (`alone`) as httpx2 gives them, and prints the most bytes
that came between two turns of another greenlet.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Iterable

import gevent
import httpx2

from app.cancel import Cancel
from app.clock import Clock
from app.events import Started
from app.providers.base import HttpUpstream
from app.providers.openai_chat_reader import OpenAIChatReader
from app.transport import clocked, http_client

TOTAL_BYTES = 30_000_000
turns = 0


def another() -> None:
    global turns
    while True:
        turns += 1
        gevent.sleep(0)


def main(base_url: str, alone: bool) -> int:
    reader = OpenAIChatReader(Started(id="1", model="m", provider="p", created=0), relay=True)
    clock = Clock(first_token_s=60, idle_s=60, total_s=600)
    asked = {"model": "bench-n500000000", "stream": True, "messages": [{"role": "user", "content": "go on"}]}
    cancel = Cancel()
    with http_client(base_url) as client:
        url, body = f"{base_url}/chat/completions", json.dumps(asked).encode()
        if alone:
            request = client.build_request("POST", url, content=body, timeout=60)
            chunks: Iterable[bytes] = client.send(request, stream=True).iter_bytes()
        else:  # as an SDK asks
            timeout = clocked(clock, cancel, connect_s=60)
            request = client.build_request("POST", url, content=body, headers=[], timeout=timeout)
            ask = functools.partial(client.send, request, stream=True)
            upstream = HttpUpstream("p", client, ask, httpx2.HTTPError, reader, clock, cancel, id_header="", secret="")
            assert upstream.begin(clock.due)
            chunks = iter(lambda: upstream.read(math.inf), b"")
        gevent.spawn(another)
        taken = longest = since = 0
        seen = turns
        for chunk in chunks:
            if turns != seen:
                seen, since = turns, 0
            since += len(chunk)
            longest = max(longest, since)
            reader.feed(chunk)  # what makes us slower than the provider
            taken += len(chunk)
            if taken > TOTAL_BYTES:
                break
    return longest


if __name__ == "__main__":
    print(main(sys.argv[1], "alone" in sys.argv[2:]))
