"""Engines for tests, without a process around them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from penstock_worker.attention.pool import KVPool
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.grammar import Grammars
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.lora.config import adapter_digest
from penstock_worker.lora.reading import reader
from penstock_worker.lora.shelf import Shelf, Version
from penstock_worker.messages import AddRequest, Batch, Output, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.interface import Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.native.decoder import NativeDecoder
from penstock_worker.runner import ModelRunner
from penstock_worker.runner_interface import Runner
from penstock_worker.speculative.proposer import Proposer

GREEDY = Sampling(temperature=0.0)
TORCH = ExecutionConfig()


def torch_engine(
    folder: Path,
    *,
    num_blocks: int = 256,
    block_size: int = 16,
    budget: int = 4096,
    max_num_seqs: int = 64,
    caching: bool = True,
    how: ExecutionConfig = TORCH,
    proposer: Proposer | None = None,
    adapters: Mapping[str, Path] = MappingProxyType({}),
    runner: Runner | None = None,
    max_adapters: int = 0,
    max_adapter_rank: int = 0,
) -> Engine:
    """Return a real engine on the checkpoint in `folder`, which `runner` or one of its own runs."""
    config = read_config(folder)
    shelf = Shelf.of(adapters)
    if runner is None:
        bounded = how.sparsity.layers
        kept = KVPool.of(config, num_blocks, block_size, how.kv_dtype, bounded=bounded)
        found = [load_adapter(name, path, config) for name, path in adapters.items()]
        model = load_model(folder, config, kept, config.max_position, how, found)
        runner = ModelRunner(model, kept)
        if max_adapters:
            assert isinstance(model, TorchDecoder | NativeDecoder)
            versions = [Version(name, name, adapter_digest(at)) for name, at in adapters.items()]
            read = reader(model.adapters, config, max_adapter_rank)
            shelf = Shelf(versions, model.adapters, read, max_adapters)
    return Engine(
        runner,
        BlockPool(num_blocks, block_size, caching=caching),
        vocab_size=config.vocab_size,
        max_model_len=config.max_position,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        grammars=Grammars(folder, config.vocab_size, config.eos_token_ids),
        proposer=proposer,
        adapters=shelf,
        window=config.window,
        sparse_tokens=how.sparsity.tokens,
    )


def load(
    folder: Path,
    how: ExecutionConfig,
    *,
    num_blocks: int,
    block_size: int = 16,
    adapters: Mapping[str, Path] = MappingProxyType({}),
) -> Model:
    """Return the model of the checkpoint in `folder`, over a pool of its own."""
    config = read_config(folder)
    pool = KVPool.of(config, num_blocks, block_size, how.kv_dtype)
    found = [load_adapter(name, path, config) for name, path in adapters.items()]
    return load_model(folder, config, pool, config.max_position, how, found)


def drain(engine: Engine) -> list[Batch]:
    """Step until the engine is idle, checking the pool's invariants after each step."""
    batches = []
    while engine.busy:
        batches.append(engine.step())
        engine.pool.check()
    return batches


def generate(
    engine: Engine,
    prompts: Iterable[list[int]],
    count: int,
    sampling: Sampling = GREEDY,
    **options: Any,
) -> list[list[int]]:
    """Run prompts together and return the tokens of each."""
    names = []
    for index, prompt in enumerate(prompts):
        names.append(f"r{index}")
        message = AddRequest(
            id=names[-1], prompt=prompt, max_tokens=count, sampling=sampling, **options
        )
        assert engine.add(message) is None
    return collect(names, [output for batch in drain(engine) for output in batch.outputs])


def collect(names: list[str], outputs: Iterable[Output]) -> list[list[int]]:
    """Join the tokens of each request, in the order of `names`."""
    tokens: dict[str, list[int]] = {name: [] for name in names}
    for output in outputs:
        tokens[output.id] += output.tokens
    return [tokens[name] for name in names]
