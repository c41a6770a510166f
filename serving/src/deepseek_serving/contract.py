"""The API as an OpenAPI document: what may be sent, taken from the very types that read it, and what comes back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from deepseek_serving.openai import ChatRequest, CompletionRequest
from deepseek_serving.settings import ServingSettings

_REF = "#/components/schemas/{model}"

_TEXT, _INTEGER, _NULL = {"type": "string"}, {"type": "integer"}, {"type": "null"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": sorted(properties)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, _NULL]}


_LOGPROBS = _maybe({"type": "object"})
_FINISH = {"enum": ["stop", "length"]}
_USAGE = _object(prompt_tokens=_INTEGER, completion_tokens=_INTEGER, total_tokens=_INTEGER, prompt_tokens_details={"type": "object"})
_CHAT_MESSAGE = _object(role={"const": "assistant"}, content=_TEXT, refusal=_NULL)
_CHAT_CHOICE = _object(index=_INTEGER, message=_CHAT_MESSAGE, logprobs=_LOGPROBS, finish_reason=_FINISH)
_TEXT_CHOICE = _object(index=_INTEGER, text=_TEXT, logprobs=_LOGPROBS, finish_reason=_FINISH)
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_INTEGER, owned_by=_TEXT)

_SCHEMAS: dict[str, Any] = {
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_maybe(_TEXT), code=_maybe(_TEXT))),
    "Model": _MODEL,
    "Models": _object(object={"const": "list"}, data=_list({"$ref": "#/components/schemas/Model"})),
    "ChatAnswer": _object(
        id=_TEXT, object={"const": "chat.completion"}, created=_INTEGER, model=_TEXT, choices=_list(_CHAT_CHOICE), usage=_USAGE
    ),
    "CompletionAnswer": _object(
        id=_TEXT, object={"const": "text_completion"}, created=_INTEGER, model=_TEXT, choices=_list(_TEXT_CHOICE), usage=_USAGE
    ),
}

_REFUSALS = {
    "400": "The request cannot be answered as it is.",
    "401": "No valid API key, where keys are asked for.",
    "404": "That model is not here.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not plain JSON.",
    "429": "Overloaded, over budget, or too many wrong keys; `Retry-After` says when to come back.",
    "500": "The server's fault.",
    "503": "The replica is shutting down.",
}


def openapi(settings: ServingSettings) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these settings."""
    return _document(settings.access.keys_folder != "")


@lru_cache(maxsize=2)
def _document(keys: bool) -> dict[str, Any]:
    schemas = dict(_SCHEMAS)
    for shape in (ChatRequest, CompletionRequest):
        schemas.update(_schemas_of(shape))
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "deepseek-serving", "version": "1", "description": "OpenAI's chat and completions API over one model."},
        "paths": {
            "/healthz": {"get": _plain("Whether this replica should go on living")},
            "/readyz": {"get": _plain("Whether it can answer", **{"503": "The model is not loaded."})},
            "/v1/models": {"get": _get("The model that is here", "Models")},
            "/v1/models/{model}": {"get": {**_get("The model by its name", "Model"), "parameters": [_PATH_MODEL]}},
            "/v1/chat/completions": {"post": _post("Answer a conversation", "ChatRequest", "ChatAnswer")},
            "/v1/completions": {"post": _post("Continue a text", "CompletionRequest", "CompletionAnswer")},
        },
        "components": {"schemas": schemas},
    }
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for path in ("/healthz", "/readyz"):
            document["paths"][path]["get"]["security"] = []
    return document


_PATH_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _schemas_of(shape: type[BaseModel]) -> dict[str, Any]:
    schema = shape.model_json_schema(ref_template=_REF)
    return {**schema.pop("$defs", {}), shape.__name__: schema}


def _plain(summary: str, **others: str) -> dict[str, Any]:
    text = {"text/plain": {"schema": _TEXT}}
    responses = {
        "200": {"description": "Yes.", "content": text},
        **{status: {"description": why, "content": text} for status, why in others.items()},
    }
    return {"summary": summary, "responses": responses}


def _get(summary: str, answer: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(answer, {"401", "404", "429"})}


def _post(summary: str, request: str, answer: str) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(model=request)}}}}
    responses = _responses(answer, set(_REFUSALS))
    responses["200"]["content"]["text/event-stream"] = {"schema": _TEXT}
    return {"summary": summary, "requestBody": body, "responses": responses}


def _responses(answer: str, refusals: set[str]) -> dict[str, Any]:
    wrong = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {
        "200": {"description": "The answer.", "content": {"application/json": {"schema": {"$ref": _REF.format(model=answer)}}}},
        **{status: {"description": _REFUSALS[status], "content": wrong} for status in sorted(refusals)},
    }
