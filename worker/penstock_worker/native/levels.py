"""Instruction-set levels: what a processor must have, and how to compile for it.

The kernels are compiled once per level; the levels are x86-64's micro-architecture levels (System V
ABI) and what dot-product instructions add to them. A container image holds all of its architecture.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

_V3 = frozenset({"avx2", "fma", "bmi2", "f16c"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Level:
    """One way to compile."""

    name: str
    machine: str
    needs: frozenset[str]
    """Processor flags, as Linux spells them."""
    flags: tuple[str, ...]


LEVELS = (
    Level(
        "avx512-bf16",
        "x86_64",
        _V4 | {"avx512_vnni", "avx512_bf16"},
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"),
    ),
    Level(
        "avx512-vnni",
        "x86_64",
        _V4 | {"avx512_vnni"},
        ("-march=x86-64-v4", "-mavx512vnni"),
    ),
    Level("avx512", "x86_64", _V4, ("-march=x86-64-v4",)),
    Level("avx2", "x86_64", _V3, ("-march=x86-64-v3",)),
    Level("x86-64", "x86_64", frozenset(), ()),
    Level("aarch64", "aarch64", frozenset(), ()),
)
"""Best first."""


def levels_of(machine: str, flags: frozenset[str]) -> list[Level]:
    """Return the levels that a processor can run, best first."""
    return [level for level in LEVELS if level.machine == machine and level.needs <= flags]


def this_machine() -> list[Level]:
    """Return the levels that this machine can run, best first; none where it is unknown."""
    return levels_of(platform.machine(), _processor_flags())


def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()
