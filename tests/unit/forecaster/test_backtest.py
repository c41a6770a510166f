"""The backtest: its blocks, its yardsticks, its scores, and the command as a user runs it. Quick experts only: fits have tests elsewhere."""

from __future__ import annotations

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_forecaster.backtest.blocks import Blocks, TooShortError, cut
from deepseek_forecaster.backtest.play import QUANTILES, Said, play
from deepseek_forecaster.backtest.score import Truth, after_jumps, blocks_since_jump, score, score_of, truth_of
from deepseek_forecaster.backtest.yardsticks import between_neighbours, chance, rolling_conformal, ten_minute_mean
from deepseek_forecaster.cli import main
from deepseek_forecaster.models.expert import Expert, Floats, History, Ints, Untrained
from deepseek_forecaster.trace import Trace

QUICK = "last_value,ten_minute_mean,seasonal_naive"


def blocks_of(loads: list[float], steps: int = 1, start: int = 1, step_seconds: int = 600) -> Blocks:
    return Blocks("trace", np.array(loads, dtype=np.float64), step_seconds, steps, start)


def day_and_night(days: int, step_seconds: int, seed: int = 1) -> list[float]:
    """Counts around 10 requests a second that follow a day, with noise."""
    random = np.random.default_rng(seed)
    at = np.arange(round(days * 86_400 / step_seconds)) * step_seconds
    rate = 10 + 6 * np.sin(2 * np.pi * at / 86_400)
    return [float(count) for count in random.poisson(rate * step_seconds)]


def written(folder: Path, counts: list[float], step_minutes: float) -> Path:
    path = folder / "shop.csv"
    path.write_text("t_min,count\n" + "".join(f"{at * step_minutes:g},{count:g}\n" for at, count in enumerate(counts)))
    return path


def test_100_steps_of_a_minute_are_forecast_10_minutes_ahead_from_step_70_at_3_boundaries() -> None:
    blocks = cut(Trace("t", 60, (60.0,) * 100), 600)
    assert blocks.steps == 10
    assert blocks.origins.tolist() == [70, 80, 90]
    assert blocks.loads[0] == 1.0


def test_a_step_of_30_minutes_is_longer_than_the_horizon_so_the_horizon_is_one_step() -> None:
    blocks = cut(Trace("taxi", 1_800, (1.0,) * 10), 600)
    assert (blocks.steps, blocks.horizon_seconds) == (1, 1_800)
    assert blocks.origins.tolist() == [7, 8, 9]


def test_a_trace_of_three_steps_is_too_short_for_ten() -> None:
    with pytest.raises(TooShortError, match=r"must have at least 20 steps of 60 s .* had 3"):
        cut(Trace("t", 60, (1.0,) * 3), 600)


def test_a_block_with_6_of_10_steps_known_has_their_mean_and_peak_and_one_with_4_is_unknown() -> None:
    loads = [1.0] * 10 + [2, 4, math.nan, math.nan, 3, 3, 3, 3, math.nan, math.nan] + [5.0] * 4 + [math.nan] * 6
    mean, peak = blocks_of(loads, steps=10, start=10, step_seconds=60).came(np.array([10, 20]))
    assert mean[0] == 3.0
    assert peak[0] == 4.0
    assert np.isnan(mean[1])
    assert np.isnan(peak[1])


def test_the_last_10_minutes_mean_at_5_minute_steps_is_of_two_steps_or_what_was_known_last() -> None:
    blocks = blocks_of([2, 4, math.nan, math.nan, 8], step_seconds=300)
    np.testing.assert_array_equal(ten_minute_mean(blocks, np.array([2, 3, 4, 5])), [3, 4, 4, 8])


def test_conformal_quantiles_of_errors_1_to_19_take_the_18th_for_p90() -> None:
    """n = 19 errors: ⌈20 × 0.9⌉ = 18, so p90 is the load times the 18th smallest ratio."""
    came = np.array([float(n) for n in range(1, 20)] + [1.0])
    said = np.ones(20)
    blocks = blocks_of([0.0] * 100, start=50)
    quantile = rolling_conformal(said, came, (0.9,), blocks)
    assert quantile[0, 19] == pytest.approx(18.0)
    assert np.isnan(quantile[0, :10]).all()


def test_rolling_conformal_covers_90_percent_of_noise_it_has_not_seen() -> None:
    random = np.random.default_rng(3)
    came = np.exp(random.normal(0, 0.4, 3_000))
    quantile = rolling_conformal(np.ones(3_000), came, (0.9,), blocks_of([1.0] * 10, step_seconds=600))[0]
    known = np.isfinite(quantile)
    assert (came[known] <= quantile[known]).mean() == pytest.approx(0.9, abs=0.012)


def test_the_oracle_sees_both_neighbours_and_knows_nothing_at_the_end() -> None:
    found = between_neighbours(blocks_of([1, 2, 9, 4], start=1))
    np.testing.assert_array_equal(found, [5, 3, np.nan])


def test_chance_alone_errs_by_8_percent_on_100_requests_a_block() -> None:
    """√(2 × 100 ÷ π) ÷ 100 = 8.0 %; drawn numbers agree."""
    blocks = blocks_of([100 / 600] * 50)
    assert chance(blocks) == pytest.approx(0.0798, abs=1e-4)
    drawn = np.random.default_rng(0).poisson(100, 100_000)
    assert np.abs(drawn - 100).sum() / drawn.sum() == pytest.approx(chance(blocks), rel=0.02)


def test_a_forecaster_that_halves_the_naive_error_has_ratio_one_half_only_where_both_answered() -> None:
    came = np.array([10.0, 20.0, 10.0, 20.0])
    rows = np.stack([came, came, came])
    naive = Said(came + 4, rows, rows + 4)
    own = Said(np.array([12.0, 18.0, math.nan, 18.0]), rows, rows + 2)
    found = score_of(own, Truth(came, came, naive), np.full(4, math.nan))
    assert (found.origins, found.answered) == (4, 3)
    assert found.wape_mean == pytest.approx(6 / 50)
    assert found.mean_ratio == pytest.approx(0.5)
    assert found.peak_pinball_ratio[0.9] == pytest.approx(0.5)
    assert found.coverage_peak[0.9] == 1.0


def test_time_since_a_jump_counts_from_the_block_that_jumped() -> None:
    """One step to the double at block 50 of 100: 50 is the jump, 51 one block after, 60 and on are later."""
    blocks = blocks_of([10.0] * 60 + [20.0] * 51, start=10)
    truth = truth_of(blocks)
    since = blocks_since_jump(blocks, truth)
    assert since[50] == 0
    assert since[51] == 1
    found = after_jumps(truth.naive, truth, np.where(np.arange(len(since)) < 50, np.nan, np.arange(len(since)) - 50.0))
    assert found["the jump itself"][0] == pytest.approx(0.5)
    assert found["1 block after"][0] == 0.0


class Seer(Untrained):
    """Would be perfect if it were allowed to look ahead: it says what it finds after the end of what it was given."""

    name = "arima"

    def minimum_history(self, day: float, steps: int) -> int:
        return 1

    def predict_many(self, history: History, origins: Ints, steps: int) -> Floats:
        padded = np.concatenate((history.values, np.full(steps, 1_000.0)))
        return np.stack([padded[at + 1 : at + 1 + steps] for at in origins])


def test_the_ensemble_is_shown_nothing_after_its_origin() -> None:
    """An expert that reads what lies after the end of its history says 1,000 at each of 43 origins, or is found out."""
    shown: list[int] = []

    def fitting(name: str, history: History, steps: int) -> Expert:
        shown.append(len(history))
        return Seer()

    blocks = cut(Trace("t", 600, tuple(day_and_night(1, 600))), 600)
    played = play(blocks, ("arima",), fitting=fitting)
    assert max(shown) <= blocks.start, "fitted on what lies before the tested part"
    assert len(played.forecasts) == len(blocks.origins) == 43
    assert np.median(np.array([one.models.get("arima", 0.0) for one in played.forecasts if one is not None])) < 0.2


def test_a_failing_fit_is_reported_and_the_others_answer() -> None:
    def fitting(name: str, history: History, steps: int) -> Expert:
        raise ValueError("no luck")

    played = play(cut(Trace("t", 600, tuple(day_and_night(2, 600))), 600), ("ten_minute_mean", "arima"), fitting=fitting)
    assert played.failures == {"arima": "ValueError: no luck"}
    assert set(played.alone) == {"ten_minute_mean"}
    assert all(one is not None for one in played.forecasts)


def test_what_a_trace_says_of_the_first_70_percent_does_not_depend_on_the_rest() -> None:
    """The same two days with another last hour: every forecast issued before it is the same."""
    counts = day_and_night(2, 600)
    other = counts[:-6] + [50 * count for count in counts[-6:]]
    both = [play(cut(Trace("t", 600, tuple(trace)), 600), QUICK.split(",")).forecasts for trace in (counts, other)]
    assert both[0][:-6] == both[1][:-6]
    assert both[0][-1] != both[1][-1]


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.none() | st.integers(0, 1_000_000).map(float), min_size=20, max_size=80).filter(any),
    step=st.sampled_from([60, 300, 600, 1_800]),
)
def test_any_counts_give_scores_and_a_page_or_a_reason(counts: list[float | None], step: int) -> None:
    """Gaps, zeros and outbursts: every figure is a finite number or None, and the page is made."""
    from deepseek_forecaster.backtest.report import page
    from deepseek_forecaster.backtest.write import document

    played = play(cut(Trace("t", step, tuple(counts)), 600), QUICK.split(","))
    scores = score(played)
    json.dumps(document(played, scores), allow_nan=False)
    assert page(played, scores).startswith("<!doctype html>")


class Tags(HTMLParser):
    """Collects what a page would load, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(value) for name, value in attrs if name in ("src", "href") and value]


def test_the_command_writes_figures_forecasts_and_a_page_from_which_they_can_be_recomputed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = day_and_night(3, 60)
    trace = written(tmp_path, counts, 1)
    out = {name: tmp_path / "out" / f"found.{name}" for name in ("json", "csv", "html")}
    given = ["--trace", trace, "--experts", QUICK, "--json", out["json"], "--forecasts", out["csv"], "--report", out["html"]]
    assert main(["backtest", *map(str, given)]) == 0
    assert "ensemble" in capsys.readouterr().out
    found = json.loads(out["json"].read_text())
    with out["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert out["csv"].read_text().splitlines()[0] == "origin_seconds,mean,peak_p50,peak_p90,peak_p95"
    assert len(rows) == found["origins"] == 129
    errors = total = inside = 0.0
    for row in rows:
        block = counts[int(row["origin_seconds"]) // 60 :][:10]
        errors += abs(float(row["mean"]) - sum(block) / 10)
        total += sum(block) / 10
        inside += max(block) <= float(row["peak_p90"])
    assert errors / total == pytest.approx(found["ensemble"]["wapeMean"], rel=1e-4)
    assert inside / 129 == pytest.approx(found["ensemble"]["coveragePeak"]["0.9"], abs=0.02)
    assert found["ensemble"]["wapeMeanToTenMinuteMean"] < 1
    assert set(found["experts"]) == set(QUICK.split(","))
    assert set(found["ensemble"]["pinballPeak"]) == {f"{q:g}" for q in QUANTILES}
    page = out["html"].read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.loads == [], "nothing is loaded from anywhere"
    drawings = list(svgs(page))
    assert len(drawings) >= 5
    assert not any("nan" in ElementTree.tostring(drawing, encoding="unicode").lower() for drawing in drawings)


def svgs(page: str) -> Iterator[ElementTree.Element]:
    for part in page.split("<svg")[1:]:
        yield ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_a_horizon_that_had_to_be_rounded_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--trace", str(written(tmp_path, day_and_night(20, 3_600), 60)), "--experts", "last_value"]) == 0
    assert "the step is longer than the horizon, so it is forecast 60 min ahead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("t_min,count\n0,1\n1,many\n", "line 3, column count: expected a number", id="a word among the counts"),
        pytest.param("t_min,count\n0,1\n1,2\n", "a trace must have at least 20 steps of 60 s", id="two rows"),
    ],
)
def test_a_wrong_file_ends_with_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tmp_path / "wrong.csv").write_text(text)
    assert main(["backtest", "--trace", str(tmp_path / "wrong.csv")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--trace", "a.csv", "--experts", "oracle"], "must be names out of last_value"),
        (["--prometheus", "http://127.0.0.1:1"], "--prometheus and --query go together"),
        (["--trace", "a.csv", "--prometheus", "http://127.0.0.1:1"], "not allowed with argument"),
        (["--trace", "a.csv", "--horizon", "soon"], "must be a number above 0 with s, m, h"),
        ([], "one of the arguments --trace --prometheus is required"),
    ],
    ids=["an unknown expert", "no query", "two sources", "no number", "no source"],
)
def test_a_wrong_flag_says_what_is_allowed(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["backtest", *given])
    assert message in capsys.readouterr().err
