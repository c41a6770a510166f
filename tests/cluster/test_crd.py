"""The real API server accepts the custom resource's definition, keeps its rules, fills in its defaults and shows it well."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deepseek_localcluster import CommandError, LocalCluster
from deepseek_localcluster.kubeapi import MERGE_PATCH, ApiError
from deepseek_operator.api import v1alpha1
from deepseek_operator.api.crd import CRD_NAME, FILE_NAME
from deepseek_operator.api.structural import Schema, structural

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "crd-tests"
COLLECTION = f"/apis/{v1alpha1.API_VERSION}/namespaces/{NAMESPACE}/{v1alpha1.PLURAL}"
MINIMAL: dict[str, Any] = {"model": {"source": "hf://deepseek-community/deepseek-vl-1.3b-chat"}}


@pytest.fixture(scope="module")
def cluster(control_plane: LocalCluster) -> Iterator[LocalCluster]:
    """A control plane that knows the definition, and a namespace for this file."""
    # A warning would be a schema the server does not fully understand, or an unrecognized format.
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--warnings-as-errors", "-f", str(ROOT / "crds" / FILE_NAME))
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
    control_plane.kubectl("create", "namespace", NAMESPACE)
    control_plane.wait("the API server serves the new kind", lambda: _answers(control_plane))
    yield control_plane
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _answers(cluster: LocalCluster) -> bool:
    try:
        cluster.kubectl("explain", "dsd")  # served a few seconds after the definition is established
        return bool(cluster.api.request("GET", COLLECTION))
    except (ApiError, CommandError):
        return False


def _object(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": v1alpha1.API_VERSION, "kind": v1alpha1.KIND, "metadata": {"name": name}, "spec": spec}


def _create(cluster: LocalCluster, name: str, spec: dict[str, Any], dry_run: bool = False) -> dict[str, Any]:
    path = COLLECTION + "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    return cluster.api.request("POST", path, _object(name, spec))


def _merged(spec: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    whole = copy.deepcopy(spec)
    for key, value in patch.items():
        whole[key] = _merged(whole[key], value) if isinstance(value, dict) and isinstance(whole.get(key), dict) else value
    return whole


# ------------------------------------------------------------------------------------------------------------- acceptance


def test_the_definition_is_established_without_a_schema_complaint(cluster: LocalCluster) -> None:
    """Two conditions, both True; a NonStructuralSchema condition would be a third."""
    conditions = json.loads(cluster.kubectl("get", "crd", CRD_NAME, "-o", "json"))["status"]["conditions"]
    assert {each["type"]: each["status"] for each in conditions} == {"NamesAccepted": "True", "Established": "True"}


FLOOR = {"name": "office", "minNodes": 4, "cron": "0 8 * * MON-FRI", "durationSeconds": 36_000}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "min 5 above max 4": ({"nodes": {"min": 5, "max": 4}}, "nodes.min must be at most nodes.max (4), was 5"),
    "min 11 above the default max": ({"nodes": {"min": 11}}, "nodes.min must be at most nodes.max (10), was 11"),
    "count 7 above max 6": (
        {"nodes": {"min": 2, "max": 6, "count": 7}},
        "nodes.count must be between nodes.min (2) and nodes.max (6), was 7",
    ),
    "count 1 below min 2": ({"nodes": {"min": 2, "count": 1}}, "nodes.count must be between nodes.min (2) and nodes.max (10), was 1"),
    "scale down at 80, up at 80": (
        {"scaling": {"scaleDownPercent": 80}},
        "scaling.scaleDownPercent must be below scaling.scaleUpPercent (80), was 80",
    ),
    "scale up at 20, down at the default 30": (
        {"scaling": {"scaleUpPercent": 20}},
        "scaling.scaleDownPercent must be below scaling.scaleUpPercent (20), was 30",
    ),
    "horizon of 5 s": ({"scaling": {"forecast": {"horizonSeconds": 5}}}, "should be greater than or equal to 10"),
    "horizon of 2 h": ({"scaling": {"forecast": {"horizonSeconds": 7200}}}, "should be less than or equal to 3600"),
    "percentile 100": ({"scaling": {"forecast": {"percentile": 100}}}, "should be less than or equal to 99"),
    "a percentile and the cost of a late request": (
        {"scaling": {"forecast": {"percentile": 90}, "costOfLateRequest": "0.001", "costPerNodeHour": "2.5"}},
        "scaling must have forecast.percentile or costOfLateRequest (the percentile then follows from it), not both",
    ),
    "the cost of a late request alone": (
        {"scaling": {"costOfLateRequest": "0.001"}},
        "scaling.costOfLateRequest needs scaling.costPerNodeHour beside it",
    ),
    "a budget of nothing": ({"scaling": {"budget": {}}}, "a budget must have nodeHoursPerDay, costPerDay or both"),
    "a budget in money without a price": (
        {"scaling": {"budget": {"costPerDay": "300"}}},
        "scaling.budget.costPerDay needs scaling.costPerNodeHour beside it",
    ),
    "a floor with both calendars": (
        {"scaling": {"schedule": [FLOOR | {"startsAt": "2026-12-01T17:00:00Z", "endsAt": "2026-12-01T18:00:00Z"}]}},
        "a floor must have either cron and durationSeconds, or startsAt and endsAt",
    ),
    "a floor without a calendar": (
        {"scaling": {"schedule": [{"name": "x", "minNodes": 2}]}},
        "a floor must have either cron and durationSeconds, or startsAt and endsAt",
    ),
    "a floor that ends before it begins": (
        {"scaling": {"schedule": [{"name": "x", "minNodes": 2, "startsAt": "2026-12-01T18:00:00Z", "endsAt": "2026-12-01T17:00:00Z"}]}},
        "startsAt must be before endsAt",
    ),
    "a floor that begins some day": (
        {"scaling": {"schedule": [{"name": "x", "minNodes": 2, "startsAt": "some day", "endsAt": "2026-12-01T17:00:00Z"}]}},
        "must be of type date-time",
    ),
    "a cron of six fields": ({"scaling": {"schedule": [FLOOR | {"cron": "0 0 8 * * MON"}]}}, "should match"),
    "two floors of one name": ({"scaling": {"schedule": [FLOOR, FLOOR]}}, "Duplicate value"),
    "no node at least": ({"nodes": {"min": 0}}, "should be greater than or equal to 1"),
    "source from the web": (
        {"model": {"source": "https://example.com/model"}},
        "must be hf://ORGANISATION/NAME[@REVISION], pvc://CLAIM/PATH or file:///PATH",
    ),
    "source with a line break": ({"model": {"source": "file:///a\nb"}}, "must be hf://ORGANISATION/NAME"),
    "a port that Ray has": ({"serving": {"directPort": 8000}}, "must not be one of Ray's ports (6379, 8000,"),
    "a port of Ray's workers": ({"serving": {"directPort": 12000}}, "must not be one of Ray's ports (6379, 8000,"),
    "capacity 0": ({"scaling": {"capacity": {"requestsPerSecondPerNode": "0"}}}, "must be a quantity greater than 0, such as '12.5'"),
    "capacity many": ({"scaling": {"capacity": {"requestsPerSecondPerNode": "many"}}}, "must be a quantity greater than 0, such as '12.5'"),
    "capacity as a number": ({"scaling": {"capacity": {"requestsPerSecondPerNode": 12.5}}}, 'must be of type string: "number"'),
    "lots of memory": (
        {"nodes": {"resources": {"limits": {"memory": "lots"}}}},
        "must be a quantity of at least 0, such as 1, '500m' or '32Gi'",
    ),
    "minus one GPU": ({"nodes": {"resources": {"limits": {"nvidia.com/gpu": -1}}}}, "must be a quantity of at least 0"),
    "unknown mode": (
        {"scaling": {"mode": "Magic"}},
        'Unsupported value: "Magic": supported values: "Predictive", "Reactive", "Shadow", "Manual"',
    ),
    "unknown engine": ({"model": {"engine": "llama"}}, 'supported values: "transformers", "vllm", "echo"'),
    "a field that does not exist": ({"scaling": {"scaleUpPercentage": 80}}, 'unknown field "spec.scaling.scaleUpPercentage"'),
    "an environment variable twice": (
        {"serving": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "Duplicate value",
    ),
    "an environment variable called 1A": ({"serving": {"env": [{"name": "1A"}]}}, "should match '^[A-Za-z_]"),
}


@pytest.mark.parametrize(("patch", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_spec_is_refused_in_words_that_say_what_is_allowed(cluster: LocalCluster, patch: dict[str, Any], message: str) -> None:
    """Each rule with its message; nothing but the patch is wrong with the object."""
    with pytest.raises(ApiError) as refusal:
        _create(cluster, "refused", _merged(MINIMAL, patch), dry_run=True)
    assert refusal.value.status in (400, 422)
    assert message in str(refusal.value)


@pytest.mark.parametrize("name", ["9lives", "chat.v2", "a" * 41], ids=["begins with a digit", "has a dot", "41 characters"])
def test_a_name_that_ray_could_not_carry_is_refused(cluster: LocalCluster, name: str) -> None:
    """Names become Ray's; 40 characters of lower-case letters, digits and dashes are allowed."""
    with pytest.raises(ApiError, match=r"metadata\.name must be 1 to 40 lower-case letters, digits or '-'"):
        _create(cluster, name, MINIMAL, dry_run=True)
    assert _create(cluster, "a" * 40, MINIMAL, dry_run=True)["metadata"]["name"] == "a" * 40


def test_a_spec_without_a_model_is_refused(cluster: LocalCluster) -> None:
    """The one thing that must be said."""
    with pytest.raises(ApiError, match=r"spec\.model: Required value"):
        _create(cluster, "nothing", {}, dry_run=True)


# --------------------------------------------------------------------------------------------------------------- defaults


def test_the_api_server_fills_in_every_default_of_the_models(cluster: LocalCluster) -> None:
    """An object of one line becomes a whole one, with the very defaults of the models."""
    stored = _create(cluster, "defaults", MINIMAL, dry_run=True)["spec"]
    assert v1alpha1.DeepSeekDeploymentSpec.model_validate(stored) == v1alpha1.DeepSeekDeploymentSpec.model_validate(MINIMAL)
    assert stored["nodes"]["resources"] == {"limits": {"nvidia.com/gpu": 1, "cpu": "4", "memory": "32Gi"}}
    assert (stored["scaling"]["scaleUpPercent"], stored["scaling"]["scaleDownPercent"]) == (80, 30)
    assert stored["scaling"]["forecast"] == {"horizonSeconds": 600}
    assert stored["model"] == {**MINIMAL["model"], "quantization": "none", "mode": "auto", "engine": "transformers", "compile": "auto"}


def test_a_part_given_half_is_completed(cluster: LocalCluster) -> None:
    """`max: 4` alone keeps min 1 and one GPU per node."""
    stored = _create(cluster, "half", {**MINIMAL, "nodes": {"max": 4}}, dry_run=True)["spec"]["nodes"]
    assert (stored["min"], stored["max"], stored["resources"]["limits"]["nvidia.com/gpu"]) == (1, 4, 1)
    assert "count" not in stored


# ---------------------------------------------------------------------------------------------- models and server agree

_RARELY = 50
"""One value in so many is out of bounds: with some 40 fields in an object about half the objects are good."""


def _sometimes(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(1, _RARELY).flatmap(lambda roll: bad if roll == _RARELY else good)


_QUANTITIES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "", "-", "+"]),
    st.sampled_from(["0", "0.0", "1", "12.5", ".5", "5.", "007", "1500", "0.0000001"]),
    st.sampled_from(["", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "e3", "E-2", "e"]),
) | st.sampled_from(["", "many", "1_000", " 1", "1 ", "nan", "inf", "1,5", "0x10", "٣", "1K", "1KI", "1e3k"])
_TEXTS: dict[str, st.SearchStrategy[str]] = {
    "source": st.builds(
        "{}{}{}".format,
        st.sampled_from(["hf://", "hf://", "pvc://", "file:///", "https://", ""]),
        st.sampled_from(["a/b", "a/b", "models/vl", "claim", "A.b/c_d", "a b/c", "ä/b", "-a/b", "a/b/c", ""]),
        st.sampled_from(["", "", "@main", "@refs/pr/1", "/", "\n", "@"]),
    ),
    "requestsPerSecondPerNode": _QUANTITIES,
    "rayVersion": st.sampled_from(["2.60.0", "2.60.0rc1", "2.60", "nightly", "2.60.0\n"]),
    "name": st.sampled_from(["HF_TOKEN", "_a1", "A", "1A", "A-B", "Ä"]),
}


def _values(schema: Schema, name: str) -> st.SearchStrategy[Any]:
    """Values for one schema node: mostly within its bounds, sometimes one step outside."""
    if schema.get("x-kubernetes-int-or-string"):
        good: st.SearchStrategy[Any] = st.sampled_from([0, 1, 8, "500m", "32Gi", "1.5"])
        return _sometimes(good, st.integers(-2, 2) | _QUANTITIES)
    if "enum" in schema:
        return _sometimes(st.sampled_from(schema["enum"]), st.sampled_from(["", "Other"]))
    if schema["type"] == "integer":
        least, most = schema.get("minimum", 0), schema.get("maximum", 1000)
        # Few different values, so that two fields of one rule often meet on the wrong side of each other.
        good = st.sampled_from(sorted({least, min(least + 1, most), (least + most) // 2, most}))
        return _sometimes(good, st.sampled_from([least - 1, most + 1]) if "maximum" in schema else good)
    if schema["type"] == "string":
        if name in _TEXTS:
            sure = {"source": "hf://a/b", "requestsPerSecondPerNode": "12.5", "rayVersion": "2.60.0", "name": "HF_TOKEN"}[name]
            return st.just(sure) | _sometimes(st.just(sure), _TEXTS[name]) | _TEXTS[name].filter(lambda text: len(text) > 3)
        most = schema.get("maxLength", 20)
        return _sometimes(st.text("aB3-é", max_size=8), st.just("x" * (most + 1)) if "maxLength" in schema else st.just("x"))
    if schema["type"] == "array":
        # A name twice is the list type's affair, which the models leave to the server.
        items = st.lists(_values(schema["items"], name), max_size=3)
        keys = schema.get("x-kubernetes-list-map-keys", [])
        return items.filter(lambda found: not keys or len({each[keys[0]] for each in found}) == len(found))
    if "additionalProperties" in schema:
        return st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), _values(schema["additionalProperties"], name), max_size=3)
    fields = {field: _values(child, field) for field, child in schema["properties"].items()}
    must = {field: value for field, value in fields.items() if field in schema.get("required", ())}
    return st.fixed_dictionaries(must, optional={field: value for field, value in fields.items() if field not in must})


def _parts(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], st.SearchStrategy[Any]]]:
    for name, child in schema.get("properties", {}).items():
        if "properties" in child:
            yield (*path, name), _values(child, name)
            yield from _parts(child, (*path, name))


def _with_part(path: tuple[str, ...], part: dict[str, Any]) -> dict[str, Any]:
    for name in reversed(path):
        part = {name: part}
    return {**MINIMAL, **part}


def _specs(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Whole specs, and as often the least spec with one part more: in a whole one most faults hide behind another."""
    whole = _values(schema, "spec")
    return st.one_of(*(st.builds(_with_part, st.just(path), part) for path, part in _parts(schema)), whole)


_verdicts: dict[bool, int] = {True: 0, False: 0}


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=_specs(structural(v1alpha1.DeepSeekDeploymentSpec)))
def _agree(cluster: LocalCluster, spec: dict[str, Any]) -> None:
    try:
        parsed: v1alpha1.DeepSeekDeploymentSpec | None = v1alpha1.DeepSeekDeploymentSpec.model_validate(spec)
        words = "accepted"
    except ValidationError as error:
        parsed, words = None, str(error)
    try:
        stored: dict[str, Any] | None = _create(cluster, "random", spec, dry_run=True)["spec"]
        answer = "accepted"
    except ApiError as error:
        stored, answer = None, str(error)
    assert (stored is None) == (parsed is None), f"the models: {words}; the API server: {answer}"
    if stored is not None:
        assert v1alpha1.DeepSeekDeploymentSpec.model_validate(stored) == parsed
    _verdicts[stored is not None] += 1


def test_models_and_api_server_agree_on_500_random_specs(cluster: LocalCluster) -> None:
    """What one refuses the other refuses; what both accept they complete to the same object. Both verdicts occur often."""
    _agree(cluster)
    assert _verdicts[True] >= 40, _verdicts
    assert _verdicts[False] >= 40, _verdicts


# ---------------------------------------------------------------------------------------------- what a person sees of it

EXPLAINED = {
    "dsd.spec.scaling": (
        "scaleUpPercent\t<integer>\n Nodes are added when predicted utilization passes this; without a forecast, and once "
        "requests wait, the present one; otherwise the present one may pass it by a tenth. Default: 80. Allowed: 10 to 100.",
        "scaleDownPercent\t<integer>\n Nodes are released when predicted utilization falls below this. Default: 30. Allowed: 1 to 99.",
        "mode\t<string>\n enum: Predictive, Reactive, Shadow, Manual\n Predictive follows the forecast and never goes below what the present "
        "demand needs;",
        "forecast\t<Object>\n What is asked of the forecaster.",
        "DESCRIPTION:\n When nodes are added and released.",
    ),
    "dsd.spec.model": (
        "source\t<string> -required-\n Where the weights are: hf://ORGANISATION/NAME[@REVISION], pvc://CLAIM/PATH",
        "quantization\t<string>\n enum: none, bf16, int8, int4\n Precision of the decoder's weights",
    ),
    "dsd.status.decision": ("reason\t<string> -required-\n Why, in one CamelCase word.",),
}


@pytest.mark.parametrize(("what", "lines"), EXPLAINED.items(), ids=EXPLAINED.keys())
def test_kubectl_explain_reads_like_documentation(cluster: LocalCluster, what: str, lines: tuple[str, ...]) -> None:
    """Meaning, default and bounds of each field, however kubectl wraps them."""
    explained = " ".join(cluster.kubectl("explain", what).split())
    for line in lines:
        assert " ".join(line.split()) in explained


def test_every_field_has_an_explanation(cluster: LocalCluster) -> None:
    """`kubectl explain --recursive` names each field; none says <no description>."""
    assert "<no description>" not in cluster.kubectl("explain", "dsd.spec", "--recursive")
    for part in ("spec", "spec.nodes", "spec.serving", "spec.head", "status", "status.ledger"):
        assert "<no description>" not in cluster.kubectl("explain", f"dsd.{part}")


def _status() -> v1alpha1.DeepSeekDeploymentStatus:
    now = "2026-01-01T12:00:00Z"
    return v1alpha1.DeepSeekDeploymentStatus.model_validate(
        {
            "observedGeneration": 1,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Serving",
                    "message": "2 of 2",
                    "lastTransitionTime": now,
                    "observedGeneration": 1,
                }
            ],
            "endpoint": "http://seen-serve-svc.crd-tests:8000",
            "selector": "inference.deepseek.dev/deployment=seen",
            "nodes": {"desired": 3, "current": 3, "ready": 2},
            "replicas": {"desired": 3, "ready": 2},
            "demand": {"requestsPerSecond": "24.5", "waiting": 7, "observedAt": now},
            "utilization": {"currentPercent": 61, "predictedPercent": 75},
            "forecast": {
                "issuedAt": now,
                "horizonSeconds": 600,
                "percentile": 95,
                "peakRequestsPerSecond": "30.1",
                "meanRequestsPerSecond": "22",
                "models": {"arima": 60, "lstm": 40},
                "onProbation": "False",
            },
            "capacity": {"requestsPerSecondPerNode": "13.3", "source": "Learned", "saturatedReadings": 4},
            "coldStart": {"p90Seconds": 140, "samples": 9, "schedulingSeconds": 60, "startingSeconds": 30, "loadingSeconds": 50},
            "decision": {
                "nodes": 3,
                "recommended": 4,
                "reason": "ForecastPeak",
                "message": "peak 30.1 req/s needs 3",
                "at": now,
                "shadowNodes": 3,
            },
            "lastScaleAt": now,
            "ledger": {"since": now, "nodeHours": "20.5", "atMaximumNodeHours": "80", "reactiveNodeHours": "26"},
            "savings": [
                {
                    "date": "2026-01-01",
                    "nodeHours": "20.5",
                    "reactiveNodeHours": "26",
                    "predictiveNodeHours": "19",
                    "savedGpuHours": "5.5",
                    "savedCost": "-0.25",
                    "overloadedSeconds": 15,
                    "reactiveOverloadedSeconds": 45,
                    "predictiveOverloadedSeconds": 0,
                }
            ],
        }
    )


def test_spec_and_status_are_written_apart(cluster: LocalCluster) -> None:
    """A status sent with the object is dropped, a spec sent to the status is dropped, and a whole status comes back as it was written."""
    status = _status()
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    path = f"{COLLECTION}/seen"
    created = cluster.api.request("POST", COLLECTION, {**_object("seen", MINIMAL), "status": {"nodes": {"desired": 9}}})
    assert "status" not in created
    both = {"status": written, "spec": {"nodes": {"max": 99}}}
    stored = cluster.api.request("PATCH", f"{path}/status?fieldValidation=Strict", both, MERGE_PATCH)
    assert stored["status"] == written
    assert stored["spec"]["nodes"]["max"] == 10
    assert stored["metadata"]["generation"] == created["metadata"]["generation"]
    assert v1alpha1.DeepSeekDeploymentStatus.model_validate(stored["status"]) == status


def test_the_columns_say_what_one_can_act_on(cluster: LocalCluster) -> None:
    """Ready, desired, predicted utilization, mode, reason, age; bounds, demand and the reason in words with `-o wide`."""
    cluster.api.request("POST", COLLECTION, _object("shown", MINIMAL))
    status = {"status": _status().model_dump(mode="json", by_alias=True, exclude_none=True)}
    cluster.api.request("PATCH", f"{COLLECTION}/shown/status", status, MERGE_PATCH)
    head, row = cluster.kubectl("get", "dsd", "shown", "-n", NAMESPACE).splitlines()
    assert head.split() == ["NAME", "READY", "DESIRED", "PREDICTED", "MODE", "REASON", "AGE"]
    assert row.split()[:-1] == ["shown", "2", "3", "75", "Predictive", "ForecastPeak"]
    head, row = cluster.kubectl("get", "inference", "shown", "-n", NAMESPACE, "-o", "wide").splitlines()
    assert head.split()[7:] == ["MIN", "MAX", "DEMAND", "RECOMMENDED", "MESSAGE"]
    assert row.split()[7:] == ["1", "10", "24.5", "4", "peak", "30.1", "req/s", "needs", "3"]


def test_kubectl_scale_writes_the_count_within_the_bounds(cluster: LocalCluster) -> None:
    """4 goes to nodes.count although no count was there before; 40 is above max 10 and refused; the scale shows the nodes there are."""
    cluster.api.request("POST", COLLECTION, _object("scaled", {**MINIMAL, "scaling": {"mode": "Manual"}}))
    cluster.kubectl("scale", "dsd/scaled", "-n", NAMESPACE, "--replicas=4")
    assert cluster.api.request("GET", f"{COLLECTION}/scaled")["spec"]["nodes"]["count"] == 4
    with pytest.raises(RuntimeError, match=r"nodes\.count must be between nodes\.min \(1\) and nodes\.max \(10\), was 40"):
        cluster.kubectl("scale", "dsd/scaled", "-n", NAMESPACE, "--replicas=40")
    status = {"status": {"nodes": {"desired": 4, "current": 3, "ready": 2}, "selector": "a=b"}}
    cluster.api.request("PATCH", f"{COLLECTION}/scaled/status", status, MERGE_PATCH)
    scale = cluster.api.request("GET", f"{COLLECTION}/scaled/scale")
    assert (scale["spec"]["replicas"], scale["status"]) == (4, {"replicas": 3, "selector": "a=b"})
