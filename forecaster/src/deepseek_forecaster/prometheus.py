"""The edge to Prometheus: series on their grid, one over a long range in chunks, or many over the newest steps in one query. Blocking."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
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
TOGETHER_LABEL = "deepseek_forecaster_series"
"""By this label the series of a query for many are told apart."""


class ReadError(RuntimeError):
    """Prometheus could not be read, or the query does not give one series; the text says which."""


class RefusedError(ReadError):
    """Prometheus did not accept the query, or gave up on it."""


class PrometheusReader:
    """Reads PromQL queries over a range of grid indices (index i = the instant i × step)."""

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
            yield samples(self._range(query, step_seconds, start, end), step_seconds, start, end)

    def together(self, queries: Mapping[str, str], step_seconds: int, first: int, last: int) -> dict[str, tuple[Ints, Floats] | ReadError]:
        """The known samples of many queries at indices first … last (at most 10,000 of them), in one request: a value or an error for each.

        ReadError when Prometheus cannot be reached. If it refuses, the halves are asked separately, down to the query it objects to; so are
        the queries that cannot stand inside another one (`can_stand_together`).
        """
        alone = {name: query for name, query in queries.items() if not can_stand_together(query)}
        found = {name: self._alone(query, step_seconds, first, last) for name, query in alone.items()}
        return found | self._halves({name: query for name, query in queries.items() if name not in alone}, step_seconds, first, last)

    def _halves(self, queries: Mapping[str, str], step_seconds: int, first: int, last: int) -> dict[str, tuple[Ints, Floats] | ReadError]:
        if len(queries) <= 1:
            return {name: self._alone(query, step_seconds, first, last) for name, query in queries.items()}
        names = list(queries)
        # by number, since a series' name may be anything
        union = "\nor\n".join(
            f'label_replace((\n{queries[name]}\n), "{TOGETHER_LABEL}", "{number}", "", "")' for number, name in enumerate(names)
        )
        try:
            result = self._range(union, step_seconds, first, last)
        except RefusedError:
            half = len(names) // 2
            parts = [{name: queries[name] for name in part} for part in (names[:half], names[half:])]
            return self._halves(parts[0], step_seconds, first, last) | self._halves(parts[1], step_seconds, first, last)
        return _told_apart(result, names, step_seconds, first, last)

    def _alone(self, query: str, step_seconds: int, first: int, last: int) -> tuple[Ints, Floats] | ReadError:
        try:
            return samples(self._range(query, step_seconds, first, last), step_seconds, first, last)
        except ReadError as error:
            return error

    def _range(self, query: str, step_seconds: int, first: int, last: int) -> Any:
        """The result of a range query; ReadError."""
        try:
            return self._connection().custom_query_range(
                query,
                start_time=datetime.fromtimestamp(first * step_seconds, UTC),
                end_time=datetime.fromtimestamp(last * step_seconds, UTC),
                step=str(step_seconds),
                params={"timeout": f"{max(1, math.floor(self._timeout))}s"},
            )
        except PrometheusApiClientException as error:
            raise RefusedError(f"Prometheus refused the query: {str(error)[:500]}") from None
        except RequestException as error:
            raise ReadError(f"Prometheus at {self._url} could not be read: {str(error)[:500]}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ReadError(f"Prometheus at {self._url} gave something that is no range result: {type(error).__name__}: {error}") from None

    def _connection(self) -> Any:
        if not hasattr(self._local, "connection"):
            # one retry within the answer's own deadline; the next step is the real retry
            retry = Retry(total=1, backoff_factor=0.1, status_forcelist=[502, 503, 504], raise_on_status=False)
            self._local.connection = PrometheusConnect(self._url, retry=retry, timeout=self._timeout, method="POST")
        return self._local.connection


def can_stand_together(query: str) -> bool:
    """Whether a query can be put in parentheses inside another one without reaching out of them.

    Every parenthesis it closes it has opened before, every string and every bracket ends within it, and it holds no comment: what a user wrote
    for one series must not be able to speak for another one.
    """
    open_now: list[str] = []
    place = 0
    while place < len(query):
        letter = query[place]
        if letter in "\"'`":
            place = _end_of_string(query, place)
            if place < 0:
                return False
        elif letter in "([{":
            open_now.append(letter)
        elif letter in ")]}":
            if not open_now or open_now.pop() + letter not in ("()", "[]", "{}"):
                return False
        elif letter == "#":
            return False
        place += 1
    return not open_now


def _end_of_string(query: str, start: int) -> int:
    """Where the string that begins at `start` ends, −1 if it does not. A backslash escapes, save between backticks."""
    quote, place = query[start], start + 1
    while place < len(query):
        if query[place] == "\\" and quote != "`":
            place += 1
        elif query[place] == quote:
            return place
        place += 1
    return -1


def _told_apart(result: Any, names: list[str], step_seconds: int, first: int, last: int) -> dict[str, tuple[Ints, Floats] | ReadError]:
    """The result of a query for many, by name; a series without any sample has empty arrays."""
    if not isinstance(result, list):
        raise ReadError(f"a range result must be a list of series, was {type(result).__name__}")
    parts: list[list[Any]] = [[] for _ in names]
    try:
        for series in result:
            parts[int(series["metric"][TOGETHER_LABEL])].append(series)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ReadError(f"each series must carry the label {TOGETHER_LABEL} it was asked with: {type(error).__name__}: {error}") from None
    found: dict[str, tuple[Ints, Floats] | ReadError] = {}
    for name, part in zip(names, parts, strict=True):
        try:
            found[name] = samples(part, step_seconds, first, last)
        except ReadError as error:
            found[name] = error
    return found


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
