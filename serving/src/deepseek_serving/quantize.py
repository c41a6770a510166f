"""Holds the decoder's weights in 8 or 4 bits, on CPU, at load; then checks that the model still says the same.

int8: torch's dynamic quantization (weights int8 per output channel, activations int8 on the fly).
int4: torch's packed int4 product in bfloat16 (groups of 32 or 128 inputs share a scale and a zero point).
Both only touch the linear layers of the decoder; embeddings and the vision tower keep their precision.
"""

from __future__ import annotations

import logging
import warnings

import torch
from torch import nn

from deepseek_serving.engine import LoadError
from deepseek_serving.settings import Quantization

log = logging.getLogger(__name__)

MOST_DIVERGENCE = 0.5
"""Largest mean Kullback-Leibler divergence (nats per token) from the unquantized model on the probe."""

_PROBE_TOKENS = 32
_INNER_TILES = 2
"""How the packed int4 kernel lays out its tiles; the CPU kernel ignores it but the operator's signature wants it."""


def quantize(model: nn.Module, decoder: nn.Module, kind: Quantization) -> float:
    """Quantize `decoder` and the output layer of `model` in place; return the divergence on the probe, in nats per token.

    Raises LoadError when the quantized model strays further than `MOST_DIVERGENCE`.
    """
    if kind is Quantization.NONE:
        return 0.0
    before = _probe(model)
    for owner in (decoder, model):
        # The output layer belongs to the model, everything else that counts to the decoder.
        names = None if owner is decoder else {"lm_head"}
        if kind is Quantization.INT8:
            _to_int8(owner, names)
        else:
            _to_int4(owner, names)
    after = _probe(model)
    divergence = (before.exp() * (before - after)).sum(-1).mean().item()
    if not divergence <= MOST_DIVERGENCE:  # NaN must fail, too
        raise LoadError(
            f"quantization {kind.value} changes this model too much: {divergence:.3f} nats per token on the probe, "
            f"at most {MOST_DIVERGENCE} are allowed; use int8 or none"
        )
    log.info("quantized to %s: %.4f nats per token from the unquantized model", kind.value, divergence)
    return divergence


class Int4Linear(nn.Module):
    """A linear layer with 4-bit weights: `out = x @ W.T + bias`, x of any leading shape, in bfloat16.

    `group` inputs share one scale and one zero point: w ≈ (q − 8) × scale + zero with q in 0..15.
    """

    def __init__(self, linear: nn.Linear, group: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group = linear.in_features, linear.out_features, group
        codes, scales_and_zeros = _round_to_4_bits(linear.weight.detach().float(), group)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, _INNER_TILES)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.bias = linear.bias
        self.packed: torch.Tensor
        self.scales_and_zeros: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, in] → […, out], bfloat16."""
        rows = x.reshape(-1, self.in_features).to(torch.bfloat16)
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, self.scales_and_zeros)
        out = out.reshape(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    @staticmethod
    def group_for(linear: nn.Linear) -> int | None:
        """Inputs per group: 128 for wide layers, 32 for narrow ones; None when the kernel cannot hold this shape."""
        if linear.out_features % 16:
            return None
        fitting = [group for group in ((128, 64, 32) if linear.in_features >= 1024 else (32,)) if linear.in_features % group == 0]
        return fitting[0] if fitting else None


def _round_to_4_bits(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [out, in] int32 in 0..15, and scale and zero [in ÷ group, out, 2] bfloat16."""
    out_features, in_features = weight.shape
    groups = weight.reshape(out_features, in_features // group, group)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp_min(1e-6).to(torch.bfloat16).float()
    # The kernel reckons from the middle code: w = (q − 8) × scale + zero, so the lowest weight, code 0, gives zero = low + 8 × scale.
    zero = (low + 8 * scale).to(torch.bfloat16).float()
    codes = ((groups - zero) / scale + 8).round().clamp(0, 15).to(torch.int32).reshape(out_features, in_features)
    return codes, torch.cat([scale, zero], -1).transpose(0, 1).contiguous().to(torch.bfloat16)


def _to_int4(owner: nn.Module, names: set[str] | None) -> None:
    for path, linear in _linears(owner, names):
        group = Int4Linear.group_for(linear)
        if group is not None:
            owner.set_submodule(path, Int4Linear(linear, group))


def _to_int8(owner: nn.Module, names: set[str] | None) -> None:
    with warnings.catch_warnings():
        # torch announces a successor that has no fast CPU path yet.
        warnings.simplefilter("ignore")
        for path, linear in _linears(owner, names):
            quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
            owner.set_submodule(path, quantized[0])


def _linears(owner: nn.Module, names: set[str] | None) -> list[tuple[str, nn.Linear]]:
    return [(path, module) for path, module in owner.named_modules() if type(module) is nn.Linear and (names is None or path in names)]


def _probe(model: nn.Module) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of the next token, over a fixed run of token ids."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]  # every transformers model has it
    ids = (torch.arange(_PROBE_TOKENS) * 7919 % vocabulary).unsqueeze(0)
    image_token = getattr(model.config, "image_token_id", None)
    if image_token is not None:
        ids[ids == image_token] = 0  # a picture's token without a picture is an error
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), -1)
