"""`make bench`: every policy over every trace, the tables of docs/benchmark.md, its pictures, build/bench.json and the timelines.

Every result is kept under build/bench-cache by what it depends on (policy, knob, trace, cold start, seed, and a hash of the code it runs
through): a second run only makes what changed, and a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

from bench import decision_cost, loads, plan, report
from bench.loads import Load
from bench.policies import CONTENDERS, Place
from bench.prepare import ROOT, walk
from bench.rivals import dynamo_planner, programs
from bench.rivals.process import end_with_parent
from bench.runs import Job, Result, code, run

QUICK_OBJECTS = 500


def main() -> int:
    options = arguments()
    began = time.monotonic()
    seed = secret_seed(options.cache, options.seed)
    chosen, made = laid_out(options, seed)
    say(f"{len(made.jobs)} runs on {len(chosen)} traces; seed of the perturbed copies {seed}; kept under {options.cache}")
    programs.built(programs.HPA)
    programs.built(programs.KPA)
    dynamo_planner.python()
    results = carried_out(made, options)
    by_job = [results[number] for number in range(len(made.jobs))]
    parts, place = {}, 0
    for name in ("main", "faults", "other_cold_starts", "perturbed", "seeded"):
        jobs = getattr(made, name)
        parts[name], place = by_job[place : place + len(jobs)], place + len(jobs)
    objects = options.objects or (QUICK_OBJECTS if options.quick else decision_cost.OBJECTS)
    say(f"timing decisions and a tick of {objects:,} objects")
    timing = decision_cost.measured(objects)
    report.write(report.Findings(chosen, parts, timing, objects, seed), options.json, None if options.quick else options.docs)
    say(f"done in {(time.monotonic() - began) / 60:.1f} min: {options.json}" + ("" if options.quick else f", {options.docs}"))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of CSV files t_min,count; generated traffic where it does not exist")
    parser.add_argument("--only", action="append", default=[], help="only traces whose name contains this; may be given more than once")
    parser.add_argument("--quick", action="store_true", help="a few minutes' worth; writes the JSON and not the docs")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at the same time (default %(default)s)")
    parser.add_argument("--objects", type=int, help="of the tick that is timed (5,000; 500 in a quick run)")
    parser.add_argument("--seed", type=int, help="of the perturbed copies; by default drawn once and kept with the cache")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench-cache")
    parser.add_argument("--timelines", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "benchmark.md")
    return parser.parse_args()


def laid_out(options: argparse.Namespace, seed: int) -> tuple[list[Load], plan.Plan]:
    """The traces and the runs on them."""
    folder: Path | None = options.traces
    if folder is not None and folder.is_dir():
        chosen = loads.of_folder(folder)
        if not chosen:
            raise SystemExit(f"{folder} must hold CSV files t_min,count of at least ten hours; found none")
    else:
        say(f"{folder or 'no folder of traces'}: not there, so generated traffic is used")
        chosen, folder = loads.generated(), None
    if options.only:
        chosen = [load for load in chosen if any(part in load.name for part in options.only)]
    if options.quick:
        return chosen, plan.quick(chosen)
    names = {load.name: load for load in chosen}
    copied = chosen[:1] if folder is None else [names[name] for name in plan.PERTURBED if name in names]
    perturbed = [copy for load in copied for copy in loads.copies(load.first(plan.PERTURBED_MINUTES), seed)]
    seeded = [
        loads.of_file(folder / f"{name}.csv", each).first(plan.SEEDED_MINUTES)
        for name in plan.SEEDED
        if folder is not None and name in names
        for each in plan.SEEDS
    ]
    return chosen, plan.full(chosen, seeded, perturbed)


def carried_out(made: plan.Plan, options: argparse.Namespace) -> dict[int, Result]:
    """Every result, by the job's place in the plan: first what is dear and shared (walks, predictions), then the runs."""
    results: dict[int, Result] = {}
    for policy in {job.policy for job in made.jobs}:
        code(policy)  # hashed here, before the processes part: all of them mean the same code
    with ProcessPoolExecutor(max_workers=options.jobs, mp_context=get_context("fork"), initializer=end_with_parent) as pool:
        try:
            prepared = [pool.submit(work, *given) for work, *given in preparations(made.jobs, options.cache)]
            follow(prepared, "forecasts and predictions")
            runs: dict[Future[Result], int] = {}
            for number, job in enumerate(made.jobs):
                timelines = options.timelines if number < len(made.main) else None
                runs[pool.submit(run, job, options.cache, timelines)] = number
            follow(list(runs), "runs", lambda done: results.__setitem__(runs[done], done.result()))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():  # a walk takes minutes: end it now, it is made again when asked for
                process.terminate()
            raise
    return results


def preparations(jobs: Sequence[Job], cache: Path) -> list[tuple[Callable[..., object], object, object]]:
    """What has to be there before the runs, each once: (work, its two arguments), the slowest first."""
    walks: dict[tuple[str, float], Place] = {}
    predicted: dict[tuple[str, str], Load] = {}
    for job in jobs:
        if CONTENDERS[job.policy].ours:
            walks.setdefault((job.load.key, job.cold_start_seconds), Place(job.load, job.cold_start_seconds, cache))
        if job.policy.startswith("dynamo-"):
            predicted.setdefault((job.policy.removeprefix("dynamo-"), job.load.key), job.load)
    wanted: list[tuple[Callable[..., object], object, object]] = []
    for kind in ("prophet", "arima"):
        wanted += [(predict, kind, Place(load, 0.0, cache)) for (of, _), load in predicted.items() if of == kind]
    wanted += [(walk_over, "walk", place) for place in walks.values()]
    wanted += [(predict, kind, Place(load, 0.0, cache)) for (kind, _), load in predicted.items() if kind in ("constant", "kalman")]
    return wanted


def predict(kind: str, place: Place) -> None:
    """Dynamo's predictions for a load."""
    dynamo_planner.kept_predictions(kind, place.load, place.cache)


def walk_over(_: str, place: Place) -> None:
    """Our forecasts for a load."""
    walk(place)


def follow(
    futures: Sequence[Future[Result]] | Sequence[Future[object]], what: str, then: Callable[[Future[Result]], None] | None = None
) -> None:
    """Wait, and say once in a while how far it is."""
    began, told = time.monotonic(), 0.0
    for number, done in enumerate(as_completed(futures), 1):  # type: ignore[type-var]
        done.result()
        if then is not None:
            then(done)  # type: ignore[arg-type]
        now = time.monotonic() - began
        if now - told >= 10 or number == len(futures):
            told = now
            say(f"{what}: {number} of {len(futures)} in {now / 60:.1f} min")


def secret_seed(cache: Path, given: int | None) -> int:
    """The seed of the perturbed copies: as given, or drawn once for this cache, so that nobody can have tuned on it."""
    if given is not None:
        return given
    kept = cache / "seed"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        kept.write_text(str(secrets.randbelow(10**6)))
    return int(kept.read_text())


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
