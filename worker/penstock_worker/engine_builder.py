"""Builds an engine from its settings: model, KV pool, and a warm-up that proves it works."""

import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from penstock_contract.step_cost import StepCost
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.attention.features import Together
from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import device_name, execution_config
from penstock_worker.grammar import Grammars
from penstock_worker.kv_size import ALONE, Beside, kv_blocks
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.lora.config import UnsupportedAdapter, adapter_digest
from penstock_worker.lora.reading import reader
from penstock_worker.lora.shelf import Shelf, Version
from penstock_worker.messages import AddRequest, FinishReason, Ready, Sampling
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.files import weight_files
from penstock_worker.model.interface import Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.native.decoder import NativeDecoder
from penstock_worker.runner import ModelRunner
from penstock_worker.runner_interface import Runner
from penstock_worker.self_benchmark import measure
from penstock_worker.sparsity import bounds_bytes, read_sparsity
from penstock_worker.speculative.head_opening import HeadDraft, TappedHead
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.speculative.opening import Draft, fitting_draft, open_draft
from penstock_worker.speculative.paced import PacedProposer
from penstock_worker.speculative.proposer import Proposer
from penstock_worker.tensor_parallel.shares import refuse
from penstock_worker.transfer.fingerprint import fingerprint
from penstock_worker.transfer.pool_memory import block_memory

if TYPE_CHECKING:
    from penstock_worker.transfer.handoff import Handoff

BENCHMARK_SECONDS = 0.4


def build_engine(config: EngineConfig, tokens: WorkerTokens | None = None) -> tuple[Engine, Ready]:
    """Load the model, allocate the pool, and generate a token to warm everything up.

    Args:
        config: its settings.
        tokens: by which workers that hand KV over know each other.

    Raises:
        UnsupportedModel: the checkpoint is damaged or not one that this engine computes.
        UnsupportedAdapter: the same of an adapter.
        UnsupportedDraft: the same of a draft model.
        ValueError: a setting makes no sense; the message names it.
    """
    began = time.monotonic()
    folder = Path(config.model)
    shape = read_config(folder)
    if config.tensor_parallel_size > 1:
        refuse(config, shape)
    how = execution_config(config, shape)
    max_model_len = shape.longest(config.max_model_len)
    draft = fitting_draft(config, shape, max_model_len)
    ranks, guessing, shelf = None, None, Shelf()
    if config.tensor_parallel_size > 1:
        # It brings torch.distributed.
        from penstock_worker.tensor_parallel.leading import lead

        ranks, pool, num_blocks = lead(config, shape, how, max_model_len, tokens=tokens)
        runner = ModelRunner(ranks, ranks)
    else:
        runner, pool, num_blocks, guessing, shelf = _runner(
            config, shape, how, max_model_len, draft
        )
    # The warm-up has an engine of its own, so that the counters start at nothing.
    warm = _engine(config, runner, shape, num_blocks, max_model_len, shelf)
    lengths = _largest_step(config, max_model_len) if how.triton else [2]
    _warm_up(warm, lengths, shape.vocab_size)
    cost = None
    if config.self_benchmark:
        cost = measure(
            warm, vocab_size=shape.vocab_size, clock=time.monotonic, budget=BENCHMARK_SECONDS
        )
    epoch = secrets.token_hex(8)
    proposer = _proposer(config)
    if guessing is not None:
        drafts = open_draft(guessing, config, num_blocks, max_model_len, cost)
        proposer = PacedProposer(drafts, drafts.pause)
    engine = _engine(config, runner, shape, num_blocks, max_model_len, shelf, cost, proposer)
    engine.ranks = ranks
    shared = config.transfer is not None or config.tier is not None
    identity = _fingerprint(config, shape, how) if shared else b""
    engine.handoff = _handoff(config, engine.pool, pool, identity, epoch, tokens)
    if config.tier is not None:
        from penstock_worker.tiers.opening import open_tier

        engine.use(open_tier(config.tier, engine.pool, pool, identity, shape.window, cost))
    return engine, Ready(
        epoch=epoch,
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
        prefix_caching=config.prefix_caching,
        step_cost=asdict(cost) if cost else None,
        device=device_name(how.device),
        kv_cache_dtype=config.kv_cache_dtype,
        kv_bytes_per_token=token_bytes(shape, how.kv_dtype)
        + bounds_bytes(shape, how.sparsity, how.kv_dtype) // config.block_size,
    )


def _runner(
    config: EngineConfig,
    shape: ModelConfig,
    how: ExecutionConfig,
    max_model_len: int,
    draft: Draft | HeadDraft | None,
) -> tuple[ModelRunner, KVPool, int, Draft | TappedHead | None, Shelf]:
    """Return what computes alone, its KV, the blocks that has, what may guess, and adapters."""
    beside = Beside(draft.block_bytes, draft.weight_bytes) if draft is not None else ALONE
    num_blocks = kv_blocks(config, shape, how, max_model_len, beside)
    pool = KVPool.of(
        shape, num_blocks, config.block_size, how.kv_dtype, how.device, how.sparsity.layers
    )
    adapters = [load_adapter(name, Path(at), shape) for name, at in config.adapters.items()]
    guessing = draft.tapped(num_blocks) if isinstance(draft, HeadDraft) else draft
    tap = guessing.tap if isinstance(guessing, TappedHead) else None
    model = load_model(Path(config.model), shape, pool, max_model_len, how, adapters, tap)
    copied = pool if tap is None else Together(pool, tap.pool)
    shelf = _shelf(config, shape, model)
    return ModelRunner(model, copied), pool, num_blocks, guessing, shelf


def _shelf(config: EngineConfig, shape: ModelConfig, model: Model) -> Shelf:
    """Return the adapters of the start, with room for those that come later.

    Raises:
        UnsupportedAdapter: there is to be room, and what computes the model has none.
    """
    found = [Version(name, name, adapter_digest(Path(at))) for name, at in config.adapters.items()]
    if not config.max_adapters:
        return Shelf(found)
    if shape.latent or not isinstance(model, NativeDecoder | TorchDecoder):
        raise UnsupportedAdapter(
            "--max-adapters: adapters are computed on CPUs only, and not for models with latent "
            "attention: leave it out"
        )
    host = model.adapters
    return Shelf(found, host, reader(host, shape, config.max_adapter_rank), config.max_adapters)


def _engine(
    config: EngineConfig,
    runner: Runner,
    shape: ModelConfig,
    num_blocks: int,
    max_model_len: int,
    adapters: Shelf,
    cost: StepCost | None = None,
    proposer: Proposer | None = None,
) -> Engine:
    return Engine(
        runner,
        BlockPool.of(config, num_blocks),
        vocab_size=shape.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        grammars=Grammars(Path(config.model), shape.vocab_size, shape.eos_token_ids),
        proposer=proposer,
        adapters=adapters,
        window=shape.window,
        sparse_tokens=read_sparsity(config, shape).tokens,
        cost=cost,
    )


def _proposer(config: EngineConfig) -> Proposer | None:
    match config.speculative:
        case "none" | "draft" | "eagle3":
            return None
        case "ngram":
            return PacedProposer(NgramProposer(config.speculative_tokens))
    raise ValueError(f"speculative {config.speculative!r} is not one of none, ngram, draft, eagle3")


def _handoff(
    config: EngineConfig,
    blocks: BlockPool,
    pool: KVPool,
    identity: bytes,
    epoch: str,
    tokens: WorkerTokens | None,
) -> "Handoff | None":
    if config.transfer is None:
        return None
    # It brings pydantic, which takes a tenth of a second that most engines need not spend.
    from penstock_worker.transfer.opening import open_handoff

    memory = block_memory(pool)
    return open_handoff(
        config.transfer, blocks, memory, epoch=epoch, fingerprint=identity, tokens=tokens
    )


def _fingerprint(config: EngineConfig, shape: ModelConfig, how: ExecutionConfig) -> bytes:
    return fingerprint(
        shape,
        weight_files(Path(config.model)),
        block_size=config.block_size,
        dtype=how.kv_kind,
        quantization=config.quantization,
    )


def _largest_step(config: EngineConfig, max_model_len: int) -> list[int]:
    """Return the lengths of prompts that fill a step: memory that lacks must lack at start."""
    longest = max(1, max_model_len - 2)
    count = min(config.max_num_seqs, -(-config.max_num_batched_tokens // longest))
    return [min(longest, config.max_num_batched_tokens)] * count


def _warm_up(engine: Engine, lengths: list[int], vocab_size: int) -> None:
    """Generate two tokens (prefill, then decode), so that the first request pays nothing extra."""
    greedy = Sampling(temperature=0.0)
    for index, length in enumerate(lengths):
        # No prompt begins like another one, or the cache would save its computation.
        prompt = [index % vocab_size, *[0] * (length - 1)]
        engine.add(AddRequest(f"warm-up-{index}", prompt, max_tokens=2, sampling=greedy))
    while engine.busy:
        batch = engine.step()
        if any(output.finish_reason is FinishReason.ABORT for output in batch.outputs):
            raise RuntimeError(batch.outputs[0].error)
