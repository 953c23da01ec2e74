"""The ranks' collectives over torch.distributed: gloo between CPUs, NCCL between GPUs."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

PATIENCE = 120.0
"""Seconds that a rank waits for the others, in the middle of a step, before it gives them up."""

SILENCE = 30.0
"""Seconds without a sign of life after which a rank is lost, whatever it does."""
LOADING = 300.0
"""The same while it loads."""


class RankLost(RuntimeError):
    """A rank has ended, or does not answer."""


class Group:
    """The ranks that share a model; see `Collectives`.

    Args:
        store: by which they find each other; each group needs a new one.
        rank: this one.
        ranks: all of them.
        vocab: tokens that they divide.
        device: that this rank computes on.
        patience: seconds to wait for the others.

    Raises:
        RankLost: the others did not come.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: int,
        vocab: int,
        device: torch.device,
        patience: float = PATIENCE,
    ) -> None:
        self.rank, self.ranks = rank, ranks
        self._vocab = vocab
        self._part = -(-vocab // ranks)
        self._start = rank * self._part
        cuda = device.type == "cuda"
        try:
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=store,
                rank=rank,
                world_size=ranks,
                timeout=timedelta(seconds=patience),
                device_id=device if cuda else None,
            )
        except RuntimeError as error:
            raise RankLost(str(error)) from error

    def sum(self, x: Tensor) -> Tensor:
        """See `Collectives.sum`."""
        try:
            dist.all_reduce(x)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return x

    def embedded(self, table: Tensor, tokens: Tensor) -> Tensor:
        """See `Collectives.embedded`."""
        own = tokens - self._start
        others = (own < 0) | (own >= len(table))
        found = table.index_select(0, own.clamp(0, len(table) - 1))
        return self.sum(found.masked_fill_(others[:, None], 0.0))

    def joined(self, logits: Tensor) -> Tensor:
        """See `Collectives.joined`."""
        parts = self._gathered(logits)
        return torch.cat(parts, -1)[:, : self._vocab] if parts else logits

    def likeliest(self, logits: Tensor) -> list[int]:
        """See `Collectives.likeliest`. Two numbers a row travel, not a vocabulary."""
        best, places = logits[:, : max(1, self._vocab - self._start)].max(-1)
        # A float32 holds every whole number up to 16 million: more than any vocabulary has.
        parts = self._gathered(torch.stack([best, (places + self._start).float()]))
        if not parts:
            return []
        found = torch.stack(parts)  # [ranks, 2, rows]
        # Ranks are in the order of their tokens, so the first of equal ranks is the first token's.
        first = found[:, 0].max(0).indices
        tokens: list[int] = found[:, 1].gather(0, first[None])[0].long().tolist()
        return tokens

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()

    def _gathered(self, part: Tensor) -> list[Tensor]:
        """Return every rank's part; of use on the first rank only, others get nothing."""
        if not part.numel():
            return [part] if self.rank == 0 else []
        parts = [torch.empty_like(part) for _ in range(self.ranks)] if self.rank == 0 else None
        try:
            dist.gather(part.contiguous(), parts)
        except RuntimeError as error:
            raise RankLost(str(error)) from error
        return parts or []
