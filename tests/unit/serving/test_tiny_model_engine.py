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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepseek_serving.engine import (
    Delta,
    EngineError,
    Generation,
    LoadError,
    Message,
    Picture,
    PromptSize,
    RequestError,
    Sampling,
    Structure,
)
from deepseek_serving.settings import ServingSettings
from deepseek_serving.shapes import NO_PICTURE, QUESTION, Drawn, draw

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    folder = Path(__file__).parents[3] / "build" / "tiny-model"
    subprocess.run([sys.executable, "-m", "deepseek_serving.cli", "tiny-model", "--out", str(folder)], check=True, timeout=1500)
    return folder


@asynccontextmanager
async def running(folder: Path, *, slots: int = 8, settings: dict[str, Any] | None = None, **model: str) -> AsyncIterator[Any]:
    from deepseek_serving.engines.transformers import TransformersEngine

    settings = settings or {"model": {"source": folder.as_uri(), **model}, "serving": {"slots": slots}}
    engine = TransformersEngine(ServingSettings.from_args(settings))
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


@pytest.mark.parametrize("quantization", ["none", "bf16", "int8", "int4"])
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


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
async def test_captions_are_exact_without_onnxruntime(tiny_model: Path, quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 39 of 40 with torch's own kernels, where the extra cpu-fast is not installed."""
    without_onnxruntime(monkeypatch)
    rng = random.Random(5)
    drawn = [draw(rng) for _ in range(40)]
    async with running(tiny_model, quantization=quantization) as engine:
        answers = await asyncio.gather(*(read(engine, about(one, name=str(index))) for index, one in enumerate(drawn)))
    assert sum(text_of(deltas) == one.caption for deltas, one in zip(answers, drawn, strict=True)) >= 39


@pytest.mark.parametrize(("dtype", "graph"), [("float32", True), ("bfloat16", False)])
async def test_an_unquantized_decoder_is_a_graph_where_it_is_in_float32_anyway(tiny_model: Path, dtype: str, graph: bool) -> None:
    """It says what the model's own pass says to a ten-thousandth of a nat; a bfloat16 one, which a graph would double, stays in torch."""
    import torch

    from deepseek_serving.engines.decoders import TorchDecoder
    from deepseek_serving.engines.store import SlotStore
    from deepseek_serving.loading import load
    from deepseek_serving.precision import make_decoders, probe
    from deepseek_serving.settings import ModelSettings, Quantization

    loaded = load(ModelSettings(source=tiny_model.as_uri()))
    loaded.model.to(getattr(torch, dtype))
    ids = torch.arange(32)
    with torch.inference_mode():
        own = torch.log_softmax(loaded.model(input_ids=ids[None], use_cache=False).logits[0, 15:].float(), -1)
    (decoder,) = make_decoders(loaded, (Quantization.NONE,), SlotStore(2, loaded.context)).values()
    assert isinstance(decoder, TorchDecoder) is not graph
    assert loaded.embed(ids).dtype == getattr(torch, dtype)
    if graph:
        assert not decoder.modules
        assert len(loaded.decoder.layers) == 0
        assert (probe(loaded, decoder, ids) - own).abs().mean() < 1e-4


async def test_precision_changes_in_the_middle_of_an_answer(tiny_model: Path) -> None:
    """12 captions begun in float32, switched to int4 after each one's third token and back after its sixth, are exact all the same."""
    rng = random.Random(10)
    drawn = [draw(rng) for _ in range(12)]
    settings = {"model": {"source": tiny_model.as_uri()}, "degrade": {"quantization": "int4"}}
    async with running(tiny_model, settings=settings) as engine:
        assert engine.precisions() == ("none", "int4")
        with pytest.raises(ValueError, match="none, int4, was 'int2'"):
            engine.set_precision("int2")

        async def ask(index: int) -> str:
            text = ""
            async for number, delta in numbered(engine.submit(about(drawn[index], name=str(index)))):
                text += delta.text
                if number in (3, 6):
                    engine.set_precision("int4" if number == 3 else "none")
            return text.strip()

        assert [await ask(index) for index in range(12)] == [one.caption for one in drawn]
        assert engine.stats().precision == "none"


async def numbered(deltas: Any) -> AsyncIterator[tuple[int, Delta]]:
    number = 0
    async for delta in deltas:
        number += 1
        yield number, delta


async def test_three_answers_share_one_prompt(tiny_model: Path) -> None:
    """n = 3 on 8 slots and on 2: three captions; the prompt's size comes once; log-probabilities are those of n = 1."""
    drawn = draw(random.Random(11))
    for slots in (8, 2):
        async with running(tiny_model, slots=slots) as engine:
            deltas = await read(engine, replace(about(drawn), n=3, top_logprobs=2))
            alone = await read(engine, replace(about(drawn), top_logprobs=2))
        for index in range(3):
            own = [delta for delta in deltas if delta.index == index]
            assert text_of(own) == drawn.caption
            assert [delta.finish for delta in own if delta.finish] == ["stop"]
            assert [chances.chosen.logprob for delta in own for chances in delta.logprobs] == pytest.approx(
                [chances.chosen.logprob for delta in alone for chances in delta.logprobs], abs=1e-3
            )
        assert [delta.prompt is not None for delta in deltas].count(True) == 1
        assert deltas[0].prompt is not None


async def test_log_probabilities_are_those_of_the_model(tiny_model: Path) -> None:
    """Each token of a caption has probability > 0.5, is the first of its top 3, which fall; `text`s join to the caption."""
    drawn = draw(random.Random(12))
    async with running(tiny_model) as engine:
        deltas = await read(engine, replace(about(drawn), top_logprobs=3))
    chances = [chance for delta in deltas for chance in delta.logprobs]
    assert "".join(chance.chosen.text for chance in chances).strip() == drawn.caption
    assert len(chances) == sum(delta.tokens for delta in deltas)
    for chance in chances:
        assert chance.chosen == chance.top[0]
        assert len(chance.top) == 3
        assert -0.7 < chance.chosen.logprob <= 0
        assert [top.logprob for top in chance.top] == sorted((top.logprob for top in chance.top), reverse=True)


async def test_a_stop_text_ends_one_answer_before_it(tiny_model: Path) -> None:
    """The caption `a red square at the top left.` stopped at ` at` gives `a red square`, though ` at` comes in its own token."""
    drawn = draw(random.Random(13))
    async with running(tiny_model) as engine:
        deltas = await read(engine, replace(about(drawn), stop=(" at",)))
        assert text_of(deltas) == drawn.caption.partition(" at")[0]
        assert deltas[-1].finish == "stop"
        assert len(deltas) < len(await read(engine, about(drawn)))


class OnlyBlue:
    """Refuses every token but those of ` blue`, then ends."""

    def __init__(self, tokenizer: Any, _vocabulary: int) -> None:
        self.left = tokenizer.encode(" blue")

    def restrict(self, logits: Any) -> Any:
        kept = logits[self.left[0]].item()
        logits[:] = float("-inf")
        logits[self.left[0]] = kept
        return logits

    def accept(self, token: int) -> None:
        assert token == self.left.pop(0)

    @property
    def finished(self) -> bool:
        return not self.left


async def test_a_structure_s_filter_has_the_last_word(tiny_model: Path) -> None:
    """Greedy and drawn at temperature 2: the answer is what the filter lets through, and ends when it says so; others are not touched."""
    drawn = draw(random.Random(14))
    async with running(tiny_model) as engine:
        ruled = replace(about(drawn), structure=Structure("{}", OnlyBlue))
        hot = replace(ruled, request_id="hot", sampling=Sampling(temperature=2.0))
        answers = await asyncio.gather(read(engine, ruled), read(engine, hot), read(engine, about(drawn, name="free")))
    assert [text_of(deltas) for deltas in answers] == ["blue", "blue", drawn.caption]
    assert answers[0][-1].finish == "stop"


async def test_the_urgent_go_first(tiny_model: Path) -> None:
    """20 requests on 1 slot, the last five of priority 1: those are the first five to end but for the one that had begun."""
    drawn = draw(random.Random(15))
    ended: list[int] = []
    async with running(tiny_model, slots=1) as engine:

        async def ask(index: int) -> None:
            await read(engine, replace(about(drawn, name=str(index)), priority=int(index >= 15)))
            ended.append(index)

        await asyncio.gather(*(ask(index) for index in range(20)))
    assert set(ended[:12]) >= set(range(15, 20))
    assert ended.index(14) > max(ended.index(index) for index in range(15, 20))


async def test_a_long_prompt_is_read_in_pieces_between_the_others_tokens(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 400 tokens, read 32 at a time: an answer that is being written gets at least 8 tokens meanwhile, not none."""
    from deepseek_serving.engines import batch

    monkeypatch.setattr(batch, "LONGEST_HOLD_SECONDS", 0.0)
    order: list[str] = []
    writing = asyncio.Event()
    async with running(tiny_model) as engine:

        async def ask(generation: Generation) -> None:
            async for _ in engine.submit(generation):
                order.append(generation.request_id)
                writing.set()

        writer = asyncio.create_task(ask(about(None, name="writer", tokens=60, sampling=Sampling(temperature=2.0, seed=3))))
        await writing.wait()
        before = len(order)
        await ask(about(None, name="long", text="a red circle, " * 80, tokens=1))
        await writer
    assert order[: order.index("long")].count("writer") - before >= 8


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
async def test_a_prompt_read_in_pieces_says_what_one_read_at_once_says(
    tiny_model: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 tokens with a picture in front, in one piece and in ten: the same 20 tokens, with the same probabilities to a thousandth."""
    from deepseek_serving.engines import batch

    asked = replace(about(draw(random.Random(17)), text="a red circle, " * 60, tokens=20), top_logprobs=0)
    said = []
    for tokens_per_second in (1e9, 1e-9):
        monkeypatch.setattr(batch, "_FIRST_GUESS_TOKENS_PER_SECOND", tokens_per_second)
        async with running(tiny_model, quantization=quantization) as engine:
            engine._batch._tokens_per_second = tokens_per_second
            said.append([chance.chosen for delta in await read(engine, asked) for chance in delta.logprobs])
    whole, pieces = said
    assert [chance.text for chance in pieces] == [chance.text for chance in whole]
    assert [chance.logprob for chance in pieces] == pytest.approx([chance.logprob for chance in whole], abs=1e-3)


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


async def test_cancelled_requests_free_their_slots(tiny_model: Path) -> None:
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
        deadline = time.monotonic() + 30
        while engine.stats().running:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await asyncio.wait_for(engine.drain(), 30)


async def test_text_only_leaves_the_vision_tower_out(tiny_model: Path) -> None:
    """Answers text, refuses pictures by name, and holds at least 10 % fewer bytes."""
    async with running(tiny_model) as whole, running(tiny_model, mode="text-only") as engine:
        assert text_of(await read(engine, about(None))) == NO_PICTURE
        with pytest.raises(RequestError, match="text only"):
            await read(engine, about(draw(random.Random(1))))
        assert held(engine) < 0.9 * held(whole)


@pytest.mark.parametrize("kernels", ["ONNX Runtime", "torch"])
async def test_quantized_decoders_hold_a_fraction_of_the_bytes(tiny_model: Path, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 bits + a scale and a zero point per 32 inputs = about 5 of 32 bits, at most 35 % with embeddings; int8: at most 60 %.

    A float32 graph has an output layer of its own, which the model shares with its embeddings: 355 × 128 of 0.6 M weights, 7 %.
    """
    if kernels == "torch":
        without_onnxruntime(monkeypatch)
    sizes = {}
    for quantization in ("none", "bf16", "int8", "int4"):
        async with running(tiny_model, quantization=quantization, mode="text-only") as engine:
            sizes[quantization] = held(engine)
            assert text_of(await read(engine, about(None))) == NO_PICTURE
    whole = 2 * sizes["bf16"]
    assert sizes["none"] == pytest.approx(whole * (1.08 if kernels == "ONNX Runtime" else 1), rel=0.02)
    assert sizes["int8"] < 0.6 * whole
    assert sizes["int4"] < (0.35 if kernels == "ONNX Runtime" else 0.45) * whole


def held(engine: Any) -> int:
    from deepseek_serving.precision import bytes_held

    return bytes_held(engine._loaded, engine._decoders.values())


def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra cpu-fast were not installed."""
    import importlib.util

    from deepseek_serving import routes

    real = importlib.util.find_spec
    monkeypatch.setattr(routes.importlib.util, "find_spec", lambda name: None if name in ("onnx", "onnxruntime") else real(name))


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

        monkeypatch.setattr(engine._batch, "step", out_of_memory)
        asked = [asyncio.wait_for(read(engine, about(drawn, name=str(index))), 10) for index in range(3)]
        assert [type(each) for each in await asyncio.gather(*asked, return_exceptions=True)] == [EngineError] * 3
        with pytest.raises(EngineError, match="RuntimeError"):
            engine.check_health()


async def test_a_folder_without_a_model_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"needs a folder with a config\.json"):
        async with running(tmp_path):
            pass


@pytest.mark.parametrize("quantization", ["int8", "int4"])
async def test_quantization_that_changes_the_answers_is_refused(tiny_model: Path, quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound of a billionth of a nat even int8 strays too far."""
    from deepseek_serving import precision

    monkeypatch.setattr(precision, "MOST_DIVERGENCE", 1e-9)
    with pytest.raises(LoadError, match=r"nats per token on the probe.*use "):
        async with running(tiny_model, quantization=quantization):
            pass


@pytest.mark.parametrize(("extra", "words"), [("with cpu-fast", "bf16 is computed by torch"), ("without it", "may be$")])
async def test_a_decoder_whose_steps_stray_is_refused_by_graph_and_by_torch(
    tiny_model: Path, extra: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever computes the unquantized model: with a bound below zero even float32 strays too far."""
    from deepseek_serving import precision

    monkeypatch.setattr(precision, "MOST_DEVIATION", -1.0)
    if extra == "without it":
        without_onnxruntime(monkeypatch)
    with pytest.raises(LoadError, match=f"cannot be decoded in slots: a step strays .* {words}"):
        async with running(tiny_model):
            pass


@pytest.mark.parametrize("quantization", ["int8", "int4"])
async def test_a_folder_quantized_beforehand_answers_as_one_quantized_at_load(tiny_model: Path, tmp_path: Path, quantization: str) -> None:
    """40 captions exact; the folder is smaller; asked for another precision, or damaged, it is refused with the remedy."""
    from deepseek_serving.cli import main

    assert main(["quantize", "--model-path", str(tiny_model), "--quantization", quantization, "--out", str(tmp_path / "small")]) == 0
    folder = tmp_path / "small"
    names = {file.name for file in folder.iterdir()}
    assert {"decoder.onnx", "decoder.bin", "quantized.json", "model.safetensors"} <= names
    weights = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    assert weights < 0.65 * (tiny_model / "model.safetensors").stat().st_size
    rng = random.Random(16)
    drawn = [draw(rng) for _ in range(40)]
    async with running(folder, quantization=quantization) as engine:
        answers = await asyncio.gather(*(read(engine, about(one, name=str(index))) for index, one in enumerate(drawn)))
    assert [text_of(deltas) for deltas in answers] == [one.caption for one in drawn]
    async with running(folder, quantization=quantization, mode="text-only") as engine:
        assert text_of(await read(engine, about(None))) == NO_PICTURE
    with pytest.raises(LoadError, match=f"holds the decoder in {quantization} only"):
        async with running(folder, quantization="bf16"):
            pass
    codes = bytearray((folder / "decoder.bin").read_bytes())
    half = len(codes) // 2
    codes[half:] = random.Random(1).randbytes(len(codes) - half)
    (folder / "decoder.bin").write_bytes(codes)
    with pytest.raises(LoadError, match="damaged; write the folder again"):
        async with running(folder, quantization=quantization):
            pass
