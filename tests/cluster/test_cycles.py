"""Making and deleting again and again leaves nothing behind, in the cluster or in the operator."""

import os
from functools import partial
from pathlib import Path

import pytest
from operated import Site
from waiting import eventually

CYCLES = 1000 if os.environ.get("PENSTOCK_FULL") else 60
AT_ONCE = 10


@pytest.mark.timeout(3600)
def test_cycles_of_creation_and_deletion_leave_nothing(site: Site) -> None:
    pool = {"name": "default", "replicas": 1}
    _cycles(site, pool, 2 * AT_ONCE)
    process = Path(f"/proc/{site.operator.pid}")
    files, memory = _open_files(process), _resident_mb(process)
    _cycles(site, pool, CYCLES)
    eventually(site.empty, "nothing left")
    assert site.kube.list("ReplicaSet") == []
    site.quiet_for(2)
    assert _open_files(process) <= files + 5
    assert _resident_mb(process) <= memory + 10 + CYCLES / 50


def _cycles(site: Site, pool: dict[str, object], count: int) -> None:
    for start in range(0, count, AT_ONCE):
        names = [f"chat{start + i}" for i in range(AT_ONCE)]
        for name in names:
            site.kube.apply(site.manifest(pool, name=name))
        for name in names:
            # Half of them go before they have come.
            if int(name[4:]) % 2:
                eventually(partial(site.settled, name), name)
            site.kube.delete("InferenceDeployment", name)
    eventually(site.empty, "nothing left")


def _open_files(process: Path) -> int:
    return len(list((process / "fd").iterdir()))


def _resident_mb(process: Path) -> float:
    line = next(s for s in (process / "status").read_text().splitlines() if s.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
