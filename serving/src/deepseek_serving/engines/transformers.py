"""Serves any Hugging Face model that takes text (and pictures): requests join and leave a running batch between two decoding steps."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy
import torch

from deepseek_serving.engine import (
    Delta,
    EngineError,
    EngineStats,
    Generation,
    LoadError,
    Message,
    Picture,
    PromptSize,
    RequestError,
    Sampling,
    StartupParts,
    context_exceeded,
)
from deepseek_serving.engines.slots import Row, SlotDecoder
from deepseek_serving.loading import Loaded, load, weight_bytes
from deepseek_serving.quantize import quantize
from deepseek_serving.settings import ServingSettings

log = logging.getLogger(__name__)

MOST_DEVIATION = 0.05
"""How far a batched step may stray from the model's own pass on the probe, in nats: rounding by thousandths, a wrong cache by whole nats."""


@dataclass(eq=False)
class _Job:
    """One request inside the engine; `deltas` is read on the event loop, the rest belongs to the decoding thread."""

    id: str
    row: Row
    prompt: PromptSize
    max_tokens: int
    text: Detokenizer
    deltas: asyncio.Queue[Delta | Exception | None] = field(default_factory=asyncio.Queue)
    tokens: int = 0
    cancelled: bool = False


class Detokenizer:
    """Turns tokens into text piece by piece, and holds a piece back while its last character is incomplete."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown_from = 0
        self._shown_to = 0

    def push(self, token: int) -> str:
        """The text that became certain with this token; often a word, sometimes nothing."""
        self._ids.append(token)
        return self._advance(final=False)

    def rest(self) -> str:
        """What is left at the end, complete or not."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        # Decoded with the tokens before it, because a tokenizer may drop the blank in front of a text's first word.
        known = self._decode(self._ids[self._shown_from : self._shown_to])
        text = self._decode(self._ids[self._shown_from :])
        if len(text) <= len(known) or (text.endswith("\ufffd") and not final):
            return ""
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class TransformersEngine:
    """One decoding thread owns the model; another prepares prompts; the event loop only passes deltas on."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._loaded: Loaded | None = None
        self._jobs: dict[str, _Job] = {}
        self._arrived: deque[_Job] = deque()
        self._active: list[_Job] = []
        self._wake = threading.Condition()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._failure: str | None = None
        self._busy_seconds = 0.0
        self._busy_since: float | None = None
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._thread: threading.Thread | None = None

    async def start(self) -> StartupParts:
        self._loop = asyncio.get_running_loop()
        parts = await asyncio.to_thread(self._load)
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()
        return parts

    async def submit(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """Stream the answer; leaving early frees the slot before the next step."""
        self.check_health()
        job = await self._loop.run_in_executor(self._preparer, self._prepare, generation)
        self._jobs[job.id] = job
        self._idle.clear()
        with self._wake:
            self._arrived.append(job)
            self._wake.notify()
        try:
            while True:
                item = await job.deltas.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish:
                    return
        finally:
            job.cancelled = True
            self._jobs.pop(job.id, None)
            if not self._jobs:
                self._idle.set()

    def cancel(self, request_id: str) -> None:
        if job := self._jobs.get(request_id):
            job.cancelled = True
            job.deltas.put_nowait(None)

    async def drain(self) -> None:
        await self._idle.wait()

    def stats(self) -> EngineStats:
        since = self._busy_since
        busy = self._busy_seconds + (time.monotonic() - since if since is not None else 0.0)
        return EngineStats(len(self._active), len(self._arrived), self._settings.serving.slots, busy)

    def precisions(self) -> tuple[str, ...]:
        return (self._settings.model.quantization.value,)

    def set_precision(self, precision: str) -> None:
        if precision not in self.precisions():
            raise ValueError(f"precision must be one of {', '.join(self.precisions())}, was {precision!r}")

    def check_health(self) -> None:
        if self._failure is not None:
            raise EngineError(self._failure)
        if self._thread is not None and not self._thread.is_alive() and not self._closed:
            raise EngineError("the decoding thread has ended")

    async def close(self) -> None:
        for job in list(self._jobs.values()):
            self.cancel(job.id)
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._preparer.shutdown(wait=False)
        self._loaded = None

    def _load(self) -> StartupParts:
        torch.set_num_threads(self._settings.serving.torch_threads)
        began = time.monotonic()
        loaded = load(self._settings.model)
        _check_slots(loaded)
        quantize(loaded.model, loaded.decoder, self._settings.model.quantization)
        self._loaded = loaded
        read = time.monotonic()
        self._decoder = SlotDecoder(loaded, self._settings.serving.slots)
        ends = loaded.model.generation_config.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        self._warm_up(loaded)
        log.info("%s holds %.1f MiB of weights", type(loaded.model).__name__, weight_bytes(loaded.model) / 2**20)
        return StartupParts(loading=read - began, warming_up=time.monotonic() - read)

    def _warm_up(self, loaded: Loaded) -> None:
        """Answer a probe, with a picture where there are eyes: the first request should not pay for first-time work."""
        parts: tuple[str | Picture, ...] = ("warm up",)
        if loaded.processor is not None:
            parts = (Picture(48, 48, bytes([128]) * (48 * 48 * 3)), *parts)
        job = self._prepare(Generation("warm-up", (Message("user", parts),), max_tokens=2))
        self._decoder.prefill([job.row])
        self._decoder.step()
        self._decoder.clear()

    def _prepare(self, generation: Generation) -> _Job:
        """Tokens and pixels of a request. Raises RequestError."""
        loaded = self._loaded
        if loaded is None:
            raise EngineError("the engine is closed")
        if generation.pictures and loaded.processor is None:
            raise RequestError(
                "This model is served without its vision tower; it takes text only.", code="images_unsupported", param="messages"
            )
        prompt = self._prompt(loaded, generation)
        if generation.pictures:
            assert loaded.processor is not None
            images = [_array(picture) for picture in generation.pictures]
            # Channels are named: for a picture 1 or 3 pixels wide they could not be guessed from the shape.
            encoded = loaded.processor(text=[prompt], images=[images], return_tensors="pt", input_data_format="channels_last")
            inputs = {"input_ids": encoded["input_ids"], "pixel_values": encoded["pixel_values"]}
        else:
            special = not generation.messages  # a chat template writes its own special tokens
            inputs = {"input_ids": loaded.tokenizer(prompt, return_tensors="pt", add_special_tokens=special)["input_ids"]}
        tokens = int(inputs["input_ids"].shape[1])
        if tokens >= loaded.context:
            raise context_exceeded(tokens, loaded.context)
        if not tokens:
            raise RequestError("The prompt is empty.", param="prompt")
        image_token = getattr(loaded.model.config, "image_token_id", None)
        image = int((inputs["input_ids"] == image_token).sum()) if generation.pictures else 0
        most = min(generation.max_tokens, loaded.context - tokens)
        row = Row(inputs, generation.sampling)
        return _Job(generation.request_id, row, PromptSize(tokens, image), most, Detokenizer(loaded.tokenizer))

    @staticmethod
    def _prompt(loaded: Loaded, generation: Generation) -> str:
        placeholder = getattr(loaded.tokenizer, "image_token", None)
        texts = [generation.prefix, *(part for message in generation.messages for part in message.parts if isinstance(part, str))]
        if placeholder and any(placeholder in text for text in texts):
            raise RequestError(f"Text may not contain {placeholder}, which stands for a picture.", param="messages")
        if not generation.messages:
            return generation.prefix
        turns: list[dict[str, Any]] = [
            {
                "role": message.role,
                "content": [{"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part} for part in message.parts],
            }
            for message in generation.messages
        ]
        if loaded.processor is None:
            # Text models' templates expect plain strings.
            turns = [{**turn, "content": "".join(part["text"] for part in turn["content"])} for turn in turns]
        template = loaded.processor or loaded.tokenizer
        prompt: str = template.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return prompt

    def _run(self) -> None:
        """The decoding thread: let new requests in, step the batch, pass on what came out."""
        while True:
            with self._wake:
                self._busy_stops()
                self._wake.wait_for(lambda: self._arrived or self._active or self._closed)
                if self._closed:
                    return
                self._busy_since = time.monotonic()
            out: list[tuple[_Job, Delta | Exception]] = []
            try:
                self._leave()
                out += self._enter()
                if self._active:
                    self._decoder.step()
                    out += self._collect(self._active)
            except Exception as error:
                log.exception("the decoding step failed")
                self._failure = f"the decoding step failed: {type(error).__name__}"
                out += [(job, EngineError(self._failure)) for job in [*self._active, *self._arrived]]
                self._deliver(out)
                self._busy_stops()
                return
            self._deliver(out)

    def _busy_stops(self) -> None:
        if self._busy_since is not None:
            self._busy_seconds += time.monotonic() - self._busy_since
            self._busy_since = None

    def _leave(self) -> None:
        """Free the slots of those who left."""
        for job in [job for job in self._active if job.cancelled]:
            self._decoder.remove(job.row)
            self._active.remove(job)

    def _enter(self) -> list[tuple[_Job, Delta | Exception]]:
        """Read the prompts of those who wait, as many as slots are free; prompts of one shape together."""
        entering: list[_Job] = []
        while self._arrived and len(entering) < self._decoder.free:
            job = self._arrived.popleft()
            if not job.cancelled:
                entering.append(job)
        out: list[tuple[_Job, Delta | Exception]] = []
        shape = _shape_of
        for _, group in groupby(sorted(entering, key=shape), key=shape):
            jobs = list(group)
            self._decoder.prefill([job.row for job in jobs])
            self._active += jobs
            out += self._collect(jobs)
        return out

    def _collect(self, jobs: list[_Job]) -> list[tuple[_Job, Delta | Exception]]:
        """The newest token of each as a delta; answers that end with it give up their slots."""
        out: list[tuple[_Job, Delta | Exception]] = []
        for job in list(jobs):
            delta = self._delta(job)
            out.append((job, delta))
            if delta.finish:
                self._decoder.remove(job.row)
                self._active.remove(job)
        return out

    def _delta(self, job: _Job) -> Delta:
        prompt = job.prompt if job.tokens == 0 else None
        job.tokens += 1
        if job.row.next_token in self._ends:
            return Delta(job.text.rest(), tokens=0, prompt=prompt, finish="stop")
        text = job.text.push(job.row.next_token)
        if job.tokens >= job.max_tokens:
            return Delta(text + job.text.rest(), prompt=prompt, finish="length")
        return Delta(text, prompt=prompt)

    def _deliver(self, out: list[tuple[_Job, Delta | Exception]]) -> None:
        def put() -> None:
            for job, item in out:
                job.deltas.put_nowait(item)

        if out and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(put)


def _check_slots(loaded: Loaded) -> None:
    """Refuse a model that batched steps would get wrong (one that keeps more than keys and values of full attention). Raises LoadError."""
    ids = loaded.tokenizer("warm up", return_tensors="pt")["input_ids"]
    try:
        deviation = SlotDecoder(loaded, 1).deviation(Row({"input_ids": ids}, Sampling(temperature=0.0)))
    except (RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise LoadError(f"{type(loaded.model).__name__} cannot be decoded in slots: {error}") from error
    # bfloat16 rounds 2^16 times coarser than float32, and products of one row otherwise than products of many.
    most = MOST_DEVIATION if loaded.model.dtype == torch.float32 else 4 * MOST_DEVIATION
    if not deviation <= most:  # NaN must fail, too
        raise LoadError(
            f"{type(loaded.model).__name__} cannot be decoded in slots: a step strays by {deviation:.3f} nats, at most {most} may be"
        )


def _shape_of(job: _Job) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in sorted(job.row.inputs.items()))


def _array(picture: Picture) -> numpy.ndarray[Any, Any]:
    return numpy.frombuffer(bytearray(picture.rgb), dtype=numpy.uint8).reshape(picture.height, picture.width, 3)
