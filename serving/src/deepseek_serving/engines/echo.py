"""Answers with the question: no weights, no torch, the same answer every time. For trying out everything around a model."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from deepseek_serving.engine import (
    Chance,
    Delta,
    EngineStats,
    FinishReason,
    Generation,
    Picture,
    PromptSize,
    RequestError,
    StartupParts,
    TokenChances,
    context_exceeded,
)
from deepseek_serving.stopping import StopTexts

CONTEXT = 8192
"""Most tokens of a prompt; a token is a word with the blanks before it, a picture is one token."""

_WORD = re.compile(r"\s*\S+|\s+$")


PRECISION = "exact"
"""What an engine without weights answers when it is asked for its precision."""


class EchoEngine:
    """Echoes the last user's turn word by word, a picture as `[48x48 picture]`; n answers take turns, word by word, and are all alike.

    It is certain of each word: every log-probability is 0. It is instant: `serving.maxTokensPerSecond` gives a replica of it a true and exact
    capacity.
    """

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._cancelled: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy_seconds = 0.0

    async def start(self) -> StartupParts:
        return StartupParts()

    async def submit(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """One delta per word; gives way to other requests between two words."""
        began = time.monotonic()
        if generation.structure is not None:
            raise RequestError("The echo engine cannot keep to a JSON schema.", code="unsupported_parameter", param="response_format")
        prompt = PromptSize(tokens=_prompt_tokens(generation), image=len(generation.pictures))
        if prompt.tokens >= CONTEXT:
            raise context_exceeded(prompt.tokens, CONTEXT)
        answer = _answer(generation)
        self._running[generation.request_id] = generation.n
        self._idle.clear()
        try:
            for number, delta in enumerate(answer):
                for index in range(generation.n):
                    first = number == index == 0
                    self._busy_seconds += time.monotonic() - began
                    yield replace(delta, index=index, prompt=prompt if first else None)
                    await asyncio.sleep(0)
                    began = time.monotonic()
                    if generation.request_id in self._cancelled:
                        return
        finally:
            self._running.pop(generation.request_id, None)
            self._cancelled.discard(generation.request_id)
            if not self._running:
                self._idle.set()

    def cancel(self, request_id: str) -> None:
        if request_id in self._running:
            self._cancelled.add(request_id)

    async def drain(self) -> None:
        await self._idle.wait()

    def stats(self) -> EngineStats:
        running = sum(self._running.values())
        return EngineStats(running, waiting=0, slots=CONTEXT, busy_seconds=self._busy_seconds, precision=PRECISION)

    def precisions(self) -> tuple[str, ...]:
        return (PRECISION,)

    def set_precision(self, precision: str) -> None:
        if precision != PRECISION:
            raise ValueError(f"precision must be {PRECISION}, was {precision!r}")

    def check_health(self) -> None:
        """Nothing in here can break."""

    async def close(self) -> None:
        self._cancelled |= self._running.keys()


def _answer(generation: Generation) -> list[Delta]:
    """One answer, a delta per word, ending at a stop text, at `max_tokens` words or where the echo does."""
    words = _WORD.findall(_echo(generation)) or [""]
    kept = words[: generation.max_tokens]
    cut = StopTexts(generation.stop)
    deltas: list[Delta] = []
    for number, word in enumerate(kept, start=1):
        text = cut.feed(word)
        ends = number == len(kept)
        finish: FinishReason | None = None if not (ends or cut.found) else "length" if not cut.found and len(kept) < len(words) else "stop"
        chances = () if generation.top_logprobs is None else (_certain(word, generation.top_logprobs),)
        deltas.append(Delta(text + cut.rest() if finish else text, finish=finish, logprobs=chances))
        if finish:
            break
    return deltas


def _certain(word: str, top: int) -> TokenChances:
    chance = Chance(word, 0.0)
    return TokenChances(chance, (chance,)[:top])


def _echo(generation: Generation) -> str:
    if not generation.messages:
        return generation.prefix
    users = [message for message in generation.messages if message.role == "user"]
    parts = (users or list(generation.messages))[-1].parts
    return " ".join(f"[{part.width}x{part.height} picture]" if isinstance(part, Picture) else part for part in parts)


def _prompt_tokens(generation: Generation) -> int:
    texts = [part for message in generation.messages for part in message.parts if isinstance(part, str)] or [generation.prefix]
    return sum(len(text.split()) for text in texts) + len(generation.pictures)
