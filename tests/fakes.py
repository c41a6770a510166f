"""Fakes at the operator's edges, and only there: a clock that is set, an in-memory Kubernetes, a KubeRay and a Ray Serve that behave as the
real ones were seen to behave, a Prometheus and a forecaster that say what they are told to say."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

from deepseek_forecaster.types import Forecast
from deepseek_forecaster.wire import ForecastRequest
from deepseek_operator.api import v1alpha1 as api
from deepseek_operator.core.plan import ServeView
from deepseek_operator.edge.forecaster import Forecasts
from deepseek_operator.edge.kube import KubeError, StaleError
from deepseek_operator.edge.prometheus import Readings, by_application, single
from deepseek_operator.edge.rayserve import RayServeError

Body = dict[str, Any]
START = 1_790_000_000.0


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand. `wall` may be made to jump; `monotonic` never does."""

    now: float = START
    jump: float = 0.0

    def monotonic(self) -> float:
        return self.now - START + 100.0

    def wall(self) -> float:
        return self.now + self.jump

    def timestamp(self) -> str:
        return _timestamp(self.now)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -------------------------------------------------------------------------------------------------------------- Kubernetes


def apply_json_patch(document: Body, patch: Sequence[Body]) -> Body:
    """RFC 6902 `add`, `replace` and `test`, all or nothing. A failed `test` is `StaleError`, as the API server's 422 is."""
    result = copy.deepcopy(document)
    for step in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        place: Any = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        key: Any = int(last) if isinstance(place, list) else last
        if step["op"] == "test":
            if place[key] != step["value"]:
                raise StaleError(f"testing value {step['path']} failed", 422)
        elif step["op"] == "add" or (step["op"] == "replace" and (isinstance(place, list) or key in place)):
            place[key] = copy.deepcopy(step["value"])
        else:
            raise KubeError(f"cannot {step['op']} {step['path']}", 422)
    return result


class FakeCluster:
    """The Kubernetes API in memory: resourceVersions, generations, JSON patches. `writes` lists (verb, kind, name) of the operator's own."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.store: dict[str, dict[tuple[str, str], Body]] = {kind: {} for kind in ("objects", "services", "clusters", "pods", "budgets")}
        self.events: list[tuple[str, str, str, str]] = []
        self.writes: list[tuple[str, str, str]] = []
        self.failing: dict[str, KubeError] = {}
        self.before_patch: Callable[[str, str], None] | None = None
        self._version = 1000

    def put(self, kind: str, body: Body) -> Body:
        """Create or replace, as anybody but the operator does it."""
        metadata = body["metadata"]
        key = (metadata.setdefault("namespace", "default"), metadata["name"])
        before = self.store[kind].get(key)
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        metadata.setdefault("uid", before["metadata"]["uid"] if before else f"uid-{self._version}")
        metadata.setdefault("creationTimestamp", self.clock.timestamp())
        generation = before["metadata"]["generation"] if before else 0
        metadata["generation"] = generation + (before is None or before.get("spec") != body.get("spec"))
        self.store[kind][key] = copy.deepcopy(body)
        return copy.deepcopy(body)

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        """Gone for good, with what it owns."""
        self.store[kind].pop((namespace, name), None)
        owned = {"objects": "services", "services": "clusters", "clusters": "pods"}.get(kind)
        for key, body in list(self.store[owned].items()) if owned else []:
            if any(owner["name"] == name for owner in body["metadata"].get("ownerReferences") or []):
                self.remove(str(owned), key[1], key[0])

    def get(self, kind: str, name: str, namespace: str = "default") -> Body:
        return copy.deepcopy(self.store[kind][namespace, name])

    def bodies(self, kind: str) -> list[Body]:
        return [copy.deepcopy(body) for body in self.store[kind].values()]

    async def list_objects(self) -> list[Body]:
        return self.bodies("objects")

    async def list_services(self) -> list[Body]:
        return self.bodies("services")

    async def list_clusters(self) -> list[Body]:
        return self.bodies("clusters")

    async def list_pods(self) -> list[Body]:
        return self.bodies("pods")

    async def create_service(self, body: Body) -> Body:
        self._wrote("create", "service", body["metadata"]["name"])
        if (body["metadata"]["namespace"], body["metadata"]["name"]) in self.store["services"]:
            raise StaleError("already exists", 409)
        return self.put("services", copy.deepcopy(body))

    async def patch_service(self, namespace: str, name: str, patch: list[Body]) -> Body:
        return self._patch("services", namespace, name, patch)

    async def patch_cluster(self, namespace: str, name: str, patch: list[Body]) -> Body:
        return self._patch("clusters", namespace, name, patch)

    async def apply_budget(self, body: Body) -> None:
        self._wrote("apply", "budget", body["metadata"]["name"])
        self.put("budgets", copy.deepcopy(body))

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Body:
        self._wrote("patch", "status", name)
        if (namespace, name) not in self.store["objects"]:
            raise KubeError("not found", 404)
        return self.put("objects", {**self.store["objects"][namespace, name], "status": copy.deepcopy(dict(status))})

    async def create_event(self, regarding: Body, kind: str, reason: str, message: str, now: str) -> None:
        self._wrote("create", "event", regarding["metadata"]["name"])
        datetime.fromisoformat(now)
        self.events.append((regarding["metadata"]["name"], kind, reason, message))

    def _patch(self, kind: str, namespace: str, name: str, patch: list[Body]) -> Body:
        if self.before_patch:
            self.before_patch(kind, name)
        self._wrote("patch", kind.removesuffix("s"), name)
        if (namespace, name) not in self.store[kind]:
            raise KubeError("not found", 404)
        return self.put(kind, apply_json_patch(self.store[kind][namespace, name], patch))

    def _wrote(self, verb: str, kind: str, name: str) -> None:
        self.writes.append((verb, kind, name))
        if kind in self.failing:
            raise self.failing[kind]


# ---------------------------------------------------------------------------------------------------------------- Ray Serve


@dataclass
class Replica:
    """A replica on a pod: starting until `ready_at`, and once it stops, there until `gone_at`."""

    pod: str
    ready_at: float
    gone_at: float | None = None


@dataclass
class Application:
    """One Serve application: what it aims at, its replicas, and until when the proxy of an emptied pod lives on."""

    target: int
    per_node: int = 1
    replicas: list[Replica] = field(default_factory=list)
    proxies: dict[str, float] = field(default_factory=dict)


class FakeServe:
    """Ray Serve of every cluster. A stopping replica finishes its requests first; the proxy of an emptied node drains after it."""

    def __init__(self, clock: Clock, load_seconds: float = 5, finish_seconds: float = 4, drain_seconds: float = 6) -> None:
        self.clock = clock
        self.load_seconds, self.finish_seconds, self.drain_seconds = load_seconds, finish_seconds, drain_seconds
        self.applications: dict[tuple[str, str], Application] = {}
        self.unreachable: set[str] = set()
        self.hung: dict[str, Callable[[], Any]] = {}
        self.reads: list[str] = []
        self.scaled: list[tuple[str, int]] = []

    async def read(self, namespace: str, cluster: str, application: str) -> ServeView | None:
        self.reads.append(application)
        if application in self.hung:
            await self.hung[application]()
        if application in self.unreachable:
            raise RayServeError("GET /api/serve/applications/ did not answer within 5 s")
        app = self.applications.get((namespace, cluster))
        if app is None:
            return None
        return ServeView(
            target=app.target,
            replica_pods=tuple(replica.pod for replica in app.replicas),
            running=sum(r.gone_at is None and r.ready_at <= self.clock.now and bool(r.pod) for r in app.replicas),
            proxy_pods=frozenset(app.proxies),
            running_pods=tuple(r.pod for r in app.replicas if r.gone_at is None and r.ready_at <= self.clock.now and r.pod),
        )

    async def scale(self, namespace: str, cluster: str, application: str, replicas: int) -> None:
        self.scaled.append((application, replicas))
        if application in self.unreachable:
            raise RayServeError("POST …/scale did not answer within 5 s")
        self.applications[namespace, cluster].target = replicas

    def step(self, key: tuple[str, str], pods: Sequence[str]) -> None:
        """Move one application on: `pods` are the live nodes of its cluster."""
        app, now = self.applications[key], self.clock.now
        app.replicas = [r for r in app.replicas if (r.gone_at is None or r.gone_at > now) and (r.pod in pods or not r.pod)]
        staying = [r for r in app.replicas if r.gone_at is None]
        while len(staying) > app.target:  # first one without a node, then from the node with the fewest, the newest node first
            victim = min(staying, key=lambda r: (bool(r.pod), sum(o.pod == r.pod for o in staying), -pods.index(r.pod) if r.pod else 0))
            staying.remove(victim)
            victim.gone_at = now + self.finish_seconds
            if not victim.pod:
                app.replicas.remove(victim)
        for _ in range(app.target - len(staying)):
            app.replicas.append(Replica("", float("inf")))
        for replica in app.replicas:
            if not replica.pod:
                free = [pod for pod in pods if sum(o.pod == pod for o in app.replicas) < app.per_node]
                if free:
                    replica.pod, replica.ready_at = free[0], now + self.load_seconds
        hosting = {replica.pod for replica in app.replicas}
        app.proxies = {pod: until for pod, until in app.proxies.items() if until > now and pod in pods}
        app.proxies |= dict.fromkeys(hosting & set(pods), now + self.drain_seconds)


# ------------------------------------------------------------------------------------------------------------------ KubeRay


class FakeKubeRay:
    """KubeRay's part, as its source has it (v1.6.2, reconcilePods): pods named in workersToDelete go always, and a pod that is still
    terminating counts as running unless it is named there; a surplus goes in list order, whatever it hosts. `cut`: hosting pods it took."""

    def __init__(self, cluster: FakeCluster, serve: FakeServe, start_seconds: float = 20, grace_seconds: float = 30) -> None:
        self.cluster, self.serve, self.clock = cluster, serve, cluster.clock
        self.start_seconds, self.grace_seconds = start_seconds, grace_seconds
        self.cut: list[str] = []
        self.out_of_nodes = False
        self._numbers = iter(range(1, 100_000))

    def step(self) -> None:
        for body in list(self.cluster.store["services"].values()):
            self._service(body)
        for body in list(self.cluster.store["clusters"].values()):
            self._pods(body)

    def _service(self, service: Body) -> None:
        metadata, status = service["metadata"], copy.deepcopy(service.get("status") or {})
        active = (status.get("activeServiceStatus") or {}).get("rayClusterName")
        pending = (status.get("pendingServiceStatus") or {}).get("rayClusterName")
        if not active and not pending:
            name = f"{metadata['name']}-{next(self._numbers):05d}"
            owner = {"kind": "RayService", "name": metadata["name"]}
            spec = copy.deepcopy(service["spec"]["rayClusterConfig"])
            self.cluster.put("clusters", {"metadata": self._metadata(name, metadata, owner), "spec": spec})
            status["pendingServiceStatus"] = {"rayClusterName": name}
            config = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["deployments"][0]
            self.serve.applications[metadata["namespace"], name] = Application(config["num_replicas"], config["max_replicas_per_node"])
        elif pending and any(self._ready(pod) for pod in self._of(metadata["namespace"], pending)):
            status["activeServiceStatus"], status["pendingServiceStatus"] = {"rayClusterName": pending}, {}
        else:
            return
        self.cluster.put("services", copy.deepcopy(service) | {"status": status})

    def _pods(self, cluster: Body) -> None:
        namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        group = cluster["spec"]["workerGroupSpecs"][0]
        for pod in self._of(namespace, name):
            ends = pod["metadata"].get("deletionTimestamp")
            if ends and datetime.fromisoformat(ends).timestamp() + self.grace_seconds <= self.clock.now:
                self.cluster.remove("pods", pod["metadata"]["name"], namespace)
        pods = self._of(namespace, name)
        named = set((group.get("scaleStrategy") or {}).get("workersToDelete") or ())
        running = [pod for pod in pods if pod["metadata"]["name"] not in named]
        for pod in pods:
            if pod["metadata"]["name"] in named:
                self._delete(pod)
        surplus = len(running) - group["replicas"]
        for pod in running[: max(0, surplus)]:
            self._delete(pod)
        for _ in range(0 if self.out_of_nodes else -surplus):
            owner = {"kind": "RayCluster", "name": name}
            metadata = self._metadata(f"{name}-gpu-worker-{next(self._numbers):05d}", cluster["metadata"], owner)
            metadata["labels"] |= group["template"]["metadata"]["labels"] | {"ray.io/cluster": name, "ray.io/node-type": "worker"}
            self.cluster.put("pods", {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}})
        self._advance(namespace, name)

    def _advance(self, namespace: str, name: str) -> None:
        """Nodes come up, replicas settle on them, and a pod is Ready while it hosts one that answers."""
        pods = [pod for pod in self._of(namespace, name) if not pod["metadata"].get("deletionTimestamp")]
        up = [p["metadata"]["name"] for p in pods if self.clock.now >= self._created(p) + self.start_seconds]
        app = self.serve.applications[namespace, name]
        self.serve.step((namespace, name), up)
        for pod in pods:
            answering = [r for r in app.replicas if r.pod == pod["metadata"]["name"] and r.ready_at <= self.clock.now]
            status = "True" if answering else "False"
            before = (pod["status"].get("conditions") or [{}])[0]
            if before.get("status") != status:
                ready = {"type": "Ready", "status": status, "lastTransitionTime": self.clock.timestamp()}
                scheduled = {
                    "type": "PodScheduled",
                    "status": "True",
                    "lastTransitionTime": _timestamp(self._created(pod) + self.start_seconds / 2),
                }
                running = {"running": {"startedAt": _timestamp(self._created(pod) + self.start_seconds)}}
                seen = {"phase": "Running", "conditions": [ready, scheduled], "containerStatuses": [{"state": running}]}
                self.cluster.put("pods", {**pod, "status": seen})

    def _delete(self, pod: Body) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            return
        name = pod["metadata"]["name"]
        app = self.serve.applications[pod["metadata"]["namespace"], pod["metadata"]["labels"]["ray.io/cluster"]]
        if any(replica.pod == name for replica in app.replicas):
            self.cut.append(name)
        pod["metadata"]["deletionTimestamp"] = self.clock.timestamp()
        self.cluster.put("pods", pod)

    def _metadata(self, name: str, parent: Body, owner: Body) -> Body:
        return {"name": name, "namespace": parent["namespace"], "labels": dict(parent.get("labels") or {}), "ownerReferences": [owner]}

    def _of(self, namespace: str, cluster: str) -> list[Body]:
        found = [b["metadata"] for b in self.cluster.store["pods"].values() if b["metadata"]["labels"].get("ray.io/cluster") == cluster]
        return [self.cluster.get("pods", m["name"], namespace) for m in found if m["namespace"] == namespace]

    @staticmethod
    def _created(pod: Body) -> float:
        return datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()

    @staticmethod
    def _ready(pod: Body) -> bool:
        return any(condition["status"] == "True" for condition in (pod["status"].get("conditions") or []))


# --------------------------------------------------------------------------------------------------- Prometheus, forecaster


class FakePrometheus:
    """Says `vector` (series as Prometheus gives them) to the fleet query, and `own[query]` to a user's own; `problem` when it is down."""

    def __init__(self) -> None:
        self.vector: list[Body] = []
        self.own: dict[str, list[Body]] = {}
        self.problem = ""
        self.calls: list[frozenset[str]] = []

    def say(self, application: str, reading: str, value: object) -> None:
        """One series, beside those already said."""
        self.vector.append({"metric": {"application": application, "reading": reading}, "value": [START, str(value)]})

    def load(self, application: str, rate: object, reporting: object = 1000) -> None:
        """This application's demand from now on, in requests per second, reported by so many replicas."""
        self.forget(application)
        self.say(application, "demand", rate)
        self.say(application, "reporting", reporting)

    def forget(self, application: str) -> None:
        """No series of this application any more."""
        self.vector = [series for series in self.vector if series["metric"]["application"] != application]

    async def read(self, now: float, window_seconds: int, own_queries: Iterable[str]) -> Readings:
        self.calls.append(frozenset(own_queries))
        if self.problem:
            return Readings(problem=self.problem)
        return Readings(by_application(self.vector), {query: single(self.own.get(query, [])) for query in own_queries})


def forecast(series: str, peak: float, issued_at: float, **other: Any) -> Forecast:
    """A forecast whose every quantile of the peak is `peak`."""
    given: dict[str, Any] = {"step_seconds": 60, "horizon_seconds": 600, "on_probation": False} | other
    steps = -(-given["horizon_seconds"] // given["step_seconds"])
    return Forecast(
        series=series,
        issued_at=issued_at,
        mean=peak / 2,
        peak=given.pop("peaks", {0.5: peak, 0.95: peak, 0.99: peak}),
        path={"mean": (peak / 2,) * steps},
        models={"last_value": 1.0},
        history_seconds=86_400.0,
        trained_at=None,
        recent_wape=None,
        naive_wape=None,
        coverage90=None,
        **given,
    )


class FakeForecaster:
    """Gives `peaks[series]` as every quantile of the peak, issued now, over the horizon asked for; `other` overrides fields of all."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self.other: dict[str, Any] = {}
        self.age_seconds = 0.0
        self.problem = ""
        self.calls: list[list[ForecastRequest]] = []

    async def ask(self, now: float, requests: Sequence[ForecastRequest]) -> Forecasts:
        self.calls.append(list(requests))
        if self.problem:
            return Forecasts(problem=self.problem)
        found = {}
        for request in requests:
            if request.series in self.peaks:
                shape = {"step_seconds": request.step_seconds, "horizon_seconds": request.horizon_seconds} | self.other
                found[request.series] = forecast(request.series, self.peaks[request.series], now - self.age_seconds, **shape)
        return Forecasts(by_series=found)


def deployment(name: str = "chat", namespace: str = "default", **spec: Any) -> Body:
    """A DeepSeekDeployment of 10 requests per second and node, 1 to 10 nodes; `scaling` and `nodes` are merged, the rest replaces."""
    base: Body = {
        "model": {"source": "file:///none", "engine": "echo"},
        "nodes": {"min": 1, "max": 10} | spec.pop("nodes", {}),
        "scaling": {"mode": "Reactive", "capacity": {"requestsPerSecondPerNode": "10"}} | spec.pop("scaling", {}),
    }
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-of-{namespace}-{name}"}
    return {"apiVersion": api.API_VERSION, "kind": api.KIND, "metadata": metadata, "spec": base | spec}


# -------------------------------------------------------------------------------------------------------------- over HTTP


@dataclass
class Answer:
    """What the HTTP server says next: status, body, content type, after so many seconds."""

    body: bytes | str = b""
    status: int = 200
    content_type: str = "application/json"
    after_seconds: float = 0.0


Say = Callable[[str, str, bytes], Answer]


@contextmanager
def http_server(say: Say) -> Any:
    """An HTTP server on a free port of this machine that answers (method, path with query, body) as `say` says; gives its URL."""
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            answer = say(self.command, self.path, self.rfile.read(length))
            closing.wait(answer.after_seconds)
            body = answer.body.encode() if isinstance(answer.body, str) else answer.body
            try:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up waiting

        do_GET = do_POST = do_PUT = _do  # noqa: N815 - the names http.server looks for

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def prometheus_says(vector: Sequence[Mapping[str, Any]] | Callable[[str], Sequence[Mapping[str, Any]]]) -> Say:
    """A Prometheus whose instant queries give this vector (or what the function makes of the query)."""

    def say(method: str, path: str, body: bytes) -> Answer:
        asked = parse_qs(urlparse(path).query) | parse_qs(body.decode())
        result = vector(asked.get("query", [""])[0]) if callable(vector) else vector
        return Answer(json.dumps({"status": "success", "data": {"resultType": "vector", "result": list(result)}}))

    return say
