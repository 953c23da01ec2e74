"""The autoscaler's metrics, as the contract declares them."""

from prometheus_client import CollectorRegistry

from penstock_contract.instruments import Instruments
from penstock_contract.metrics import autoscaler as declared
from penstock_operator.autoscaling.evaluation import Evaluation
from penstock_operator.scaling.signal import Health


class AutoscalerMetrics:
    """What every decision was about."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._made = Instruments(registry, declared.AUTOSCALER)

    def decided(self, namespace: str, deployment: str, evaluation: Evaluation) -> None:
        """Tell of the decisions about a deployment."""
        made, place = self._made, (namespace, deployment)
        arrivals = evaluation.record.seen.traffic.arrivals.value
        made.gauge(declared.AUTOSCALER_ARRIVALS).labels(*place).set(_number(arrivals))
        made.gauge(declared.AUTOSCALER_DIFFERENCE).labels(*place).set(
            _number(evaluation.difference)
        )
        bounds = made.gauge(declared.AUTOSCALER_BOUNDS)
        for found in evaluation.record.spec.pools:
            bounds.labels(*place, found.name, "min").set(found.minimum)
            bounds.labels(*place, found.name, "max").set(found.maximum)
        for name, decision in evaluation.record.decisions.pools.items():
            pool = (*place, name)
            made.gauge(declared.AUTOSCALER_WANTED).labels(*pool).set(decision.replicas)
            healthy = decision.health is Health.FRESH
            made.gauge(declared.AUTOSCALER_HEALTHY).labels(*pool).set(healthy)
            change = decision.replicas - decision.current
            result = "grow" if change > 0 else "shrink" if change < 0 else "hold"
            made.counter(declared.AUTOSCALER_DECISIONS).labels(*pool, result).inc()
            if decision.need:
                level = decision.need.numbers.get("level", 0.0)
                made.gauge(declared.AUTOSCALER_LEVEL).labels(*pool).set(level)
                needed = made.gauge(declared.AUTOSCALER_NEEDED)
                for resource, count in decision.need.counts.items():
                    needed.labels(*pool, resource).set(count)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
