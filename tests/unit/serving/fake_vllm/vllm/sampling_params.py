"""The parameters of one request; any other name is a TypeError, as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class RequestOutputKind(Enum):
    """vllm.sampling_params.RequestOutputKind"""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class StructuredOutputsParams:
    """vllm.sampling_params.StructuredOutputsParams"""

    json: str | dict[str, Any] | None = None
    regex: str | None = None


@dataclass
class SamplingParams:
    """vllm.sampling_params.SamplingParams"""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    max_tokens: int | None = 16
    logprobs: int | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None
