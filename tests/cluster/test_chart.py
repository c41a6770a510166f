"""The chart installs into a restricted namespace of a real cluster, with the rights the operator uses and no others, and refuses bad values."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepseek_forecaster.cli import parser as forecaster_parser
from deepseek_localcluster import CommandError, LocalCluster
from deepseek_localcluster.access import Cluster
from deepseek_localcluster.build import ensure, kuberay_crds
from deepseek_operator.api import v1alpha1
from deepseek_operator.api.crd import CRD_NAME
from deepseek_operator.cli import parser as operator_parser
from deepseek_operator.edge.kube import Kube, KubeError
from deepseek_operator.edge.rayservice import CompileOptions, compile_budget, compile_service
from deepseek_operator.edge.telemetry import Telemetry
from deepseek_serving import metric_names

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "deepseek-operator"
NAMESPACE = "deepseek-system"
PROMETHEUS = ("--set", "prometheus.url=http://prometheus.monitoring.svc:9090")

IN_TEAM_A = ("--set", "watch.namespaces={team-a},networkPolicy.ray.kuberayNamespace=kuberay")

OFFLINE = Cluster(Path(os.devnull))
"""For helm commands that need no cluster."""

Body = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster of this file's own, because a chart owns its definition: KubeRay's kinds, and a namespace that admits restricted pods only."""
    ensure(["helm"])
    with LocalCluster() as cluster:
        for path in kuberay_crds():
            cluster.apply(path)
        for name in (NAMESPACE, "team-a", "team-b"):
            cluster.kubectl("create", "namespace", name)
            cluster.kubectl(
                "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted"
            )
        yield cluster


@pytest.fixture
def release(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The chart installed as release `ds` for all namespaces; uninstalled afterwards, definition included."""
    cluster.helm("install", "ds", str(CHART), "-n", NAMESPACE, *PROMETHEUS)
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
    yield cluster
    cluster.helm("uninstall", "ds", "-n", NAMESPACE, "--ignore-not-found", "--wait")
    cluster.kubectl("delete", "crd", CRD_NAME, "--ignore-not-found")


def _rendered(*values: str) -> list[Body]:
    """The objects the chart renders, without a cluster."""
    text = OFFLINE.helm("template", "ds", str(CHART), "-n", NAMESPACE, *PROMETHEUS, *values)
    return [document for document in yaml.safe_load_all(text) if document]


def _one(objects: list[Body], kind: str, name: str) -> Body:
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def _environment(deployment: Body) -> dict[str, str]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


# ------------------------------------------------------------------------------------------------------------ installing

EVERYTHING = (
    "watch.namespaces={team-a,team-b}",
    "networkPolicy.ray.kuberayNamespace=kuberay",
    "forecaster.persistence.enabled=true",
    "monitoring.podMonitors.enabled=true",
    "monitoring.rules.enabled=true",
    "monitoring.dashboard.enabled=true",
)


@pytest.mark.parametrize("values", [(), EVERYTHING, ("forecaster.enabled=false", "crds.install=false")], ids=["least", "everything", "little"])
def test_helm_lint_finds_nothing(values: tuple[str, ...]) -> None:
    """Strict: a warning is an error."""
    answer = OFFLINE.helm("lint", "--strict", str(CHART), *PROMETHEUS, *(part for value in values for part in ("--set", value)))
    assert "1 chart(s) linted, 0 chart(s) failed" in answer


def test_install_creates_every_object_and_the_pods_are_admitted(release: LocalCluster) -> None:
    """Each object exists and passes a strict server-side dry run; both ReplicaSets get their pod past Pod Security restricted."""
    manifest = release.helm("get", "manifest", "ds", "-n", NAMESPACE)
    objects = [document for document in yaml.safe_load_all(manifest) if document]
    kinds = sorted(each["kind"] for each in objects)
    assert kinds.count("Deployment") == 2
    assert {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "NetworkPolicy", "Service", "ServiceAccount"} < set(kinds)
    dry_run = release.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--warnings-as-errors",
        "-n", NAMESPACE, "-f", "-", input=manifest,
    )  # fmt: skip
    assert len(dry_run.splitlines()) == len(objects)
    release.kubectl("get", "-n", NAMESPACE, "-f", "-", input=manifest)

    def pods() -> list[Body]:
        found = json.loads(release.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
        return found if len(found) == 2 else []

    admitted = release.wait("two pods are created", pods, 30)
    assert {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in admitted} == {"operator", "forecaster"}
    events = release.kubectl("get", "events", "-n", NAMESPACE, "--field-selector", "reason=FailedCreate", "-o", "name")
    assert events == ""


def test_the_restricted_namespace_would_have_refused_less_care(release: LocalCluster) -> None:
    """The same pod without its security context is refused, so the test above means something."""
    deployment = json.loads(release.kubectl("get", "deployment", "ds-deepseek-operator", "-n", NAMESPACE, "-o", "json"))
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "careless"}, "spec": deployment["spec"]["template"]["spec"]}
    release.kubectl("create", "--dry-run=server", "-n", NAMESPACE, "-f", "-", input=json.dumps(pod))
    del pod["spec"]["containers"][0]["securityContext"]
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        release.kubectl("create", "--dry-run=server", "-n", NAMESPACE, "-f", "-", input=json.dumps(pod))


def test_upgrade_changes_what_is_asked_and_uninstall_keeps_definition_and_objects(release: LocalCluster) -> None:
    """tickSeconds 15 → 5 and an emptyDir → a claim; then uninstalled: the object is still there; installed again: it is served again."""
    release.kubectl("apply", "-n", "team-a", "-f", str(ROOT / "examples" / "chat.yaml"))
    release.helm(
        "upgrade", "ds", str(CHART), "-n", NAMESPACE, *PROMETHEUS, "--set", "operator.tickSeconds=5,forecaster.persistence.enabled=true"
    )
    operator = json.loads(release.kubectl("get", "deployment", "ds-deepseek-operator", "-n", NAMESPACE, "-o", "json"))
    assert _environment(operator)["DEEPSEEK_OPERATOR_TICK_SECONDS"] == "5"
    assert release.kubectl("get", "pvc", "-n", NAMESPACE, "-o", "name").strip() == "persistentvolumeclaim/ds-deepseek-operator-forecaster"
    release.helm("uninstall", "ds", "-n", NAMESPACE, "--wait")
    assert release.kubectl("get", "deployments", "-n", NAMESPACE, "-o", "name") == ""
    assert "chat" in release.kubectl("get", "dsd", "-n", "team-a")
    release.helm("install", "ds", str(CHART), "-n", NAMESPACE, *PROMETHEUS)
    assert "chat" in release.kubectl("get", "dsd", "-n", "team-a")


def test_nothing_is_kept_of_a_definition_that_was_not_asked_for() -> None:
    """`crds.install=false` renders none."""
    assert [each for each in _rendered("--set", "crds.install=false") if each["kind"] == "CustomResourceDefinition"] == []


# ------------------------------------------------------------------------------------------------------------ bad values

REFUSED = {
    "no Prometheus": (
        ("--set", "prometheus.url="),
        "prometheus.url is required: the URL of the Prometheus that scrapes the Ray pods, for example",
    ),
    "Prometheus without a scheme": (("--set", "prometheus.url=prometheus:9090"), "at '/prometheus/url': 'prometheus:9090' does not match"),
    "a misspelt value": (("--set", "operator.tickSecond=5"), "at '/operator': additional properties 'tickSecond' not allowed"),
    "a tick of 0 s": (("--set", "operator.tickSeconds=0"), "at '/operator/tickSeconds': minimum: got 0, want 1"),
    "a log of xml": (("--set", "operator.logFormat=xml"), "at '/operator/logFormat': value must be one of 'json', 'text'"),
    "a rule for users' queries that is none": (
        ("--set", "operator.ownQueries.rule=Maybe"),
        "at '/operator/ownQueries/rule': value must be one of 'Allow', 'Enforce', 'Forbid'",
    ),
    "a history of two years": (("--set", "forecaster.history=2y"), "at '/forecaster/history': '2y' does not match"),
    "a tag in the repository": (("--set", "operator.image.repository=a:1"), "at '/operator/image/repository': 'a:1' does not match"),
    "no port for Prometheus": (
        ("--set-json", "networkPolicy.prometheusPorts=[]"),
        "at '/networkPolicy/prometheusPorts': minItems: got 0, want 1",
    ),
    "a watched namespace without KubeRay's": (
        ("--set", "watch.namespaces={team-a}"),
        "networkPolicy.ray.kuberayNamespace is required where Ray pods get a NetworkPolicy",
    ),
    "KubeRay by no label": (
        ("--set", "networkPolicy.ray.kuberayPodLabels.app\\.kubernetes\\.io/name=null"),
        "at '/networkPolicy/ray/kuberayPodLabels': minProperties: got 0, want 1",
    ),
    "a peer that says nothing": (
        ("--set-json", "networkPolicy.forecasterFrom=[{}]"),
        "at '/networkPolicy/forecasterFrom/0': minProperties: got 0, want 1",
    ),
    "no series at all": (("--set", "forecaster.maxSeries=0"), "at '/forecaster/maxSeries': minimum: got 0, want 1"),
    "a namespace with capitals": (("--set", "watch.namespaces={Team}"), "at '/watch/namespaces/0': 'Team' does not match"),
}


@pytest.mark.parametrize(("values", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_value_is_refused_with_its_place(values: tuple[str, ...], words: str) -> None:
    """Before anything is created."""
    with pytest.raises(CommandError) as refusal:
        _rendered(*values)
    assert words in str(refusal.value)


def test_every_value_has_a_place_in_the_schema() -> None:
    """The schema is strict at every level, and knows each key of values.yaml and no other."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolved(node: Body) -> Body:
        return schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    def compare(node: Body, values: Body, where: str) -> None:
        assert node["additionalProperties"] is False, where
        assert set(values) == set(node["properties"]) - {"global"}, where
        for key, value in values.items():
            child = resolved(node["properties"][key])
            if "properties" in child and child["additionalProperties"] is False and key != "resources":
                compare(child, value, f"{where}.{key}")

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


# ---------------------------------------------------------------------------------------------- settings reach the programs


def test_the_operators_environment_is_what_its_command_line_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is a flag's, and arrives as the value that was set."""
    set_ = "operator.tickSeconds=7,operator.stepSeconds=30,operator.logLevel=debug,operator.httpProxy=http://proxy:3128"
    values = ("--set", f"{set_},operator.ownQueries.rule=Enforce,operator.ownQueries.label=team")
    deployment = _one(
        _rendered(*values, "--set", "watch.namespaces={team-a,team-b},networkPolicy.ray.kuberayNamespace=kuberay"),
        "Deployment",
        "ds-deepseek-operator",
    )
    environment = _environment(deployment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = vars(operator_parser().parse_args(deployment["spec"]["template"]["spec"]["containers"][0]["args"]))
    assert {name.removeprefix("DEEPSEEK_OPERATOR_").lower() for name in environment} <= set(given)
    assert (given["tick_seconds"], given["step_seconds"], given["log_level"], given["http_proxy"]) == (7, 30, "debug", "http://proxy:3128")
    assert (given["own_queries"], given["own_queries_label"]) == ("Enforce", "team")
    assert given["namespace"] == ["team-a,team-b"]
    assert given["forecaster"] == f"http://ds-deepseek-operator-forecaster.{NAMESPACE}.svc:8099"
    assert given["metrics_listen"] == ("0.0.0.0", 9090)


def test_the_forecasters_environment_is_what_its_command_line_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is a flag's, and arrives as the value that was set."""
    deployment = _one(
        _rendered("--set", "forecaster.history=3d,forecaster.trainEvery=6h,forecaster.maxSeries=2000000"),
        "Deployment",
        "ds-deepseek-operator-forecaster",
    )
    environment = _environment(deployment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = vars(forecaster_parser().parse_args(deployment["spec"]["template"]["spec"]["containers"][0]["args"]))
    assert {name.removeprefix("DEEPSEEK_FORECASTER_").lower() for name in environment} <= set(given)
    assert (given["history"], given["train_every"], given["listen"]) == (3 * 86_400, 6 * 3_600, ("0.0.0.0", 8099))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert given["max_series"] == 2_000_000
    assert str(given["data"]) in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_without_a_forecaster_nothing_of_it_is_left() -> None:
    """No object of it, and the operator is not told of one."""
    objects = _rendered("--set", "forecaster.enabled=false,monitoring.podMonitors.enabled=true")
    assert [each["metadata"]["name"] for each in objects if "forecaster" in each["metadata"]["name"]] == []
    assert "DEEPSEEK_OPERATOR_FORECASTER" not in _environment(_one(objects, "Deployment", "ds-deepseek-operator"))


# ---------------------------------------------------------------------------------------------------------------- rights


def _as_the_operator(cluster: LocalCluster, folder: Path) -> str:
    """A kubeconfig with a token of the operator's service account."""
    token = cluster.kubectl("create", "token", "ds-deepseek-operator", "-n", NAMESPACE).strip()
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = folder / "operator.json"
    path.write_text(json.dumps(config))
    return str(path)


async def test_the_operators_rights_suffice_for_all_it_does(release: LocalCluster, tmp_path: Path) -> None:
    """Every call of the operator's client, as its service account: lists, RayService, RayCluster, budget, status, event."""
    release.kubectl("apply", "-n", "team-a", "-f", str(ROOT / "examples" / "chat.yaml"))
    release.wait("the new kind is served to the service account", lambda: "chat" in release.kubectl("get", "dsd", "-n", "team-a"))
    kube = Kube()
    await kube.connect(_as_the_operator(release, tmp_path))
    try:
        (chat,) = await kube.list_objects()
        assert await kube.get_object("team-a", "chat") == {**chat, "apiVersion": v1alpha1.API_VERSION, "kind": v1alpha1.KIND}
        uid, spec = chat["metadata"]["uid"], v1alpha1.DeepSeekDeploymentSpec.model_validate(chat["spec"])
        service = compile_service("team-a", "chat", uid, spec, 2, CompileOptions())
        created = await kube.create_service(service)
        assert [each["metadata"]["name"] for each in await kube.list_services()] == ["chat"]
        replicas = [{"op": "replace", "path": "/spec/rayClusterConfig/workerGroupSpecs/0/replicas", "value": 3}]
        await kube.patch_service("team-a", "chat", replicas)
        # KubeRay is not running here; the cluster it would make is written by the administrator.
        ray_cluster = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": "chat-1", "namespace": "team-a", "labels": created["metadata"]["labels"]},
            "spec": created["spec"]["rayClusterConfig"],
        }
        release.apply(json.dumps(ray_cluster))
        assert [each["metadata"]["name"] for each in await kube.list_clusters()] == ["chat-1"]
        await kube.patch_cluster("team-a", "chat-1", [{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 3}])
        assert await kube.list_pods() == []
        await kube.apply_budget(compile_budget("team-a", "chat", uid, 1))
        await kube.write_status("team-a", "chat", {"nodes": {"desired": 3, "current": 2, "ready": 1}})
        await kube.create_event(chat, "Normal", "ScaledUp", "from 2 to 3", "2026-01-01T12:00:00.000000Z")
    finally:
        await kube.close()


FORBIDDEN = (
    ("list", "secrets"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("delete", "rayservices.ray.io"),
    ("create", "rayclusters.ray.io"),
    ("delete", "rayclusters.ray.io"),
    ("update", "deepseekdeployments.inference.deepseek.dev"),
    ("delete", "deepseekdeployments.inference.deepseek.dev"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("impersonate", "users"),
    ("list", "nodes"),
)


@pytest.mark.parametrize(("verb", "resource"), FORBIDDEN)
def test_the_operator_may_not(verb: str, resource: str) -> None:
    """Rights that a stolen token must not have, asked of the rules as they are rendered."""
    rules = _one(_rendered(), "ClusterRole", f"ds-deepseek-operator-{NAMESPACE}")["rules"]
    plural, _, group = resource.partition(".")
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not (verb in rule["verbs"] and plural in rule["resources"] and group in rule["apiGroups"])


async def test_with_named_namespaces_there_are_rights_in_these_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    """Watching team-a: lists there work, in team-b and in all namespaces they are forbidden; nothing cluster-wide is bound."""
    cluster.helm("install", "ds", str(CHART), "-n", NAMESPACE, *PROMETHEUS, *IN_TEAM_A)
    try:
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{CRD_NAME}", "--timeout=30s")
        bindings = json.loads(cluster.kubectl("get", "clusterrolebindings", "-o", "json"))["items"]
        assert [each for each in bindings if "ds-deepseek-operator" in json.dumps(each)] == []
        kubeconfig = _as_the_operator(cluster, tmp_path)
        for namespaces, allowed in ((["team-a"], True), (["team-b"], False), ([], False)):
            kube = Kube(namespaces)
            await kube.connect(kubeconfig)
            try:
                if allowed:
                    assert await kube.list_pods() == []
                else:
                    with pytest.raises(KubeError, match="pods is forbidden"):
                        await kube.list_pods()
            finally:
                await kube.close()
    finally:
        cluster.helm("uninstall", "ds", "-n", NAMESPACE, "--wait")
        cluster.kubectl("delete", "crd", CRD_NAME)


def test_the_forecaster_has_no_token_and_no_rights(release: LocalCluster) -> None:
    """Its pod mounts no token, and its account can list nothing."""
    deployment = json.loads(release.kubectl("get", "deployment", "ds-deepseek-operator-forecaster", "-n", NAMESPACE, "-o", "json"))
    assert deployment["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    account = f"--as=system:serviceaccount:{NAMESPACE}:ds-deepseek-operator-forecaster"
    with pytest.raises(CommandError, match="cannot list resource"):
        release.kubectl("get", "pods", "-n", NAMESPACE, account)


def test_people_with_the_role_edit_may_write_objects_and_viewers_only_read(release: LocalCluster) -> None:
    """The built-in roles take the new kind in."""
    for name, role in (("eve", "edit"), ("vic", "view")):
        release.kubectl("create", "rolebinding", name, "-n", "team-b", f"--clusterrole={role}", f"--user={name}")

    def may(user: str, verb: str, resource: str) -> bool:
        kind, _, subresource = resource.partition("/")
        asked = ("auth", "can-i", verb, kind, f"--subresource={subresource}", "-n", "team-b", f"--as={user}")
        try:
            return release.kubectl(*asked).strip() == "yes"
        except CommandError:
            return False

    release.wait("the roles are aggregated", lambda: may("eve", "create", "deepseekdeployments"), 20)
    assert may("eve", "patch", "deepseekdeployments/scale")
    assert may("vic", "list", "deepseekdeployments")
    assert not may("vic", "create", "deepseekdeployments")
    assert not may("eve", "patch", "deepseekdeployments/status")


# --------------------------------------------------------------------------------------------------------------- network

OPERATOR = (
    NAMESPACE,
    {"app.kubernetes.io/name": "deepseek-operator", "app.kubernetes.io/instance": "ds", "app.kubernetes.io/component": "operator"},
)
FORECASTER = (NAMESPACE, {**OPERATOR[1], "app.kubernetes.io/component": "forecaster"})
HEAD = ("team-a", {"inference.deepseek.dev/deployment": "chat", "ray.io/node-type": "head"})
OTHER_SERVICE = ("team-a", {"inference.deepseek.dev/deployment": "code", "ray.io/node-type": "worker"})
OTHER_TEAM = ("team-b", {"inference.deepseek.dev/deployment": "chat", "ray.io/node-type": "worker"})
WORKER = ("team-a", {"inference.deepseek.dev/deployment": "chat", "ray.io/node-type": "worker"})
KUBERAY = ("kuberay", {"app.kubernetes.io/name": "kuberay-operator"})
PRETENDER = ("team-a", KUBERAY[1])
NEIGHBOUR = ("kuberay", {"app": "web"})
PROMETHEUS_POD = ("monitoring", {"app": "prometheus"})
GRAFANA = ("monitoring", {"app": "grafana"})
STRANGER = ("team-a", {"app": "web"})

FLOWS = {
    "operator asks the forecaster": (OPERATOR, FORECASTER, 8099, True),
    "operator asks a Ray dashboard": (OPERATOR, HEAD, 8265, True),
    "operator asks Prometheus": (OPERATOR, PROMETHEUS_POD, 9090, True),
    "operator reaches no Ray worker's other ports": (OPERATOR, WORKER, 10002, False),
    "forecaster asks Prometheus": (FORECASTER, PROMETHEUS_POD, 9090, True),
    "forecaster reaches no dashboard": (FORECASTER, HEAD, 8265, False),
    "forecaster does not call the operator": (FORECASTER, OPERATOR, 8080, False),
    "Prometheus scrapes the operator": (PROMETHEUS_POD, OPERATOR, 9090, True),
    "Prometheus scrapes a worker": (PROMETHEUS_POD, WORKER, 8080, True),
    "Prometheus does not reach the forecaster, whose port also gives forecasts": (PROMETHEUS_POD, FORECASTER, 8099, False),
    "a stranger does not ask the forecaster": (STRANGER, FORECASTER, 8099, False),
    "KubeRay asks a dashboard": (KUBERAY, HEAD, 8265, True),
    "KubeRay's label in another namespace opens no dashboard": (PRETENDER, HEAD, 8265, False),
    "another pod of KubeRay's namespace reaches no dashboard": (NEIGHBOUR, HEAD, 8265, False),
    "Ray pods of another service of the namespace reach the dashboard": (OTHER_SERVICE, HEAD, 8265, True),
    "Ray pods of another namespace reach no dashboard": (OTHER_TEAM, HEAD, 8265, False),
    "workers join their head": (WORKER, HEAD, 6379, True),
    "a stranger asks the model": (STRANGER, WORKER, 8000, True),
    "a stranger asks the model past the proxies (directPort 8100)": (STRANGER, WORKER, 8100, True),
    "a stranger reaches no dashboard": (STRANGER, HEAD, 8265, False),
    "a stranger reaches no Ray client port": (STRANGER, HEAD, 10001, False),
    "a stranger does not see the operator's health": (STRANGER, OPERATOR, 8080, False),
}
PORT_NAMES = {"metrics": 9090, "http": 8099, "direct": 8100}

Pod = tuple[str, dict[str, str]]


def _selected(selector: Body, labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "Exists"
        if expression["key"] not in labels:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _peer(peer: Body, pod: Pod, policy_namespace: str) -> bool:
    namespace, labels = pod
    inside = (
        _selected(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
        if "namespaceSelector" in peer
        else namespace == policy_namespace
    )
    return inside and _selected(peer.get("podSelector", {}), labels)


def _allowed(policies: list[Body], direction: str, of: Pod, other: Pod, port: int) -> bool:
    """What the NetworkPolicy API says: without a policy of that direction everything, with some what any of them allows."""
    mine = [
        each
        for each in policies
        if each["metadata"]["namespace"] == of[0] and _selected(each["spec"]["podSelector"], of[1]) and direction in each["spec"]["policyTypes"]
    ]
    rules = [(rule, each["metadata"]["namespace"]) for each in mine for rule in each["spec"].get(direction.lower()) or []]
    end = "from" if direction == "Ingress" else "to"
    return not mine or any(
        (not rule.get(end) or any(_peer(peer, other, namespace) for peer in rule[end]))
        and (not rule.get("ports") or any(PORT_NAMES.get(each["port"], each["port"]) == port for each in rule["ports"]))
        for rule, namespace in rules
    )


@pytest.mark.parametrize(("source", "target", "port", "allowed"), FLOWS.values(), ids=FLOWS.keys())
def test_the_network_policies_let_through_what_is_needed_and_nothing_else(source: Pod, target: Pod, port: int, allowed: bool) -> None:
    """The rendered policies, read as the API defines them; enforcing them is the cluster network's part."""
    policies = [each for each in _rendered(*IN_TEAM_A) if each["kind"] == "NetworkPolicy"]
    through = _allowed(policies, "Egress", source, target, port) and _allowed(policies, "Ingress", target, source, port)
    assert through is allowed


@pytest.mark.parametrize(
    ("source", "allowed"),
    [(PROMETHEUS_POD, True), (OPERATOR, True), (GRAFANA, False), (("team-a", PROMETHEUS_POD[1]), False), (STRANGER, False)],
    ids=["Prometheus", "the operator", "its neighbour Grafana", "its label in another namespace", "a stranger"],
)
def test_the_forecaster_answers_to_the_operator_and_to_whom_the_user_names(source: Pod, allowed: bool) -> None:
    """Named: the pods app=prometheus of the namespace monitoring, and no others."""
    named = [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": PROMETHEUS_POD[0]}},
            "podSelector": {"matchLabels": PROMETHEUS_POD[1]},
        }
    ]
    rendered = _rendered("--set-json", f"networkPolicy.forecasterFrom={json.dumps(named)}")
    policies = [each for each in rendered if each["kind"] == "NetworkPolicy"]
    assert _allowed(policies, "Ingress", FORECASTER, source, 8099) is allowed


def test_the_policies_select_the_pods_the_deployments_make() -> None:
    """The labels above are the rendered ones, port names included."""
    objects = _rendered()
    for name, (_, labels) in (("ds-deepseek-operator", OPERATOR), ("ds-deepseek-operator-forecaster", FORECASTER)):
        template = _one(objects, "Deployment", name)["spec"]["template"]
        assert labels.items() <= template["metadata"]["labels"].items()
        named = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert named.items() & PORT_NAMES.items()


# ------------------------------------------------------------------------------------------------------------ monitoring


def _metrics_there_are() -> set[str]:
    own = {sample.name for metric in Telemetry().registry.collect() for sample in metric.samples}
    own |= {metric.name + suffix for metric in Telemetry().registry.collect() for suffix in ("", "_total" if metric.type == "counter" else "")}
    forecaster = {"deepseek_forecaster_recent_wape", "deepseek_forecaster_naive_wape", "deepseek_forecaster_coverage90"}
    serving = {metric.exported + suffix for metric in metric_names.ALL for suffix in (("_bucket",) if metric.kind == "histogram" else ("",))}
    return own | forecaster | serving


def test_the_dashboard_and_the_rules_speak_of_metrics_that_exist() -> None:
    """Every metric named in a panel or an alert is written by the operator, the forecaster or the replicas."""
    objects = _rendered("--set", "monitoring.dashboard.enabled=true,monitoring.rules.enabled=true")
    dashboard = json.loads(_one(objects, "ConfigMap", "ds-deepseek-operator-dashboard")["data"]["deepseek-operator.json"])
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = _one(objects, "PrometheusRule", "ds-deepseek-operator")["spec"]["groups"]
    expressions += [rule["expr"] for group in groups for rule in group["rules"]]
    named = {name for expression in expressions for name in re.findall(r"\b(?:ray_)?deepseek_\w+", expression)}
    assert len(named) >= 15
    assert named <= _metrics_there_are()


def test_promtool_accepts_the_alerts(tmp_path: Path) -> None:
    """Syntax of the rules and of their expressions."""

    rules = _one(_rendered("--set", "monitoring.rules.enabled=true"), "PrometheusRule", "ds-deepseek-operator")["spec"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    answer = subprocess.run([str(ensure(["promtool"])["promtool"]), "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert f"{len(rules['groups'][0]['rules'])} rules found" in answer.stdout
