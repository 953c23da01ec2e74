"""Leases keep blocks exactly as long as they have to, whoever does what in which order."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from penstock_contract.handoff import LeaseOutcome
from penstock_worker.transfer.leases import Lease, Leases

CAPACITY = 10


class LeaseMachine(RuleBasedStateMachine):
    """Grants, reads, ends and waits at random, beside a model of who holds what."""

    leases: Bundle[Lease] = Bundle("leases")
    readings: Bundle[Lease] = Bundle("readings")

    def __init__(self) -> None:
        super().__init__()
        self.subject = Leases(CAPACITY)
        self.now = 0.0
        self.kept: list[Lease] = []
        self.returned: list[Lease] = []

    @rule(target=leases, count=st.integers(1, 5), seconds=st.integers(1, 5))
    def grant(self, count: int, seconds: int) -> Any:
        room = CAPACITY - sum(len(lease.blocks) for lease in self.kept)
        lease = self.subject.grant(range(count), [b"name"] * count, self.now + seconds)
        assert (lease is not None) == (count <= room)
        if lease is None:
            return multiple()
        self.kept.append(lease)
        return lease

    @rule(target=readings, lease=leases)
    def open(self, lease: Lease) -> Any:
        found = self.subject.open(lease.id, self.now)
        valid = lease in self.kept and lease.ended is None and self.now < lease.deadline
        assert found is (lease if valid else None)
        return found if found is not None else multiple()

    @rule(lease=consumes(readings))
    def close(self, lease: Lease) -> None:
        self.subject.close(lease)

    @rule(lease=leases, outcome=st.sampled_from([LeaseOutcome.PULLED, LeaseOutcome.RELEASED]))
    def end(self, lease: Lease, outcome: LeaseOutcome) -> None:
        self.subject.end(lease.id, outcome)

    @rule(seconds=st.integers(0, 3))
    def collect(self, seconds: int) -> None:
        self.now += seconds
        for lease in self.subject.collect(self.now):
            assert lease.readers == 0
            assert lease.ended
            self.kept.remove(lease)
            self.returned.append(lease)
        for lease in self.kept:
            assert lease.readers or (lease.ended is None and self.now < lease.deadline)

    @invariant()
    def everything_is_counted(self) -> None:
        assert len(self.subject) == len(self.kept)
        assert self.subject.blocks == sum(len(lease.blocks) for lease in self.kept) <= CAPACITY
        ended = sum(self.subject.outcomes.values()) - self.subject.outcomes[LeaseOutcome.REFUSED]
        assert ended == len(self.returned)


LeaseMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
test_leases_keep_their_promises = LeaseMachine.TestCase


def test_nobody_guesses_a_lease() -> None:
    leases = Leases(CAPACITY)
    granted = [leases.grant([1], [b"name"], 1.0) for _ in range(10)]
    names = {lease.id for lease in granted if lease is not None}
    assert len(names) == 10
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def test_the_first_to_run_out_is_known() -> None:
    leases = Leases(CAPACITY)
    assert leases.next_deadline is None
    for deadline in (5.0, 3.0, 9.0):
        leases.grant([1], [b"name"], deadline)
    assert leases.next_deadline == 3.0
