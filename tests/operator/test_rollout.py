"""Rollouts, step by step and against a simulated cluster that does what a real one may do."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_contract.api.inference import Canary
from penstock_operator.rollout import (
    Advance,
    RolloutState,
    Worker,
    advance,
)
from penstock_operator.rollout.error_budget import over_budget


def workers(revision: str, count: int, **how: object) -> tuple[Worker, ...]:
    """Return ready workers of a revision."""
    return tuple(Worker(f"{revision}{i}", revision, ready=True, **how) for i in range(count))  # type: ignore[arg-type]


def test_a_new_pool_starts_at_its_size() -> None:
    step = advance(RolloutState(3, "a"))
    assert step.sizes == {"a": 3}
    assert step.phase == "Stable"


def test_a_quiet_pool_stays_as_it_is() -> None:
    at = RolloutState(2, "a", "a", sizes={"a": 2}, workers=workers("a", 2))
    step = advance(at)
    assert (dict(step.sizes), step.drain, step.undrain, step.reason) == ({"a": 2}, (), (), "")


def test_scaling_down_drains_the_emptiest_and_shrinks_only_when_gateways_confirmed() -> None:
    busy = replace(workers("a", 1)[0], outstanding=500.0)
    idle = Worker("idle", "a", ready=True, outstanding=3.0)
    at = RolloutState(1, "a", "a", sizes={"a": 2}, workers=(busy, idle))
    assert advance(at).drain == ("idle",)
    assert advance(at).sizes == {"a": 2}
    draining = replace(idle, draining=True)
    assert advance(replace(at, workers=(busy, draining))).sizes == {"a": 2}
    confirmed = replace(draining, confirmed=True)
    assert advance(replace(at, workers=(busy, confirmed))).sizes == {"a": 1}


def test_nobody_shrinks_while_its_replicaset_could_take_one_that_is_not_confirmed() -> None:
    """Pods that drain are all alike to it."""
    gone = Worker("a8", "a", ready=False, draining=True, confirmed=True)
    told = Worker("a9", "a", ready=False, draining=True)
    new = workers("b", 3)
    at = RolloutState(3, "b", "a", sizes={"a": 2, "b": 3}, workers=(gone, told, *new))
    assert advance(at).sizes == {"a": 2, "b": 3}
    both = advance(replace(at, workers=(gone, replace(told, confirmed=True), *new)))
    assert both.sizes == {"a": 0, "b": 3}


def test_nobody_else_begins_to_drain_while_a_revision_shrinks() -> None:
    gone = Worker("a8", "a", ready=False, draining=True, confirmed=True)
    old, new = workers("a", 1), workers("b", 3)
    at = RolloutState(3, "b", "a", sizes={"a": 2, "b": 3}, workers=(gone, *old, *new))
    assert (advance(at).sizes["a"], advance(at).drain) == (1, ())
    assert advance(replace(at, sizes={"a": 1, "b": 3}, workers=(*old, *new))).drain == ("a0",)


def test_a_shrink_that_was_asked_for_is_not_taken_back_by_one_that_drains() -> None:
    gone = Worker("a8", "a", ready=False, draining=True, confirmed=True)
    told = Worker("a9", "a", ready=False, draining=True)
    at = RolloutState(2, "b", "a", sizes={"a": 1, "b": 2}, workers=(gone, told, *workers("b", 2)))
    assert advance(at).sizes["a"] == 1


def test_a_shrink_is_not_asked_for_twice_while_the_pod_still_shows() -> None:
    leaving = Worker("x", "a", ready=False, draining=True, confirmed=True)
    at = RolloutState(1, "a", "a", sizes={"a": 1}, workers=(*workers("a", 1), leaving))
    assert advance(at).sizes == {"a": 1}


def test_scaling_up_again_takes_back_a_drain_before_starting_another() -> None:
    leaving = Worker("x", "a", ready=True, draining=True)
    at = RolloutState(2, "a", "a", sizes={"a": 2}, workers=(*workers("a", 1), leaving))
    step = advance(at)
    assert step.undrain == ("x",)
    assert step.sizes == {"a": 2}


def test_a_new_revision_surges_before_an_old_worker_is_drained() -> None:
    at = RolloutState(2, "b", "a", sizes={"a": 2}, workers=workers("a", 2))
    step = advance(at)
    assert step.sizes == {"a": 2, "b": 1}
    assert step.drain == ()
    new = advance(replace(at, sizes={"a": 2, "b": 1}, workers=(*workers("a", 2), *workers("b", 1))))
    assert len(new.drain) == 1
    assert new.drain[0].startswith("a")


def test_a_revision_that_keeps_crashing_is_rolled_back_and_stays_out() -> None:
    broken = Worker("b0", "b", ready=False, failing="exited with code 1, 3 times")
    at = RolloutState(2, "b", "a", sizes={"a": 2, "b": 1}, workers=(*workers("a", 2), broken))
    step = advance(at)
    assert step.rejected == "b"
    assert "exited with code 1" in step.reason
    assert step.drain == ("b0",)
    later = replace(at, rejected="b", sizes={"a": 2, "b": 0}, workers=workers("a", 2))
    assert advance(later).sizes == {"a": 2, "b": 0}
    assert advance(later).phase == "RolledBack"
    assert advance(replace(later, wanted="c")).rejected == ""
    assert advance(replace(later, wanted="c")).sizes["c"] == 1


def test_a_pool_that_shrinks_while_its_rollout_hangs_gives_back_what_hangs() -> None:
    hanging = tuple(Worker(f"b{i}", "b", ready=False) for i in range(2))
    at = RolloutState(2, "b", "a", sizes={"a": 2, "b": 2}, workers=(*workers("a", 2), *hanging))
    assert advance(at).drain == ("b0",)  # one more than wanted may stay
    leaving = replace(hanging[0], draining=True, confirmed=True)
    step = advance(replace(at, workers=(*workers("a", 2), leaving, hanging[1])))
    assert (step.undrain, step.sizes) == ((), {"a": 2, "b": 1})


def test_a_first_revision_has_nothing_to_go_back_to() -> None:
    broken = Worker("a0", "a", ready=False, failing="exited with code 1, 3 times")
    step = advance(RolloutState(1, "a", sizes={"a": 1}, workers=(broken,)))
    assert step.rejected == ""
    assert step.sizes == {"a": 1}


def test_waiting_for_a_place_is_no_failure_of_the_revision() -> None:
    homeless = Worker("b0", "b", ready=False)
    at = RolloutState(
        1, "b", "a", sizes={"a": 1, "b": 1}, workers=(*workers("a", 1), homeless), now=1e6
    )
    assert advance(at).rejected == ""
    assert advance(at).again_in is None


def test_a_worker_that_loads_for_too_long_is_the_fault_of_its_revision() -> None:
    loads = Worker("b0", "b", ready=False, loading=1799.0)
    at = RolloutState(1, "b", "a", sizes={"a": 1, "b": 1}, workers=(*workers("a", 1), loads))
    assert (advance(at).rejected, advance(at).again_in) == ("", 1.0)
    late = advance(replace(at, workers=(*workers("a", 1), replace(loads, loading=1800.0))))
    assert late.rejected == "b"
    assert "not ready 1800 s after" in late.reason


def test_a_rollout_may_last_for_as_long_as_its_workers_come_one_by_one() -> None:
    """Sixty of them at two minutes each are two hours; a canary may be watched for as long."""
    loads = Worker("b5", "b", ready=False, loading=20.0)
    there = (*workers("a", 4), *workers("b", 4), loads)
    at = RolloutState(8, "b", "a", sizes={"a": 4, "b": 5}, workers=there, now=7200.0)
    assert advance(at).rejected == ""


def test_a_canary_gets_its_share_waits_and_takes_over() -> None:
    canary = Canary(weight=10, pause="5m")
    at = RolloutState(4, "b", "a", sizes={"a": 4}, workers=workers("a", 4), canary=canary)
    assert advance(at).sizes == {"a": 4, "b": 1}
    on_trial = replace(
        at, sizes={"a": 4, "b": 1}, workers=(*workers("a", 4), *workers("b", 1)), now=100.0
    )
    step = advance(on_trial)
    assert (step.phase, step.canary_weight, step.canary_since) == ("Canary", 10, 100.0)
    assert step.again_in == 300.0
    watched = replace(on_trial, canary_since=100.0, now=399.0)
    assert advance(watched).sizes["b"] == 1
    passed = advance(replace(watched, now=401.0))
    assert (passed.phase, passed.canary_weight) == ("Updating", 0)
    assert passed.canary_since == 100.0


def test_a_canary_that_fails_its_requests_is_rolled_back() -> None:
    at = RolloutState(
        4, "b", "a", sizes={"a": 4, "b": 1}, workers=(*workers("a", 4), *workers("b", 1)),
        canary=Canary(weight=10), canary_since=0.0, now=50.0,
        counts={"a": (900, 0), "b": (40, 8)},
    )  # fmt: skip
    step = advance(at)
    assert step.rejected == "b"
    assert "8 of 40 requests failed" in step.reason
    assert step.canary_weight == 0


@pytest.mark.parametrize(
    ("new", "old", "over"),
    [
        ((19, 19), (1000, 0), False),  # too few to judge
        ((40, 1), (1000, 0), False),  # one unlucky request
        ((100, 20), (1000, 200), False),  # as bad as before
        ((100, 20), (1000, 10), True),
        ((100, 20), (0, 0), True),
    ],
)
def test_the_error_budget_needs_evidence(
    new: tuple[int, int], old: tuple[int, int], over: bool
) -> None:
    assert bool(over_budget(new, old)) is over


# --- a simulated cluster ------------------------------------------------------------------------


@dataclass
class Cluster:
    """Deployments, pods and gateways that obey, in an order that hypothesis draws."""

    replicas: int = 2
    wanted: str = "a"
    stable: str = ""
    rejected: str = ""
    bad: frozenset[str] = frozenset()
    max_surge: int = 1
    max_unavailable: int = 0
    canary: Canary | None = None
    canary_since: float | None = None
    now: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    made: dict[str, float] = field(default_factory=dict)
    pods: dict[str, Worker] = field(default_factory=dict)
    serial: int = 0

    def state(self) -> RolloutState:
        """Return what the operator sees."""
        return RolloutState(
            self.replicas, self.wanted, self.stable, self.rejected, dict(self.sizes),
            tuple(map(self._seen, self.pods.values())), self.max_surge, self.max_unavailable,
            self.canary, 60.0, self.canary_since, {}, 600.0, self.now,
        )  # fmt: skip

    def _seen(self, pod: Worker) -> Worker:
        return pod if pod.ready else replace(pod, loading=self.now - self.made[pod.id])

    def act(self) -> Advance:
        """Do what the operator decides, with its promises checked."""
        at = self.state()
        step = advance(at)
        before = {name: pod for name, pod in self.pods.items() if pod.ready and not pod.draining}
        floor = at.replicas - at.max_unavailable
        ready_drains = [name for name in step.drain if name in before]
        if ready_drains and not step.rejected:
            surplus = len(before) - len(ready_drains)
            assert surplus >= min(floor, len(before)), "a drain took the pool below its floor"
        for revision, size in step.sizes.items():
            mine = [pod for pod in self.pods.values() if pod.revision == revision]
            lost = len(mine) - size
            assert lost <= sum(p.removable and p.id not in step.undrain for p in mine)
            self.sizes[revision] = size
            if size == 0 and not mine and revision != self.stable:
                del self.sizes[revision]
        for name in step.drain:
            self.pods[name] = replace(self.pods[name], draining=True)
        for name in step.undrain:
            self.pods[name] = replace(self.pods[name], draining=False, confirmed=False)
        staying = sum(not pod.draining for pod in self.pods.values())
        asked = sum(self.sizes.values()) - sum(pod.draining for pod in self.pods.values())
        old = max(staying, at.replicas)
        assert asked <= max(old, at.replicas + at.max_surge), "more workers than the surge allows"
        self.rejected, self.canary_since = step.rejected, step.canary_since
        if self.rejected:
            there = sum(pod.revision == self.rejected for pod in self.pods.values())
            assert step.sizes.get(self.rejected, 0) <= there, "a rejected revision got a pod"
        if not step.drain and not step.undrain:
            again = advance(self.state())
            asked_for = [{r: n for r, n in s.sizes.items() if n} for s in (step, again)]
            assert asked_for[0] == asked_for[1], "asked again at once, it wants other sizes"
            assert not again.drain, "asked again at once, it drains more"
        ready = [p for p in self.pods.values() if p.ready and p.revision == self.wanted]
        if step.phase == "Stable" and len(ready) == self.replicas == len(self.pods):
            self.stable = self.wanted
        return step

    def controllers(self) -> None:
        """ReplicaSets make and delete pods."""
        for revision in list(self.sizes):
            mine = [pod for pod in self.pods.values() if pod.revision == revision]
            for _ in range(self.sizes[revision] - len(mine)):
                self.serial += 1
                name = f"{revision}{self.serial}"
                self.pods[name] = Worker(name, revision, ready=False)
                self.made[name] = self.now
            extra = len(mine) - self.sizes[revision]
            worst = sorted(mine, key=lambda p: (p.ready, not p.draining, p.confirmed))
            for pod in worst[: max(0, extra)]:
                assert pod.removable or not pod.draining, "one was ended that was not confirmed"
                del self.pods[pod.id]

    def kubelet(self) -> None:
        """Pods become ready, or fail."""
        for name, pod in self.pods.items():
            if pod.revision in self.bad:
                self.pods[name] = replace(pod, failing="exited with code 1")
            else:
                self.pods[name] = replace(pod, ready=not pod.draining)

    def gateways(self) -> None:
        """Every gateway has seen who is draining."""
        for name, pod in self.pods.items():
            if pod.draining:
                self.pods[name] = replace(pod, confirmed=True, ready=False)

    def settle(self) -> None:
        """Let everything run until nothing has changed for long."""
        quiet = 0
        for _ in range(400):
            before = (dict(self.sizes), dict(self.pods), self.rejected, self.stable)
            self.now += 10.0
            self.act()
            self.kubelet()
            self.controllers()
            self.gateways()
            same = before == (self.sizes, self.pods, self.rejected, self.stable)
            quiet = quiet + 1 if same else 0
            if quiet > 70:  # longer than a canary's pause and the progress deadline
                return
        raise AssertionError(f"never settles: {self}")


SPECS = st.tuples(st.integers(0, 5), st.sampled_from("abcd"))


@settings(max_examples=200, deadline=None)
@given(
    specs=st.lists(SPECS, min_size=1, max_size=5),
    order=st.lists(st.sampled_from(["act", "controllers", "kubelet", "gateways"]), max_size=40),
    bad=st.frozensets(st.sampled_from("bcd"), max_size=2),
    surge=st.sampled_from([(1, 0), (0, 1), (2, 1), (3, 0)]),
    canary=st.one_of(st.none(), st.builds(lambda w: Canary(weight=w), st.integers(1, 99))),
)
def test_any_path_of_specs_ends_as_it_should(
    specs: list[tuple[int, str]],
    order: list[str],
    bad: frozenset[str],
    surge: tuple[int, int],
    canary: Canary | None,
) -> None:
    cluster = Cluster(bad=bad, max_surge=surge[0], max_unavailable=surge[1], canary=canary)
    share = max(1, len(order) // len(specs))
    for index, (cluster.replicas, cluster.wanted) in enumerate(specs):
        for move in order[index * share : (index + 1) * share]:
            cluster.now += 1.0
            getattr(cluster, move)()
    had_stable = bool(cluster.stable)
    cluster.settle()
    revisions = {pod.revision for pod in cluster.pods.values()}
    proven = had_stable and cluster.rejected and cluster.stable not in cluster.bad
    if cluster.wanted in cluster.bad and not proven:
        # Nothing known to be good (a revision may have been complete at size zero, untried):
        # whoever serves stays, and the other one goes on trying.
        assert len(cluster.pods) <= cluster.replicas + cluster.max_surge
        return
    assert len(cluster.pods) == cluster.replicas
    assert revisions <= {cluster.stable if cluster.rejected else cluster.wanted}
    assert not any(pod.draining for pod in cluster.pods.values())
