"""The real stretch: what is asked of Ray, what is counted, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from bench import real_day, real_ray, real_report

from deepseek_demo.player import Answer
from deepseek_demo.record import Moment
from deepseek_demo.stage import Pacing
from deepseek_demo.subject import Subject
from deepseek_operator.core.plan import ServeView
from deepseek_operator.replay import simulate

SUBJECT = Subject(None, Pacing(nodes=4), 24, 25, max_ongoing_requests=2)


def test_rays_autoscaler_gets_the_same_application_with_its_own_settings_in_the_same_measure() -> None:
    """As shipped, divided by 15: 2 s up, 40 s down; no count of ours and no outside scaler beside it."""
    compiled = yaml.safe_load(real_ray.service(SUBJECT, 2, 1.0, 15.0))
    assert "ownerReferences" not in compiled["metadata"]
    (application,) = yaml.safe_load(compiled["spec"]["serveConfigV2"])["applications"]
    assert "external_scaler_enabled" not in application
    (deployment,) = application["deployments"]
    assert "num_replicas" not in deployment
    config = deployment["autoscaling_config"]
    assert (config["upscale_delay_s"], config["downscale_delay_s"], config["look_back_period_s"]) == (2, 40, 2)
    assert (config["min_replicas"], config["initial_replicas"], config["max_replicas"], config["target_ongoing_requests"]) == (1, 2, 4, 2)


class FakeApi:
    """Takes patches down."""

    def __init__(self) -> None:
        self.patched: list[dict[str, object]] = []

    def request(self, method: str, path: str, body: dict[str, object], content_type: str) -> dict[str, object]:
        self.patched.append(body)
        return {}


@pytest.mark.parametrize(
    ("target", "replicas", "proxies", "asked", "leaving"),
    [
        (3, ("a", "b"), ("a", "b"), 3, []),
        (9, ("a", "b"), ("a", "b"), 4, []),
        (1, ("a", "b"), ("a", "b"), 2, None),
        (1, ("a",), ("a", "b"), 2, None),
        (1, ("a",), ("a",), 1, ["b"]),
        (2, ("a", "b"), ("a", "b"), 2, None),
    ],
    ids=["one more", "no more than there may be", "its replica still runs", "its proxy still drains", "empty: it goes", "nothing to do"],
)
def test_a_node_follows_its_replica(
    target: int, replicas: tuple[str, ...], proxies: tuple[str, ...], asked: int, leaving: list[str] | None
) -> None:
    """Two nodes a and b; Ray Serve wants `target` replicas."""
    api = FakeApi()
    follower = real_ray.Follower(api, None, None, None, 1.0, 5.0, 4)  # type: ignore[arg-type]
    cluster = {"metadata": {"name": "c", "resourceVersion": "7"}, "spec": {"workerGroupSpecs": [{"groupName": "gpu", "replicas": 2}]}}
    view = ServeView(target=target, replica_pods=replicas, proxy_pods=frozenset(proxies))
    assert follower._follow(cluster, ["a", "b"], view) == asked
    if leaving is None:
        assert api.patched == []
    else:
        (body,) = api.patched
        (group,) = body["spec"]["workerGroupSpecs"]  # type: ignore[index]
        assert (group["replicas"], group["scaleStrategy"]) == (asked, {"workersToDelete": leaving})
        assert body["metadata"] == {"resourceVersion": "7"}


def test_requests_in_flight_by_hand() -> None:
    """1.6 req/s on one node of 2: 0.8 in service, 0.64 ÷ 0.4 = 1.6 waiting by chance; and what the fluid queue holds."""
    assert real_ray.in_flight(1.6, 0, 1, 2.0) == pytest.approx(2.4)
    assert real_ray.in_flight(1.6, 5, 1, 2.0) == pytest.approx(7.4)


def test_rays_policy_adds_replicas_in_the_simulator_after_its_delay_and_takes_them_after_the_longer_one() -> None:
    """1 req/s, then 5 for 30 s on nodes of 2: up within seconds of 2 s; down once fewer were wanted for 40 s on end, the queue gone at 46 s."""
    rates = [1.0] * 30 + [5.0] * 30 + [1.0] * 100
    outcome = simulate(rates, 1.0, 2.0, real_ray.Simulated(2.0, 4, 15.0), tick_seconds=1.0, cold_start_seconds=5, start_nodes=1, max_nodes=4)
    asked = [row.asked for row in outcome.rows]
    assert max(asked[:31]) <= 2
    assert max(asked[31:38]) >= 3
    assert min(asked[40:80]) >= 3
    assert asked[-1] <= 2


def test_what_is_counted_of_the_real_run(tmp_path: Path) -> None:
    """Only the stretch from 10 s to 20 s: three requests, one answered after 4 s, one failed; 1 node for 4 s and 2 for 6 s."""
    answers = [
        Answer(5.0, 20.0, 20.0, 200),
        Answer(10.0, 0.5, 1.0, 200),
        Answer(12.0, 4.0, 5.0, 200),
        Answer(19.0, 0.1, 0.1, 503),
        Answer(20.0, 9.0, 9.0, 200),
    ]
    moments = [Moment(t, 1.0, None, None, asked=n, ready=1, paid=n) for t, n in ((9.0, 4), (10.0, 1), (14.0, 2), (21.0, 4))]
    played = real_day.Played([answer.sent_at for answer in answers], answers, moments)
    played.save(tmp_path / "played.json")
    found = real_day._really(real_day.Played.read(tmp_path / "played.json"), 10.0, 20.0)
    assert found.node_hours * 3600 == pytest.approx(4 * 1 + 6 * 2)
    assert (found.requests, found.failed, found.changes) == (3, 1, 1)
    assert found.late == pytest.approx((1 / 3, 2 / 3))
    assert found.p95_wait_seconds == 4.0


@pytest.mark.parametrize(
    ("ready", "seconds"), [((1, 2, 2), 2.0), ((1, 1, 1), 3.0)], ids=["there after two seconds", "never there: the rest of the play"]
)
def test_how_long_a_node_took(ready: tuple[int, ...], seconds: float) -> None:
    """Asked for at 1 s, looks at 2, 3 and 4 s."""
    looks = zip((0.0, 1.0, 2.0, 3.0, 4.0), (1, 2, 2, 2, 2), (1, 1, *ready), strict=True)
    moments = [Moment(t, 1.0, None, None, asked=n, ready=r, paid=n) for t, n, r in looks]
    assert real_day._cold_start(moments) == pytest.approx(seconds)


def test_what_prometheus_shows_is_the_mean_of_its_window_and_a_gap_stays_one() -> None:
    """A window of three steps."""
    assert real_day._measured([3.0, 0.0, 6.0, None, 3.0], 3) == [3.0, 1.5, 3.0, None, 4.5]


def test_the_page_has_two_lines_a_policy(tmp_path: Path) -> None:
    """Real and simulated, with shares as percent, and how far apart they are."""
    figures = {"node_hours": 0.2, "requests": 900, "late": [0.01, 0.05], "p95_wait_seconds": 2.5, "failed": 0, "changes": 6}
    run = {
        "policy": "Predictive", "real": figures, "simulated": {**figures, "node_hours": 0.19, "p95_wait_seconds": None},
        "least_node_hours": 0.16, "cold_start_seconds": 12.0, "stretch": "a day", "engine": "echo",
    }  # fmt: skip
    real_report.write_page(tmp_path / "page.md", [run])
    text = (tmp_path / "page.md").read_text()
    assert "| Predictive | real | 0.200 | 1.25 | 1.00 % | 5.00 % | 2.50 s | 0 | 6 |" in text
    assert "| Predictive | simulated | 0.190 | 1.19 | 1.00 % | 5.00 % | – | – | 6 |" in text
    assert "Predictive -5 %" in text
