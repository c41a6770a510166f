"""The forest of plain arrays says what LightGBM's own boosters say."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek_forecaster.models.trees import Forest, forest_of


def boosters(rows: np.ndarray, targets: list[np.ndarray]) -> list[object]:
    pytest.importorskip("torch")
    lightgbm = pytest.importorskip("lightgbm")
    settings = {"num_leaves": 7, "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}
    return [lightgbm.train(settings, lightgbm.Dataset(rows, target), 12) for target in targets]


def rows_with_gaps() -> np.ndarray:
    """600 rows of four columns; a fifth of the third column is unknown."""
    random = np.random.default_rng(5)
    rows = random.normal(size=(600, 4))
    rows[random.random(600) < 0.2, 2] = np.nan
    return np.asarray(rows)


def test_two_boosters_of_twelve_trees_answer_the_same_as_arrays_also_where_a_column_is_unknown() -> None:
    rows = rows_with_gaps()
    targets = [rows[:, 0] + np.nan_to_num(rows[:, 2], nan=3.0), np.abs(rows[:, 1])]
    fitted = boosters(rows, targets)
    asked = rows_with_gaps()[::-1] * 1.3
    asked[:50, 0] = np.nan  # never unknown while it was trained
    expected = np.stack([one.predict(asked) for one in fitted], axis=1)  # type: ignore[attr-defined]
    assert forest_of(fitted).predict(asked) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_forest_restored_from_its_arrays_answers_the_same() -> None:
    rows = rows_with_gaps()
    forest = forest_of(boosters(rows, [rows[:, 0]]))
    assert Forest.restored(forest.state(), 4).predict(rows).tolist() == forest.predict(rows).tolist()


@pytest.mark.parametrize("spoil", ["left", "column", "value", "size"], ids=str)
def test_arrays_that_do_not_fit_together_are_refused(spoil: str) -> None:
    rows = rows_with_gaps()
    state = forest_of(boosters(rows, [rows[:, 0]])).state()
    state[spoil] = state[spoil][..., :-1] if spoil in ("value", "size") else state[spoil].astype(np.int64) + 1_000
    with pytest.raises(ValueError, match="a forest needs"):
        Forest.restored(state, 4)
