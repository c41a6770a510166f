"""Builds the programs a cluster needs, once per user and pin.

``ensure(["etcd", "kubectl"])`` gives their paths. What is in the cache is used; what is missing is built by the ordinary ``go build``
of a pinned module, one program after the other, under a lock, so that two callers never build the same thing. A program appears in
the cache by a rename when it is whole. ``DEEPSEEK_LOCALCLUSTER_BINARIES=/dir`` uses that folder's binaries and builds nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from deepseek_localcluster.programs import Program, cache_root, program
from deepseek_localcluster.toolchain import find_go, go_line

Progress = Callable[[str], None]

REPORT_EVERY_SECONDS = 15.0


class BuildError(RuntimeError):
    """A program could not be built; the message ends with the tail of the log and its path."""


def say_on_stderr(line: str) -> None:
    """The default progress: one line each, on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def ensure(names: Iterable[str | Program], progress: Progress = say_on_stderr) -> dict[str, Path]:
    """The paths of the programs by name, building those that are missing. A `Program` of the caller's own is built like the cluster's.

    Raises ``ValueError`` for an unknown name, :class:`BuildError` when a build fails, and ``FileNotFoundError`` when
    ``DEEPSEEK_LOCALCLUSTER_BINARIES`` names a folder without one of them.
    """
    wanted = [name if isinstance(name, Program) else program(name) for name in names]
    if given := os.environ.get("DEEPSEEK_LOCALCLUSTER_BINARIES"):
        return {each.name: _given(Path(given).expanduser().resolve(), each) for each in wanted}
    missing = [each for each in wanted if not each.path.exists()]
    if missing:
        with _build_lock(progress):
            missing = [each for each in missing if not each.path.exists()]
            for number, each in enumerate(missing, 1):
                _build(each, f"{number} of {len(missing)}", progress)
    return {each.name: each.path for each in wanted}


def kuberay_crds(progress: Progress = say_on_stderr) -> list[Path]:
    """The yaml files of KubeRay's CustomResourceDefinitions, of the same pin as the operator."""
    return _resources("kuberay-operator", "crds", progress)


def kwok_stages(progress: Progress = say_on_stderr) -> list[Path]:
    """kwok's own stage files: nodes become Ready and keep their lease, pods run, complete and go at once."""
    return _resources("kwok", "stages", progress)


def _resources(name: str, folder: str, progress: Progress) -> list[Path]:
    found = sorted((ensure([name], progress)[name].parent / folder).rglob("*.yaml"))
    if not found:
        raise FileNotFoundError(f"no yaml files under {ensure([name])[name].parent / folder}: that folder must hold what {name} ships there")
    return found


def _given(folder: Path, wanted: Program) -> Path:
    path = folder / wanted.name
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"DEEPSEEK_LOCALCLUSTER_BINARIES={folder} has no executable {wanted.name}")
    return path


@contextmanager
def _build_lock(progress: Progress) -> Iterator[None]:
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another build to finish ({root / 'build.lock'})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(wanted: Program, place: str, progress: Progress) -> None:
    go = find_go(go_line(wanted.module_folder / "go.mod"), progress)
    logs = cache_root() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{wanted.name}-{wanted.key}.log"
    wanted.folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{wanted.name}-", dir=wanted.folder.parent))
    try:
        command = [str(go), "build", "-trimpath", "-ldflags", wanted.ldflags, "-tags", ",".join(wanted.tags)]
        with log.open("w") as sink:
            _run(
                [*command, "-o", str(unfinished / wanted.name), wanted.package],
                wanted,
                sink,
                f"building {wanted.name} ({place})",
                progress,
                log,
            )
        for folder, pattern in wanted.resources.items():
            _copy_resources(go, wanted, pattern, unfinished / folder)
        unfinished.chmod(0o755)
        unfinished.rename(wanted.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _run(command: list[str], wanted: Program, sink: TextIO, label: str, progress: Progress, log: Path) -> None:
    began = time.monotonic()
    progress(f"{label} 00:00")
    process = subprocess.Popen(command, cwd=wanted.module_folder, env=_go_environment(), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        while True:
            try:
                code = process.wait(timeout=REPORT_EVERY_SECONDS)
                break
            except subprocess.TimeoutExpired:
                progress(f"{label} {_clock(time.monotonic() - began)}")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code:
        raise BuildError(f"building {wanted.name} failed after {_clock(time.monotonic() - began)}:\n{tail(log)}\nwhole log: {log}")
    progress(f"{label} done in {_clock(time.monotonic() - began)}")


def _copy_resources(go: Path, wanted: Program, pattern: str, destination: Path) -> None:
    listing = [str(go), "list", "-m", "-f", "{{.Dir}}", wanted.resources_of]
    source = subprocess.run(listing, cwd=wanted.module_folder, env=_go_environment(), capture_output=True, text=True, check=True).stdout.strip()
    destination.mkdir(parents=True, exist_ok=True)
    for path in Path(source).glob(pattern):
        if path.name != "kustomization.yaml":
            shutil.copyfile(path, destination / path.name)


def _go_environment() -> dict[str, str]:
    # CGO off: static binaries, no compiler needed. readonly: the committed go.sum decides. local: no toolchain is downloaded.
    # No workspace: a go.work in a folder above must not change the pins.
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log file, or a sentence when there is none."""
    if not log.exists():
        return f"({log} was never written)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or f"({log} is empty)"
