"""Asks the forecaster: one batch request for the whole fleet. Its advice is checked, never trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

from deepseek_forecaster.types import Forecast
from deepseek_forecaster.wire import (
    FORECASTS_PATH,
    MAX_BODY_BYTES,
    MAX_REQUESTS,
    ForecastBatchRequest,
    ForecastRequest,
    WireError,
    read_response,
    write,
)


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The answers by series, and for every other series a sentence that says why there is none."""

    by_series: Mapping[str, Forecast] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    """Why there is no answer at all; empty when the forecaster answered."""


class ForecastSource(Protocol):
    """Where forecasts come from."""

    async def ask(self, now: float, requests: Sequence[ForecastRequest]) -> Forecasts:
        """Forecasts for these series at `now` (Unix seconds). Never raises: a failure is a `problem`."""
        ...


class NoForecaster:
    """No forecaster is configured."""

    async def ask(self, now: float, requests: Sequence[ForecastRequest]) -> Forecasts:
        """See `ForecastSource.ask`."""
        return Forecasts(problem="no forecaster is configured (--forecaster)")


class Forecaster:
    """The forecaster service at `url`."""

    def __init__(self, url: str, timeout_seconds: float = 3.0) -> None:
        self._url = url.rstrip("/") + FORECASTS_PATH
        self._timeout = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, now: float, requests: Sequence[ForecastRequest]) -> Forecasts:
        """See `ForecastSource.ask`."""
        if not requests:
            return Forecasts()
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout))
        try:
            body = write(ForecastBatchRequest(now=now, requests=tuple(requests[:MAX_REQUESTS])))
            async with self._session.post(self._url, data=body, headers={"Content-Type": "application/json"}) as response:
                received = bytearray()
                async for part in response.content.iter_any():
                    received += part
                    if len(received) > MAX_BODY_BYTES:
                        break
                answer = bytes(received)
                if response.status != 200:
                    return Forecasts(problem=f"the forecaster answered {response.status}: {answer[:200].decode(errors='replace')}")
            batch = read_response(answer)
        except WireError as error:
            return Forecasts(problem=f"the forecaster's answer is not valid: {error}")
        except TimeoutError:
            return Forecasts(problem=f"the forecaster did not answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Forecasts(problem=f"the forecaster cannot be reached: {type(error).__name__}: {error}")
        return Forecasts(by_series=batch.by_series(), problems=dict(batch.errors))

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
