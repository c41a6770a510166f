"""A forest of decision trees as plain arrays: what boosting has learned, small to keep and quick to ask for a single row.

LightGBM's own booster takes about a millisecond and a megabyte for the same; a fleet of a thousand series has neither to spare, and the process
that answers need not load the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .expert import Bools, Floats

CHUNK = 256
"""Rows that go down the trees together: rows × trees × 8 bytes stay within the processor's cache."""


MOST_NODES = 127
"""Places in a tree are kept in one byte."""


@dataclass(frozen=True)
class Forest:
    """`output[t]` says to which of the answers tree t adds. All else has the shape (trees, nodes).

    A row goes to the node `left` where its column is at most `threshold`, or unknown and `unknown_left`, else to the node after that one. A
    leaf sends every row to itself, and `value` holds what it adds.
    """

    output: NDArray[np.int16]
    column: NDArray[np.int16]
    threshold: NDArray[np.float32]
    unknown_left: Bools
    left: NDArray[np.int8]
    value: NDArray[np.float32]
    depth: int
    outputs: int

    def predict(self, rows: Floats) -> Floats:
        """The sum of the leaves that each row reaches: (rows, columns) → (rows, outputs)."""
        answer = np.empty((len(rows), self.outputs))
        trees = np.arange(len(self.output))[None, :]
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            at = np.zeros((len(part), len(self.output)), dtype=np.int16)
            here = np.arange(len(part))[:, None]
            for _ in range(self.depth):
                seen = part[here, self.column[trees, at]]
                go_left = np.where(np.isnan(seen), self.unknown_left[trees, at], seen <= self.threshold[trees, at])
                at = np.where(go_left, self.left[trees, at], self.left[trees, at] + np.int16(1)).astype(np.int16)
            leaves = self.value[trees, at].astype(np.float64)
            for output in range(self.outputs):
                answer[start : start + CHUNK, output] = leaves[:, self.output == output].sum(axis=1)
        return answer

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {
            "output": self.output,
            "column": self.column,
            "threshold": self.threshold,
            "unknown_left": self.unknown_left,
            "left": self.left,
            "value": self.value,
            "size": np.array([self.depth, self.outputs]),
        }

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]], columns: int) -> Forest:
        """The forest that `state` was taken from, for rows of so many columns; ValueError when the arrays do not fit together."""
        try:
            depth, outputs = (int(number) for number in state["size"])
            forest = cls(
                output=state["output"].astype(np.int16),
                column=state["column"].astype(np.int16),
                threshold=state["threshold"].astype(np.float32),
                unknown_left=state["unknown_left"].astype(np.bool_),
                left=np.clip(state["left"], -1, MOST_NODES).astype(np.int8),
                value=state["value"].astype(np.float32),
                depth=depth,
                outputs=outputs,
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"a forest needs the arrays of its trees, had {sorted(state)}") from error
        shape = forest.column.shape
        nodes = (forest.threshold, forest.unknown_left, forest.left, forest.value)
        fits = len(shape) == 2 and forest.output.shape == shape[:1] and all(array.shape == shape for array in nodes)
        inside = fits and forest.column.min(initial=0) >= 0 and forest.column.max(initial=0) < columns and forest.left.min(initial=0) >= 0
        # a node that sends rows on, and not only to itself, needs the node after the left one, too
        itself = fits and (forest.left == np.arange(shape[1])) & np.isposinf(forest.threshold)
        if not inside or np.where(itself, forest.left, forest.left.astype(np.int16) + 1).max(initial=0) >= shape[1]:
            raise ValueError(f"a forest needs arrays of one shape (trees, nodes) over {columns} columns, had {shape}")
        return forest


def forest_of(boosters: Sequence[Any]) -> Forest:
    """The trees of LightGBM boosters, the answers of booster k at output k."""
    dumped = [(output, tree["tree_structure"]) for output, booster in enumerate(boosters) for tree in booster.dump_model()["tree_info"]]
    trees = [(output, list(_nodes(root))) for output, root in dumped]
    most = max(len(nodes) for _, nodes in trees)
    if most > MOST_NODES:
        raise ValueError(f"a tree may have at most {MOST_NODES} nodes, had {most}")
    shape = (len(trees), most)
    column, left = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.int8)
    threshold, value = np.full(shape, np.inf, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    unknown_left = np.ones(shape, dtype=np.bool_)
    left[:] = np.arange(most)
    depth = 1
    for row, (_, nodes) in enumerate(trees):
        for at, (node, level, children) in enumerate(nodes):
            depth = max(depth, level)
            if children is None:
                value[row, at] = node["leaf_value"]
                continue
            left[row, at] = children[0]
            # LightGBM's "whatever is known" is 1e300
            column[row, at], threshold[row, at] = node["split_feature"], np.clip(node["threshold"], -1e38, 1e38)
            # where training saw nothing unknown, LightGBM takes unknown for 0
            unknown_left[row, at] = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0
    outputs = np.array([output for output, _ in trees], dtype=np.int16)
    return Forest(outputs, column, threshold, unknown_left, left, value, depth, len(boosters))


def _nodes(root: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, tuple[int, int] | None]]:
    """The nodes of a tree, parents before children: each with its depth and the places of its children (None: a leaf)."""
    waiting, number = [(root, 0)], 1
    for node, depth in waiting:
        if "left_child" not in node:
            yield node, depth, None
            continue
        waiting += [(node["left_child"], depth + 1), (node["right_child"], depth + 1)]
        yield node, depth, (number, number + 1)
        number += 2
