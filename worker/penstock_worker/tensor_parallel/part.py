"""A rank's part of a model and of its KV: loaded in the same way by rank 0 and by the others."""

from pathlib import Path

import torch

from penstock_worker.attention.pool import KVPool
from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Model
from penstock_worker.model.loading import ExecutionConfig, torch_model
from penstock_worker.model.weights import Weights
from penstock_worker.tensor_parallel.checkpoint import DividedCheckpoint
from penstock_worker.tensor_parallel.group import Group
from penstock_worker.tensor_parallel.shares import FLAG, Cuts, share_of


def choose_gpu(config: EngineConfig, rank: int) -> None:
    """Let a rank compute on a GPU of its own, if on any; before anything else touches one.

    Raises:
        ValueError: there are too few.
    """
    if config.device == "cpu" or not torch.cuda.is_available():
        return
    found = torch.cuda.device_count()
    if found < config.local_ranks:
        raise ValueError(
            f"{FLAG} {config.tensor_parallel_size}: {config.local_ranks} ranks are on this node, "
            f"where PyTorch finds {found} GPUs; raise nvidia.com/gpu in the limits of the pool, or "
            "lower parallelism.tensor"
        )
    torch.cuda.set_device(rank % config.local_ranks)


def kind_of(how: ExecutionConfig) -> str:
    """Return what must be the same for all ranks of how they compute, for people."""
    return f"{str(how.dtype).removeprefix('torch.')} on {how.device.type}"


def load_part(
    config: EngineConfig,
    shape: ModelConfig,
    how: ExecutionConfig,
    group: Group,
    *,
    num_blocks: int,
    max_model_len: int,
) -> tuple[Model, KVPool]:
    """Return the rank's part of the model, and the pool that keeps its part of the KV.

    Raises:
        UnsupportedModel: the checkpoint contradicts its configuration.
    """
    share = share_of(shape, group.ranks)
    pool = KVPool.of(share, num_blocks, config.block_size, how.kv_dtype, how.device)
    cuts = Cuts(shape, group.rank, group.ranks)
    checkpoint = DividedCheckpoint(
        Path(config.model), how.dtype, how.device, cuts, first=group.rank == 0
    )
    with checkpoint:
        weights = Weights(share, checkpoint)
        model = torch_model(share, weights, pool, max_model_len, how, collectives=group)
    return model, pool
