"""Answers that keep to a JSON schema, with the tiny model's own tokenizer and a model that knows nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from deepseek_serving.engine import RequestError
from deepseek_serving.structured import structure_of

SHAPE = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "cross", "square"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "near": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["shape", "count", "near"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A byte-level BPE made here: 300 tokens, trained on nothing but a few words, so most JSON is spelled out in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<end>"])
    made.train_from_iterator(["the circle is near the square", '{"shape": "cross"}'], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="<end>")


def answer(tokenizer: Any, schema: dict[str, Any], seed: int, vocabulary: int) -> str:
    """Greedy by logits drawn at random, at most 400 tokens."""
    random = torch.Generator().manual_seed(seed)
    keep = structure_of(json.dumps(schema)).make_filter(tokenizer, vocabulary)
    tokens: list[int] = []
    while not keep.finished and len(tokens) < 400:
        logits = keep.restrict(torch.randn(vocabulary, generator=random))
        token = int(logits.argmax())
        assert logits[token] > float("-inf")
        keep.accept(token)
        if token == tokenizer.eos_token_id:
            break
        tokens.append(token)
    return str(tokenizer.decode(tokens))


@pytest.mark.parametrize("padding", [0, 21], ids=["as many logits as tokens", "21 logits more"])
def test_whatever_the_model_wants_the_answer_keeps_to_the_schema(tokenizer: Any, padding: int) -> None:
    """20 random models."""
    for seed in range(20):
        value = json.loads(answer(tokenizer, SHAPE, seed, len(tokenizer) + padding))
        assert set(value) == {"shape", "count", "near"}
        assert value["shape"] in ("circle", "cross", "square")
        assert 1 <= value["count"] <= 99
        assert len(value["near"]) <= 3


def test_two_answers_have_a_place_of_their_own_in_the_grammar(tokenizer: Any) -> None:
    structure = structure_of('{"enum": ["ab", "xy"]}')
    one, other = (structure.make_filter(tokenizer, len(tokenizer)) for _ in range(2))
    one.accept(tokenizer.convert_tokens_to_ids('"'))
    assert other.restrict(torch.zeros(len(tokenizer)))[tokenizer.convert_tokens_to_ids('"')] == 0
    assert one.restrict(torch.zeros(len(tokenizer)))[tokenizer.convert_tokens_to_ids("a")] == 0


@pytest.mark.parametrize(
    "schema",
    ['{"type": "beast"}', '{"$ref": "#/nowhere"}', '{"type": "string", "pattern": "("}', "[1]", "{", '{"$ref": "https://example.com/s.json"}'],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(schema: str) -> None:
    with pytest.raises(RequestError) as refusal:
        structure_of(schema)
    assert (refusal.value.code, refusal.value.param) == ("invalid_json_schema", "response_format")


def test_a_tokenizer_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(RequestError, match="tokenizer"):
        structure_of("{}").make_filter(object(), 10)


@pytest.mark.skipif(not Path("build/tiny-model/tokenizer.json").exists(), reason="`make tiny-model` has not run")
def test_the_tiny_model_s_tokenizer_can_be_restricted() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("build/tiny-model")
    assert json.loads(answer(tokenizer, SHAPE, 1, len(tokenizer)))["shape"] in ("circle", "cross", "square")
