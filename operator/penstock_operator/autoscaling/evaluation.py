"""One deployment's autoscaler: scrapes in, decisions out, everything remembered in between. Pure.

What reads metrics and what writes sizes differs between a cluster and one machine; this does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.learned import Learned
from penstock_operator.autoscaling.littles_law import LittlesLaw
from penstock_operator.autoscaling.observe import observe
from penstock_operator.autoscaling.record import Record
from penstock_operator.autoscaling.scrape import Labels, Scrape, Scrapes, label
from penstock_operator.autoscaling.topology import Topology
from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.spec import ScalingSpec
from penstock_operator.scaling.state import ScalingState

SKEW = 5.0
"""Seconds by which the clocks of two machines may differ."""


@dataclass(frozen=True)
class Memory:
    """All that is kept between two decisions."""

    state: ScalingState = field(default_factory=ScalingState)
    learned: Learned = field(default_factory=Learned)
    law: LittlesLaw = field(default_factory=LittlesLaw)
    scrapes: Scrapes = field(default_factory=Scrapes)
    load: float | None = None
    """Seconds that a worker took to load, when one was there to tell; None: not known yet."""


@dataclass(frozen=True)
class Evaluation:
    """One decision with its grounds."""

    record: Record
    problems: tuple[str, ...] = ()
    difference: float | None = None
    """Of L and λ·W."""


def evaluate(
    memory: Memory,
    topology: Topology,
    read: Mapping[str, Scrape],
    spec: ScalingSpec,
    now: float,
    problem: str = "",
) -> tuple[Memory, Evaluation]:
    """Return the new memory, and what to do.

    Args:
        memory: what the last call returned.
        topology: who is there.
        read: scrapes by target; a target that could not be read is left out.
        spec: what the user asked for.
        now: seconds of the wall clock, from a source that never goes back.
        problem: why nothing could be read, if nothing could.
    """
    known = frozenset((*topology.gateways, *topology.workers))
    # A scrape from the future is none, and would keep the next ones out.
    sane = {target: scrape for target, scrape in read.items() if scrape.time <= now + SKEW}
    scrapes = memory.scrapes.advanced(sane, known)
    found = observe(topology, scrapes, memory.scrapes, memory.learned, spec, now)
    state, decisions = decide(memory.state, found.observation, spec, now)
    law = _law(memory, topology, scrapes)
    record = Record(now, memory.state, found.observation, spec, decisions)
    after = replace(memory, state=state, learned=found.learned, law=law, scrapes=scrapes)
    problems = (problem,) if problem else found.problems
    return after, Evaluation(record, problems, law.difference)


def _law(memory: Memory, topology: Topology, scrapes: Scrapes) -> LittlesLaw:
    """Add what passed at the gateways since the last scrapes."""
    law, model = memory.law, label(model=topology.model)
    for gateway in topology.gateways:
        pair = scrapes.pairs.get(gateway)
        if pair is None or pair.before is None or pair == memory.scrapes.pairs.get(gateway):
            continue
        before, now = _present(pair.before, model), _present(pair.latest, model)
        law = law.after(
            None if before is None or now is None else (before + now) / 2,
            pair.increase(names.DURATION_SUM, model),
            pair.increase(names.DURATION_COUNT, model),
            now,
            pair.seconds,
        )
    return law


def _present(scrape: Scrape, model: Labels) -> float | None:
    """Return the requests in a gateway."""
    queued, sent = scrape.total(names.QUEUED, model), scrape.total(names.IN_FLIGHT, model)
    return None if queued is None or sent is None else queued + sent
