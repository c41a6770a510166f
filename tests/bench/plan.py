"""Which runs make the benchmark. What is left out of a run, and why, is said here and in docs/benchmark.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.loads import Load
from bench.policies import CONTENDERS
from bench.runs import Job

COLD_START_SECONDS = 180.0
OTHER_COLD_STARTS = (60.0, 600.0)
OTHER_COLD_STARTS_ON = ("servegen_m-mid_1min", "servegen_m-mid_c36_1min", "worldcup98_may")
OTHER_COLD_STARTS_MINUTES = 2880
"""Each cold start is another horizon, and so another walk over each trace: three traces, the first two days of the test part."""
OTHER_COLD_STARTS_WITHOUT = ("dynamo-prophet",)

ONLY_ON: dict[str, tuple[str, ...]] = {
    # Prophet is fitted anew for each of 1,920 intervals (about five minutes a trace); ARIMA is updated with each (about 40 s a trace).
    "dynamo-prophet": ("worldcup98_may",),
    "dynamo-arima": ("servegen_m-mid_1min", "servegen_m-mid_c36_1min", "servegen_m-mid_c66_1min", "worldcup98_may", "nab_elb", "nab_nyc_taxi"),
}

PERTURBED = ("servegen_m-mid_c66_1min", "worldcup98_may")
PERTURBED_MINUTES = 720
PERTURBED_POLICIES = ("predictive", "reactive", "hpa", "static")

SEEDED = ("nab_elb",)
SEEDS = (1, 2, 3, 4, 5)
SEEDED_MINUTES = 1440
SEEDED_POLICIES = ("predictive", "reactive", "hpa", "ray", "static")

FAULTS = ("predictive-down", "predictive-tripled", "predictive-thirded")

QUICK_KNOBS = 4
QUICK_MINUTES = 720
QUICK_WITHOUT = ("dynamo-arima", "dynamo-prophet")
QUICK_ON = ("worldcup98_may", "servegen_m-mid_c66_1min", "nab_elb")


@dataclass
class Plan:
    """The runs, by what they are for."""

    main: list[Job] = field(default_factory=list)
    other_cold_starts: list[Job] = field(default_factory=list)
    perturbed: list[Job] = field(default_factory=list)
    seeded: list[Job] = field(default_factory=list)
    faults: list[Job] = field(default_factory=list)

    @property
    def jobs(self) -> list[Job]:
        """All of them."""
        return [*self.main, *self.faults, *self.other_cold_starts, *self.perturbed, *self.seeded]


def sweep(policy: str, load: Load, cold_start_seconds: float, knobs: Sequence[float] | None = None) -> list[Job]:
    """One run for each value of the knob, the one as shipped among them."""
    contender = CONTENDERS[policy]
    if load.name not in ONLY_ON.get(policy, (load.name,)):
        return []
    shipped = () if contender.default is None else (contender.default,)
    return [Job(policy, float(knob), load, cold_start_seconds) for knob in sorted({*(knobs or contender.knobs), *shipped})]


def full(loads: Sequence[Load], seeded: Sequence[Load], perturbed: Sequence[Load]) -> Plan:
    """Everything. `seeded`: more samples of traces with longer steps; `perturbed`: perturbed copies."""
    plan = Plan()
    everybody = [name for name in CONTENDERS if name not in FAULTS]
    for load in loads:
        plan.main += [job for policy in everybody for job in sweep(policy, load, COLD_START_SECONDS)]
        plan.faults += [job for policy in FAULTS for job in sweep(policy, load, COLD_START_SECONDS)]
        if load.name in OTHER_COLD_STARTS_ON:
            begin = load.first(OTHER_COLD_STARTS_MINUTES)
            others = [policy for policy in everybody if policy not in OTHER_COLD_STARTS_WITHOUT]
            for cold_start in OTHER_COLD_STARTS:
                plan.other_cold_starts += [job for policy in others for job in sweep(policy, begin, cold_start)]
    plan.perturbed = [job for load in perturbed for policy in PERTURBED_POLICIES for job in sweep(policy, load, COLD_START_SECONDS)]
    plan.seeded = [job for load in seeded for policy in SEEDED_POLICIES for job in sweep(policy, load, COLD_START_SECONDS)]
    return plan


def quick(loads: Sequence[Load]) -> Plan:
    """A few minutes' worth: fewer traces, half a day of each, fewer knobs, without Dynamo's slow predictors."""
    plan = Plan()
    named = [load for load in loads if load.name in QUICK_ON] or loads[: len(QUICK_ON)]
    for load in [load.first(QUICK_MINUTES) for load in named]:
        for policy, contender in CONTENDERS.items():
            if policy not in QUICK_WITHOUT and policy not in FAULTS:
                knobs = contender.knobs[:: max(1, round(len(contender.knobs) / QUICK_KNOBS))]
                plan.main += sweep(policy, load, COLD_START_SECONDS, knobs)
    return plan
