"""The definition is made from the models, whole and in the dialect Kubernetes takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from deepseek_operator.api import v1alpha1
from deepseek_operator.api.crd import FILE_NAME, chart_template, custom_resource_definition, main, plain_manifest
from deepseek_operator.api.structural import Schema, allowed, structural
from deepseek_serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[3]


def _nodes(schema: Schema, where: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema node with the path to it."""
    yield where, schema
    for name, child in schema.get("properties", {}).items():
        yield from _nodes(child, f"{where}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _nodes(schema[key], f"{where}[]")


ROOT_SCHEMA: Schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
NODES = dict(_nodes(ROOT_SCHEMA))


# ------------------------------------------------------------------------------------------------------ the whole schema


def test_the_committed_files_are_what_the_models_give() -> None:
    """`crds/`, the chart's copy and the reference page; `make crds` brings them back in step."""
    assert main(ROOT / "crds", ROOT / "helm" / "deepseek-operator", ROOT / "docs" / "api.md", check=True) == 0


def test_check_names_each_file_that_differs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three files missing: exit code 1 and three lines. Written: 0. One byte changed: 1 and its name."""
    paths = (tmp_path / "crds", tmp_path / "chart", tmp_path / "api.md")
    assert main(*paths, check=True) == 1
    assert capsys.readouterr().err.count("differs from the models") == 3
    assert list(tmp_path.iterdir()) == []
    assert main(*paths) == 0
    assert main(*paths, check=True) == 0
    (tmp_path / "api.md").write_text("changed")
    capsys.readouterr()
    assert main(*paths, check=True) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'api.md'} differs from the models; `make crds` regenerates it\n"


@pytest.mark.parametrize("keyword", ["$ref", "$defs", "title", "const", "nullable", "allOf", "oneOf"])
def test_no_node_bears_a_keyword_of_json_schema_that_kubernetes_lacks(keyword: str) -> None:
    """References are written out, nulls and titles are gone."""
    assert [where for where, node in NODES.items() if keyword in node] == []


def test_every_node_has_one_type_and_every_field_a_description() -> None:
    """An integer also says how wide it is; only a resource quantity is either a number or text."""
    for where, node in NODES.items():
        assert "type" in node or node.get("x-kubernetes-int-or-string"), where
        assert node.get("type") != "integer" or node["format"] in ("int32", "int64"), where
        if not where.endswith("[]") and where != ".metadata":
            assert node["description"], where


def test_every_list_says_how_it_is_merged_and_how_long_it_may_be() -> None:
    """Environment variables and conditions are merged by key, tolerations as a whole."""
    lists = {where: node for where, node in NODES.items() if node.get("type") == "array"}
    assert {where: node["x-kubernetes-list-type"] for where, node in lists.items()} == {
        ".spec.serving.env": "map",
        ".spec.serving.remoteImageHosts": "set",
        ".spec.nodes.tolerations": "atomic",
        ".spec.head.tolerations": "atomic",
        ".spec.scaling.schedule": "map",
        ".status.conditions": "map",
        ".status.savings": "map",
    }
    assert all("maxItems" in node for where, node in lists.items() if where.startswith(".spec"))


def test_no_boolean_and_no_float_in_the_api() -> None:
    """A boolean cannot get a third value and a float does not compare; Kubernetes' conventions have neither."""
    assert {node.get("type") for node in NODES.values()} <= {"object", "array", "string", "integer", None}


def test_defaults_stand_at_every_level() -> None:
    """The API server fills a default only into a parent that is there, and tries rules on a default before completing it."""
    assert NODES[".spec.scaling"]["default"]["scaleUpPercent"] == 80
    assert NODES[".spec.scaling"]["default"]["forecast"] == {"horizonSeconds": 600}
    assert NODES[".spec.scaling.forecast"]["default"] == {"horizonSeconds": 600}
    assert NODES[".spec.scaling.scaleUpPercent"]["default"] == 80
    assert NODES[".spec.nodes.resources"]["default"] == {"limits": {"nvidia.com/gpu": 1, "cpu": "4", "memory": "32Gi"}}
    assert "default" not in NODES[".spec.nodes.count"]
    assert "default" not in NODES[".spec.model"]


def test_each_rule_stands_at_its_node() -> None:
    """Cross-field rules at the parent, the name's at the root, where `metadata` can be seen."""
    rules = {where: len(node["x-kubernetes-validations"]) for where, node in NODES.items() if "x-kubernetes-validations" in node}
    assert rules == {
        "": 1,
        ".spec.model.source": 1,
        ".spec.serving.directPort": 1,
        ".spec.nodes": 2,
        ".spec.nodes.resources.limits[]": 1,
        ".spec.nodes.resources.requests[]": 1,
        ".spec.head.resources.limits[]": 1,
        ".spec.head.resources.requests[]": 1,
        ".spec.scaling": 4,
        ".spec.scaling.schedule[]": 2,
        ".spec.scaling.costPerNodeHour": 1,
        ".spec.scaling.costOfLateRequest": 1,
        ".spec.scaling.budget": 1,
        ".spec.scaling.budget.nodeHoursPerDay": 1,
        ".spec.scaling.budget.costPerDay": 1,
        ".spec.scaling.capacity.requestsPerSecondPerNode": 1,
    }


def test_the_description_says_default_and_bounds_for_kubectl_explain() -> None:
    """`kubectl explain` prints descriptions and enums, neither defaults nor bounds."""
    assert NODES[".spec.scaling.scaleUpPercent"]["description"].endswith("by a tenth. Default: 80. Allowed: 10 to 100.")


def test_the_names_columns_and_subresources_are_those_of_the_models() -> None:
    """Short name dsd, status and scale apart, ten columns of which six are always shown."""
    spec = custom_resource_definition()["spec"]
    version = spec["versions"][0]
    assert (spec["group"], spec["names"]["shortNames"], spec["scope"]) == ("inference.deepseek.dev", ["dsd"], "Namespaced")
    assert version["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.nodes.count",
            "statusReplicasPath": ".status.nodes.current",
            "labelSelectorPath": ".status.selector",
        },
    }
    assert [column["name"] for column in version["additionalPrinterColumns"] if column["priority"] == 0] == (
        ["Ready", "Desired", "Predicted", "Mode", "Reason", "Age"]
    )
    for path in [column["jsonPath"] for column in version["additionalPrinterColumns"]] + list(version["subresources"]["scale"].values()):
        assert path in NODES or path == ".metadata.creationTimestamp"


def test_the_chart_has_the_same_definition_and_keeps_it() -> None:
    """Without the template's lines the chart's copy differs from `crds/` by one annotation, which keeps it on uninstall."""
    lines = [line for line in chart_template().splitlines() if "{{" not in line and line != "  labels:"]
    copy = yaml.safe_load("\n".join(lines))
    assert copy["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert copy == yaml.safe_load(plain_manifest())


def test_the_reference_page_has_every_field_with_its_default_and_bounds() -> None:
    """One row per field of the schema, in the words of the models."""
    page = (ROOT / "docs" / "api.md").read_text()
    assert "| scaleUpPercent | integer | `80` | 10 to 100 | Nodes are added when predicted utilization passes this; without a forecast," in page
    assert "| **source** | string |  | at most 512 characters | Where the weights are:" in page
    for where in NODES:
        name = where.rpartition(".")[2].removesuffix("[]")
        if where.startswith((".spec.", ".status.")):
            assert re.search(rf"^\| (\*\*)?{re.escape(name)}(\*\*)? \|", page, re.MULTILINE), where


def test_the_manifest_is_the_file_kubectl_applies() -> None:
    """The name of the file is group and plural; the text ends in a line break and says where it comes from."""
    text = (ROOT / "crds" / FILE_NAME).read_text()
    assert FILE_NAME == "inference.deepseek.dev_deepseekdeployments.yaml"
    assert text.startswith("# Generated from operator/src/deepseek_operator/api/v1alpha1.py")
    assert text.endswith("\n")


# ---------------------------------------------------------------------------------------------------- the turn, in small


class _Leaf(BaseModel):
    """A leaf."""

    size: int = Field(default=3, ge=1, le=9, description="How big.")


class _Tree(BaseModel):
    """A tree."""

    kind: Literal["Oak"] = Field(default="Oak", description="Which.")
    leaf: _Leaf = Field(default_factory=_Leaf, description="Its leaf.")
    maybe: Annotated[str, Field(max_length=5)] | None = Field(default=None, description="Perhaps.")
    leaves: list[_Leaf] = Field(default_factory=list, max_length=4, description="All of them.")


def test_a_small_model_turns_into_a_structural_schema() -> None:
    """One literal is an enum, an optional field simply not required, a part stands in place."""
    size = {
        "description": "How big. Default: 3. Allowed: 1 to 9.",
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": 9,
        "default": 3,
    }
    assert structural(_Tree) == {
        "description": "A tree.",
        "type": "object",
        "properties": {
            "kind": {"description": "Which. Default: Oak.", "type": "string", "enum": ["Oak"], "default": "Oak"},
            "leaf": {"description": "Its leaf.", "type": "object", "properties": {"size": size}, "default": {"size": 3}},
            "maybe": {"description": "Perhaps.", "type": "string", "maxLength": 5},
            "leaves": {
                "description": "All of them.",
                "type": "array",
                "maxItems": 4,
                "items": {"description": "A leaf.", "type": "object", "properties": {"size": size}},
            },
        },
    }


class _Silent(BaseModel):
    size: int


class _Either(BaseModel):
    size: int | str = Field(description="Two types at once.")


class _Strange(BaseModel):
    size: int = Field(description="With a keyword of its own.", json_schema_extra={"readOnly": True})


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_Silent, r"_Silent\.size has no description"),
        (_Either, r"_Either\.size: a CustomResourceDefinition needs exactly one type here"),
        (_Strange, r"_Strange\.size: a CustomResourceDefinition accepts no 'readOnly'; allowed are description, type"),
    ],
    ids=["no description", "two types", "an unknown keyword"],
)
def test_what_kubernetes_would_refuse_is_refused_with_its_place(model: type[BaseModel], words: str) -> None:
    """The generator fails where the API server would, and sooner."""
    with pytest.raises(ValueError, match=words):
        structural(model)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"minimum": 10, "maximum": 100}, "10 to 100"),
        ({"minimum": 1}, "at least 1"),
        ({"maxLength": 512}, "at most 512 characters"),
        ({"enum": ["a", "b", "c"]}, "a, b or c"),
        ({"maxItems": 64}, "at most 64 items"),
        ({"maxLength": 32, "pattern": "^a$"}, "at most 32 characters; matches ^a$"),
        ({}, ""),
    ],
)
def test_bounds_read_as_words(schema: dict[str, Any], words: str) -> None:
    """The column `Allowed` of the reference page."""
    assert allowed(schema) == words


# --------------------------------------------------------------------------------------------- models refuse what CEL does


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nodes": {"min": 5, "max": 4}}, r"nodes\.min must be at most nodes\.max \(4\), was 5"),
        ({"nodes": {"min": 2, "count": 1}}, r"nodes\.count must be between nodes\.min \(2\) and nodes\.max \(10\), was 1"),
        ({"scaling": {"scaleUpPercent": 30}}, r"scaling\.scaleDownPercent must be below scaling\.scaleUpPercent \(30\), was 30"),
        (
            {"model": {"source": "s3://bucket"}},
            r"must be hf://ORGANISATION/NAME\[@REVISION\], pvc://CLAIM/PATH or file:///PATH, was 's3://bucket'",
        ),
        ({"nodes": {"resources": {"limits": {"cpu": "lots"}}}}, r"'lots' is not a quantity; write a number such as '12\.5'"),
        ({"scaling": {"capacity": {"requestsPerSecondPerNode": "0"}}}, r"must be greater than 0, was '0'"),
    ],
    ids=["min above max", "count below min", "thresholds equal", "source", "resource", "capacity"],
)
def test_an_object_stored_under_an_older_definition_is_refused_by_the_models(spec: dict[str, Any], words: str) -> None:
    """What the API server of today refuses may still be stored; the operator must see it, in the same words."""
    with pytest.raises(ValidationError, match=words):
        v1alpha1.DeepSeekDeploymentSpec.model_validate({"model": {"source": "hf://a/b"}, **spec})


@given(st.text("hfpvcile:/@.-_aB0ä \n", max_size=24) | st.from_regex(r"(hf|pvc|file)://[a-z/@.]{1,12}", fullmatch=True))
def test_the_replicas_take_every_source_the_api_takes(source: str) -> None:
    """What passes the custom resource must not stop a replica at its start."""
    try:
        v1alpha1.ModelSpec(source=source)
    except ValidationError:
        return
    assert ServingSettings.from_args({"model": {"source": source}}).model.source == source


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.5", 12.5),
        ("1500m", 1.5),
        ("2k", 2000),
        ("2Ki", 2048),
        ("1e3", 1000),
        ("5E-1", 0.5),
        ("1E", 1e18),
        (".5", 0.5),
        ("5.", 5),
        ("-1", -1),
    ],
)
def test_a_quantity_is_a_number(text: str, value: float) -> None:
    """All the forms Kubernetes writes."""
    assert v1alpha1.quantity_value(text) == value


@pytest.mark.parametrize("text", ["", ".", "m", "many", "1_000", " 1", "1\n", "nan", "inf", "1,5", "1K", "1e3k", "1.2.3", "٣"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """Python would take some of these for numbers; the API server does not."""
    with pytest.raises(ValueError, match="is not a quantity"):
        v1alpha1.quantity_value(text)


def test_a_host_of_pictures_named_twice_is_refused_as_the_api_server_does() -> None:
    """The list is a set there."""
    with pytest.raises(ValidationError, match=r"must name each host once, were a\.example, a\.example"):
        v1alpha1.ServingSpec(remote_image_hosts=["a.example", "a.example"])
