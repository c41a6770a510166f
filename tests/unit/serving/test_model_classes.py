"""Every class that `routes.CLASSES` offers on the transformers engine, tiny and random: the engine says what Hugging Face's generate() says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_serving.engine import Generation, LoadError, Message, Picture, Sampling
from deepseek_serving.routes import CLASSES
from deepseek_serving.settings import Engine, ServingSettings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TEXT = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EYES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48, "patch_size": 12}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4,
}  # fmt: skip
IMAGE, BEGIN, END = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<bos>", "<eos>", IMAGE, BEGIN, END]
    words = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate([*special, *alphabet])}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        extra_special_tokens={"image_token": IMAGE, "boi_token": BEGIN, "eoi_token": END},
    )  # fmt: skip


def save(model: Any, processor: Any, folder: Path) -> None:
    import torch

    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.15)  # large enough that answers differ
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '" + IMAGE + "' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}{% endfor %}:"
)


def deepseek_vl(folder: Path) -> None:
    from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration, DeepseekVLImageProcessorPil, DeepseekVLProcessor

    config = DeepseekVLConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "siglip_vision_model", "intermediate_size": 64, "vision_use_head": False, **EYES},
        image_token_id=3,
    )
    pixels = DeepseekVLImageProcessorPil(size={"height": 48, "width": 48}, min_size=12)
    processor = DeepseekVLProcessor(pixels, tokenizer(), chat_template=TEMPLATE, num_image_tokens=16)
    save(DeepseekVLForConditionalGeneration(config), processor, folder)


def deepseek_vl_hybrid(folder: Path) -> None:
    from transformers import (
        DeepseekVLHybridConfig,
        DeepseekVLHybridForConditionalGeneration,
        DeepseekVLHybridImageProcessorPil,
        DeepseekVLHybridProcessor,
    )

    config = DeepseekVLHybridConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "siglip_vision_model", "intermediate_size": 64, "vision_use_head": False, **EYES, "hidden_size": 32},
        high_res_vision_config={
            "model_type": "sam_vision_model", "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1],
        },
        image_token_id=3,
    )  # fmt: skip
    pixels = DeepseekVLHybridImageProcessorPil(size={"height": 48, "width": 48}, high_res_size={"height": 64, "width": 64}, min_size=12)
    processor = DeepseekVLHybridProcessor(pixels, tokenizer(), chat_template=TEMPLATE, num_image_tokens=16)
    save(DeepseekVLHybridForConditionalGeneration(config), processor, folder)


def janus(folder: Path) -> None:
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusImageProcessorPil, JanusProcessor

    config = JanusConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config={**EYES, "projection_dim": 64, "num_image_tokens": 16, "mlp_ratio": 2.0},
        vq_config={
            "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "latent_channels": 32, "embed_dim": 4, "num_embeddings": 16,
            "projection_dim": 64, "num_patches": 4, "image_token_embed_dim": 64,
        },
        image_token_id=3,
    )  # fmt: skip
    pixels = JanusImageProcessorPil(size={"height": 48, "width": 48}, min_size=12)
    processor = JanusProcessor(pixels, tokenizer(), chat_template=TEMPLATE, num_image_tokens=16)
    save(JanusForConditionalGeneration(config), processor, folder)


def text_model(name: str, **more: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import transformers

        config = getattr(transformers, f"{name}Config")(**{**TEXT, **more})
        words = tokenizer()
        words.chat_template = TEMPLATE
        save(getattr(transformers, f"{name}ForCausalLM")(config), words, folder)

    return make


MODELS: dict[str, Callable[[Path], None]] = {
    "deepseek_vl": deepseek_vl,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "janus": janus,
    "deepseek_v2": text_model("DeepseekV2", **LATENT, topk_method="greedy"),
    "deepseek_v3": text_model("DeepseekV3", **LATENT),
    "llama": text_model("Llama"),
}


def test_every_class_offered_here_has_its_model() -> None:
    """Six classes on the transformers engine, six tiny models."""
    assert {row.model_type for row in CLASSES if Engine.TRANSFORMERS in row.engines} == set(MODELS)


def noise(seed: int) -> Picture:
    import random

    return Picture(60, 40, random.Random(seed).randbytes(60 * 40 * 3))


@pytest.fixture(scope="module", params=["deepseek_vl", "deepseek_vl_hybrid", "janus"])
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    folder = tmp_path_factory.mktemp(request.param)
    MODELS[request.param](folder)
    return AutoProcessor.from_pretrained(folder)


@given(
    seen=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90), st.binary(min_size=1, max_size=64)), min_size=1, max_size=3),
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=4, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_pictures_and_texts_are_read_as_the_whole_processor_reads_them(
    processor: Any, seen: list[tuple[int, int, bytes]], texts: list[str]
) -> None:
    """Any 1 to 3 pictures of 1x1 to 90x90 among any texts: the same tokens and, to the bit, the same pixels."""
    import numpy
    import torch

    from deepseek_serving.engines.looking import PictureReader

    reader = PictureReader(processor)
    assert reader.direct
    pictures = [Picture(width, height, (grain * (3 * width * height))[: 3 * width * height]) for width, height, grain in seen]
    text = texts[0] + "".join(IMAGE + after for _, after in zip(pictures, texts[1:], strict=False))
    ids, pixels = reader.read(text, pictures)
    images = [numpy.frombuffer(one.rgb, dtype=numpy.uint8).reshape(one.height, one.width, 3) for one in pictures]
    whole = processor(text=[text], images=[images], return_tensors="pt", input_data_format="channels_last")
    assert ids.tolist() == whole["input_ids"][0].tolist()
    assert {*pixels} == {name for name in whole if name.endswith("pixel_values")}
    for name, tensor in pixels.items():
        assert torch.equal(tensor, whole[name].flatten(0, 1) if whole[name].dim() == 5 else whole[name])


@pytest.mark.parametrize("spoiled", ["preamble", "nothing to hear", "another picture", "no narrow pictures"])
def test_a_processor_that_does_more_than_its_parts_is_called_whole(spoiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that writes words of its own before each text, one without the parts, one that alters pictures outside them, one that refuses some:
    read all the same."""
    from transformers import AutoProcessor

    from deepseek_serving.engines.looking import PictureReader

    janus(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    if spoiled == "preamble":
        processor.use_default_system_prompt = True
    elif spoiled == "nothing to hear":
        monkeypatch.setattr(type(processor), "replace_image_token", property(), raising=True)
        monkeypatch.setattr(type(processor), "_process_images", lambda self, images, **more: (self.image_processor(images, **more), ["x"]))
    elif spoiled == "no narrow pictures":
        own = type(processor.image_processor).preprocess

        def choosy(self: Any, images: Any, **more: Any) -> Any:
            done = own(self, images, **more)
            flat = [one for each in images for one in (each if isinstance(each, list) else [each])]
            if any(min(one.shape[:2]) < 4 for one in flat):
                raise ArithmeticError("too narrow")
            return done

        monkeypatch.setattr(type(processor.image_processor), "preprocess", choosy)
    else:
        own = type(processor.image_processor).preprocess

        def mirrored(self: Any, images: Any, **more: Any) -> Any:
            done = own(self, images, **more)
            done["pixel_values"] = done["pixel_values"].flip(-1)
            return done

        monkeypatch.setattr(type(processor.image_processor), "preprocess", mirrored)
    reader = PictureReader(processor)
    assert not reader.direct
    ids, pixels = reader.read(IMAGE + " a", [noise(1)])
    assert len(ids) >= 3
    assert pixels["pixel_values"].shape == (1, 3, 48, 48)


async def answers(folder: Path, asked: list[Generation], started: Callable[[], None] = lambda: None, **model: str) -> list[list[int]]:
    """The tokens of each answer, all asked at once on 3 slots, read from their log-probabilities' words."""
    from deepseek_serving.engines.transformers import TransformersEngine

    engine = TransformersEngine(ServingSettings.from_args({"model": {"source": folder.as_uri(), **model}, "serving": {"slots": 3}}))
    await engine.start()
    started()
    chosen: dict[str, list[int]] = {generation.request_id: [] for generation in asked}
    collect = engine._delta

    def delta(answer: Any) -> Any:
        chosen[answer.job.id].append(answer.row.choice.token)
        return collect(answer)

    engine._delta = delta  # type: ignore[method-assign]
    try:

        async def read(generation: Generation) -> None:
            async for _ in engine.submit(generation):
                pass

        await asyncio.gather(*(read(generation) for generation in asked))
    finally:
        await engine.close()
    return [chosen[generation.request_id] for generation in asked]


@pytest.mark.parametrize("model_type", MODELS)
async def test_the_engine_says_what_generate_says(model_type: str, tmp_path: Path) -> None:
    """Four requests (two lengths, one or two pictures where the class takes them) in one batch: the same 12 tokens as alone in generate()."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    MODELS[model_type](tmp_path)
    sees = next(row.pictures for row in CLASSES if row.model_type == model_type)
    texts = ["what is it", "tell me more about these", "what is it", "and"]
    pictures: list[list[Picture]] = [[noise(1)], [noise(2), noise(3)], [noise(4)], []] if sees else [[], [], [], []]
    asked = [
        Generation(str(number), (Message("user", (*seen, text)),), 12, sampling=Sampling(temperature=0.0))
        for number, (text, seen) in enumerate(zip(texts, pictures, strict=True))
    ]
    ours = await answers(tmp_path, asked)
    if sees:
        model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path)
        processor: Any = AutoProcessor.from_pretrained(tmp_path)
    else:
        model, processor = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for tokens, text, seen in zip(ours, texts, pictures, strict=True):
        prompt = IMAGE * len(seen) + text + ":"
        if seen:
            import numpy

            images = [numpy.frombuffer(picture.rgb, dtype=numpy.uint8).reshape(40, 60, 3) for picture in seen]
            inputs = processor(text=[prompt], images=[images], return_tensors="pt", input_data_format="channels_last")
            wanted = {name: inputs[name] for name in inputs if name == "input_ids" or name.endswith("pixel_values")}
        else:
            wanted = {
                "input_ids": (processor.tokenizer if sees else processor)(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
            }
        with torch.inference_mode():
            whole = model.generate(**wanted, max_new_tokens=12, do_sample=False)
        assert tokens == whole[0, wanted["input_ids"].shape[1] :].tolist()
    assert len({tuple(tokens) for tokens in ours}) > 1


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
async def test_quantized_it_answers(model_type: str, quantization: str, tmp_path: Path) -> None:
    """It passes the check at load (random weights are the hardest case: nothing is certain) and writes 12 tokens, or up to the end token."""
    MODELS[model_type](tmp_path)
    (tokens,) = await answers(tmp_path, [said("0", "what is it")], quantization=quantization)
    assert len(tokens) == 12 or tokens[-1] == 2


@pytest.mark.parametrize("model_type", ["deepseek_v3", "llama"])
@pytest.mark.parametrize("quantization", ["none", "int4"])
def test_prompts_of_one_length_are_read_together(model_type: str, quantization: str, tmp_path: Path) -> None:
    """3 prompts of 7 tokens in one pass: after each the same logits as alone, to a tenth of their spread."""
    import torch

    from deepseek_serving.engines.store import SlotStore
    from deepseek_serving.loading import load
    from deepseek_serving.precision import make_decoders
    from deepseek_serving.settings import ModelSettings, Quantization

    MODELS[model_type](tmp_path)
    kind = Quantization(quantization)
    loaded = load(ModelSettings(source=tmp_path.as_uri(), quantization=kind))
    (decoder,) = make_decoders(loaded, (kind,), SlotStore(3, loaded.context)).values()
    with torch.inference_mode():
        embeddings = loaded.embed(torch.arange(21).reshape(3, 7) + 10)
        assert decoder.reads_together([0, 0, 0], [7, 7, 7])
        together = decoder.run(0, embeddings, [0, 0, 0], [7, 7, 7]).float()
        alone = torch.cat([decoder.run(0, embeddings[row : row + 1], [0], [7]) for row in range(3)]).float()
    assert torch.allclose(together, alone, atol=0.1 * float(alone.std()))


def said(name: str, text: str, tokens: int = 12) -> Generation:
    return Generation(name, (Message("user", (text,)),), tokens, sampling=Sampling(temperature=0.0))


async def test_compiled_it_says_what_generate_says_and_compiles_nothing_more(tmp_path: Path) -> None:
    """DeepSeek-V3: prompts of 3 to 180 tokens on 3 slots, so 1 to 3 rows; the first answer fills the room for 128 tokens and goes on.

    Four graphs, made at load: of layers with and without experts, for one row and for more.
    """
    import torch
    from torch._dynamo.utils import counters
    from transformers import AutoModelForCausalLM, AutoTokenizer

    MODELS["deepseek_v3"](tmp_path)
    lengths = (118, 2, 70, 5, 180, 30, 12, 41)
    asked = [said(str(number), ("what is it, " * 20)[:length], 20 + number) for number, length in enumerate(lengths)]
    graphs: list[int] = []
    before = counters["stats"]["unique_graphs"]
    ours = await answers(tmp_path, asked, lambda: graphs.append(counters["stats"]["unique_graphs"] - before), compile="always")
    assert (graphs, counters["stats"]["unique_graphs"] - before) == ([4], 4)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    for generation, tokens in zip(asked, ours, strict=True):
        ids = words(str(generation.messages[0].parts[0]) + ":", return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            whole = model.generate(input_ids=ids, max_new_tokens=generation.max_tokens, do_sample=False)
        assert tokens == whole[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    ("model_type", "quantization", "reason"),
    [("llama", "none", "it is an ONNX Runtime graph already"), ("deepseek_v3", "int8", "torch cannot trace its own layers of dynamic int8")],
)
async def test_what_cannot_be_compiled_runs_as_it_is_and_the_log_says_why(
    model_type: str, quantization: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MODELS[model_type](tmp_path)
    with caplog.at_level("INFO"):
        (tokens,) = await answers(tmp_path, [said("0", "what is it")], quantization=quantization, compile="always")
    assert f"compile does nothing for precision {quantization}: {reason}" in caplog.text
    assert tokens


async def test_without_a_compiler_compiling_is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS["deepseek_v2"](tmp_path)
    monkeypatch.setenv("CXX", "c++-that-is-not-there")
    with pytest.raises(LoadError, match=r"no c\+\+-that-is-not-there here; install one into the image or set compile: auto"):
        await answers(tmp_path, [], compile="always")


async def test_a_compiled_step_that_strays_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound below zero even the same step strays too far."""
    from deepseek_serving.engines import compiled

    monkeypatch.setattr(compiled, "MOST_DEVIATION", -1.0)
    MODELS["deepseek_v3"](tmp_path)
    with pytest.raises(LoadError, match=r"DeepseekV3ForCausalLM compiled by torch strays by .* set compile: auto"):
        await answers(tmp_path, [], compile="always")
