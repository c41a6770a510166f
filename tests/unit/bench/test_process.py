"""A rival's process ends with the one that asked it, also when that one is killed in the middle of an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]

SILENT = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
ASKS = f"""
import sys
from bench.rivals.process import RivalProcess
RivalProcess([sys.executable, "-c", {SILENT!r}, sys.argv[1]]).ask({{}})
"""


def test_a_rival_that_never_answers_is_gone_within_seconds_of_its_askers_kill(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    asker = subprocess.Popen([sys.executable, "-c", ASKS, str(said)], env={**os.environ, "PYTHONPATH": str(TESTS)})
    until = time.monotonic() + 60
    while not (said.exists() and said.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    rival = int(said.read_text())
    asker.send_signal(signal.SIGKILL)
    asker.wait()
    while (Path("/proc") / str(rival) / "status").exists() and time.monotonic() < until:
        state = (Path("/proc") / str(rival) / "status").read_text().split("State:")[1].split()[0]
        if state == "Z":  # dead, and waiting for its new parent to notice
            break
        time.sleep(0.05)
    assert time.monotonic() < until
