"""What quantization costs in captions and in nats: the tiny model as trained, and one whose training was broken off early."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from serving_batch import tiny_model

PICTURES, BATCH = 500, 25
SHORT_STEPS = 330
"""Steps after which the short training ends: it sees colours and places by then, and takes one shape for another."""

KINDS = ("none", "bf16", "int8", "int4")


def measure(root: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return {"trained": _compare(tiny_model(root)), "short": _compare(_short(root))}


def _short(root: Path) -> Path:
    from dataclasses import replace

    from deepseek_serving.tiny.recipe import Recipe, is_current
    from deepseek_serving.tiny.train import train

    recipe = replace(Recipe(), steps=SHORT_STEPS)
    folder = root / "build" / "tiny-model-short"
    if not is_current(folder, recipe):
        train(folder, seconds=150, recipe=recipe, report=lambda line: print(line, flush=True), pictures_checked=50)
    return folder


def _compare(folder: Path) -> dict[str, Any]:
    """For each precision: exact captions of 500 fresh pictures, the right caption's mean log-probability per token, divergence from float32."""
    import torch

    from deepseek_serving.shapes import draw

    rng = random.Random(77)
    drawn = [draw(rng) for _ in range(PICTURES)]
    said = {kind: _say(folder, kind, drawn) for kind in KINDS}
    exact = said["none"]["logprobs"]
    figures = {}
    for kind, own in said.items():
        each = [(true.exp() * (true - ours)).sum(-1).mean() for true, ours in zip(exact, own["logprobs"], strict=True)]
        figures[kind] = {
            "right": own["right"] / PICTURES,
            "logprob": sum(own["caption_logprobs"]) / PICTURES,
            "divergence": float(torch.stack(each).mean()),
            "worst": float(torch.stack(each).max()),
        }
    return {"pictures": PICTURES, "precisions": figures}


def _say(folder: Path, kind: str, drawn: list[Any]) -> dict[str, Any]:
    """Feed the right captions token by token through the engine's own decoder; a caption counts as right when each token was the likeliest."""
    import torch

    from deepseek_serving.engine import Generation, Message, Picture
    from deepseek_serving.engines.prompts import PromptReader
    from deepseek_serving.engines.store import SlotStore
    from deepseek_serving.loading import load
    from deepseek_serving.precision import make_decoders
    from deepseek_serving.settings import ModelSettings, Quantization
    from deepseek_serving.shapes import QUESTION, SIDE

    loaded = load(ModelSettings(source=folder.as_uri(), quantization=Quantization(kind)))
    decoder = make_decoders(loaded, (Quantization(kind),), SlotStore(BATCH, loaded.context))[kind]
    reader = PromptReader(loaded)
    right, logprobs, of_captions = 0, [], []
    for first in range(0, len(drawn), BATCH):
        part = drawn[first : first + BATCH]
        asked = [Generation("", (Message("user", (Picture(SIDE, SIDE, one.image.tobytes()), QUESTION)),), 1) for one in part]
        prompts = [reader.read(generation)[0] for generation in asked]
        captions = [[*loaded.tokenizer.encode(f" {one.caption}"), loaded.tokenizer.eos_token_id] for one in part]
        with torch.inference_mode():
            features = loaded.see({"pixel_values": torch.cat([prompt.pixels["pixel_values"] for prompt in prompts])})
            ids = torch.stack([prompt.ids for prompt in prompts])
            embeddings = loaded.embed(ids).clone()
            embeddings[ids == loaded.image_token] = features.reshape(-1, features.shape[-1]).to(embeddings.dtype)
            length = ids.shape[1]
            steps = [decoder.run(0, embeddings, [0] * len(part), [length] * len(part))]
            longest = max(map(len, captions))
            fed = torch.tensor([caption + [0] * (longest - len(caption)) for caption in captions])
            steps += [
                decoder.run(0, loaded.embed(fed[:, at : at + 1]), [length + at] * len(part), [1] * len(part)) for at in range(longest - 1)
            ]
        told = torch.log_softmax(torch.stack(steps, 1).float(), -1)
        for row, caption in enumerate(captions):
            own = told[row, : len(caption)]
            tokens = torch.tensor(caption)
            right += bool((own.argmax(-1) == tokens).all())
            of_captions.append(float(own[torch.arange(len(caption)), tokens].mean()))
            logprobs.append(own)
    return {"right": right, "logprobs": logprobs, "caption_logprobs": of_captions}
