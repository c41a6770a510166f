"""Every file in `examples/` is accepted by the API server as it stands, and says what its name promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deepseek_localcluster import CommandError, LocalCluster
from deepseek_operator.api.crd import CRD_NAME, FILE_NAME
from deepseek_operator.api.v1alpha1 import DeepSeekDeployment
from deepseek_serving.settings import ServingSettings

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
NAMESPACE = "example-tests"


@pytest.fixture(scope="module")
def cluster(control_plane: LocalCluster) -> Iterator[LocalCluster]:
    """A control plane that knows the definition, and a namespace for this file."""
    control_plane.apply(ROOT / "crds" / FILE_NAME)
    control_plane.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
    control_plane.kubectl("create", "namespace", NAMESPACE)
    control_plane.wait("the API server serves the new kind", lambda: _served(control_plane))
    yield control_plane
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _served(cluster: LocalCluster) -> bool:
    try:
        cluster.kubectl("get", "dsd", "-n", NAMESPACE)
    except CommandError:
        return False
    return True


def test_there_is_an_example_of_each_mode_engine_and_precision() -> None:
    """4 modes, 3 precisions, a model and the echo engine, 3 kinds of source."""
    specs = [DeepSeekDeployment.model_validate(yaml.safe_load(path.read_text())).spec for path in EXAMPLES]
    assert {spec.scaling.mode for spec in specs} == {"Predictive", "Reactive", "Shadow", "Manual"}
    assert {spec.model.quantization for spec in specs} == {"none", "int8", "int4"}
    assert {spec.model.engine for spec in specs} == {"transformers", "echo"}
    assert {spec.model.source.partition("://")[0] for spec in specs} == {"hf", "pvc", "file"}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_stored_as_it_stands(cluster: LocalCluster, path: Path) -> None:
    """`kubectl apply` with strict field checks: no unknown field, no warning; what is stored means what was written."""
    written = DeepSeekDeployment.model_validate(yaml.safe_load(path.read_text()))
    name = cluster.kubectl("apply", "-n", NAMESPACE, "--validate=strict", "--warnings-as-errors", "-f", str(path), "-o", "name").strip()
    stored = DeepSeekDeployment.model_validate(yaml.safe_load(cluster.kubectl("get", "-n", NAMESPACE, name, "-o", "yaml")))
    assert stored.spec == written.spec
    # The replicas take the same model and the same limits.
    model = written.spec.model.model_dump(by_alias=True)
    assert ServingSettings.from_args({"model": model}).model.source == written.spec.model.source
