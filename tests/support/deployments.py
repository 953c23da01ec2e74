"""InferenceDeployments for tests: one to vary by hand, and a strategy over specs."""

from typing import Any

from hypothesis import strategies as st

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.labels import API_VERSION

UNIFIED: dict[str, Any] = {"name": "default", "replicas": 2}


def deployment(*pools: dict[str, Any], **spec: Any) -> InferenceDeployment:
    """Return a deployment of a model on a claim, with the given pools (default: one of two)."""
    return InferenceDeployment.model_validate(manifest(*pools, **spec))


def manifest(*pools: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Return the same as a user writes it."""
    body = {"model": {"uri": "pvc://models/llama"}, "pools": list(pools) or [UNIFIED], **spec}
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceDeployment",
        "metadata": {"name": "chat"},
        "spec": body,
    }


def by_name(pools: tuple[EnginePool, ...]) -> dict[str, EnginePool]:
    """Return planned pools as they would be observed after they were applied."""
    return {pool.metadata.name: pool for pool in pools}


words = st.from_regex(r"[a-z]([a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
texts = st.dictionaries(words, words, max_size=3)
quantities = st.sampled_from([1, "1", "500m", "0.25", "2Gi", "16"])


@st.composite
def pools(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw a valid list of pools: unified ones, or prefill and decode."""
    roles = draw(st.sampled_from([["Unified"], ["Unified", "Unified"], ["Prefill", "Decode"]]))
    return [
        {
            "name": f"p{index}",
            "role": role,
            **draw(sizes),
            "resources": {"limits": {"cpu": draw(quantities), "memory": draw(quantities)}},
            "template": {
                "labels": draw(texts),
                "annotations": draw(texts),
                "nodeSelector": draw(texts),
                "env": draw(texts),
            },
        }
        for index, role in enumerate(roles)
    ]


sizes = st.one_of(
    st.integers(0, 50).map(lambda n: {"replicas": n}),
    st.tuples(st.integers(0, 5), st.integers(1, 9)).map(
        lambda pair: {"scaling": {"minReplicas": min(pair), "maxReplicas": max(pair)}}
    ),
)


@st.composite
def deployments(draw: st.DrawFn) -> InferenceDeployment:
    """Draw a deployment that the CRD accepts and this version builds."""
    found = draw(pools())
    return deployment(
        *found,
        model={"uri": draw(st.sampled_from(["pvc://models", "pvc://models/a/b"]))},
        engine={
            "blockSize": draw(st.sampled_from([8, 16, 128])),
            "maxNumSeqs": draw(st.integers(1, 512)),
            "prefixCaching": len(found) > 1 or draw(st.booleans()),  # a hand-off needs it
            "extraArgs": draw(st.lists(words, max_size=2)),
        },
        drain={"timeout": draw(st.sampled_from(["0s", "250ms", "2m", "1h30m"]))},
    )
