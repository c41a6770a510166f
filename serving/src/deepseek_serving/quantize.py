"""Holds a decoder's weights in 8 or 4 bits with torch's own kernels: where no graph can be made of it (`precision.py` chooses).

int8: on CPU torch's dynamic quantization (weights per output channel, activations on the fly), on a GPU 8-bit weights widened when used.
int4: torch's packed int4 product in bfloat16 (groups of 32 or 128 inputs share a scale and a zero point), on CPU and CUDA (from 8.0).
All touch the linear layers of the decoder only; embeddings and the vision tower keep their precision.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from deepseek_serving.rounding import group_for, round_weight
from deepseek_serving.settings import Quantization

_INNER_TILES = 8
"""How the packed kernel lays out its tiles: the CUDA kernel wants 8, the CPU kernel ignores it."""

_CPU_OUTPUTS = 16
_CUDA_OUTPUTS, _CUDA_INPUTS = 8, 16 * _INNER_TILES


def quantize_linears(owner: nn.Module, kind: Quantization, names: set[str] | None = None) -> None:
    """Replace the linear layers of `owner` in place; `names` limits it to some. Layers the kernel cannot hold keep their precision."""
    for path, linear in [(path, module) for path, module in owner.named_modules() if type(module) is nn.Linear]:
        if names is not None and path not in names:
            continue
        if kind is Quantization.INT4 and Int4Linear.fits(linear):
            owner.set_submodule(path, Int4Linear(linear))
        elif kind is Quantization.INT8:
            owner.set_submodule(path, Int8Linear(linear) if linear.weight.is_cuda else _dynamic_int8(linear))


class Int4Linear(nn.Module):
    """A linear layer with 4-bit weights: `out = x @ W.T + bias`, x of any leading shape, in bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        rounded = round_weight(linear.weight.detach(), bits=4)
        self.group = rounded.group
        self._cuda = linear.weight.is_cuda
        # The kernels reckon from the middle code: w = (code − 8) × scale + offset, hence offset = (8 − zero) × scale.
        offsets = (8 - rounded.zeros.float()) * rounded.scales
        scales_and_offsets = torch.stack([rounded.scales, offsets], -1).transpose(0, 1).contiguous().to(torch.bfloat16)
        if self._cuda:
            pairs = (rounded.codes[:, ::2] << 4) | rounded.codes[:, 1::2]  # this kernel wants the first of two codes in the high half
            packed = torch.ops.aten._convert_weight_to_int4pack(pairs, _INNER_TILES)
        else:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(rounded.codes.to(torch.int32), _INNER_TILES)
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_offsets", scales_and_offsets)
        self.bias = linear.bias
        self.packed: torch.Tensor
        self.scales_and_offsets: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, in] → […, out], bfloat16."""
        rows = x.reshape(-1, self.in_features).to(torch.bfloat16).contiguous()  # the last tokens of several rows do not lie side by side
        product = torch.ops.aten._weight_int4pack_mm if self._cuda else torch.ops.aten._weight_int4pack_mm_for_cpu
        out: torch.Tensor = product(rows, self.packed, self.group, self.scales_and_offsets)
        out = out.reshape(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        """Whether the kernel can hold a layer of this shape."""
        if group_for(linear.in_features) is None:
            return False
        if linear.weight.is_cuda:
            return linear.out_features % _CUDA_OUTPUTS == 0 and linear.in_features % _CUDA_INPUTS == 0
        return linear.out_features % _CPU_OUTPUTS == 0


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, one scale for each output: `out = (x @ codes.T) × scales + bias`. Saves memory, not time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.float().abs().amax(1).clamp_min(1e-8) / 127
        self.register_buffer("codes", (weight.float() / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales.to(weight.dtype))
        self.bias = linear.bias
        self.codes: torch.Tensor
        self.scales: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…, in] → […, out], in x's own type."""
        out = nn.functional.linear(x, self.codes.to(x.dtype)) * self.scales.to(x.dtype)
        return out if self.bias is None else out + self.bias


class Int8Embedding(nn.Module):
    """A table of embeddings in 8 bits, one scale for each token: looking up widens only the rows that are used."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        weight = embedding.weight.detach()
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        codes, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight), 1)
        step = 4096
        for first in range(0, len(weight), step):
            part = weight[first : first + step].float()
            scales[first : first + step] = part.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
            codes[first : first + step] = (part / scales[first : first + step]).round().to(torch.int8)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.codes: torch.Tensor
        self.scales: torch.Tensor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of any shape → […, width], float32."""
        return self.codes[ids].float() * self.scales[ids]


def _dynamic_int8(linear: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        # torch announces a successor that has no fast CPU path yet.
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    layer: nn.Module = quantized[0]
    return layer
