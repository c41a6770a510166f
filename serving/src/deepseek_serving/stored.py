"""A model folder whose decoder is already quantized: written by `deepseek-serving quantize`, loaded without rounding anything again.

It holds the decoder's graph and codes, everything else in its own precision (embeddings, vision tower), and a receipt.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deepseek_serving.engine import LoadError
from deepseek_serving.loading import RECEIPT, Loaded
from deepseek_serving.settings import Quantization

GRAPH_FILE = "decoder.onnx"
WEIGHTS_FILE = "decoder.bin"

LEAST_ALIKE = 0.8
"""Share of the probe's likeliest tokens that must come out as they did when the folder was written; another processor may tip a close one."""


@dataclass(frozen=True)
class Dimensions:
    """Sizes that whoever runs a decoder's graph must know."""

    layers: int
    heads: int
    head_width: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Receipt:
    """What the folder holds: the precision, the graph's sizes, nats per token from the original, and the probe's likeliest tokens then."""

    quantization: Quantization
    dimensions: Dimensions
    divergence: float
    probe: tuple[int, ...]

    def write(self, folder: Path) -> None:
        """As `quantized.json`."""
        told = {**asdict(self), "quantization": self.quantization.value, "probe": list(self.probe)}
        (folder / RECEIPT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Receipt:
        """Raises LoadError when it is damaged."""
        try:
            told = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
            return Receipt(Quantization(told["quantization"]), Dimensions(**told["dimensions"]), told["divergence"], tuple(told["probe"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoadError(f"{folder / RECEIPT} is damaged ({error}); write the folder again with deepseek-serving quantize") from error

    def check_asked(self, kinds: tuple[Quantization, ...]) -> None:
        """Raise LoadError unless exactly what the folder holds is asked for."""
        if kinds != (self.quantization,):
            asked = " and ".join(kind.value for kind in kinds)
            raise LoadError(
                f"this folder holds the decoder in {self.quantization.value} only, asked for was {asked}; "
                f"set quantization to {self.quantization.value} and degrade.quantization to nothing, or serve the original"
            )

    def check_probe(self, logprobs: torch.Tensor) -> None:
        """Raise LoadError when the probe [tokens, vocabulary] says other things than when the folder was written."""
        now = logprobs.argmax(-1).tolist()
        alike = sum(one == other for one, other in zip(now, self.probe, strict=True)) / len(self.probe)
        if not alike >= LEAST_ALIKE:
            raise LoadError(
                f"the quantized decoder says what it said when it was written for {alike:.0%} of the probe's tokens, "
                f"at least {LEAST_ALIKE:.0%} are needed: its files are damaged; write the folder again with deepseek-serving quantize"
            )


def save_the_rest(loaded: Loaded, folder: Path) -> None:
    """Write all but the decoder's layers and the output layer: configuration, words, embeddings, eyes."""
    from safetensors.torch import save_file

    model: Any = loaded.model
    decoder = next(name for name, module in model.named_modules() if module is loaded.decoder)
    left_out = (f"{decoder}.layers.", f"{decoder}.norm.", "lm_head.")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not name.startswith(left_out)}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    (loaded.processor or loaded.tokenizer).save_pretrained(folder)
