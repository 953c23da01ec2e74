"""A decision in plain words, with its arithmetic. Pure."""

from collections.abc import Iterable, Mapping
from math import isfinite

from penstock_contract.api import InferenceDeploymentStatus, PoolStatus, Role
from penstock_contract.conditions import ConditionType
from penstock_operator.autoscaling.evaluation import Evaluation
from penstock_operator.autoscaling.report import NEEDED
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.decision import Decision
from penstock_operator.scaling.observation import Observation, PoolView
from penstock_operator.scaling.signal import Health, Signal
from penstock_operator.scaling.spec import Phase, PoolBounds, ScalingSpec, Turn

Row = tuple[str, str, str]


def explanations(deployment: str, evaluation: Evaluation) -> str:
    """Return why the pools of a deployment have their sizes."""
    record = evaluation.record
    return "\n\n".join(
        explain(
            deployment,
            record.seen,
            record.spec,
            decision,
            evaluation.problems,
            evaluation.difference,
        )
        for decision in record.decisions.pools.values()
    )


def explain(
    deployment: str,
    seen: Observation,
    spec: ScalingSpec,
    decision: Decision,
    problems: Iterable[str] = (),
    difference: float | None = None,
) -> str:
    """Return why a pool has the size that it is to have.

    Args:
        deployment: its name.
        seen: what was measured.
        spec: what was asked for.
        decision: what came of both.
        problems: what is wrong with the metrics.
        difference: of L and λ·W, as a share; None: not known.
    """
    bounds = next(found for found in spec.pools if found.name == decision.pool)
    view = seen.pools[decision.pool]
    lines = [f"{deployment}/{decision.pool}: {_verdict(decision)}", ""]
    lines += _table(_measured(seen, view, bounds, spec))
    if decision.need and decision.need.counts:
        need = decision.need
        lines += ["", *_table(_needed(need.counts, need.numbers, need.binding))]
    if bounds.turns:
        lines += ["", *_table(_scheduled(bounds))]
    lines += ["", *_guarded(decision, view)]
    lines += [f"metrics: {_health(decision, difference)}", *(f"  {found}" for found in problems)]
    return "\n".join(line.rstrip() for line in lines)


def recount(deployment: str, status: InferenceDeploymentStatus) -> str:
    """Return what a status holds of the autoscaler: its condition, and each pool's last change."""
    active = next((c for c in status.conditions if c.type == ConditionType.SCALING_ACTIVE), None)
    if active is None:
        return f"{deployment}: nothing has been decided yet"
    words = f"{active.reason}: {active.message}" if active.message else active.reason
    return "\n\n".join(
        [*(_last_change(deployment, pool) for pool in status.pools), f"autoscaler: {words}"]
    )


def _last_change(deployment: str, pool: PoolStatus) -> str:
    head = f"{deployment}/{pool.name}: {pool.ready} of {pool.desired} workers ready"
    change = pool.last_scale
    if change is None:
        return f"{head}; its size was never changed"
    lines = [head, f"last change: from {change.from_} to {change.to} at {change.time}"]
    lines[-1] += f" ({change.reason})"
    inputs = {name: float(value) for name, value in change.inputs.items()}
    counts = {n.removeprefix(NEEDED): v for n, v in inputs.items() if n.startswith(NEEDED)}
    if counts:
        lines += ["", *_table(_needed(counts, inputs, max(counts, key=lambda n: counts[n])))]
    return "\n".join(line.rstrip() for line in lines)


def _verdict(decision: Decision) -> str:
    if decision.replicas == decision.current:
        return f"stays at {decision.replicas} ({decision.reason})"
    return f"from {decision.current} to {decision.replicas} ({decision.reason})"


def _measured(
    seen: Observation, view: PoolView, bounds: PoolBounds, spec: ScalingSpec
) -> list[Row]:
    traffic, curve = seen.traffic, view.curve
    rows: list[Row] = [("measured", "", "")]
    rows.append(("λ, arrivals", _said(traffic.arrivals, "/s"), "counted at the gateways"))
    if curve:
        rows += _work(seen, curve, bounds)
    rows.append(("queued", _said(traffic.queued_requests, ""), "requests wait at the gateways"))
    if traffic.spare_share.value:
        share = f"{traffic.spare_share.value:.0%}"
        rows.append(("batches", share, "of what workers have; nothing is sized by it"))
    rows.append(("running", _said(view.running, ""), f"sequences in {view.ready} ready workers"))
    if curve and isfinite(curve.kv_tokens) and view.kv_tokens.value is not None:
        held = f"tokens of {curve.kv_tokens:.0f} in a worker"
        rows.append(("KV cache", f"{view.kv_tokens.value:.0f}", held))
    if traffic.late_share.value is not None:
        rows.append(("late", f"{traffic.late_share.value:.1%}", _objectives(spec)))
    return rows


def _work(seen: Observation, curve: ServiceCurve, bounds: PoolBounds) -> list[Row]:
    traffic = seen.traffic
    arrivals = traffic.arrivals.value or 0.0
    uncached = (traffic.uncached_tokens.value or 0.0) / arrivals if arrivals else 0.0
    given, taken = traffic.input_tokens.value, traffic.output_tokens.value
    terms, w = [], 0.0
    if bounds.role is not Role.DECODE and uncached:
        part = curve.prefill_work(uncached)
        w += part
        terms.append(f"prefill {uncached:.0f} tokens · {_time(curve.b_p)} = {_time(part)}")
    if bounds.role is not Role.PREFILL and given is not None and taken is not None:
        part = curve.decode_work(given, taken)
        w += part
        terms.append(
            f"decode {taken:.0f} tokens · ({_time(curve.b_d)} + {_time(curve.c)} · "
            f"{given + taken / 2:.0f} context) = {_time(part)}"
        )
    rows = [("a, empty step", _time(curve.a), "")]
    if terms:
        rows.append(("w, work of a request", _time(w), " + ".join(terms)))
        rows.append(("L = λ·w", f"{arrivals * w:.2f}", "workers busy with what arrives"))
    return rows


def _needed(counts: Mapping[str, float], numbers: Mapping[str, float], binding: str) -> list[Row]:
    rows: list[Row] = [("needed", "workers", "")]
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        binds = "<- binds" if name == binding else ""
        rows.append((name, f"{count:.2f}", f"{_WHY.get(name, '')}  {binds}".strip()))
    level, bound = numbers.get("level"), numbers.get("bound")
    if level is not None and bound is not None:
        rows.append(("level", f"{level:.2f}", f"of work; with head-room {bound:.2f}"))
    if share := numbers.get("share"):
        rows.append(("share", f"{share:.0%}", "of the role's work is this pool's"))
    return rows


_WHY = {
    "tpot": "level / (1 - a / TPOT objective)",
    "burst": "level with head-room / 0.95",
    "kv": "KV tokens, grown like the burst / (0.9 · KV of a worker)",
    "sequences": "sequences in progress, grown like the burst / (0.9 · maxNumSeqs)",
    "backlog": "(level + what waits / lead) / 0.95",
    "ttft": "servers of an M/G/n queue that keep its wait inside the TTFT objective",
    "concurrency": "sequences / (0.7 · maxNumSeqs)",
}


def _scheduled(bounds: PoolBounds) -> list[Row]:
    rows: list[Row] = [("schedules", "", f"{bounds.minimum} to {bounds.maximum} workers now")]
    return rows + [(turn.name, turn.phase, _turn(turn)) for turn in bounds.turns]


def _turn(turn: Turn) -> str:
    least = f"at least {turn.minimum}" if turn.minimum else ""
    most = f"at most {turn.maximum}" if turn.maximum else ""
    bounds = ", ".join(words for words in (least, most) if words)
    if turn.phase is Phase.OPEN:
        return f"{bounds}, until {turn.until}"
    ahead = f", started {turn.ahead:.0f} s before" if least else ""
    return f"{bounds}, from {turn.until}{ahead}"


def _guarded(decision: Decision, view: PoolView) -> list[str]:
    found = [f"guards: {', '.join(decision.guards) or 'none fired'}"]
    if view.starting or view.draining:
        found.append(f"workers: {view.starting} starting, {view.draining} draining")
    return found


def _health(decision: Decision, difference: float | None) -> str:
    words = str(decision.health)
    if decision.health is not Health.FRESH:
        words += ", so nothing shrinks"
    if difference is not None:
        words += f"; L and λ·W differ by {difference:.0%}"
    return words


def _objectives(spec: ScalingSpec) -> str:
    found = [
        f"{name} {_time(objective.seconds)} for {objective.quantile:.0%}"
        for name, objective in (("TTFT", spec.ttft), ("TPOT", spec.tpot))
        if objective
    ]
    return f"missed {' or '.join(found)}" if found else ""


def _said(signal: Signal, unit: str) -> str:
    if signal.value is None:
        return "unknown"
    words = f"{signal.value:.4g}{unit}"
    return words if signal.fresh else f"{words} ({signal.health})"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _table(rows: list[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}" for row in rows]
