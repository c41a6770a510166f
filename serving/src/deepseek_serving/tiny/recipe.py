"""The recipe of the tiny model: sizes, steps and words, and a hash by which a trained folder knows whether it is still current."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from deepseek_serving import shapes

RECEIPT = "accuracy.json"
"""The file that training leaves beside the weights: accuracy, steps, seconds, recipe hash."""

# {bos}User: <image>question⏎⏎Assistant: answer{eos}: DeepSeek-VL's way of asking, without its system prompt.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Assistant: ' }}{% elif message['role'] == 'system' %}{% else %}{{ 'User: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image_placeholder>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """0.8 M parameters: a vision tower of 16 patches (48 × 48 pixels, 12 × 12 each) and a three-layer Llama decoder."""

    seed: int = 20_26
    side: int = shapes.SIDE
    patch: int = 12
    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    text_width: int = 128
    text_layers: int = 3
    text_heads: int = 4
    text_intermediate: int = 352
    context: int = 512
    vocabulary: int = 384
    init: float = 0.06
    learning_rate: float = 1.2e-3
    warmup_steps: int = 40
    steps: int = 800
    batch: int = 40
    hard_share: float = 0.6
    text_only_every: int = 12

    @property
    def image_tokens(self) -> int:
        """Tokens one picture takes in the prompt."""
        return (self.side // self.patch) ** 2

    def fingerprint(self) -> str:
        """Changes when anything changes that a trained folder depends on: sizes, words, or how the pictures are drawn."""
        parts = [json.dumps(asdict(self), sort_keys=True), CHAT_TEMPLATE, inspect.getsource(shapes)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def is_current(folder: Path, recipe: Recipe) -> bool:
    """Whether `folder` holds a model that this very recipe made."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(receipt.get("recipe") == recipe.fingerprint()) and (folder / "model.safetensors").is_file()
