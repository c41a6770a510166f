"""`make bench-real`: one compressed stretch of traffic on real Ray nodes with real requests, under this operator's modes Predictive and
Reactive and under Ray Serve's own autoscaler, and beside each what the simulator says of the same requests. Writes docs/benchmark-real.md.

Each policy has a local cluster of its own: API server, KubeRay, Ray nodes, and for this operator Prometheus, the forecaster and the
operator. The stretch, the requests and their moments are the same (one seed). A node starts in 10 to 20 s here instead of minutes, so every
other time is divided by `FASTER` too: windows, cooldowns and the horizon of the object (as in the demo), the delays of Ray Serve.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bench import real_ray
from bench.real_report import write_page

from deepseek_demo import stage
from deepseek_demo.compare import cold_start_of
from deepseek_demo.letters import write_letters
from deepseek_demo.player import Answer, Player
from deepseek_demo.programs import Programs, train_tiny_model
from deepseek_demo.record import Moment, Recording
from deepseek_demo.run import IMAGE_SHARE, PRELUDE_SECONDS, READY_WITHIN_SECONDS, TO_WRITE_SECONDS, Options, Show, start_and_play
from deepseek_demo.stage import Pacing
from deepseek_demo.subject import SERVICE_URL, Subject, tokens_per_second
from deepseek_demo.traffic import generate, read_trace
from deepseek_localcluster import LocalCluster
from deepseek_operator.core.foresight import Question
from deepseek_operator.core.types import Policy
from deepseek_operator.edge.rayserve import RayServe
from deepseek_operator.replay import Decider, NodePolicy, Outcome, clairvoyant_node_hours, simulate
from deepseek_operator.replay.foresee import Foresight

FASTER = 15.0
"""A cold start of 180 s is 12 s here, a tick of 15 s is 1 s, a window of 300 s is 20 s."""

LATE_AFTER_SECONDS = (10.0, 3.0)
"""The objective, and a stricter one: in a stretch of minutes few requests wait 10 s."""

REQUESTS_AT_ONCE = 2
"""A replica works on so many at once, so that the first token tells how long a request waited; the simulator's queue is first in, first out."""

NAMES = {"predictive": "Predictive", "reactive": "Reactive", "ray": "Ray Serve's autoscaler"}
UNMEASURED_COLD_START_SECONDS = 15.0

LONGEST_START_SECONDS = 40.0
"""A stretch rises within a minute or so. Where a node takes longer than this to start, the machine has too much else to do: no policy could
keep up, and the figures would say nothing about any of them."""


@dataclass(frozen=True)
class Figures:
    """What a policy came to on the stretch: really, or as simulated. `late` by the objectives of `LATE_AFTER_SECONDS`, as shares."""

    node_hours: float
    requests: int
    late: tuple[float, ...]
    p95_wait_seconds: float | None
    failed: int = 0
    changes: int = 0


@dataclass(frozen=True)
class Played:
    """What really happened: every request that was sent, and what there was at each look. Seconds since the play began."""

    sent_at: list[float]
    answers: list[Answer]
    moments: list[Moment]

    def save(self, path: Path) -> None:
        """Keep it."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Played:
        """What `save` kept."""
        kept = json.loads(path.read_text())
        return cls(kept["sent_at"], [Answer(**one) for one in kept["answers"]], [Moment(**one) for one in kept["moments"]])


@dataclass(frozen=True)
class Compared:
    """One policy, one run."""

    policy: str
    real: Figures
    simulated: Figures
    least_node_hours: float
    cold_start_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="CSV with the columns t_min,count (default: traffic of the demo's generator)")
    parser.add_argument("--policies", nargs="+", choices=tuple(NAMES), default=list(NAMES))
    parser.add_argument("--play-seconds", type=float, default=255.0)
    parser.add_argument("--engine", choices=("echo", "transformers"), default="echo", help="echo: tokens at the same pace, without a model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("build/bench-real"))
    parser.add_argument("--again", action="store_true", help="play nothing; work the figures out anew from what was played into --out")
    parser.add_argument("--docs", type=Path, help="write the tables to this file, of all policies that ever ran into --out")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    show = settle(given)
    print(f"stretch    {show.stage.in_words()}", flush=True)
    for policy in given.policies:
        own = replace(show, out=show.out / policy, begun=time.monotonic())
        (own.out / "logs").mkdir(parents=True, exist_ok=True)
        if not given.again:
            play(policy, own).save(own.out / "played.json")
        compared = compare(policy, own, Played.read(own.out / "played.json"))
        print(json.dumps(asdict(compared), indent=2), flush=True)
        if compared.cold_start_seconds > LONGEST_START_SECONDS:
            took = f"a node took {compared.cold_start_seconds:.0f} s to start"
            raise SystemExit(f"{took}; beyond {LONGEST_START_SECONDS:g} s no policy has anything to decide: run it on a machine at rest")
        figures = {**asdict(compared), "stretch": show.stage.in_words(), "engine": given.engine}
        (own.out / "figures.json").write_text(json.dumps(figures, indent=2))
    if given.docs is not None:
        write_page(given.docs, [json.loads((given.out / policy / "figures.json").read_text()) for policy in NAMES])


def settle(given: argparse.Namespace) -> Show:
    """Choose the stretch and write the requests and the object, the same for every policy."""
    trace = read_trace(given.trace) if given.trace else generate(seed=given.seed)
    pacing = Pacing()
    options = Options(given.trace, given.out, None, given.play_seconds, 1.0, None, 25, pacing, given.seed)
    chosen = stage.choose(trace, pacing, given.play_seconds, min_step=1.0)
    directory = Path("build/tiny-model").resolve() if given.engine == "transformers" else None
    if directory is not None:
        train_tiny_model(directory)
    # All of them streamed: the first token says how long a request waited.
    letters = write_letters(400, "chat", IMAGE_SHARE if directory else 0.0, 1.0, given.seed)
    pace = tokens_per_second(directory, letters, pacing.requests_per_second_per_node)
    subject = Subject(directory, pacing, pace, options.horizon_seconds, max_ongoing_requests=REQUESTS_AT_ONCE)
    return Show(options, given.out.resolve(), chosen, letters, subject, lambda line: print(line, flush=True))


# ------------------------------------------------------------------------------------------------------------ on real nodes


def play(policy: str, show: Show) -> Played:
    """Play the stretch under one policy, on a cluster of its own."""
    show.say(f"policy     {NAMES[policy]}")
    with LocalCluster(ray_nodes=show.options.pacing.nodes, kuberay=True, probe_period_seconds=1.0) as cluster:
        if policy == "ray":
            player, recording = asyncio.run(_play_ray(show, cluster))
        else:
            mode = "Predictive" if policy == "predictive" else "Reactive"
            own = replace(show, subject=replace(show.subject, mode=mode))
            (own.out / "demo.yaml").write_text(yaml.safe_dump(own.subject.manifest(), sort_keys=False))
            programs = Programs(cluster)
            try:
                player, recording = start_and_play(own, cluster, programs)
            finally:
                programs.keep_logs(own.out / "logs")
    recording.write_csv(show.out / "timeline.csv", player.tally.answers)
    return Played(player.tally.sent_at, player.tally.answers, recording.moments)


async def _play_ray(show: Show, cluster: LocalCluster) -> tuple[Player, Recording]:
    step_seconds, before = show.stage.step_seconds, show.nodes_before
    cluster.apply(real_ray.service(show.subject, before, step_seconds, FASTER))
    player, recording = Player(SERVICE_URL, cluster.proxy_url, show.letters, show.options.seed), Recording()
    serve = RayServe(http_proxy=cluster.proxy_url)
    follower = real_ray.Follower(cluster.api, serve, player, recording, step_seconds, show.window_seconds, show.options.pacing.nodes)
    following = asyncio.create_task(follower.follow())
    try:
        answer = await player.until_answered(READY_WITHIN_SECONDS)
        show.say(f"answering  {show.since_command()}: the first request was answered in {answer.seconds:.2f} s")
        cut = max(0, len(show.stage.history) - round(PRELUDE_SECONDS / step_seconds))
        playing = asyncio.create_task(player.play(show.stage.known_rates[cut:], step_seconds, time.monotonic() + TO_WRITE_SECONDS))
        await asyncio.wait([playing, following], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        await playing
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await serve.close()
    return player, recording


# ------------------------------------------------------------------------------------------------------------ both together


def compare(policy: str, show: Show, played: Played) -> Compared:
    """The figures of the stretch after the prelude, beside the simulator's for the requests that were really sent."""
    begin, end = PRELUDE_SECONDS, PRELUDE_SECONDS + show.stage.play_seconds
    step = show.stage.step_seconds
    pacing = show.options.pacing
    cold_start = _cold_start(played.moments)
    counts, _ = np.histogram(played.sent_at, bins=round(end / step), range=(0.0, end))
    rates = [*show.stage.history[: len(show.stage.history) - round(begin / step)].tolist(), *(counts / step).tolist()]
    rates = [None if np.isnan(rate) else float(rate) for rate in rates]
    start = len(rates) - round((end - begin) / step)
    seen = _measured(rates, max(1, round(show.window_seconds / step)))
    at_begin = next((moment.asked for moment in played.moments if moment.t_seconds >= begin), show.nodes_before)

    def simulated(decide: Callable[[], NodePolicy]) -> Figures:
        runs = [
            simulate(
                rates, step, pacing.requests_per_second_per_node, decide(),
                cold_start_seconds=cold_start, tick_seconds=step, start=start, seen=seen,
                start_nodes=at_begin, max_nodes=pacing.nodes, late_seconds=limit,
            )
            for limit in LATE_AFTER_SECONDS
        ]  # fmt: skip
        return _of_outcomes(runs)

    capacity = pacing.requests_per_second_per_node
    return Compared(
        policy=NAMES[policy],
        real=_really(played, begin, end),
        simulated=simulated(lambda: _decider(policy, show, seen, start, cold_start)),
        least_node_hours=clairvoyant_node_hours(_smooth(rates, 10), step, capacity, cold_start, start=start),
        cold_start_seconds=cold_start,
    )


def _cold_start(moments: list[Moment]) -> float:
    """As measured; where a node was asked for and never came, the rest of the play."""
    measured = cold_start_of(moments)
    if measured is not None:
        return measured
    asked_at = next((after.t_seconds for before, after in itertools.pairwise(moments) if after.asked > before.asked), None)
    return UNMEASURED_COLD_START_SECONDS if asked_at is None else moments[-1].t_seconds - asked_at


def _decider(policy: str, show: Show, seen: list[float | None], start: int, cold_start: float) -> NodePolicy:
    """The policy as it ran, for the simulator."""
    pacing, step = show.options.pacing, show.stage.step_seconds
    capacity = pacing.requests_per_second_per_node
    if policy == "ray":
        return real_ray.Simulated(capacity, pacing.nodes, FASTER)
    spec = show.subject.spec
    mode: Any = NAMES[policy]
    foresight = None
    if policy == "predictive":
        question = Question.of(spec.scaling, capacity, cold_start, step, round(step))
        foresight = Foresight(seen, round(step), question, start=start, season_seconds=show.stage.season_seconds)
    return Decider(replace(Policy.of(spec), mode=mode), capacity, foresight, lead_seconds=cold_start + step)


def _really(played: Played, begin: float, end: float) -> Figures:
    answers = [answer for answer in played.answers if begin <= answer.sent_at < end]
    waits = sorted(answer.first_token_seconds for answer in answers if answer.answered)
    within = [moment for moment in played.moments if begin <= moment.t_seconds < end]
    times = [begin, *(moment.t_seconds for moment in within[1:]), end]
    paid = sum(moment.paid * (until - since) for moment, (since, until) in zip(within, itertools.pairwise(times), strict=True))
    failed = len(answers) - len(waits)
    return Figures(
        node_hours=paid / 3600,
        requests=len(answers),
        # A request that failed was not served in time either.
        late=tuple((sum(wait > limit for wait in waits) + failed) / max(1, len(answers)) for limit in LATE_AFTER_SECONDS),
        p95_wait_seconds=waits[int(0.95 * len(waits))] if waits else None,
        failed=failed,
        changes=sum(before.asked != after.asked for before, after in itertools.pairwise(within)),
    )


def _of_outcomes(runs: list[Outcome]) -> Figures:
    return Figures(
        node_hours=runs[0].node_hours,
        requests=round(runs[0].requests),
        late=tuple(run.late_share for run in runs),
        p95_wait_seconds=None,
        changes=runs[0].changes,
    )


def _measured(rates: list[float | None], window: int) -> list[float | None]:
    """What Prometheus shows: the mean over the window that ends with each step."""
    measured: list[float | None] = []
    for at in range(len(rates)):
        known = [rate for rate in rates[max(0, at - window + 1) : at + 1] if rate is not None]
        measured.append(sum(known) / len(known) if rates[at] is not None and known else None)
    return measured


def _smooth(rates: list[float | None], window: int) -> list[float | None]:
    """The rates over ten seconds: what can wait that long need not be carried at once."""
    return _measured(rates, window)


if __name__ == "__main__":
    main()
