"""What `check-compatibility` says of a model folder, from its headers alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from deepseek_serving import routes
from deepseek_serving.cli import main
from deepseek_serving.compatibility import UnreadableModelError, examine
from deepseek_serving.routes import route
from deepseek_serving.settings import Engine, Mode, Quantization

TEXT = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "vocab_size": 102_400, "max_position_embeddings": 16_384,
}  # fmt: skip


def write(folder: Path, tensors: dict[str, tuple[str, list[int]]], config: dict[str, Any]) -> Path:
    """Headers only: no data behind them, as nothing may read any."""
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def vl(folder: Path) -> Path:
    """DeepSeek-VL 1.3B's decoder in its own sizes, bfloat16, and 400 M parameters of eyes."""
    tensors: dict[str, tuple[str, list[int]]] = {"model.language_model.embed_tokens.weight": ("BF16", [102_400, 2048])}
    tensors["lm_head.weight"] = ("BF16", [102_400, 2048])
    for layer in range(24):
        own = f"model.language_model.layers.{layer}"
        tensors |= {f"{own}.self_attn.{name}_proj.weight": ("BF16", [2048, 2048]) for name in "qkvo"}
        tensors |= {f"{own}.mlp.{name}_proj.weight": ("BF16", [5632, 2048]) for name in ("gate", "up")}
        tensors[f"{own}.mlp.down_proj.weight"] = ("BF16", [2048, 5632])
        tensors[f"{own}.input_layernorm.weight"] = ("BF16", [2048])
    tensors["model.vision_model.patches"] = ("F32", [20_000, 20_000])
    return write(folder, tensors, {"model_type": "deepseek_vl", "text_config": TEXT, "vision_config": {}})


def test_a_model_of_1_6_billion_parameters(tmp_path: Path) -> None:
    """24 × (4 × 2048² + 3 × 2048 × 5632) = 1,233 M in linears, 2 × 210 M around them, 400 M of eyes; int4: 0.53 bytes a linear weight."""
    verdict = examine(vl(tmp_path), slots=8, tokens=4096)
    assert verdict.weights.parameters["linears"] == 24 * (4 * 2048**2 + 3 * 2048 * 5632)
    assert verdict.weights.parameters["eyes"] == 400_000_000
    assert verdict.engines() == (Engine.TRANSFORMERS,)
    needs = verdict.needs["cpu"]
    assert needs["int4"].kernel == "onnxruntime"
    linears = verdict.weights.parameters["linears"] + 102_400 * 2048
    eyes, embeddings = 4 * 400_000_000, 102_400 * (2048 + 4)
    assert needs["int4"].weights == pytest.approx(linears * (0.5 + 4.5 / 128) + eyes + embeddings, rel=1e-6)
    assert needs["int8"].weights == pytest.approx(linears * (1 + 5 / 128) + eyes + embeddings, rel=1e-6)
    assert needs["none"].weights == sum(verdict.weights.bytes.values())
    # 24 layers × 16 heads × 256 × 4 bytes = 393 kB a token
    assert needs["int4"].cache == 8 * 4096 * 393_216
    assert needs["none"].cache == needs["int4"].cache // 2
    assert verdict.needs["cuda"]["int4"].kernel == "torch"


def test_a_float32_checkpoint_runs_unquantized_in_a_graph_of_its_own(tmp_path: Path) -> None:
    """A layer of 2048² and embeddings that are the output layer, too: 17 + 839 MB in the graph, 839 MB to look up; bfloat16 stays as it is."""
    layer, embeddings = 2048**2, 102_400 * 2048
    for dtype, kernel, held, loading in (
        ("F32", "onnxruntime", 4 * (layer + 2 * embeddings), 4 * (2 * layer + 2 * embeddings)),
        ("BF16", "checkpoint", 2 * (layer + embeddings), 2 * (layer + embeddings)),
    ):
        tensors = {"model.embed_tokens.weight": (dtype, [102_400, 2048]), "model.layers.0.self_attn.q_proj.weight": (dtype, [2048, 2048])}
        need = examine(write(tmp_path, tensors, {**TEXT, "model_type": "llama"})).needs["cpu"]["none"]
        assert (need.kernel, need.weights, need.loading) == (kernel, held, loading)


def test_without_its_eyes_it_needs_their_bytes_less(tmp_path: Path) -> None:
    """400 M parameters in float32 = 1.6 GB."""
    both, one = examine(vl(tmp_path)), examine(tmp_path, mode=Mode.TEXT_ONLY)
    assert both.needs["cpu"]["int4"].weights - one.needs["cpu"]["int4"].weights == 1_600_000_000


def test_nodes_are_named_that_hold_it(tmp_path: Path) -> None:
    """4 answers of 1,024 tokens in int4: 3.4 GB of weights and cache and 5.6 GB while loading fit 16 GB of CPU; 8 GB are too few."""
    fits = examine(vl(tmp_path), slots=4, tokens=1024).pools(Quantization.INT4)
    assert fits["cpu 16 GB"]
    assert not fits["cpu 8 GB"]
    assert fits["gpu 24 GB (L4, A10)"]


def test_the_page_s_table_is_the_declared_one() -> None:
    """docs/serving.md has one row for each class, with its engines."""
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("`"): tuple(row[3].split(", ")) for row in rows if len(row) == 5 and row[0] != "`model_type`"}
    assert told == {row.model_type: tuple(engine.value for engine in row.engines) for row in routes.CLASSES}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "deepseek_v3"}, "deepseek_v3, not llama"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "activation"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "type yarn"),
        ({"num_attention_heads": 100, "hidden_size": 2000}, "heads are 20 wide"),
        ({"intermediate_size": 5630}, "5630"),
    ],
)
def test_decoders_that_the_graph_cannot_compute_go_by_torch(change: dict[str, Any], words: str) -> None:
    way = route({**TEXT, **change}, Quantization.INT4)
    assert way.kernel == "torch"
    assert words in way.reason


def test_without_the_extra_everything_goes_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes.importlib.util, "find_spec", lambda _: None)
    assert "cpu-fast" in route(TEXT, Quantization.INT8).reason


@pytest.mark.parametrize(
    ("model_type", "engines"), [("deepseek_vl_v2", ["vllm"]), ("deepseek_v3", ["transformers", "vllm"]), ("brand_new", ["transformers"])]
)
def test_the_command_tells_engines_and_answers_with_its_exit_code(
    model_type: str, engines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 when the engine that was named runs it, 1 when not."""
    write(tmp_path, {"model.layers.0.mlp.up_proj.weight": ("F8_E4M3", [2048, 2048])}, {**TEXT, "model_type": model_type})
    code = main(["check-compatibility", "--model-path", str(tmp_path), "--engine", "transformers", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["engines"] == engines
    assert code == (0 if "transformers" in engines else 1)
    assert told["parameters"]["total"] == 2048 * 2048
    assert told["checkpointBytes"] == 2048 * 2048


def test_the_table_for_people_has_a_line_for_each_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-compatibility", "--model-path", str(vl(tmp_path))]) == 0
    told = capsys.readouterr().out
    assert "DeepSeek-VL" in told
    for kind in Quantization:
        assert told.count(f" {kind.value} ") >= 2
    assert "nodes that hold one replica at int4: " in told


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{", "not JSON"),
        ("config.json", b"{}", "model_type"),
        ("model.safetensors", b"abc", "not a safetensors file"),
        ("model.safetensors", struct.pack("<Q", 2**60), "header would have"),
        ("model.safetensors", struct.pack("<Q", 8) + b'{"a": 1}', "not a safetensors file"),
    ],
)
def test_a_damaged_folder_is_told_in_words(name: str, content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a sentence, never a trace."""
    write(tmp_path, {}, {"model_type": "llama"})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableModelError, match=words):
        examine(tmp_path)
    assert main(["check-compatibility", "--model-path", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_without_weights_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnreadableModelError, match=r"no \.safetensors"):
        examine(tmp_path)
