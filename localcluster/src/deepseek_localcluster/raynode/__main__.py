"""``python -m deepseek_localcluster.raynode``: a kubelet for local Ray nodes."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from pathlib import Path

from deepseek_localcluster.kubeapi import read_kubeconfig
from deepseek_localcluster.raynode.kubelet import Kubelet, Settings, provide_wget
from deepseek_localcluster.raynode.node import NodeShape


def main() -> None:
    """Run the kubelet until it is told to stop."""
    parser = argparse.ArgumentParser(description="Runs Ray pods as processes of this machine.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of an administrator")
    parser.add_argument("--directory", type=Path, required=True, help="folder for container logs")
    parser.add_argument("--ray-directory", type=Path, required=True, help="folder for Ray's session files; its path must be short")
    parser.add_argument("--nodes", type=int, default=4, help="number of nodes")
    parser.add_argument("--name-prefix", default="ray-node", help="nodes are called <prefix>-0, <prefix>-1, …")
    parser.add_argument("--gpus", type=int, default=1, help="nvidia.com/gpu of each node")
    parser.add_argument("--labels", type=json.loads, default={}, help="more node labels, as a JSON object")
    parser.add_argument("--taints", type=json.loads, default=[], help="node taints, as a JSON list")
    parser.add_argument("--proxy-port", type=int, required=True, help="port of the forward proxy on 127.0.0.1")
    parser.add_argument("--pythonpath", default="", help="PYTHONPATH of the pods")
    parser.add_argument("--probe-period-seconds", type=float, default=1.0, help="upper bound of the pods' probe periods")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S")
    options.directory.mkdir(parents=True, exist_ok=True)
    provide_wget(options.directory / "bin")
    settings = Settings(
        credentials=read_kubeconfig(options.kubeconfig),
        nodes=[f"{options.name_prefix}-{number}" for number in range(options.nodes)],
        shape=NodeShape(options.gpus, options.labels, options.taints),
        proxy_port=options.proxy_port,
        logs=options.directory,
        temporary=options.ray_directory,
        pythonpath=options.pythonpath,
        longest_probe_period=options.probe_period_seconds,
    )
    asyncio.run(Kubelet(settings).run())


if __name__ == "__main__":
    main()
