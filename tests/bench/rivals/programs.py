"""The rivals that are Go modules: built once per user and pin, by the machinery that builds the local cluster's programs."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from deepseek_localcluster.build import ensure
from deepseek_localcluster.programs import Program

GO = Path(__file__).resolve().parent / "go"


@dataclass(frozen=True)
class RivalProgram(Program):
    """One rival: a small main package around the original's module, in `rivals/go/<module>`."""

    @property
    def module_folder(self) -> Path:
        """Where its `go.mod` lies."""
        return GO / self.module

    @property
    def key(self) -> str:
        """Changes when the pin or the main package does."""
        source = b"".join(path.read_bytes() for path in sorted(self.module_folder.glob("*.go")))
        return sha256(super().key.encode() + source).hexdigest()[:12]


HPA = RivalProgram("bench-hpa", "hpa", ".")
KPA = RivalProgram("bench-kpa", "kpa", ".")


def built(program: RivalProgram) -> str:
    """The path of the binary, building it where it is not in the cache (about two minutes each, once)."""
    return str(program.path if program.path.exists() else ensure([program])[program.name])
