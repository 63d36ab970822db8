"""What the service's own events say, for the readers that give them raw; ../node/native.mjs is the same."""

from __future__ import annotations

from typing import Any

from driver import Seen


def take(event: dict[str, Any], seen: Seen) -> bool:
    """Whether it is time to leave."""
    match event["type"]:
        case "text":
            return seen.says(event["text"])
        case "reasoning":
            seen.reasoning += event["text"]
        case "tool_call":
            seen.called(event["call_id"], event["name"], event["arguments"])
        case "usage":
            seen.counted(event, ("input_tokens", "output_tokens"))
        case "finish":
            seen.finish = event["reason"]
        case "error":
            seen.told("error", event["message"], status=event["status"], code=event["code"])
    return False


def refused(status: int, body: dict[str, Any], headers: Any, seen: Seen) -> None:
    """An error before the first byte, in the shape of all routes without a protocol of their own."""
    error = body["error"]
    seen.told("status", error["message"], status=status, code=error["code"], retry_after=headers.get("retry-after"))
