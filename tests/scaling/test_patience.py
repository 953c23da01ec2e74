"""Simulated runs that cannot succeed end early, and others are not changed by that."""

from collections.abc import Sequence

import pytest

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.clairvoyant import attainment
from penstock_operator.simulation.fleet import Stages
from penstock_operator.simulation.patience import Hopeless, Patience, allowed_late
from penstock_operator.simulation.setup import Sample, Setup
from penstock_operator.simulation.trace import Synthetic, generate

SETUP = Setup(ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000))
TRACE = generate(Synthetic(seconds=1200, rate=12))


class Counted:
    """A fixed number of replicas that counts how often it is asked."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.asked = 0

    def __call__(self, _: Sequence[Sample]) -> list[int]:
        """Return the number."""
        self.asked += 1
        return [self.replicas]


def test_a_run_that_holds_the_objective_is_played_as_without() -> None:
    patient = Patience(Counted(6), allowed_late(TRACE, 0.99))
    found = Stages([SETUP], [6]).run(TRACE, patient)[0]
    alone = Stages([SETUP], [6]).run(TRACE, Counted(6))[0]
    assert attainment(found, SETUP) >= 0.99
    assert found == alone


def test_a_run_ends_when_the_objective_is_out_of_reach() -> None:
    to_the_end, hopeless = Counted(1), Counted(1)
    missed = Stages([SETUP], [1]).run(TRACE, to_the_end)[0]
    assert attainment(missed, SETUP) < 0.9
    with pytest.raises(Hopeless):
        Stages([SETUP], [1]).run(TRACE, Patience(hopeless, allowed_late(TRACE, 0.99)))
    assert hopeless.asked < to_the_end.asked / 2


def test_as_many_may_be_late_as_the_objective_says() -> None:
    assert int(allowed_late([0] * 1000, 0.99)) == 10
