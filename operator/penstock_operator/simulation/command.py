"""`penstock simulate`: what the autoscaler would do with a trace, before it does it for real."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from penstock_contract.api import EngineType, InferenceDeployment, Role
from penstock_operator.local.errors import UserError
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.need import DEFAULT_TPOT, DEFAULT_TTFT
from penstock_operator.scaling.spec import PoolBounds, ScalingSpec, scaling_spec
from penstock_operator.simulation.clairvoyant import begin, runs_of_search, search_stages
from penstock_operator.simulation.fleet import Stages
from penstock_operator.simulation.report import Run, plot, pool_table, summary, table
from penstock_operator.simulation.scaler import Autoscaler
from penstock_operator.simulation.setup import Outcome, Setup
from penstock_operator.simulation.trace import Arrival, Synthetic, generate, read, scaled
from penstock_operator.validation import InvalidManifest, load_manifests

FORESIGHT = "clairvoyant"
SIMULATED = ([Role.UNIFIED], sorted([Role.PREFILL, Role.DECODE]))


def simulate(
    manifest: Path,
    trace: Path | None,
    scale: float,
    curve: str,
    cold_start: float,
    begins: str | None,
    picture: Path | None,
    tell: Callable[[int, int], None],
) -> str:
    """Return what a trace does to a deployment, as a table.

    Args:
        manifest: YAML with one InferenceDeployment: a Unified pool, or Prefill and Decode pools.
        trace: CSV; None: a synthetic one of four hours.
        scale: factor on the trace's rate.
        curve: `a,b_p,b_d,c,kv` of one replica.
        cold_start: seconds until a new replica serves.
        begins: RFC 3339 time at which the trace begins; needed where pools have schedules.
        picture: where to draw it; None: nowhere.
        tell: called after each run of the trace with how many are done, and of how many.

    Raises:
        UserError: one of them can't be used.
    """
    deployment = _deployment(manifest)
    spec, pools = _spec(deployment, cold_start)
    moment = _moment(begins, pools)
    stall_free = spec.tpot is not None and deployment.spec.engine.type is EngineType.PENSTOCK
    setups = [_setup(spec, bounds, _curve(curve), cold_start, stall_free) for bounds in pools]
    arrivals = _arrivals(trace, scale)
    names = [bounds.name for bounds in pools]
    scheduled = any(bounds.schedules for bounds in pools)
    total, done = 1 + scheduled + runs_of_search(len(pools)), 0

    def played() -> None:
        nonlocal done
        done += 1
        tell(done, total)

    def run(spec: ScalingSpec) -> Sequence[Outcome]:
        scaler = Autoscaler(spec, setups[0].curve, *names, begins=moment)
        outcomes = Stages(setups, begin(arrivals, setups)).run(arrivals, scaler.sizes)
        played()
        return outcomes

    runs: list[Run] = [(str(spec.policy), run(spec))]
    if scheduled:
        runs.append(("without schedules", run(_unscheduled(spec))))
    share = (spec.ttft or DEFAULT_TTFT).quantile
    if best := search_stages(arrivals, setups, share, played=played):
        runs.append((FORESIGHT, best.outcomes))
    if picture:
        _draw(picture, runs, names)
    return _words(runs, names, setups[-1])


def _words(runs: Sequence[Run], pools: Sequence[str], setup: Setup) -> str:
    found = [summary(policy, outcomes, setup) for policy, outcomes in runs]
    parts = [table(found)]
    if len(pools) > 1:
        parts.append(pool_table(runs, pools))
    if found[-1].policy == FORESIGHT:
        ratio = found[0].replica_hours / found[-1].replica_hours
        words = f"used {ratio:.2f} times the replica-hours of perfect foresight."
        parts.append(f"{found[0].policy} {words}")
    return "\n\n".join(parts)


def _deployment(manifest: Path) -> InferenceDeployment:
    try:
        found = load_manifests(manifest.read_text(), str(manifest)).objects
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {manifest}: {error}") from None
    except InvalidManifest as error:
        raise UserError(str(error)) from None
    deployments = [m for m in found if isinstance(m, InferenceDeployment)]
    if len(deployments) != 1:
        raise UserError(f"{manifest}: exactly one InferenceDeployment can be simulated")
    pools = deployments[0].spec.pools
    roles = sorted(pool.role for pool in pools)
    if roles not in SIMULATED or any(pool.scaling is None for pool in pools):
        raise UserError(
            f"{manifest}: spec.pools: one Unified pool, or one Prefill and one Decode pool, each "
            "with `scaling`, can be simulated"
        )
    return deployments[0]


def _arrivals(trace: Path | None, scale: float) -> list[Arrival]:
    try:
        found = generate(Synthetic()) if trace is None else read(trace)
    except (OSError, ValueError) as error:
        raise UserError(f"--trace: {error}") from None
    if not found:
        raise UserError(f"--trace: {trace} holds no request")
    return scaled(found, scale)


def _unscheduled(spec: ScalingSpec) -> ScalingSpec:
    return replace(spec, pools=tuple(replace(bounds, schedules=()) for bounds in spec.pools))


def _moment(text: str | None, pools: Sequence[PoolBounds]) -> float:
    scheduled = [bounds.name for bounds in pools if bounds.schedules]
    if text is None and scheduled:
        raise UserError(f"--begin: when does the trace begin? {scheduled[0]} has schedules")
    try:
        found = datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)
        if found.tzinfo is None:
            raise ValueError("it names no time zone")
        return found.timestamp()
    except (ValueError, OverflowError) as error:
        example = "2026-03-02T07:30+01:00"
        raise UserError(f"--begin: {text!r} is no time like {example}: {error}") from None


def _curve(text: str) -> ServiceCurve:
    try:
        a, b_p, b_d, c, kv = (float(part) for part in text.split(","))
        if min(a, b_p, b_d, c, kv) <= 0:
            raise ValueError
    except ValueError:
        raise UserError("--curve: five numbers above zero are needed: a,b_p,b_d,c,kv") from None
    return ServiceCurve(a, b_p, b_d, c, kv)


def _spec(
    deployment: InferenceDeployment, cold_start: float
) -> tuple[ScalingSpec, list[PoolBounds]]:
    """Return what is asked for, and the pools in the order of the requests' way."""
    lead = Setup.metric_lag + Setup.interval + cold_start
    spec = scaling_spec(deployment, lead)
    return spec, sorted(spec.pools, key=lambda bounds: bounds.role is Role.DECODE)


def _setup(
    spec: ScalingSpec, bounds: PoolBounds, curve: ServiceCurve, cold_start: float, stall_free: bool
) -> Setup:
    return Setup(
        curve,
        ttft=(spec.ttft or DEFAULT_TTFT).seconds,
        tpot=(spec.tpot or DEFAULT_TPOT).seconds,
        cold_start=cold_start,
        min_replicas=bounds.minimum,
        max_replicas=bounds.maximum,
        stall_free=stall_free,
    )


def _draw(picture: Path, runs: Sequence[Run], pools: Sequence[str]) -> None:
    try:
        plot(picture, runs, pools)
    except ImportError:
        raise UserError("--plot needs matplotlib: pip install 'penstock[plots]'") from None
    except OSError as error:
        raise UserError(f"--plot: cannot write {picture}: {error.strerror}") from None
