"""Local Ray nodes: a small kubelet that runs the real ``ray start`` of each Ray pod as processes of this machine.

It registers Node objects with GPUs (a number, no device), keeps their leases, and for every Ray pod bound to one of them runs KubeRay's own
command in the running virtual environment. Pod conditions follow the real process; probes, preStop, SIGTERM and the grace period are
honoured. Pods have invented addresses; an HTTP forward proxy stands in for cluster DNS, Services and the pod network. No root is needed.

    kubelet ── pod ── container (a shim, a process family) ── probes
       │        └── wiring: ports, environment, commands as they must read on one machine
       ├── node: Node objects and leases
       └── proxy ── directory: which pod a Service name or a pod address means
"""
