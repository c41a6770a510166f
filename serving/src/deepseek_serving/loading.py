"""Loads a model with `from_pretrained`: the whole multimodal model, or its text decoder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from deepseek_serving.engine import LoadError
from deepseek_serving.routes import route
from deepseek_serving.settings import Mode, ModelSettings, Quantization
from deepseek_serving.sources import find

DECODER_ALONE = {r"^model\.language_model\.": "model.", r"^language_model\.model\.": "model.", r"^language_model\.lm_head\.": "lm_head."}
"""Where the text decoder sits in a multimodal checkpoint → where it sits in the decoder's own class."""


RECEIPT = "quantized.json"
"""The file that marks a folder whose decoder is already quantized."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, with its tokenizer, and its processor when it takes pictures."""

    model: PreTrainedModel
    tokenizer: Any
    processor: Any | None
    context: int
    quantized: Path | None = None
    """The folder with the decoder already quantized (`stored.py`); the model here has no decoder layers then."""

    @property
    def decoder(self) -> torch.nn.Module:
        """The text decoder, without its output layer."""
        decoder: torch.nn.Module = self.model.get_decoder()  # type: ignore[no-untyped-call]
        return decoder

    @property
    def head(self) -> torch.nn.Module:
        """The output layer."""
        head: torch.nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return head

    @property
    def text_config(self) -> dict[str, Any]:
        """The decoder's part of config.json."""
        config: dict[str, Any] = self.model.config.get_text_config().to_dict()
        return config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def image_token(self) -> int | None:
        """The token that stands for a piece of a picture; None for a text model."""
        token: int | None = getattr(self.model.config, "image_token_id", None)
        return token

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids of any shape → their embeddings […, width]."""
        embeddings: torch.Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def see(self, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Pixels [pictures, 3, height, width], by the names of the model's own arguments → features [pictures, tokens, width]."""
        weights = self.model.dtype
        inputs = {name: tensor.to(self.device, weights) for name, tensor in pixels.items()}
        # Every multimodal class has it; on some it sits one level down.
        owner: Any = self.model if hasattr(self.model, "get_image_features") else self.model.base_model
        features: torch.Tensor = owner.get_image_features(**inputs).pooler_output
        return features


def load(settings: ModelSettings) -> Loaded:
    """Load the model in the precision that its quantization starts from, not yet quantized, for answering only; on a GPU where there is one.

    `mode: text-only` loads the decoder alone: the vision tower's weights are never read. Raises LoadError.
    """
    origin = find(settings.source)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a log is no terminal
    options: dict[str, Any] = {"revision": origin.revision}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        config = AutoConfig.from_pretrained(origin.name, **options)
        sees = hasattr(config, "vision_config")
        dtype = _dtype(config.get_text_config(), settings.quantization, device)
        quantized = Path(origin.name) if (Path(origin.name) / RECEIPT).is_file() else None
        if quantized is not None:
            # No layers to load, and no output layer of its own: both are in the graph.
            config.get_text_config().num_hidden_layers = 0
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
        if sees and settings.mode is Mode.AUTO:
            model = AutoModelForImageTextToText.from_pretrained(origin.name, config=config, dtype=dtype, **options)
            processor = AutoProcessor.from_pretrained(origin.name, **options)  # type: ignore[no-untyped-call]
            tokenizer = processor.tokenizer
        else:
            own = {"config": config.text_config, "key_mapping": DECODER_ALONE} if sees else {"config": config}
            model = AutoModelForCausalLM.from_pretrained(origin.name, dtype=dtype, **own, **options)
            processor, tokenizer = None, AutoTokenizer.from_pretrained(origin.name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"{settings.source} cannot be loaded: {error}") from error
    text_config = config.get_text_config()
    model.eval().requires_grad_(False).to(device)  # type: ignore[no-untyped-call]
    return Loaded(model, tokenizer, processor, int(getattr(text_config, "max_position_embeddings", 4096)), quantized)


def _dtype(text_config: Any, kind: Quantization, device: str) -> torch.dtype | str:
    """What the weights are loaded as: the checkpoint's own type, unless a kernel of torch's wants another."""
    if kind is Quantization.BF16:
        return torch.bfloat16
    if route(text_config.to_dict(), kind, device).kernel != "torch" or device == "cuda":
        return "auto"
    # torch's int8 on CPUs is computed from float32; the fast path of its int4 takes bfloat16.
    return torch.float32 if kind is Quantization.INT8 else torch.bfloat16


def weight_bytes(*modules: torch.nn.Module) -> int:
    """Bytes of all weights, packed ones included, each shared weight once."""
    seen: dict[int, int] = {}
    for module in (inner for outer in modules for inner in outer.modules()):
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        packed = getattr(module, "_packed_params", None)
        if packed is not None and hasattr(packed, "_weight_bias"):
            tensors += [tensor for tensor in packed._weight_bias() if tensor is not None]
        for tensor in tensors:
            seen[id(tensor) if packed is not None else tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())
