"""Looks at the run once per step: the object's status, the forecaster's band, and what was really sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from deepseek_demo.player import Player
from deepseek_demo.record import Moment, Recording, demand_at
from deepseek_demo.subject import APPLICATION, STATUS_PATH
from deepseek_forecaster.types import Forecast
from deepseek_forecaster.wire import FORECASTS_PATH, ForecastBatchRequest, ForecastRequest, WireError, read_response, write
from deepseek_localcluster.kubeapi import ApiError, KubeApi
from deepseek_operator.api.v1alpha1 import DeepSeekDeploymentStatus

FORECAST_EVERY_SECONDS = 2.0


@dataclass
class Watcher:
    """Adds a `Moment` to the recording every step of the play until it is cancelled, and tells `seen` after each."""

    api: KubeApi
    forecaster_url: str
    question: ForecastRequest
    player: Player
    recording: Recording
    step_seconds: float
    window_seconds: float
    seen: Callable[[], None]

    async def watch(self) -> None:
        """Look until cancelled."""
        forecast: Forecast | None = None
        asked_at = 0.0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0), trust_env=False) as session:
            while True:
                begun = time.monotonic()
                if begun - asked_at >= FORECAST_EVERY_SECONDS:
                    asked_at = begun
                    forecast = await self._forecast(session)
                status = await asyncio.to_thread(self._status)
                if time.monotonic() - self.player.began_at >= self.step_seconds:
                    self.recording.add(self._moment(status, forecast))
                    self.seen()
                await asyncio.sleep(max(0.05, begun + self.step_seconds - time.monotonic()))

    def _moment(self, status: DeepSeekDeploymentStatus, forecast: Forecast | None) -> Moment:
        now = time.monotonic() - self.player.began_at
        nodes, decision = status.nodes, status.decision
        return Moment(
            t_seconds=now,
            # In the first seconds less than a whole window lies behind.
            demand=demand_at(self.player.tally.sent_at, now, min(self.window_seconds, now)),
            forecast_p50=forecast.quantile(0.5) if forecast else None,
            forecast_p95=forecast.quantile(0.95) if forecast else None,
            asked=nodes.desired if nodes else 0,
            ready=nodes.ready if nodes else 0,
            paid=max(nodes.desired, nodes.current) if nodes else 0,
            reason=decision.reason if decision else "NotDecided",
            message=decision.message if decision else "the operator has not decided yet",
        )

    def _status(self) -> DeepSeekDeploymentStatus:
        try:
            found = self.api.request("GET", STATUS_PATH)
        except ApiError as error:
            if error.status == 404:
                return DeepSeekDeploymentStatus()
            raise
        return DeepSeekDeploymentStatus.model_validate(found.get("status") or {})

    async def _forecast(self, session: aiohttp.ClientSession) -> Forecast | None:
        """The forecast for the picture; None when there is none now."""
        body = write(ForecastBatchRequest(now=time.time(), requests=(self.question,)))
        try:
            async with session.post(self.forecaster_url + FORECASTS_PATH, data=body, headers={"Content-Type": "application/json"}) as response:
                answer = await response.read()
            return read_response(answer).by_series().get(APPLICATION)
        except (aiohttp.ClientError, TimeoutError, WireError):
            return None
