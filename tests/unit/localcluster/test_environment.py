"""A container's environment is what a kubelet would give it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from deepseek_localcluster.raynode.environment import MissingReference, expand, resolve

POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"ray.io/cluster": "c"}, "annotations": {"a/b": "x"}},
    "spec": {"nodeName": "ray-node-1", "serviceAccountName": "default"},
}
OBJECTS = {
    ("secrets", "s"): {"data": {"word": base64.b64encode(b"sesame").decode()}},
    ("configmaps", "m"): {"data": {"COLOUR": "blue", "SIZE": "9"}},
}


async def fetch(kind: str, name: str) -> dict[str, Any] | None:
    """The objects of the pod's namespace."""
    return OBJECTS.get((kind, name))


async def env(*variables: dict[str, Any], **container: Any) -> dict[str, str]:
    """The environment of a container with these variables, on top of HOME=/h."""
    return await resolve(POD, {"name": "c", "env": list(variables), **container}, "10.77.0.9", {"HOME": "/h"}, fetch)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"fieldRef": {"fieldPath": "metadata.name"}}, "p"),
        ({"fieldRef": {"fieldPath": "status.podIP"}}, "10.77.0.9"),
        ({"fieldRef": {"fieldPath": "spec.nodeName"}}, "ray-node-1"),
        ({"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}}, "c"),
        ({"fieldRef": {"fieldPath": "metadata.annotations['a/b']"}}, "x"),
        ({"secretKeyRef": {"name": "s", "key": "word"}}, "sesame"),
        ({"configMapKeyRef": {"name": "m", "key": "SIZE"}}, "9"),
        ({"resourceFieldRef": {"resource": "limits.memory"}}, "2Gi"),
    ],
    ids=["name", "address", "node", "label", "annotation", "secret", "config map", "resource"],
)
async def test_a_variable_can_come_from(source: dict[str, Any], expected: str) -> None:
    """Each source Kubernetes knows."""
    values = await env({"name": "V", "valueFrom": source}, resources={"limits": {"memory": "2Gi"}})
    assert values == {"HOME": "/h", "V": expected}


async def test_all_keys_of_a_config_map_come_with_their_prefix_and_env_wins() -> None:
    """envFrom first, env on top."""
    values = await env({"name": "X_SIZE", "value": "10"}, envFrom=[{"prefix": "X_", "configMapRef": {"name": "m"}}])
    assert values == {"HOME": "/h", "X_COLOUR": "blue", "X_SIZE": "10"}


@pytest.mark.parametrize("source", [{"secretKeyRef": {"name": "s", "key": "no"}}, {"configMapKeyRef": {"name": "no", "key": "k"}}])
async def test_what_is_missing_holds_the_container_back_unless_it_is_optional(source: dict[str, Any]) -> None:
    """The message becomes the pod's waiting reason."""
    with pytest.raises(MissingReference, match=r"couldn't find key no in secret s|configmap 'no' not found"):
        await env({"name": "V", "valueFrom": source})
    optional = {kind: {**reference, "optional": True} for kind, reference in source.items()}
    assert await env({"name": "V", "valueFrom": optional}) == {"HOME": "/h"}


async def test_later_variables_see_earlier_ones() -> None:
    """$(NAME) is Kubernetes', $NAME is the shell's."""
    values = await env({"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$A$(NONE)$$(A)"})
    assert values["B"] == "1$A$(NONE)$(A)"


def test_a_dollar_can_be_escaped() -> None:
    """As the API reference says."""
    assert expand("$$(HOME) $(HOME)", {"HOME": "/h"}) == "$(HOME) /h"
