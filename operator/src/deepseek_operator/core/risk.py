"""Risk as money: which percentile of the predicted peak to provide for, given what a node and a late request cost.

The newsvendor's question (Arrow, Harris and Marschak 1951; any textbook of inventory): one more node for an hour costs `c`. If the peak
passes what the others carry, it answers 3600 × μ requests in that hour that would have waited, worth `p` each; if not, it was for nothing.
It pays as long as

    P(peak above the others) × 3600 μ p  >  c,    so the last node that pays lies at    q = 1 − c ÷ (3600 μ p).

It takes the peak to last as long as the node does. A shorter one costs less than this; one that makes a queue makes everybody behind it late
and costs more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from deepseek_operator.api.v1alpha1 import DEFAULT_PERCENTILE, ScalingSpec, quantity_value

LOWEST, HIGHEST = 0.5, 0.999
"""Quantiles that are ever provided for. Below the median the present demand rules anyway; what is passed once in a thousand leads is the most
that a fortnight of them can teach."""


def percentile(scaling: ScalingSpec, node_capacity: float | None) -> int:
    """`quantile` as the whole percentage that is shown and that the peak is issued at: at most 99."""
    return percent(quantile(scaling, node_capacity))


def percent(quantile: float) -> int:
    """A quantile as the whole percentage that stands for it: at most 99."""
    return min(99, round(100 * quantile))


def quantile(scaling: ScalingSpec, node_capacity: float | None) -> float:
    """The quantile of the predicted load to provide for; `node_capacity` is requests per second of one node, None while not known.

    2.50 an hour, 5 req/s, 0.01 a late request: 1 − 2.5 ÷ (3600 × 5 × 0.01) = 0.986
    """
    if scaling.forecast.percentile is not None:
        return scaling.forecast.percentile / 100
    if scaling.cost_of_late_request is None or scaling.cost_per_node_hour is None or not node_capacity:
        return DEFAULT_PERCENTILE / 100
    late_an_hour = 3600 * node_capacity * quantity_value(scaling.cost_of_late_request)
    if late_an_hour <= 0:  # beyond what a number can hold
        return LOWEST
    return min(HIGHEST, max(LOWEST, 1 - quantity_value(scaling.cost_per_node_hour) / late_an_hour))


def nodes_that_pay(loads: Sequence[tuple[float, float]], node_capacity: float, quantile: float, most: int) -> int:
    """Fewest nodes beyond which no further one pays: it would be needed with a probability of at most 1 − `quantile`.

    `loads` are (quantile, load) of what has to be carried, both rising; 0 nodes without any. How likely the n-th node is needed is averaged
    over its share of the load, from (n − 1) to n times `node_capacity`: that times a node's capacity is by how much it lowers the expected
    load that finds no node, which is what a newsvendor with whole nodes weighs against the node's price. A load that reaches a hair into a
    node's share asks for no node. Never above `most`.

    median 24, p99 30 req/s, 10 req/s per node: the third node's share (20 to 30) is needed with 55 % on average, the fourth's with 0.
    """
    if not loads:
        return 0
    lowest, highest = loads[0][1], loads[-1][1]
    if lowest >= most * node_capacity:
        return most
    nodes = math.floor(lowest / node_capacity)
    carried = _carried(loads, nodes * node_capacity)
    while nodes < most and nodes * node_capacity < highest:
        with_one_more = _carried(loads, (nodes + 1) * node_capacity)
        if (with_one_more - carried) / node_capacity <= 1.0 - quantile:
            break
        nodes, carried = nodes + 1, with_one_more
    return nodes


def _carried(loads: Sequence[tuple[float, float]], limit: float) -> float:
    """The expected load below `limit`: the probability of passing x, integrated over x from 0 to `limit`.

    It is 1 below the lowest load issued, falls straight from point to point, and is 0 beyond the highest.
    """
    carried = min(limit, loads[0][1])
    for (q, low), (q_next, high) in itertools.pairwise(loads):
        if limit <= low:
            break
        if high > low:
            end = min(limit, high)
            at_end = q + (q_next - q) * (end - low) / (high - low)
            carried += (end - low) * (1.0 - (q + at_end) / 2)
    return carried
