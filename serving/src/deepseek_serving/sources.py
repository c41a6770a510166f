"""Finds a model's files: a folder, a mounted claim, or a repository's name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deepseek_serving.engine import LoadError
from deepseek_serving.settings import PVC_MOUNT_ROOT, PVC_MOUNT_ROOT_VARIABLE, SOURCE_FORMS


@dataclass(frozen=True)
class Origin:
    """What `from_pretrained` is given: a folder, or a repository and its revision."""

    name: str
    revision: str | None = None


def find(source: str, environment: Mapping[str, str] = os.environ) -> Origin:
    """Where the files are. Raises LoadError when a folder is not there or the form is unknown."""
    parts = urlsplit(source)
    if parts.scheme == "hf":
        name, _, revision = source.removeprefix("hf://").partition("@")
        return Origin(name, revision or None)
    if parts.scheme == "file" and not parts.netloc:
        folder = Path(unquote(parts.path))
    elif parts.scheme == "pvc":
        folder = Path(environment.get(PVC_MOUNT_ROOT_VARIABLE, PVC_MOUNT_ROOT), parts.netloc, parts.path.lstrip("/"))
    else:
        raise LoadError(f"source must be {SOURCE_FORMS}, was {source!r}")
    if not (folder / "config.json").is_file():
        raise LoadError(f"source {source} needs a folder with a config.json at {folder} in the pod; there is none")
    return Origin(str(folder))
