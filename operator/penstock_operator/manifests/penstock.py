"""The command line of Penstock's own worker. Pure."""

from collections.abc import Mapping

from penstock_contract import group, handoff
from penstock_contract.api import Engine, EnginePool, InferenceDeployment
from penstock_contract.api.engine import SpeculativeMethod, Task, WeightQuantization
from penstock_operator.manifests.engine import (
    LEADER_IP,
    NODE_RANK,
    PORT,
    EngineContainer,
    is_split,
    limits,
    own_address,
    place,
    ports,
)
from penstock_operator.manifests.settings import Settings

TIER = "/kv"
"""Where a worker sees the volume of a tier on a disk."""


def penstock_engine(
    deployment: InferenceDeployment,
    pool: EnginePool,
    path: str,
    settings: Settings,
    adapters: Mapping[str, str],
    draft: str,
) -> EngineContainer:
    """Return the container of a worker that runs our own engine; see `engine_container`."""
    gpus = pool.spec.resources.gpus
    default = settings.worker_gpu_image if gpus else settings.worker_image
    return EngineContainer(
        image=deployment.spec.engine.image or default,
        command=("penstock-worker",),
        arguments=(
            "--model", path,
            "--host", "0.0.0.0",
            "--port", str(PORT),
            # Said, not found out: a GPU worker without a driver must not serve from its CPU.
            "--device", "cuda" if gpus else "cpu",
            *_ranks(pool),
            *_handoff(deployment, pool),
            *_tier(deployment.spec.engine),
            *(f"--adapter={name}={folder}" for name, folder in adapters.items()),
            *_room(deployment.spec.engine),
            *_draft(deployment.spec.engine, draft),
            *worker_arguments(deployment),
        ),
        ports=ports(pool),
        environment=place(pool),
        own_address=own_address(pool),
        shared_memory=gpus > 1,
        tier=next(iter(deployment.spec.engine.kv_tiers), None),
        # A worker of ours says that it is well only after its engine has answered a request.
        probe={"httpGet": {"path": "/health", "port": "http"}},
    )  # fmt: skip


def _ranks(pool: EnginePool) -> list[str]:
    over = pool.spec.parallelism
    arguments = ["--tensor-parallel-size", str(over.tensor)] if over.tensor > 1 else []
    if over.nodes > 1:
        arguments += [group.NODES, str(over.nodes), group.NODE_RANK, f"$({NODE_RANK})"]
        arguments += [group.GROUP_ADDRESS, f"$({LEADER_IP}):{group.PORT}"]
    return arguments


def _handoff(deployment: InferenceDeployment, pool: EnginePool) -> list[str]:
    if not is_split(pool):
        return []
    lease = deployment.spec.disaggregation.transfer.lease_seconds
    return ["--kv-transfer", f"0.0.0.0:{handoff.PORT}", "--kv-transfer-lease", f"{lease}s"]


def _tier(engine: Engine) -> list[str]:
    return [
        argument
        for tier in engine.kv_tiers
        for argument in ("--kv-tier-disk", TIER, "--kv-tier-disk-capacity", str(tier.capacity))
    ]


def _room(engine: Engine) -> list[str]:
    """Return the room for adapters that come and go."""
    if engine.lora is None:
        return []
    rank = engine.lora.max_rank
    arguments = ["--max-adapters", str(engine.lora.max_adapters)]
    return arguments if rank is None else [*arguments, "--max-adapter-rank", str(rank)]


def _draft(engine: Engine, folder: str) -> list[str]:
    wanted = engine.speculative
    if wanted.draft is None or not folder:
        return []
    arguments = ["--speculative", str(wanted.method), "--speculative-model", folder]
    if wanted.draft.weights is not WeightQuantization.NONE:
        arguments += ["--speculative-quantization", str(wanted.draft.weights)]
    return [*arguments, "--speculative-tokens", str(wanted.num_tokens)]


def worker_arguments(deployment: InferenceDeployment) -> list[str]:
    """Return the command line of Penstock's worker, without its address and model path."""
    engine = deployment.spec.engine
    arguments: list[str] = []
    for name in (deployment.served_name, *deployment.spec.model.aliases):
        arguments += ["--served-model-name", name]
    if engine.task is not Task.AUTO:
        arguments += ["--task", engine.task.lower()]
    arguments += ["--dtype", str(engine.dtype), "--block-size", str(engine.block_size)]
    arguments += limits(deployment)
    if engine.quantization.weights is not WeightQuantization.NONE:
        arguments += ["--quantization", str(engine.quantization.weights)]
    if engine.sparse_attention is not None:
        arguments += ["--sparse-attention-tokens", str(engine.sparse_attention.tokens)]
    if engine.speculative.method is SpeculativeMethod.NGRAM:
        arguments += ["--speculative", str(engine.speculative.method)]
        arguments += ["--speculative-tokens", str(engine.speculative.num_tokens)]
    arguments += ["--drain-timeout", deployment.spec.drain.timeout]
    return [*arguments, *engine.extra_args]
