"""OpenAI Chat Completions: chunks and bodies as api.openai.com sends them (WIRE.md section 2)."""

from collections.abc import Iterator, Mapping

from ..answers import Answer, CallArguments, CallStarted, Reasoning, Text
from .base import Call, Frame, Json, compact

_ERRORS = {  # status -> (type, code, message)
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported"),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    408: ("timeout_error", None, "Request timed out."),
    409: ("conflict_error", None, "The request conflicts with another request."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later."),
    503: ("service_unavailable_error", None, "The engine is currently overloaded, please try again later"),
}


def request_id(call_id: str) -> tuple[str, str]:
    return "x-request-id", f"req_{call_id}"


def wrong_body(headers: Mapping[str, str], body: Json) -> str:
    return "" if body.get("messages") else "Missing required parameter: 'messages'."


def wrong_prefill(prefill: str) -> str:
    return ""


def frames(call: Call, answer: Answer) -> Iterator[Frame]:
    with_usage = bool((call.body.get("stream_options") or {}).get("include_usage")) and not call.behaviour.no_usage

    # `usage` is null on every chunk before the one that has it, and no key at all where nobody asked. `obfuscation`
    # pads real chunks to hide their length; here it stands for every field a reader does not know.
    tail = ({"usage": None} if with_usage else {}) | {"obfuscation": "pad"}

    def chunk(delta: Json, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return compact(_head(call, "chat.completion.chunk") | {"choices": [choice]} | tail)

    content = None if answer.tool_calls and not answer.text else ""
    yield Frame(chunk({"role": "assistant", "content": content, "refusal": None}))
    for delta in answer.deltas:
        match delta:
            case Reasoning(text):
                yield Frame(chunk({"reasoning_content": text}), paced=True)
            case Text(text):
                name = "refusal" if call.behaviour.declines else "content"
                yield Frame(chunk({name: text}), paced=True, counted=True)
            case CallStarted(index, call_id, name):
                started = {
                    "index": index,
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                yield Frame(chunk({"tool_calls": [started]}))
            case CallArguments(index, fragment):
                continued = {"index": index, "function": {"arguments": fragment}}
                yield Frame(chunk({"tool_calls": [continued]}), paced=True, counted=True)
    yield Frame(chunk({}, _finish_reason(call, answer)))
    if with_usage:
        yield Frame(compact(_head(call, "chat.completion.chunk") | {"choices": []} | tail | {"usage": _usage(answer)}))
    if not call.behaviour.no_done:
        yield Frame("[DONE]")


def whole(call: Call, answer: Answer) -> Json:
    message: Json = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call_id, name, arguments in answer.tool_calls
        ]
    if call.behaviour.declines:
        message |= {"content": None, "refusal": answer.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(call, answer)}
    usage = {} if call.behaviour.no_usage else {"usage": _usage(answer)}
    return _head(call, "chat.completion") | {"choices": [choice]} | usage


def _finish_reason(call: Call, answer: Answer) -> str:
    return "stop" if call.behaviour.declines else answer.finish_reason


def error(status: int, message: str = "") -> Json:
    usual = ("server_error", None, "The server had an error while processing your request. Sorry about that!")
    refused = ("invalid_request_error", None, "The request was refused.")
    kind, code, text = _ERRORS.get(status, usual if status >= 500 else refused)
    return _error(message or text, kind, code)


def error_frame(message: str = "") -> Frame:
    return Frame(compact(error(500, message)))


def bad_frame() -> Frame:
    return Frame('{"id":"chatcmpl-bad","object":"chat.completion.chunk","choices":[{"index":0,"del')


def unknown_frame() -> Frame:
    # With `choices`: openai-python would hand its user a chunk whose choices are None (WIRE.md section 0, rule 4).
    return Frame(compact({"object": "provider.heartbeat", "choices": []}), event="provider.heartbeat")


def wrong_key(key: str, *, bearer: bool) -> Json:
    if not key:
        message = "You didn't provide an API key. You need to provide it in an Authorization header using Bearer auth."
        return _error(message, "invalid_request_error", None)
    shown = f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}" if len(key) > 12 else f"{key[:2]}{'*' * (len(key) - 2)}"
    message = f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys."
    return _error(message, "invalid_request_error", "invalid_api_key")


def context_exceeded() -> Json:
    message = (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130025 tokens. "
        "Please reduce the length of the messages."
    )
    return _error(message, "invalid_request_error", "context_length_exceeded", param="messages")


def filtered() -> Json:
    """Azure OpenAI's refusal of a prompt; api.openai.com itself uses the same code with a null `innererror`."""
    message = (
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry."
    )
    verdicts = {"hate": {"filtered": False, "severity": "safe"}, "violence": {"filtered": True, "severity": "high"}}
    body = _error(message, None, "content_filter", param="prompt")
    body["error"]["status"] = 400
    body["error"]["innererror"] = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": verdicts}
    return body


def prefill_refused() -> Json:
    """In the words for a role that a model does not take; api.openai.com itself has none for this."""
    message = "Unsupported value: 'messages' does not support 'assistant' as the last role with this model."
    return _error(message, "invalid_request_error", "unsupported_value", param="messages")


def _head(call: Call, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{call.id}",
        "object": kind,
        "created": call.created,
        "model": call.behaviour.model,
        "service_tier": "default",
        "system_fingerprint": "fp_sluiceway",
    }


def _usage(answer: Answer) -> Json:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _error(message: str, kind: str | None, code: str | None, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
