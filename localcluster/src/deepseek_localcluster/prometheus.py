"""Prometheus: scrapes the pods through the Ray nodes' proxy, and starts with a past when it is given one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def configuration(kubeconfig: Path, proxy_url: str | None, targets: list[str], interval: str) -> dict[str, Any]:
    """Prometheus' configuration: every container port named ``metrics`` of a running pod, and ``targets`` (``host:port``).

    Pods' series get the labels ``namespace``, ``pod`` and ``ray_io_cluster``. ``interval`` is a Prometheus duration such as ``5s``.
    """
    pods: dict[str, Any] = {
        "job_name": "pods",
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
        "relabel_configs": [
            {"action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "metrics"},
            {"action": "keep", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Running"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {"source_labels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "target_label": "ray_io_cluster"},
        ],
    }
    if proxy_url:
        pods["proxy_url"] = proxy_url
    jobs = [pods]
    if targets:
        jobs.append({"job_name": "programs", "static_configs": [{"targets": targets}]})
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        # Backfilled samples end where live ones begin, or a little after: both must be accepted.
        "storage": {"tsdb": {"out_of_order_time_window": "1h"}},
        "scrape_configs": jobs,
    }


def command(binary: Path, configuration: Path, data: Path, port: int) -> list[str]:
    """Prometheus' command line, on 127.0.0.1."""
    return [
        str(binary), f"--config.file={configuration}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=10y", "--web.enable-lifecycle", "--log.level=warn",
    ]  # fmt: skip


def backfill(promtool: Path, openmetrics: Path, data: Path) -> None:
    """Turn an OpenMetrics file with timestamps into blocks inside ``data``; ``RuntimeError`` with promtool's words when it refuses."""
    # Two weeks in 3 blocks rather than 169 of two hours: 0.4 s rather than 13 s.
    command = [str(promtool), "tsdb", "create-blocks-from", "--max-block-duration=20d", "openmetrics", "--quiet", str(openmetrics), str(data)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"promtool cannot make blocks of {openmetrics}: {(result.stderr or result.stdout).strip()[-2000:]}")
