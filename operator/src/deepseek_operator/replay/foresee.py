"""The forecasts that mode Predictive would have had: the forecaster's own walk over the trace, in this process.

The operator's image carries no model library, so the walk is imported only here and only when a forecast is wanted (.importlinter says so too).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from deepseek_operator.core.foresight import Question
from deepseek_operator.core.types import PeakForecast
from deepseek_operator.replay.simulate import Rates

if TYPE_CHECKING:
    from deepseek_forecaster.types import Forecast


class NoModelsError(RuntimeError):
    """The forecaster's models are not installed; the text names what to install."""


class Foresight:
    """The forecast that was there at an instant, while time moves on: a `Forecaster` for the decider.

    The walk is made step by step as it is asked for, so a forecast is never made of what came later.
    """

    def __init__(
        self,
        rates: Rates,
        step_seconds: int,
        question: Question,
        *,
        start: int,
        season_seconds: float = 86_400.0,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Raises `NoModelsError` where the forecaster is installed without its models."""
        self._question, self._step_seconds = question, step_seconds
        self._walk = _walk(rates, step_seconds, question, start, season_seconds, progress)
        self._latest: Forecast | None = None
        self._coming = next(self._walk, None)
        self.missing: dict[str, int] = {}

    def __call__(self, now: float) -> PeakForecast | None:
        """The newest forecast at `now` (never earlier than before), if it may be acted on; why not is counted in `missing`."""
        while self._coming is not None and self._coming.issued_at <= now + 1e-6:
            self._latest, self._coming = self._coming, next(self._walk, None)
        answer: PeakForecast | str = "there is nothing to forecast from"
        if self._latest is not None:
            answer = self._question.read(self._latest, now, self._step_seconds)
        if not isinstance(answer, str):
            return answer
        kind = re.sub(r"-?\d[\d.]*", "…", answer)  # one line for the forecasts that were 135 s, 150 s, … old
        self.missing[kind] = self.missing.get(kind, 0) + 1
        return None


def _walk(
    rates: Rates, step_seconds: int, question: Question, start: int, season_seconds: float, progress: Callable[[float], None] | None
) -> Iterator[Forecast]:
    try:
        from deepseek_forecaster.walk import walk
    except ImportError as error:
        raise NoModelsError(
            f"modes Predictive and Shadow replay the forecaster's own models, and {error.name or error} is not installed: "
            "`pip install deepseek-forecaster[models]` beside the operator, or replay with --mode Reactive"
        ) from error
    return walk(
        rates,
        step_seconds,
        start=start,
        horizon_seconds=question.whole_seconds,
        quantiles=question.quantiles,
        lead_seconds=question.whole_lead_seconds,
        slack_seconds=question.slack_seconds,
        season_seconds=season_seconds,
        refit_seconds=season_seconds,
        progress=progress,
    )
