"""The vLLM engine against a stand-in with vLLM's own names and shapes (fake_vllm/), and, marked gpu, against vLLM itself."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepseek_serving.engine import Delta, EngineError, Generation, LoadError, Message, Picture, PromptSize, RequestError, Sampling, Structure
from deepseek_serving.engines import make_engine
from deepseek_serving.settings import ServingSettings

FAKE = Path(__file__).with_name("fake_vllm")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`import vllm` finds the stand-in."""
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(FAKE))
    yield
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        del sys.modules[name]


def settings(source: str = "hf://deepseek-ai/DeepSeek-V3", *, degrade: str | None = None, **model: str) -> ServingSettings:
    args: dict[str, Any] = {"model": {"engine": "vllm", "source": source, **model}, "serving": {"slots": 4}}
    return ServingSettings.from_args({**args, "degrade": {"quantization": degrade}} if degrade else args)


@asynccontextmanager
async def running(asked: ServingSettings) -> AsyncIterator[Any]:
    engine = make_engine(asked)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def about(text: str, *pictures: Picture, name: str = "r", tokens: int = 20) -> Generation:
    return Generation(name, (Message("user", (*pictures, text)),), tokens)


async def read(engine: Any, generation: Generation) -> list[Delta]:
    return [delta async for delta in engine.submit(generation)]


async def test_an_answer_streams_with_its_size_and_end(vllm: Any) -> None:
    """5 words back as 5 deltas; the first tells the prompt's 5 tokens, the last why it ended."""
    async with running(settings()) as engine:
        deltas = await read(engine, about("one two three four"))
    assert "".join(delta.text for delta in deltas) == "user: one two three four "
    assert deltas[0].prompt == PromptSize(5)
    assert [delta.finish for delta in deltas] == [None, None, None, None, "stop"]


async def test_parameters_reach_vllm_in_its_own_words(vllm: Any) -> None:
    """What is left open comes from the checkpoint (temperature 0.6, top_p 0.95); priority 3 is vLLM's −3, where smaller goes first."""
    async with running(settings()) as engine:
        wanted = replace(
            about("a b"), sampling=Sampling(temperature=0.0, seed=5), n=2, stop=("x",), top_logprobs=3, priority=3,
            structure=Structure('{"type": "object"}', lambda *_: pytest.fail("vLLM keeps to the schema itself")),
        )  # fmt: skip
        deltas = await read(engine, wanted)
        prompt, parameters, priority = engine._engine.asked["r"]
    assert (parameters.temperature, parameters.top_p, parameters.seed, parameters.n) == (0.0, 0.95, 5, 2)
    assert (parameters.stop, parameters.logprobs, parameters.max_tokens, priority) == (["x"], 3, 20, -3)
    assert parameters.structured_outputs.json == '{"type": "object"}'
    assert prompt == {"prompt": "user: a b"}
    assert [delta.index for delta in deltas] == [0, 1] * 3
    assert [delta.prompt is not None for delta in deltas].count(True) == 1
    assert deltas[0].logprobs[0].chosen.logprob == -0.1
    assert [chance.logprob for chance in deltas[0].logprobs[0].top] == [-0.1, -1.0, -2.0]


async def test_deepseek_vl2_gets_its_own_words_and_pictures(vllm: Any) -> None:
    """Two pictures: two placeholders in the text, two PIL images beside it, 2 × 10 image tokens counted."""
    picture = Picture(4, 2, bytes(range(24)))
    async with running(settings("hf://deepseek-ai/deepseek-vl2-tiny")) as engine:
        deltas = await read(engine, about("what is it", picture, picture))
        prompt, _, _ = engine._engine.asked["r"]
        assert engine._engine.arguments.hf_overrides == {"architectures": ["DeepseekVLV2ForCausalLM"]}
        with pytest.raises(RequestError, match="may not contain <image>"):
            await read(engine, about("an <image> here"))
    assert prompt["prompt"] == "<|User|>: <image>\n<image>\nwhat is it\n\n<|Assistant|>:"
    assert [image.size for image in prompt["multi_modal_data"]["image"]] == [(4, 2), (4, 2)]
    assert prompt["multi_modal_data"]["image"][0].tobytes() == picture.rgb
    assert deltas[0].prompt is not None
    assert deltas[0].prompt.image == 20


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ({}, {"dtype": "auto", "quantization": None, "limit_mm_per_prompt": {"image": 8}}),
        ({"quantization": "bf16"}, {"dtype": "bfloat16", "quantization": None}),
        ({"quantization": "int4"}, {"quantization": "bitsandbytes"}),
        ({"mode": "text-only"}, {"limit_mm_per_prompt": {"image": 0}}),
        ({"compile": "auto"}, {"enforce_eager": False}),
        ({"compile": "always"}, {"enforce_eager": False}),
        ({"compile": "never"}, {"enforce_eager": True}),
    ],
)
async def test_settings_become_vllm_s_arguments(model: dict[str, str], wanted: dict[str, Any], vllm: Any) -> None:
    async with running(settings(**model)) as engine:
        given = engine._engine.arguments
        assert {name: getattr(given, name) for name in wanted} == wanted
        assert (given.model, given.max_num_seqs, given.scheduling_policy) == ("deepseek-ai/DeepSeek-V3", 4, "priority")
        assert engine.precisions() == (model.get("quantization", "none"),)
        with pytest.raises(ValueError, match="precision must be"):
            engine.set_precision("int8")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"quantization": "int8"}, "allowed: none, bf16, int4"),
        ({"degrade": "int4"}, "one precision only"),
        ({"source": "hf://deepseek-ai/too-large"}, "CUDA out of memory"),
    ],
)
async def test_what_vllm_cannot_do_is_told_at_the_start(asked: dict[str, str], words: str, vllm: Any) -> None:
    with pytest.raises(LoadError, match=words):
        async with running(settings(**asked)):
            pass


async def test_without_vllm_the_remedy_is_named() -> None:
    """Here vLLM is not installed: what to install, and that the other engine needs none."""
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    with pytest.raises(LoadError, match=r"pip install 'vllm>=0\.13'.*engine transformers"):
        async with running(settings()):
            pass


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        (about("word " * 60), "maximum context length is 50 tokens"),
        (about("see", Picture(1, 1, b"abc")), "only DeepSeek-VL2 takes pictures"),
        (Generation("r", (), 5, prefix=""), "empty"),
    ],
)
async def test_a_request_that_can_never_be_answered_is_refused(generation: Generation, words: str, vllm: Any) -> None:
    async with running(settings()) as engine:
        with pytest.raises(RequestError, match=words):
            await read(engine, generation)
        assert engine.stats().running == 0


async def test_text_only_refuses_pictures(vllm: Any) -> None:
    async with running(settings("hf://deepseek-ai/deepseek-vl2-tiny", mode="text-only")) as engine:
        with pytest.raises(RequestError, match="text only"):
            await read(engine, about("see", Picture(1, 1, b"abc")))


async def test_cancelled_and_abandoned_requests_are_aborted_in_vllm(vllm: Any) -> None:
    """20 requests: 10 cancelled by id after the first word, 10 closed: vLLM aborts all 20, none counts as running, the engine drains."""
    async with running(settings()) as engine:

        async def leave(number: int) -> None:
            deltas = engine.submit(about("a b c d e f g h i j", name=str(number)))
            await anext(deltas)
            if number % 2:
                engine.cancel(str(number))
                assert [delta.finish async for delta in deltas][-1:] in ([], [None])
            await deltas.aclose()

        await asyncio.gather(*(leave(number) for number in range(20)))
        await asyncio.wait_for(engine.drain(), 1)
        assert sorted(engine._engine.aborted, key=int) == [str(number) for number in range(20)]
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)
        assert engine.stats().busy_seconds > 0


async def test_stats_count_answers_beyond_the_slots_as_waiting(vllm: Any) -> None:
    """6 requests on 4 slots: 4 run, 2 wait."""
    async with running(settings()) as engine:
        streams = [engine.submit(about("a b c", name=str(number))) for number in range(6)]
        for stream in streams:
            await anext(stream)
        assert (engine.stats().running, engine.stats().waiting) == (4, 2)
        for stream in streams:
            await stream.aclose()


async def test_a_dead_engine_ends_its_requests_and_the_replica_s_health(vllm: Any) -> None:
    """vLLM's process dies in mid-answer: the request ends with an error, the health check asks for a new replica."""
    async with running(settings()) as engine:
        deltas = engine.submit(about("a b c d e"))
        await anext(deltas)
        engine._engine.errored = True
        with pytest.raises(EngineError, match="EngineDeadError"):
            async for _ in deltas:
                pass
        with pytest.raises(EngineError, match="process has ended"):
            engine.check_health()


@pytest.mark.gpu
@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vllm is not installed")
async def test_vllm_itself_answers(tmp_path: Path) -> None:
    """A small random Llama on the GPU: 8 tokens streamed, and a request cancelled after its first."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.tokenization_llama import LlamaTokenizer

    sizes = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=256)).save_pretrained(tmp_path)
    LlamaTokenizer().save_pretrained(tmp_path)
    async with running(settings(tmp_path.as_uri())) as engine:
        deltas = await read(engine, Generation("whole", (), 8, prefix="hello"))
        assert sum(delta.tokens for delta in deltas) <= 8
        assert deltas[-1].finish in ("stop", "length")
        left = engine.submit(Generation("left", (), 200, prefix="hello"))
        await anext(left)
        engine.cancel("left")
        assert all(delta.finish is None for delta in [delta async for delta in left])
        await asyncio.wait_for(engine.drain(), 5)
