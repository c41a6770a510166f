"""Weights in 8 and 4 bits: how far they may stray, and that every kernel computes with the same ones. Needs torch, hence marked e2e."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def matrix(outputs: int, inputs: int, seed: int, scale: float, shift: float) -> Any:
    import torch

    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * scale + shift


@settings(deadline=None, max_examples=60)
@given(
    outputs=st.integers(1, 20), groups=st.integers(1, 5), bits=st.sampled_from([4, 8]), seed=st.integers(0, 999),
    scale=st.sampled_from([1e-6, 0.02, 3.0, 1e4]), shift=st.sampled_from([0.0, 0.5, -7.0]),
)  # fmt: skip
def test_no_weight_strays_further_than_half_a_step(outputs: int, groups: int, bits: int, seed: int, scale: float, shift: float) -> None:
    """For every matrix: |restored − weight| ≤ scale ÷ 2 of its group, codes and zeros within their bits."""
    from deepseek_serving.rounding import round_weight

    weight = matrix(outputs, 32 * groups, seed, scale, shift)
    codes = round_weight(weight, bits)
    error = (codes.restored() - weight).abs().reshape(outputs, groups, 32)
    assert bool((error <= codes.scales[..., None] * 0.5001 + 1e-7).all())
    assert int(codes.codes.max()) < 2**bits
    assert int(codes.zeros.max()) < 2**bits


def test_a_weight_of_zero_stays_zero() -> None:
    """Masked and padded weights must not come alive: 0 among weights of 5 to 9 is 0 afterwards."""
    import torch

    from deepseek_serving.rounding import round_weight

    weight = torch.linspace(5, 9, 64).reshape(1, 64)
    weight[0, ::7] = 0
    for bits in (4, 8):
        assert bool((round_weight(weight, bits).restored()[0, ::7] == 0).all())


@pytest.mark.parametrize(("inputs", "group"), [(1024, 128), (2816, 128), (512, 32), (1056, 32), (352, 32), (100, None)])
def test_wide_layers_share_a_scale_among_128_inputs_narrow_ones_among_32(inputs: int, group: int | None) -> None:
    from deepseek_serving.rounding import group_for

    assert group_for(inputs) == group


def test_a_width_that_fits_no_group_is_told() -> None:
    from deepseek_serving.rounding import round_weight

    with pytest.raises(ValueError, match="multiple of 32, was 100"):
        round_weight(matrix(4, 100, 0, 1.0, 0.0), 4)


@pytest.mark.parametrize("inputs", [96, 352, 1024])
def test_torch_s_int4_product_computes_with_the_restored_weights(inputs: int) -> None:
    """64 outputs: torch's packed kernel and a plain product with the restored weights agree to bfloat16's three digits."""
    import torch

    from deepseek_serving.quantize import Int4Linear
    from deepseek_serving.rounding import round_weight

    linear = torch.nn.Linear(inputs, 64)
    x = torch.randn(5, inputs)
    wanted = x @ round_weight(linear.weight.detach(), 4).restored().T + linear.bias
    got = Int4Linear(linear)(x)
    assert torch.allclose(got.float(), wanted, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [96, 352, 1024])
def test_the_graph_s_product_computes_with_the_restored_weights(inputs: int, bits: int, tmp_path: Path) -> None:
    """One MatMulNBits node against the plain product: what is left is the rounding of x to 8 bits, below one in a hundred of the norm."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper

    from deepseek_serving.engines.llama_graph import _Writer
    from deepseek_serving.rounding import round_weight
    from deepseek_serving.stored import GRAPH_FILE

    weight = matrix(48, inputs, 3, 0.05, 0.01)
    with _Writer(tmp_path, bits) as writer:
        writer.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs]))
        writer.product("x", [weight[:16], weight[16:]], "y")
        writer.outputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 48]))
        writer.save()
    x = torch.randn(5, inputs)
    (got,) = onnxruntime.InferenceSession(str(tmp_path / GRAPH_FILE)).run(None, {"x": x.numpy()})
    wanted = x @ round_weight(weight, bits).restored().T
    assert float((torch.from_numpy(got) - wanted).norm() / wanted.norm()) < 0.01


def test_embeddings_in_8_bits_stray_by_less_than_half_a_percent() -> None:
    """Of each token's largest value: 127 steps to it, half a step at most."""
    import torch

    from deepseek_serving.quantize import Int8Embedding

    table = torch.nn.Embedding(5000, 32)
    ids = torch.tensor([[0, 4095, 4096], [4999, 1, 2]])
    exact = table(ids)
    error = (Int8Embedding(table)(ids) - exact).abs()
    assert bool((error <= exact.abs().amax(-1, keepdim=True) / 127 * 0.5001).all())
