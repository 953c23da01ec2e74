"""What the nodes of a group must have in common: else they would compute nonsense, or wait forever.

What may differ is how a node computes its part: its folder, its threads, its memory.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from penstock_contract.group import NODES
from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.files import weight_files
from penstock_worker.tensor_parallel.shares import FLAG
from penstock_worker.transfer.fingerprint import fingerprint

Terms = dict[str, str]
"""By the flag that sets it, or by what it is of."""


def terms(config: EngineConfig, shape: ModelConfig) -> Terms:
    """Return a node's terms; the weights are told apart by samples (`fingerprint`).

    Raises:
        UnsupportedModel: the checkpoint's files are not all there.
    """
    weights = fingerprint(
        shape,
        weight_files(Path(config.model)),
        block_size=config.block_size,
        dtype=config.dtype,
        quantization=config.quantization,
    )
    return {
        "penstock": version("penstock"),
        "torch": version("torch").partition("+")[0],
        FLAG: str(config.tensor_parallel_size),
        NODES: str(config.group.nodes),
        "--dtype": config.dtype,
        "--kv-cache-dtype": config.kv_cache_dtype,
        "--device": config.device,
        "--kernels": config.kernels,
        "--block-size": str(config.block_size),
        "--max-model-len": str(shape.longest(config.max_model_len)),
        "--max-num-seqs": str(config.max_num_seqs),
        "--max-num-batched-tokens": str(config.max_num_batched_tokens),
        "--model (configuration and weights)": weights.hex()[:16],
    }


def difference(leader: Mapping[str, str], follower: Mapping[str, str]) -> str:
    """Return, for people, in what a follower's terms are not its leader's; empty if in nothing."""
    pairs = {name: (leader.get(name), follower.get(name)) for name in {**leader, **follower}}
    return "; ".join(
        f"{name} is {one} at node 0 and {other} at the other node"
        for name, (one, other) in pairs.items()
        if one != other
    )
