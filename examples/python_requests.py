"""A client to copy, with `requests` and nothing else. As a program: python python_requests.py "Hello". As a module:

    for event in stream("http://127.0.0.1:8000/v1/streams", {"prompt": "Hello"}):
        if event["type"] == "text":
            print(event["text"], end="", flush=True)

The answer is a resource of the server's. A lost connection is followed by another one, which goes on behind the last
event that has come; whoever leaves the loop (`break`, Ctrl-C) stops the answer at the provider.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import re
import sys
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import requests

log = logging.getLogger(__name__)

CUT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
# The server gives a sign of life each 15 s (`server.heartbeat_s`): an answer may be as slow as it likes, but where not
# even these come the connection is dead. How long an answer may take in all, the server knows (`timeouts.total_s`).
CONNECT_S, SILENCE_S = 5.0, 45.0
# Between the tries to come back; after an event there are as many again. All in all less than the server lets an answer
# go on without a reader (`store.resume_grace_s`, 30 s).
PAUSES_S = (0.5, 1, 2, 4, 8)


class StreamError(Exception):
    """There is no whole answer; events that were yielded stand. `code` is the server's (README, "Errors"), or
    `connection_lost`. `retryable`: the same request may succeed later, in `retry_after_s` at the earliest."""

    def __init__(self, error: Mapping[str, Any], *, passing: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(error.get("message", "no reason was given"))
        self.code: str = error.get("code", "connection_lost")
        self.status: int = error.get("status", 0)
        self.retryable: bool = error.get("retryable", passing)
        self.request_id: str = error.get("request_id", "")
        self.retry_after_s = retry_after_s
        self.passing = passing  # another connection may bring the rest


class Refused(StreamError):
    """By its status, before the first event."""


class Message(NamedTuple):
    event: str
    data: str
    id: str


class SSEParser:
    """Server-Sent Events as the standard reads them (HTML, 9.2.6), from bytes that are cut anywhere: in a character,
    between CR and LF. A message is given at the byte that completes it; one that the end of the body leaves unfinished
    is none, and its id was never seen. One parser is for all connections of a stream, `connected` before each."""

    def __init__(self) -> None:
        self.last_id, self.retry_s = "", 0.0
        self.connected()

    def connected(self) -> None:
        self._line: list[bytes] = []  # the one that has begun, in pieces
        self._bom, self._after_cr = b"\xef\xbb\xbf", False
        self._event, self._data, self._id = "", list[str](), self.last_id

    def feed(self, chunk: bytes) -> list[Message]:
        messages: list[Message] = []
        if chunk:
            # Not splitlines(), nor iter_lines(decode_unicode=True): these also split at U+2028, U+0085 and others.
            *lines, rest = re.split(rb"\r\n|\r|\n", chunk.removeprefix(b"\n") if self._after_cr else chunk)
            self._after_cr = chunk.endswith(b"\r")
            for line in lines:
                whole = b"".join([*self._line, line]).removeprefix(self._bom)
                self._line, self._bom = [], b""
                self._take(whole.decode("utf-8", "replace"), messages)
            self._line.append(rest)
        return messages

    def _take(self, line: str, messages: list[Message]) -> None:
        field, _, value = line.partition(":")  # a comment, as heartbeats are, is a field without a name
        value = value.removeprefix(" ")
        if not line:
            self.last_id = self._id
            if self._data:
                messages.append(Message(self._event or "message", "\n".join(self._data), self._id))
            self._event, self._data = "", []
        elif field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            self.retry_s = float(value) / 1000


def stream(
    url: str,
    body: Mapping[str, Any],
    *,
    api_key: str = "",
    key: str = "",
    silence_s: float = SILENCE_S,
    pauses_s: Sequence[float] = PAUSES_S,
) -> Generator[dict[str, Any]]:
    """The events of an answer, `{"type": "text", "text": ...}` and others (README, "Routes"), `finish` last. `key` is
    the answer's idempotency key: asked for with the same one and the same body, it is the same answer, from its
    beginning. Raises `StreamError`."""
    parser, where, tries, over = SSEParser(), "", 0, False
    with requests.Session() as http:
        http.headers.update({"Content-Type": "application/json", "Idempotency-Key": key or uuid.uuid4().hex})
        http.headers["Accept-Encoding"] = "identity"  # what a proxy compresses, it holds back
        if api_key:
            http.headers["Authorization"] = f"Bearer {api_key}"
        try:
            while True:
                try:
                    # While its name is not known, it is asked for again; by its key it is still one answer.
                    method, data = ("GET", None) if where else ("POST", json.dumps({**body, "resumable": True}))
                    numbered = {"Last-Event-ID": parser.last_id} if parser.last_id else {}
                    timeout = (CONNECT_S, silence_s)
                    with http.request(
                        method, where or url, data=data, headers=numbered, stream=True, timeout=timeout
                    ) as response:
                        _check(response, again=tries > 0)
                        parser.connected()
                        last = parser.last_id
                        # Where a body is not chunked, urllib3 waits until it has as much as it is asked for.
                        pieces = response.iter_content(None if "Transfer-Encoding" in response.headers else 1)
                        for message in (message for piece in pieces for message in parser.feed(piece)):
                            event = _event(message.data)
                            if event["type"] == "error":
                                # Without a number of its own it is this connection's: its worker is going down, say.
                                raise StreamError(event, passing=event["retryable"] and message.id == last)
                            if event["type"] == "start":
                                where = f"{url}/{event['id']}"
                            last, tries, over = message.id, 0, event["type"] == "finish"
                            yield event
                            if over:
                                return
                    raise StreamError({"message": "the connection ended before the answer did"}, passing=True)
                except CUT as exc:
                    error = StreamError({"message": f"the connection was lost: {exc}"}, passing=True)
                except StreamError as exc:
                    error = exc
                if not error.passing or tries == len(pauses_s):
                    over = not error.passing
                    raise error
                pause_s = max(random.uniform(0.5, 1) * pauses_s[tries], parser.retry_s, error.retry_after_s)  # noqa: S311
                log.warning("%s; trying again", error)
                time.sleep(min(pause_s, PAUSES_S[-1]))
                tries += 1
        finally:
            if not over:
                _stop(http, url)


def _stop(http: requests.Session, url: str) -> None:
    """By the key: the answer's name may not have come yet. What this does not reach, the server ends after a while."""
    for pause_s in (0.2, 1, 0):
        with contextlib.suppress(requests.RequestException):
            if http.delete(url, timeout=CONNECT_S).status_code != 404:
                return
        time.sleep(pause_s)  # it may have overtaken the question


def _check(response: requests.Response, *, again: bool) -> None:
    status, retry_after = response.status_code, response.headers.get("Retry-After", "")
    if response.ok and response.headers.get("Content-Type", "").startswith("text/event-stream"):
        return
    if status == 200 and not response.content:  # for http.client a head that is cut off is a head
        raise StreamError({"message": "the connection ended before the answer began"}, passing=True)
    error = {"code": "unexpected_answer", "status": status, "message": f"{status} {response.reason}, no event stream"}
    with contextlib.suppress(ValueError, LookupError, TypeError):  # a proxy's own page, say
        error |= response.json()["error"]
    # What refuses an answer that had begun is a worker that is just starting, or the proxy in front of it.
    passing = again and (status >= 500 or status == 429)
    raise Refused(error, passing=passing, retry_after_s=float(retry_after) if retry_after.isdecimal() else 0.0)


def _event(data: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        if isinstance(event := json.loads(data), dict) and "type" in event:
            return event
    raise StreamError({"code": "unexpected_answer", "message": f"no event: {data[:80]}"})


def main() -> int:
    cli = argparse.ArgumentParser(description="Streams an answer; Ctrl-C stops it. The API key: $SLUICEWAY_API_KEY")
    cli.add_argument("prompt")
    cli.add_argument("--url", default="http://127.0.0.1:8000/v1/streams")
    cli.add_argument("--model")
    asked = cli.parse_args()
    body = {"prompt": asked.prompt} | ({"model": asked.model} if asked.model else {})
    text = ""
    try:
        with contextlib.closing(stream(asked.url, body, api_key=os.environ.get("SLUICEWAY_API_KEY", ""))) as events:
            for event in events:
                if event["type"] == "text":
                    text += event["text"]
                    print(event["text"], end="", flush=True)
                elif event["type"] == "recovered":  # the provider broke off; another try goes on behind what stands
                    text = text[: event["kept_chars"]]
                    print(f"\n\n[once more]\n{text}", end="", flush=True)
                elif event["type"] == "finish":
                    print("" if event["reason"] == "stop" else f"\n[{event['reason']}]")
    except StreamError as exc:
        print(f"\n{exc.code}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
