"""The transformers engine on the tiny model: right answers, whoever else is in the batch and however the weights are held.

Needs torch and the trained model (`make tiny-model`; trained here when it is missing), hence marked e2e.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deepseek_serving.engine import Delta, EngineError, Generation, LoadError, Message, Picture, PromptSize, RequestError, Sampling
from deepseek_serving.settings import ServingSettings
from deepseek_serving.shapes import NO_PICTURE, QUESTION, Drawn, draw

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    folder = Path(__file__).parents[3] / "build" / "tiny-model"
    subprocess.run([sys.executable, "-m", "deepseek_serving.cli", "tiny-model", "--out", str(folder)], check=True, timeout=1500)
    return folder


@asynccontextmanager
async def running(folder: Path, *, slots: int = 8, **model: str) -> AsyncIterator[Any]:
    from deepseek_serving.engines.transformers import TransformersEngine

    engine = TransformersEngine(ServingSettings.from_args({"model": {"source": folder.as_uri(), **model}, "serving": {"slots": slots}}))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def about(drawn: Drawn | None, *, name: str = "r", text: str = QUESTION, tokens: int = 60, sampling: Sampling | None = None) -> Generation:
    parts: tuple[str | Picture, ...] = (text,)
    if drawn is not None:
        parts = (Picture(48, 48, drawn.image.tobytes()), text)
    return Generation(name, (Message("user", parts),), tokens, sampling=sampling or Sampling(temperature=0.0))


async def read(engine: Any, generation: Generation) -> list[Delta]:
    return [delta async for delta in engine.submit(generation)]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas).strip()


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
async def test_200_captions_asked_16_at_a_time_are_exact(tiny_model: Path, quantization: str) -> None:
    """At least 198 of 200 in every precision, 16 clients on 8 slots."""
    rng = random.Random(4)
    drawn = [draw(rng) for _ in range(200)]
    async with running(tiny_model, quantization=quantization) as engine:
        gate = asyncio.Semaphore(16)

        async def ask(index: int) -> bool:
            async with gate:
                return text_of(await read(engine, about(drawn[index], name=str(index)))) == drawn[index].caption

        right = sum(await asyncio.gather(*(ask(index) for index in range(200))))
        assert right >= 198
        stats = engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert stats.busy_seconds > 0


async def test_company_does_not_change_an_answer(tiny_model: Path) -> None:
    """12 requests (pictures, text, different lengths) get alone, one after the other, what they get together on 5 slots."""
    rng = random.Random(6)
    asked = [about(draw(rng) if index % 3 else None, name=str(index), tokens=5 + 3 * index) for index in range(12)]
    async with running(tiny_model, slots=5) as engine:
        alone = [await read(engine, generation) for generation in asked]
        together = await asyncio.gather(*(read(engine, generation) for generation in asked))
    assert [text_of(deltas) for deltas in together] == [text_of(deltas) for deltas in alone]
    assert [deltas[-1].finish for deltas in together] == [deltas[-1].finish for deltas in alone]
    assert {deltas[-1].finish for deltas in alone} == {"stop", "length"}


async def test_the_engine_says_what_generate_says(tiny_model: Path) -> None:
    """20 pictures: the slots' answers equal those of Hugging Face's own generate()."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(tiny_model)
    model: Any = AutoModelForImageTextToText.from_pretrained(tiny_model)
    rng = random.Random(8)
    drawn = [draw(rng) for _ in range(20)]
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    async with running(tiny_model) as engine:
        ours = await asyncio.gather(*(read(engine, about(one, name=str(index))) for index, one in enumerate(drawn)))
    for one, deltas in zip(drawn, ours, strict=True):
        inputs = processor(images=[one.image], text=[prompt], return_tensors="pt")
        with torch.inference_mode():
            answer = model.generate(**inputs, max_new_tokens=60, do_sample=False)
        assert text_of(deltas) == processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert deltas[0].prompt == PromptSize(inputs["input_ids"].shape[1], image=16)


async def test_cancelled_requests_free_their_slots_within_a_second(tiny_model: Path) -> None:
    """30 requests on 4 slots: half are closed after the first delta, some cancelled by id; the others still get the whole answer."""
    rng = random.Random(9)
    drawn = [draw(rng) for _ in range(30)]
    async with running(tiny_model, slots=4) as engine:

        async def ask(index: int) -> str | None:
            deltas = engine.submit(about(drawn[index], name=str(index)))
            if index % 2:
                await anext(deltas)
                if index % 4 == 1:
                    await deltas.aclose()
                else:
                    engine.cancel(str(index))
                    assert [delta async for delta in deltas if delta.finish] == []
                return None
            return text_of([delta async for delta in deltas])

        texts = await asyncio.gather(*(ask(index) for index in range(30)))
        assert [text for text in texts if text is not None] == [one.caption for one in drawn[::2]]
        deadline = time.monotonic() + 1
        while engine.stats().running:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await asyncio.wait_for(engine.drain(), 1)


async def test_text_only_leaves_the_vision_tower_out(tiny_model: Path) -> None:
    """Answers text, refuses pictures by name, and holds at least 10 % fewer bytes."""
    from deepseek_serving.loading import weight_bytes

    async with running(tiny_model) as whole, running(tiny_model, mode="text-only") as engine:
        assert text_of(await read(engine, about(None))) == NO_PICTURE
        with pytest.raises(RequestError, match="text only"):
            await read(engine, about(draw(random.Random(1))))
        assert weight_bytes(engine._loaded.model) < 0.9 * weight_bytes(whole._loaded.model)


async def test_int4_holds_the_decoder_in_at_most_45_percent_of_its_bytes(tiny_model: Path) -> None:
    """4 bits + a scale and a zero per 32 inputs = 5 of 32 bits; embeddings and norms stay in bfloat16. int8: 1 byte of 4."""
    from deepseek_serving.loading import weight_bytes

    sizes = {}
    for quantization in ("none", "int8", "int4"):
        async with running(tiny_model, quantization=quantization, mode="text-only") as engine:
            sizes[quantization] = weight_bytes(engine._loaded.model)
    assert sizes["int4"] < 0.45 * sizes["none"]
    assert sizes["int8"] < 0.6 * sizes["none"]


async def test_a_seed_repeats_a_sampled_answer(tiny_model: Path) -> None:
    """Temperature 2: the same seed twice gives the same text, ten other seeds give at least one other."""
    drawn = draw(random.Random(2))
    async with running(tiny_model) as engine:

        async def sample(seed: int) -> str:
            return text_of(await read(engine, about(drawn, sampling=Sampling(temperature=2.0, seed=seed), tokens=30)))

        assert await sample(5) == await sample(5)
        assert len({await sample(seed) for seed in range(10)}) > 1
        certain = await read(engine, about(drawn, sampling=Sampling(temperature=2.0, top_p=1e-6)))
        assert text_of(certain) == drawn.caption


@pytest.mark.parametrize(("text", "words"), [("shape " * 600, "maximum context length is 512"), ("a <image_placeholder> b", "may not contain")])
async def test_a_prompt_that_can_never_be_answered_is_refused(tiny_model: Path, text: str, words: str) -> None:
    async with running(tiny_model) as engine:
        with pytest.raises(RequestError, match=words):
            await read(engine, about(None, text=text))
        assert text_of(await read(engine, about(None))) == NO_PICTURE


async def test_an_answer_ends_with_the_context(tiny_model: Path) -> None:
    """A sampled answer of up to 10,000 tokens ends, at the latest, where 512 tokens of context do."""
    async with running(tiny_model) as engine:
        deltas = await read(engine, about(None, tokens=10_000, sampling=Sampling(temperature=2.0, seed=1)))
    assert deltas[0].prompt is not None
    assert sum(delta.tokens for delta in deltas) + deltas[0].prompt.tokens <= 512


async def test_a_step_that_breaks_ends_its_requests_and_the_replica_s_health(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in mid-answer: 3 requests end with an error rather than hang, and the health check asks for a new replica."""
    drawn = draw(random.Random(3))
    async with running(tiny_model) as engine:
        engine.check_health()

        def out_of_memory() -> None:
            raise RuntimeError("cannot allocate memory")

        monkeypatch.setattr(engine._decoder, "step", out_of_memory)
        asked = [asyncio.wait_for(read(engine, about(drawn, name=str(index))), 10) for index in range(3)]
        assert [type(each) for each in await asyncio.gather(*asked, return_exceptions=True)] == [EngineError] * 3
        with pytest.raises(EngineError, match="RuntimeError"):
            engine.check_health()


async def test_a_folder_without_a_model_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"needs a folder with a config\.json"):
        async with running(tmp_path):
            pass


def test_quantization_that_changes_the_answers_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound of a billionth of a nat even int8 strays too far."""
    from deepseek_serving import quantize
    from deepseek_serving.loading import load
    from deepseek_serving.settings import ModelSettings, Quantization

    monkeypatch.setattr(quantize, "MOST_DIVERGENCE", 1e-9)
    loaded = load(ModelSettings(source=tiny_model.as_uri(), quantization=Quantization.INT8))
    with pytest.raises(LoadError, match="nats per token"):
        quantize.quantize(loaded.model, loaded.decoder, Quantization.INT8)
