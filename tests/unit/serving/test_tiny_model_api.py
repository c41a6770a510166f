"""The official client against the real model: pictures, streams, several answers, log-probabilities, answers of a given shape.

Needs torch and the trained model (`make tiny-model`; trained here when it is missing), hence marked e2e.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from deepseek_serving.shapes import QUESTION, Drawn, draw

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SHAPE = {
    "type": "object",
    "properties": {"shape": {"enum": ["circle", "cross"]}, "sure": {"type": "boolean"}},
    "required": ["shape", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(serve: Callable[[dict[str, Any]], AbstractContextManager[Any]]) -> Iterator[Any]:
    folder = Path(__file__).parents[3] / "build" / "tiny-model"
    subprocess.run([sys.executable, "-m", "deepseek_serving.cli", "tiny-model", "--out", str(folder)], check=True, timeout=1500)
    with serve({"model": {"source": folder.as_uri()}, "modelName": "shapes"}) as server:
        yield server


def asked(drawn: Drawn) -> list[Any]:
    picture = {"type": "image_url", "image_url": {"url": drawn.data_url}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}]


def test_the_sync_client_sees_pictures_whole_and_streamed(model: Any) -> None:
    """5 fresh pictures, each whole and in a stream with usage: the exact caption, 16 image tokens."""
    rng = random.Random(41)
    for _ in range(5):
        drawn = draw(rng)
        whole = model.client.chat.completions.create(model="shapes", messages=asked(drawn))
        assert whole.choices[0].message.content.strip() == drawn.caption
        assert whole.usage.model_dump()["prompt_tokens_details"]["image_tokens"] == 16
        stream = model.client.chat.completions.create(
            model="shapes", messages=asked(drawn), stream=True, stream_options={"include_usage": True}, extra_body={"chunk_size": "word"}
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip() == drawn.caption
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_the_async_client_asks_many_at_once(model: Any) -> None:
    """12 pictures at the same time, every other one streamed: 12 exact captions."""
    rng = random.Random(42)
    drawings = [draw(rng) for _ in range(12)]

    async def ask(index: int) -> str:
        messages = asked(drawings[index])
        if index % 2:
            answer = await client.chat.completions.create(model="shapes", messages=messages)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(model="shapes", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with model.async_client as client:
        answers = await asyncio.gather(*(ask(index) for index in range(12)))
    assert [answer.strip() for answer in answers] == [drawn.caption for drawn in drawings]


def test_a_seed_repeats_several_answers_and_another_one_does_not(model: Any) -> None:
    """n = 4 at temperature 2: the same four for the same seed; other ones for another."""

    def answers(seed: int) -> list[str]:
        drawn = draw(random.Random(43))
        answer = model.client.chat.completions.create(model="shapes", messages=asked(drawn), n=4, temperature=2, seed=seed, max_tokens=12)
        return [choice.message.content for choice in answer.choices]

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)
    assert len(set(answers(1))) > 1


def test_log_probabilities_are_those_of_a_sure_model(model: Any) -> None:
    """Each token of the caption is the likeliest of its three, and its probability nearly 1."""
    answer = model.client.chat.completions.create(
        model="shapes", messages=asked(draw(random.Random(44))), temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert answer.usage.completion_tokens - len(tokens) in (0, 1)
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert -0.7 < token.logprob <= 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_has_the_shape_that_was_asked_for(model: Any, stream: bool) -> None:
    """The model never learned JSON, nor the word `sure`: what comes is valid all the same."""
    format: Any = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SHAPE, "strict": True}}
    drawn = draw(random.Random(45))
    answer = model.client.chat.completions.create(model="shapes", messages=asked(drawn), response_format=format, stream=stream, max_tokens=200)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    value = json.loads(text)
    assert value["shape"] in ("circle", "cross")
    assert value["sure"] in (True, False)


def test_text_alone_is_refused_where_a_placeholder_would_stand_for_a_picture(model: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        model.client.chat.completions.create(model="shapes", messages=[{"role": "user", "content": "<image_placeholder>"}])
