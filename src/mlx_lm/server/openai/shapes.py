"""JSON schemas of messages and items, for the OpenAPI document: what `messages` and `response_items` accept.

They are read by people and by generators of requests; bodies are read by the code that they describe.
"""

from typing import Any

__all__ = ["INPUT_SCHEMA", "MESSAGES_SCHEMA"]

Schema = dict[str, Any]


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _enum(*values: str) -> Schema:
    return {"enum": list(values)}


_STRING: Schema = {"type": "string"}
_NULL: Schema = {"type": "null"}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
_ID: Schema = {"type": "string", "maxLength": 512}
_PART = _object({"type": _enum("text", "input_text", "output_text"), "text": _STRING})
_TEXT: Schema = {"anyOf": [_STRING, {"type": "array", "items": _PART}]}
# The text of a JSON object. Braces at both ends are all that a pattern can say.
_ARGUMENTS: Schema = {"type": "string", "contentMediaType": "application/json", "pattern": "^[{].*[}]$"}
_FUNCTION = _object({"name": _NAME, "arguments": {"anyOf": [{"type": "object"}, _ARGUMENTS]}})
_CALL = _object({"type": _enum("function"), "function": _FUNCTION}, id=_ID)
_MESSAGE: Schema = {
    "anyOf": [
        _object({"role": _enum("system", "developer", "user"), "content": _TEXT}, name=_ID),
        _object(
            {"role": _enum("assistant")},
            content={"anyOf": [*_TEXT["anyOf"], _NULL]},
            tool_calls={"type": "array", "items": _CALL},
            reasoning_content=_STRING,
        ),
        _object({"role": _enum("tool"), "content": _TEXT, "tool_call_id": _ID}),
    ]
}
MESSAGES_SCHEMA: Schema = {"type": "array", "minItems": 1, "items": _MESSAGE}
_REASONING_TEXT = _object({"type": _enum("reasoning_text"), "text": _STRING})
_ITEM: Schema = {
    "anyOf": [
        _object({"role": _enum("user", "assistant", "system", "developer"), "content": _TEXT}, type=_enum("message")),
        _object({"type": _enum("function_call"), "call_id": _ID, "name": _NAME, "arguments": _ARGUMENTS}),
        _object({"type": _enum("function_call_output"), "call_id": _ID, "output": _TEXT}),
        _object({"type": _enum("reasoning")}, content={"type": "array", "items": _REASONING_TEXT}),
    ]
}
INPUT_SCHEMA: Schema = {"anyOf": [_STRING, {"type": "array", "minItems": 1, "items": _ITEM}]}
