"""What the local runtime tells the gateway."""

import pytest

from penstock_contract.adapters import AdapterFound, AdapterReport, AdapterState
from penstock_contract.api import EngineType, InferenceDeployment, Role
from penstock_operator.local.child import Child
from penstock_operator.local.decide import Phase, PoolKey, Wanted
from penstock_operator.local.desired import Desired
from penstock_operator.local.view import adapters, fleet


def deployment(**spec: object) -> InferenceDeployment:
    return InferenceDeployment.model_validate(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceDeployment",
            "metadata": {"name": "m", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "model": {"uri": "file:///models/m"},
                "pools": [{"name": "default", "replicas": 1}],
                **spec,
            },
        }
    )


@pytest.mark.parametrize(
    ("slo", "seconds"),
    [
        ({"tpot": {"target": "50ms"}}, (0.05, None)),
        ({"ttft": {"target": "1s"}}, (None, 1.0)),
        ({}, (None, None)),
    ],
)
def test_the_gateway_hears_the_objectives_that_a_deployment_asks_for(
    slo: dict[str, object], seconds: tuple[float | None, float | None]
) -> None:
    told = fleet(Desired((deployment(slo=slo),)), (), generation=1)
    assert [(model.tpot, model.ttft) for model in told.models] == [seconds]


def test_the_gateway_hears_which_engine_answers_and_with_which_parsers() -> None:
    engine = {"type": "VLLM", "extraArgs": ["--reasoning-parser=qwen3"]}
    (told,) = fleet(Desired((deployment(engine=engine),)), (), generation=1).models
    assert (told.engine, told.parsers) == (EngineType.VLLM, ("qwen3",))


@pytest.mark.parametrize(
    ("folder", "state"), [("/new", AdapterState.READY), ("/old", AdapterState.LOADING)]
)
def test_an_adapter_is_ready_when_the_worker_has_the_files_that_its_name_stands_for_now(
    folder: str, state: AdapterState
) -> None:
    found = AdapterFound(state=AdapterState.READY, uri=f"file://{folder}")
    worker = Child(
        id="m-default-1",
        wanted=Wanted(PoolKey("m", "default"), 1, "a"),
        process=None,  # type: ignore[arg-type]
        port=1,
        role=Role.UNIFIED,
        started=0.0,
        started_at="2026-01-01T00:00:00Z",
        phase=Phase.READY,
        report=lambda: AdapterReport(adapters={"sql": found}, tried=True),
    )
    wanted = deployment(
        model={"uri": "file:///m", "adapters": [{"name": "sql", "uri": "file:///new"}]}
    )
    (status,) = adapters(wanted, [worker])
    assert (status.state, status.ready) == (state, int(state is AdapterState.READY))
