"""What one served model is asked to do: the `args` of the Ray Serve application, as the operator writes them.

This file is light on purpose (pydantic only), because the operator imports it to write the very dictionary that the replicas read.
Field names are snake_case here and camelCase in the dictionary, the same words as in the custom resource.
Replica counts never belong in here: a change of `args` restarts every replica, a change of replicas must not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

IMPORT_PATH = "deepseek_serving.app:build"
"""The `import_path` of the Ray Serve application."""

DEPLOYMENT_NAME = "Engine"
"""The only Serve deployment in the application; one replica of it is one unit of capacity."""

SOURCE_FORMS = "hf://<owner>/<name>[@<revision>], file:///<absolute folder> or pvc://<claim>/<folder>"

PVC_MOUNT_ROOT = "/mnt/models"
"""Where a claim is mounted in the pods: `pvc://weights/deepseek` is the folder `/mnt/models/weights/deepseek`."""

PVC_MOUNT_ROOT_VARIABLE = "DEEPSEEK_PVC_MOUNT_ROOT"
"""The environment variable that moves it."""

_SOURCE = re.compile(r"^(hf://[\w.-]+/[\w.-]+(@[\w./-]+)?|file:///.*|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?)$")

_STARTING_SLACK = 16
"""How many requests beyond admission's own bounds Serve lets into a replica, so that the replica counts and refuses them itself."""


class Engine(StrEnum):
    """Which program answers."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    ECHO = "echo"


class Quantization(StrEnum):
    """How the decoder's weights are held."""

    NONE = "none"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


class Mode(StrEnum):
    """`text-only` leaves the vision tower unloaded and refuses pictures; `auto` loads what the checkpoint has."""

    AUTO = "auto"
    TEXT_ONLY = "text-only"


class Compile(StrEnum):
    """Whether decoding steps are compiled at load; `auto` leaves it to the engine: vllm does, transformers does not."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class _Section(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class ModelSettings(_Section):
    """Which model, at which precision, by which engine."""

    source: str = Field(default="", description=f"where the weights are: {SOURCE_FORMS}; empty only for the echo engine")
    quantization: Quantization = Quantization.NONE
    mode: Mode = Mode.AUTO
    engine: Engine = Engine.TRANSFORMERS
    compile: Compile = Compile.AUTO

    @field_validator("source")
    @classmethod
    def _source_has_a_known_form(cls, source: str) -> str:
        if source and not _SOURCE.match(source):
            raise ValueError(f"source must be {SOURCE_FORMS}, was {source!r}")
        if ".." in source.split("/"):
            raise ValueError(f"source must not contain '..', was {source!r}")
        return source

    @property
    def pvc_claim(self) -> str | None:
        """The claim of a pvc:// source, which the pods mount at `PVC_MOUNT_ROOT/<claim>`; None for other sources."""
        return self.source.removeprefix("pvc://").partition("/")[0] if self.source.startswith("pvc://") else None

    @model_validator(mode="after")
    def _an_engine_with_weights_has_a_source(self) -> Self:
        if not self.source and self.engine is not Engine.ECHO:
            raise ValueError(f"source must be {SOURCE_FORMS} for engine {self.engine.value}; only the echo engine needs none")
        return self


class LimitSettings(_Section):
    """How much one replica takes on. Counts are requests, rates are tokens per second, durations are seconds."""

    max_ongoing_requests: int | None = Field(
        default=None, ge=1, le=4096, description="requests answered at the same time by one replica; absent: `slots`, and one in eight more"
    )
    max_queued_requests: int | None = Field(
        default=None,
        ge=0,
        le=65536,
        description="requests waiting in one replica, beyond them 429; absent: as many as are answered, for a moment eight times as many",
    )
    max_output_tokens: int = Field(default=512, ge=1, le=131072, description="most tokens of one answer; also the default of max_tokens")
    max_tokens_per_second: int | None = Field(
        default=None, ge=1, le=1_000_000, description="pace of one replica, all its answers together; absent: unpaced"
    )
    request_timeout_seconds: int = Field(default=60, ge=1, le=3600, description="longest wait in the queue; beyond it: 429")
    batch_share_percent: int = Field(
        default=50, ge=1, le=100, description="most of the requests answered at once that may be batch work (a negative priority)"
    )
    slots: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="requests that the engine decodes together, in a batch step; absent: 8, with the engine vllm 128",
    )
    direct_port: int = Field(
        default=0, ge=0, le=65535, description="port of each replica's own HTTP server, which passes Ray Serve's proxies by; 0: none"
    )
    direct_linger_seconds: int = Field(
        default=15, ge=0, le=600, description="how long a replica that is to go still takes requests there, so that readiness probes see it"
    )
    direct_noticed_seconds: int = Field(
        default=0, ge=0, le=600, description="how long a replica that starts waits for a readiness probe to ask it there; 0: not at all"
    )
    max_body_mebibytes: int = Field(default=20, ge=1, le=256, description="largest request body, pictures included")
    max_image_megapixels: int = Field(default=16, ge=1, le=100, description="largest picture, by its header, before it is decoded")
    max_images_per_request: int = Field(default=8, ge=0, le=64)
    max_prompt_characters: int = Field(
        default=1_000_000, ge=1, le=100_000_000, description="most characters of a request's texts; more is refused before they are tokenized"
    )
    torch_threads: int = Field(default=1, ge=1, le=256, description="threads of one replica's arithmetic")

    @property
    def ongoing(self) -> int:
        """Requests answered at once. More than are decoded together, so that the next is prepared when a slot falls free."""
        return self.max_ongoing_requests or self.slots + max(1, self.slots // 8)

    @property
    def standing(self) -> int:
        """Places in a queue that does not empty. As many as are answered at once: a wait of about one answer's time."""
        return self.ongoing if self.max_queued_requests is None else self.max_queued_requests

    @property
    def queued(self) -> int:
        """Places in a queue that was empty a moment ago."""
        return 8 * self.ongoing if self.max_queued_requests is None else self.max_queued_requests


class DegradeSettings(_Section):
    """What a replica gives up while its queue is long. Nothing unless asked for; answers say so in the header `x-degraded`."""

    at_queue_percent: int = Field(default=50, ge=1, le=100, description="share of the standing places in use at which it begins")
    max_output_tokens: int | None = Field(default=None, ge=1, le=131072, description="most tokens of an answer that begins meanwhile")
    quantization: Quantization | None = Field(
        default=None, description="the decoder's precision meanwhile, held in memory beside the usual one; coarser than model.quantization"
    )


class AccessSettings(_Section):
    """Who may ask, and what is fetched for them."""

    keys_folder: str = Field(
        default="", max_length=4096, description="folder of the API keys' hashes, one file a client; empty: no keys asked for"
    )
    remote_image_hosts: tuple[str, ...] = Field(
        default=(), max_length=64, description='hosts from which pictures are fetched for clients, "*" for every public one; empty: none'
    )


VLLM_SLOTS = 128
"""As many as vLLM's own scheduler takes where nobody says otherwise (`SchedulerConfig.DEFAULT_MAX_NUM_SEQS`, vLLM 0.13)."""


def usual_slots(engine: Engine | None) -> int:
    """The slots of an engine where nobody says otherwise."""
    return VLLM_SLOTS if engine is Engine.VLLM else LimitSettings().slots


class ServingSettings(_Section):
    """Everything a replica is told.

    >>> ServingSettings.from_args({"model": {"engine": "echo"}, "modelName": "chat"}).serving.slots
    8
    """

    model: ModelSettings
    serving: LimitSettings = LimitSettings()
    degrade: DegradeSettings = DegradeSettings()
    access: AccessSettings = AccessSettings()
    model_name: str = Field(default="", max_length=253, description="the model's name in the API; default: the last part of its source")

    @model_validator(mode="after")
    def _slots_of_the_engine(self) -> Self:
        if "slots" not in self.serving.model_fields_set:
            object.__setattr__(self, "serving", self.serving.model_copy(update={"slots": usual_slots(self.model.engine)}))
        return self

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read the Serve application's `args`. Raises pydantic.ValidationError, whose words name the field and what is allowed."""
        return cls.model_validate(dict(args))

    def to_args(self) -> dict[str, Any]:
        """The `args` dictionary that `from_args` reads back: JSON types only, camelCase, every default written out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @property
    def served_name(self) -> str:
        """The name clients send as `model`."""
        return self.model_name or self.model.source.split("@")[0].rstrip("/").rpartition("/")[2] or self.model.engine.value

    def deployment_options(self) -> dict[str, Any]:
        """What the one Serve deployment needs, in the words of a Serve config, without replica counts.

        Serve lets a replica hold a few more requests than it will answer or queue: the surplus is refused by the replica's own admission,
        which counts it as offered load. Serve's proxies then queue as much again (while no replica is up, for example) before they refuse.
        """
        limits = self.serving
        return {
            "name": DEPLOYMENT_NAME,
            "max_ongoing_requests": limits.ongoing + limits.queued + _STARTING_SLACK,
            "max_queued_requests": max(limits.queued, _STARTING_SLACK),
        }
