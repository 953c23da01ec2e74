"""The next step of a rollout, and why a revision must not go on. Pure."""

from penstock_operator.rollout.error_budget import over_budget
from penstock_operator.rollout.moves import moves, sizes_of
from penstock_operator.rollout.state import Advance, Phase, RolloutState
from penstock_operator.rollout.trial import Trial, trial_of


def advance(at: RolloutState) -> Advance:
    """Return the next step towards `at.replicas` workers of the right revision."""
    rejected = at.rejected if at.rejected == at.wanted else ""
    why = "" if rejected else _failure(at)
    rejected = at.wanted if why else rejected
    target = at.stable if rejected and at.stable in at.sizes else at.wanted
    if target == rejected:  # nothing to go back to: better a failing revision than none
        rejected, why = "", ""
    trial = trial_of(at, target)
    limit = trial.workers if trial.weight else at.replicas
    undrain, drain = moves(at, target, limit, rejected)
    phase = _phase(at, target, rejected, trial)
    return Advance(
        sizes=sizes_of(at, target, limit, undrain),
        drain=tuple(drain),
        undrain=tuple(undrain),
        rejected=rejected,
        phase=phase,
        reason=_reason(at, target, rejected, why, phase, trial),
        canary_weight=trial.weight if trial.since is not None else 0,
        canary_since=trial.since,
        again_in=_again_in(at, trial),
    )


def _failure(at: RolloutState) -> str:
    """Return why the wanted revision must not replace the stable one; empty: it may."""
    if not at.stable or at.wanted == at.stable or at.stable not in at.sizes:
        return ""
    new = [w for w in at.workers if w.revision == at.wanted]
    unready = [w for w in new if not w.ready and not w.draining]
    broken = next((w.failing for w in unready if w.failing), "")
    if broken:
        return broken
    waited = max((w.loading for w in unready if w.loading is not None), default=0.0)
    if waited >= at.progress_deadline:
        return f"a worker is not ready {waited:.0f} s after it had all that it needs"
    return over_budget(at.counts.get(at.wanted, (0, 0)), at.counts.get(at.stable, (0, 0)))


def _phase(at: RolloutState, target: str, rejected: str, trial: Trial) -> Phase:
    others = any(w.revision != target for w in at.workers) or any(
        size for revision, size in at.sizes.items() if revision != target
    )
    if rejected:
        return Phase.ROLLING_BACK if others else Phase.ROLLED_BACK
    if trial.weight:
        return Phase.CANARY
    return Phase.UPDATING if others else Phase.STABLE


def _reason(
    at: RolloutState, target: str, rejected: str, why: str, phase: Phase, trial: Trial
) -> str:
    if why:
        return f"rolled back to {target}: {why}"
    if rejected:
        return f"{rejected} failed and stays out until the spec changes; {target} serves"
    if phase is Phase.CANARY and trial.left is not None:
        return (
            f"{target} is on trial with {trial.weight} % of the requests, {trial.left:.0f} s left"
        )
    if phase is Phase.CANARY:
        return f"{target} goes on trial as soon as {trial.workers} of it are ready"
    if phase is Phase.UPDATING:
        old = sum(w.revision != target for w in at.workers)
        return f"{old} workers of an older revision to be replaced by {target}"
    return ""


def _again_in(at: RolloutState, trial: Trial) -> float | None:
    if trial.left is not None:
        return trial.left
    if at.wanted == at.stable:
        return None
    mine = (w for w in at.workers if w.revision == at.wanted and not w.draining)
    left = [at.progress_deadline - w.loading for w in mine if w.loading is not None]
    return min((wait for wait in left if wait > 0), default=None)
