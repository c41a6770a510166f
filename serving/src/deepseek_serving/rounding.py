"""Rounds a weight matrix to 4- or 8-bit codes, once for all kernels: groups of inputs share a scale and a whole-numbered zero point.

w ≈ (code − zero) × scale, code and zero in 0 … 2^bits − 1; 128 inputs to a group where the layer is wide (≥ 1024), 32 where it is narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_WIDE = 1024
_AT_ONCE = 4096
"""Output rows rounded at a time: the float32 scratch stays small."""


@dataclass(frozen=True)
class Codes:
    """A rounded [outputs, inputs] matrix. `codes` uint8 [outputs, inputs]; `scales` float32 and `zeros` uint8 [outputs, groups]."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    bits: int

    @property
    def outputs(self) -> int:
        """Rows."""
        return self.codes.shape[0]

    @property
    def inputs(self) -> int:
        """Columns."""
        return self.codes.shape[1]

    @property
    def groups(self) -> int:
        """Groups in a row."""
        return self.scales.shape[1]

    @property
    def group(self) -> int:
        """Inputs in a group."""
        return self.inputs // self.groups

    def packed(self) -> torch.Tensor:
        """uint8 [outputs, inputs × bits ÷ 8], of two 4-bit codes the first in the low half."""
        return _pack(self.codes) if self.bits == 4 else self.codes

    def packed_zeros(self) -> torch.Tensor:
        """uint8 [outputs, ⌈groups × bits ÷ 8⌉], packed the same way."""
        return _pack(self.zeros) if self.bits == 4 else self.zeros

    def restored(self) -> torch.Tensor:
        """float32 [outputs, inputs]: the weights that the codes stand for."""
        differences = self.codes.float().reshape(self.outputs, self.groups, self.group) - self.zeros.float()[..., None]
        return (differences * self.scales[..., None]).reshape(self.outputs, self.inputs)


def group_for(inputs: int) -> int | None:
    """Inputs that share a scale; None when the width is not a multiple of 32."""
    if inputs >= _WIDE and inputs % 128 == 0:
        return 128
    return 32 if inputs % 32 == 0 else None


def fits(inputs: int) -> bool:
    """Whether a layer of that width can be rounded in groups."""
    return group_for(inputs) is not None


def round_weight(weight: torch.Tensor, bits: int) -> Codes:
    """Round [outputs, inputs]; inputs must be a multiple of 32 (ValueError)."""
    group = group_for(weight.shape[1])
    if group is None:
        raise ValueError(f"the width must be a multiple of 32, was {weight.shape[1]}")
    parts = [_round(part, bits, group) for part in torch.split(weight, _AT_ONCE)]
    codes, scales, zeros = (torch.cat(which) for which in zip(*parts, strict=True))
    return Codes(codes, scales, zeros, bits)


def _round(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    top = 2**bits - 1
    groups = weight.float().reshape(weight.shape[0], -1, group)
    # 0 is always among the values: a weight of exactly 0 stays 0.
    low, high = groups.amin(-1, keepdim=True).clamp_max(0), groups.amax(-1, keepdim=True).clamp_min(0)
    scale = ((high - low) / top).clamp_min(1e-8)
    zero = (-low / scale).round().clamp(0, top)
    codes = (groups / scale + zero).round().clamp(0, top).to(torch.uint8)
    return codes.reshape(weight.shape), scale.squeeze(-1), zero.squeeze(-1).to(torch.uint8)


def _pack(codes: torch.Tensor) -> torch.Tensor:
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[:, 0::2] | (codes[:, 1::2] << 4)
