"""What is built, when, and what is said when it fails; with a stand-in for Go, except for one real build."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deepseek_localcluster import build, programs
from deepseek_localcluster.build import BuildError, ensure
from deepseek_localcluster.programs import PROGRAMS, Program
from deepseek_localcluster.toolchain import go_line, version_of

FAKE_GO = """#!{python}
import pathlib, sys, time
if sys.argv[1:3] == ["env", "GOVERSION"]:
    print("go1.99.0")
elif sys.argv[1] == "build":
    time.sleep(0.3)
    with open("{folder}/calls", "a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\\n")
    if "{fail}":
        sys.exit("main.go:1: undefined: " + "{fail}")
    out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    out.write_text("binary")
    out.chmod(0o755)
elif sys.argv[1] == "list":
    print("{folder}/module")
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `go` first on PATH that writes down its calls, and an empty cache."""
    install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DEEPSEEK_LOCALCLUSTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DEEPSEEK_LOCALCLUSTER_BINARIES", raising=False)
    return tmp_path


def install(folder: Path, fail: str = "") -> None:
    """Write the stand-in."""
    (folder / "go").write_text(FAKE_GO.format(python=sys.executable, folder=folder, fail=fail))
    (folder / "go").chmod(0o755)


def calls(folder: Path) -> list[str]:
    """The builds so far."""
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_a_program_is_built_once_with_its_flags_and_found_afterwards(go: Path) -> None:
    """Version strings by the linker, tags, no paths of this machine in the binary."""
    said: list[str] = []
    first = ensure(["prometheus"], said.append)
    assert ensure(["prometheus"], said.append) == first
    (call,) = calls(go)
    assert call.startswith("build -trimpath -ldflags -s -w -X github.com/prometheus/common/version.Version=")
    assert "-tags remove_all_sd,enable_kubernetes_sd" in call
    assert said[0] == "building prometheus (1 of 1) 00:00"
    assert said[-1] == "building prometheus (1 of 1) done in 00:00"


def test_two_callers_at_once_build_once(go: Path) -> None:
    """The second waits and finds it."""
    said: list[str] = []
    threads = [threading.Thread(target=ensure, args=(["etcd"], said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls(go)) == 1


def test_a_failed_build_shows_the_tail_and_path_of_its_log_and_leaves_nothing(go: Path) -> None:
    """So that the next try starts clean."""
    install(go, fail="frobnicate")
    with pytest.raises(
        BuildError, match=r"(?s)building etcd failed after 00:00:\nmain.go:1: undefined: frobnicate\nwhole log: .*/logs/etcd-.*\.log"
    ):
        ensure(["etcd"], lambda _: None)
    assert list((go / "cache" / "programs").iterdir()) == []
    install(go)
    assert ensure(["etcd"], lambda _: None)["etcd"].exists()


def test_what_a_module_ships_is_kept_beside_its_program(go: Path) -> None:
    """KubeRay's definitions stay when the module cache is cleaned."""
    bases = go / "module" / "config" / "crd" / "bases"
    bases.mkdir(parents=True)
    (bases / "ray.io_rayclusters.yaml").write_text("kind: X")
    found = build.kuberay_crds(lambda _: None)
    assert [(path.name, path.read_text()) for path in found] == [("ray.io_rayclusters.yaml", "kind: X")]


def test_a_folder_of_binaries_replaces_the_build(go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that lacks a program is refused by name."""
    (go / "bin").mkdir()
    (go / "bin" / "etcd").write_text("")
    (go / "bin" / "etcd").chmod(0o755)
    monkeypatch.setenv("DEEPSEEK_LOCALCLUSTER_BINARIES", str(go / "bin"))
    assert ensure(["etcd"]) == {"etcd": go / "bin" / "etcd"}
    with pytest.raises(FileNotFoundError, match="has no executable kubectl"):
        ensure(["kubectl"])
    assert calls(go) == []


def test_an_unknown_program_is_refused_with_the_names_there_are() -> None:
    """Errors say what is allowed."""
    with pytest.raises(ValueError, match="no program called 'docker'; there are etcd, kube-apiserver"):
        ensure(["docker"])


def test_a_key_changes_with_every_part_of_a_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """go.mod, go.sum, package, linker variables, tags."""
    monkeypatch.setattr(programs, "MODULES", tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "go.mod").write_text("module m")
    (tmp_path / "m" / "go.sum").write_text("")
    plain = Program("p", "m", "x/p")
    keys = {plain.key, Program("p", "m", "x/q").key, Program("p", "m", "x/p", {"v": "1"}).key, Program("p", "m", "x/p", tags=("t",)).key}
    (tmp_path / "m" / "go.sum").write_text("x v1 h1:…")
    keys.add(plain.key)
    (tmp_path / "m" / "go.mod").write_text("module m // changed")
    keys.add(plain.key)
    assert len(keys) == 6


@pytest.mark.parametrize("module", sorted({program.module for program in PROGRAMS.values()}))
def test_every_module_pins_its_commands(module: str) -> None:
    """A `tool` line for each program, a sum for each module, a Go version that is asked of the machine."""
    folder = programs.MODULES / module
    text = (folder / "go.mod").read_text()
    for program in PROGRAMS.values():
        if program.module == module:
            assert program.package in text
    assert (folder / "go.sum").stat().st_size > 0
    assert go_line(folder / "go.mod") >= (1, 24, 0)  # `tool` lines need 1.24


@pytest.mark.parametrize(
    ("text", "expected"), [("go version go1.26.8 linux/amd64", (1, 26, 8)), ("go1.27", (1, 27, 0)), ("1.25rc1", (1, 25, 0))]
)
def test_go_versions_are_compared_as_numbers(text: str, expected: tuple[int, int, int]) -> None:
    """1.9 is older than 1.26."""
    assert version_of(text) == expected


def test_a_go_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    """`go env GOVERSION` is what decides."""
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.9.1\n")
    old.chmod(0o755)
    said = subprocess.run([old, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout
    assert version_of(said) < go_line(programs.MODULES / "etcd" / "go.mod")
