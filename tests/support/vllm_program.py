"""A real vLLM, where one is at hand: `PENSTOCK_TEST_VLLM` is the Python that has it.

`penstock up` wants a virtual environment with `bin/vllm`. The wheel for CPUs has one that looks for
a distribution called vllm, which that is not, so a program of our own stands in its place.
"""

import os
from pathlib import Path
from typing import Final

import pytest

PYTHON: Final = os.environ.get("PENSTOCK_TEST_VLLM", "")
MISSING: Final = "no vLLM: set PENSTOCK_TEST_VLLM to the Python of an environment that has it"
NEEDS_VLLM: Final = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PYTHON, reason=MISSING),
    pytest.mark.timeout(900),
]
"""Marks of a module that starts one; each start takes a minute or more."""

_PROGRAM: Final = """\
import importlib.metadata

found = importlib.metadata.version


def version(name):
    try:
        return found(name)
    except importlib.metadata.PackageNotFoundError:
        return found(f"{name}-cpu") + "+cpu"


importlib.metadata.version = version

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
"""


def environment(folder: Path) -> Path:
    """Make a folder that has vLLM as a virtual environment has it; return it."""
    script, program = folder / "vllm_program.py", folder / "bin" / "vllm"
    script.write_text(_PROGRAM)
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        "export VLLM_CPU_KVCACHE_SPACE=1\n"  # GiB; by itself it takes half of the machine
        f'PATH={Path(PYTHON).parent}:$PATH exec {PYTHON} {script} "$@"\n'
    )
    program.chmod(0o755)
    return folder
