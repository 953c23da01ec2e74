"""Each image has what its code imports: its extra declares every distribution that is used."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PART_OF = {"starlette": "fastapi", "grpc": "grpcio", "grpc_health": "grpcio-health-checking"}
"""Distributions of modules that are a part of another one, or that may be absent here."""
OPTIONAL = {
    "operator": ("plots",),
    "gateway": ("tracing", "endpoint-picker"),
    "worker": ("triton",),
}
"""Extras that an image does without; what needs them says so."""
PROCESSES = ("operator", "gateway", "worker")


def declared(extra: str) -> set[str]:
    """Return the distributions that an image with this extra asks for."""
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, [])]
    return {_normal(re.split(r"[\[<>=~! ]", one)[0]) for one in asked}


def imported(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every top-level module that is imported, and where."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield node.module.split(".")[0], path


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("process", [*PROCESSES, "contract"])
def test_what_a_process_imports_is_declared_for_its_image(process: str) -> None:
    distributions = packages_distributions()
    known = declared(process).union(*map(declared, OPTIONAL.get(process, ())))
    missing = {
        f"{module} in {path.relative_to(ROOT)}"
        for module, path in imported(ROOT / process)
        if module not in sys.stdlib_module_names
        and not module.startswith("penstock_")
        and not known
        & {
            _normal(name)
            for name in (PART_OF.get(module), *distributions.get(module, [module]))
            if name
        }
    }
    assert missing == set()


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_declared_is_locked(process: str) -> None:
    locked = (ROOT / "requirements" / f"{process}.txt").read_text()
    names = {_normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", locked, re.MULTILINE)}
    assert declared(process) - names <= {"torch"}
