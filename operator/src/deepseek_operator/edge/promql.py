"""What users' own queries may ask. Prometheus answers them with the operator's rights, so they reach as far as it may read.

A query is checked, never rewritten: Prometheus gets the text that the user wrote, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import promql_parser

Rule = Literal["Allow", "Enforce", "Forbid"]


@dataclass(frozen=True, slots=True)
class OwnQueries:
    """Allow any query, forbid all, or enforce that each of its selectors holds `label` to the namespace of its object."""

    rule: Rule = "Allow"
    label: str = "namespace"

    def objection(self, query: str, namespace: str) -> str:
        """Why the query of an object in `namespace` is not asked, and what is allowed; empty when it is asked."""
        if self.rule == "Allow":
            return ""
        if self.rule == "Forbid":
            return "scaling.demand.query is not allowed by this operator (--own-queries Forbid); leave it out to use the serving metrics"
        try:
            expression = promql_parser.parse(query)
        except ValueError as error:
            return f"scaling.demand.query cannot be read: {str(error).splitlines()[0][:200]}"
        wanted = f'{self.label}="{namespace}"'
        open_selectors: list[str] = []

        def visit(part: promql_parser.Expr) -> None:
            if isinstance(part, promql_parser.VectorSelector) and not self._held(part, namespace):
                open_selectors.append(part.name or "{…}")

        promql_parser.walk(expression, visit)
        if not open_selectors:
            return ""
        return f"each selector of scaling.demand.query must contain {wanted} (--own-queries Enforce); {open_selectors[0]} does not"

    def _held(self, selector: promql_parser.VectorSelector, namespace: str) -> bool:
        matchers = selector.matchers
        equal = promql_parser.MatchOp.Equal
        # `or` inside braces would offer a way around what stands before it.
        return not matchers.or_matchers and any(m.op == equal and m.name == self.label and m.value == namespace for m in matchers.matchers)
