"""A joint bound on GPUs over all pools: what shrinks goes first, what grows shares the rest."""

from collections.abc import Mapping
from dataclasses import replace

from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.spec import ScalingSpec


def inside_budget(
    found: Mapping[str, Decision], spec: ScalingSpec, taken: int = 0
) -> dict[str, Decision]:
    """Return the decisions with growth cut to what the budget leaves.

    Nothing that runs is taken away for the budget's sake. GPUs go round by round to the growing
    pool that has the smallest share of what it asked for, the cheaper one first among equals.
    `taken` GPUs belong to pools of fixed size.
    """
    decisions = dict(found)
    if spec.max_gpus is None:
        return decisions
    pools = {bounds.name: bounds for bounds in spec.pools if bounds.name in decisions}
    sizes = {name: min(decisions[name].replicas, decisions[name].current) for name in pools}
    free = spec.max_gpus - taken - sum(sizes[name] * pools[name].gpus for name in pools)
    growing = {name for name in pools if sizes[name] < decisions[name].replicas}
    while growing:
        name = min(growing, key=lambda n: (sizes[n] / decisions[n].replicas, pools[n].cost, n))
        if pools[name].gpus > free:
            growing.discard(name)
            continue
        sizes[name] += 1
        free -= pools[name].gpus
        if sizes[name] == decisions[name].replicas:
            growing.discard(name)
    for name, size in sizes.items():
        if size < decisions[name].replicas:
            words = f"budget of {spec.max_gpus} GPUs"
            guards = (*decisions[name].guards, words)
            decisions[name] = replace(decisions[name], replicas=size, guards=guards)
    return decisions
