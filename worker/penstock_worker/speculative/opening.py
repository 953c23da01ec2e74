"""Opens what an engine is to guess with, a draft model or a head: checked, loaded, and timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from penstock_contract.step_cost import StepCost, StepMoments, fit
from penstock_worker.attention import interface
from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.kv_size import weight_bytes
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.speculative.costs import Costs, LearnedCost
from penstock_worker.speculative.draft_model import DraftModel
from penstock_worker.speculative.fitting import draft_shape
from penstock_worker.speculative.guesses import Vocabulary
from penstock_worker.speculative.head_config import HeadConfig
from penstock_worker.speculative.head_opening import HeadDraft, TappedHead
from penstock_worker.speculative.vocabulary import UnsupportedDraft

ROUNDS = 3
MOST_TIMED = 32
"""Sequences of the largest step that is timed."""


@dataclass(frozen=True)
class Draft:
    """A draft that fits its target, not loaded yet."""

    keeps = True
    folder: Path
    shape: ModelConfig
    how: ExecutionConfig
    target: ModelConfig
    block_size: int

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of its KV."""
        return self.how.kv_dtype

    @property
    def vocab(self) -> int:
        """Tokens that it takes."""
        return self.shape.vocab_size

    @property
    def block_bytes(self) -> int:
        """Of its KV, beside a block of the target's."""
        return token_bytes(self.shape, self.how.kv_dtype) * self.block_size

    @property
    def weight_bytes(self) -> int:
        """Of its weights."""
        return weight_bytes(self.folder, self.shape, self.how)

    def load(self, pool: KVPool, max_model_len: int) -> Model:
        """Return the draft, over a pool for its KV."""
        return load_model(self.folder, self.shape, pool, max_model_len, self.how)


def fitting_draft(
    config: EngineConfig, target: ModelConfig, max_model_len: int
) -> Draft | HeadDraft | None:
    """Return the draft or head that an engine is to have; None for none.

    Raises:
        UnsupportedDraft: it cannot be one for this target; the message begins with the flag.
    """
    shape = draft_shape(config, target, max_model_len)
    if shape is None:
        return None
    wanted = {
        "model": config.speculative_model,
        "quantization": config.speculative_quantization,
        "sparse_attention_tokens": 0,  # what guesses reads everything
    }
    own = shape.shape if isinstance(shape, HeadConfig) else shape
    how = execution_config(msgspec.structs.replace(config, **wanted), own)
    if how.triton:
        raise UnsupportedDraft(
            f"--speculative {config.speculative}: it is computed on CPUs only: use --device cpu, "
            "or ngram"
        )
    folder, block_size = Path(config.speculative_model), config.block_size
    if isinstance(shape, HeadConfig):
        return HeadDraft(folder, shape, how, Path(config.model), target, block_size)
    return Draft(folder, shape, how, target, block_size)


def open_draft(
    draft: Draft | TappedHead,
    config: EngineConfig,
    num_blocks: int,
    max_model_len: int,
    target_cost: StepCost | None,
    clock: Callable[[], float] = time.perf_counter,
) -> DraftModel:
    """Load a draft or head and return what guesses with it.

    Args:
        draft: fits the target.
        config: the engine's.
        num_blocks: of the target's pool.
        max_model_len: of the target.
        target_cost: of its steps; None: as many tokens as possible are guessed.
        clock: seconds.
    """
    dtype, device = draft.kv_dtype, draft.how.device
    pool = KVPool.of(draft.shape, num_blocks, draft.block_size, dtype, device)
    model = draft.load(pool, max_model_len)
    costs = None
    if target_cost is not None:
        most = min(MOST_TIMED, num_blocks, config.max_num_seqs)
        costs = Costs(
            LearnedCost(target_cost),
            LearnedCost(decoding_cost(model, most, draft.block_size, clock)),
        )
    return DraftModel(
        model,
        num_blocks=num_blocks,
        block_size=draft.block_size,
        vocabulary=Vocabulary(draft.target.vocab_size, draft.vocab),
        most=config.speculative_tokens,
        budget=config.max_num_batched_tokens,
        keeps=draft.keeps,
        costs=costs,
        clock=clock,
    )


@torch.inference_mode()
def decoding_cost(model: Model, most: int, block_size: int, clock: Callable[[], float]) -> StepCost:
    """Return what steps of one token per sequence cost, for up to `most` sequences."""
    moments = StepMoments()
    count = 1
    while count <= most:
        batch = _decoding(count, block_size)
        model.greedy(batch)  # the first of its size may allocate
        for _ in range(ROUNDS):
            began = clock()
            model.greedy(batch)
            moments.add(clock() - began, 0, count, count * (block_size - 1))
        count *= 2
    return fit(moments.sums)


def _decoding(count: int, block_size: int) -> Batch:
    last = block_size - 1
    return Batch(
        tokens=[0] * count,
        positions=[last] * count,
        sequences=[interface.Sequence(row, 1, last, [row]) for row in range(count)],
        output_rows=list(range(count)),
    )
