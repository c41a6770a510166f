"""Users' own queries: what an operator that serves many teams lets through."""

from __future__ import annotations

import pytest

from deepseek_operator.edge.promql import OwnQueries

ENFORCED = OwnQueries("Enforce", "namespace")

HELD = {
    "a rate": 'sum(rate(requests_total{namespace="team-a"}[1m]))',
    "beside other labels": 'sum(rate(requests_total{code=~"2..",namespace="team-a"}[1m]))',
    "two selectors": 'sum(rate(a{namespace="team-a"}[1m])) + sum(rate(b{namespace="team-a"}[1m]))',
    "a subquery": 'max_over_time(sum(rate(a{namespace="team-a"}[1m]))[5m:1m])',
    "with an offset": 'sum(rate(a{namespace="team-a"}[1m] offset 5m))',
    "a number": "vector(3)",
}
OPEN = {
    "no label": ("sum(rate(requests_total[1m]))", "requests_total"),
    "another namespace": ('sum(rate(requests_total{namespace="team-b"}[1m]))', "requests_total"),
    "any namespace": ('sum(rate(requests_total{namespace=~".*"}[1m]))', "requests_total"),
    "all but one": ('sum(rate(requests_total{namespace!="team-a"}[1m]))', "requests_total"),
    "the second of two": ('sum(rate(a{namespace="team-a"}[1m])) + sum(rate(b[1m]))', "b"),
    "within a function's argument": ('clamp_max(a{namespace="team-a"}, scalar(b))', "b"),
    "within an aggregation's parameter": ('topk(scalar(b), a{namespace="team-a"})', "b"),
    "within quantile's parameter": ('quantile(scalar(b), a{namespace="team-a"})', "b"),
    "within a subquery": ('a{namespace="team-a"} + max_over_time(b[5m:1m])', "b"),
    "after unless": ('a{namespace="team-a"} unless on() b', "b"),
    "within brackets and a minus": ('a{namespace="team-a"} - (-(b))', "b"),
    "without a name": ('{__name__=~".+"}', "{…}"),
    "an `or` within the braces": ('a{namespace="team-a" or namespace="team-b"}', "a"),
    "the label in a comment": ('a # {namespace="team-a"}', "a"),
    "the label in a string": ('label_replace(a, "x", "{namespace=\\"team-a\\"}", "", "")', "a"),
}


@pytest.mark.parametrize("query", HELD.values(), ids=HELD.keys())
def test_a_query_that_keeps_to_its_namespace_is_asked(query: str) -> None:
    """Each selector holds the label."""
    assert ENFORCED.objection(query, "team-a") == ""


@pytest.mark.parametrize(("query", "selector"), OPEN.values(), ids=OPEN.keys())
def test_a_selector_that_reaches_further_is_named(query: str, selector: str) -> None:
    """And what it must contain."""
    assert ENFORCED.objection(query, "team-a") == (
        f'each selector of scaling.demand.query must contain namespace="team-a" (--own-queries Enforce); {selector} does not'
    )


def test_what_cannot_be_read_is_not_asked() -> None:
    """Half a query, say."""
    assert ENFORCED.objection("sum(rate(a", "team-a").startswith("scaling.demand.query cannot be read: ")


def test_allow_and_forbid() -> None:
    """Everything, or nothing."""
    assert OwnQueries().objection("a", "team-a") == ""
    assert "is not allowed by this operator (--own-queries Forbid)" in OwnQueries("Forbid").objection('a{namespace="team-a"}', "team-a")
