"""The fields of AsyncEngineArgs that deployments set; any other name is a TypeError, as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AsyncEngineArgs:
    """vllm.engine.arg_utils.AsyncEngineArgs"""

    model: str
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    enforce_eager: bool = False
    scheduling_policy: str = "fcfs"
    enable_log_requests: bool = False
    disable_log_stats: bool = False
    limit_mm_per_prompt: dict[str, int] = field(default_factory=dict)
    hf_overrides: dict[str, Any] = field(default_factory=dict)
