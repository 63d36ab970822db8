"""OpenAI Responses: named events and bodies as api.openai.com sends them (WIRE.md section 3).

The output is a list of items, one open at a time. There is no end mark behind the last event, so `nodone` has nothing
to leave out; and no model here goes on with an assistant's message, so what makes a prefill elsewhere changes nothing.
"""

from collections.abc import Iterator, Mapping
from itertools import count, groupby

from ..answers import Answer, CallArguments, CallStarted, Delta, Reasoning, Text
from . import openai
from .base import Call, Frame, Json, compact

request_id = openai.request_id
wrong_prefill = openai.wrong_prefill
error = openai.error
wrong_key = openai.wrong_key
filtered = openai.filtered
prefill_refused = openai.prefill_refused


def wrong_body(headers: Mapping[str, str], body: Json) -> str:
    if "messages" in body:
        return "Unsupported parameter: 'messages'. In the Responses API, this parameter has moved to 'input'."
    for name in ("stop", "max_tokens", "response_format"):
        if name in body:
            return f"Unknown parameter: '{name}'."
    items = body.get("input")
    if isinstance(items, list) and not all(isinstance(item, dict) for item in items):
        return "Invalid type for 'input[0]': expected an object."
    return "" if items else "Missing required parameter: 'input'."


def frames(call: Call, answer: Answer) -> Iterator[Frame]:
    numbers = count()

    def event(kind: str, fields: Json, *, paced: bool = False, counted: bool = False) -> Frame:
        data = compact({"type": kind} | fields | {"sequence_number": next(numbers)})
        return Frame(data, kind, paced=paced, counted=counted)

    begun = _response(call, "in_progress", [], None)
    yield event("response.created", {"response": begun})
    yield event("response.in_progress", {"response": begun})
    output: list[Json] = []
    for kind, deltas in groupby(answer.deltas, _kind):
        index = len(output)
        item = _item(call, kind, index, answer)
        output.append(item)
        place = {"item_id": item["id"], "output_index": index}
        empty: Json = {"reasoning": {"summary": []}, "message": {"content": []}}.get(item["type"], {"arguments": ""})
        opened = item | empty | ({"status": "in_progress"} if "status" in item else {})
        yield event("response.output_item.added", {"output_index": index, "item": opened})
        match item["type"]:
            case "reasoning":
                part = item["summary"][0]
                place |= {"summary_index": 0}
                name, said, whole = "reasoning_summary_part", "reasoning_summary_text", {"text": part["text"]}
            case "message":
                part = item["content"][0]
                place |= {"content_index": 0}
                name, said, whole = "content_part", "output_text", {"text": part.get("text"), "logprobs": []}
                if part["type"] == "refusal":
                    said, whole = "refusal", {"refusal": part["refusal"]}
            case _:
                part, name, said, whole = {}, "", "function_call_arguments", {"arguments": item["arguments"]}
        if name:
            own = "refusal" if part["type"] == "refusal" else "text"
            yield event(f"response.{name}.added", place | {"part": part | {own: ""}})
        for delta in deltas:
            # `obfuscation` pads real deltas to hide their length; here it stands for every field that nobody knows.
            more: Json = {"logprobs": []} if said == "output_text" else {}
            pad = more | {"obfuscation": "pad"}
            match delta:
                case Reasoning(text):
                    yield event(f"response.{said}.delta", place | {"delta": text} | pad, paced=True)
                case Text(text):
                    yield event(f"response.{said}.delta", place | {"delta": text} | pad, paced=True, counted=True)
                case CallArguments(_, fragment):
                    yield event(f"response.{said}.delta", place | {"delta": fragment} | pad, paced=True, counted=True)
                case CallStarted():
                    pass
        yield event(f"response.{said}.done", place | whole)
        if name:
            yield event(f"response.{name}.done", place | {"part": part})
        yield event("response.output_item.done", {"output_index": index, "item": item})
    ended = _whole(call, answer, output)
    yield event(f"response.{ended['status']}", {"response": ended})


def whole(call: Call, answer: Answer) -> Json:
    kinds = [kind for kind, _ in groupby(answer.deltas, _kind)]
    return _whole(call, answer, [_item(call, kind, index, answer) for index, kind in enumerate(kinds)])


def error_frame(message: str = "") -> Frame:
    said = error(500, message)["error"]
    return Frame(compact({"type": "error", "error": said, "sequence_number": 0}), "error")


def bad_frame() -> Frame:
    return Frame('{"type":"response.output_text.delta","item_id":"msg_bad","del', "response.output_text.delta")


def unknown_frame() -> Frame:
    return Frame(compact({"type": "response.provider_heartbeat"}), "response.provider_heartbeat")


def context_exceeded() -> Json:
    message = "Your input exceeds the context window of this model. Please adjust your input and try again."
    kind, code = "invalid_request_error", "context_length_exceeded"
    return {"error": {"message": message, "type": kind, "param": "input", "code": code}}


def _kind(delta: Delta) -> str:
    """What item a delta stands in: a thought, a message, or which call."""
    match delta:
        case Reasoning():
            return "reasoning"
        case Text():
            return "message"
        case CallStarted(index) | CallArguments(index):
            return f"call {index}"


def _item(call: Call, kind: str, index: int, answer: Answer) -> Json:
    """An item as it is when it is complete."""
    if kind == "reasoning":
        summary = [{"type": "summary_text", "text": answer.reasoning}]
        item: Json = {"id": f"rs_{call.id}_{index}", "type": "reasoning", "summary": summary}
        return item | ({"encrypted_content": "gAAAAfakeSluiceway=="} if call.body.get("include") else {})
    if kind == "message":
        part: Json = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        if call.behaviour.declines:
            part = {"type": "refusal", "refusal": answer.text}
        item = {"id": f"msg_{call.id}_{index}", "type": "message", "status": "completed", "role": "assistant"}
        return item | {"content": [part]}
    made = answer.tool_calls[int(kind.removeprefix("call "))]
    item = {"id": f"fc_{call.id}_{index}", "type": "function_call", "status": "completed"}
    return item | {"call_id": made.id, "name": made.name, "arguments": made.arguments}


def _whole(call: Call, answer: Answer, output: list[Json]) -> Json:
    status = "incomplete" if answer.finish_reason == "length" else "completed"
    return _response(call, status, output, None if call.behaviour.no_usage else _usage(answer))


def _response(call: Call, status: str, output: list[Json], usage: Json | None) -> Json:
    body = call.body
    return {
        "id": f"resp_{call.id}",
        "object": "response",
        "created_at": call.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": call.behaviour.model,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None} | (body.get("reasoning") or {}),
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
        "user": body.get("user"),
    }


def _usage(answer: Answer) -> Json:
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }
