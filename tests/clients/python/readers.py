"""The readers of Server-Sent Events and of bytes: httpx2's EventSource, sseclient-py, requests."""

from __future__ import annotations

import json

import httpx2
import native
import requests
import sseclient
from driver import PROMPT, TIMEOUT_S, Job, Seen, main


def authorized(job: Job) -> dict[str, str]:
    return {"Authorization": f"Bearer {job.key}"}


def with_httpx2(job: Job, seen: Seen) -> None:
    """`POST /v1/streams`: every event with its number."""
    body = {"model": job.model, "prompt": PROMPT}
    ended = False
    with (
        httpx2.Client(timeout=TIMEOUT_S) as client,
        client.sse(f"{job.url}/v1/streams", method="POST", json=body, headers=authorized(job)) as source,
    ):
        if source.response.is_error:
            native.refused(
                source.response.status_code, json.loads(source.response.read()), source.response.headers, seen
            )
            return
        number = 0
        for event in source:
            assert not ended, f"after the end: {event}"
            if event.data == "[DONE]":
                ended = True
                continue
            number += 1
            assert event.id == str(number)
            said = json.loads(event.data)
            assert event.event == ("error" if said["type"] == "error" else "message")
            if native.take(said, seen):
                return
    assert ended


def with_sseclient(job: Job, seen: Seen) -> None:
    """`POST /chat`: pieces of text; [DONE] only where the answer is whole."""
    response = requests.post(
        f"{job.url}/chat",
        json={"model": job.model, "prompt": PROMPT},
        headers=authorized(job),
        stream=True,
        timeout=TIMEOUT_S,
    )
    with response:
        if not response.ok:
            native.refused(response.status_code, response.json(), response.headers, seen)
            return
        client = sseclient.SSEClient(response)
        for event in client.events():
            if event.data == "[DONE]":
                seen.finish = "[DONE]"
                continue
            said = json.loads(event.data)
            if event.event == "error":
                seen.told("error", said["message"], code=said["code"])
            elif seen.says(said["text"]):
                client.close()
                return


def with_requests(job: Job, seen: Seen) -> None:
    """`POST /chat/stream` by lines, as tutorials do: with `decode_unicode` these are `str.splitlines`'."""
    response = requests.post(
        f"{job.url}/chat/stream",
        json={"model": job.model, "message": PROMPT},
        headers=authorized(job),
        stream=True,
        timeout=TIMEOUT_S,
    )
    with response:
        if not response.ok:
            native.refused(response.status_code, response.json(), response.headers, seen)
            return
        for line in response.iter_lines(decode_unicode=True):
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            said = json.loads(line.removeprefix("data: "))
            if said["done"]:
                seen.finish = "done"
                if "error" in said:
                    seen.told("error", said["error"], code=said["code"])
            elif seen.says(said["token"]):
                return


main({"httpx2": with_httpx2, "sseclient": with_sseclient, "requests": with_requests})
