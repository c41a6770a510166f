"""The user's own traffic: a demand query over the last days, read from Prometheus in one-minute steps."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from deepseek_operator.replay.simulate import Rates

STEP_SECONDS = 60
POINTS_PER_QUERY = 10_000
"""Prometheus refuses more than 11,000 points in one range query; 14 days of minutes are 20,160."""


class ReadError(RuntimeError):
    """Prometheus could not be read, or the query does not give one series; the text says which."""


def read(url: str, query: str, days: float, now: float, timeout_seconds: float = 60.0) -> tuple[Rates, float]:
    """Requests per second in each minute of the `days` before `now` (Unix seconds), None where Prometheus knows nothing, and the Unix time of
    the first minute. The value at the end of a minute stands for it, as `rate(…[1m])` means it. Minutes before the first known one are cut.

    Raises `ReadError`.
    """
    last = math.floor(now / STEP_SECONDS)
    first = last - max(2, round(days * 86_400 / STEP_SECONDS)) + 1
    found: dict[int, float] = {}
    for begin in range(first, last + 1, POINTS_PER_QUERY):
        found |= _samples(_ask(url, query, begin, min(last, begin + POINTS_PER_QUERY - 1), timeout_seconds))
    if not found:
        raise ReadError(f"Prometheus at {url} has no sample of the query within the last {days:g} days: {query}")
    first = max(first, min(found))
    return [found.get(index) for index in range(first, last + 1)], float((first - 1) * STEP_SECONDS)


def _ask(url: str, query: str, first: int, last: int, timeout_seconds: float) -> Any:
    from prometheus_api_client import PrometheusConnect
    from prometheus_api_client.exceptions import PrometheusApiClientException
    from requests import RequestException
    from urllib3 import Retry

    connection = PrometheusConnect(url=url.rstrip("/"), retry=Retry(total=0), timeout=max(1, math.ceil(timeout_seconds)), method="POST")
    try:
        return connection.custom_query_range(
            query,
            start_time=datetime.fromtimestamp(first * STEP_SECONDS, UTC),
            end_time=datetime.fromtimestamp(last * STEP_SECONDS, UTC),
            step=str(STEP_SECONDS),
        )
    except PrometheusApiClientException as error:
        raise ReadError(f"Prometheus refused the query: {str(error)[:500]}") from None
    except RequestException as error:
        raise ReadError(f"Prometheus at {url} could not be read: {str(error)[:500]}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ReadError(f"Prometheus at {url} gave something that is no range result: {type(error).__name__}: {error}") from None


def _samples(result: Any) -> dict[int, float]:
    """The known samples by minute. What is not finite or below 0 is not known."""
    if not isinstance(result, list):
        raise ReadError(f"a range result must be a list of series, was {type(result).__name__}")
    if len(result) > 1:
        raise ReadError(f"the query must give one series, gave {len(result)}; wrap it in sum()")
    found: dict[int, float] = {}
    try:
        for instant, text in result[0]["values"] if result else ():
            value = float(text)
            if math.isfinite(value) and value >= 0:
                found[round(float(instant) / STEP_SECONDS)] = value
    except (KeyError, TypeError, ValueError) as error:
        raise ReadError(f"a range result must hold [instant, value] pairs under `values`: {type(error).__name__}: {error}") from None
    return found
