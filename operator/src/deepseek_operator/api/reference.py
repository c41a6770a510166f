"""The reference page `docs/api.md`: one table per type, made from the same schema the API server gets."""

from __future__ import annotations

import json
from typing import Any

from deepseek_operator.api import v1alpha1
from deepseek_operator.api.structural import Schema, allowed, definitions, referenced

_ROWS_HEAD = "| Field | Type | Default | Allowed | Meaning |\n|---|---|---|---|---|\n"


def reference_page(definition: dict[str, Any]) -> str:
    """The whole page in Markdown; `definition` is the CustomResourceDefinition, for names, columns and subresources."""
    names, version = definition["spec"]["names"], definition["spec"]["versions"][0]
    scale, short = version["subresources"]["scale"], names["shortNames"][0]
    parts = definitions(v1alpha1.DeepSeekDeployment)
    lines = [
        f"# {names['kind']} ({v1alpha1.API_VERSION})",
        "",
        "<!-- Generated from operator/src/deepseek_operator/api/v1alpha1.py by `make crds`; change it there. -->",
        "",
        f"`kubectl get {short}` lists the objects of a namespace, `kubectl explain {short}.spec.scaling` prints a part of this page. "
        "A field in **bold** must be given; all others may be left out.",
        "",
    ]
    for name in _reading_order(parts):
        lines += _section(name, parts)
    lines += ["## Columns of `kubectl get`", "", "| Column | Value | Meaning |", "|---|---|---|"]
    for column in version["additionalPrinterColumns"]:
        wide = " (with `-o wide`)" if column["priority"] else ""
        lines.append(f"| {column['name']} | `{column['jsonPath']}` | {column['description']}{wide} |")
    lines += [
        "",
        "## Subresources",
        "",
        "- `status` is written by the operator alone.",
        f"- `scale`: `kubectl scale {short}/NAME --replicas=N` writes `{scale['specReplicasPath']}` and reads "
        f"`{scale['statusReplicasPath']}`; it steers in mode Manual.",
        "",
    ]
    return "\n".join(lines)


def _reading_order(parts: dict[str, Schema]) -> list[str]:
    """The types as a reader meets them: depth first from the object, each once."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            order.append(name)
            for field in parts[name]["properties"].values():
                target = referenced(field) or referenced(field.get("items", {}))
                if target:
                    visit(target)

    visit(v1alpha1.DeepSeekDeployment.__name__)
    return order


def _section(name: str, parts: dict[str, Schema]) -> list[str]:
    schema = parts[name]
    lines = [f"## {name}", "", schema["description"], "", _ROWS_HEAD.rstrip()]
    rules = [f"- {_message(rule)}" for rule in schema.get("x-kubernetes-validations", [])]
    for field, child in schema["properties"].items():
        shown = f"**{field}**" if field in schema.get("required", []) else field
        default = _default(child, parts)
        meaning = child.get("description") or parts[referenced(child) or ""]["description"]
        cells = [shown, _type(child), default, _code_if_pattern(allowed(child)), meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        rules += [f"- {field} {_message(rule)}" for rule in child.get("x-kubernetes-validations", [])]
        of_values = child.get("additionalProperties", {}).get("x-kubernetes-validations", [])
        rules += [f"- each value of {field} {_message(rule)}" for rule in of_values]
    return [*lines, "", *(["Rules:", "", *rules, ""] if rules else [])]


def _message(rule: dict[str, str]) -> str:
    return rule["message"].replace("|", "\\|") + "."


def _default(schema: Schema, parts: dict[str, Schema]) -> str:
    """The default of a field; of a part only what the defaults of its own fields do not say."""
    value = schema.get("default")
    target = referenced(schema)
    if target and isinstance(value, dict):
        value = {key: child for key, child in value.items() if child != parts[target]["properties"][key].get("default")}
    return "" if value is None or value == {} else f"`{json.dumps(value)}`"


def _code_if_pattern(words: str) -> str:
    head, found, pattern = words.partition("matches ")
    return f"{head}{found}`{pattern}`" if found else words


def _type(schema: Schema) -> str:
    name = referenced(schema)
    if name:
        return f"[{name}](#{name.lower()})"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = str(schema["type"])
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if kind == "object":
        return f"map of {_type(schema['additionalProperties'])}"
    return "time" if schema.get("format") == "date-time" else kind
