"""What modules say of themselves, the import rules hold: no I/O, clock, randomness, framework."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
(HELD,) = (
    rule["source_modules"] for rule in RULES if rule["name"].startswith("Decisions are pure")
)
MODULES = {
    ".".join(path.relative_to(ROOT / folder).with_suffix("").parts): path
    for folder in ("contract", "operator", "gateway", "worker")
    for path in (ROOT / folder).rglob("*.py")
}


def says_pure(path: Path) -> bool:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.search(r"\bPure\b", docstring) is not None


@pytest.mark.parametrize(
    "module", sorted(name for name, path in MODULES.items() if says_pure(path))
)
def test_a_module_that_says_it_is_pure_is_held_to_it(module: str) -> None:
    held = any(f"{module}.".startswith(f"{name}.") for name in HELD)
    assert held, "add it to the rule in pyproject.toml, or do not call it pure"


def test_what_is_held_is_there() -> None:
    packages = {name.rpartition(".")[0] for name in MODULES}
    assert {name for name in HELD if name not in MODULES and name not in packages} == set()
