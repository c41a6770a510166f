"""The programs of the cluster: what is built, from which pinned module, with which flags, and where it is kept.

A pin is the committed ``go.mod`` and ``go.sum`` of a program's module plus the flags below. Their hash names the folder in the
per-user cache, so a changed pin builds anew and an unchanged one never does.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

KUBERNETES_VERSION = "1.36.3"
HELM_VERSION = "3.22.0"
PROMETHEUS_VERSION = "0.313.5"

MODULES = Path(__file__).resolve().parent / "go"
"""One Go module per folder; part of the installed package."""

_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")


@dataclass(frozen=True)
class Program:
    """One binary: ``package`` of the Go module in ``go/<module>``."""

    name: str
    module: str
    package: str
    variables: dict[str, str] = field(default_factory=dict)
    """Go string variables set by the linker, mostly version numbers."""
    tags: tuple[str, ...] = ()
    resources: dict[str, str] = field(default_factory=dict)
    """File patterns inside ``resources_of`` (a Go module) kept beside the binary, by the folder they are kept in."""
    resources_of: str = ""

    @property
    def ldflags(self) -> str:
        """Linker flags: no symbol table, and the version strings."""
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in sorted(self.variables.items()))])

    @property
    def module_folder(self) -> Path:
        """The folder with the program's ``go.mod`` and ``go.sum``."""
        return MODULES / self.module

    @property
    def key(self) -> str:
        """Twelve hex digits that change exactly when the pin changes."""
        digest = hashlib.sha256()
        for part in (
            (self.module_folder / "go.mod").read_bytes(),
            (self.module_folder / "go.sum").read_bytes(),
            "\n".join([self.package, self.ldflags, ",".join(self.tags), platform.system(), platform.machine(), repr(self.resources)]).encode(),
        ):
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where the built program lives in the cache."""
        return cache_root() / "programs" / f"{self.name}-{self.key}"

    @property
    def path(self) -> Path:
        """The built binary; it exists only after :func:`deepseek_localcluster.build.ensure`."""
        return self.folder / self.name


def _kubernetes_version(*packages: str) -> dict[str, str]:
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": _MAJOR, "gitMinor": _MINOR, "gitTreeState": "clean"}
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


def _kubernetes(name: str) -> Program:
    # Without these the server calls itself v0.0.0-master+$Format:%H$, which clients refuse to parse.
    return Program(
        name,
        "kubernetes",
        f"k8s.io/kubernetes/cmd/{name}",
        _kubernetes_version("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"),
    )


def _prometheus(name: str) -> Program:
    # Prometheus 3.313 is the module's v0.313: the module cannot carry a major version without a path suffix.
    version = {"github.com/prometheus/common/version.Version": PROMETHEUS_VERSION}
    return Program(name, "prometheus", f"github.com/prometheus/prometheus/cmd/{name}", version, ("remove_all_sd", "enable_kubernetes_sd"))


PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubectl"),
        Program(
            "kuberay-operator",
            "kuberay",
            "github.com/ray-project/kuberay/ray-operator",
            resources={"crds": "config/crd/bases/*.yaml"},
            resources_of="github.com/ray-project/kuberay/ray-operator",
        ),
        Program(
            "kwok",
            "kwok",
            "sigs.k8s.io/kwok/cmd/kwok",
            resources={
                "stages/node": "kustomize/stage/node/fast/node-initialize.yaml",
                "stages/heartbeat": "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
                "stages/pod": "kustomize/stage/pod/fast/pod-*.yaml",
            },
            resources_of="sigs.k8s.io/kwok",
        ),
        Program(
            "helm",
            "helm",
            "helm.sh/helm/v3/cmd/helm",
            {
                "helm.sh/helm/v3/internal/version.version": f"v{HELM_VERSION}",
                # What `helm template` and `helm lint` take for the cluster's version; 1.20 without it.
                "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": _MAJOR,
                "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": _MINOR,
                "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": _MAJOR,
                "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": _MINOR,
            },
        ),
        _prometheus("prometheus"),
        _prometheus("promtool"),
    )
}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


def program(name: str) -> Program:
    """The program of that name; ``ValueError`` with the allowed names otherwise."""
    if name not in PROGRAMS:
        raise ValueError(f"no program called {name!r}; there are {', '.join(PROGRAMS)}")
    return PROGRAMS[name]


def cache_root() -> Path:
    """The per-user cache: ``$DEEPSEEK_LOCALCLUSTER_CACHE``, else ``$XDG_CACHE_HOME/deepseek-localcluster``, else ``~/.cache/…``."""
    if own := os.environ.get("DEEPSEEK_LOCALCLUSTER_CACHE"):
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "deepseek-localcluster"
