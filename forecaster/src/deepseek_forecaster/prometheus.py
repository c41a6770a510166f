"""The edge to Prometheus: one series on its grid, read in chunks of range queries. Blocking; to be called from a worker thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import RequestException
from urllib3.util.retry import Retry

from .models.expert import Floats, Ints

POINTS_PER_QUERY = 10_000
"""Prometheus refuses more than 11,000 points in one range query."""


class ReadError(RuntimeError):
    """Prometheus could not be read, or the query does not give one series; the text says which."""


class PrometheusReader:
    """Reads a PromQL query over a range of grid indices (index i = the instant i × step)."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout_seconds
        self._local = threading.local()

    def chunks(self, query: str, step_seconds: int, first: int, last: int) -> Iterator[tuple[Ints, Floats]]:
        """The known samples at indices first … last, oldest first, as (indices, loads); ReadError when a chunk cannot be read.

        NaN, infinite and negative values are not known: they are left out. Of two values for one index the later one in the answer counts.
        """
        for start in range(first, last + 1, POINTS_PER_QUERY):
            end = min(last, start + POINTS_PER_QUERY - 1)
            yield self._chunk(query, step_seconds, start, end)

    def _chunk(self, query: str, step_seconds: int, first: int, last: int) -> tuple[Ints, Floats]:
        try:
            result = self._connection().custom_query_range(
                query,
                start_time=datetime.fromtimestamp(first * step_seconds, UTC),
                end_time=datetime.fromtimestamp(last * step_seconds, UTC),
                step=str(step_seconds),
                params={"timeout": f"{max(1, math.floor(self._timeout))}s"},
            )
        except PrometheusApiClientException as error:
            raise ReadError(f"Prometheus refused the query: {str(error)[:500]}") from None
        except RequestException as error:
            raise ReadError(f"Prometheus at {self._url} could not be read: {str(error)[:500]}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ReadError(f"Prometheus at {self._url} gave something that is no range result: {type(error).__name__}: {error}") from None
        return samples(result, step_seconds, first, last)

    def _connection(self) -> Any:
        if not hasattr(self._local, "connection"):
            # one retry within the answer's own deadline; the next step is the real retry
            retry = Retry(total=1, backoff_factor=0.1, status_forcelist=[502, 503, 504], raise_on_status=False)
            self._local.connection = PrometheusConnect(self._url, retry=retry, timeout=self._timeout, method="POST")
        return self._local.connection


def samples(result: Any, step_seconds: int, first: int, last: int) -> tuple[Ints, Floats]:
    """The known samples of a range result (a list of series) between two grid indices; ReadError unless it is at most one series."""
    if not isinstance(result, list):
        raise ReadError(f"a range result must be a list of series, was {type(result).__name__}")
    if len(result) > 1:
        raise ReadError(f"the query must give ONE series, gave {len(result)}: aggregate it, for instance with sum(…)")
    if not result:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    found: dict[int, float] = {}
    try:
        for instant, text in result[0]["values"]:
            index, load = round(float(instant) / step_seconds), float(text)
            if first <= index <= last and math.isfinite(load) and load >= 0.0:
                found[index] = load
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ReadError(f"a range result must hold [instant, value] pairs under `values`: {type(error).__name__}: {error}") from None
    indices = np.array(sorted(found), dtype=np.int64)
    return indices, np.array([found[int(index)] for index in indices], dtype=np.float64)
