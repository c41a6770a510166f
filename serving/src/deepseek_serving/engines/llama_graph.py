"""Writes a Llama-class text decoder as an ONNX graph with weights in float32, 8 or 4 bits, for ONNX Runtime's CPU kernels.

One graph reads and writes: embeddings in, logits after each row's last token out; keys and values stay in buffers of the caller's.
Operators: MatMul, or MatMulNBits (weights as codes, activations to 8 bits on the fly: accuracy level 4), GroupQueryAttention (with rotary
positions and in-place keys and values), SkipSimplifiedLayerNormalization: ONNX Runtime's own, documented in its ContribOperators.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import onnx
import torch
from onnx import TensorProto, helper

from deepseek_serving.rounding import Codes, round_weight
from deepseek_serving.stored import GRAPH_FILE, WEIGHTS_FILE, Dimensions

_CONTRIBUTED = "com.microsoft"
_PAGE = 4096
_IN_THE_GRAPH = 1024
"""Tensors of at most this many bytes stay in the graph's own file."""

_INT8_SUMS = 4
_OPSET, _IR = 21, 10


def write_graph(decoder: torch.nn.Module, head: torch.nn.Linear, *, bits: int | None, context: int, folder: Path) -> Dimensions:
    """Write `decoder.onnx` and `decoder.bin` of a LlamaModel and its output layer into `folder`; `bits` None: weights in float32.

    Only for decoders to which `routes.why_not_llama` has no objection.
    """
    with _Writer(folder, bits) as writer:
        return _write(writer, decoder, head, context)


class _Writer:
    """Collects nodes, and writes weights to the file as they come: no second copy of the model is ever in memory."""

    def __init__(self, folder: Path, bits: int | None) -> None:
        self._folder = folder
        self._bits = bits
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._tensors: list[TensorProto] = []

    def __enter__(self) -> _Writer:
        self._file = (self._folder / WEIGHTS_FILE).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tensor(self, name: str, array: numpy.ndarray[Any, Any]) -> str:
        """Store a constant; returns its name."""
        array = numpy.ascontiguousarray(array)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        if array.nbytes <= _IN_THE_GRAPH:
            tensor.raw_data = array.tobytes()
        else:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS_FILE), ("offset", self._file.tell()), ("length", array.nbytes)):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)
            self._file.write(array.tobytes())
            self._file.write(b"\0" * (-array.nbytes % _PAGE))  # mapped, not read: each tensor begins on a page
        self._tensors.append(tensor)
        return name

    def node(self, kind: str, inputs: list[str], outputs: list[str], domain: str = _CONTRIBUTED, **attributes: Any) -> None:
        """Add an operation."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def product(self, x: str, weights: list[torch.Tensor], name: str) -> str:
        """x @ [weights…].T, the weights stacked; returns the result's name."""
        stacked = torch.cat([weight.detach().float() for weight in weights])
        if self._bits is None:
            self.node("MatMul", [x, self.tensor(f"{name}.weights", stacked.T.numpy())], [name], domain="")
            return name
        codes: Codes = round_weight(stacked, self._bits)
        inputs = [
            x,
            self.tensor(f"{name}.codes", codes.packed().numpy().reshape(codes.outputs, codes.groups, -1)),
            self.tensor(f"{name}.scales", codes.scales.numpy().reshape(-1)),
            self.tensor(f"{name}.zeros", codes.packed_zeros().numpy()),
        ]
        self.node(
            "MatMulNBits", inputs, [name], K=codes.inputs, N=codes.outputs, bits=self._bits, block_size=codes.group, accuracy_level=_INT8_SUMS
        )
        return name

    def save(self) -> None:
        """Write the graph's file."""
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self._tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIBUTED, 1)]
        (self._folder / GRAPH_FILE).write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString())


def _write(to: _Writer, decoder: Any, head: torch.nn.Linear, context: int) -> Dimensions:
    config = decoder.config
    heads, kept = config.num_attention_heads, config.num_key_value_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    epsilon = float(config.rms_norm_eps)
    value = helper.make_tensor_value_info
    to.inputs += [
        value("embeddings", TensorProto.FLOAT, ["rows", "tokens", config.hidden_size]),
        value("last", TensorProto.INT64, ["rows", 1]),
        value("known", TensorProto.INT32, ["rows"]),  # tokens of each row after this pass, less one
        value("longest", TensorProto.INT32, []),
    ]
    # The decoder's own rotary tables, with whatever scaling its class applies; each angle stands there twice, the operator takes it once.
    cos, sin = decoder.rotary_emb(torch.zeros(1, 1, 1), torch.arange(context)[None])
    for name, table in (("cos", cos), ("sin", sin)):
        to.tensor(name, table[0, :, : head_width // 2].float().numpy())

    def norm(module: Any, name: str) -> str:
        return to.tensor(name, module.weight.detach().float().numpy())

    stream = "embeddings"
    first = norm(decoder.layers[0].input_layernorm, "norm")
    to.node("SimplifiedLayerNormalization", [stream, first], ["normed"], domain="", epsilon=epsilon, axis=-1)
    normed = "normed"
    for number, layer in enumerate(decoder.layers):
        own, attention, mlp = f"layer{number}.", layer.self_attn, layer.mlp
        for kind in ("keys", "values"):
            shape = ["rows", kept, "room", head_width]
            to.inputs.append(value(f"{kind}.{number}", TensorProto.FLOAT, shape))
            to.outputs.append(value(f"{kind}.{number}.after", TensorProto.FLOAT, shape))
        packed = to.product(normed, [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight], own + "qkv")
        to.node(
            "GroupQueryAttention",
            [packed, "", "", f"keys.{number}", f"values.{number}", "known", "longest", "cos", "sin"],
            [own + "attended", f"keys.{number}.after", f"values.{number}.after"],
            num_heads=heads,
            kv_num_heads=kept,
            do_rotary=1,
        )
        projected = to.product(own + "attended", [attention.o_proj.weight], own + "projected")
        to.node(
            "SkipSimplifiedLayerNormalization",
            [stream, projected, norm(layer.post_attention_layernorm, own + "norm2")],
            [own + "normed2", "", "", own + "stream2"],
            epsilon=epsilon,
        )
        both = to.product(own + "normed2", [mlp.gate_proj.weight, mlp.up_proj.weight], own + "gate_up")
        to.node("Split", [both], [own + "gate", own + "up"], domain="", axis=-1, num_outputs=2)
        to.node("QuickGelu", [own + "gate"], [own + "silu"], alpha=1.0)  # x · sigmoid(1.0 · x) is silu
        to.node("Mul", [own + "silu", own + "up"], [own + "gated"], domain="")
        down = to.product(own + "gated", [mlp.down_proj.weight], own + "down")
        following = decoder.layers[number + 1].input_layernorm if number + 1 < len(decoder.layers) else decoder.norm
        stream, normed, before = own + "stream", own + "normed", own + "stream2"
        outputs = [normed, "", "", stream]
        to.node("SkipSimplifiedLayerNormalization", [before, down, norm(following, own + "norm")], outputs, epsilon=epsilon)
    to.node("GatherND", [normed, "last"], ["last_normed"], domain="", batch_dims=1)
    to.product("last_normed", [head.weight], "logits")
    to.outputs.insert(0, value("logits", TensorProto.FLOAT, ["rows", head.out_features]))
    to.save()
    return Dimensions(len(decoder.layers), kept, head_width, config.hidden_size, head.out_features)
