"""Risk as money: which percentile of the predicted peak to provide for, given what a node and a late request cost.

The newsvendor's question (Arrow, Harris and Marschak 1951; any textbook of inventory): one more node for an hour costs `c`. If the peak
passes what the others carry, it answers 3600 × μ requests in that hour that would have waited, worth `p` each; if not, it was for nothing.
It pays as long as

    P(peak above the others) × 3600 μ p  >  c,    so the last node that pays lies at    q = 1 − c ÷ (3600 μ p).

It takes the peak to last as long as the node does. A shorter one costs less than this; one that makes a queue makes everybody behind it late
and costs more.
"""

from __future__ import annotations

from deepseek_operator.api.v1alpha1 import DEFAULT_PERCENTILE, ScalingSpec, quantity_value

LOWEST, HIGHEST = 50, 99
"""Percentiles that are ever asked for. Below the median the present demand rules anyway; beyond the 99th a forecast of ten minutes has too few
days behind it to be measured."""


def percentile(scaling: ScalingSpec, node_capacity: float | None) -> int:
    """The percentile of the predicted peak to provide for; `node_capacity` is requests per second of one node, None while not known.

    2.50 an hour, 5 req/s, 0.01 a late request: 1 − 2.5 ÷ (3600 × 5 × 0.01) = 0.986 → 99
    """
    if scaling.forecast.percentile is not None:
        return scaling.forecast.percentile
    if scaling.cost_of_late_request is None or scaling.cost_per_node_hour is None or not node_capacity:
        return DEFAULT_PERCENTILE
    late_an_hour = 3600 * node_capacity * quantity_value(scaling.cost_of_late_request)
    if late_an_hour <= 0:  # beyond what a number can hold
        return LOWEST
    quantile = 1 - quantity_value(scaling.cost_per_node_hour) / late_an_hour
    return round(100 * min(HIGHEST / 100, max(LOWEST / 100, quantile)))
