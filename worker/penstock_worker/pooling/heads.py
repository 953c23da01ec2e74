"""From the states of an input to what is answered: one vector, or one score."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.model.layers import Linear
from penstock_worker.model.loader import Checkpoint
from penstock_worker.pooling.config import EncoderConfig
from penstock_worker.pooling.recipe import CLS, MEAN, Recipe

Head = Callable[[Tensor, Tensor], Tensor]
"""Takes states [tokens, hidden] and lengths of the inputs [inputs]; gives float32 [inputs, width].
"""


def vector_head(recipe: Recipe) -> Head:
    """Return what makes a vector of an input's states."""

    def head(states: Tensor, lengths: Tensor) -> Tensor:
        found = pooled(states.float(), lengths, recipe.pooling)
        return functional.normalize(found, dim=-1) if recipe.normalised else found

    return head


def pooled(states: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Return one state per input. states [tokens, hidden], lengths [inputs]."""
    ends = lengths.cumsum(0)
    if pooling == CLS:
        return states.index_select(0, ends - lengths)
    if pooling == MEAN:
        whose = torch.repeat_interleave(lengths)
        sums = torch.zeros(len(lengths), states.shape[1], device=states.device)
        return sums.index_add_(0, whose, states) / lengths[:, None]
    return states.index_select(0, ends - 1)


def score_head(config: EncoderConfig, checkpoint: Checkpoint) -> Head:
    """Return what makes a score of a pair's first state.

    Raises:
        UnsupportedModel: the checkpoint has no such head.
    """
    hidden = config.hidden_size
    dense, last = (
        ("bert.pooler.dense", "classifier")
        if config.family == "bert"
        else ("classifier.dense", "classifier.out_proj")
    )

    def linear(name: str, outputs: int) -> Linear:
        weight = checkpoint.take(f"{name}.weight", (outputs, hidden))
        return Linear(weight, checkpoint.take(f"{name}.bias", (outputs,)))

    inner, outer = linear(dense, hidden), linear(last, 1)

    def head(states: Tensor, lengths: Tensor) -> Tensor:
        first = pooled(states, lengths, CLS)
        logit = outer(torch.tanh(inner(first))).float()
        return logit.sigmoid() if config.squashed else logit

    return head
