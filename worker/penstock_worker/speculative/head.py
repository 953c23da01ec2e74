"""A head as a model that guesses tokens of its target: what it says, in the target's numbers."""

import torch
from torch import Tensor

from penstock_worker.model.interface import Batch, Model


class Head:
    """Translates what a head says.

    Args:
        model: predicts tokens of the head's own vocabulary.
        says: the target's number of each, [vocab of the head].
        vocab: tokens of the target.
    """

    def __init__(self, model: Model, says: Tensor, vocab: int) -> None:
        self._model = model
        self._says = says
        self._numbers: list[int] = says.tolist()
        self._vocab = vocab

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`; the chance of what it cannot say is nothing."""
        said = self._model.logits(batch)
        found = torch.full((len(said), self._vocab), -torch.inf)
        found[:, self._says] = said
        return found

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        return [self._numbers[token] for token in self._model.greedy(batch)]
