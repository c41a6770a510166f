"""What the operator knows of each object between ticks, and of the cluster through its watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from deepseek_forecaster.types import Forecast
from deepseek_operator.api.v1alpha1 import DeepSeekDeployment, DeepSeekDeploymentSpec, DeepSeekDeploymentStatus, quantity_value
from deepseek_operator.core.capacity import LearnedCapacity
from deepseek_operator.core.coldstart import Starts, StartWatch
from deepseek_operator.core.ledger import Counterfactual, Course, Ledger
from deepseek_operator.core.plan import Observed, ServeView, ServiceView
from deepseek_operator.core.status import Gist, day_of, starts_of
from deepseek_operator.core.types import Decision, Demand, Memory, PeakForecast, Policy, capacity_in_spec
from deepseek_operator.edge.promql import OwnQueries
from deepseek_operator.edge.rayservice import DEPLOYMENT_LABEL, application_name, instant, read_cluster, read_pod, read_service

Body = dict[str, Any]
Kind = Literal["objects", "services", "clusters", "pods"]
KINDS: tuple[Kind, ...] = ("objects", "services", "clusters", "pods")
Key = tuple[str, str]
"""Namespace and name."""

View = TypeVar("View")


class Seen:
    """The cluster as the watches last told it. Level-triggered: only the latest state of each thing counts."""

    def __init__(self) -> None:
        self._bodies: dict[Kind, dict[Key, Body]] = {kind: {} for kind in KINDS}
        self._by_deployment: dict[Kind, dict[Key, dict[Key, Body]]] = {kind: {} for kind in KINDS}
        self._noted: dict[tuple[Kind, Key], int] = {}
        self._views: dict[tuple[Kind, Key], tuple[Body, Any, Any]] = {}
        self._moment = 0

    @property
    def moment(self) -> int:
        """Rises with everything that is noted: a list that was begun at one moment says nothing of what was noted later."""
        return self._moment

    def note(self, kind: Kind, event: str | None, body: Body) -> bool:
        """Take in one watch event; True when it changes something a decision or a plan looks at."""
        key = key_of(body)
        before = self._bodies[kind].get(key)
        self._moment += 1
        self._noted[kind, key] = self._moment
        if before is not None and _older(body, before):
            return False  # the answer to a write of ours overtook the watch
        if event == "DELETED":
            if before is not None and before["metadata"].get("uid") != body["metadata"].get("uid"):
                return False  # another of the same name is there by now
            self._drop(kind, key)
            return before is not None
        self._put(kind, key, body)
        return before is None or _gist(kind, before) != _gist(kind, body)

    def replace(self, kind: Kind, bodies: Iterable[Body], begun: int | None = None) -> None:
        """Take in a full list: what it lacks is gone. It backs up a watch that lost an event. `begun` is the `moment` at which the list was
        asked for: what was noted after it is newer than the list."""
        since = self._moment if begun is None else begun
        fresh = {key_of(body): body for body in bodies}
        for key in [key for key in self._bodies[kind] if key not in fresh and self._noted.get((kind, key), 0) <= since]:
            self._drop(kind, key)
        self._noted = {place: moment for place, moment in self._noted.items() if place[0] != kind or moment > since}
        for key, body in fresh.items():
            if (kind, key) in self._noted:
                continue
            if not _older(body, self._bodies[kind].get(key)):
                self._put(kind, key, body)

    def objects(self) -> dict[Key, Body]:
        """Every DeepSeekDeployment that is not being deleted."""
        return {key: body for key, body in self._bodies["objects"].items() if not body["metadata"].get("deletionTimestamp")}

    def service(self, key: Key) -> Body | None:
        """The RayService of an object; it bears the object's name."""
        body = self._bodies["services"].get(key)
        return None if body is None or body["metadata"].get("deletionTimestamp") else body

    def observe(self, key: Key, compiled: Mapping[str, Any], serve: ServeView | None) -> Observed:
        """What there is of an object's service, cluster and nodes, beside what we would compile now."""
        body = self.service(key)
        if body is None:
            return Observed()
        service: ServiceView = self._view("services", key, body, compiled, lambda: read_service(body, compiled))
        name = service.active_cluster or service.pending_cluster
        cluster_body = self._bodies["clusters"].get((key[0], name))
        if cluster_body is None or cluster_body["metadata"].get("deletionTimestamp"):
            return Observed(service=service)
        pods = tuple(
            self._read("pods", pod_key, pod, read_pod)
            for pod_key, pod in self._by_deployment["pods"].get(key, {}).items()
            if pod["metadata"]["labels"].get("ray.io/cluster") == name and pod["metadata"]["labels"].get("ray.io/node-type") == "worker"
        )
        taking_over = self._bodies["clusters"].get((key[0], service.pending_cluster)) if service.active_cluster else None
        pending = read_cluster(taking_over) if taking_over and not taking_over["metadata"].get("deletionTimestamp") else None
        cluster = self._read("clusters", (key[0], name), cluster_body, read_cluster)
        return Observed(service=service, cluster=cluster, pods=pods, serve=serve, pending=pending)

    def cluster_body(self, namespace: str, name: str) -> Body | None:
        """A RayCluster as last seen."""
        return self._bodies["clusters"].get((namespace, name))

    def _read(self, kind: Kind, key: Key, body: Body, reader: Callable[[Body], View]) -> View:
        return self._view(kind, key, body, None, lambda: reader(body))

    def _view(self, kind: Kind, key: Key, body: Body, beside: object, reader: Callable[[], View]) -> View:
        """What a body says, read once for as long as it is the same one (and, where it is read beside another thing, that is too)."""
        known = self._views.get((kind, key))
        if known is not None and known[0] is body and known[1] is beside:
            view: View = known[2]
            return view
        view = reader()
        self._views[kind, key] = (body, beside, view)
        return view

    def _put(self, kind: Kind, key: Key, body: Body) -> None:
        known = self._bodies[kind].get(key)
        if known is not None and _state(known) == _state(body):
            return  # a list brings the same states again and again; what was read of them stays
        self._bodies[kind][key] = body
        deployment = (body["metadata"].get("labels") or {}).get(DEPLOYMENT_LABEL)
        if deployment:
            self._by_deployment[kind].setdefault((key[0], deployment), {})[key] = body

    def _drop(self, kind: Kind, key: Key) -> None:
        body = self._bodies[kind].pop(key, None)
        self._views.pop((kind, key), None)
        deployment = ((body or {}).get("metadata", {}).get("labels") or {}).get(DEPLOYMENT_LABEL)
        if deployment:
            owned = self._by_deployment[kind].get((key[0], deployment), {})
            owned.pop(key, None)
            if not owned:
                self._by_deployment[kind].pop((key[0], deployment), None)


def key_of(body: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _state(body: Mapping[str, Any]) -> tuple[str, str] | object:
    """What is the same of two bodies only if they are the same state of the same object."""
    metadata = body["metadata"]
    version = metadata.get("resourceVersion")
    return (metadata.get("uid"), version) if version else object()


def _older(body: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether `body` is an earlier state of the very object that is known. Kubernetes orders the resource versions of a kind as numbers."""
    if known is None or body["metadata"].get("uid") != known["metadata"].get("uid"):
        return False
    versions = [str(each["metadata"].get("resourceVersion", "")) for each in (body, known)]
    return all(version.isdecimal() for version in versions) and int(versions[0]) < int(versions[1])


def _gist(kind: Kind, body: Mapping[str, Any]) -> tuple[Any, ...]:
    """What has to differ for an event to be worth a tick of its own; our own status writes are not."""
    metadata, status = body["metadata"], body.get("status") or {}
    deleting = metadata.get("deletionTimestamp")
    if kind == "services":
        active, pending = status.get("activeServiceStatus") or {}, status.get("pendingServiceStatus") or {}
        return metadata.get("generation"), deleting, active.get("rayClusterName"), pending.get("rayClusterName")
    if kind == "pods":
        ready = next((c.get("status") for c in status.get("conditions") or [] if c.get("type") == "Ready"), None)
        return deleting, status.get("phase"), ready
    return metadata.get("generation"), deleting


@dataclass(slots=True)
class Tracked:
    """What is remembered of one object. Lost with the process, and rebuilt from its status and from the cluster."""

    uid: str
    wanted: Wanted | str = ""
    """The object as it was parsed, or what is wrong with it; good for `wanted_generation`."""
    wanted_generation: int | None = None
    compiled: dict[str, Any] = field(default_factory=dict)
    """The RayService of `compiled_for`."""
    compiled_for: tuple[object, int] | None = None
    desired: int | None = None
    memory: Memory = field(default_factory=Memory)
    reactive: Counterfactual | None = None
    shadow: Counterfactual | None = None
    ledger: Ledger | None = None
    courses: tuple[Course, Course, Course] = (Course(()), Course(()), Course(()))
    """The node counts of late: as asked for, of mode Reactive, and of Predictive in mode Shadow."""
    starts: Starts = field(default_factory=Starts)
    """The starts of its kind of node that its own status told of; the tick keeps them for all objects of the kind."""
    start_watch: StartWatch = field(default_factory=StartWatch)
    cluster: str = ""
    """The RayCluster whose nodes' starts are measured, and of which `serve` speaks."""
    serving_since: dict[str, float] = field(default_factory=dict)
    """When each node that serves was first seen to."""
    capacity: LearnedCapacity = field(default_factory=LearnedCapacity)
    """Of one replica."""
    earlier_capacity: tuple[float, int] | None = None
    """What an earlier process learned of one node, and from how many readings at saturation; until the first look at the object."""
    decision: Decision | None = None
    serve: ServeView | None = None
    serve_read_at: float = -1e18
    serve_problem: str = ""
    write_problem: str = ""
    waiting_for: str = ""
    short_since: float | None = None
    """Since when fewer nodes are ready than asked for; None while enough are."""
    status: DeepSeekDeploymentStatus | None = None
    status_at: float = -1e18
    status_gist: Gist | None = None
    """The gist of the picture that `status` was found to tell, so that no other has to be made to see it."""
    warned: frozenset[str] = frozenset()

    @classmethod
    def resume(cls, body: Body, now: float, wall: float) -> Tracked:
        """Pick up where an earlier process left off, from the object's status. `now` and `wall` are the same instant on the tick's clock and on
        the wall's."""
        tracked = cls(uid=body["metadata"]["uid"])
        try:
            status = DeepSeekDeploymentStatus.model_validate(body.get("status") or {})
        except ValidationError:
            return tracked  # written by another version; everything in it can be learned again
        tracked.status = status if body.get("status") else None
        if status.nodes:
            tracked.desired = status.nodes.desired or None
        if status.capacity and status.capacity.source == "Learned":
            learned = quantity_value(status.capacity.requests_per_second_per_node)
            tracked.earlier_capacity = learned, status.capacity.saturated_readings or 0
        if status.cold_start:
            tracked.starts = starts_of(status.cold_start)
        if status.last_scale_at:
            tracked.memory = Memory(scaled_at=now + min(0.0, instant(status.last_scale_at) - wall))
        if status.ledger:
            known = status.ledger
            tracked.ledger = Ledger(
                since=instant(known.since),
                counted_until=now,
                node_seconds=3600 * quantity_value(known.node_hours),
                at_maximum=3600 * quantity_value(known.at_maximum_node_hours),
                reactive=3600 * quantity_value(known.reactive_node_hours),
                days=tuple(day_of(day) for day in status.savings),
            )
        return tracked


@dataclass(frozen=True, slots=True)
class Wanted:
    """A valid object as it is to be served, and what follows from it alone."""

    key: Key
    body: Body
    """As it was when its spec was read: its status and labels may have changed since."""
    spec: DeepSeekDeploymentSpec
    policy: Policy
    application: str
    """Its name in Ray Serve, in metrics and to the forecaster."""
    capacity: float | None
    """Requests per second of one node as the spec gives it."""
    node_kind: tuple[object, ...]
    """Nodes of the same kind start alike: the same model in the same quantization on the same node pool."""
    gpus_per_node: float
    price: float
    """Of a node-hour; 0 where the spec gives none."""
    query_objection: str
    """Why the user's own query is not asked; empty when it is, or when there is none."""

    @property
    def query(self) -> str | None:
        """The user's own query, if it is asked."""
        return None if self.query_objection else self.spec.scaling.demand.query


def parse(key: Key, body: Body, own_queries: OwnQueries | None = None) -> Wanted | str:
    """The object, or a sentence that says what is wrong with it: the API server may have stored it under an older schema, and it cannot judge
    a calendar."""
    try:
        spec = DeepSeekDeployment.model_validate({"spec": body.get("spec") or {}}).spec
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()[:5])
    try:
        policy = Policy.of(spec)
    except ValueError as error:
        return f"spec.scaling.schedule: {error}"
    query, limits = spec.scaling.demand.query, spec.nodes.resources.limits or spec.nodes.resources.requests
    return Wanted(
        key=key,
        body=body,
        spec=spec,
        policy=policy,
        application=application_name(*key),
        capacity=capacity_in_spec(spec),
        node_kind=(
            spec.model.source,
            spec.model.quantization,
            spec.model.engine,
            tuple(sorted(spec.nodes.node_selector.items())),
            tuple(sorted(limits.items())),
        ),
        gpus_per_node=sum(quantity_value(str(count)) for resource, count in limits.items() if resource.endswith("gpu")),
        price=quantity_value(spec.scaling.cost_per_node_hour or "0"),
        query_objection=own_queries.objection(query, key[0]) if own_queries and query else "",
    )


@dataclass(slots=True)
class Verdict:
    """One object on its way through a tick."""

    wanted: Wanted
    tracked: Tracked
    compiled: dict[str, Any]
    """The RayService for `compiled_for` nodes."""
    compiled_for: int
    observed: Observed
    demand: Demand | None = None
    missing: str = ""
    forecast: PeakForecast | None = None
    raw_forecast: Forecast | None = None
    no_forecast: str = ""
    capacity: float | None = None
    decision: Decision | None = None

    @property
    def serving(self) -> frozenset[str]:
        """The nodes whose replicas all answer, by pod."""
        return self.observed.serving(self.wanted.spec.nodes.replicas_per_node)
