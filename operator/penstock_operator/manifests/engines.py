"""The command lines of the engines, and what else differs between them.

Both speak the same contract on the wire: OpenAI's routes, vLLM's metric names, /health.
"""

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_contract import group, handoff, proofs, worker_token
from penstock_contract.api import Engine, EnginePool, EngineType, InferenceDeployment, Role
from penstock_contract.api.base import seconds
from penstock_contract.api.engine import (
    KvCacheDtype,
    KvTier,
    Lora,
    SpeculativeMethod,
    Task,
    WeightQuantization,
)
from penstock_contract.api.pool import Parallelism
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings

PORT = 8000
VLLM_COMMAND = ("vllm", "serve")
LEADER_IP = "PENSTOCK_LEADER_IP"
NODE_RANK = "PENSTOCK_NODE_RANK"
"""Environment variables that stand in the arguments of a replica that spans nodes. Nothing else of
them differs between its pods, so that a follower is made of what its leader was made of."""
VLLM_HOST_IP = "VLLM_HOST_IP"
"""Where a process of vLLM's is found by others of its replica."""
NIXL_HOST = "VLLM_NIXL_SIDE_CHANNEL_HOST"
NIXL_PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"
"""Where vLLMs that pull KV ask for what they need to know of each other first."""
TIER = "/kv"
"""Where a worker sees the volume of a tier on a disk."""


@dataclass(frozen=True)
class EngineContainer:
    """What of a worker's container depends on its engine."""

    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    probe: Object
    """Succeeds for the first time when the worker has computed something."""
    ports: dict[str, int] = field(default_factory=lambda: {"http": PORT})
    environment: dict[str, str] = field(default_factory=dict)
    own_address: tuple[str, ...] = ()
    """Environment variables that tell it the IP of its pod."""
    token_variable: str = worker_token.ENVIRONMENT
    """Environment variable by which the engine learns whom to answer."""
    shared_memory: bool = False
    tier: KvTier | None = None
    """What needs a volume at `TIER`."""


def engine_container(
    deployment: InferenceDeployment,
    pool: EnginePool,
    path: str,
    settings: Settings,
    adapters: Mapping[str, str],
    draft: str = "",
) -> EngineContainer:
    """Return the engine's part of a worker's container.

    Args:
        deployment: its desired state.
        pool: that the worker belongs to.
        path: where the model lies.
        settings: of the installation.
        adapters: where each lies, by its name.
        draft: where the draft model or head lies; empty without one.
    """
    if deployment.spec.engine.type is EngineType.VLLM:
        return _vllm(deployment, pool, path, settings, adapters, draft)
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
        ports={"http": PORT, "kv": handoff.PORT} if is_split(pool) else {"http": PORT},
        environment=_place(pool),
        own_address=_own_address(pool),
        shared_memory=gpus > 1,
        tier=next(iter(deployment.spec.engine.kv_tiers), None),
        # A worker of ours says that it is well only after its engine has answered a request.
        probe={"httpGet": {"path": "/health", "port": "http"}},
    )  # fmt: skip


def is_split(pool: EnginePool) -> bool:
    """Whether the pool's workers hand KV over to others, or take it."""
    return pool.spec.role is not Role.UNIFIED


def _ranks(pool: EnginePool) -> list[str]:
    over = pool.spec.parallelism
    arguments = ["--tensor-parallel-size", str(over.tensor)] if over.tensor > 1 else []
    if over.nodes > 1:
        arguments += [group.NODES, str(over.nodes), group.NODE_RANK, f"$({NODE_RANK})"]
        arguments += [group.GROUP_ADDRESS, f"$({LEADER_IP}):{group.PORT}"]
    return arguments


def _place(pool: EnginePool) -> dict[str, str]:
    """Return a leader's place in its replica, where that spans nodes."""
    return {NODE_RANK: "0"} if pool.spec.parallelism.nodes > 1 else {}


def _own_address(pool: EnginePool) -> tuple[str, ...]:
    return (LEADER_IP,) if pool.spec.parallelism.nodes > 1 else ()


def _handoff(deployment: InferenceDeployment, pool: EnginePool) -> list[str]:
    if not is_split(pool):
        return []
    lease = deployment.spec.disaggregation.transfer.lease_seconds
    return ["--kv-transfer", f"0.0.0.0:{handoff.PORT}", "--kv-transfer-lease", f"{lease}s"]


def _nixl(deployment: InferenceDeployment, pool: EnginePool) -> list[str]:
    """vLLM's hand-off; decode workers compute prompts, too. Flags of the user's own win."""
    if not is_split(pool):
        return []
    config = {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_both",
        # By itself it fails a request whose KV does not come.
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "kv_lease_duration": deployment.spec.disaggregation.transfer.lease_seconds
        },
    }
    return ["--kv-transfer-config", json.dumps(config)]


def _side_channel(pool: EnginePool) -> dict[str, str]:
    return {NIXL_PORT: str(handoff.PORT)} if is_split(pool) else {}


def _vllm_addresses(pool: EnginePool) -> tuple[str, ...]:
    # By itself it takes the address by which it would reach the internet.
    found = (*_own_address(pool), VLLM_HOST_IP) if _own_address(pool) else ()
    return (*found, NIXL_HOST) if is_split(pool) else found


def _tier(engine: Engine) -> list[str]:
    return [
        argument
        for tier in engine.kv_tiers
        for argument in ("--kv-tier-disk", TIER, "--kv-tier-disk-capacity", str(tier.capacity))
    ]


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
    arguments += _limits(deployment)
    if engine.quantization.weights is not WeightQuantization.NONE:
        arguments += ["--quantization", str(engine.quantization.weights)]
    if engine.speculative.method is SpeculativeMethod.NGRAM:
        arguments += ["--speculative", str(engine.speculative.method)]
        arguments += ["--speculative-tokens", str(engine.speculative.num_tokens)]
    arguments += ["--drain-timeout", deployment.spec.drain.timeout]
    return [*arguments, *engine.extra_args]


def _limits(deployment: InferenceDeployment) -> list[str]:
    """Return the flags that both engines have."""
    engine = deployment.spec.engine
    arguments = [
        "--max-num-seqs", str(engine.max_num_seqs),
        "--max-num-batched-tokens", str(engine.max_num_batched_tokens),
    ]  # fmt: skip
    if engine.max_model_len is not None:
        arguments += ["--max-model-len", str(engine.max_model_len)]
    if engine.kv_cache_dtype is not KvCacheDtype.AUTO:
        arguments += ["--kv-cache-dtype", str(engine.kv_cache_dtype)]
    if not engine.prefix_caching:
        arguments.append("--no-enable-prefix-caching")
    return arguments


def _vllm(
    deployment: InferenceDeployment,
    pool: EnginePool,
    path: str,
    settings: Settings,
    adapters: Mapping[str, str],
    draft: str,
) -> EngineContainer:
    engine = deployment.spec.engine
    names = (deployment.served_name, *deployment.spec.model.aliases)
    return EngineContainer(
        image=engine.image or settings.vllm_image,
        command=VLLM_COMMAND,
        arguments=(
            path,
            "--host", "0.0.0.0",
            "--port", str(PORT),
            "--served-model-name", *names,
            *_VLLM_TASKS[engine.task],
            "--dtype", str(engine.dtype),
            *_parallelism(pool.spec.parallelism),
            *_block_size(engine),
            *_limits(deployment),
            *_speculation(engine, draft),
            *_lora(adapters, engine.lora),
            *_nixl(deployment, pool),
            # How much of a prompt was cached is told only on demand; routing goes by it.
            "--enable-prompt-tokens-details",
            # By itself vLLM breaks off what it is answering when it is told to end.
            "--shutdown-timeout", str(math.ceil(seconds(deployment.spec.drain.timeout))),
            *engine.extra_args,
        ),
        # vLLM answers /health before it has computed anything, so a token or a vector is asked for.
        probe={"exec": {"command": ["python3", "-c", _PROOF, names[0]]}, "timeoutSeconds": 30},
        ports={"http": PORT, "kv": handoff.PORT} if is_split(pool) else {"http": PORT},
        environment=_VLLM_ENVIRONMENT | _vllm_lora(engine) | _place(pool) | _side_channel(pool),
        own_address=_vllm_addresses(pool),
        token_variable=worker_token.VLLM_ENVIRONMENT,
        shared_memory=True,
    )  # fmt: skip


def _parallelism(wanted: Parallelism) -> list[str]:
    arguments = ["--tensor-parallel-size", str(wanted.tensor)]
    if wanted.pipeline > 1:
        arguments += ["--pipeline-parallel-size", str(wanted.pipeline)]
    if wanted.nodes > 1:
        arguments += ["--nnodes", str(wanted.nodes), "--node-rank", f"$({NODE_RANK})"]
        arguments += ["--master-addr", f"$({LEADER_IP})", "--master-port", str(group.PORT)]
        arguments += ["--distributed-executor-backend", "mp"]
    return arguments


def _block_size(engine: Engine) -> list[str]:
    """Some attention back-ends take one size only; vLLM chooses unless another is asked for."""
    if engine.block_size == Engine.model_fields["block_size"].default:
        return []
    return ["--block-size", str(engine.block_size)]


def _speculation(engine: Engine, draft: str) -> list[str]:
    """By itself vLLM goes by the name of the draft's folder; so the method is always said."""
    wanted = engine.speculative
    if wanted.method is SpeculativeMethod.NONE or (wanted.draft is not None and not draft):
        return []
    method = "draft_model" if wanted.method is SpeculativeMethod.DRAFT else str(wanted.method)
    config: Object = {"method": method, "num_speculative_tokens": wanted.num_tokens}
    if draft:
        config["model"] = draft
    return ["--speculative-config", json.dumps(config)]


def _room(engine: Engine) -> list[str]:
    """Return the room for adapters that come and go, for Penstock's worker."""
    if engine.lora is None:
        return []
    rank = engine.lora.max_rank
    arguments = ["--max-adapters", str(engine.lora.max_adapters)]
    return arguments if rank is None else [*arguments, "--max-adapter-rank", str(rank)]


def _lora(adapters: Mapping[str, str], lora: Lora | None) -> list[str]:
    """All that a worker begins with in a batch; vLLM's own default is one."""
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    named = ["--lora-modules", *modules] if modules else []
    if lora is None:
        return ["--enable-lora", "--max-loras", str(len(modules)), *named] if modules else []
    arguments = ["--enable-lora", "--max-loras", str(min(lora.max_per_step, lora.max_adapters))]
    arguments += ["--max-cpu-loras", str(lora.max_adapters)]
    if lora.max_rank is not None:
        arguments += ["--max-lora-rank", str(lora.max_rank)]
    return [*arguments, *named]


def _vllm_lora(engine: Engine) -> dict[str, str]:
    """Its routes for adapters are there only when they are asked for."""
    return {} if engine.lora is None else {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


_VLLM_TASKS = {
    Task.AUTO: (),
    Task.GENERATE: ("--runner", "generate"),
    Task.EMBED: ("--runner", "pooling", "--convert", "embed"),
    Task.SCORE: ("--runner", "pooling", "--convert", "classify"),
    Task.TRANSCRIBE: (),
}

_PROOF = (
    inspect.getsource(proofs)
    + f"""
import os, sys, urllib.error, urllib.request
token = os.environ.get("{worker_token.VLLM_ENVIRONMENT}", "")
said = ""
for path, kind, body in proofs(sys.argv[1]):
    sent = {{"content-type": kind, "authorization": "Bearer " + token}}
    request = urllib.request.Request("http://127.0.0.1:{PORT}" + path, body, sent)
    try:
        urllib.request.urlopen(request, timeout=25).read()
        sys.exit()
    except urllib.error.HTTPError as error:
        if error.code not in NOT_THIS:
            raise
        said = said + path + ": " + error.read(200).decode("utf-8", "replace") + "; "
sys.exit(said)
"""
)

# The root file system is read-only and the uid has no entry in /etc/passwd.
_VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",  # noqa: S108
    "USER": "penstock",
    "VLLM_NO_USAGE_STATS": "1",
    "XDG_CACHE_HOME": "/tmp/.cache",  # noqa: S108
}
