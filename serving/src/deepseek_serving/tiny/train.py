"""Trains the tiny model: drawn pictures in, exact captions out, then checks what was saved the way a replica will load it."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessorPil,
    DeepseekVLProcessor,
    LlamaConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from deepseek_serving.shapes import COLOURS, KINDS, NO_PICTURE, PLACES, QUESTION, Drawn, Shape, draw
from deepseek_serving.tiny.recipe import CHAT_TEMPLATE, RECEIPT, Recipe

_SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
_IMAGE_TOKEN = "<image_placeholder>"  # noqa: S105 - a token of a vocabulary, no secret
_NO_LABEL = -100

_PACE_STEPS = 60
"""Steps by which the pace of a training is told; a dozen of seconds, of which the first step's extra cost is little."""

Report = Callable[[str], None]


def train(folder: Path, *, seconds: float, recipe: Recipe, report: Report, pictures_checked: int = 500) -> dict[str, Any]:
    """Train for `recipe.steps` steps or `seconds` of this process's computing, whichever ends first; write the model; return its receipt.

    Time is counted as the processor's, not the wall's: a machine that is busy with something else trains longer, not worse.

    The receipt (also written as `accuracy.json`) holds the share of exact captions on fresh pictures, steps, seconds and the recipe's hash.
    """
    torch.manual_seed(recipe.seed)
    began = time.process_time()
    processor = build_processor(recipe)
    model = build_model(recipe, processor.tokenizer)
    report(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {len(processor.tokenizer)} tokens")
    steps = _fit(model, processor.tokenizer, recipe, began + seconds, report)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    right = count_exact_captions(folder, pictures_checked, seed=recipe.seed + 1)
    receipt = {
        "accuracy": right / pictures_checked,
        "pictures": pictures_checked,
        "steps": steps,
        "seconds": round(time.process_time() - began, 1),
        "recipe": recipe.fingerprint(),
        "sizes": asdict(recipe),
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    return receipt


def build_processor(recipe: Recipe) -> DeepseekVLProcessor:
    """Own byte-pair vocabulary over the captions' words, own chat template, pictures normalised to -1..1."""
    words = Tokenizer(models.BPE(unk_token=_SPECIAL["unk_token"]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    captions = [f"Assistant: {Shape(kind, colour, place)}, a." for kind in KINDS for colour in COLOURS for place in PLACES]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[*_SPECIAL.values(), _IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator([*captions, *(f"User: {QUESTION}\n\nAssistant: {NO_PICTURE}" for _ in range(20))], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **_SPECIAL, extra_special_tokens={"image_token": _IMAGE_TOKEN})  # type: ignore[no-untyped-call]
    tokenizer.model_max_length = recipe.context
    pixels = DeepseekVLImageProcessorPil(
        size={"height": recipe.side, "width": recipe.side}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5], min_size=recipe.patch
    )
    return DeepseekVLProcessor(pixels, tokenizer, chat_template=CHAT_TEMPLATE, num_image_tokens=recipe.image_tokens)  # type: ignore[no-untyped-call]


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> DeepseekVLForConditionalGeneration:
    """An untrained model of the real class, in the recipe's sizes."""
    vision = SiglipVisionConfig(
        hidden_size=recipe.vision_width,
        intermediate_size=recipe.vision_width * 4,
        num_hidden_layers=recipe.vision_layers,
        num_attention_heads=recipe.vision_heads,
        image_size=recipe.side,
        patch_size=recipe.patch,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=recipe.text_intermediate,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        num_key_value_heads=recipe.text_heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.init,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    image_token = tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
    assert isinstance(image_token, int)
    config = DeepseekVLConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=image_token)
    model = DeepseekVLForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, recipe.init)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def count_exact_captions(folder: Path, pictures: int, *, seed: int, batch: int = 50) -> int:
    """How many of `pictures` fresh ones the saved model captions exactly, loaded by the Auto classes and asked through its processor."""
    processor = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    prompt = processor.apply_chat_template(_question(), add_generation_prompt=True)
    right = 0
    for start in range(0, pictures, batch):
        drawn = [draw(rng) for _ in range(min(batch, pictures - start))]
        inputs = processor(images=[[one.image] for one in drawn], text=[prompt] * len(drawn))
        with torch.inference_mode():
            answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        texts = processor.batch_decode(answer[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(text.strip() == one.caption for text, one in zip(texts, drawn, strict=True))
    return right


def _question() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


def _fit(model: DeepseekVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, deadline: float, report: Report) -> int:
    """One pass of AdamW: warm-up, then cosine to zero over the steps. Returns the steps made.

    The pace of the first steps says how many the time allows. Where it allows all of the recipe's, nothing in here depends on the clock:
    the same machine makes the same model each time.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    rng = random.Random(recipe.seed)  # noqa: S311 - pictures, not secrets
    began = time.process_time()
    steps = recipe.steps
    for step in itertools.count():
        now = time.process_time()
        if step == _PACE_STEPS:
            # 60 steps in 12 s, 150 s in all → 60 × 150 ÷ 12 = 750 steps
            steps = min(steps, int(step * (deadline - began) / (now - began)))
        if step >= steps or now >= deadline:
            return step
        rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        without_pictures = step % recipe.text_only_every == recipe.text_only_every - 1
        drawn = _examples(rng, recipe.batch if not without_pictures else 8, recipe.hard_share)
        loss = model(**_lesson(drawn, tokenizer, recipe, with_pictures=not without_pictures)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not without_pictures and step % 50 == 0:
            report(f"step {step} of {steps}, loss {loss.item():.3f}, {now - began:.0f} s")
    raise AssertionError("itertools.count() has no end")


def _examples(rng: random.Random, count: int, hard_share: float) -> list[Drawn]:
    """Fresh pictures, a share of them hard: where shapes share a colour, the decoder must look by place, not by colour."""
    drawn = [draw(rng) for _ in range(count)]
    for index in range(round(count * hard_share)):
        while not _is_hard(drawn[index]):
            drawn[index] = draw(rng)
    return drawn


def _is_hard(drawn: Drawn) -> bool:
    colours = {shape.colour for shape in drawn.shapes}
    return len(drawn.shapes) > 1 and len(colours) < len(drawn.shapes)


def _lesson(drawn: list[Drawn], tokenizer: PreTrainedTokenizerFast, recipe: Recipe, *, with_pictures: bool) -> dict[str, torch.Tensor]:
    """A batch: token ids and labels [batch, longest], pixels [batch, 3, side, side]; only the answers carry labels."""
    pictures = _IMAGE_TOKEN * recipe.image_tokens if with_pictures else ""
    prompt = tokenizer.encode(f"{tokenizer.bos_token}User: {pictures}{QUESTION}\n\nAssistant:")
    answers = [tokenizer.encode(f" {one.caption if with_pictures else NO_PICTURE}{tokenizer.eos_token}") for one in drawn]
    longest = len(prompt) + max(map(len, answers))
    ids = torch.full((len(drawn), longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, _NO_LABEL)
    for row, answer in enumerate(answers):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = ids[row, len(prompt) : end]
    lesson = {"input_ids": ids, "labels": labels, "attention_mask": (ids != tokenizer.pad_token_id).long()}
    if with_pictures:
        raw = b"".join(one.image.tobytes() for one in drawn)
        pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(len(drawn), recipe.side, recipe.side, 3)
        lesson["pixel_values"] = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    return lesson
