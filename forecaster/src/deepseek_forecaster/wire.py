"""The messages between the operator and the forecaster, as JSON with camelCase names: `POST /v1/forecasts`.

Both sides read with the same strict types, so neither can be fed NaN, a negative load or an unbounded body.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from .types import MAX_STEPS, Forecast, Message, Quantile, SeriesId

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_REQUESTS",
    "Forecast",
    "ForecastBatchRequest",
    "ForecastBatchResponse",
    "ForecastRequest",
    "WireError",
    "read_request",
    "read_response",
    "write",
]

FORECASTS_PATH = "/v1/forecasts"
MAX_REQUESTS = 10_000
"""Series in one batch."""
MAX_BODY_BYTES = 64 * 1024 * 1024
"""No message is larger than this: 64 MiB holds 10,000 series with a path of 60 steps and five quantiles."""


class WireError(ValueError):
    """A message that cannot be accepted; the text says where and what is allowed."""


class ForecastRequest(Message):
    """The question for one series: the quantiles of the peak over the next `horizon_seconds`, in steps of `step_seconds`.

    `query` is PromQL that gives ONE series, in units of work per second. With `lead_seconds` the answer also says what has to be carried until
    then so that no work waits longer than `slack_seconds` (`Forecast.sustained`).
    """

    series: SeriesId
    query: Annotated[str, Field(min_length=1, max_length=16_384)]
    step_seconds: Annotated[int, Field(ge=1, le=86_400)]
    horizon_seconds: Annotated[int, Field(ge=1, le=7 * 86_400)]
    quantiles: Annotated[tuple[Quantile, ...], Field(min_length=1, max_length=32)] = (0.5, 0.9, 0.95)
    lead_seconds: Annotated[int, Field(ge=1)] | None = None
    slack_seconds: Annotated[int, Field(ge=0, le=86_400)] = 0

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.steps > MAX_STEPS:
            raise ValueError(
                f"horizonSeconds must be at most {MAX_STEPS} × stepSeconds ({MAX_STEPS * self.step_seconds}), was {self.horizon_seconds}"
            )
        if self.lead_seconds is not None and self.lead_seconds > self.horizon_seconds:
            raise ValueError(f"leadSeconds must be at most horizonSeconds ({self.horizon_seconds}), was {self.lead_seconds}")
        if len(set(self.quantiles)) != len(self.quantiles):
            raise ValueError(f"quantiles must be different from each other, were {list(self.quantiles)}")
        return self

    @property
    def steps(self) -> int:
        """How many steps the answer's path has."""
        return math.ceil(self.horizon_seconds / self.step_seconds)


class ForecastBatchRequest(Message):
    """One question for the whole fleet, asked at the instant `now`; each series at most once."""

    now: Annotated[float, Field(ge=0.0, le=1e11)]
    requests: Annotated[tuple[ForecastRequest, ...], Field(max_length=MAX_REQUESTS)]

    @model_validator(mode="after")
    def _each_series_once(self) -> Self:
        seen: set[str] = set()
        for request in self.requests:
            if request.series in seen:
                raise ValueError(f"each series must be asked for once in a batch, {request.series!r} was asked for twice")
            seen.add(request.series)
        return self


class ForecastBatchResponse(Message):
    """A forecast for each series that has one, and for every other series a sentence that says why not."""

    forecasts: Annotated[tuple[Forecast, ...], Field(max_length=MAX_REQUESTS)] = ()
    errors: Mapping[str, Annotated[str, Field(max_length=2_000)]] = Field(default_factory=dict)

    def by_series(self) -> dict[str, Forecast]:
        """The forecasts by series id."""
        return {forecast.series: forecast for forecast in self.forecasts}


Read = TypeVar("Read", bound=Message)


def read_request(body: bytes | str) -> ForecastBatchRequest:
    """The batch request in `body`; WireError says what is allowed."""
    return _read(ForecastBatchRequest, body)


def read_response(body: bytes | str) -> ForecastBatchResponse:
    """The batch response in `body`; WireError says what is allowed."""
    return _read(ForecastBatchResponse, body)


def write(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return message.model_dump_json().encode()


def _read(kind: type[Read], body: bytes | str) -> Read:
    if len(body) > MAX_BODY_BYTES:
        raise WireError(f"a body must be at most {MAX_BODY_BYTES} bytes, had {len(body)}")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise WireError(_in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    """The first five problems, each with its place in the message: `requests.0.stepSeconds: … (was 0)`."""
    problems = error.errors(include_url=False, include_context=False)
    shown = "; ".join(_one_in_words(problem) for problem in problems[:5])
    return shown if len(problems) <= 5 else f"{shown}; and {len(problems) - 5} more"


def _one_in_words(problem: ErrorDetails) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    was = f" (was {given!r})" if isinstance(given, int | float | str | bool) and len(repr(given)) <= 60 else ""
    return f"{place}: {text}{was if 'was ' not in text else ''}" if place else text
