"""A wall clock that jumps deletes nothing and restarts nothing."""

from pathlib import Path

import pytest
from fake_node import FakeNode
from kube import Access
from operated import site
from waiting import eventually

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian: faketime)")
@pytest.mark.parametrize("jump", ["+30d", "-30d"])
def test_a_clock_that_jumps_changes_nothing(
    access: Access, node: FakeNode, tmp_path: Path, jump: str
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with site(access, node, tmp_path, "--resync", "2s", environment=environment) as found:
        found.apply()
        before = found.settle()
        pods = {pod["metadata"]["uid"] for pod in found.kube.list("Pod")}
        clock.write_text(jump)
        found.quiet_for(6)
        found.reach(before)
        assert {pod["metadata"]["uid"] for pod in found.kube.list("Pod")} == pods
        found.kube.scale("EnginePool", "chat-default", 3)
        eventually(lambda: found.settled() and sum(found.pods().values()) == 3, "it still acts")
        remaining = {pod["metadata"]["uid"] for pod in found.kube.list("Pod")}
        assert pods < remaining
