"""One decoding step, a prefill and the memory of a Llama-class decoder (DeepSeek-VL's and Janus' kind) of 374 M parameters, by precision.

The weights are random: time and memory do not depend on their values. The reference is Hugging Face's own class in float32 with its own cache.
"""

from __future__ import annotations

import copy
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "max_position_embeddings": 512,
}  # fmt: skip
KNOWN = 64
"""Tokens before the measured step."""

PROMPT = 128
"""Tokens of the prompt that is read."""

REFERENCE = "Hugging Face float32"

ROUNDS, STEPS = 7, 3


def measure(_root: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    model, variants = _variants()
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "step": turns({name: calls["step"] for name, calls in variants.items()}, ROUNDS, STEPS),
        "eight": turns({name: calls["eight"] for name, calls in variants.items() if "eight" in calls}, 3, 2),
    }


def measure_prefill(_root: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return {"rounds": turns({name: calls["prefill"] for name, calls in _variants()[1].items()}, 3, 1)}


def measure_memory(_root: Path) -> dict[str, Any]:
    memory = {}
    for kind in ("none", "bf16", "int8", "int4"):
        # A fresh process each: memory that one variant gave back is not another's.
        told = subprocess.run([sys.executable, __file__, kind], check=True, capture_output=True, text=True).stdout.split()
        memory[kind] = {"weights": int(told[-2]), "process": int(told[-1])}
    return memory


def measure_mode(_root: Path) -> dict[str, Any]:
    """A DeepSeek-VL with a third of its weights in its eyes, loaded whole and text-only."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        told = subprocess.run([sys.executable, __file__, "save", folder], check=True, capture_output=True, text=True).stdout.split()
        figures: dict[str, Any] = {"parameters": int(told[-2]), "decoder": int(told[-1])}
        for mode in ("auto", "text-only"):
            told = subprocess.run([sys.executable, __file__, "load", folder, mode], check=True, capture_output=True, text=True).stdout.split()
            figures[mode] = {"weights": int(told[-2]), "process": int(told[-1])}
    return figures


def _save(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration, PreTrainedTokenizerFast

    eyes = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
    }
    text = {**SIZES, "model_type": "llama", "num_hidden_layers": 6, "vocab_size": 8000}
    torch.set_default_dtype(torch.bfloat16)
    model = DeepseekVLForConditionalGeneration(DeepseekVLConfig(text_config=text, vision_config=eyes, image_token_id=3))
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(folder)
    decodes = sum(weight.numel() for weight in model.model.language_model.parameters())
    print(sum(weight.numel() for weight in model.parameters()), decodes)


def _load(folder: Path, mode: str) -> None:
    """Print the bytes of the weights in int4 and the growth of this process' memory, whole or text-only."""
    import ctypes

    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from deepseek_serving.engines.store import SlotStore
    from deepseek_serving.loading import Loaded
    from deepseek_serving.precision import bytes_held, make_decoders
    from deepseek_serving.settings import Quantization

    torch.set_num_threads(1)
    before = _resident_bytes("RssAnon", "RssFile")
    if mode == "auto":
        model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    else:
        from deepseek_serving.loading import DECODER_ALONE

        model = AutoModelForCausalLM.from_pretrained(folder, config=AutoConfig.from_pretrained(folder).text_config, key_mapping=DECODER_ALONE)
    loaded = Loaded(model.eval().requires_grad_(False), None, None, SIZES["max_position_embeddings"])
    decoder = make_decoders(loaded, (Quantization.INT4,), SlotStore(1, loaded.context))["int4"]
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    for weights in loaded.model.parameters():  # mapped from their file, they take memory from the first picture on
        weights.float().sum()
    print(bytes_held(loaded, [decoder]), _resident_bytes("RssAnon", "RssFile") - before)


def _model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval().requires_grad_(False)


def _decoders(model: Any, kind: str, *, graph: bool = True, slots: int = 8) -> tuple[Any, Any, Any]:
    """What the engine itself would make: the model as loaded, the decoder, its store."""
    import torch

    from deepseek_serving import precision, routes
    from deepseek_serving.engines.store import SlotStore
    from deepseek_serving.loading import Loaded
    from deepseek_serving.settings import Quantization

    chosen = Quantization(kind)
    if chosen is Quantization.BF16 or not graph:
        model = model.to(torch.bfloat16)
    loaded = Loaded(model, None, None, SIZES["max_position_embeddings"])
    store = SlotStore(slots, loaded.context)
    real = precision.why_no_graph
    precision.why_no_graph = (lambda *_: "asked for torch") if not graph else routes.why_no_graph
    try:
        decoders = precision.make_decoders(loaded, (chosen,), store)
    finally:
        precision.why_no_graph = real
    return loaded, decoders[kind], store


def _variants() -> tuple[Any, dict[str, dict[str, Callable[[], None]]]]:
    """What is timed, by variant: a step of one row, of eight rows, and reading a prompt."""
    import torch
    from transformers import DynamicCache

    model = _model()
    ids = torch.randint(0, SIZES["vocab_size"], (8, PROMPT))
    cache = DynamicCache()
    with torch.inference_mode():
        model(ids[:1, :KNOWN], past_key_values=cache, use_cache=True)

    def reference_step() -> None:
        model(ids[:1, KNOWN : KNOWN + 1], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    def reference_prefill() -> None:
        model(ids[:1], use_cache=True, logits_to_keep=1)

    timed: dict[str, dict[str, Callable[[], None]]] = {REFERENCE: {"step": reference_step, "prefill": reference_prefill}}
    variants = {
        "none (float32)": ("none", True), "bf16": ("bf16", True), "int8": ("int8", True), "int4": ("int4", True),
        "int4 without cpu-fast": ("int4", False),
    }  # fmt: skip
    for name, (kind, graph) in variants.items():
        loaded, decoder, _ = _decoders(copy.deepcopy(model), kind, graph=graph)  # it takes the layers away that the reference needs
        with torch.inference_mode():
            embedded = loaded.embed(ids)
        timed[name] = _calls(decoder, embedded)
        gc.collect()
    return model, timed


def _calls(decoder: Any, embedded: Any) -> dict[str, Callable[[], None]]:
    known = embedded[:, KNOWN : KNOWN + 1]
    return {
        "step": lambda: decoder.run(0, known[:1], [KNOWN], [1]),
        "prefill": lambda: decoder.run(0, embedded[:1], [0], [PROMPT]),
        "eight": lambda: decoder.run(0, known, [KNOWN] * 8, [1] * 8),
    }


def turns(variants: dict[str, Callable[[], None]], rounds: int, repeats: int) -> list[dict[str, float]]:
    """Seconds of each variant in each round: the median of its repeats. The first round warms up and is not counted."""
    import torch

    measured = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            one = {}
            for name, call in variants.items():
                took = []
                for _ in range(repeats):
                    began = time.perf_counter()
                    call()
                    took.append(time.perf_counter() - began)
                one[name] = statistics.median(took)
            measured.append(one)
    return measured[1:]


def _resident_bytes(*kinds: str) -> int:
    """This process' resident bytes of these kinds; without one, its own alone."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return sum(int(fields[kind].split()[0]) for kind in kinds or ("RssAnon",)) * 1024


def _memory(kind: str) -> None:
    """Print the bytes of the weights, and by how much this process's own memory grew until it could answer."""
    import ctypes

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from deepseek_serving.precision import bytes_held

    torch.set_num_threads(1)
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_hidden_layers": 1, "vocab_size": 64}))  # imports and first-time work
    if kind != "bf16":
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    before = _resident_bytes()
    loaded, decoder, _ = _decoders(_model(), kind, slots=1)
    with torch.inference_mode():
        decoder.run(0, loaded.embed(torch.zeros(1, 1, dtype=torch.long)), [KNOWN], [1])
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    print(bytes_held(loaded, [decoder]), _resident_bytes() - before)


if __name__ == "__main__":
    if sys.argv[1] == "save":
        _save(Path(sys.argv[2]))
    elif sys.argv[1] == "load":
        _load(Path(sys.argv[2]), sys.argv[3])
    else:
        _memory(sys.argv[1])
