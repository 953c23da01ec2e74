"""What a rank other than the first does: load its part, then compute whatever it is told to."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from penstock_worker.execution import execution_config
from penstock_worker.kv_size import kv_blocks
from penstock_worker.model.config import read_config
from penstock_worker.tensor_parallel.group import Group
from penstock_worker.tensor_parallel.meeting import joined_store
from penstock_worker.tensor_parallel.messages import (
    Begin,
    Copy,
    Forward,
    Loaded,
    Order,
    Report,
    Sized,
)
from penstock_worker.tensor_parallel.part import choose_gpu, kind_of, load_part
from penstock_worker.tensor_parallel.rank_config import RankConfig
from penstock_worker.tensor_parallel.shares import share_of
from penstock_worker.tensor_parallel.tables import ReceivedTables


def follow(
    config: RankConfig, order: Callable[[], Order], report: Callable[[Report], None]
) -> NoReturn:
    """Do what rank 0 says, without an end.

    Args:
        config: what this rank is told.
        order: waits for what rank 0 says next.
        report: tells rank 0.
    """
    engine, ranks = config.engine, config.engine.tensor_parallel_size
    choose_gpu(engine, config.rank)
    shape = read_config(Path(engine.model))
    how = execution_config(engine, shape)
    max_model_len = shape.longest(engine.max_model_len)
    report(Sized(kv_blocks(engine, share_of(shape, ranks), how, max_model_len), kind_of(how)))
    begin = order()
    if not isinstance(begin, Begin):
        raise TypeError(f"{begin} came before Begin")
    patience = config.meeting.patience
    store = joined_store(config.meeting, config.address)
    group = Group(store, config.rank, ranks, shape.vocab_size, how.device, patience)
    model, pool = load_part(
        engine, shape, how, group, num_blocks=begin.blocks, max_model_len=max_model_len
    )
    report(Loaded())
    received = ReceivedTables()
    with torch.inference_mode():
        while True:
            match order():
                case Forward() as step:
                    compute = model.greedy if step.greedy else model.logits
                    compute(step.batch(received))
                case Copy(source, target):
                    pool.copy(source, target)
