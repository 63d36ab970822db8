"""The readers of Python, each leaving an answer in the middle and going on with it: by `Last-Event-ID`, or `?after=`.

What they read is one stream in two halves: its events must be numbered 1, 2, 3 without a gap or a repetition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count

import httpx2
import native
import requests
import sseclient
from driver import PROMPT, TIMEOUT_S, Job, Seen, main

Numbered = tuple[int, dict[str, object]]


def body(job: Job, **more: object) -> dict[str, object]:
    return {"model": job.model, "prompt": PROMPT, "resumable": True, **more}


def take(events: Iterable[Numbered], seen: Seen, numbers: Iterator[int]) -> bool:
    """Whether it was time to leave."""
    for number, said in events:
        assert number == next(numbers)
        if native.take(said, seen):
            seen.leave_after = None
            return True
    return False


def with_sseclient(job: Job, seen: Seen) -> None:
    numbers = count(1)

    def events(response: requests.Response) -> Iterator[Numbered]:
        response.raise_for_status()
        for event in sseclient.SSEClient(response).events():
            if event.data != "[DONE]":
                yield int(event.id), json.loads(event.data)

    url = f"{job.url}/v1/streams"
    with requests.post(url, json=body(job), stream=True, timeout=TIMEOUT_S) as first:
        assert take(events(first), seen, numbers)
    last = next(numbers) - 1
    numbers = count(last + 1)
    where, headers = job.url + first.headers["Location"], {"Last-Event-ID": str(last)}
    with requests.get(where, headers=headers, stream=True, timeout=TIMEOUT_S) as rest:
        assert not take(events(rest), seen, numbers)
    last = next(numbers) - 1
    assert requests.get(where, headers={"Last-Event-ID": str(last)}, timeout=TIMEOUT_S).status_code == 204


def with_httpx2(job: Job, seen: Seen) -> None:
    numbers = count(1)

    def events(source: httpx2.EventSource) -> Iterator[Numbered]:
        source.response.raise_for_status()
        for event in source:
            if event.data != "[DONE]":
                yield int(event.id), json.loads(event.data)

    with httpx2.Client(base_url=job.url, timeout=TIMEOUT_S) as client:
        with client.sse("/v1/streams", method="POST", json=body(job)) as source:
            assert take(events(source), seen, numbers)
            where = source.response.headers["Location"]
        last = next(numbers) - 1
        numbers = count(last + 1)
        with client.sse(where, headers={"Last-Event-ID": str(last)}) as source:
            assert not take(events(source), seen, numbers)


def with_lines(job: Job, seen: Seen) -> None:
    """NDJSON, whose numbers are in the objects."""
    numbers = count(1)

    def events(response: requests.Response) -> Iterator[Numbered]:
        response.raise_for_status()
        assert response.headers["Content-Type"].startswith("application/x-ndjson")
        for line in response.iter_lines():
            if line:
                said = json.loads(line)
                yield said["event_id"], said

    asked = body(job, format="ndjson")
    with requests.post(f"{job.url}/v1/streams", json=asked, stream=True, timeout=TIMEOUT_S) as first:
        assert take(events(first), seen, numbers)
    last = next(numbers) - 1
    numbers = count(last + 1)
    where = job.url + first.headers["Location"]
    with requests.get(where, params={"after": last}, stream=True, timeout=TIMEOUT_S) as rest:
        assert not take(events(rest), seen, numbers)


main({"sseclient": with_sseclient, "httpx2": with_httpx2, "lines": with_lines})
