"""Open-loop load: requests leave when the trace says so, whether or not earlier ones were answered, and none is sent twice.

Within a step the moments are drawn uniformly, which is a Poisson process given the number in the step.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from deepseek_demo.backfill import whole_requests
from deepseek_demo.letters import Letter
from deepseek_demo.traffic import Floats

LATE_SECONDS = 10.0
"""A request is late when its first token (its whole answer, where it is not streamed) took longer."""

MOST_REQUESTS = 20_000
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What became of one request. Times are seconds since the play began; `status` 0: no HTTP answer."""

    sent_at: float
    first_token_seconds: float
    seconds: float
    status: int
    right: bool | None = None  # None: nothing to check
    fault: str = ""

    @property
    def answered(self) -> bool:
        return self.status == 200 and not self.fault

    @property
    def late(self) -> bool:
        return self.answered and self.first_token_seconds > LATE_SECONDS


@dataclass
class Tally:
    """Everything sent so far and what became of it."""

    sent_at: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return len(self.sent_at)

    @property
    def answered(self) -> int:
        return sum(answer.answered for answer in self.answers)

    @property
    def late(self) -> int:
        return sum(answer.late for answer in self.answers)

    @property
    def failed(self) -> int:
        return len(self.answers) - self.answered

    @property
    def failures(self) -> Counter[str]:
        """How often each kind of failure came: `503`, `no answer: ServerDisconnectedError`, `200: stream ended early`."""
        failed = [answer for answer in self.answers if not answer.answered]
        return Counter(": ".join(filter(None, (str(answer.status or "no answer"), answer.fault))) for answer in failed)

    @property
    def checked(self) -> int:
        return sum(answer.right is not None for answer in self.answers)

    @property
    def right(self) -> int:
        return sum(answer.right is True for answer in self.answers)

    def latencies(self, since: float) -> list[float]:
        """Seconds each answered request took that was sent at or after `since`, ascending."""
        return sorted(answer.seconds for answer in self.answers if answer.answered and answer.sent_at >= since)


class Player:
    """Sends letters through the forward proxy to one service."""

    def __init__(self, url: str, proxy_url: str, letters: Sequence[Letter], seed: int) -> None:
        """`proxy_url` must be on this machine (ValueError otherwise): the demo loads nobody else."""
        host = urlsplit(proxy_url).hostname or ""
        if host != "localhost" and not (_is_address(host) and ipaddress.ip_address(host).is_loopback):
            raise ValueError(f"proxy_url must be an address of this machine, such as http://127.0.0.1:8888, was {proxy_url!r}")
        self.url, self.proxy_url, self.letters = url, proxy_url, letters
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.began_at = 0.0
        self._next = 0

    async def until_answered(self, within_seconds: float) -> Answer:
        """Ask again and again until the service answers one request; TimeoutError with the last failure when it does not."""
        deadline = time.monotonic() + within_seconds
        async with self._session() as session:
            while True:
                answer = await self._send(session, self._letter(), time.monotonic())
                if answer.answered:
                    return answer
                if time.monotonic() > deadline:
                    said = f"{answer.status or 'no answer'} {answer.fault}"
                    raise TimeoutError(f"no request was answered within {within_seconds:.0f} s; the last one: {said}")
                await asyncio.sleep(0.5)

    async def play(self, rates: Floats, step_seconds: float, began_at: float) -> None:
        """Send what `rates` (requests per second, one per step) says, step 0 at `began_at` (monotonic); steps already past are left out.

        Returns when every request has been answered or has failed.
        """
        self.began_at = began_at
        counts = whole_requests(rates, step_seconds)
        if counts.sum() > MOST_REQUESTS:
            raise ValueError(f"a play may have at most {MOST_REQUESTS} requests, this one has {counts.sum():.0f}: lower the rate or the length")
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            for step, count in enumerate(counts):
                for moment in sorted(self.rng.random() for _ in range(int(count))):
                    due = began_at + (step + moment) * step_seconds
                    if due < time.monotonic() - step_seconds:
                        continue
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    tasks.create_task(self._send_and_note(session, self._letter()))

    def _session(self) -> aiohttp.ClientSession:
        # force_close: a kept connection may be closed by the other side at the very moment it is used again.
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=timeout, trust_env=False)

    def _letter(self) -> Letter:
        self._next += 1
        return self.letters[self._next % len(self.letters)]

    async def _send_and_note(self, session: aiohttp.ClientSession, letter: Letter) -> None:
        self.tally.sent_at.append(time.monotonic() - self.began_at)
        self.tally.answers.append(await self._send(session, letter, self.began_at))

    async def _send(self, session: aiohttp.ClientSession, letter: Letter, began_at: float) -> Answer:
        sent = time.monotonic()
        status, first, text, fault = 0, 0.0, "", ""
        try:
            headers = {"Content-Type": "application/json"}
            async with session.post(self.url, data=letter.body, headers=headers, proxy=self.proxy_url) as response:
                status = response.status
                if status != 200:
                    await response.read()
                elif letter.streamed:
                    first, text, fault = await _read_stream(response, sent)
                else:
                    text = str(json.loads(await response.read())["choices"][0]["message"]["content"])
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            fault = type(error).__name__
        seconds = time.monotonic() - sent
        right = text.strip() == letter.answer if letter.has_picture and status == 200 and not fault else None
        return Answer(sent - began_at, first or seconds, seconds, status, right, fault)


async def _read_stream(response: aiohttp.ClientResponse, sent: float) -> tuple[float, str, str]:
    """Seconds to the first token, the text, and what was wrong with the stream (empty: nothing)."""
    first = 0.0
    pieces: list[str] = []
    async for line in response.content:
        data = line.decode().strip().removeprefix("data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == "[DONE]":
            return first, "".join(pieces), ""
        event = json.loads(data)
        if "error" in event:
            return first, "".join(pieces), f"error in stream: {event['error'].get('code') or event['error'].get('type')}"
        for choice in event["choices"]:
            if choice["delta"].get("content"):
                first = first or time.monotonic() - sent
                pieces.append(choice["delta"]["content"])
    return first, "".join(pieces), "stream ended early"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
