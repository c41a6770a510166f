"""What the operator writes and a replica reads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deepseek_serving.settings import LimitSettings, ModelSettings, ServingSettings


@given(
    ongoing=st.integers(1, 4096),
    queued=st.integers(0, 65536),
    rate=st.none() | st.integers(1, 10**6),
    quantization=st.sampled_from(["none", "int8", "int4"]),
)
def test_what_the_operator_writes_is_what_a_replica_reads(ongoing: int, queued: int, rate: int | None, quantization: str) -> None:
    """to_args → from_args is the identity, in camelCase and JSON types only."""
    settings = ServingSettings(
        model=ModelSettings.model_validate({"source": "hf://deepseek-community/deepseek-vl-1.3b-chat", "quantization": quantization}),
        serving=LimitSettings(max_ongoing_requests=ongoing, max_queued_requests=queued, max_tokens_per_second=rate),
    )
    args = settings.to_args()
    assert args["serving"]["maxOngoingRequests"] == ongoing
    assert ServingSettings.from_args(args) == settings


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://deepseek-community/deepseek-vl-1.3b-chat", "deepseek-vl-1.3b-chat"),
        ("hf://deepseek-community/deepseek-vl-1.3b-chat@v1.0", "deepseek-vl-1.3b-chat"),
        ("file:///models/tiny", "tiny"),
        ("pvc://weights/deepseek/vl", "vl"),
        ("pvc://weights", "weights"),
    ],
)
def test_a_model_is_called_by_the_last_part_of_its_source(source: str, name: str) -> None:
    """modelName, when given, comes first."""
    assert ServingSettings.from_args({"model": {"source": source}}).served_name == name
    assert ServingSettings.from_args({"model": {"source": source}, "modelName": "chat"}).served_name == "chat"


@pytest.mark.parametrize(
    "source", ["", "s3://bucket/model", "file://host/model", "hf://only-one-part", "file:///a/../b", "pvc://UPPER/x", "hf://a/b/c"]
)
def test_an_unknown_source_is_refused_with_the_allowed_forms(source: str) -> None:
    with pytest.raises(ValidationError, match=r"hf://<owner>/<name>|must not contain"):
        ServingSettings.from_args({"model": {"source": source}})


@pytest.mark.parametrize(
    "args",
    [
        {"model": {"engine": "echo"}, "serving": {"maxOngoingRequests": 0}},
        {"model": {"engine": "echo"}, "serving": {"maxTokensPerSecond": 0}},
        {"model": {"engine": "echo"}, "replicas": 3},
        {"model": {"engine": "echo", "quantization": "int3"}},
        {},
    ],
    ids=["no running requests", "no pace", "a replica count", "unknown quantization", "no model"],
)
def test_wrong_settings_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServingSettings.from_args(args)


def test_serve_lets_16_more_in_than_admission_takes() -> None:
    """9 running + 72 queued for a moment + 16 that the replica refuses, and counts, itself = 97."""
    options = ServingSettings.from_args({"model": {"engine": "echo"}}).deployment_options()
    assert options == {"name": "Engine", "max_ongoing_requests": 97, "max_queued_requests": 72}


def test_a_claim_is_named_only_by_a_pvc_source() -> None:
    assert ModelSettings(source="pvc://weights/deepseek/vl").pvc_claim == "weights"
    assert ModelSettings(source="file:///weights").pvc_claim is None


def test_settings_and_metric_names_import_nothing_heavy() -> None:
    """The operator's image has no torch, ray, fastapi or Pillow."""
    code = (
        "import sys, deepseek_serving.settings, deepseek_serving.metric_names\n"
        "print([name for name in ('torch', 'ray', 'fastapi', 'PIL', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_app_is_imported_without_torch() -> None:
    """Ray's controller imports it to build the application; torch there would cost seconds and half a gigabyte."""
    code = "import sys, deepseek_serving.app\nprint([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
