"""How a draft's guesses are drawn.

They are drawn from what the draft thinks, and kept or rejected so that the target's chances stay
(`accept_or_draw`). Where the same output is wanted with and without guesses, the draft draws with
the target's own number for (seed, choice, position): where both think alike, they draw the same
token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.messages import Sampling
from penstock_worker.model.interface import Batch, Model
from penstock_worker.random_sampling import probabilities, propose
from penstock_worker.request import Request
from penstock_worker.sampling import GREEDY_BELOW, Row, choose
from penstock_worker.speculative.proposer import Proposal


@dataclass(frozen=True)
class Vocabulary:
    """How many token ids there are; checkpoints of one tokenizer are padded differently."""

    target: int
    draft: int


class Guesses:
    """Guesses next tokens with a model.

    Args:
        model: the draft.
        vocabulary: of both models.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary) -> None:
        self._model = model
        self._vocab = vocabulary

    def guess(self, batch: Batch, drawing: dict[Request, Proposal]) -> None:
        """Guess the next token of each of a batch's output rows."""
        rows = [
            Row(_simple(request.sampling), request.output_length + len(proposal.tokens))
            for request, proposal in drawing.items()
        ]
        if all(row.plain for row in rows):
            tokens = self._model.greedy(batch)
        else:
            logits = self._of_target(self._model.logits(batch))
            tokens = choose(logits, rows).tolist()
            self._draw(logits, rows, drawing, tokens)
        for proposal, token in zip(drawing.values(), tokens, strict=True):
            proposal.tokens.append(token)

    def _draw(
        self,
        logits: Tensor,
        rows: Sequence[Row],
        drawing: dict[Request, Proposal],
        tokens: list[int],
    ) -> None:
        """Replace the tokens that may be rejected by draws of their own, and note their chances."""
        free = [row for row, request in enumerate(drawing) if _may_be_rejected(request)]
        if not free:
            return
        wanted = [rows[row].sampling for row in free]
        mass = probabilities(logits[free], wanted)
        proposals = list(drawing.values())
        drawn = propose(mass, wanted, [rows[row].position for row in free]).tolist()
        for row, token, drawn_from in zip(free, drawn, mass, strict=True):
            tokens[row] = token
            proposals[row].probabilities.append(drawn_from)

    def _of_target(self, logits: Tensor) -> Tensor:
        """Return logits of the target's tokens; those that the draft does not know are no guess."""
        missing = self._vocab.target - logits.shape[-1]
        if missing > 0:
            return functional.pad(logits, (0, missing), value=-torch.inf)
        return logits[:, : self._vocab.target]

    def known(self, proposal: Proposal) -> Proposal:
        """Return the guesses up to the first that the target has no id for."""
        tokens = list(takewhile(lambda token: token < self._vocab.target, proposal.tokens))
        return Proposal(tokens, proposal.probabilities)


def _may_be_rejected(request: Request) -> bool:
    """Return whether a guess is drawn by itself, and kept or rejected so that chances stay.

    Guesses are compared with what is drawn instead where the output must be the same with and
    without them, and under a grammar, which cuts them by what they are.
    """
    wanted = request.sampling
    return wanted.temperature >= GREEDY_BELOW and not wanted.repeatable and request.matcher is None


def _simple(wanted: Sampling) -> Sampling:
    """Return what a guess is drawn with: nothing is reported of it, and penalties are left out."""
    return Sampling(
        temperature=wanted.temperature,
        top_k=wanted.top_k,
        top_p=wanted.top_p,
        min_p=wanted.min_p,
        seed=wanted.seed,
        choice=wanted.choice,
        logit_bias=wanted.logit_bias,
    )
