"""The GPU's kernels, compiled to machine code for real GPUs, though none is here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")

COMPILER = Path(__file__).parents[1] / "support" / "kernel_compiler.py"

SHARED_MEMORY = {86: 99 << 10, 90: 227 << 10}
"""That a thread block may have, by compute capability: A10 and RTX 30, H100."""


def test_every_kernel_compiles_into_what_a_gpu_has(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, COMPILER, *map(str, SHARED_MEMORY)],
        env={**environment, "TRITON_DEFAULT_FP_FUSION": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=400,
    )
    kernels = [json.loads(line) for line in found.stdout.splitlines()]
    assert {kernel["kernel"] for kernel in kernels} == {"store", "attend", "combine"}
    for kernel in kernels:
        assert kernel["binary"] > 0
        assert kernel["shared"] <= SHARED_MEMORY[kernel["target"]], kernel
