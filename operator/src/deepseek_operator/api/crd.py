"""Writes what is made from the models: `crds/*.yaml`, the chart's copy of it and `docs/api.md`.

python -m deepseek_operator.api.crd            # from the repository root: regenerate
python -m deepseek_operator.api.crd --check    # exit code 1 when a file differs from the models
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from deepseek_operator.api import v1alpha1
from deepseek_operator.api.reference import reference_page
from deepseek_operator.api.structural import Schema, structural

CRD_NAME = f"{v1alpha1.PLURAL}.{v1alpha1.GROUP}"
FILE_NAME = f"{v1alpha1.GROUP}_{v1alpha1.PLURAL}.yaml"
CATEGORIES = ("inference",)
"""`kubectl get inference` lists these objects. Not in `all`: that is for what Kubernetes itself runs."""

_HEADER = "# Generated from operator/src/deepseek_operator/api/v1alpha1.py by `make crds`; change it there.\n"
_COMMON_FIELDS: dict[str, Schema] = {
    "apiVersion": {"description": f"Version of this API: {v1alpha1.API_VERSION}.", "type": "string"},
    "kind": {"description": f"Kind of the object: {v1alpha1.KIND}.", "type": "string"},
    "metadata": {"type": "object"},
}


def custom_resource_definition() -> dict[str, Any]:
    """The CustomResourceDefinition as `apiextensions.k8s.io/v1` has it."""
    root = structural(v1alpha1.DeepSeekDeployment)
    root["properties"] = {**_COMMON_FIELDS, **root["properties"]}
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": description, "priority": priority}
        for name, kind, path, description, priority in v1alpha1.PRINTER_COLUMNS
    ]
    scale = {
        "specReplicasPath": v1alpha1.SCALE_SPEC_PATH,
        "statusReplicasPath": v1alpha1.SCALE_STATUS_PATH,
        "labelSelectorPath": v1alpha1.SCALE_SELECTOR_PATH,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": v1alpha1.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": v1alpha1.KIND,
                "listKind": f"{v1alpha1.KIND}List",
                "plural": v1alpha1.PLURAL,
                "singular": v1alpha1.SINGULAR,
                "shortNames": list(v1alpha1.SHORT_NAMES),
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": v1alpha1.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, "scale": scale},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def plain_manifest() -> str:
    """The yaml of `crds/`."""
    return _HEADER + _yaml(custom_resource_definition())


def chart_template() -> str:
    """The chart's template: the same, behind `crds.install`, kept when the release is uninstalled."""
    document = custom_resource_definition()
    document["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    text = _yaml(document)
    if "{{" in text:
        raise ValueError("a description or rule contains '{{', which the chart would take for a template; write it otherwise")
    labelled = text.replace("metadata:\n", 'metadata:\n  labels:\n    {{- include "deepseek-operator.labels" . | nindent 4 }}\n', 1)
    return f"{_HEADER}{{{{- if .Values.crds.install }}}}\n{labelled}{{{{- end }}}}\n"


def main(out_dir: Path, chart_dir: Path, docs_path: Path, check: bool = False) -> int:
    """Write the three files, or with `check` only compare them. Returns the exit code: 1 when a compared file differs."""
    wanted = {
        out_dir / FILE_NAME: plain_manifest(),
        chart_dir / "templates" / "crd.yaml": chart_template(),
        docs_path: reference_page(custom_resource_definition()),
    }
    different = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in different:
        if check:
            sys.stderr.write(f"{path} differs from the models; `make crds` regenerates it\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
            sys.stdout.write(f"wrote {path}\n")
    return 1 if check and different else 0


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=140, allow_unicode=True)


def _command_line(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deepseek_operator.api.crd", description="Write what is made from the API's models.")
    parser.add_argument("--out", type=Path, default=Path("crds"), help="folder of the plain manifest (default: %(default)s)")
    parser.add_argument("--chart", type=Path, default=Path("helm/deepseek-operator"), help="folder of the chart (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs/api.md"), help="the reference page (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file differs")
    given = parser.parse_args(arguments)
    return main(given.out, given.chart, given.docs, given.check)


if __name__ == "__main__":
    sys.exit(_command_line())
