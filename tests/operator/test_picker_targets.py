"""The operator asks endpoint pickers what it asks gateways, wherever the models are."""

from typing import Any

import pytest

from penstock_contract.worker_token import WorkerTokens
from penstock_operator.cluster.cli import GATEWAY_POD, PICKER_POD, _Operator, _parser


def pod(namespace: str, name: str, address: str, *, ready: bool = True) -> dict[str, Any]:
    condition = {"type": "Ready", "status": str(ready)}
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1"},
        "status": {"podIP": address, "conditions": [condition]},
    }


@pytest.mark.parametrize("gateways", [True, False])
def test_pickers_that_are_ready_are_asked_beside_gateways(gateways: bool) -> None:
    flags = ["--picker-selector", "a=b", "--gateway-url", "http://gateway"]
    flags += ["--gateway-selector", "c=d"] if gateways else []
    operator = _Operator(_parser().parse_args(flags), WorkerTokens())
    if gateways:
        operator._cache.put(GATEWAY_POD.name, pod("penstock-system", "g", "10.0.0.1"))
    operator._cache.put(PICKER_POD.name, pod("models", "p", "10.0.0.2"))
    operator._cache.put(PICKER_POD.name, pod("models", "q", "10.0.0.3", ready=False))
    found = {(target.namespace, target.url) for target in operator._gateway_targets()}
    first = ("penstock-system", "http://10.0.0.1:8000" if gateways else "http://gateway")
    assert found == {first, ("models", "http://10.0.0.2:8000")}
