"""An AsyncLLM that says the prompt's words back, one a step, and remembers how it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found]
from vllm.sampling_params import RequestOutputKind, SamplingParams  # type: ignore[import-not-found]

PICTURE_TOKENS = 10


class EngineDeadError(Exception):
    """vllm.v1.engine.exceptions.EngineDeadError"""


class _Tokenizer:
    chat_template = "{{ messages }}"

    def encode(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        assert add_generation_prompt
        return " ".join(f"{turn['role']}: {turn['content']}" for turn in turns)


class AsyncLLM:
    """vllm.v1.engine.async_llm.AsyncLLM"""

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        self.arguments = arguments
        self.errored = False
        self.closed = False
        self.asked: dict[str, tuple[Any, SamplingParams, int]] = {}
        self.aborted: list[str] = []
        self.model_config = SimpleNamespace(
            max_model_len=50,
            hf_config=SimpleNamespace(model_type="deepseek_vl_v2" if arguments.hf_overrides else "deepseek_v3"),
            get_diff_sampling_param=lambda: {"temperature": 0.6, "top_p": 0.95},
        )

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
        if engine_args.model.endswith("too-large"):
            raise RuntimeError("CUDA out of memory")
        return cls(engine_args)

    async def get_tokenizer(self) -> _Tokenizer:
        return _Tokenizer()

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, *, lora_request: Any = None, priority: int = 0
    ) -> AsyncGenerator[Any, None]:
        if self.errored:
            raise EngineDeadError
        assert sampling_params.output_kind is RequestOutputKind.DELTA
        self.asked[request_id] = (prompt, sampling_params, priority)
        pictures = len(prompt.get("multi_modal_data", {}).get("image", []))
        if pictures > self.arguments.limit_mm_per_prompt.get("image", 1):
            raise ValueError("At most 8 image(s) may be provided in one prompt.")
        words = prompt["prompt"].split()
        size = len(words) + pictures * (PICTURE_TOKENS - 1)
        most = sampling_params.max_tokens or 16
        try:
            for number, word in enumerate(words[:most]):
                await asyncio.sleep(0.001)
                if self.errored:
                    raise EngineDeadError
                last = number + 1 == min(most, len(words))
                reason = ("length" if most < len(words) else "stop") if last else None
                logprobs = None
                if sampling_params.logprobs is not None:
                    likeliest = {7: SimpleNamespace(logprob=-0.1, rank=1, decoded_token=word)}
                    likeliest |= {8 + rank: SimpleNamespace(logprob=-1.0 - rank, rank=2 + rank, decoded_token=f"w{rank}") for rank in range(4)}
                    logprobs = [likeliest]
                outputs = [
                    SimpleNamespace(index=index, text=f"{word} ", token_ids=[7], logprobs=logprobs, finish_reason=reason, stop_reason=None)
                    for index in range(sampling_params.n)
                ]
                yield SimpleNamespace(request_id=request_id, prompt_token_ids=list(range(size)), outputs=outputs, finished=last)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    def shutdown(self) -> None:
        self.closed = True
