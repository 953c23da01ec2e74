"""What is guessed of the tokens that come next, and what grammars allow of them."""

from collections.abc import Sequence

from penstock_worker.grammar import GrammarError
from penstock_worker.request import Request
from penstock_worker.speculative.proposer import NOTHING, Proposer, Room
from penstock_worker.step import Slice, Step


def draft(running: Sequence[Request], proposer: Proposer | None, room: Room) -> None:
    """Guess how the requests go on that decode; a grammar knows some of it for certain."""
    proposed = proposer.propose(running, room) if proposer else [NOTHING] * len(running)
    for request, (drafts, probabilities) in zip(running, proposed, strict=True):
        request.drafts, request.probabilities = drafts, probabilities
        if request.matcher is not None and request.pending == 1:
            request.drafts = request.matcher.guess(request.tokens, drafts)


def constrain(step: Step) -> list[tuple[Slice, str]]:
    """Find what a step may draw; those whose grammar has become too complex leave it.

    Each mask is a function of the tokens so far: preemption or a resumption changes nothing.

    Returns:
        What has left, and why.
    """
    lost: list[tuple[Slice, str]] = []
    for part in list(step.slices):
        request = part.request
        if request.matcher is None or not part.samples:
            continue
        try:
            request.allowed = request.matcher.allowed(request.tokens, part.drafts)
        except GrammarError as error:
            step.slices.remove(part)
            lost.append((part, f"the grammar cannot be followed: {error}"))
    return lost
