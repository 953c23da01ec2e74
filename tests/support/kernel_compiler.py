"""Compiles the GPU's kernels for GPUs that are not here, and prints what each needs as JSON.

A process of its own: in the tests' own, Triton interprets. Arguments: compute capabilities.
"""

import json
import sys
from collections.abc import Mapping

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_for

from penstock_worker.attention.gpu import kernels
from penstock_worker.attention.gpu.backend import STEP
from penstock_worker.attention.gpu.tiles import LEAST_ROWS, SPLIT, tile_rows

LLAMA = {"KV_HEADS": 8, "GROUP": 4, "HEAD_DIM": 128, "PADDED_DIM": 128}
GEMMA = {"KV_HEADS": 4, "GROUP": 2, "HEAD_DIM": 256, "PADDED_DIM": 256}
WHOLE = {"BLOCK_SIZE": 16, "STEP": STEP, "SPLIT": 0, "WINDOW": 0, "CAP": 0.0}
SLIDING = {**WHOLE, "WINDOW": 4096, "CAP": 50.0}
POINTERS = {"tiles": "*i32", "tables": "*i32", "slots": "*i32", "partial": "*fp32"}
STORED = ("out", "query", "keys", "values", "key", "value")

CASES: tuple[tuple[str, str, Mapping[str, float]], ...] = (
    ("store", "bf16", {"WIDTH": 1024, "PADDED": 1024}),
    ("attend", "bf16", {**LLAMA, **WHOLE, "ROWS": tile_rows(2 * 128)}),
    ("attend", "bf16", {**GEMMA, **SLIDING, "ROWS": tile_rows(2 * 256)}),
    ("attend", "fp32", {**GEMMA, **SLIDING, "ROWS": tile_rows(4 * 256)}),
    ("attend", "fp32", {**GEMMA, **WHOLE, "ROWS": LEAST_ROWS, "SPLIT": SPLIT}),
    ("combine", "bf16", {"HEADS": 32, "HEAD_DIM": 128, "PADDED_DIM": 128, "SPLIT": SPLIT}),
)


def main() -> None:
    """Compile every case for every target."""
    for capability in map(int, sys.argv[1:]):
        for name, stored, constants in CASES:
            needs = _compile(name, constants, stored, capability)
            print(json.dumps({"kernel": name, "target": capability, **needs}))  # noqa: T201


def _compile(
    name: str, constants: Mapping[str, float], stored: str, capability: int
) -> dict[str, int]:
    kernel = getattr(kernels, name)
    signature = {argument: _type(argument, constants, stored) for argument in kernel.arg_names}
    places = {(kernel.arg_names.index(known),): value for known, value in constants.items()}
    source = ASTSource(kernel, signature, places, {})
    compiled = compile_for(source, target=GPUTarget("cuda", capability, 32))
    return {"shared": compiled.metadata.shared, "binary": len(compiled.asm["cubin"])}


def _type(argument: str, constants: Mapping[str, float], stored: str) -> str:
    if argument in constants:
        return "constexpr"
    if argument in STORED:
        return f"*{stored}"
    return POINTERS.get(argument, "fp32" if argument == "scale" else "i32")


if __name__ == "__main__":
    main()
