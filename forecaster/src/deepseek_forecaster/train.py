"""Training: a child process at low priority and with one thread fits one expert of one series at a time; answering never waits for it.

The child reads jobs from its standard input, one JSON line each, puts each fit beside the series' samples, and answers with one JSON line. It
ends when its input does, so it never outlives the server.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .history import read_grid
from .models import new_expert
from .models.expert import History
from .weights import load, put_aside, save

MOST_DAYS_HELD_OUT = 2.0


@dataclass(frozen=True)
class Job:
    """Fit `expert` on the samples in `directory`, to predict `steps` steps; `day` is the season in steps."""

    directory: str
    expert: str
    day: float
    steps: int


def held_out(known_steps: int, day: float) -> int:
    """How many of the newest steps an expert does not learn from, so that it can be judged by them: a fifth, at most two days."""
    return min(round(MOST_DAYS_HELD_OUT * day), known_steps // 5)


def fit(job: Job, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Do a job and put the fit on disk; gives what became of it: {"ok", "seconds", "reason"}, the seconds being of processor time.

    The fit knows all there is and speaks from then on; what it took over from speaks for the time before. A first fit has nothing to take over
    from: a second one, without the newest part, is made to be judged by that part.
    """
    started = time.process_time()
    directory = Path(job.directory)
    try:
        first, values = read_grid(directory)
        known = int(np.isfinite(values).sum())
        whole = History(values, first, job.day)
        taught = [whole]
        if load(directory, job.expert, job.day) is None:
            taught.insert(0, whole.until(len(values) - 1 - held_out(known, job.day)))
        for place, history in enumerate(taught):
            expert = new_expert(job.expert)
            expert.fit(history, job.steps)
            trial = place < len(taught) - 1
            if not trial:
                put_aside(directory, job.expert)
            save(
                directory,
                expert,
                day=job.day,
                steps=job.steps,
                since=first + len(history) - 1,
                known_steps=known,
                trained_at=now(),
                before=trial,
            )
    except Exception as error:  # any failure of one fit is the answer, not the end of the trainer
        return {"ok": False, "seconds": time.process_time() - started, "reason": f"{type(error).__name__}: {error}"}
    return {"ok": True, "seconds": time.process_time() - started, "reason": ""}


def main(niceness: int) -> None:
    """The child: jobs in, answers out, until the input ends."""
    os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, whose end ends this
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    jobs: list[str] = []
    arrived = threading.Semaphore(0)

    def listen() -> None:
        for line in sys.stdin:
            jobs.append(line)
            arrived.release()
        os._exit(0)  # the server is gone: drop the fit in hand

    threading.Thread(target=listen, daemon=True).start()
    while True:
        arrived.acquire()
        print(json.dumps(fit(Job(**json.loads(jobs.pop(0))))), file=answers, flush=True)
