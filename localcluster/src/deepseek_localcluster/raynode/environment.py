"""The environment of a container: values, references to fields, Secrets and ConfigMaps, and ``$(NAME)``."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from deepseek_localcluster.raynode.kubernetes import Object

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Fetch = Callable[[str, str], Awaitable[Object | None]]
"""``fetch("secrets", name)`` gives an object of the pod's namespace, or ``None`` when there is none."""


class MissingReference(RuntimeError):  # noqa: N818 - it becomes the pod's waiting reason, not a crash
    """The container cannot start yet: something its environment refers to is not there."""


def base(pod_name: str, home: Path, pythonpath: str, programs: Path) -> dict[str, str]:
    """What an image would bring: the running virtual environment first on PATH, and a home of the pod's own."""
    path = f"{Path(sys.executable).parent}:{SYSTEM_PATH}:{programs}"
    values = {"PATH": path, "LANG": "C.UTF-8", "HOME": str(home), "HOSTNAME": pod_name, "PYTHONPATH": pythonpath, "PYTHONUNBUFFERED": "1"}
    # How many threads a pod's libraries may take is decided by who started the cluster, as an image's ENV would.
    return values | {name: os.environ[name] for name in ("OMP_NUM_THREADS", "VIRTUAL_ENV", "TZ") if name in os.environ}


async def resolve(pod: Object, container: Object, pod_ip: str, start: dict[str, str], fetch: Fetch) -> dict[str, str]:
    """``start`` with the container's ``envFrom`` and ``env`` on top; raises :class:`MissingReference`."""
    values = dict(start)
    for source in container.get("envFrom") or []:
        for kind, key in (("secrets", "secretRef"), ("configmaps", "configMapRef")):
            if key in source:
                found = await _data(kind, source[key], fetch)
                values |= {source.get("prefix", "") + name: value for name, value in found.items()}
    for variable in container.get("env") or []:
        value = variable.get("value", "")
        if variable.get("valueFrom"):
            taken = await _taken(variable["valueFrom"], pod, container, pod_ip, fetch)
            if taken is None:
                continue
            value = taken
        values[variable["name"]] = expand(value, values)
    return values


def expand(text: str, values: dict[str, str]) -> str:
    """Kubernetes' own ``$(NAME)``; ``$$(NAME)`` is the literal, an unknown name stays."""
    return re.sub(r"\$\$|\$\(([\w.-]+)\)", lambda found: "$" if found[0] == "$$" else values.get(found[1], found[0]), text)


async def _taken(source: Object, pod: Object, container: Object, pod_ip: str, fetch: Fetch) -> str | None:
    if "fieldRef" in source:
        return _field(source["fieldRef"]["fieldPath"], pod, pod_ip)
    if "resourceFieldRef" in source:
        section, name = source["resourceFieldRef"]["resource"].split(".", 1)
        return str(((container.get("resources") or {}).get(section) or {}).get(name, ""))
    for kind, key in (("secrets", "secretKeyRef"), ("configmaps", "configMapKeyRef")):
        if key in source:
            reference = source[key]
            found = await _data(kind, reference, fetch)
            if reference["key"] not in found:
                if reference.get("optional"):
                    return None
                raise MissingReference(f"couldn't find key {reference['key']} in {kind[:-1]} {reference['name']}")
            return found[reference["key"]]
    return None


async def _data(kind: str, reference: Object, fetch: Fetch) -> dict[str, str]:
    found = await fetch(kind, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise MissingReference(f"{kind[:-1]} {reference['name']!r} not found")
    data: dict[str, str] = found.get("data") or {}
    return {name: base64.b64decode(value).decode() for name, value in data.items()} if kind == "secrets" else data


def _field(path: str, pod: Object, pod_ip: str) -> str:
    metadata, spec = pod["metadata"], pod["spec"]
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": "127.0.0.1",
    }
    if path not in known:
        raise MissingReference(f"unsupported fieldPath {path}; supported are {', '.join(known)}, labels and annotations")
    return str(known[path])
