"""The demo, short and with the echo engine: real control plane, real KubeRay, real Ray, real operator and forecaster."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepseek_demo.record import COLUMNS
from deepseek_localcluster.processes import descendants

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]

DEMO = [str(Path(sys.executable).parent / "deepseek-demo"), "run", "--engine", "echo"]


def test_a_short_play_answers_every_request_and_moves_nodes_up_and_down(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    finished = subprocess.run([*DEMO, "--out", str(out), "--play-seconds", "100"], capture_output=True, text=True, timeout=420, check=False)
    said = finished.stdout + finished.stderr
    assert finished.returncode in (0, 1), said
    assert (finished.returncode == 1) == ("\nFAILED" in finished.stdout), "the exit code says what the summary says"
    assert " 0 failed" in finished.stdout, said
    with (out / "timeline.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    asked = [int(row["asked"]) for row in rows]
    ready = [int(row["ready"]) for row in rows]
    assert max(asked) >= 3, said
    assert max(ready) >= 2, said
    assert asked[-1] < max(asked), said
    assert any(row["forecast_p95"] for row in rows), "the forecaster answered"
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_while_it_runs_leaves_no_process_behind(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo = subprocess.Popen([*DEMO, "--out", str(out)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("applied"):
            break
    time.sleep(3.0)
    family = descendants(demo.pid)
    assert len(family) > 8, "control plane, Ray nodes, forecaster and operator run"
    os.kill(demo.pid, signal.SIGINT)
    demo.stdout.close()
    assert demo.wait(timeout=120) == 130
    deadline = time.monotonic() + 5.0  # orphans are zombies of init for a moment
    while (left := [pid for pid in family if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
