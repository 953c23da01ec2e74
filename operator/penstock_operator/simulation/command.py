"""`penstock simulate`: what the autoscaler would do with a trace, before it does it for real."""

from dataclasses import replace
from pathlib import Path

from penstock_contract.api import InferenceDeployment, Role
from penstock_operator.local.errors import UserError
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.need import DEFAULT_TPOT, DEFAULT_TTFT
from penstock_operator.scaling.spec import ScalingSpec, scaling_spec
from penstock_operator.simulation.clairvoyant import search
from penstock_operator.simulation.fleet import Fleet
from penstock_operator.simulation.report import Summary, plot, summary, table
from penstock_operator.simulation.scaler import Autoscaler
from penstock_operator.simulation.setup import Outcome, Setup
from penstock_operator.simulation.trace import Arrival, Synthetic, generate, read, scaled
from penstock_operator.validation import InvalidManifest, load_manifests


def simulate(
    manifest: Path,
    trace: Path | None,
    scale: float,
    curve: str,
    cold_start: float,
    picture: Path | None,
) -> str:
    """Return what a trace does to a deployment, as a table.

    Args:
        manifest: YAML with one InferenceDeployment of one Unified pool with `scaling`.
        trace: CSV; None: a synthetic one of four hours.
        scale: factor on the trace's rate.
        curve: `a,b_p,b_d,c,kv` of one replica.
        cold_start: seconds until a new replica serves.
        picture: where to draw it; None: nowhere.

    Raises:
        UserError: one of them can't be used.
    """
    deployment = _deployment(manifest)
    arrivals = _arrivals(trace, scale)
    setup, spec = _setup(deployment, _curve(curve), cold_start)
    start = max(1, spec.pools[0].minimum)
    scaler = Autoscaler(spec, setup.curve, spec.pools[0].name)
    ours = Fleet(setup, start).run(arrivals, scaler)
    runs: list[tuple[str, Outcome]] = [("LittlesLaw", ours)]
    share = (spec.ttft or DEFAULT_TTFT).quantile
    if best := search(arrivals, setup, share):
        runs.append(("clairvoyant", best.outcome))
    if picture:
        _draw(picture, runs)
    found: list[Summary] = [summary(name, outcome, setup) for name, outcome in runs]
    words = table(found)
    if len(found) > 1:
        ratio = found[0].replica_hours / found[1].replica_hours
        words += f"\n\nLittlesLaw used {ratio:.2f} times the replica-hours of perfect foresight."
    return words


def _deployment(manifest: Path) -> InferenceDeployment:
    try:
        found = load_manifests(manifest.read_text(), str(manifest))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {manifest}: {error}") from None
    except InvalidManifest as error:
        raise UserError(str(error)) from None
    deployments = [m for m in found if isinstance(m, InferenceDeployment)]
    if len(deployments) != 1:
        raise UserError(f"{manifest}: exactly one InferenceDeployment can be simulated")
    pools = deployments[0].spec.pools
    if len(pools) != 1 or pools[0].role is not Role.UNIFIED or pools[0].scaling is None:
        raise UserError(f"{manifest}: spec.pools: one Unified pool with `scaling` is simulated")
    return deployments[0]


def _arrivals(trace: Path | None, scale: float) -> list[Arrival]:
    try:
        found = generate(Synthetic()) if trace is None else read(trace)
    except (OSError, ValueError) as error:
        raise UserError(f"--trace: {error}") from None
    if not found:
        raise UserError(f"--trace: {trace} holds no request")
    return scaled(found, scale)


def _curve(text: str) -> ServiceCurve:
    try:
        a, b_p, b_d, c, kv = (float(part) for part in text.split(","))
        if min(a, b_p, b_d, c, kv) <= 0:
            raise ValueError
    except ValueError:
        raise UserError("--curve: five numbers above zero are needed: a,b_p,b_d,c,kv") from None
    return ServiceCurve(a, b_p, b_d, c, kv)


def _setup(
    deployment: InferenceDeployment, curve: ServiceCurve, cold_start: float
) -> tuple[Setup, ScalingSpec]:
    spec = scaling_spec(deployment, lead=0.0)
    bounds = spec.pools[0]
    setup = Setup(
        curve,
        ttft=(spec.ttft or DEFAULT_TTFT).seconds,
        tpot=(spec.tpot or DEFAULT_TPOT).seconds,
        cold_start=cold_start,
        min_replicas=bounds.minimum,
        max_replicas=bounds.maximum,
    )
    lead = setup.metric_lag + setup.interval + cold_start
    return setup, replace(spec, lead=lead)


def _draw(picture: Path, runs: list[tuple[str, Outcome]]) -> None:
    try:
        plot(picture, runs)
    except ImportError:
        raise UserError("--plot needs matplotlib: pip install 'penstock[plots]'") from None
    except OSError as error:
        raise UserError(f"--plot: cannot write {picture}: {error.strerror}") from None
