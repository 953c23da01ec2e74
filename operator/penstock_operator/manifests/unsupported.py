"""What a spec may ask for and this version does not build."""

from penstock_contract.api import EnginePool, EngineType, InferenceDeployment, Role
from penstock_contract.api.base import quantity
from penstock_contract.api.engine import Dtype, WeightQuantization
from penstock_contract.api.pool import GPU
from penstock_operator.manifests.tiers import EPHEMERAL, LEAST, exceeds_limit


class Unsupported(Exception):
    """The spec asks for something that this version does not build; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def refuse_unsupported(deployment: InferenceDeployment, pool: EnginePool) -> None:
    """Raise Unsupported for the first setting that the chosen engine cannot do."""
    engine, parallelism = deployment.spec.engine, pool.spec.parallelism
    ours = engine.type is EngineType.PENSTOCK
    gpus = pool.spec.resources.gpus if ours else 0
    limits = f"spec.pools[{pool.spec.pool}].resources.limits[{GPU}]"
    where = f"spec.pools[{pool.spec.pool}].parallelism"
    adapters = deployment.spec.model.adapters
    if any(adapter.name == deployment.served_name for adapter in adapters):
        name = f"{deployment.served_name} is the model's own name"
        raise Unsupported("spec.model.adapters", f"{name}: choose another")
    weights = engine.quantization.weights is not WeightQuantization.NONE
    tiers, disk = engine.kv_tiers, f"spec.pools[{pool.spec.pool}].resources.limits[{EPHEMERAL}]"
    for refused, field, fix in (
        (ours and engine.dtype is Dtype.FLOAT16, "spec.engine.dtype", "use auto or bfloat16"),
        (
            not ours and weights,
            "spec.engine.quantization.weights",
            "vLLM reads checkpoints that are quantised already: use none",
        ),
        (
            engine.task.is_pooling and bool(tiers),
            "spec.engine.kvTiers",
            "use none with a model that embeds or scores, which keeps no KV",
        ),
        (
            ours and engine.task.is_pooling and weights,
            "spec.engine.quantization.weights",
            "use none with a model that embeds or scores",
        ),
        (
            bool(gpus) and weights,
            "spec.engine.quantization.weights",
            "use none where a pool has GPUs",
        ),
        (
            not ours and bool(tiers),
            "spec.engine.kvTiers",
            "vLLM's own begin with host memory, and bound no disk: use spec.engine.extraArgs",
        ),
        (bool(gpus) and bool(tiers), "spec.engine.kvTiers", "use none where a pool has GPUs"),
        (
            any(quantity(tier.capacity) < LEAST for tier in tiers),
            "spec.engine.kvTiers.capacity",
            "use 64Mi or more",
        ),
        (
            any(exceeds_limit(tier, pool) for tier in tiers),
            disk,
            "raise it above the capacity of spec.engine.kvTiers, by a sixteenth and 64Mi",
        ),
        (gpus > 1, limits, "use 1, or engine.type VLLM"),
        (
            # A pulled block is found by its name, and these are the prefix cache's.
            ours and pool.spec.role is not Role.UNIFIED and not engine.prefix_caching,
            "spec.engine.prefixCaching",
            "use true with Prefill and Decode pools",
        ),
        (
            bool(gpus) and bool(adapters),
            "spec.model.adapters",
            "where a pool has GPUs, use engine.type VLLM",
        ),
        (
            deployment.spec.disaggregation.transfer.on_failure == "Fail",
            "spec.disaggregation.transfer.onFailure",
            "use Recompute",
        ),
        (
            deployment.spec.routing.prefix_index == "Exact",
            "spec.routing.prefixIndex",
            "use Auto",
        ),
        (ours and parallelism.tensor > 1, where, "use tensor: 1, or engine.type VLLM"),
        (parallelism.pipeline > 1, where, "use pipeline: 1"),
        # Several pools would be on trial at once, each with a revision and a share of its own, and
        # a prefill worker of one revision would feed decode workers of another.
        (
            deployment.spec.rollout.canary is not None and len(deployment.spec.pools) > 1,
            "spec.rollout.canary",
            "use it with a single pool",
        ),
    ):
        if refused:
            raise Unsupported(field, f"not available in this version; {fix}")
