"""Serves by vLLM, for GPUs: its AsyncLLM behind the same protocol. vLLM is imported only when this engine starts; it is not a dependency.

Written against vLLM's V1 engine (`vllm.v1.engine.async_llm.AsyncLLM`): requests go in as text with PIL pictures, deltas come out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from deepseek_serving.engine import (
    Chance,
    Delta,
    EngineError,
    EngineStats,
    FinishReason,
    Generation,
    LoadError,
    Picture,
    PromptSize,
    RequestError,
    StartupParts,
    TokenChances,
    context_exceeded,
)
from deepseek_serving.settings import Compile, Mode, ModelSettings, Quantization, ServingSettings

log = logging.getLogger(__name__)

NEEDED = "vllm>=0.13"
"""The oldest release whose V1 engine has the names used here; `pip install` it into an image with a GPU."""

_FORMS = {
    Quantization.NONE: {},
    Quantization.BF16: {"dtype": "bfloat16"},
    Quantization.INT4: {"quantization": "bitsandbytes"},
}
"""What AsyncEngineArgs takes for each precision. bitsandbytes rounds to 4 bits (nf4) while it loads."""

_VL2 = "deepseek_vl_v2"
_VL2_ARCHITECTURE = "DeepseekVLV2ForCausalLM"
_VL2_PICTURE = "<image>"
_LEAST_LOGPROB = -9999.0


@dataclass(frozen=True)
class _Vllm:
    """The names of vLLM that are used."""

    engine_args: Any
    async_llm: Any
    sampling_params: Any
    structured_outputs: Any
    deltas: Any


def _import() -> _Vllm:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found]
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams  # type: ignore[import-not-found]
        from vllm.v1.engine.async_llm import AsyncLLM  # type: ignore[import-not-found]
    except ImportError as error:
        raise LoadError(
            f"engine vllm needs {NEEDED} in the image, and a GPU: pip install '{NEEDED}' ({error}); engine transformers needs neither"
        ) from error
    return _Vllm(AsyncEngineArgs, AsyncLLM, SamplingParams, StructuredOutputsParams, RequestOutputKind.DELTA)


class VllmEngine:
    """Lives on the event loop; vLLM computes in a process of its own."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._precision = settings.model.quantization.value
        self._engine: Any = None
        self._vllm: _Vllm | None = None
        self._running: dict[str, int] = {}
        self._cancelled: dict[str, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy_seconds = 0.0
        self._busy_since: float | None = None

    async def start(self) -> StartupParts:
        if self._settings.degrade.quantization is not None:
            raise LoadError("engine vllm holds one precision only; leave degrade.quantization out, degrade.maxOutputTokens is allowed")
        began = time.monotonic()
        self._vllm = await asyncio.to_thread(_import)
        imported = time.monotonic()
        arguments = _arguments(self._settings)
        try:
            # Builds its worker processes and loads the model: minutes, in a thread, for the health checks to be answered meanwhile.
            self._engine = await asyncio.to_thread(lambda: self._made(arguments))
        except Exception as error:
            raise LoadError(f"vllm cannot serve {self._settings.model.source}: {error}") from error
        loaded = time.monotonic()
        self._model_config = getattr(self._engine, "model_config", None) or self._engine.vllm_config.model_config
        tokenizer = self._engine.get_tokenizer()
        self._tokenizer = await tokenizer if inspect.isawaitable(tokenizer) else tokenizer
        warm = Generation("warm-up", (), max_tokens=2, prefix="warm up")
        async for _ in self.submit(warm):
            pass
        self._busy_seconds = 0.0
        return StartupParts(importing=imported - began, loading=loaded - imported, warming_up=time.monotonic() - loaded)

    def _made(self, arguments: dict[str, Any]) -> Any:
        assert self._vllm is not None
        return self._vllm.async_llm.from_engine_args(self._vllm.engine_args(**arguments))

    async def submit(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """Stream the answers; leaving early aborts them in vLLM."""
        self.check_health()
        prompt, words = self._prompt(generation)
        stopped = asyncio.Event()
        self._cancelled[generation.request_id] = stopped
        self._began(generation)
        try:
            parameters = self._parameters(generation)
            # vLLM lets the smaller number go first.
            outputs = self._engine.generate(prompt, parameters, generation.request_id, priority=-generation.priority)
            async with aclosing(_until(outputs, stopped)) as pieces:
                first = True
                async for output in pieces:
                    for completion in output.outputs:
                        size = _size(output, words, generation) if first else None
                        yield _delta(completion, size, generation.top_logprobs)
                        first = False
        except ValueError as error:
            raise RequestError(str(error), param="messages") from error
        except Exception as error:
            if type(error).__name__ in ("EngineDeadError", "EngineGenerateError"):
                raise EngineError(f"vllm: {type(error).__name__}") from error
            raise
        finally:
            self._cancelled.pop(generation.request_id, None)
            self._ended(generation)

    def cancel(self, request_id: str) -> None:
        if stopped := self._cancelled.get(request_id):
            stopped.set()

    async def drain(self) -> None:
        await self._idle.wait()

    def stats(self) -> EngineStats:
        """vLLM does not tell which of its requests wait for a slot: those beyond `slots` do."""
        asked = sum(self._running.values())
        slots = self._settings.serving.slots
        since = self._busy_since
        busy = self._busy_seconds + (time.monotonic() - since if since is not None else 0.0)
        return EngineStats(min(asked, slots), max(0, asked - slots), slots, busy, precision=self._precision)

    def precisions(self) -> tuple[str, ...]:
        return (self._precision,)

    def set_precision(self, precision: str) -> None:
        if precision != self._precision:
            raise ValueError(f"precision must be {self._precision}, was {precision!r}")

    def check_health(self) -> None:
        if self._engine is None:
            raise EngineError("the engine is not started, or closed")
        if getattr(self._engine, "errored", False):
            raise EngineError("vllm's engine process has ended")

    async def close(self) -> None:
        for stopped in self._cancelled.values():
            stopped.set()
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)

    def _began(self, generation: Generation) -> None:
        if not self._running:
            self._busy_since = time.monotonic()
        self._running[generation.request_id] = generation.n
        self._idle.clear()

    def _ended(self, generation: Generation) -> None:
        self._running.pop(generation.request_id, None)
        if not self._running:
            if self._busy_since is not None:
                self._busy_seconds += time.monotonic() - self._busy_since
                self._busy_since = None
            self._idle.set()

    def _parameters(self, generation: Generation) -> Any:
        assert self._vllm is not None
        sampling = generation.sampling
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        told = {**self._model_config.get_diff_sampling_param(), **{name: value for name, value in chosen.items() if value is not None}}
        told |= {"n": generation.n, "max_tokens": generation.max_tokens, "stop": list(generation.stop), "output_kind": self._vllm.deltas}
        if generation.top_logprobs is not None:
            told["logprobs"] = generation.top_logprobs
        if generation.structure is not None:
            told["structured_outputs"] = self._vllm.structured_outputs(json=generation.structure.json_schema)
        return self._vllm.sampling_params(**told)

    def _prompt(self, generation: Generation) -> tuple[dict[str, Any], int]:
        """vLLM's prompt, and how many tokens its text has, a picture's placeholder counted as one. Raises RequestError."""
        if generation.pictures and self._settings.model.mode is Mode.TEXT_ONLY:
            raise RequestError(
                "This model is served without its vision tower; it takes text only.", code="images_unsupported", param="messages"
            )
        text = self._text(generation)
        tokens = len(self._tokenizer.encode(text))
        if tokens >= self._model_config.max_model_len:
            raise context_exceeded(tokens, self._model_config.max_model_len)
        if not text:
            raise RequestError("The prompt is empty.", param="prompt")
        prompt: dict[str, Any] = {"prompt": text}
        if generation.pictures:
            prompt["multi_modal_data"] = {"image": [_image(picture) for picture in generation.pictures]}
        return prompt, tokens

    def _text(self, generation: Generation) -> str:
        if not generation.messages:
            return generation.prefix
        if getattr(self._model_config.hf_config, "model_type", "") == _VL2:
            return _vl2_text(generation)
        if not getattr(self._tokenizer, "chat_template", None):
            raise RequestError("This model has no chat template; send a text to continue to /v1/completions.", param="messages")
        if generation.pictures:
            raise RequestError("With vllm only DeepSeek-VL2 takes pictures.", code="images_unsupported", param="messages")
        turns = [
            {"role": message.role, "content": "".join(part for part in message.parts if isinstance(part, str))}
            for message in generation.messages
        ]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text


def _arguments(settings: ServingSettings) -> dict[str, Any]:
    """What AsyncEngineArgs is given. Raises LoadError for what vLLM cannot do."""
    model = settings.model
    if model.quantization not in _FORMS:
        raise LoadError(
            f"engine vllm cannot round to {model.quantization.value} at load; allowed: none, bf16, int4 (or quantization none with a "
            "checkpoint that is in 8 bits already)"
        )
    name, revision = _source(model)
    arguments: dict[str, Any] = {
        "model": name,
        "revision": revision,
        "max_num_seqs": settings.serving.slots,
        "scheduling_policy": "priority",
        "enable_log_requests": False,  # no prompt in any log
        "disable_log_stats": True,
        **_FORMS[model.quantization],
        "limit_mm_per_prompt": {"image": 0 if model.mode is Mode.TEXT_ONLY else settings.serving.max_images_per_request},
    }
    if model.compile is not Compile.AUTO:
        arguments["enforce_eager"] = model.compile is Compile.NEVER  # no torch.compile and no CUDA graphs
    if _model_type(name) == _VL2:
        arguments["hf_overrides"] = {"architectures": [_VL2_ARCHITECTURE]}  # its own config.json names none that vLLM knows
    return arguments


def _source(model: ModelSettings) -> tuple[str, str | None]:
    from deepseek_serving.sources import find

    origin = find(model.source)
    return origin.name, origin.revision


def _model_type(name: str) -> str:
    import json
    from pathlib import Path

    try:
        return str(json.loads((Path(name) / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError):
        # A repository's name, not yet downloaded: DeepSeek-VL2's are called so.
        return _VL2 if "deepseek-vl2" in name.lower() else ""


def _vl2_text(generation: Generation) -> str:
    """DeepSeek-VL2's way of writing a conversation; its tokenizer brings no template."""
    turns = []
    for message in generation.messages:
        parts = "".join(f"{_VL2_PICTURE}\n" if isinstance(part, Picture) else part for part in message.parts)
        if any(_VL2_PICTURE in part for part in message.parts if isinstance(part, str)):
            raise RequestError(f"Text may not contain {_VL2_PICTURE}, which stands for a picture.", param="messages")
        turns.append({"system": parts, "user": f"<|User|>: {parts}", "assistant": f"<|Assistant|>: {parts}<｜end▁of▁sentence｜>"}[message.role])
    return "\n\n".join([*turns, "<|Assistant|>:"])


def _image(picture: Picture) -> Any:
    from PIL import Image

    return Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)


def _size(output: Any, words: int, generation: Generation) -> PromptSize:
    """vLLM puts a picture's tokens in the place of its placeholder: what is more than the text had stands for pictures."""
    tokens = len(output.prompt_token_ids or ())
    seen = len(generation.pictures)
    return PromptSize(tokens, image=max(0, tokens - words + seen) if seen else 0)


def _delta(completion: Any, size: PromptSize | None, top_logprobs: int | None) -> Delta:
    finishes: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
    finish = finishes.get(completion.finish_reason) if completion.finish_reason else None
    chances: tuple[TokenChances, ...] = ()
    if top_logprobs is not None and completion.logprobs:
        chances = tuple(
            _chances(likeliest, token, top_logprobs) for token, likeliest in zip(completion.token_ids, completion.logprobs, strict=False)
        )
    tokens = len(completion.token_ids)
    return Delta(completion.text, tokens, size, finish, completion.index, chances)


def _chances(likeliest: dict[int, Any], token: int, most: int) -> TokenChances:
    ranked = sorted(likeliest.values(), key=lambda one: -one.logprob)[:most]
    return TokenChances(_chance(likeliest[token]), tuple(map(_chance, ranked)))


def _chance(one: Any) -> Chance:
    return Chance(one.decoded_token or "", max(float(one.logprob), _LEAST_LOGPROB))


_ENDED = object()


async def _until(outputs: Any, stopped: asyncio.Event) -> AsyncGenerator[Any, None]:
    """What vLLM puts out, until `stopped`; closing vLLM's generator makes it abort the request."""
    waiting = asyncio.ensure_future(stopped.wait())
    try:
        async with aclosing(outputs):
            while True:
                following = asyncio.ensure_future(_next(outputs))
                try:
                    await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
                if following.cancelled() or (output := following.result()) is _ENDED:
                    return
                yield output
                if stopped.is_set():
                    return
    finally:
        waiting.cancel()


async def _next(outputs: Any) -> Any:
    try:
        return await anext(outputs)
    except StopAsyncIteration:
        return _ENDED
