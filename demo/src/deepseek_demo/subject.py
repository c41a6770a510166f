"""The DeepSeekDeployment that is applied: one to four nodes, each paced so that its capacity is a known figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deepseek_demo.letters import Letter
from deepseek_demo.stage import Pacing
from deepseek_operator.api import v1alpha1 as api

NAMESPACE, NAME = "default", "chat"
APPLICATION = f"{NAMESPACE}.{NAME}"
SERVICE_URL = f"http://{NAME}-serve-svc.{NAMESPACE}.svc.cluster.local:8000/v1/chat/completions"
STATUS_PATH = f"/apis/{api.API_VERSION}/namespaces/{NAMESPACE}/{api.PLURAL}/{NAME}"


@dataclass(frozen=True)
class Subject:
    """What of the object differs between runs. `model_directory` None: the echo engine."""

    model_directory: Path | None
    pacing: Pacing
    tokens_per_second: int
    horizon_seconds: int
    mode: api.Mode = "Predictive"
    max_ongoing_requests: int = 8

    def manifest(self, running: int | None = None) -> dict[str, Any]:
        """The object as it is applied; with `running` in mode Manual with that many nodes, as it was before the play."""
        spec = self.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if running is not None:
            spec["nodes"]["count"] = running
            spec["scaling"]["mode"] = "Manual"
        return {
            "apiVersion": api.API_VERSION,
            "kind": api.KIND,
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": spec,
        }

    @property
    def spec(self) -> api.DeepSeekDeploymentSpec:
        """What is wanted, in the operator's own model of it."""
        model = {"source": "file:///none", "engine": "echo"}
        if self.model_directory:
            model = {"source": f"file://{self.model_directory}", "engine": "transformers"}
        spec = {
            "model": model,
            "serving": {
                "maxOngoingRequests": self.max_ongoing_requests,
                "maxQueuedRequests": 256,
                "maxOutputTokens": 64,
                "maxTokensPerSecond": self.tokens_per_second,
                "requestTimeoutSeconds": 50,
                "gracefulShutdownSeconds": 20,
                # Several replicas share this machine's cores, and a Ray Serve proxy drains for at least this long.
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S", "value": "5"}],
            },
            "nodes": {"min": 1, "max": self.pacing.nodes, "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": "1", "memory": "1Gi"}}},
            "head": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
            "scaling": {
                "mode": self.mode,
                "scaleUpPercent": self.pacing.scale_up_percent,
                "scaleDownPercent": 30,
                "scaleDownCooldownSeconds": 5,
                "scaleDownStabilizationSeconds": 20,
                "startupBudgetSeconds": 120,
                "unknownDemandGraceSeconds": 120,
                "forecast": {"horizonSeconds": self.horizon_seconds},
                "capacity": {"requestsPerSecondPerNode": api.quantity(self.pacing.requests_per_second_per_node)},
            },
        }
        return api.DeepSeekDeploymentSpec.model_validate(spec)


def tokens_per_second(model_directory: Path | None, letters: Sequence[Letter], requests_per_second: float) -> int:
    """The pace at which one replica answers `requests_per_second` of these letters.

    24 letters with 11.5 tokens per answer on average, at 2 requests per second: 2 × 11.5 = 23 tokens per second.
    """
    if model_directory is None:
        return math.ceil(requests_per_second * sum(len(letter.answer.split()) for letter in letters) / len(letters))
    tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
    # The token that ends an answer is paced like every other.
    tokens = sum(len(tokenizer.encode(" " + letter.answer, add_special_tokens=False).ids) + 1 for letter in letters)
    return math.ceil(requests_per_second * tokens / len(letters))
