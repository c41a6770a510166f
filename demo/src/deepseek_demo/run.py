"""The demo from the first line to the last; reads as a table of contents."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from deepseek_demo import compare, picture, stage, summary
from deepseek_demo.backfill import Exporter, Past, write_history
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
from deepseek_localcluster import LocalCluster
from deepseek_operator.api.crd import plain_manifest
from deepseek_serving.metric_names import demand_query

IMAGE_SHARE = 0.8
STREAM_SHARE = 0.5
LETTERS = 400
READY_WITHIN_SECONDS = 240.0
EXPECTED_READY_SECONDS = 60.0
"""From the start of Prometheus to the beginning of the stretch. Ray answers earlier or later: the real requests begin when it does."""

Say = Callable[[str], None]

WINDOW_STEPS = 5
MOST_TAIL_SECONDS = 20.0


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


def run(options: Options, say: Say) -> int:
    """Play it all; the exit code is 0 only when no request failed and nodes moved ahead of demand."""
    begun = time.monotonic()
    out = _empty(options.out)
    trace = read_trace(options.trace) if options.trace else generate(seed=options.seed)
    chosen = stage.choose(trace, options.pacing, options.play_seconds, options.speed, min_step=options.min_step_seconds)
    say(f"playing    {chosen.in_words()}")
    if options.model_directory:
        train_tiny_model(options.model_directory)
    letters = write_letters(LETTERS, NAME, IMAGE_SHARE, STREAM_SHARE, options.seed)
    subject = _subject(options, letters)
    (out / "demo.yaml").write_text(yaml.safe_dump(subject.manifest(), sort_keys=False), encoding="utf-8")

    with _cluster(options.pacing) as cluster:
        programs = Programs(cluster)
        try:
            player, recording = _run_in(cluster, programs, options, chosen, subject, letters, out, begun, say)
        finally:
            programs.keep_logs(out / "logs")

    reactive = compare.reactive(
        player.tally.sent_at, recording.moments, subject.spec, options.pacing.requests_per_second_per_node, chosen.step_seconds
    )
    result = summary.figures(recording, player.tally, options.pacing, reactive)
    recording.write_csv(out / "timeline.csv", player.tally.answers)
    title = f"{chosen.trace_name}, {chosen.speed:g} times as fast: {result.sent} requests, {result.failed} failed, {result.late} late"
    picture.draw(out / "demo.png", recording, player.tally.answers, options.pacing, title)
    for line in summary.in_words(result):
        say(line)
    say(f"written    {out / 'demo.png'}, {out / 'timeline.csv'}; {time.monotonic() - begun:.0f} s in all")
    return 1 if result.faults else 0


def _run_in(
    cluster: LocalCluster,
    programs: Programs,
    options: Options,
    chosen: Stage,
    subject: Subject,
    letters: list[Letter],
    out: Path,
    begun: float,
    say: Say,
) -> tuple[Player, Recording]:
    """Give Prometheus its past, start forecaster and operator, apply the object, play."""
    say(f"cluster    {time.monotonic() - begun:.0f} s: API server, KubeRay and {options.pacing.nodes} Ray nodes are up")
    cluster.apply(plain_manifest())
    past, port = _past(chosen, cluster, options.seed)
    with Exporter(past, port) as exporter:
        requests = write_history(out / "history.om", past, until=time.time())
        cluster.start_prometheus(_duration(chosen.step_seconds), out / "history.om", [exporter.target])
        say(f"history    {requests} requests of the days before are in Prometheus")
        window = _window(chosen)
        programs.start_operator(chosen.step_seconds, chosen.step_seconds, window)
        history_seconds = len(chosen.history) * chosen.step_seconds + 120
        programs.start_forecaster(out / "forecaster", chosen.season_seconds, history_seconds)
        cluster.apply(out / "demo.yaml")
        say(f"applied    {NAME} ({out / 'demo.yaml'}): 1 to {options.pacing.nodes} nodes, {subject.tokens_per_second} tokens/s each")
        checked = letters if options.model_directory else [replace(letter, has_picture=False) for letter in letters]
        player = Player(SERVICE_URL, cluster.proxy_url, checked, options.seed)
        recording = asyncio.run(_play(options, chosen, cluster, programs, player, exporter, begun, say))
    say(cluster.kubectl("get", "dsd", NAME).rstrip())
    return player, recording


def _past(chosen: Stage, cluster: LocalCluster, seed: int) -> tuple[Past, int]:
    """The past up to the play and through it, for however long Ray takes; and the port its exporter will have."""
    port = cluster.free_port()
    play_at = time.time() + EXPECTED_READY_SECONDS
    past = Past(
        application=APPLICATION,
        rates=np.concatenate((chosen.history, chosen.play)),
        step_seconds=chosen.step_seconds,
        begins_at=play_at - len(chosen.history) * chosen.step_seconds,
        image_share=IMAGE_SHARE,
        seed=seed,
        scrape_labels={"instance": f"127.0.0.1:{port}", "job": "programs"},
    )
    return past, port


async def _play(
    options: Options,
    chosen: Stage,
    cluster: LocalCluster,
    programs: Programs,
    player: Player,
    exporter: Exporter,
    begun: float,
    say: Say,
) -> Recording:
    """Wait for the first answer, play from there to the end of the stretch while looking at it, then wait until nodes were given back."""
    answer = await _first_answer(player, programs)
    say(f"answering  {time.monotonic() - begun:.0f} s after the command: first request answered in {answer:.2f} s")
    past = exporter.past
    step = max(0, int((time.time() - past.begins_at) / past.step_seconds))
    rates = chosen.known_rates[step:]
    began_at = time.monotonic() - time.time() + past.begins_at + step * past.step_seconds
    exporter.end()
    say(
        f"playing    {len(rates) * chosen.step_seconds:.0f} s, from {abs(step - len(chosen.history)) * chosen.step_seconds:.0f} s "
        f"{'before' if step < len(chosen.history) else 'after'} the beginning of the stretch"
    )
    recording = Recording()
    view = View(chosen, options.pacing, recording, player.tally)
    question = ForecastRequest(
        series=APPLICATION,
        query=demand_query(APPLICATION, _window(chosen)),
        step_seconds=max(1, round(chosen.step_seconds)),
        horizon_seconds=options.horizon_seconds,
        quantiles=(0.5, 0.9, 0.95),
    )
    player.began_at = began_at
    with view:
        watcher = Watcher(cluster.api, programs.forecaster_url, question, player, recording, chosen.step_seconds, _window(chosen), view.refresh)
        watching = asyncio.create_task(watcher.watch())
        playing = asyncio.create_task(player.play(rates, chosen.step_seconds, began_at))
        try:
            await _both_alive(playing, watching, programs)
            await _tail(recording, watching)
        finally:
            for task in (playing, watching):
                task.cancel()
            await asyncio.gather(playing, watching, return_exceptions=True)
    return recording


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


def _subject(options: Options, letters: list[Letter]) -> Subject:
    directory = options.model_directory.resolve() if options.model_directory else None
    pace = tokens_per_second(directory, letters, options.pacing.requests_per_second_per_node)
    return Subject(directory, options.pacing, pace, options.horizon_seconds)


def _cluster(pacing: Pacing) -> LocalCluster:
    return LocalCluster(ray_nodes=pacing.nodes, kuberay=True, probe_period_seconds=1.0, progress=_progress)


def _progress(line: str) -> None:
    sys.stderr.write(f"           {line}\n")


def _window(chosen: Stage) -> int:
    """Seconds over which demand is measured."""
    return max(1, round(WINDOW_STEPS * chosen.step_seconds))


def _duration(seconds: float) -> str:
    """A Prometheus duration: 1.5 s is `1500ms`."""
    return f"{round(seconds * 1000)}ms"


def _empty(out: Path) -> Path:
    """The folder for what is written, without what an earlier run wrote; ValueError when it holds anything else."""
    out = out.resolve()
    if out.is_dir() and any(out.iterdir()) and not (out / "demo.yaml").is_file():
        raise ValueError(f"--out must be an absent or empty folder, or one that an earlier run wrote; {out} holds something else")
    shutil.rmtree(out, ignore_errors=True)
    (out / "logs").mkdir(parents=True)
    (out / "demo.yaml").touch()
    return out
