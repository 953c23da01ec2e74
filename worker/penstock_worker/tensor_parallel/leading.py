"""Rank 0's end: a model that has the other ranks compute what it computes."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.attention.pool import KVPool
from penstock_worker.engine_config import EngineConfig
from penstock_worker.kv_size import kv_blocks
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.tensor_parallel.gathering import gather, invite
from penstock_worker.tensor_parallel.group import PATIENCE, SILENCE, Group, RankLost
from penstock_worker.tensor_parallel.meeting import Place
from penstock_worker.tensor_parallel.messages import Begin, Copy, Forward, Loaded, Sized
from penstock_worker.tensor_parallel.part import choose_gpu, kind_of, load_part
from penstock_worker.tensor_parallel.ranks import Ranks
from penstock_worker.tensor_parallel.shares import share_of
from penstock_worker.tensor_parallel.tables import SentTables
from penstock_worker.tensor_parallel.terms import terms

T = TypeVar("T")


class LeadingModel:
    """A model that ranks compute together, told from here.

    Args:
        model: this rank's part.
        pool: of this rank's KV.
        ranks: the others.
        group: of all.
    """

    def __init__(self, model: Model, pool: KVPool, ranks: Ranks, group: Group) -> None:
        self._model = model
        self._pool = pool
        self._ranks = ranks
        self._group = group
        self._sent = SentTables()

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`."""
        return self._together(self._model.logits, batch, greedy=False)

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        return self._together(self._model.greedy, batch, greedy=True)

    def copy(self, source: int, target: int) -> None:
        """Copy a block, on every rank."""
        self._ranks.tell(Copy(source, target))
        self._pool.copy(source, target)

    @property
    def leaving(self) -> str:
        """Which rank's node was told to end, so that this engine has to; empty while none was."""
        return self._ranks.leaving

    def heed(self, wake: Callable[[], None]) -> None:
        """Have `wake` called from another thread when `leaving` begins, or a rank has ended."""
        self._ranks.heed(wake)

    def check(self) -> None:
        """Do nothing while all ranks are there.

        Raises:
            RankLost: one of them has ended; the message says why.
        """
        self._ranks.check()

    def close(self) -> None:
        """End the other ranks."""
        self._ranks.close()
        self._group.close()

    def _together(self, compute: Callable[[Batch], T], batch: Batch, *, greedy: bool) -> T:
        self._ranks.tell(Forward.of(batch, self._sent, greedy=greedy))
        try:
            return compute(batch)
        except RankLost as error:
            raise self._ranks.explain(error) from error


def lead(
    config: EngineConfig,
    shape: ModelConfig,
    how: ExecutionConfig,
    max_model_len: int,
    patience: float = PATIENCE,
    silence: float = SILENCE,
    tokens: WorkerTokens | None = None,
) -> tuple[LeadingModel, KVPool, int]:
    """Start the other ranks, load together, and return the model, rank 0's pool and its blocks.

    Args:
        config: of the engine.
        shape: of the whole model.
        how: rank 0 computes.
        max_model_len: longest context in tokens.
        patience, silence: see `Meeting`.
        tokens: by which nodes know each other.

    Raises:
        RankLost: one of them could not do its part; the message says why.
        UnsupportedModel: the checkpoint contradicts its configuration.
        ValueError: a setting makes no sense; the message names it.
    """
    choose_gpu(config, 0)
    count = config.tensor_parallel_size
    own = kv_blocks(config, share_of(shape, count), how, max_model_len)
    host, remote = gather(config, terms(config, shape), tokens or WorkerTokens())
    place = Place(host, patience, silence)
    invite(remote, place.meeting)
    ranks = Ranks(config, place.meeting, remote)
    num_blocks = min(own, *_blocks(ranks.hear(Sized), kind_of(how)))
    ranks.tell(Begin(num_blocks))
    group = Group(place.store(), 0, count, shape.vocab_size, how.device, patience)
    model, pool = load_part(
        config, shape, how, group, num_blocks=num_blocks, max_model_len=max_model_len
    )
    ranks.hear(Loaded)
    return LeadingModel(model, pool, ranks, group), pool, num_blocks


def _blocks(sized: Mapping[str, Sized], kind: str) -> list[int]:
    """Return how many blocks the other ranks have room for.

    Raises:
        RankLost: one of them would compute in another way.
    """
    for name, one in sized.items():
        if one.kind != kind:
            raise RankLost(f"{name} computes in {one.kind}, and rank 0 in {kind}: set --dtype")
    return [one.blocks for one in sized.values()]
