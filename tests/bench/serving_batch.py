"""Sixteen clients with pictures: the engine's batch against Hugging Face's generate() called for one request after the other."""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CLIENTS = 16
ROUNDS = 5
CANCELLED = 1000


def tiny_model(root: Path) -> Path:
    """The trained tiny model; trains it where it is missing."""
    folder = root / "build" / "tiny-model"
    subprocess.run([sys.executable, "-m", "deepseek_serving.cli", "tiny-model", "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(root: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return asyncio.run(_measure(tiny_model(root)))


async def _measure(folder: Path) -> dict[str, Any]:
    from deepseek_serving.shapes import draw

    rng = random.Random(3)
    drawn = [draw(rng) for _ in range(160)]
    engines = {kind: await _started(folder, kind) for kind in ("none", "int8", "int4")}
    alone = _Alone(folder)
    rounds, right = [], 0
    for number in range(ROUNDS + 1):
        one = {"generate()": alone.rate(drawn[:24])}
        for kind, engine in engines.items():
            one[kind], right = await _rate(engine, drawn)
            one[f"{kind}, busy"] = engine.stats().busy_seconds
        if number:
            rounds.append(one)
    cancelled = await _cancel(engines["int4"], drawn)
    for engine in engines.values():
        await engine.close()
    return {"rounds": rounds, "right_of_160": right, "cancel_seconds": cancelled}


async def _started(folder: Path, kind: str) -> Any:
    from deepseek_serving.engines.transformers import TransformersEngine
    from deepseek_serving.settings import ServingSettings

    engine = TransformersEngine(
        ServingSettings.from_args({"model": {"source": folder.as_uri(), "quantization": kind}, "serving": {"slots": CLIENTS}})
    )
    await engine.start()
    return engine


class _Alone:
    """generate() with its default cache, one request at a time, the processor's work included: as a server without batching would answer."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from deepseek_serving.shapes import QUESTION

        self._processor: Any = AutoProcessor.from_pretrained(folder)
        self._model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        self._prompt = self._processor.apply_chat_template(turns, add_generation_prompt=True)

    def rate(self, drawn: list[Any]) -> float:
        import torch

        began = time.perf_counter()
        for one in drawn:
            inputs = self._processor(images=[one.image], text=[self._prompt], return_tensors="pt")
            with torch.inference_mode():
                answer = self._model.generate(**inputs, max_new_tokens=60, do_sample=False)
            self._processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return len(drawn) / (time.perf_counter() - began)


def _ask(one: Any, name: str) -> Any:
    from deepseek_serving.engine import Generation, Message, Picture, Sampling
    from deepseek_serving.shapes import QUESTION, SIDE

    parts = (Picture(SIDE, SIDE, one.image.tobytes()), QUESTION)
    return Generation(name, (Message("user", parts),), 60, sampling=Sampling(temperature=0.0))


async def _rate(engine: Any, drawn: list[Any]) -> tuple[float, int]:
    """Requests per second of 16 clients, each asking again as soon as it is answered; and how many answers were exact."""
    left = list(enumerate(drawn))
    right = 0

    async def client() -> None:
        nonlocal right
        while left:
            number, one = left.pop()
            text = "".join([delta.text async for delta in engine.submit(_ask(one, str(number)))])
            right += text.strip() == one.caption

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return len(drawn) / (time.perf_counter() - began), right


async def _cancel(engine: Any, drawn: list[Any]) -> dict[str, float]:
    """1,000 requests among 16 clients, each cancelled after its first piece: seconds until its slot is free."""
    took: list[float] = []
    left = list(range(CANCELLED))

    async def client() -> None:
        while left:
            number = left.pop()
            deltas = engine.submit(_ask(drawn[number % len(drawn)], f"c{number}"))
            await anext(deltas)
            job = engine._jobs[f"c{number}"]
            began = time.perf_counter()
            engine.cancel(f"c{number}")
            while any(answer.row in engine._active for answer in job.answers):  # noqa: ASYNC110 - the engine tells nobody; this is the measure
                await asyncio.sleep(0.001)
            took.append(time.perf_counter() - began)
            await deltas.aclose()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    ordered = sorted(took)
    return {"p50": statistics.median(ordered), "p99": ordered[int(0.99 * len(ordered))], "most": ordered[-1]}
