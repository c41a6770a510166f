"""Finds a model's files and loads them with `from_pretrained`: the whole multimodal model, or its text decoder alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)

from deepseek_serving.engine import LoadError
from deepseek_serving.settings import PVC_MOUNT_ROOT, PVC_MOUNT_ROOT_VARIABLE, SOURCE_FORMS, Mode, ModelSettings, Quantization

_DECODER_ALONE = {r"^model\.language_model\.": "model.", r"^language_model\.model\.": "model.", r"^language_model\.lm_head\.": "lm_head."}
"""Where the text decoder sits in a multimodal checkpoint → where it sits in the decoder's own class."""


@dataclass(frozen=True)
class Origin:
    """What `from_pretrained` is given: a folder, or a repository and its revision."""

    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, with its tokenizer, and its processor when it takes pictures."""

    model: PreTrainedModel
    tokenizer: Any
    processor: Any | None
    context: int

    @property
    def decoder(self) -> torch.nn.Module:
        """The text decoder, without its output layer."""
        decoder: torch.nn.Module = self.model.get_decoder()  # type: ignore[no-untyped-call]
        return decoder


def find(source: str, environment: Mapping[str, str] = os.environ) -> Origin:
    """Where the files are. Raises LoadError when a folder is not there or the form is unknown."""
    parts = urlsplit(source)
    if parts.scheme == "hf":
        name, _, revision = source.removeprefix("hf://").partition("@")
        return Origin(name, revision or None)
    if parts.scheme == "file" and not parts.netloc:
        folder = Path(unquote(parts.path))
    elif parts.scheme == "pvc":
        folder = Path(environment.get(PVC_MOUNT_ROOT_VARIABLE, PVC_MOUNT_ROOT), parts.netloc, parts.path.lstrip("/"))
    else:
        raise LoadError(f"source must be {SOURCE_FORMS}, was {source!r}")
    if not (folder / "config.json").is_file():
        raise LoadError(f"source {source} needs a folder with a config.json at {folder} in the pod; there is none")
    return Origin(str(folder))


def load(settings: ModelSettings) -> Loaded:
    """Load the model in the precision that its quantization starts from, not yet quantized, for answering only.

    `mode: text-only` loads the decoder alone: the vision tower's weights are never read. Raises LoadError.
    """
    origin = find(settings.source)
    options: dict[str, Any] = {"revision": origin.revision}
    # int8 is computed from float32; int4's fast path takes bfloat16; `none` keeps the checkpoint's own precision.
    dtype = {Quantization.INT8: torch.float32, Quantization.INT4: torch.bfloat16}.get(settings.quantization, "auto")
    try:
        config = AutoConfig.from_pretrained(origin.name, **options)
        sees = hasattr(config, "vision_config")
        if sees and settings.mode is Mode.AUTO:
            model = AutoModelForImageTextToText.from_pretrained(origin.name, config=config, dtype=dtype, **options)
            processor = AutoProcessor.from_pretrained(origin.name, **options)  # type: ignore[no-untyped-call]
            tokenizer = processor.tokenizer
        else:
            own = {"config": config.text_config, "key_mapping": _DECODER_ALONE} if sees else {"config": config}
            model = AutoModelForCausalLM.from_pretrained(origin.name, dtype=dtype, **own, **options)
            processor, tokenizer = None, AutoTokenizer.from_pretrained(origin.name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"{settings.source} cannot be loaded: {error}") from error
    text_config = config.get_text_config()
    model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    return Loaded(model, tokenizer, processor, int(getattr(text_config, "max_position_embeddings", 4096)))


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights, packed ones included, each shared weight once."""
    seen: dict[int, int] = {}
    for module in model.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        packed = getattr(module, "_packed_params", None)
        if packed is not None and hasattr(packed, "_weight_bias"):
            tensors += [tensor for tensor in packed._weight_bias() if tensor is not None]
        for tensor in tensors:
            seen[id(tensor) if packed is not None else tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())
