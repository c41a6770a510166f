"""`DeepSeekDeployment` in `inference.deepseek.dev/v1alpha1`: the only place a field is declared.

`crd.py` turns these models into `crds/*.yaml`, the chart's copy and `docs/api.md`; `make verify` fails when they differ.

Conventions (those of the Kubernetes API): integers with their unit in the name, no floats (a rate is a quantity such as
`"12.5"`), no durations, no booleans where a third value could come one day. Every default stands here and nowhere else.
The keys that begin with `x-kubernetes-` in `json_schema_extra` go into the schema as they are.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

GROUP = "inference.deepseek.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DeepSeekDeployment"
PLURAL = "deepseekdeployments"
SINGULAR = "deepseekdeployment"
SHORT_NAMES = ("dsd",)

Mode = Literal["Predictive", "Reactive", "Shadow", "Manual"]
Quantization = Literal["none", "bf16", "int8", "int4"]
ModelMode = Literal["auto", "text-only"]
Engine = Literal["transformers", "vllm", "echo"]
Compile = Literal["auto", "always", "never"]
BetweenThresholds = Literal["Consolidate", "Hold"]
WhenSpent = Literal["Release", "Hold"]
ConditionType = Literal["Ready", "MetricsAvailable", "ForecastAvailable", "ScalingLimited", "Progressing", "Degraded"]
ConditionStatus = Literal["True", "False", "Unknown"]

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10) ** 3, "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9, "T": Decimal(10) ** 12, "P": Decimal(10) ** 15, "E": Decimal(10) ** 18, "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30, "Ti": Decimal(2) ** 40, "Pi": Decimal(2) ** 50, "Ei": Decimal(2) ** 60,
}  # fmt: skip

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)([numkMGTPE]|[KMGTPE]i)?", re.ASCII)


def quantity_value(text: str) -> float:
    """The number a Kubernetes quantity stands for: `"12.5"` is 12.5, `"1500m"` is 1.5.

    Raises `ValueError` naming what is allowed when the text is no quantity.
    """
    found = _QUANTITY.fullmatch(text)
    if not found or ("e" in found[1].lower() and found[2]):
        raise ValueError(f"{text!r} is not a quantity; write a number such as '12.5', '1500m' or '2k'")
    return float(Decimal(found[1]) * _SUFFIXES[found[2] or ""])


def quantity(value: float) -> str:
    """A number as a Kubernetes quantity with at most three decimals: 12.5 is `"12500m"` to the API server and `"12.5"` to a person."""
    return format(Decimal(f"{value:.3f}").normalize(), "f")


def _is_quantity(value: str | int) -> str | int:
    if quantity_value(str(value)) < 0:
        raise ValueError(f"must be at least 0, was {value!r}")
    return value


def _is_positive_quantity(text: str) -> str:
    if quantity_value(text) <= 0:
        raise ValueError(f"must be greater than 0, was {text!r}")
    return text


PositiveQuantity = Annotated[
    str,
    AfterValidator(_is_positive_quantity),
    Field(
        max_length=32,
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
                    "message": "must be a quantity greater than 0, such as '12.5', '1500m' or '2k'",
                }
            ]
        },
    ),
]


def _is_instant(text: str) -> str:
    try:
        known = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"must be an RFC 3339 time such as 2026-12-01T17:00:00Z, was {text!r}")
    return text


Instant = Annotated[str, AfterValidator(_is_instant), Field(max_length=64, json_schema_extra={"format": "date-time"})]


class Part(BaseModel):
    """A part of the object: camelCase in yaml, snake_case in Python, unknown fields ignored (an older CRD may have stored them)."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


def _schema(**extra: Any) -> dict[str, Any]:
    """Schema keywords with the dashes Kubernetes uses: `x_kubernetes_list_type` is `x-kubernetes-list-type`."""
    return {key.replace("_", "-") if key.startswith("x_") else key: value for key, value in extra.items()}


# ------------------------------------------------------------------------------------------------------------------- spec


_SOURCE_PATTERN = (
    "^(hf://[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(@[A-Za-z0-9_./-]+)?|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^ \\n]*)?|file:///[^ \\n]+)$"
)
_SOURCE_FORMS = "hf://ORGANISATION/NAME[@REVISION], pvc://CLAIM/PATH or file:///PATH"


def _is_source(text: str) -> str:
    if not re.fullmatch(_SOURCE_PATTERN[1:-1], text):
        raise ValueError(f"must be {_SOURCE_FORMS}, was {text!r}")
    return text


class ModelSpec(Part):
    """Which model is served, and in which form."""

    source: Annotated[str, AfterValidator(_is_source)] = Field(
        description="Where the weights are: hf://ORGANISATION/NAME[@REVISION], pvc://CLAIM/PATH (a volume claim in this namespace) or "
        "file:///PATH (a folder in the image).",
        max_length=512,
        json_schema_extra=_schema(
            x_kubernetes_validations=[{"rule": f"self.matches(r'{_SOURCE_PATTERN}')", "message": f"must be {_SOURCE_FORMS}"}]
        ),
    )
    quantization: Quantization = Field(
        default="none",
        description="Precision of the decoder's weights, applied and checked while loading: none keeps the checkpoint's own, bf16 takes half "
        "the memory of 32-bit floats, int8 about a quarter, int4 about a seventh. vllm offers all but int8.",
    )
    mode: ModelMode = Field(
        default="auto",
        description="auto serves text and images if the model can; text-only leaves the vision tower unloaded and refuses images.",
    )
    engine: Engine = Field(
        default="transformers",
        description="What runs the model: transformers (CPU, or a GPU where there is one), vllm (GPUs; the image must bring it) or echo, which "
        "repeats the prompt and needs no model: for trying out scaling.",
    )
    compile: Compile = Field(
        default="auto",
        description="Whether decoding steps are compiled (torch.compile) while loading: faster steps for half a minute and more of start, and "
        "a C++ compiler in the image (its build argument MORE_PACKAGES brings one). auto leaves it to the engine: vllm compiles, "
        "transformers does not. Decoders that are graphs already (DeepSeek-VL, Janus and Llama on CPU, unless in 16 bits) take no notice.",
    )


class SecretKeyRef(Part):
    """A key of a Secret in the object's namespace."""

    name: str = Field(description="Name of the Secret.", max_length=253)
    key: str = Field(description="Key in the Secret.", max_length=253)


class EnvVarSource(Part):
    """Where the value of an environment variable comes from."""

    secret_key_ref: SecretKeyRef = Field(description="A key of a Secret in the same namespace.")


class EnvVar(Part):
    """An environment variable of the Ray pods."""

    name: str = Field(description="Name of the variable.", max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    value: str | None = Field(default=None, description="Its value.", max_length=4096)
    value_from: EnvVarSource | None = Field(default=None, description="Where its value comes from, instead of `value`.")


class DegradeSpec(Part):
    """What a replica gives up while its queue is long. Nothing unless asked for; its answers say so in the header `x-degraded`."""

    at_queue_percent: int = Field(default=50, ge=1, le=100, description="Share of the queue's standing places in use at which it begins.")
    max_output_tokens: int | None = Field(default=None, ge=1, le=32_768, description="Most tokens of an answer that begins meanwhile.")
    quantization: Literal["int8", "int4"] | None = Field(
        default=None, description="Precision of the decoder meanwhile, held in memory beside model.quantization, which must be a finer one."
    )


PORTS_OF_RAY = (6379, 8000, 8080, 8265, 8404, 9000, 9101, 52365)
"""GCS, Serve, metrics, dashboard, HAProxy's statistics, Serve's gRPC, HAProxy's metrics, dashboard agent: taken in Ray pods, or may be."""

FIRST_OF_RAY, LAST_OF_RAY = 10001, 19999
"""Ray's client, and what `ray start` gives its workers."""

_TAKEN = f"one of Ray's ports ({', '.join(map(str, PORTS_OF_RAY))}, {FIRST_OF_RAY} to {LAST_OF_RAY})"


def _is_free_port(port: int) -> int:
    if port in PORTS_OF_RAY or FIRST_OF_RAY <= port <= LAST_OF_RAY:
        raise ValueError(f"must not be {_TAKEN}, was {port}")
    return port


OwnPort = Annotated[
    int,
    Field(
        ge=1024,
        le=65535,
        json_schema_extra=_schema(
            x_kubernetes_validations=[
                {
                    "rule": f"!(self in [{', '.join(map(str, PORTS_OF_RAY))}]) && (self < {FIRST_OF_RAY} || self > {LAST_OF_RAY})",
                    "message": f"must not be {_TAKEN}",
                }
            ]
        ),
    ),
    AfterValidator(_is_free_port),
]


class ServingSpec(Part):
    """How a replica answers requests."""

    image: str = Field(
        default="deepseek-serving:0.1.0",
        description="Container image of the Ray head and worker pods; it holds Ray and deepseek-serving.",
        max_length=512,
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(default="IfNotPresent", description="When the image is pulled.")
    ray_version: str = Field(
        default="2.60.0", description="Ray's version inside the image.", max_length=32, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+.*$"
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Answers that one replica's engine writes together, step by step; each takes room for its tokens. When absent 8, or 128 "
        "with the engine vllm.",
    )
    max_ongoing_requests: int | None = Field(
        default=None, ge=1, le=1024, description="Requests one replica works on at once. `slots`, and one in eight more, when absent."
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="Requests one replica lets wait; beyond them it answers 429 with Retry-After. When absent, as many as it works on at once, "
        "and for a moment, after the queue was empty, eight times as many.",
    )
    max_output_tokens: int = Field(default=512, ge=1, le=32_768, description="Most tokens a request may ask for.")
    max_tokens_per_second: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Pace of one replica: it gives out at most this many tokens per second over all its requests. Unlimited when absent. "
        "It makes the capacity of a node a known figure where replicas share hardware.",
    )
    request_timeout_seconds: int = Field(
        default=60, ge=1, le=3600, description="A request that still waits after this time is answered 429 and counted as late."
    )
    degrade: DegradeSpec = Field(default_factory=DegradeSpec, description="What a replica may give up under overload.")
    api_keys_secret: str | None = Field(
        default=None,
        max_length=253,
        description="Secret with the hashes of the API keys that are valid, one entry a client, each line `sha256:<hex>` "
        "(`deepseek-serving new-key` makes them). Changes take effect without a restart. Nobody needs a key when absent.",
    )
    direct_port: OwnPort | None = Field(
        default=None,
        description="Port of `<name>-serve-svc` on which replicas answer by themselves, past Ray Serve's proxies: several times as many "
        "requests per second, and less comfort (docs/serving.md). Ray Serve's port goes on as before. None when absent.",
    )
    remote_image_hosts: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default_factory=list,
        max_length=64,
        description='Hosts from which replicas fetch pictures that a request names by URL; "*" for every public one. None by default.',
        json_schema_extra=_schema(x_kubernetes_list_type="set"),
    )
    graceful_shutdown_seconds: int = Field(
        default=240,
        ge=1,
        le=3600,
        description="Time a replica or node that is to go has to finish its requests; set it to the longest request you serve.",
    )
    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=64,
        description="Further environment variables of the Ray pods.",
        json_schema_extra=_schema(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["name"]),
    )

    @model_validator(mode="after")
    def _hosts_differ(self) -> Self:
        hosts = self.remote_image_hosts
        if len(set(hosts)) != len(hosts):
            raise ValueError(f"serving.remoteImageHosts must name each host once, were {', '.join(hosts)}")
        return self


class Toleration(Part):
    """A taint the pods tolerate; as in a Pod."""

    key: str | None = Field(default=None, description="Key of the taint; absent with operator Exists means every taint.", max_length=317)
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How key and value are compared.")
    value: str | None = Field(default=None, description="Value of the taint, with operator Equal.", max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent means every effect."
    )
    toleration_seconds: int | None = Field(default=None, description="How long a NoExecute taint is tolerated.")


Quantities = Annotated[
    dict[str, Annotated[Annotated[str, Field(max_length=32)] | int, AfterValidator(_is_quantity)]],
    Field(
        max_length=16,
        json_schema_extra=_schema(
            additionalProperties={
                "x-kubernetes-int-or-string": True,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "maxLength": 32,
                "x-kubernetes-validations": [
                    {
                        "rule": "type(self) == int ? int(self) >= 0 : isQuantity(string(self)) && "
                        "!quantity(string(self)).isLessThan(quantity('0'))",
                        "message": "must be a quantity of at least 0, such as 1, '500m' or '32Gi'",
                    }
                ],
            }
        ),
    ),
]


class Resources(Part):
    """Compute resources of a pod; as in a container."""

    limits: Quantities = Field(default_factory=dict, description="Most the pod may use, such as `nvidia.com/gpu: 1`.")
    requests: Quantities = Field(default_factory=dict, description="What the scheduler sets aside; the limits when absent.")


class NodesSpec(Part):
    """The GPU nodes: how many there may be, and what each is. A node is one Ray worker pod; the cluster's own autoscaler brings the machine."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            x_kubernetes_validations=[
                {
                    "rule": "self.min <= self.max",
                    "messageExpression": "'nodes.min must be at most nodes.max (%d), was %d'.format([self.max, self.min])",
                    "message": "nodes.min must be at most nodes.max",
                },
                {
                    "rule": "!has(self.count) || (self.min <= self.count && self.count <= self.max)",
                    "messageExpression": "'nodes.count must be between nodes.min (%d) and nodes.max (%d), was %d'"
                    ".format([self.min, self.max, self.count])",
                    "message": "nodes.count must be between nodes.min and nodes.max",
                },
            ]
        )
    )

    min: int = Field(default=1, ge=1, le=1000, description="Fewest nodes, whatever the forecast says.")
    max: int = Field(default=10, ge=1, le=1000, description="Most nodes, whatever the forecast says.")
    count: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Nodes to run in mode Manual; `kubectl scale` writes it. The other modes ignore it.",
    )
    replicas_per_node: int = Field(default=1, ge=1, le=16, description="Model replicas on each node.")
    resources: Resources = Field(
        default_factory=lambda: Resources(limits={"nvidia.com/gpu": 1, "cpu": "4", "memory": "32Gi"}),
        description="Resources of a node; the replicas on it share them equally.",
    )
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=32, description="Labels of the machines that may carry a node.")
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints a node tolerates.",
        json_schema_extra=_schema(x_kubernetes_list_type="atomic"),
    )

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"nodes.min must be at most nodes.max ({self.max}), was {self.min}")
        if self.count is not None and not self.min <= self.count <= self.max:
            raise ValueError(f"nodes.count must be between nodes.min ({self.min}) and nodes.max ({self.max}), was {self.count}")
        return self


class HeadSpec(Part):
    """The Ray head pod: it steers and routes, and carries no replica."""

    resources: Resources = Field(
        default_factory=lambda: Resources(limits={"cpu": "2", "memory": "4Gi"}), description="Resources of the head pod."
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict, max_length=32, description="Labels of the machines that may carry the head pod."
    )
    tolerations: list[Toleration] = Field(
        default_factory=list,
        max_length=32,
        description="Taints the head pod tolerates.",
        json_schema_extra=_schema(x_kubernetes_list_type="atomic"),
    )


DEFAULT_PERCENTILE = 95
"""The percentile of the predicted load that nodes are provided for where neither a percentile nor costs are given: at scaleUpPercent 80 it had
fewer late requests at as many GPU-hours as a 80 % HPA on each of three traces (docs/decisions/0015)."""


class ForecastSpec(Part):
    """What is asked of the forecaster."""

    horizon_seconds: int = Field(
        default=600,
        ge=10,
        le=3600,
        description="How far ahead the forecast looks. The operator looks further by itself where the measured cold start is longer.",
    )
    percentile: int | None = Field(
        default=None,
        ge=50,
        le=99,
        description="Percentile of the predicted peak that nodes are provided for: 95 means that one peak in twenty may be higher. When absent "
        f"it follows from costOfLateRequest, and is {DEFAULT_PERCENTILE} where that is absent too.",
    )


class CapacitySpec(Part):
    """What one node can do."""

    requests_per_second_per_node: PositiveQuantity | None = Field(
        default=None, description="Requests per second one node answers within the objective. Learned from its saturation when absent."
    )


class DemandSpec(Part):
    """Where the demand is read."""

    query: str | None = Field(
        default=None,
        max_length=4096,
        description="PromQL that gives one series: offered load in requests per second, rejected requests included (a gateway's counter, for "
        "example). By default the serving metrics of this object. Prometheus answers it with the operator's rights; the operator may be set to "
        "forbid such queries, or to want each selector held to this namespace (--own-queries).",
    )


class ScheduledFloorSpec(Part):
    """A floor by the calendar: at least `minNodes` nodes, again and again (`cron` and `durationSeconds`) or once (`startsAt` and `endsAt`).

    Its nodes are asked for a cold start before it begins."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            x_kubernetes_validations=[
                {
                    "rule": "has(self.cron) ? has(self.durationSeconds) && !has(self.startsAt) && !has(self.endsAt) "
                    ": has(self.startsAt) && has(self.endsAt) && !has(self.durationSeconds)",
                    "message": "a floor must have either cron and durationSeconds, or startsAt and endsAt",
                },
                {
                    "rule": "!has(self.startsAt) || !has(self.endsAt) || self.startsAt < self.endsAt",
                    "message": "startsAt must be before endsAt",
                },
            ]
        )
    )

    name: str = Field(
        description="What the floor is called in reasons and messages.", min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    )
    min_nodes: int = Field(ge=1, le=1000, description="Fewest nodes while it holds; nodes.max limits it too.")
    cron: str | None = Field(
        default=None,
        max_length=256,
        pattern=r"^\S+( +\S+){4}$",
        description="When it begins, in the five fields of cron (minute, hour, day of month, month, day of week): '0 8 * * MON-FRI'.",
    )
    duration_seconds: int | None = Field(default=None, ge=60, le=2_678_400, description="How long it holds from each beginning by cron.")
    time_zone: str = Field(default="UTC", max_length=64, description="Time zone of cron, by its IANA name: Europe/Berlin.")
    starts_at: Instant | None = Field(default=None, description="When it begins, for a floor that holds once (RFC 3339).")
    ends_at: Instant | None = Field(default=None, description="When it ends, for a floor that holds once (RFC 3339).")

    @model_validator(mode="after")
    def _has_one_calendar(self) -> Self:
        once, repeated = (self.starts_at, self.ends_at), (self.cron, self.duration_seconds)
        if not (all(once) and not any(repeated)) and not (all(repeated) and not any(once)):
            raise ValueError(f"floor {self.name!r} must have either cron and durationSeconds, or startsAt and endsAt")
        if self.starts_at and self.ends_at and datetime.fromisoformat(self.starts_at) >= datetime.fromisoformat(self.ends_at):
            raise ValueError(f"floor {self.name!r}: startsAt must be before endsAt ({self.ends_at}), was {self.starts_at}")
        return self


class BudgetSpec(Part):
    """What the nodes of a day (UTC) may cost. The lower of the two counts.

    It pays for nodes beyond nodes.min, and only as many as it can pay for the next hour, so that it lasts."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            x_kubernetes_validations=[
                {
                    "rule": "has(self.nodeHoursPerDay) || has(self.costPerDay)",
                    "message": "a budget must have nodeHoursPerDay, costPerDay or both",
                }
            ]
        )
    )

    node_hours_per_day: PositiveQuantity | None = Field(default=None, description="Most node-hours a day.")
    cost_per_day: PositiveQuantity | None = Field(default=None, description="Most money a day, in the currency of scaling.costPerNodeHour.")
    when_spent: WhenSpent = Field(
        default="Release",
        description="What becomes of nodes that run when the budget does not pay for them any more: Release gives them back, to nodes.min; "
        "Hold keeps those that the present demand needs, and overdraws the budget by them.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.node_hours_per_day is None and self.cost_per_day is None:
            raise ValueError("a budget must have nodeHoursPerDay, costPerDay or both")
        return self


class ScalingSpec(Part):
    """When nodes are added and released."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            x_kubernetes_validations=[
                {
                    "rule": "self.scaleDownPercent < self.scaleUpPercent",
                    "messageExpression": "'scaling.scaleDownPercent must be below scaling.scaleUpPercent (%d), was %d'"
                    ".format([self.scaleUpPercent, self.scaleDownPercent])",
                    "message": "scaling.scaleDownPercent must be below scaling.scaleUpPercent",
                },
                {
                    "rule": "!has(self.costOfLateRequest) || !has(self.forecast) || !has(self.forecast.percentile)",
                    "message": "scaling must have forecast.percentile or costOfLateRequest (the percentile then follows from it), not both",
                },
                {
                    "rule": "!has(self.costOfLateRequest) || has(self.costPerNodeHour)",
                    "message": "scaling.costOfLateRequest needs scaling.costPerNodeHour beside it",
                },
                {
                    "rule": "!has(self.budget) || !has(self.budget.costPerDay) || has(self.costPerNodeHour)",
                    "message": "scaling.budget.costPerDay needs scaling.costPerNodeHour beside it",
                },
            ]
        )
    )

    mode: Mode = Field(
        default="Predictive",
        description="Predictive follows the forecast and never goes below what the present demand needs; Reactive follows the present demand "
        "only; Shadow acts as Reactive and records what Predictive would have done; Manual runs nodes.count.",
    )
    scale_up_percent: int = Field(
        default=80,
        ge=10,
        le=100,
        description="Nodes are added when predicted utilization passes this; without a forecast, and once requests wait, the present one; "
        "otherwise the present one may pass it by a tenth.",
    )
    scale_down_percent: int = Field(default=30, ge=1, le=99, description="Nodes are released when predicted utilization falls below this.")
    between_thresholds: BetweenThresholds = Field(
        default="Consolidate",
        description="Between the two percentages: Consolidate releases nodes that the predicted peak does not need to stay under "
        "scaleUpPercent; Hold keeps them until utilization falls below scaleDownPercent.",
    )
    scale_up_cooldown_seconds: int = Field(default=0, ge=0, le=3600, description="Time after adding nodes before more are added.")
    scale_down_cooldown_seconds: int = Field(
        default=60, ge=0, le=86_400, description="Time after any change of the node count before nodes are released."
    )
    scale_down_stabilization_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86_400,
        description="Nodes are released only down to the highest count recommended within this time. When absent: 300 while the present demand "
        "decides; 0 while a forecast does, which knows whether the load comes back.",
    )
    max_scale_up_nodes: int | None = Field(
        default=None, ge=1, le=1000, description="Most nodes added by one decision. Unlimited (up to nodes.max) when absent."
    )
    max_scale_down_nodes: int | None = Field(
        default=None, ge=1, le=1000, description="Most nodes released by one decision. Unlimited (down to nodes.min) when absent."
    )
    schedule: list[ScheduledFloorSpec] = Field(
        default_factory=list,
        max_length=32,
        description="Floors by the calendar: office hours, a launch. Mode Manual ignores them.",
        json_schema_extra=_schema(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["name"]),
    )
    cost_per_node_hour: PositiveQuantity | None = Field(
        default=None, description="Price of a node for an hour, in any currency; status.savings then counts money too."
    )
    cost_of_late_request: PositiveQuantity | None = Field(
        default=None,
        description="What a request costs that has to wait for a node, in the currency of costPerNodeHour. Given, the percentile of the "
        "forecast follows from it: 100 × (1 − costPerNodeHour ÷ (3600 × requests per second of a node × costOfLateRequest)), from 50 to 99.9.",
    )
    budget: BudgetSpec | None = Field(default=None, description="What the nodes of a day may cost. Mode Manual ignores it.")
    late_after_seconds: int = Field(
        default=10,
        ge=0,
        le=600,
        description="A request that waits longer is late. A load that is above what the nodes can do so shortly that nobody waits longer asks "
        "for no node.",
    )
    startup_budget_seconds: int = Field(
        default=900,
        ge=10,
        le=7200,
        description="A node that has not become ready after this time is reported (`Degraded`, NodesUnavailable).",
    )
    unknown_demand_grace_seconds: int = Field(
        default=600,
        ge=10,
        le=86_400,
        description="While the demand cannot be read the node count is held, or grows to what is still foreseen; after this time it grows to "
        "the highest count of the last hour.",
    )
    forecast: ForecastSpec = Field(default_factory=ForecastSpec, description="What is asked of the forecaster.")
    capacity: CapacitySpec = Field(default_factory=CapacitySpec, description="What one node can do.")
    demand: DemandSpec = Field(default_factory=DemandSpec, description="Where the demand is read.")

    @model_validator(mode="after")
    def _thresholds_are_apart(self) -> Self:
        if self.scale_down_percent >= self.scale_up_percent:
            raise ValueError(
                f"scaling.scaleDownPercent must be below scaling.scaleUpPercent ({self.scale_up_percent}), was {self.scale_down_percent}"
            )
        return self

    @model_validator(mode="after")
    def _costs_agree(self) -> Self:
        if self.cost_of_late_request is not None and self.forecast.percentile is not None:
            raise ValueError("scaling must have forecast.percentile or costOfLateRequest (the percentile then follows from it), not both")
        if self.cost_of_late_request is not None and self.cost_per_node_hour is None:
            raise ValueError("scaling.costOfLateRequest needs scaling.costPerNodeHour beside it")
        if self.budget is not None and self.budget.cost_per_day is not None and self.cost_per_node_hour is None:
            raise ValueError("scaling.budget.costPerDay needs scaling.costPerNodeHour beside it")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [floor.name for floor in self.schedule]
        if len(set(names)) != len(names):
            raise ValueError(f"the floors of scaling.schedule must have different names, were {', '.join(names)}")
        return self


class DeepSeekDeploymentSpec(Part):
    """What is wanted."""

    model: ModelSpec = Field(description="Which model is served, and in which form.")
    serving: ServingSpec = Field(default_factory=ServingSpec, description="How a replica answers requests.")
    nodes: NodesSpec = Field(default_factory=NodesSpec, description="The GPU nodes: how many there may be, and what each is.")
    head: HeadSpec = Field(default_factory=HeadSpec, description="The Ray head pod.")
    scaling: ScalingSpec = Field(default_factory=ScalingSpec, description="When nodes are added and released.")


# ----------------------------------------------------------------------------------------------------------------- status


class Condition(Part):
    """One aspect of the object's state; as in every Kubernetes API."""

    type: ConditionType = Field(description="Which aspect.")
    status: ConditionStatus = Field(description="Whether it holds.")
    reason: str = Field(description="Why, in one CamelCase word.", max_length=1024)
    message: str = Field(default="", description="Why, in words.", max_length=32_768)
    last_transition_time: str = Field(description="When the status last changed (RFC 3339).", json_schema_extra={"format": "date-time"})
    observed_generation: int | None = Field(default=None, description="The generation of the spec this speaks of.")


class NodesStatus(Part):
    """How many nodes there are."""

    desired: int = Field(default=0, description="Nodes asked for.")
    current: int = Field(default=0, description="Nodes that exist, starting ones included.")
    ready: int = Field(default=0, description="Nodes whose replicas all answer.")


class ReplicasStatus(Part):
    """How many model replicas there are."""

    desired: int = Field(default=0, description="Replicas asked for.")
    ready: int = Field(default=0, description="Replicas that answer.")


class DemandStatus(Part):
    """The offered load last read."""

    requests_per_second: str = Field(description="Requests per second, rejected ones and what waits included.")
    waiting: int | None = Field(default=None, description="Requests that wait in a queue.")
    observed_at: str = Field(description="When (RFC 3339).", json_schema_extra={"format": "date-time"})


class UtilizationStatus(Part):
    """Demand divided by the capacity of the nodes asked for."""

    current_percent: int | None = Field(default=None, description="With the demand read now.")
    predicted_percent: int | None = Field(default=None, description="With the predicted peak, rounded to 5.")


class ForecastStatus(Part):
    """The forecast the last decision stood on."""

    issued_at: str = Field(description="When it was made (RFC 3339).", json_schema_extra={"format": "date-time"})
    horizon_seconds: int = Field(description="How far it looks.")
    percentile: int = Field(description="Percentile of the peak below.")
    peak_requests_per_second: str = Field(description="The predicted peak at that percentile.")
    mean_requests_per_second: str = Field(description="The predicted mean.")
    models: dict[str, int] = Field(default_factory=dict, description="Weight of each model in percent.")
    on_probation: Literal["True", "False"] = Field(default="False", description="True when it lately did worse than the last value.")


class CapacityStatus(Part):
    """What one node can do, and how that is known."""

    requests_per_second_per_node: str = Field(description="Requests per second of one node.")
    source: Literal["Spec", "Learned"] = Field(description="Given in the spec, or learned from saturation.")
    saturated_readings: int | None = Field(
        default=None, description="Learned: readings taken at saturation. Below 3 the figure is provisional and likely too low."
    )


class ColdStartStatus(Part):
    """How long a node takes from being asked for to answering."""

    p90_seconds: int = Field(description="90th percentile of the starts seen.")
    samples: int = Field(description="Starts seen, of all objects in the same model, quantization and node pool.")
    scheduling_seconds: int | None = Field(default=None, description="Of the start at that percentile: until a machine was found.")
    starting_seconds: int | None = Field(default=None, description="Of the same start: from then until its container ran (image, volumes).")
    loading_seconds: int | None = Field(default=None, description="Of the same start: from then until its replicas answered (Ray, the model).")


class DecisionStatus(Part):
    """The last decision and its reason."""

    nodes: int = Field(description="Nodes decided on.")
    recommended: int | None = Field(default=None, description="Nodes the load calls for, before windows, limits, calendar, budget and bounds.")
    reason: str = Field(description="Why, in one CamelCase word.")
    message: str = Field(description="Why, in words.")
    at: str = Field(description="When it was first made (RFC 3339).", json_schema_extra={"format": "date-time"})
    shadow_nodes: int | None = Field(default=None, description="In mode Shadow: nodes that Predictive would have run.")


class LedgerStatus(Part):
    """Node-hours since the object was first scaled, beside what the alternatives would have taken on the same demand."""

    since: str = Field(description="When counting began (RFC 3339).", json_schema_extra={"format": "date-time"})
    node_hours: str = Field(description="Node-hours asked for.")
    at_maximum_node_hours: str = Field(description="Node-hours had nodes.max run throughout.")
    reactive_node_hours: str = Field(description="Node-hours mode Reactive would have asked for.")


class SavingsStatus(Part):
    """The books of one day: what ran, and what mode Reactive with the same percentages would have run on the same demand."""

    date: str = Field(description="The day (UTC), as 2026-11-22.")
    node_hours: str = Field(description="Node-hours asked for.")
    reactive_node_hours: str = Field(description="Node-hours mode Reactive would have asked for.")
    predictive_node_hours: str | None = Field(default=None, description="In mode Shadow: node-hours Predictive would have asked for.")
    saved_gpu_hours: str | None = Field(default=None, description="GPU-hours saved beside Reactive; negative where more were used.")
    saved_cost: str | None = Field(
        default=None, description="Money saved beside Reactive, where costPerNodeHour is given; negative where lost."
    )
    overloaded_seconds: int = Field(default=0, description="Seconds in which the demand was more than the nodes that answered can carry.")
    reactive_overloaded_seconds: int = Field(default=0, description="The same in mode Reactive, each node taking the measured cold start.")
    predictive_overloaded_seconds: int | None = Field(default=None, description="In mode Shadow: the same as Predictive.")


class DeepSeekDeploymentStatus(Part):
    """What the operator sees and decided."""

    observed_generation: int | None = Field(default=None, description="The generation of the spec this speaks of.")
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Ready, MetricsAvailable, ForecastAvailable, ScalingLimited, Progressing, Degraded.",
        json_schema_extra=_schema(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["type"]),
    )
    endpoint: str | None = Field(default=None, description="Address of the service inside the cluster.")
    selector: str | None = Field(default=None, description="Label selector of the node pods, for the scale subresource.")
    nodes: NodesStatus | None = Field(default=None, description="How many nodes there are.")
    replicas: ReplicasStatus | None = Field(default=None, description="How many model replicas there are.")
    demand: DemandStatus | None = Field(default=None, description="The offered load last read.")
    utilization: UtilizationStatus | None = Field(default=None, description="Demand divided by capacity.")
    forecast: ForecastStatus | None = Field(default=None, description="The forecast the last decision stood on.")
    capacity: CapacityStatus | None = Field(default=None, description="What one node can do.")
    cold_start: ColdStartStatus | None = Field(default=None, description="How long a node takes to start.")
    decision: DecisionStatus | None = Field(default=None, description="The last decision and its reason.")
    last_scale_at: str | None = Field(
        default=None, description="When the node count last changed (RFC 3339).", json_schema_extra={"format": "date-time"}
    )
    ledger: LedgerStatus | None = Field(default=None, description="Node-hours, beside what the alternatives would have taken.")
    savings: list[SavingsStatus] = Field(
        default_factory=list,
        description="The same by the day, for the last 14 days; `deepseek-operator report` prints it.",
        json_schema_extra=_schema(x_kubernetes_list_type="map", x_kubernetes_list_map_keys=["date"]),
    )


class DeepSeekDeployment(Part):
    """A quantized multimodal DeepSeek model, kept on as many GPU nodes as the next minutes of its traffic need."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            x_kubernetes_validations=[
                {
                    "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')",
                    "message": "metadata.name must be 1 to 40 lower-case letters, digits or '-', begin with a letter and end with a letter or "
                    "digit (Ray's names are made from it)",
                }
            ]
        )
    )

    spec: DeepSeekDeploymentSpec = Field(description="What is wanted.")
    status: DeepSeekDeploymentStatus | None = Field(default=None, description="What the operator sees and decided.")


# What `kubectl get dsd` shows: (name, type, JSONPath, description, priority). Priority 1 only with `-o wide`.
PRINTER_COLUMNS: tuple[tuple[str, str, str, str, int], ...] = (
    ("Ready", "integer", ".status.nodes.ready", "Nodes that answer", 0),
    ("Desired", "integer", ".status.nodes.desired", "Nodes asked for", 0),
    ("Predicted", "integer", ".status.utilization.predictedPercent", "Predicted utilization in percent", 0),
    ("Mode", "string", ".spec.scaling.mode", "How nodes are decided on", 0),
    ("Reason", "string", ".status.decision.reason", "Why it is that many", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation", 0),
    ("Min", "integer", ".spec.nodes.min", "Fewest nodes", 1),
    ("Max", "integer", ".spec.nodes.max", "Most nodes", 1),
    ("Demand", "string", ".status.demand.requestsPerSecond", "Requests per second offered", 1),
    ("Recommended", "integer", ".status.decision.recommended", "Nodes the load calls for, before limits", 1),
    ("Message", "string", ".status.decision.message", "Why, in words", 1),
)

# The scale subresource, used in mode Manual: where `kubectl scale` writes and reads.
SCALE_SPEC_PATH = ".spec.nodes.count"
SCALE_STATUS_PATH = ".status.nodes.current"
SCALE_SELECTOR_PATH = ".status.selector"
