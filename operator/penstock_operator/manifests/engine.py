"""What of a worker's container depends on its engine, and what is the same for all engines. Pure.

Both speak the same contract on the wire: OpenAI's routes, vLLM's metric names, /health.
"""

from dataclasses import dataclass

from penstock_contract import handoff, worker_token
from penstock_contract.api import EnginePool, InferenceDeployment, Role
from penstock_contract.api.engine import KvCacheDtype, KvTier
from penstock_operator.manifests.objects import Object

PORT = 8000
LEADER_IP = "PENSTOCK_LEADER_IP"
NODE_RANK = "PENSTOCK_NODE_RANK"
"""Environment variables that stand in the arguments of a replica that spans nodes. Nothing else of
them differs between its pods, so that a follower is made of what its leader was made of."""


@dataclass(frozen=True)
class EngineContainer:
    """What of a worker's container depends on its engine."""

    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    probe: Object
    """Succeeds for the first time when the worker has computed something."""
    ports: dict[str, int]
    environment: dict[str, str]
    own_address: tuple[str, ...]
    """Environment variables that tell it the IP of its pod."""
    token_variable: str = worker_token.ENVIRONMENT
    """Environment variable by which the engine learns whom to answer."""
    shared_memory: bool = False
    tier: KvTier | None = None
    """What needs a volume at `TIER`."""


def is_split(pool: EnginePool) -> bool:
    """Whether the pool's workers hand KV over to others, or take it."""
    return pool.spec.role is not Role.UNIFIED


def ports(pool: EnginePool) -> dict[str, int]:
    """Return the ports of a worker by name."""
    return {"http": PORT, "kv": handoff.PORT} if is_split(pool) else {"http": PORT}


def place(pool: EnginePool) -> dict[str, str]:
    """Return a leader's place in its replica, where that spans nodes."""
    return {NODE_RANK: "0"} if pool.spec.parallelism.nodes > 1 else {}


def own_address(pool: EnginePool) -> tuple[str, ...]:
    """Return the variables that tell a leader where its followers find it."""
    return (LEADER_IP,) if pool.spec.parallelism.nodes > 1 else ()


def limits(deployment: InferenceDeployment) -> list[str]:
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
