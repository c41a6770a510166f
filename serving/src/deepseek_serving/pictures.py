"""Brings a request's pictures into memory: fetched or decoded, few at a time, and never more pixels at once than the replica can hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from deepseek_serving.engine import Picture
from deepseek_serving.images import decode_image, measure_images
from deepseek_serving.openai import is_remote
from deepseek_serving.remote import ImageFetcher
from deepseek_serving.settings import ServingSettings

_THREADS = 2

_REQUESTS_AT_ONCE = 2
"""So many requests of the largest pictures may be in memory before the engine has read them.

2 × 16 megapixels × (4 bytes while decoded + 3 bytes as RGB) = 224 MB.
"""


class Pictures:
    """`loaded` gives a request's pictures, and their room back at its end."""

    def __init__(self, settings: ServingSettings) -> None:
        limits, hosts = settings.serving, settings.access.remote_image_hosts
        self._most = limits.max_image_megapixels
        self._fetcher = ImageFetcher(hosts) if hosts else None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")
        self._room = _Room(_REQUESTS_AT_ONCE * self._most * 1_000_000)

    @property
    def remote(self) -> bool:
        """Whether pictures of other hosts are fetched at all."""
        return self._fetcher is not None

    @asynccontextmanager
    async def loaded(self, urls: list[str]) -> AsyncIterator[list[Picture]]:
        """The pictures of `urls`, in order. Raises RequestError."""
        if not urls:
            yield []
            return
        if self._fetcher is not None:
            fetcher = self._fetcher
            urls = list(await asyncio.gather(*(fetcher.fetch(url) if is_remote(url) else _as_it_is(url) for url in urls)))
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._threads, measure_images, urls, self._most)
        async with self._room.of(pixels):
            yield await loop.run_in_executor(self._threads, self._decode, urls)

    def _decode(self, urls: list[str]) -> list[Picture]:
        return [decode_image(url, max_megapixels=self._most) for url in urls]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _as_it_is(url: str) -> str:
    return url


class _Room:
    """So many pixels at once; who does not fit waits at the door, the others behind it, in order."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def of(self, pixels: int) -> AsyncIterator[None]:
        async with self._door:
            while self._free < pixels:
                self._freed.clear()
                await self._freed.wait()
            self._free -= pixels
        try:
            yield
        finally:
            self._free += pixels
            self._freed.set()
