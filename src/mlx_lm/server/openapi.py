"""The OpenAPI 3.1 document, made from the field tables; refused and ignored fields stand in it too.

Contract: `document` is a plain dict; endpoints without a body come as `Plain`s. Knows nothing of routing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .fields import FieldTable, Rule

__all__ = ["Plain", "document"]

_REF = "#/components/schemas/"
_JSON = "application/json"
_OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
# What a whole reply has at least, by path.
_REPLIES: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"object": "chat.completion", "required": ["id", "created", "model", "choices", "usage"]},
    "/v1/completions": {"object": "text_completion", "required": ["id", "created", "model", "choices", "usage"]},
    "/v1/responses": {"object": "response", "required": ["id", "created_at", "model", "output", "status", "usage"]},
    "/v1/embeddings": {"object": "list", "required": ["data", "model", "usage"]},
    "/v1/models": {"required": ["data"]},
    "/v1/models/{model_id}": {"required": ["id"]},
    "/v1/messages": {"required": ["id", "type", "role", "model", "content", "stop_reason", "usage"]},
    "/v1/messages/count_tokens": {"required": ["input_tokens"]},
}
_STATUSES = {
    "400": "The request is malformed, or asks for what is not supported; the error names the field",
    "401": "No API key, or a wrong one",
    "403": "The Host or Origin is not allowed",
    "404": "No model has this name",
    "413": "The body is too large",
    "500": "An internal error; the server's log says what it was",
    "503": "Too much waits already; Retry-After says when to try again",
    "504": "The request's time was over",
}


@dataclass(frozen=True)
class Plain:
    """An endpoint without a body. `media` is the type of its reply; `parameters` are names in its path."""

    method: str
    path: str
    summary: str
    media: str = _JSON
    parameters: tuple[str, ...] = ()


def document(tables: Sequence[FieldTable[Any]], plain: Sequence[Plain], version: str) -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {"OpenAIError": _OPENAI_ERROR, "AnthropicError": _ANTHROPIC_ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for table in tables:
        paths.setdefault(table.path, {})[table.method.lower()] = _operation(table, schemas)
    for endpoint in plain:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _plain(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlx-lm", "version": version, "summary": "Language models on MLX over HTTP"},
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(table: FieldTable[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    name = table.model.__name__
    schemas[name] = request_schema(table, schemas)
    reply: dict[str, Any] = {_JSON: {"schema": _reply_schema(table.path)}}
    if "stream" in table.model.model_fields:
        reply["text/event-stream"] = {}
    return {
        "operationId": _identity(table.method, table.path),
        "summary": table.summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": {"$ref": _REF + name}}}},
        "responses": {"200": {"description": "The reply", "content": reply}, **_errors(table.path)},
    }


def _plain(endpoint: Plain) -> dict[str, Any]:
    schema = _reply_schema(endpoint.path) if endpoint.media == _JSON else {"type": "string"}
    operation: dict[str, Any] = {
        "operationId": _identity(endpoint.method, endpoint.path),
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The reply", "content": {endpoint.media: {"schema": schema}}},
            **_errors(endpoint.path),
        },
    }
    if endpoint.parameters:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in endpoint.parameters
        ]
    return operation


def request_schema(table: FieldTable[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The body's JSON schema with a word on every field; what it refers to is put into `schemas`."""
    schema = table.model.model_json_schema(ref_template=_REF + "{model}")
    for name, inner in schema.pop("$defs", {}).items():
        schemas.setdefault(name, inner)
    properties, required = schema.setdefault("properties", {}), schema.get("required", [])
    for path, rule in table.rules.items():
        if "." in path or "[]" in path:
            continue
        if rule.fate == "honoured":
            found = properties.get(path, {})
            inner = {key: value for key, value in found.items() if key != "description"}
            if path not in required and not _nullable(inner):
                inner = {"anyOf": [inner, {"type": "null"}]}
            properties[path] = {**inner, "description": rule.note}
        else:
            properties[path] = _closed(rule)
    return schema


def _nullable(schema: Mapping[str, Any]) -> bool:
    return not schema or {"type": "null"} in schema.get("anyOf", ())


def _closed(rule: Rule) -> dict[str, Any]:
    """A refused field allows its neutral values alone; an ignored one allows everything."""
    if rule.fate == "refused":
        return {"enum": [None, *rule.neutral], "description": f"Not supported: {rule.note}"}
    return {"description": f"Ignored. {rule.note}"}


def _reply_schema(path: str) -> dict[str, Any]:
    known = _REPLIES.get(path)
    if known is None:
        return {"type": "object"}
    schema: dict[str, Any] = {"type": "object", "required": list(known["required"])}
    if "object" in known:
        schema["properties"] = {"object": {"const": known["object"]}}
    return schema


def _errors(path: str) -> dict[str, Any]:
    kind = "AnthropicError" if path.startswith("/v1/messages") else "OpenAIError"
    either = {"anyOf": [{"$ref": _REF + "OpenAIError"}, {"$ref": _REF + "AnthropicError"}]}
    schema = either if path.startswith("/v1/models") else {"$ref": _REF + kind}
    return {status: {"description": text, "content": {_JSON: {"schema": schema}}} for status, text in _STATUSES.items()}


def _identity(method: str, path: str) -> str:
    words = path.replace("{", "").replace("}", "").replace(".", "/").split("/")
    return "_".join([method.lower(), *(word for word in words if word)])
