"""Answers that read a part of their context: what the worker is told, and what is refused."""

from typing import Any

import pytest
from deployments import deployment
from pydantic import ValidationError

from penstock_contract.api import InferenceDeployment
from penstock_operator.manifests import Unsupported
from penstock_operator.manifests.penstock import worker_arguments
from penstock_operator.manifests.unsupported import refuse_unsupported
from penstock_operator.plan import plan

FLAG = "--sparse-attention-tokens"


def sparse(*pools: dict[str, Any], tokens: int = 1024, **engine: Any) -> InferenceDeployment:
    return deployment(*pools, engine={"sparseAttention": {"tokens": tokens}, **engine})


def test_it_is_asked_of_the_worker() -> None:
    arguments = worker_arguments(sparse(tokens=2048))
    assert arguments[arguments.index(FLAG) + 1] == "2048"
    assert FLAG not in worker_arguments(deployment())
    refuse_unsupported(sparse(), plan(sparse(), {}).pools[0])


def test_four_of_the_largest_blocks_are_the_least() -> None:
    assert sparse(tokens=512, blockSize=128).spec.engine.block_size * 4 == 512
    with pytest.raises(ValidationError, match="512"):
        sparse(tokens=511)


@pytest.mark.parametrize(
    ("pool", "engine", "fix"),
    [
        ({}, {"type": "VLLM"}, "with vLLM, or use engine.type Penstock"),
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, {}, "where a pool has GPUs"),
        ({}, {"task": "Embed"}, "with a model that embeds or scores"),
        ({}, {"kvCacheDtype": "int8_per_token_head"}, "use kvCacheDtype auto or bfloat16"),
        ({}, {"kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]}, r"with spec\.engine\.kvTiers"),
        ({"role": "Decode"}, {}, "with Prefill and Decode pools"),
        ({"parallelism": {"tensor": 2}}, {}, r"parallelism\.tensor above 1"),
    ],
    ids=["vllm", "gpu", "embed", "int8", "tiers", "decode", "tensor"],
)
def test_where_it_cannot_be_it_is_refused_by_name(
    pool: dict[str, Any], engine: dict[str, Any], fix: str
) -> None:
    split = [{"name": "f", "role": "Prefill", "replicas": 1}] if "role" in pool else []
    infd = sparse({"name": "p", "replicas": 1, **pool}, *split, **engine)
    with pytest.raises(Unsupported, match=fix) as refused:
        refuse_unsupported(infd, plan(infd, {}).pools[0])
    assert refused.value.field == "spec.engine.sparseAttention"
