"""The requests that are sent, prepared before the play so that drawing them costs nothing while it runs."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from deepseek_serving import shapes


@dataclass(frozen=True)
class Letter:
    """One request: its body as JSON, whether it is streamed, and the only right answer."""

    body: bytes
    streamed: bool
    has_picture: bool
    answer: str


def write_letters(number: int, model: str, image_share: float, stream_share: float, seed: int) -> list[Letter]:
    """`number` requests in random order; the same seed gives the same ones."""
    rng = random.Random(seed)
    return [_write(rng, model, rng.random() < image_share, rng.random() < stream_share) for _ in range(number)]


def _write(rng: random.Random, model: str, has_picture: bool, streamed: bool) -> Letter:
    if has_picture:
        drawn = shapes.draw(rng)
        # The picture first, as the model was taught.
        content: object = [{"type": "image_url", "image_url": {"url": drawn.data_url}}, {"type": "text", "text": shapes.QUESTION}]
        answer = drawn.caption
    else:
        content, answer = shapes.QUESTION, shapes.NO_PICTURE
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "stream": streamed}
    return Letter(json.dumps(body).encode(), streamed, has_picture, answer)
