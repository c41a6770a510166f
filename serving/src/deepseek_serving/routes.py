"""Which model classes run on which engine, and by which kernels their decoder's products are computed: declared here once.

Nothing heavy is imported: `check-compatibility` reads this before anything is installed or loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepseek_serving.settings import Engine, Quantization


@dataclass(frozen=True)
class ModelClass:
    """One model class: `model_type` of its config.json, whether it takes pictures, which engines run it, and what that rests on."""

    model_type: str
    name: str
    pictures: bool
    engines: tuple[Engine, ...]
    evidence: str


_T, _V = Engine.TRANSFORMERS, Engine.VLLM

_COMPARED = "tests compare a tiny random one with generate()"

CLASSES = (
    ModelClass("deepseek_vl", "DeepSeek-VL", True, (_T,), "tests train a tiny one and compare with generate()"),
    ModelClass("deepseek_vl_hybrid", "DeepSeek-VL (with the SAM tower, 7B)", True, (_T,), _COMPARED),
    ModelClass("janus", "Janus, Janus-Pro (reading pictures, not drawing them)", True, (_T,), _COMPARED),
    ModelClass("deepseek_v2", "DeepSeek-V2", False, (_T, _V), _COMPARED),
    ModelClass("deepseek_v3", "DeepSeek-V3, R1", False, (_T, _V), _COMPARED),
    ModelClass("llama", "Llama, DeepSeek-LLM, R1-Distill-Llama", False, (_T, _V), "the decoder inside DeepSeek-VL and Janus"),
    ModelClass("deepseek_vl_v2", "DeepSeek-VL2", True, (_V,), "not in transformers 5.23; vLLM's own class, not run here"),
)
"""Other causal language models of transformers run, too, if the check at load finds their batched steps right."""

Kernel = Literal["checkpoint", "bfloat16", "onnxruntime", "torch"]


@dataclass(frozen=True)
class Route:
    """How a decoder will be computed. `reason` says why not by the faster kernel, where there is one."""

    kernel: Kernel
    reason: str = ""


def class_of(model_type: str) -> ModelClass | None:
    """The table's row of that type."""
    return next((row for row in CLASSES if row.model_type == model_type), None)


def route(text_config: Mapping[str, Any], kind: Quantization, device: str = "cpu", *, float32: bool = False) -> Route:
    """How a decoder of this configuration (a config.json's text part) is computed at that precision on `cpu` or `cuda`.

    `float32`: that is what the checkpoint holds.
    """
    own: dict[Quantization, Kernel] = {Quantization.NONE: "checkpoint", Quantization.BF16: "bfloat16"}
    if not wants_graph(kind, float32=float32):
        return Route(own[kind])
    objection = why_no_graph(text_config, device)
    return Route(own.get(kind, "torch"), objection) if objection else Route("onnxruntime")


def wants_graph(kind: Quantization, *, float32: bool) -> bool:
    """Whether a decoder of that precision runs as a graph where one can be made: rounded ones, and one whose weights are in float32 anyway.

    The graph reckons in float32; it would double the weights of a bfloat16 checkpoint.
    """
    return kind in (Quantization.INT8, Quantization.INT4) or (kind is Quantization.NONE and float32)


def why_no_graph(text_config: Mapping[str, Any], device: str = "cpu") -> str | None:
    """Why a decoder cannot run as a graph in ONNX Runtime; None when it can."""
    if device != "cpu":
        return f"the model is on {device}"
    return missing_for_graphs() or why_not_llama(text_config)


def missing_for_graphs() -> str | None:
    """Which libraries of the extra cpu-fast are not there; None when all are."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (extra cpu-fast)" if missing else None


def why_not_llama(text_config: Mapping[str, Any]) -> str | None:
    """Why a decoder is not one that the graph's operators can compute; None when it is."""
    model_type = text_config.get("model_type", "llama")
    if model_type != "llama":
        return f"the decoder is of type {model_type}, not llama"
    if text_config.get("hidden_act", "silu") != "silu" or text_config.get("attention_bias") or text_config.get("mlp_bias"):
        return "the decoder has another activation than silu, or biases"
    positions = text_config.get("rope_parameters") or text_config.get("rope_scaling") or {}
    kind = positions.get("rope_type", positions.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        return f"its positions are of type {kind}"
    hidden, heads = int(text_config.get("hidden_size", 4096)), int(text_config.get("num_attention_heads", 32))
    head_width = int(text_config.get("head_dim") or hidden // heads)
    if head_width % 16:
        return f"its heads are {head_width} wide, not a multiple of 16"
    widths = (hidden, int(text_config.get("intermediate_size", 11008)), heads * head_width)
    if any(width % 32 for width in widths):
        return f"its layers are {', '.join(map(str, widths))} wide, not multiples of 32"
    return None
