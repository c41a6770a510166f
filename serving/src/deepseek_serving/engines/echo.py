"""Answers with the question: no weights, no torch, the same answer every time. For trying out everything around a model."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator

from deepseek_serving.engine import Delta, EngineStats, FinishReason, Generation, Picture, PromptSize, StartupParts, context_exceeded

CONTEXT = 8192
"""Most tokens of a prompt; a token is a word with the blanks before it, a picture is one token."""

_WORD = re.compile(r"\s*\S+|\s+$")


class EchoEngine:
    """Echoes the last user's turn word by word, a picture as `[48x48 picture]`.

    It is instant: `serving.maxTokensPerSecond` gives a replica of it a true and exact capacity.
    """

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._cancelled: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy_seconds = 0.0

    async def start(self) -> StartupParts:
        return StartupParts()

    async def submit(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """One delta per word; gives way to other requests between two words."""
        began = time.monotonic()
        words = _WORD.findall(_echo(generation)) or [""]
        prompt = PromptSize(tokens=_prompt_tokens(generation), image=len(generation.pictures))
        if prompt.tokens >= CONTEXT:
            raise context_exceeded(prompt.tokens, CONTEXT)
        self._running.add(generation.request_id)
        self._idle.clear()
        try:
            kept = words[: generation.max_tokens]
            for index, word in enumerate(kept):
                last = index == len(kept) - 1
                finish: FinishReason | None = None if not last else "length" if len(kept) < len(words) else "stop"
                self._busy_seconds += time.monotonic() - began
                yield Delta(word, prompt=prompt if index == 0 else None, finish=finish)
                await asyncio.sleep(0)
                began = time.monotonic()
                if generation.request_id in self._cancelled:
                    return
        finally:
            self._running.discard(generation.request_id)
            self._cancelled.discard(generation.request_id)
            if not self._running:
                self._idle.set()

    def cancel(self, request_id: str) -> None:
        if request_id in self._running:
            self._cancelled.add(request_id)

    async def drain(self) -> None:
        await self._idle.wait()

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._running), waiting=0, slots=CONTEXT, busy_seconds=self._busy_seconds)

    def check_health(self) -> None:
        """Nothing in here can break."""

    async def close(self) -> None:
        self._cancelled |= self._running


def _echo(generation: Generation) -> str:
    if not generation.messages:
        return generation.prefix
    users = [message for message in generation.messages if message.role == "user"]
    parts = (users or list(generation.messages))[-1].parts
    return " ".join(f"[{part.width}x{part.height} picture]" if isinstance(part, Picture) else part for part in parts)


def _prompt_tokens(generation: Generation) -> int:
    texts = [part for message in generation.messages for part in message.parts if isinstance(part, str)] or [generation.prefix]
    return sum(len(text.split()) for text in texts) + len(generation.pictures)
