"""Stands in for `docker` as far as kind asks before it runs kubeadm: notes the containers and keeps what kind writes into them.

Containers are lines `NAME ROLE` of `$STAND_IN_DOCKER/nodes`; a file written into one is `$STAND_IN_DOCKER/NAME/FILE`.
kubeadm then fails, which ends kind: everything it does with its configuration is done by then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

INFO = '{"CgroupDriver": "systemd", "CgroupVersion": "2", "MemoryLimit": true, "PidsLimit": true, "CPUShares": true, "SecurityOptions": []}'


def main(state: Path, command: str, *words: str) -> int:
    """Answer one docker command."""
    nodes = state / "nodes"
    known = [line.split() for line in nodes.read_text().splitlines()] if nodes.exists() else []
    match command:
        case "info":
            print(INFO)
        case "ps":
            sys.stdout.write("".join(f"{name}\n" for name, _ in known))
        case "network":
            print("a-network")
        case "logs":
            print("Reached target Multi-User System.")
        case "run":
            role = next(word for word in words if word.startswith("io.x-k8s.kind.role=")).partition("=")[2]
            with nodes.open("a") as file:
                file.write(f"{words[words.index('--name') + 1]} {role}\n")
        case "inspect" if "--type=image" not in words:
            index, role = next((index, role) for index, (name, role) in enumerate(known) if name == words[-1])
            print(role if "kind.role" in " ".join(words) else f"172.18.0.{index + 2},")
        case "exec":
            return _execute(state, *(word for word in words if word not in ("--privileged", "-i")))
    return 0


def _execute(state: Path, node: str, *words: str) -> int:
    match words:
        case ("cat", "/kind/version"):
            print("v1.36.3")
        case ("cp", "/dev/stdin", path):
            target = state / node / Path(path).name
            target.parent.mkdir(exist_ok=True)
            target.write_text(sys.stdin.read())
        case ("kubeadm", *_):
            print("the stand-in has no kubeadm", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(os.environ["STAND_IN_DOCKER"]), *sys.argv[1:]))
