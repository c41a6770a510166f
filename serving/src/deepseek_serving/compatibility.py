"""Says before anything is deployed what a model folder needs: which engine runs it, at which precision, in how much memory, on which nodes.

Reads `config.json` and the headers of the safetensors files (names, types, shapes; a few kilobytes); no weight is loaded, torch not needed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_serving.routes import ModelClass, class_of, route
from deepseek_serving.settings import Engine, Mode, Quantization

PROCESS_BYTES = 1_000_000_000
"""What a replica's process takes beside its weights (interpreter, torch, transformers, web server): 971 MB were measured in a Ray replica."""

RAY_BYTES = 1_000_000_000
"""What Ray itself takes on a node: raylet, agents, controller, proxy."""

POOLS = {
    "cpu 8 GB": (8e9, "cpu"), "cpu 16 GB": (16e9, "cpu"), "cpu 32 GB": (32e9, "cpu"), "cpu 64 GB": (64e9, "cpu"),
    "gpu 16 GB (T4)": (16e9, "cuda"), "gpu 24 GB (L4, A10)": (24e9, "cuda"), "gpu 40 GB (A100)": (40e9, "cuda"),
    "gpu 80 GB (A100, H100)": (80e9, "cuda"), "gpu 141 GB (H200)": (141e9, "cuda"),
}  # fmt: skip
"""Sizes of nodes that clouds sell: bytes, and where the weights lie."""

USABLE = 0.9
"""Share of a node's memory that a pod gets: kubelet and system keep the rest."""

_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}
_LARGEST_HEADER = 100_000_000

_SCALES_AND_ZEROS = {8: 5.0, 4: 4.5}
"""Bytes beside the codes of one group: a float32 scale, and a zero point of 8 or 4 bits."""


class UnreadableModelError(ValueError):
    """The folder is not a model that this can read; the words say what is missing."""


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters, and bytes as they are stored, of the parts that are held differently."""

    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Decoder layers' matrices: (outputs, inputs) by name."""
    parameters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("linears", "embeddings", "head", "eyes", "rest"), 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("linears", "embeddings", "head", "eyes", "rest"), 0))


@dataclass(frozen=True)
class Need:
    """Memory of one replica at one precision, bytes: `weights` and `cache` while serving, `loading` the peak while it starts."""

    kernel: str
    reason: str
    weights: int
    cache: int
    loading: int

    @property
    def serving(self) -> int:
        """All of it, the process included."""
        return self.weights + self.cache + PROCESS_BYTES

    @property
    def peak(self) -> int:
        """The most it takes at any time."""
        return max(self.serving, self.loading + PROCESS_BYTES)


@dataclass(frozen=True)
class Verdict:
    """The answer of `examine`."""

    model_type: str
    known: ModelClass | None
    context: int
    weights: Weights
    needs: dict[str, dict[str, Need]]
    """By device (cpu, cuda), then by quantization."""

    def engines(self) -> tuple[Engine, ...]:
        """Which engines run it. A class that is not in the table is tried by the transformers engine, which checks it at load."""
        return self.known.engines if self.known else (Engine.TRANSFORMERS,)

    def pools(self, kind: Quantization) -> dict[str, bool]:
        """Whether one replica at that precision fits a node of each kind."""
        fits = {}
        for name, (size, device) in POOLS.items():
            need = self.needs[device][kind.value]
            beside = RAY_BYTES if device == "cpu" else 0  # on a GPU node Ray lives in the host's memory
            fits[name] = need.peak + beside <= USABLE * size
        return fits

    def told(self) -> dict[str, Any]:
        """The same as JSON types; sizes in bytes."""
        return {
            "modelType": self.model_type,
            "class": self.known.name if self.known else None,
            "pictures": bool(self.weights.parameters["eyes"]),
            "engines": [engine.value for engine in self.engines()],
            "contextTokens": self.context,
            "parameters": {**self.weights.parameters, "total": sum(self.weights.parameters.values())},
            "checkpointBytes": sum(self.weights.bytes.values()),
            "replica": {
                device: {
                    kind: {
                        "kernel": need.kernel, "whyNotFaster": need.reason, "weightBytes": need.weights, "cacheBytes": need.cache,
                        "servingBytes": need.serving, "peakBytes": need.peak,
                    }
                    for kind, need in kinds.items()
                }
                for device, kinds in self.needs.items()
            },
            "pools": {kind.value: self.pools(kind) for kind in Quantization},
        }  # fmt: skip


def examine(folder: Path, *, slots: int = 8, tokens: int = 4096, mode: Mode = Mode.AUTO) -> Verdict:
    """What one replica of the model in `folder` needs with `slots` answers at once of `tokens` each, their prompts included.

    Raises UnreadableModelError.
    """
    if (folder / "quantized.json").is_file():
        raise UnreadableModelError(f"{folder} was written by deepseek-serving quantize; examine the folder that it was made from")
    config = _config(folder)
    model_type = str(config.get("model_type", ""))
    text = config.get("text_config") or config.get("language_config") or config
    weights = _weights(folder, sees="vision_config" in config, mode=mode)
    context = int(text.get("max_position_embeddings", 4096))
    needs = {
        device: {kind.value: _need(text, weights, kind, device, slots * min(tokens, context)) for kind in Quantization}
        for device in ("cpu", "cuda")
    }
    return Verdict(model_type, class_of(model_type), context, weights, needs)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableModelError(f"{folder} needs a config.json: {error.strerror}") from None
    except ValueError as error:
        raise UnreadableModelError(f"{folder / 'config.json'} is not JSON: {error}") from None
    if not isinstance(config, dict) or not config.get("model_type"):
        raise UnreadableModelError(f"{folder / 'config.json'} does not say a model_type")
    return config


def _weights(folder: Path, *, sees: bool, mode: Mode) -> Weights:
    weights = Weights()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UnreadableModelError(f"{folder} holds no .safetensors file; other formats are not loaded")
    for file in files:
        for name, dtype, shape in _header(file):
            part = _part(name, shape, sees=sees)
            if part == "eyes" and mode is Mode.TEXT_ONLY:
                continue
            size = 1
            for side in shape:
                size *= side
            weights.parameters[part] += size
            weights.bytes[part] += size * _BYTES.get(dtype, 4)
            if part == "linears":
                weights.linears[name] = (shape[0], shape[1])
    return weights


def _header(file: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of each tensor. Raises UnreadableModelError."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError(f"its header would have {length} bytes")
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, str(tensor["dtype"]), [int(side) for side in tensor["shape"]]
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise UnreadableModelError(f"{file} is not a safetensors file: {error}") from None


def _part(name: str, shape: list[int], *, sees: bool) -> str:
    if "embed_tokens" in name:
        return "embeddings"
    if "lm_head" in name:
        return "head"
    decodes = "language_model." in name or not sees
    if not decodes:
        return "eyes"
    return "linears" if ".layers." in name and len(shape) == 2 else "rest"


def _need(text: Mapping[str, Any], weights: Weights, kind: Quantization, device: str, tokens: int) -> Need:
    stored, sizes = weights.bytes, weights.parameters
    whole = sum(stored.values())
    own_width = max(1, stored["linears"] // max(1, sizes["linears"]))
    how = route(text, kind, device, float32=own_width == 4)
    width = 2 if kind is Quantization.BF16 else own_width
    bits = {Quantization.INT8: 8, Quantization.INT4: 4}.get(kind)
    if bits is None and how.kernel == "onnxruntime":
        # Its own copy of the layers and of the output layer, which may have been shared with the embeddings.
        decoder = stored["linears"] + 4 * int(text.get("vocab_size", 0)) * int(text.get("hidden_size", 0))
        held = decoder + stored["embeddings"] + stored["eyes"]
        return Need(how.kernel, how.reason, held, _cache(text, tokens, 4), whole + decoder)
    if bits is None:
        held = whole if kind is Quantization.NONE else 2 * sum(sizes.values())
        return Need(how.kernel, how.reason, held, _cache(text, tokens, width), held)
    rows, columns = int(text.get("vocab_size", 0)), int(text.get("hidden_size", 0))
    packed = _packed([*weights.linears.values(), (rows, columns)], bits)  # the output layer is packed, too, shared with the embeddings or not
    if how.kernel == "onnxruntime":
        embeddings = sizes["embeddings"] + 4 * rows  # 8 bits and a scale for each token
        return Need(how.kernel, how.reason, packed + embeddings + stored["eyes"], _cache(text, tokens, 4), whole + packed)
    held = packed + stored["embeddings"] + stored["eyes"] + stored["rest"]
    # torch computes int8 on CPUs from float32, int4 from bfloat16, and the weights are loaded as such.
    loaded = sum(sizes.values()) * (4 if kind is Quantization.INT8 and device == "cpu" else 2)
    return Need(how.kernel, how.reason, held, _cache(text, tokens, 4 if kind is Quantization.INT8 else 2), loaded + packed)


def _packed(matrices: list[tuple[int, int]], bits: int) -> int:
    """Bytes of the codes, scales and zero points. 1024 × 4096 in 4 bits = 2 MiB of codes + 1024 × 32 groups × 4.5 bytes."""
    total = 0.0
    for outputs, inputs in matrices:
        group = 128 if inputs >= 1024 and inputs % 128 == 0 else 32
        total += outputs * (inputs * bits / 8 + inputs / group * _SCALES_AND_ZEROS[bits])
    return int(total)


def _cache(text: Mapping[str, Any], tokens: int, width: int) -> int:
    """Keys and values of that many tokens. 24 layers × 16 heads × (64 + 64) × 4 bytes = 197 kB a token."""
    heads = int(text.get("num_attention_heads", 1))
    kept = int(text.get("num_key_value_heads") or heads)
    one = int(text.get("head_dim") or int(text.get("hidden_size", 0)) // heads)
    keys, values = one, one
    if text.get("kv_lora_rank"):  # DeepSeek-V2 and V3: Hugging Face's classes keep keys and values of every head
        keys = int(text.get("qk_nope_head_dim", 128)) + int(text.get("qk_rope_head_dim", 64))
        values, kept = int(text.get("v_head_dim", 128)), heads
    return tokens * int(text.get("num_hidden_layers", 0)) * kept * (keys + values) * width


def table(verdict: Verdict, kind: Quantization, slots: int, tokens: int) -> str:
    """For people. Sizes in GB (10^9 bytes)."""

    def gigabytes(size: float) -> str:
        return f"{size / 1e9:8.2f}"

    known = verdict.known.name if verdict.known else "not in the table: the transformers engine tries it and checks it at load"
    lines = [
        f"{verdict.model_type}: {known}",
        f"engines    {', '.join(engine.value for engine in verdict.engines())}",
        f"parameters {sum(verdict.weights.parameters.values()) / 1e6:,.1f} M, {verdict.weights.parameters['eyes'] / 1e6:,.1f} M of them to see",
        f"context    {verdict.context} tokens; reckoned with: {slots} answers at once, {min(tokens, verdict.context)} tokens each",
        "",
        "one replica, GB     weights    cache  serving     peak  computed by",
    ]
    for device, needs in verdict.needs.items():
        for name, need in needs.items():
            why = f" ({need.reason})" if need.reason and device == "cpu" else ""
            sizes = " ".join(gigabytes(size) for size in (need.weights, need.cache, need.serving, need.peak))
            lines.append(f"{device:>5} {name:<10} {sizes}  {need.kernel}{why}")
    fitting = [name for name, fits in verdict.pools(kind).items() if fits]
    lines += ["", f"nodes that hold one replica at {kind.value}: {', '.join(fitting) or 'none of those known here'}"]
    return "\n".join(lines)
