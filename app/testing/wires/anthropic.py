"""Anthropic Messages: named events and bodies as api.anthropic.com sends them (WIRE.md section 4).

Content comes in blocks, one open at a time; the deltas of an answer say where one block ends and the next begins.
"""

import json
from collections.abc import Iterator, Mapping

from ..answers import Answer, CallArguments, CallStarted, Reasoning, Text
from .base import Call, Frame, Json, compact

_ERRORS = {  # status -> (type, message)
    400: ("invalid_request_error", "The request was refused."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "The requested resource could not be found."),
    408: ("timeout_error", "Request timed out"),
    409: ("conflict_error", "The request conflicts with another request."),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
SIGNATURE = "EuYBCkQYAiJAfakeSluicewaySignature=="


def request_id(call_id: str) -> tuple[str, str]:
    return "request-id", f"req_{call_id}"


def wrong_body(headers: Mapping[str, str], body: Json) -> str:
    if "anthropic-version" not in headers:
        return "anthropic-version: header is required"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    return "" if body.get("messages") else "messages: at least one message is required"


def wrong_prefill(prefill: str) -> str:
    trailing = prefill != prefill.rstrip()
    return "messages: final assistant content cannot end with trailing whitespace" if trailing else ""


def frames(call: Call, answer: Answer) -> Iterator[Frame]:
    usage = not call.behaviour.no_usage
    # message_start counts the first output token already; message_delta's numbers are cumulative and replace it.
    started = _head(call) | {"content": [], "stop_reason": None, "stop_sequence": None}
    yield _event("message_start", {"message": started | ({"usage": _usage(answer, 1)} if usage else {})})

    index, open_block = -1, ""
    for delta in answer.deltas:
        block, start = _block(delta)
        if start is not None and (block != open_block or isinstance(delta, CallStarted)):
            if open_block:
                yield from _block_end(index, open_block)
            index, open_block = index + 1, block
            yield _event("content_block_start", {"index": index, "content_block": start})
            if index == 0:
                yield _event("ping", {})
        match delta:
            case Reasoning(text):
                yield _delta(index, {"type": "thinking_delta", "thinking": text}, counted=False)
            case Text(text):
                yield _delta(index, {"type": "text_delta", "text": text})
            case CallStarted():
                first = {"type": "input_json_delta", "partial_json": ""}
                yield _event("content_block_delta", {"index": index, "delta": first})
            case CallArguments(_, fragment):
                yield _delta(index, {"type": "input_json_delta", "partial_json": fragment})
    if open_block:
        yield from _block_end(index, open_block)

    stop = {"stop_reason": _STOP_REASONS[answer.finish_reason], "stop_sequence": None}
    yield _event("message_delta", {"delta": stop} | ({"usage": _usage(answer, answer.output_tokens)} if usage else {}))
    if not call.behaviour.no_done:
        yield _event("message_stop", {})


def whole(call: Call, answer: Answer) -> Json:
    content: list[Json] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": SIGNATURE})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for tool_call in answer.tool_calls:
        arguments = json.loads(tool_call.arguments)
        content.append({"type": "tool_use", "id": tool_call.id, "name": tool_call.name, "input": arguments})
    body = _head(call) | {"content": content, "stop_reason": _STOP_REASONS[answer.finish_reason], "stop_sequence": None}
    return body | ({} if call.behaviour.no_usage else {"usage": _usage(answer, answer.output_tokens)})


def error(status: int, message: str = "") -> Json:
    kind, text = _ERRORS.get(status, ("api_error", "Internal server error") if status >= 500 else _ERRORS[400])
    return {"type": "error", "error": {"type": kind, "message": message or text}, "request_id": "req_fake"}


def error_frame(message: str = "") -> Frame:
    return Frame(compact({"type": "error", "error": error(529, message)["error"]}), event="error")


def bad_frame() -> Frame:
    return Frame('{"type":"content_block_delta","index":0,"del', event="content_block_delta")


def unknown_frame() -> Frame:
    return _event("provider_heartbeat", {})


def wrong_key(key: str, *, bearer: bool) -> Json:
    if not key:
        return error(401, "x-api-key header is required")
    return error(401, "Invalid bearer token" if bearer else "invalid x-api-key")


def context_exceeded() -> Json:
    return error(400, "prompt is too long: 208310 tokens > 200000 maximum")


def filtered() -> Json:
    return error(400, "Output blocked by content filtering policy")


def prefill_refused() -> Json:
    message = "This model does not support assistant message prefill. The conversation must end with a user message."
    return error(400, message)


def _block(delta: Reasoning | Text | CallStarted | CallArguments) -> tuple[str, Json | None]:
    """The kind of block a delta stands in, and how such a block starts (None: it cannot start one)."""
    match delta:
        case Reasoning():
            return "thinking", {"type": "thinking", "thinking": "", "signature": ""}
        case Text():
            return "text", {"type": "text", "text": ""}
        case CallStarted(_, call_id, name):
            return "tool_use", {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        case CallArguments():
            return "tool_use", None


def _block_end(index: int, block: str) -> Iterator[Frame]:
    if block == "thinking":
        signature = {"type": "signature_delta", "signature": SIGNATURE}
        yield _event("content_block_delta", {"index": index, "delta": signature})
    yield _event("content_block_stop", {"index": index})


def _delta(index: int, delta: Json, *, counted: bool = True) -> Frame:
    data = compact({"type": "content_block_delta", "index": index, "delta": delta})
    return Frame(data, "content_block_delta", paced=True, counted=counted)


def _event(kind: str, fields: Json) -> Frame:
    return Frame(compact({"type": kind} | fields), kind)


def _head(call: Call) -> Json:
    return {"id": f"msg_{call.id}", "type": "message", "role": "assistant", "model": call.behaviour.model}


def _usage(answer: Answer, output_tokens: int) -> Json:
    return {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }
