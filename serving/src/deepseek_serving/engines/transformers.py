"""Serves any Hugging Face model that takes text (and pictures): requests join and leave a running batch between two decoding steps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from deepseek_serving.engine import (
    Chance,
    Delta,
    EngineError,
    EngineStats,
    FinishReason,
    Generation,
    Message,
    Picture,
    PromptSize,
    Sampling,
    StartupParts,
    TokenChances,
)
from deepseek_serving.engines.batch import Batch, Row
from deepseek_serving.engines.choosing import Choice, Taste
from deepseek_serving.engines.decoders import Decoder
from deepseek_serving.engines.prompts import Detokenizer, PromptReader, Words, loaded_or_closed
from deepseek_serving.engines.store import SlotStore
from deepseek_serving.loading import Loaded, load
from deepseek_serving.precision import bytes_held, make_decoders
from deepseek_serving.settings import Compile, ServingSettings
from deepseek_serving.stopping import StopTexts

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    """One request; `deltas` is read on the event loop, the rest belongs to the decoding thread."""

    id: str
    answers: list[_Answer] = field(default_factory=list)
    deltas: asyncio.Queue[Delta | Exception | None] = field(default_factory=asyncio.Queue)
    cancelled: bool = False


@dataclass(eq=False)
class _Answer:
    """One of a request's answers."""

    job: _Job
    index: int
    row: Row
    size: PromptSize
    max_tokens: int
    text: Detokenizer
    cut: StopTexts
    tokens: int = 0


class TransformersEngine:
    """One decoding thread owns the model; another prepares prompts; the event loop only passes deltas on."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._loaded: Loaded | None = None
        self._decoders: dict[str, Decoder] = {}
        self._precision = settings.model.quantization.value
        self._jobs: dict[str, _Job] = {}
        self._arrived: list[tuple[int, int, _Answer]] = []
        self._order = itertools.count()
        self._active: dict[Row, _Answer] = {}
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
        """Stream the answers; leaving early frees their slots before the next step."""
        self.check_health()
        job = await self._loop.run_in_executor(self._preparer, self._prepare, generation)
        self._jobs[job.id] = job
        self._idle.clear()
        with self._wake:
            for answer in job.answers:
                heapq.heappush(self._arrived, (-generation.priority, next(self._order), answer))
            self._wake.notify()
        left = len(job.answers)
        try:
            self.check_health()  # the decoding thread may have ended while the prompt was prepared
            while left:
                item = await job.deltas.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
                left -= item.finish is not None
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
        return EngineStats(
            running=len(self._active),
            waiting=len(self._arrived),
            slots=self._settings.serving.slots,
            busy_seconds=self._busy_seconds + (time.monotonic() - since if since is not None else 0.0),
            cache_usage=self._batch.usage if self._loaded is not None else 0.0,
            precision=self._precision,
        )

    def precisions(self) -> tuple[str, ...]:
        return tuple(self._decoders) or (self._precision,)

    def set_precision(self, precision: str) -> None:
        if precision not in self.precisions():
            raise ValueError(f"precision must be one of {', '.join(self.precisions())}, was {precision!r}")
        self._precision = precision  # the decoding thread reads it before each step

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
        read = time.monotonic()
        model, degrade = self._settings.model.quantization, self._settings.degrade.quantization
        kinds = tuple(dict.fromkeys(kind for kind in (model, degrade) if kind is not None))
        store = SlotStore(self._settings.serving.slots, loaded.context)
        self._decoders = make_decoders(loaded, kinds, store, threads=self._settings.serving.torch_threads)
        quantized = time.monotonic()
        if self._settings.model.compile is Compile.ALWAYS:
            from deepseek_serving.engines.compiled import compile_decoders

            self._decoders = compile_decoders(loaded, self._decoders, store.slots)
        self._reader = PromptReader(loaded)
        self._words = Words(loaded.tokenizer)
        self._vocabulary = int(loaded.text_config["vocab_size"])
        settings = loaded.model.generation_config
        sampled = bool(settings.do_sample)
        self._default = Sampling(float(settings.temperature or 1.0) if sampled else 0.0, float(settings.top_p or 1.0) if sampled else 1.0)
        ends = settings.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        self._batch = Batch(loaded, self._decoders[model.value], store)
        self._loaded = loaded
        self._warm_up(loaded)
        held = bytes_held(loaded, self._decoders.values()) / 2**20
        log.info("%s holds %.1f MiB of weights on %s", type(loaded.model).__name__, held, loaded.device)
        return StartupParts(loading=read - began, quantizing=quantized - read, warming_up=time.monotonic() - quantized)

    def _warm_up(self, loaded: Loaded) -> None:
        """Answer a probe, with a picture where there are eyes: the first request should not pay for first-time work."""
        generation = Generation("warm-up", (), max_tokens=2, prefix="warm up")
        if loaded.processor is not None:
            generation = Generation("warm-up", (Message("user", (Picture(48, 48, bytes([128]) * (48 * 48 * 3)), "warm up")),), max_tokens=2)
        for name, decoder in self._decoders.items():
            prompt, _ = self._reader.read(generation)
            self._batch.decoder = decoder
            self._batch.enter([Row(prompt, Taste())])
            while not self._batch.writing:
                self._batch.read()
            self._batch.step()
            self._batch.clear()
            log.debug("warmed up %s", name)
        self._batch.decoder = self._decoders[self._precision]

    def _prepare(self, generation: Generation) -> _Job:
        """Tokens, pixels and one answer for each of `n`. Raises RequestError."""
        loaded = loaded_or_closed(self._loaded)
        prompt, size = self._reader.read(generation)
        most = min(generation.max_tokens, loaded.context - size.tokens)
        job = _Job(generation.request_id)
        for index in range(generation.n):
            structure = generation.structure
            rule = structure.make_filter(loaded.tokenizer, self._vocabulary) if structure is not None else None
            row = Row(prompt, Taste.of(generation.sampling, index, self._default, generation.top_logprobs, rule))
            job.answers.append(_Answer(job, index, row, size, most, Detokenizer(loaded.tokenizer), StopTexts(generation.stop)))
        return job

    def _run(self) -> None:
        """The decoding thread: let new requests in, read and step the batch, pass on what came out."""
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
                self._enter()
                self._batch.decoder = self._decoders[self._precision]
                out += self._collect(self._batch.read())
                if self._batch.writing:
                    out += self._collect(self._batch.step())
            except Exception as error:
                log.exception("the decoding step failed")
                self._failure = f"the decoding step failed: {type(error).__name__}"
                # Every job, those included that came while the step failed: nobody will answer them.
                self._deliver([*out, *((job, EngineError(self._failure)) for job in list(self._jobs.values()))])
                self._busy_stops()
                return
            self._deliver(out)

    def _busy_stops(self) -> None:
        if self._busy_since is not None:
            self._busy_seconds += time.monotonic() - self._busy_since
            self._busy_since = None

    def _leave(self) -> None:
        """Free the slots of those who left."""
        for row in [row for row, answer in self._active.items() if answer.job.cancelled]:
            self._end(row)

    def _enter(self) -> None:
        """Give free slots to those who wait, by priority."""
        entering: list[_Answer] = []
        with self._wake:
            while self._arrived and len(entering) < self._batch.free:
                _, _, answer = heapq.heappop(self._arrived)
                if not answer.job.cancelled:
                    entering.append(answer)
        self._active.update({answer.row: answer for answer in entering})
        if entering:
            self._batch.enter([answer.row for answer in entering])

    def _end(self, row: Row) -> None:
        self._batch.remove(row)
        del self._active[row]

    def _collect(self, rows: list[Row]) -> list[tuple[_Job, Delta | Exception]]:
        """The newest token of each as a delta; answers that end with it give up their slots."""
        out: list[tuple[_Job, Delta | Exception]] = []
        for row in list(rows):
            answer = self._active[row]
            delta = self._delta(answer)
            out.append((answer.job, delta))
            if delta.finish:
                self._end(row)
        return out

    def _delta(self, answer: _Answer) -> Delta:
        choice = answer.row.choice
        size = answer.size if answer.tokens == answer.index == 0 else None
        answer.tokens += 1
        if choice.token in self._ends:
            return Delta(self._last_text(answer), tokens=0, prompt=size, finish="stop", index=answer.index)
        text = answer.cut.feed(answer.text.push(choice.token))
        finish: FinishReason | None = None
        rule = answer.row.taste.filter
        if answer.cut.found or (rule is not None and rule.finished):
            finish = "stop"
        elif answer.tokens >= answer.max_tokens:
            finish = "length"
        if finish and not answer.cut.found:
            text += self._last_text(answer)
            finish = "stop" if answer.cut.found else finish
        return Delta(text, prompt=size, finish=finish, index=answer.index, logprobs=self._chances(choice))

    @staticmethod
    def _last_text(answer: _Answer) -> str:
        return answer.cut.feed(answer.text.rest()) + answer.cut.rest()

    def _chances(self, choice: Choice) -> tuple[TokenChances, ...]:
        if choice.chosen is None:
            return ()
        chances = [Chance(self._words[token], logprob) for token, logprob in (choice.chosen, *choice.top)]
        return (TokenChances(chances[0], tuple(chances[1:])),)

    def _deliver(self, out: list[tuple[_Job, Delta | Exception]]) -> None:
        def put() -> None:
            for job, item in out:
                job.deltas.put_nowait(item)

        if out and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(put)
