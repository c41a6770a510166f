"""Rules of the house that no linter knows. Run by `make check`; prints each breach with its reason and exits with their number."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".tpl", ".mod", ".txt", ".cfg", ".sh", "", ".importlinter"}
GENERATED = {"uv.lock"}  # a lock file names where each package came from

# Words split so that this file does not break its own rule.
FORBIDDEN = {
    r"/(work|root|farm)/[a-z]": "a path of one machine",
    r"(?<![\w./-])/home/[a-z]+/": "a path of one machine",
    r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b": "something left unfinished",
    r"pypi\.o" r"rg|pythonhosted\.o" r"rg|proxy\.gol" r"ang|registry\.npm": "the host name of a package registry",
}
NAMES_TO_AVOID = {"utils", "helpers", "manager", "common", "misc"}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def breaches(files: list[Path]) -> Iterator[str]:
    if (ROOT / "operator" / "__init__.py").exists():
        yield "operator/__init__.py must not exist: from the root it would shadow the standard library's `operator`, and Python breaks"
    for distribution in ("operator", "forecaster", "serving", "localcluster", "demo"):
        source = ROOT / distribution / "src"
        yield from (
            f"{package.relative_to(ROOT)}: an import package is called deepseek_{distribution}, never {package.name}"
            for package in source.iterdir()
            if package.is_dir() and package.name not in (f"deepseek_{distribution}", "__pycache__")
        )
        if not (source / f"deepseek_{distribution}" / "py.typed").exists():
            yield f"{distribution}: py.typed is missing, so nobody's type checker sees its types"
    for file in files:
        name = file.relative_to(ROOT)
        if file.stem in NAMES_TO_AVOID and file.suffix == ".py":
            yield f"{name}: a file bears the words of the flow, not {file.stem!r}"
        if file.suffix not in TEXT or file.name in GENERATED:
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
            for pattern, what in FORBIDDEN.items():
                if re.search(pattern, line):
                    yield f"{name}:{number}: {what}: {line.strip()[:100]}"


def main() -> int:
    found = list(breaches(tracked()))
    print("\n".join(found) or "house rules: kept")
    return min(len(found), 100)


if __name__ == "__main__":
    sys.exit(main())
