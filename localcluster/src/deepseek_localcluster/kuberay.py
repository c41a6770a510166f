"""The real KubeRay operator beside the control plane."""

from __future__ import annotations

from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from deepseek_localcluster.kubeapi import KubeApi

CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install_crds(api: KubeApi, files: list[Path]) -> list[str]:
    """Server-side apply of KubeRay's definitions, as they are (up to 1.4 MB each); gives their names."""
    names = []
    for path in files:
        group, plural = path.stem.split("_", 1)  # ray.io_rayservices.yaml
        names.append(f"{plural}.{group}")
        api.apply(f"{CRD_PATH}/{names[-1]}", path.read_bytes())
    return names


def established(api: KubeApi, names: list[str]) -> bool:
    """Whether the API server serves all of the named definitions."""
    for name in names:
        conditions = api.request("GET", f"{CRD_PATH}/{name}").get("status", {}).get("conditions") or []
        if not any(each["type"] == "Established" and each["status"] == "True" for each in conditions):
            return False
    return True


def command(binary: Path, metrics_port: int, health_port: int) -> list[str]:
    """The operator's command line; it finds the cluster through the variable KUBECONFIG."""
    return [
        str(binary), "--enable-leader-election=false", f"--metrics-addr=127.0.0.1:{metrics_port}",
        f"--health-probe-bind-address=127.0.0.1:{health_port}",
    ]  # fmt: skip


def environment(kubeconfig: Path, http_proxy: str | None) -> dict[str, str]:
    """KubeRay speaks HTTP with Ray's dashboards and proxies, HTTPS with the API server: ``HTTP_PROXY`` redirects only the former."""
    return {"KUBECONFIG": str(kubeconfig), **({"HTTP_PROXY": http_proxy} if http_proxy else {})}


def answers(url: str) -> bool:
    """Whether a local HTTP endpoint answers 200, whatever proxy the environment names."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=1) as response:
            return int(response.status) == 200
    except OSError:
        return False
