"""Reads the metrics of deployments when their time has come, and says what size they should have.

The shells around it, one for a cluster and one for a single machine, know who is there and how a
size is written down.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from penstock_contract.api import InferenceDeployment
from penstock_operator.autoscaling.clock import steady_wall_clock
from penstock_operator.autoscaling.evaluation import Evaluation, Memory, evaluate
from penstock_operator.autoscaling.lead_time import lead_time, load_time
from penstock_operator.autoscaling.sources import Source, SourceError, Target
from penstock_operator.autoscaling.topology import Topology
from penstock_operator.scaling.schedules import by_the_clock
from penstock_operator.scaling.spec import scaling_spec

Name = TypeVar("Name")


@dataclass(frozen=True)
class Timing:
    """How fast things go where it runs, in seconds."""

    interval: float
    """Between two decisions about a deployment."""
    overhead: float
    """That a worker needs before it can begin to load: a node, a pod."""
    unknown_start: float
    """Assumed for a start that nobody has measured."""


@dataclass
class _Known:
    """What is kept of one deployment."""

    memory: Memory = field(default_factory=Memory)
    due: float = 0.0
    """When its time has come, in monotonic seconds."""


class Advisor(Generic[Name]):
    """Decides about deployments, each known by a name.

    Args:
        source: reads the metrics.
        timing: of where it runs.
    """

    def __init__(self, source: Source, timing: Timing) -> None:
        self._source = source
        self._timing = timing
        self._clock = steady_wall_clock()
        self._known: dict[Name, _Known] = {}

    @property
    def now(self) -> float:
        """Return the time of decisions, in seconds since 1970."""
        return self._clock()

    def remember(self, name: Name, memory: Memory) -> None:
        """Begin with what another process knew."""
        self._known[name] = _Known(memory)

    def knows(self, name: Name) -> bool:
        """Whether something is remembered of a deployment."""
        return name in self._known

    def memory(self, name: Name) -> Memory:
        """Return what is known of a deployment."""
        return self._known[name].memory

    def forget(self, names: set[Name]) -> None:
        """Keep what is known of these only."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    async def advise(
        self,
        name: Name,
        deployment: InferenceDeployment,
        topology: Topology,
        targets: Sequence[Target],
    ) -> Evaluation | None:
        """Return what to do about a deployment; None: it is not its time yet.

        One that has no worker is looked at each time it is asked about: somebody may wait for one.
        """
        known = self._known.setdefault(name, _Known())
        if time.monotonic() < known.due and topology.workers:
            return None
        known.due = time.monotonic() + self._timing.interval
        problem = ""
        try:
            scrapes = await self._source.read(list(targets))
        except SourceError as error:
            scrapes, problem = {}, str(error)
        timing, pairs = self._timing, known.memory.scrapes.pairs
        load = load_time((pairs[w] for w in topology.workers if w in pairs), known.memory.load)
        known.memory = replace(known.memory, load=load)
        lead = lead_time(load, timing.interval, timing.overhead, timing.unknown_start)
        wanted = scaling_spec(deployment, lead, apart=timing.overhead)
        # Schedules go by the clock that people go by, which may be set; memory by one that is not.
        spec = by_the_clock(wanted, time.time(), known.memory.state.started)
        known.memory, evaluation = evaluate(
            known.memory, topology, scrapes, spec, self._clock(), problem
        )
        return evaluation
