"""The days before the play, as counters in OpenMetrics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from deepseek_demo.backfill import whole_requests, write_history
from deepseek_serving.metric_names import REQUESTS_OFFERED

SERIES = f'{REQUESTS_OFFERED.exported}{{application="default.chat"'


def samples(path: Path, kind: str) -> list[tuple[float, float]]:
    """(time, value) of the offered counter of one kind, as Prometheus' own format reads it."""
    text = path.read_text(encoding="utf-8")
    families = {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    offered = families[f"ray_{REQUESTS_OFFERED.name}"]
    assert offered.type == "counter"
    assert {sample.labels["application"] for sample in offered.samples} == {"default.chat"}
    return [(float(sample.timestamp), sample.value) for sample in offered.samples if sample.labels["kind"] == kind]


def test_4_tenths_of_a_request_per_second_are_2_requests_in_5_seconds() -> None:
    np.testing.assert_array_equal(whole_requests(np.full(5, 0.4), 1.0), [0, 0, 1, 0, 1])


@given(st.lists(st.floats(0, 50), min_size=1, max_size=200), st.sampled_from([0.5, 1.0, 2.0]))
def test_whole_requests_never_stray_from_the_rate_by_one_or_more(rates: list[float], step: float) -> None:
    counts = whole_requests(np.array(rates), step)
    assert (counts >= 0).all()
    assert (counts == np.floor(counts)).all()
    assert np.abs(np.cumsum(counts) - np.cumsum(rates) * step).max() < 1.0 + 1e-6


def test_the_counters_end_at_the_given_instant_and_rise_by_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "history.om"
    written = write_history(path, "default.chat", np.array([2.0, 4.0, 6.0]), 2.0, ends_at=1000.0, image_share=0.8, seed=1)
    assert written == 24  # (2 + 4 + 6) req/s × 2 s
    images, texts = samples(path, "image"), samples(path, "text")
    assert [time for time, _ in images] == [996.0, 998.0, 1000.0]
    assert [image + text for (_, image), (_, text) in zip(images, texts, strict=True)] == [4, 12, 24]
    assert 0 < texts[-1][1] < images[-1][1]


def test_an_unknown_step_has_no_sample_and_the_counter_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / "history.om"
    write_history(path, "default.chat", np.array([3.0, math.nan, 3.0]), 1.0, ends_at=10.0, image_share=1.0, seed=1)
    assert samples(path, "image") == [(8.0, 3.0), (10.0, 6.0)]


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_history(tmp_path / name, "default.chat", np.full(100, 5.0), 1.0, ends_at=1e9, image_share=0.5, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_every_sample_carries_the_application_the_demand_query_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "history.om"
    write_history(path, "default.chat", np.ones(3), 1.0, ends_at=10.0, image_share=0.5, seed=1)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(REQUESTS_OFFERED.exported)]
    assert len(lines) == 6
    assert all(line.startswith(SERIES) for line in lines)
    assert path.read_text(encoding="utf-8").endswith("# EOF\n")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_all_leaves_one_kind_at_zero(tmp_path: Path, share: float) -> None:
    path = tmp_path / "history.om"
    write_history(path, "default.chat", np.full(10, 2.0), 1.0, ends_at=10.0, image_share=share, seed=1)
    totals = {kind: samples(path, kind)[-1][1] for kind in ("image", "text")}
    assert totals == {"image": 20 * share, "text": 20 * (1 - share)}
