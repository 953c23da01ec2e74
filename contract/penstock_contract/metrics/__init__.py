"""Every metric that Penstock exports: name, kind, help, labels, buckets. One module per process.

Workers use vLLM's names, so dashboards, the autoscaler and other routers read a Penstock worker
and a vLLM pod alike. `penstock_contract.instruments` makes Prometheus objects from these.
"""

from typing import Final

from penstock_contract.metrics.autoscaler import AUTOSCALER
from penstock_contract.metrics.batches import BATCH
from penstock_contract.metrics.declaration import Kind, Metric
from penstock_contract.metrics.gateway import GATEWAY, Fault, Outcome, Prefill
from penstock_contract.metrics.operator import OPERATOR
from penstock_contract.metrics.worker import WORKER

__all__ = [
    "ALL", "AUTOSCALER", "BATCH", "GATEWAY", "OPERATOR", "WORKER",
    "Fault", "Kind", "Metric", "Outcome", "Prefill",
]  # fmt: skip

ALL: Final = WORKER + GATEWAY + BATCH + OPERATOR + AUTOSCALER
