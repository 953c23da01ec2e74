"""One deployment's autoscaler: pages in, decisions out, everything remembered in between. Pure.

What reads the pages and what writes the sizes differs between a cluster and one machine; this does
not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.learned import Learned
from penstock_operator.autoscaling.littles_law import LittlesLaw
from penstock_operator.autoscaling.observe import observe
from penstock_operator.autoscaling.page import Labels, Page, label
from penstock_operator.autoscaling.record import Record
from penstock_operator.autoscaling.scene import Pages, Scene
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
    pages: Pages = field(default_factory=Pages)


@dataclass(frozen=True)
class Thought:
    """One decision with its grounds."""

    record: Record
    problems: tuple[str, ...] = ()
    difference: float | None = None
    """Of L and λ·W."""


def think(
    memory: Memory,
    scene: Scene,
    read: Mapping[str, Page],
    spec: ScalingSpec,
    now: float,
    problem: str = "",
) -> tuple[Memory, Thought]:
    """Return the new memory, and what to do.

    Args:
        memory: what the last call returned.
        scene: who is there.
        read: pages by target; a target that could not be read is left out.
        spec: what the user asked for.
        now: seconds of the wall clock, from a source that never goes back.
        problem: why nothing could be read, if nothing could.
    """
    known = frozenset((*scene.gateways, *scene.workers))
    # A page from the future is none, and would keep the next ones out.
    sane = {target: page for target, page in read.items() if page.time <= now + SKEW}
    pages = memory.pages.turned(sane, known)
    found = observe(scene, pages, memory.pages, memory.learned, spec, now)
    state, decisions = decide(memory.state, found.observation, spec, now)
    law = _law(memory, scene, pages)
    record = Record(now, memory.state, found.observation, spec, decisions)
    after = replace(memory, state=state, learned=found.learned, law=law, pages=pages)
    problems = (problem,) if problem else found.problems
    return after, Thought(record, problems, law.difference)


def _law(memory: Memory, scene: Scene, pages: Pages) -> LittlesLaw:
    """Add what passed at the gateways since the last pages."""
    law, model = memory.law, label(model=scene.model)
    for gateway in scene.gateways:
        pair = pages.pairs.get(gateway)
        if pair is None or pair.before is None or pair == memory.pages.pairs.get(gateway):
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


def _present(page: Page, model: Labels) -> float | None:
    """Return the requests in a gateway."""
    queued, sent = page.total(names.QUEUED, model), page.total(names.IN_FLIGHT, model)
    return None if queued is None or sent is None else queued + sent
