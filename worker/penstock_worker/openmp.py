"""How PyTorch's threads wait for each other on a CPU.

A step of a small model is a hundred short parallel regions, and after each one GNU's OpenMP spins
for milliseconds before it sleeps. On a processor that others use too, a thread that spins keeps the
very one from running that it waits for: beside busy neighbours (10 runnable threads, two cores) a
question took 300 ms, and takes 25 ms when threads sleep; its fastest took 6 ms either way. A spin
of ten microseconds still lost to none (`benchmarks/spinning.py`). The native kernels' threads are
no part of this: see `native/kernels/team.h`.
"""

from collections.abc import MutableMapping


def wait_asleep(environment: MutableMapping[str, str]) -> None:
    """Let threads sleep while they wait, unless somebody has chosen; to be called before torch."""
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["OMP_WAIT_POLICY"] = "passive"
