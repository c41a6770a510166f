"""The demo from the first line to the last; `run` reads as a table of contents."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from deepseek_demo import compare, picture, stage, summary
from deepseek_demo.backfill import write_history
from deepseek_demo.letters import Letter, write_letters
from deepseek_demo.live import View
from deepseek_demo.player import Player
from deepseek_demo.programs import Programs, train_tiny_model
from deepseek_demo.record import Recording
from deepseek_demo.stage import Pacing, Stage
from deepseek_demo.subject import APPLICATION, NAME, SERVICE_URL, Subject, tokens_per_second
from deepseek_demo.traffic import generate, read_trace
from deepseek_demo.watch import Watcher
from deepseek_forecaster.wire import ForecastRequest
from deepseek_localcluster import LocalCluster, prometheus
from deepseek_operator.api.crd import plain_manifest
from deepseek_serving.metric_names import demand_query

IMAGE_SHARE = 0.8
STREAM_SHARE = 0.5
LETTERS = 400
READY_WITHIN_SECONDS = 240.0
PRELUDE_SECONDS = 45.0
"""Real requests before the stretch begins: as long as the forecaster may take to fit its models to the past."""
TO_WRITE_SECONDS = 4.0
"""From the first answer to the first request of the play: the past is written in the meantime, and Prometheus takes it up."""

METRICS_LAG_SECONDS = 2.0
"""A replica's count is seen this much later (Ray exports every second, Prometheus scrapes every second); the past is written as late."""

WINDOW_STEPS = 5
MOST_TAIL_SECONDS = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the command line gives."""

    trace: Path | None
    out: Path
    speed: float | None
    play_seconds: float
    min_step_seconds: float
    model_directory: Path | None
    horizon_seconds: int
    pacing: Pacing
    seed: int


@dataclass(frozen=True)
class Show:
    """What is settled before anything is started."""

    options: Options
    out: Path
    stage: Stage
    letters: list[Letter]
    subject: Subject
    say: Say
    begun: float = field(default_factory=time.monotonic)

    @property
    def window_seconds(self) -> int:
        """The span over which demand is measured."""
        return max(1, round(WINDOW_STEPS * self.stage.step_seconds))

    @property
    def nodes_before(self) -> int:
        """How many nodes the demand before the play needs: 1.4 req/s ÷ (2 req/s × 0.8) → 1."""
        pacing, rates = self.options.pacing, self.stage.known_rates
        cut = max(0, len(self.stage.history) - round(PRELUDE_SECONDS / self.stage.step_seconds))
        demand = float(rates[max(0, cut - 30) : cut + 1].mean())
        carried = pacing.requests_per_second_per_node * pacing.scale_up_percent / 100.0
        return min(pacing.nodes, max(1, math.ceil(demand / carried)))

    @property
    def question(self) -> ForecastRequest:
        """What the operator asks the forecaster too; asked again for the picture."""
        return ForecastRequest(
            series=APPLICATION,
            query=demand_query(APPLICATION, self.window_seconds),
            step_seconds=max(1, round(self.stage.step_seconds)),
            horizon_seconds=self.options.horizon_seconds,
            quantiles=(0.5, 0.9, 0.95),
        )

    def since_command(self) -> str:
        """Seconds since the command, in words."""
        return f"{time.monotonic() - self.begun:.0f} s after the command"


def run(options: Options, say: Say) -> int:
    """Play it all; the exit code is 0 only when no request failed and nodes moved ahead of demand."""
    show = _settle(options, say)
    with LocalCluster(ray_nodes=options.pacing.nodes, kuberay=True, probe_period_seconds=1.0, progress=_progress) as cluster:
        programs = Programs(cluster)
        try:
            player, recording = start_and_play(show, cluster, programs)
        finally:
            programs.keep_logs(show.out / "logs")
    return _sum_up(show, player, recording)


def _settle(options: Options, say: Say) -> Show:
    """Choose the stretch, make the tiny model when it is missing, write the requests and the object."""
    begun = time.monotonic()
    trace = read_trace(options.trace) if options.trace else generate(seed=options.seed)
    chosen = stage.choose(trace, options.pacing, options.play_seconds, options.speed, min_step=options.min_step_seconds)
    out = _empty(options.out)
    say(f"stretch    {chosen.in_words()}")
    directory = options.model_directory.resolve() if options.model_directory else None
    if directory:
        train_tiny_model(directory)
    letters = write_letters(LETTERS, NAME, IMAGE_SHARE, STREAM_SHARE, options.seed)
    pace = tokens_per_second(directory, letters, options.pacing.requests_per_second_per_node)
    subject = Subject(directory, options.pacing, pace, options.horizon_seconds)
    (out / "demo.yaml").write_text(yaml.safe_dump(subject.manifest(), sort_keys=False), encoding="utf-8")
    return Show(options, out, chosen, letters, subject, say, begun)


def start_and_play(show: Show, cluster: LocalCluster, programs: Programs) -> tuple[Player, Recording]:
    """Bring the service up as it was before the play, give Prometheus its past, hand the node count to the forecast, play."""
    show.say(f"cluster    {show.since_command()}: API server, KubeRay and {show.options.pacing.nodes} Ray nodes are up")
    step_seconds = show.stage.step_seconds
    cluster.apply(plain_manifest())
    cluster.start_prometheus(f"{round(step_seconds * 1000)}ms")
    programs.start_operator(step_seconds, step_seconds, show.window_seconds)
    before = show.nodes_before
    cluster.apply(yaml.safe_dump(show.subject.manifest(running=before)))
    show.say(f"applied    {show.since_command()}: {NAME}, {before} node(s) of {show.subject.tokens_per_second} tokens/s, mode Manual for now")
    letters = show.letters
    if show.subject.model_directory is None:  # the echo engine sees no pictures
        letters = [replace(letter, has_picture=False) for letter in letters]
    player = Player(SERVICE_URL, cluster.proxy_url, letters, show.options.seed)
    recording = asyncio.run(_play(show, cluster, programs, player))
    show.say(cluster.kubectl("get", "dsd", NAME).rstrip())
    return player, recording


async def _play(show: Show, cluster: LocalCluster, programs: Programs, player: Player) -> Recording:
    """Wait for the first answer, write the past up to that moment, play on from there while looking at it, and see nodes given back."""
    seconds = await _first_answer(player, programs)
    show.say(f"answering  {show.since_command()}: the first request was answered in {seconds:.2f} s")
    step_seconds = show.stage.step_seconds
    cut = max(0, len(show.stage.history) - round(PRELUDE_SECONDS / step_seconds))
    rates = show.stage.known_rates[cut:]
    cut_at = time.time() + TO_WRITE_SECONDS
    began_at = time.monotonic() + TO_WRITE_SECONDS
    requests = await asyncio.to_thread(_write_past, show, cluster, cut, cut_at + METRICS_LAG_SECONDS)
    programs.start_forecaster(show.out / "forecaster", show.stage.season_seconds, cut * step_seconds + show.window_seconds)
    await asyncio.to_thread(cluster.apply, show.out / "demo.yaml")
    show.say(f"history    {show.since_command()}: {requests} requests of the days before are in Prometheus; {NAME} is scaled from here on")
    show.say(f"playing    {len(rates) * step_seconds:.0f} s of real requests; the stretch begins after {PRELUDE_SECONDS:g} s")

    recording = Recording()
    player.began_at = began_at
    with View(show.stage, show.options.pacing, recording, player.tally, len(rates) * step_seconds) as view:
        watcher = Watcher(
            cluster.api, programs.forecaster_url, show.question, player, recording, step_seconds, show.window_seconds, view.refresh
        )
        watching = asyncio.create_task(watcher.watch())
        playing = asyncio.create_task(player.play(rates, step_seconds, began_at))
        try:
            await _both_alive(playing, watching, programs)
            await _tail(recording, watching)
        finally:
            for task in (playing, watching):
                task.cancel()
            await asyncio.gather(playing, watching, return_exceptions=True)
    return recording


def _write_past(show: Show, cluster: LocalCluster, steps: int, ends_at: float) -> int:
    """Put the first `steps` of the history into Prometheus, the last one at `ends_at` (Unix seconds); gives the requests in it."""
    chosen, path = show.stage, show.out / "history.om"
    rates = chosen.history[:steps]
    requests = write_history(path, APPLICATION, rates, chosen.step_seconds, ends_at, IMAGE_SHARE, show.options.seed)
    prometheus.backfill(cluster.binary("promtool"), path, cluster.directory / "prometheus")
    cluster.restart("prometheus")  # it takes up new blocks when it starts
    cluster.wait("Prometheus answers again", lambda: _answers(f"{cluster.prometheus_url}/-/ready"), timeout_seconds=30)
    return requests


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310 - the address is ours
            return bool(response.status == 200)
    except OSError:
        return False


async def _first_answer(player: Player, programs: Programs) -> float:
    asking = asyncio.create_task(player.until_answered(READY_WITHIN_SECONDS))
    try:
        while not (await asyncio.wait([asking], timeout=1.0))[0]:
            await asyncio.to_thread(programs.check)
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([asking])
    return asking.result().seconds


async def _both_alive(playing: asyncio.Task[None], watching: asyncio.Task[None], programs: Programs) -> None:
    """Return when the play has ended; raise what the watcher or a program died of."""
    while not playing.done():
        await asyncio.wait([playing, watching], timeout=2.0, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        await asyncio.to_thread(programs.check)
    playing.result()


async def _tail(recording: Recording, watching: asyncio.Task[None]) -> None:
    """Look on until a node was given back, for a while at most."""
    top = max((moment.asked for moment in recording.moments), default=0)
    until = time.monotonic() + MOST_TAIL_SECONDS
    while time.monotonic() < until and recording.moments and recording.moments[-1].asked >= top:
        if (await asyncio.wait([watching], timeout=0.5))[0]:
            watching.result()


def _sum_up(show: Show, player: Player, recording: Recording) -> int:
    """Say the figures, write picture and timeline; the exit code."""
    pacing, answers = show.options.pacing, player.tally.answers
    capacity = pacing.requests_per_second_per_node
    reactive = compare.reactive(player.tally.sent_at, recording.moments, show.subject.spec, capacity, show.stage.step_seconds)
    result = summary.figures(recording, player.tally, pacing, reactive)
    recording.write_csv(show.out / "timeline.csv", answers)
    title = f"{show.stage.trace_name}, {show.stage.speed:g} times as fast: {result.sent} requests, {result.failed} failed, {result.late} late"
    picture.draw(show.out / "demo.png", recording, answers, pacing, title)
    for line in summary.in_words(result):
        show.say(line)
    show.say(f"written    {show.out / 'demo.png'}, {show.out / 'timeline.csv'}; the end {show.since_command()}")
    return 1 if result.faults else 0


def _empty(out: Path) -> Path:
    """The folder for what is written, without what an earlier run wrote; ValueError when it holds anything else."""
    out = out.resolve()
    if out.is_dir() and any(out.iterdir()) and not (out / "demo.yaml").is_file():
        raise ValueError(f"--out must be an absent or empty folder, or one that an earlier run wrote; {out} holds something else")
    shutil.rmtree(out, ignore_errors=True)
    (out / "logs").mkdir(parents=True)
    (out / "demo.yaml").touch()
    return out


def _progress(line: str) -> None:
    sys.stderr.write(f"           {line}\n")
