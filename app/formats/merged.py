"""A provider's stream as the one object that the same protocol gives to those who do not stream.

Asked for by a client of the provider's own protocol, so that what we have no word for (logprobs, citations, a
fingerprint) is in the whole answer too. Values that are only handed on stay the bytes they were.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from .base import arguments_object

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_NULL = b"null"

Fields = dict[str, msgspec.Raw]


# Between so many frames (2 ms) the others have their turn.
_AT_A_TIME = 500


def data_of(frame: bytes) -> bytes:
    """The data of a frame as a reader relays it."""
    return b"\n".join(line[6:] for line in frame.split(b"\n") if line.startswith(b"data: "))


def datas(frames: bytes) -> Iterator[bytes]:
    """The data of relayed frames, one after the other."""
    for number, frame in enumerate(frames.split(b"\n\n"), 1):
        if number % _AT_A_TIME == 0:
            time.sleep(0)
        if data := data_of(frame):
            yield data


def merged_chat(frames: bytes) -> dict[str, Any]:
    """The chunks of a chat completion as the completion.

    As OpenAI's own SDK accumulates them: strings and lists of a delta are what comes one after the other, tool calls by
    their `index`; of all else the last value counts that is not null.
    """
    top: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": None}
    choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": None}
    for data in datas(frames):
        chunk = _fields(data)
        top |= {name: value for name, value in chunk.items() if bytes(value) != _NULL and name not in _NOT_THESE}
        for said in _objects(chunk.get("choices") or b"[]"):
            if bytes(said.get("index", b"0")) != b"0":
                continue
            for name, value in said.items():
                if name == "delta":
                    _add(message, _any(value) or {})
                elif name == "logprobs" and bytes(value) != _NULL:
                    choice["logprobs"] = _lists(choice["logprobs"] or {}, _fields(value))
                elif name not in ("index", "logprobs") and bytes(value) != _NULL:
                    choice[name] = value
    message = choice["message"] = _joined(message)
    for call in message.get("tool_calls") or ():
        call.pop("index", None)
    message.setdefault("refusal", None)
    if message["content"] is None and not message.get("tool_calls") and message["refusal"] is None:
        message["content"] = ""
    return {"object": "chat.completion", **top, "choices": [choice]}


def _lists(merged: dict[str, Any], said: Fields) -> dict[str, Any]:
    """Lists one behind the other, their items as they are."""
    for name, value in said.items():
        if bytes(value).startswith(b"["):
            merged[name] = [*(merged.get(name) or ()), *_raws(value)]
        elif bytes(value) != _NULL or name not in merged:
            merged[name] = value
    return merged


_NOT_THESE = ("choices", "object", "obfuscation")  # the last is noise, against who counts a stream's bytes


class _Text(list[str]):
    """A string that is still growing."""


def _add(merged: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        before = merged.get(name)
        if value is None:
            merged.setdefault(name, None)
        elif name in ("role", "type", "index", "id"):
            merged[name] = value
        elif isinstance(value, str):
            if isinstance(before, _Text):
                before.append(value)
            else:
                merged[name] = _Text([value])
        elif isinstance(value, dict):
            if not isinstance(before, dict):
                before = merged[name] = {}
            _add(before, value)
        elif isinstance(value, list):
            if not isinstance(before, list) or isinstance(before, _Text):
                before = merged[name] = []
            _extend(before, value)
        else:
            merged[name] = value


def _joined(value: Any) -> Any:
    match value:
        case _Text():
            return "".join(value)
        case dict():
            return {name: _joined(inner) for name, inner in value.items()}
        case list():
            return [_joined(inner) for inner in value]
        case _:
            return value


def _extend(merged: list[Any], items: list[Any]) -> None:
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        same = next((known for known in merged if isinstance(known, dict) and known.get("index") == index), None)
        if index is None:
            merged.append(item)
            continue
        if same is None:
            same = {}
            merged.append(same)
        _add(same, item)


def merged_message(frames: bytes) -> dict[str, Any]:
    """The events of a message as the message, as Anthropic's own SDK accumulates them."""
    message: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, _Text] = {}
    for data in datas(frames):
        said = _any(data)
        index = said.get("index") or 0
        match said.get("type"):
            case "message_start":
                message = dict(said.get("message") or {})
            case "content_block_start":
                blocks[index] = block = dict(said.get("content_block") or {})
                block.update((name, _Text([text])) for name in _GROWING if isinstance(text := block.get(name), str))
            case "content_block_delta" if index in blocks:
                _add_delta(blocks[index], said.get("delta") or {}, index, inputs)
            case "message_delta":
                message.update(said.get("delta") or {})
                told = {name: value for name, value in (said.get("usage") or {}).items() if value is not None}
                message["usage"] = {**(message.get("usage") or {}), **told}
            case _:
                pass
    for index, text in inputs.items():
        blocks[index]["input"] = arguments_object("".join(text))
    return {**message, "content": [_joined(blocks[index]) for index in sorted(blocks)]}


_GROWING = ("text", "thinking", "signature")


def _add_delta(block: dict[str, Any], delta: dict[str, Any], index: int, inputs: dict[int, _Text]) -> None:
    match delta:
        case {"type": "citations_delta", "citation": citation}:
            block["citations"] = [*(block.get("citations") or ()), citation]
        case {"type": "input_json_delta", "partial_json": str(text)}:
            inputs.setdefault(index, _Text()).append(text)
        case {"type": "text_delta" | "thinking_delta" | "signature_delta"}:
            _add(block, {name: value for name, value in delta.items() if name != "type"})
        case _:
            pass
