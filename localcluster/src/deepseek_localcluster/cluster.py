"""A Kubernetes cluster of real programs, started in seconds and gone without a trace."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from deepseek_localcluster import kuberay, kwok, prometheus
from deepseek_localcluster.access import Cluster
from deepseek_localcluster.build import Progress, ensure, kuberay_crds, kwok_stages, say_on_stderr, tail
from deepseek_localcluster.controlplane import ControlPlane
from deepseek_localcluster.kubeapi import ApiError, KubeApi
from deepseek_localcluster.ports import claim_block
from deepseek_localcluster.programs import CONTROL_PLANE
from deepseek_localcluster.supervision import Supervision

T = TypeVar("T")

# Places in the cluster's port block.
ETCD, ETCD_PEER, API, KUBERAY_METRICS, KUBERAY_HEALTH, PROXY, PROMETHEUS = range(7)
FIRST_FREE = 20


class StartError(RuntimeError):
    """A component ended or did not become ready in time; the message ends with the tail of its log."""


class LocalCluster(Cluster):
    """etcd, API server, controller manager and scheduler, and on request kwok nodes, Ray nodes, KubeRay and Prometheus.

        with LocalCluster(ray_nodes=4, kuberay=True, prometheus=True) as cluster:
            cluster.apply(Path("rayservice.yaml"))
            print(cluster.kubectl("get", "pods"))

    Ports are free ones, the data lives in a folder of its own, and any number of clusters run side by side. When the block ends, the
    process ends, or is killed, every process of the cluster ends and its folder goes (``keep=True`` leaves the folder).
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        kwok_nodes: int = 0,
        ray_nodes: int = 0,
        kuberay: bool = False,
        prometheus: bool = False,
        gpus_per_ray_node: int = 1,
        ray_node_labels: Mapping[str, str] | None = None,
        ray_node_taints: Sequence[Mapping[str, str]] = (),
        pythonpath: Sequence[Path] = (),
        probe_period_seconds: float = 1.0,
        scrape_interval: str = "5s",
        scrape_targets: Sequence[str] = (),
        backfill_openmetrics: Path | None = None,
        extra_arguments: Mapping[str, Sequence[str]] | None = None,
        timeout_seconds: float = 90.0,
        keep: bool = False,
        progress: Progress = say_on_stderr,
    ) -> None:
        """Say what the cluster shall have; :meth:`start` (or ``with``) makes it.

        ``directory``: absent or empty; a temporary one without it. ``pythonpath``: folders whose modules Ray pods can import besides
        those of the running virtual environment. ``probe_period_seconds``: upper bound for the pods' probe periods (initial delays: ten
        times that). ``scrape_targets``: ``host:port`` of programs outside the cluster that Prometheus shall scrape too.
        ``extra_arguments``: more flags by component, e.g. ``{"kube-controller-manager": ["--node-monitor-grace-period=10s"]}``.
        ``timeout_seconds``: how long any one component may take to become ready.
        """
        if sys.platform != "linux":
            raise NotImplementedError("the local cluster runs on Linux only; use an existing cluster through KUBECONFIG elsewhere")
        self._wanted = {"kwok": kwok_nodes > 0, "ray": ray_nodes > 0, "kuberay": kuberay, "prometheus": prometheus}
        self._kwok_nodes, self._ray_nodes, self._gpus = kwok_nodes, ray_nodes, gpus_per_ray_node
        self._ray_node_labels = dict(ray_node_labels if ray_node_labels is not None else {"deepseek.dev/pool": "gpu"})
        self._ray_node_taints = [dict(taint) for taint in ray_node_taints]
        self._pythonpath, self._probe_period = list(pythonpath), probe_period_seconds
        self._scrape_interval, self._scrape_targets, self._backfill = scrape_interval, list(scrape_targets), backfill_openmetrics
        self._extra = {name: list(flags) for name, flags in (extra_arguments or {}).items()}
        self._timeout, self._keep, self._say = timeout_seconds, keep or bool(os.environ.get("DEEPSEEK_LOCALCLUSTER_KEEP")), progress
        self._asked_directory = directory
        self._supervision: Supervision | None = None
        self._kwok_numbers = count()

    # ---- life ----

    def start(self) -> LocalCluster:
        """Build what is missing, then start everything asked for; returns when it is ready."""
        binaries = ensure(self._programs(), self._say)
        self._binaries = binaries
        self._open()
        try:
            self._start_control_plane()
            if self._wanted["ray"]:
                self._start_ray_nodes()
            if self._wanted["kuberay"]:
                self.install_kuberay(wait=False)
            if self._wanted["prometheus"]:
                self.start_prometheus(self._scrape_interval, self._backfill)
            if self._kwok_nodes:
                self.add_kwok_gpu_nodes(self._kwok_nodes)
            self._finish_start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process of the cluster and remove its folder. Doing it twice is harmless."""
        if self._supervision:
            self._supervision.end()
            self._supervision = None

    def __enter__(self) -> LocalCluster:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @staticmethod
    def existing(kubeconfig: Path) -> Cluster:
        """A cluster somebody else runs, with the same ``kubectl``, ``helm``, ``apply`` and ``wait``."""
        if not kubeconfig.is_file():
            raise FileNotFoundError(f"no kubeconfig at {kubeconfig}")
        return Cluster(kubeconfig)

    # ---- where things are ----

    @property
    def proxy_url(self) -> str:
        """The HTTP forward proxy that resolves Services and pod IPs of the Ray nodes."""
        if not self._wanted["ray"]:
            raise RuntimeError("there is a proxy only with Ray nodes: LocalCluster(ray_nodes=…)")
        return f"http://127.0.0.1:{self._ports[PROXY]}"

    @property
    def prometheus_url(self) -> str:
        """Prometheus' base URL."""
        if "prometheus" not in self.components():
            raise RuntimeError("Prometheus is not running: LocalCluster(prometheus=True) or start_prometheus()")
        return f"http://127.0.0.1:{self._ports[PROMETHEUS]}"

    @property
    def kuberay_metrics_url(self) -> str:
        """Where KubeRay serves its own metrics."""
        return f"http://127.0.0.1:{self._ports[KUBERAY_METRICS]}/metrics"

    @property
    def supervisor_pid(self) -> int:
        """The process whose end is the end of the cluster."""
        return self._supervised().pid

    def free_port(self) -> int:
        """A port of this cluster's own block, for a program run beside it; never the same twice."""
        return self._ports[next(self._free_offsets)]

    def logs(self, component: str, lines: int = 50) -> str:
        """The last lines a component wrote, e.g. ``kube-apiserver``, ``kuberay-operator``, ``raynode``."""
        return tail(self._supervised().log(component), lines)

    def components(self) -> dict[str, dict[str, int | None]]:
        """``{name: {"pid": …, "returncode": None while it runs}}``."""
        return self._supervised().status()

    def env(self) -> dict[str, str]:
        """``KUBECONFIG``, ``PATH`` with the cluster's own programs first, and the URLs of what runs."""
        values = {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.directory / "kubectl-cache"),  # else kubectl leaves one in the home folder
            "PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        if self._wanted["ray"]:
            values["DEEPSEEK_PROXY"] = values["DEEPSEEK_OPERATOR_HTTP_PROXY"] = self.proxy_url
        if "prometheus" in self.components():
            values["DEEPSEEK_PROMETHEUS"] = self.prometheus_url
        return values

    def binary(self, name: str) -> Path:
        """A built program of the pinned set."""
        return ensure([name], self._say)[name]

    @property
    def alive(self) -> bool:
        """Whether the cluster is up: started, and ended by nobody."""
        return self._supervision is not None and self._supervision.alive

    def pod_pid(self, name: str) -> int:
        """The process id of a Ray pod's command, what would be PID 1 of its container. ``FileNotFoundError``: it does not run."""
        return int((self.directory / "pods" / f"{name}.pid").read_text())

    def pod_ports(self, name: str) -> dict[int, int]:
        """Where on 127.0.0.1 the ports are that a Ray pod's container declares. ``FileNotFoundError``: it does not run."""
        return {int(port): int(local) for port, local in json.loads((self.directory / "pods" / f"{name}.ports").read_text()).items()}

    def pod_log(self, name: str, lines: int = 50) -> str:
        """The last lines a Ray pod's container wrote; the log stays when the pod has gone."""
        return tail(self.directory / "pods" / f"{name}.log", lines)

    # ---- parts ----

    def install_kuberay(self, http_proxy: str | None = None, *, wait: bool = True) -> None:
        """Apply KubeRay's CRDs and run its operator; ``http_proxy`` stands in for the Ray nodes' proxy."""
        names = kuberay.install_crds(self.api, kuberay_crds(self._say))
        self._until("kube-apiserver", "serves KubeRay's definitions", lambda: kuberay.established(self.api, names))
        proxy = http_proxy or (self.proxy_url if self._wanted["ray"] else None)
        binary = ensure(["kuberay-operator"], self._say)["kuberay-operator"]
        command = kuberay.command(binary, self._ports[KUBERAY_METRICS], self._ports[KUBERAY_HEALTH])
        self._launch("kuberay-operator", command, kuberay.environment(self.kubeconfig, proxy))
        self._wanted["kuberay"] = True
        if wait:
            self._wait_for_kuberay()

    def start_prometheus(self, scrape_interval: str = "5s", backfill_openmetrics: Path | None = None, extra_targets: Sequence[str] = ()) -> str:
        """Run Prometheus on the pods' ports named ``metrics`` and on ``extra_targets``; gives its URL.

        ``backfill_openmetrics``: an OpenMetrics file with timestamps (ending in ``# EOF``) that becomes blocks before the start.
        """
        data = self.directory / "prometheus"
        data.mkdir(exist_ok=True)
        if backfill_openmetrics:
            prometheus.backfill(ensure(["promtool"], self._say)["promtool"], backfill_openmetrics, data)
        targets = [*self._scrape_targets, *extra_targets]
        proxy = self.proxy_url if self._wanted["ray"] else None
        configuration = self.directory / "prometheus.json"
        configuration.write_text(json.dumps(prometheus.configuration(self.kubeconfig, proxy, targets, scrape_interval), indent=1))
        url = f"http://127.0.0.1:{self._ports[PROMETHEUS]}"
        binary = ensure(["prometheus"], self._say)["prometheus"]
        self._launch("prometheus", prometheus.command(binary, configuration, data, self._ports[PROMETHEUS]))
        self._until("prometheus", "is ready", lambda: kuberay.answers(f"{url}/-/ready"))
        return url

    def add_kwok_gpu_nodes(
        self, number: int, gpus: int = 8, labels: Mapping[str, str] | None = None, taints: Sequence[dict[str, str]] = (), *, wait: bool = True
    ) -> list[str]:
        """Add ``number`` fake nodes with ``gpus`` each; gives their names once they are Ready. kwok is started by the first call."""
        if "kwok" not in self.components():
            stages = self.directory / "kwok-stages.yaml"
            kwok.write_configuration(kwok_stages(self._say), stages)
            self._launch("kwok", kwok.command(ensure(["kwok"], self._say)["kwok"], self.kubeconfig, stages))
        names = [f"gpu-{next(self._kwok_numbers):04d}" for _ in range(number)]
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda name: self.api.request("POST", "/api/v1/nodes", kwok.gpu_node(name, gpus, dict(labels or {}), list(taints))), names
                )
            )
        if wait:
            wanted = set(names)
            limit = max(self._timeout, number / 10)
            # A thousand nodes are 3 MB to list: asking every 50 ms would take the processor from those who make them Ready.
            self._until("kwok", f"has {number} nodes Ready", lambda: wanted <= self._ready_nodes(), limit, max(0.05, number / 1000))
        return names

    def run(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, *, grace_seconds: float = 5) -> int:
        """Run a program of yours beside the cluster, with :meth:`env` in its environment; gives its process id.

        It is one of :meth:`components` (``logs``, ``kill`` and ``restart`` know it) and ends before everything started earlier,
        by SIGTERM and after the grace by SIGKILL.
        """
        if name in self._launched and self.components()[name]["returncode"] is None:
            raise ValueError(f"{name} runs already; choose another name or restart({name!r})")
        self._launch(name, list(argv), {**self.env(), **(env or {})}, grace_seconds)
        return int(self.components()[name]["pid"] or 0)

    def kill(self, component: str) -> None:
        """SIGKILL a component, for tests of what happens then."""
        self._killed.add(component)
        self._supervised().signal(component, signal.SIGKILL)

    def restart(self, component: str) -> None:
        """End a component (SIGTERM, 10 s, SIGKILL; nothing when it has ended) and start it with the same command."""
        argv, env, grace = self._launched[component]
        self._supervised().stop(component, 10)
        self._launch(component, argv, env, grace)

    # ---- how ----

    def _programs(self) -> list[str]:
        names = list(CONTROL_PLANE)
        if self._wanted["kuberay"]:
            names.append("kuberay-operator")
        if self._wanted["prometheus"]:
            names.append("prometheus")
        if self._backfill:
            names.append("promtool")
        if self._wanted["kwok"]:
            names.append("kwok")
        return names

    def _open(self) -> None:
        """Folder, ports, supervisor."""
        if self._asked_directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="dslc-"))
        else:
            self.directory = self._asked_directory.expanduser().resolve()
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.iterdir()):
                raise FileExistsError(f"{self.directory} is not empty: name an absent or empty folder; it is removed with the cluster")
        # A Unix socket's path ends at 107 characters and Ray's take up to 80 of them, so its folder is always a short one.
        self._ray_directory = Path(tempfile.mkdtemp(prefix="dsr-", dir="/tmp"))
        self._ports = claim_block()
        self._free_offsets = iter(range(FIRST_FREE, 100))
        self._launched: dict[str, tuple[list[str], dict[str, str], float]] = {}
        self._killed: set[str] = set()
        remove = [] if self._keep else [self.directory, self._ray_directory]
        self._supervision = Supervision(self.directory / "logs", remove, [self._ports.claim.fileno()], self.directory)
        self._ports.release()  # the supervisor holds the claim now
        self.token = secrets.token_hex(16)
        self.control_plane = ControlPlane(self.directory, self.token, self._ports[ETCD], self._ports[ETCD_PEER], self._ports[API])
        self.kubeconfig = self.control_plane.kubeconfig
        self.server = self.control_plane.server

    def _start_control_plane(self) -> None:
        plane = self.control_plane
        plane.write_files()
        self.api = KubeApi(plane.server, plane.token, plane.certificates / "ca.crt")
        self._launch("etcd", plane.etcd(self._binaries["etcd"]))
        self._launch("kube-apiserver", plane.api_server(self._binaries["kube-apiserver"]))
        self._until("kube-apiserver", "is ready", self.api.is_ready)
        self._launch("kube-controller-manager", plane.controller_manager(self._binaries["kube-controller-manager"]))
        self._launch("kube-scheduler", plane.scheduler(self._binaries["kube-scheduler"]))

    def _start_ray_nodes(self) -> None:
        pythonpath = os.pathsep.join(map(str, self._pythonpath))
        command = [
            sys.executable, "-m", "deepseek_localcluster.raynode", f"--kubeconfig={self.kubeconfig}", f"--directory={self.directory / 'pods'}",
            f"--ray-directory={self._ray_directory}", f"--nodes={self._ray_nodes}", f"--gpus={self._gpus}",
            f"--proxy-port={self._ports[PROXY]}", f"--labels={json.dumps(self._ray_node_labels)}",
            f"--taints={json.dumps(self._ray_node_taints)}", f"--pythonpath={pythonpath}", f"--probe-period-seconds={self._probe_period}",
        ]  # fmt: skip
        (self.directory / "pods").mkdir()
        self._launch("raynode", command, grace_seconds=10)

    def _finish_start(self) -> None:
        """Wait for what was started without waiting, then leave a note for the command line."""
        self._until(
            "kube-controller-manager",
            "has made the default service account",
            lambda: self._exists("/api/v1/namespaces/default/serviceaccounts/default"),
        )
        if self._wanted["ray"]:
            names = {f"ray-node-{number}" for number in range(self._ray_nodes)}
            self._until("raynode", f"has {self._ray_nodes} nodes Ready", lambda: names <= self._ready_nodes())
        if self._wanted["kuberay"]:
            self._wait_for_kuberay()
        programs = self.directory / "bin"
        programs.mkdir()
        for name, path in self._binaries.items():
            (programs / name).symlink_to(path)
        note = self.directory / "cluster.json.new"
        note.write_text(json.dumps({"supervisor": self.supervisor_pid, "server": self.server, "env": self.env()}, indent=1))
        note.rename(self.directory / "cluster.json")

    def _wait_for_kuberay(self) -> None:
        health = f"http://127.0.0.1:{self._ports[KUBERAY_HEALTH]}/readyz"
        self._until("kuberay-operator", "is ready", lambda: kuberay.answers(health))

    def _launch(self, name: str, argv: list[str], env: dict[str, str] | None = None, grace_seconds: float = 0) -> None:
        if name not in self._launched:
            argv = [*argv, *self._extra.get(name, [])]
        self._launched[name] = (argv, env or {}, grace_seconds)
        self._supervised().start(name, argv, env, grace_seconds=grace_seconds)
        self._killed.discard(name)

    def _until(self, component: str, what: str, check: Callable[[], T], timeout: float | None = None, every: float = 0.05) -> None:
        """Wait for ``check`` as long as every component lives that was not killed on purpose."""
        limit = timeout or self._timeout
        deadline = time.monotonic() + limit
        done = False
        while not done:
            done = bool(check())
            for name, state in self.components().items():
                if state["returncode"] is not None and name not in self._killed:
                    raise StartError(f"{name} ended with exit code {state['returncode']} before {component} {what}:\n{self.logs(name, 20)}")
            if time.monotonic() > deadline:
                raise StartError(f"not within {limit:g} s: {component} {what}. The end of its log:\n{self.logs(component, 20)}")
            time.sleep(every)

    def _ready_nodes(self) -> set[str]:
        ready = set()
        for node in self.api.request("GET", "/api/v1/nodes")["items"]:
            conditions: list[dict[str, Any]] = node["status"].get("conditions") or []
            if any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
                ready.add(str(node["metadata"]["name"]))
        return ready

    def _exists(self, path: str) -> bool:
        try:
            return bool(self.api.request("GET", path))
        except ApiError as error:
            if error.status == 404:
                return False
            raise

    def _supervised(self) -> Supervision:
        if not self._supervision:
            raise RuntimeError("the cluster is not running: use `with LocalCluster(…) as cluster:` or start()")
        return self._supervision
