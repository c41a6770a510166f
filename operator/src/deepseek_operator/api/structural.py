"""Pydantic models as a structural OpenAPI v3 schema: the dialect a CustomResourceDefinition accepts.

Kubernetes wants every type written out in place: no `$ref`, no `anyOf` with null (an optional field is simply not required), no titles.
Defaults of nested parts must stand at every level, because the API server fills a field only when its parent is there.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import DEFAULT_REF_TEMPLATE, GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, Any]

# fmt: off
_KEY_ORDER = (
    "description", "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems",
    "minProperties", "maxProperties", "default", "anyOf", "required", "properties", "additionalProperties", "items",
)
# fmt: on
_INT32_MAX = 2**31 - 1


class _Generator(GenerateJsonSchema):
    """JSON schema without nulls and titles, with the defaults that a factory makes and the width of every integer."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        factory = schema.get("default_factory")
        value = factory() if factory is not None else schema.get("default")  # type: ignore[call-arg]  # no factory here reads other fields
        if isinstance(value, BaseModel):
            # Whole, not `{}`: the API server tries a part's rules on its default before it fills that default in ("no such key: min").
            return {**inner, "default": _without_empty(value.model_dump(mode="json", by_alias=True, exclude_none=True))}
        # An empty list or map is left out of the stored object, as everywhere in Kubernetes.
        return inner if value is None or value == [] or value == {} else {**inner, "default": value}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        inner = super().int_schema(schema)
        return {**inner, "format": "int32" if inner.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        return {"type": "string", "enum": list(schema["expected"])}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    inner = {key: _without_empty(child) if isinstance(child, dict) else child for key, child in value.items()}
    return {key: child for key, child in inner.items() if child not in ([], {})}


def definitions(model: type[BaseModel]) -> dict[str, Schema]:
    """The schema of `model` and of every model in it, by class name, with references between them."""
    whole = model.model_json_schema(by_alias=True, ref_template=DEFAULT_REF_TEMPLATE, schema_generator=_Generator)
    parts: dict[str, Schema] = whole.pop("$defs", {})
    return {model.__name__: whole, **parts}


def structural(model: type[BaseModel]) -> Schema:
    """The schema of `model` in one piece. Raises `ValueError` naming the place of a keyword Kubernetes does not accept."""
    parts = definitions(model)
    return _node(parts[model.__name__], parts, model.__name__)


def referenced(schema: Schema) -> str | None:
    """Name of the definition a schema points at, None when it says for itself what it is."""
    reference = schema.get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]


def allowed(schema: Schema) -> str:
    """What the bounds of a value allow, in words: `10 to 100`, `None or Auto`; empty when everything is."""
    words = []
    if "enum" in schema:
        *most, last = schema["enum"]
        words.append(f"{', '.join(most)} or {last}" if most else str(last))
    words.extend(_span(schema.get("minimum"), schema.get("maximum"), ""))
    words.extend(_span(schema.get("minLength"), schema.get("maxLength"), " characters"))
    words.extend(_span(schema.get("minItems"), schema.get("maxItems"), " items"))
    words.extend(_span(schema.get("minProperties"), schema.get("maxProperties"), " entries"))
    if "pattern" in schema:
        words.append(f"matches {schema['pattern']}")
    return "; ".join(words)


def _span(least: int | None, most: int | None, unit: str) -> list[str]:
    if least is None and most is None:
        return []
    if most is None:
        return [f"at least {least}{unit}"]
    return [f"at most {most}{unit}" if least is None else f"{least} to {most}{unit}"]


def _node(schema: Schema, parts: dict[str, Schema], where: str) -> Schema:
    """One schema node with its references replaced; what stands beside a reference wins over what it points at."""
    name = referenced(schema)
    if name is not None:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**parts[name], **beside}
    node: Schema = {}
    for key, value in schema.items():
        if key == "title":
            continue
        if key == "properties":
            node[key] = {field: _field(child, parts, f"{where}.{field}") for field, child in value.items()}
        elif key in ("items", "additionalProperties"):
            node[key] = _node(value, parts, f"{where}[]")
        elif key in _KEY_ORDER or key.startswith("x-kubernetes-"):
            node[key] = value
        else:
            raise ValueError(f"{where}: a CustomResourceDefinition accepts no {key!r}; allowed are {', '.join(_KEY_ORDER)} and x-kubernetes-*")
    if node.get("x-kubernetes-int-or-string") is not True and ("type" not in node or "anyOf" in node):
        raise ValueError(f"{where}: a CustomResourceDefinition needs exactly one type here, or x-kubernetes-int-or-string")
    return {key: node[key] for key in sorted(node, key=lambda key: _KEY_ORDER.index(key) if key in _KEY_ORDER else len(_KEY_ORDER))}


def _field(schema: Schema, parts: dict[str, Schema], where: str) -> Schema:
    """A named field: its node, with default and bounds said in the description as well, where `kubectl explain` shows them."""
    node = _node(schema, parts, where)
    if "description" not in node:
        raise ValueError(f"{where} has no description")
    facts = []
    if isinstance(node.get("default"), str | int) and node["default"] != "":
        facts.append(f"Default: {node['default']}.")
    if "minimum" in node or "maximum" in node:
        facts.append(f"Allowed: {allowed({key: node.get(key) for key in ('minimum', 'maximum')})}.")
    return {**node, "description": " ".join([node["description"], *facts])}
