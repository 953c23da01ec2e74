"""The operator is killed at every write it makes, before it is sent and after it is committed.

One run without a crash counts the writes of a whole life: create, update, scale, delete. Then each
gets its two crashes, and every run must end as the first did. In CI a sample of them is taken;
`PENSTOCK_FULL=1` takes them all and keeps the count in benchmarks/results/crashes.jsonl.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import figures
import pytest
from api_proxy import Fault
from cluster_state import difference, state
from fake_node import FakeNode
from kube import Access
from operated import NAME, Site, site
from waiting import eventually

SAMPLE = 12
"""Writes that are crashed at in CI, each in one of the two ways."""
AT_ONCE = 4


@pytest.mark.timeout(3600)
def test_a_crash_at_any_write_changes_nothing_in_the_end(
    access: Access, node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, writes = _crash_free(access, node, tmp_path)
    every = [(k, sent) for k in range(1, writes + 1) for sent in (False, True)]
    chosen = every if os.environ.get("PENSTOCK_FULL") else _sample(every)

    def run(case: tuple[int, bool]) -> tuple[str, bool]:
        return _crashed(access, node, tmp_path, wanted, *case)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(run, chosen))
    failures = [trouble for trouble, _ in outcomes if trouble]
    crashes = sum(crashed for _, crashed in outcomes)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{writes} writes; {len(chosen)} of {len(every)} crashes tried, {crashes} happened, "
            f"{len(chosen) - len(failures)}/{len(chosen)} converged"
        )
    if chosen == every:
        case = f"{writes} writes of a whole life, {crashes} crashes"
        figures.keep(
            "crashes", "crashes_converged", case, "crashes", len(chosen) - len(failures),
            limit=len(every), writes=writes,
        )  # fmt: skip
    assert not failures, "\n\n".join(failures)
    assert crashes >= 0.9 * len(chosen)


def test_an_operator_that_is_started_anew_has_nothing_to_tell(
    access: Access, node: FakeNode, tmp_path: Path
) -> None:
    scaled = {"name": "default", "scaling": {"minReplicas": 2, "maxReplicas": 8}}
    with site(access, node, tmp_path, "--scaling-interval", "1s") as found:
        found.apply(scaled)
        found.settle()
        eventually(lambda: found.condition("ScalingActive"), "the autoscaler has decided")
        found.quiet_for(3)
        found.operator.kill()
        before = len(found.proxy.writes)
        found.restart()
        eventually(lambda: "leading as" in found.operator.tail(5), "it leads")
        found.quiet_for(5)
        assert [str(call) for call in found.proxy.writes[before:]] == []


def _sample(every: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """Spread over the whole life, before and after the commit by turns."""
    step = max(1, len(every) // SAMPLE) | 1
    return every[::step]


def _crash_free(access: Access, node: FakeNode, folder: Path) -> tuple[dict[str, Any], int]:
    with site(access, node, folder) as found:
        wanted = _life(found)
        return wanted, len(found.proxy.writes)


def _crashed(
    access: Access, node: FakeNode, folder: Path, wanted: dict[str, Any], k: int, sent: bool
) -> tuple[str, bool]:
    """Return what went wrong, and whether the crash happened."""
    case = f"crash at write {k}, {'after commit' if sent else 'before sending'}"
    try:
        with site(access, node, folder) as found:
            fault = Fault(
                lambda call: call.is_write and len(found.proxy.writes) == k,
                send=sent,
                answer=False,
                then=lambda _call: found.operator.kill(),
            )
            found.proxy.inject(fault)
            _life(found, wanted)
            return "", bool(fault.hits)
    except AssertionError as error:
        return "\n".join([case, str(error), *getattr(error, "__notes__", [])]), True


def _life(found: Site, wanted: dict[str, Any] | None = None) -> dict[str, Any]:
    """Create, update, scale, delete; return the state before the end.

    With a wanted state, that is waited for: an operator that was just started is quiet, too.
    """
    reached: dict[str, Any] = {}

    def settled() -> bool:
        _revive(found)
        return found.settled()

    def converged() -> bool:
        if not (settled() and sum(found.pods().values()) == 3 and _quiet(found)):
            return False
        reached.clear()
        reached.update(state(found.kube))
        return wanted in (None, reached)

    def gone() -> bool:
        _revive(found)
        return found.empty()

    found.apply()
    eventually(settled, "created")
    found.apply(image="worker:2")
    eventually(settled, "updated")
    found.kube.scale("EnginePool", f"{NAME}-default", 3)
    try:
        eventually(converged, "scaled")
    except AssertionError as error:
        error.add_note("\n".join(difference(reached, wanted or reached)))
        raise
    found.kube.delete("InferenceDeployment", NAME)
    eventually(gone, "deleted")
    return reached


def _revive(found: Site) -> None:
    if not found.operator.alive:
        found.restart()


def _quiet(found: Site) -> bool:
    try:
        found.quiet_for(1.0, within=1.5)
    except AssertionError:
        return False
    return True
