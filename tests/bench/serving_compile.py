"""One decoding step of a DeepSeek-V3 class decoder in torch, as it is and compiled, and how long compiling took.

The weights are random; the sizes are V3's in small, with 8 experts of which each token takes 2. Prompts are not compiled and not timed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving_decode import KNOWN, turns

SIZES = {
    "vocab_size": 16_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12,
    "num_key_value_heads": 12, "max_position_embeddings": 512, "kv_lora_rank": 128, "q_lora_rank": 256, "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64, "v_head_dim": 64, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
ROUNDS, STEPS = 7, 5


def measure(_root: Path) -> dict[str, Any]:
    """Compiled twice: what the first time left in torch's cache makes the second one shorter."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        figures = _measure()
        return {
            **figures,
            "again_seconds": float(subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True).stdout),
        }


def _measure() -> dict[str, Any]:
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    from deepseek_serving.engines.compiled import compile_decoders
    from deepseek_serving.engines.decoders import TorchDecoder
    from deepseek_serving.engines.store import SlotStore
    from deepseek_serving.loading import Loaded

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES)).eval().requires_grad_(False)
    loaded = Loaded(model, None, None, SIZES["max_position_embeddings"])
    whole = TorchDecoder(loaded.decoder, loaded.head, SlotStore(8, loaded.context))
    began = time.monotonic()
    compiled = compile_decoders(loaded, {"none": whole}, 8)["none"]
    compiling = time.monotonic() - began
    with torch.inference_mode():
        known = loaded.embed(torch.arange(8)[:, None])

    def step(decoder: Any, rows: int) -> Callable[[], None]:
        return lambda: decoder.run(0, known[:rows], [KNOWN] * rows, [1] * rows)

    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "layers": SIZES["num_hidden_layers"],
        "compile_seconds": compiling,
        **{name: turns({"torch": step(whole, rows), "compiled": step(compiled, rows)}, ROUNDS, STEPS) for name, rows in (("1", 1), ("8", 8))},
    }


if __name__ == "__main__":
    print(_measure()["compile_seconds"])
