"""What an answer teaches about its worker, in plain values: other processes learn it, too. Pure."""

from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.ticket import Ticket


class Observation:
    """What can be learned from the first byte of an answer.

    Args:
        behind: tokens that were computed before it.
        decoding: sequences that generated when it was asked for.
        took: seconds until it; None: it was not the first token's.
        size: bytes of the prompt.
        prompt: tokens of it; None: the answer does not tell.
        age: of what was expected to be cached; None: nothing was, or the answer does not tell.
        right: whether it was cached.
    """

    def __init__(
        self,
        behind: int,
        decoding: int,
        took: float | None,
        size: int,
        prompt: int | None,
        age: int | None,
        right: bool,
    ) -> None:
        self.behind = behind
        self.decoding = decoding
        self.took = took
        self.size = size
        self.prompt = prompt
        self.age = age
        self.right = right


def observation_of(ticket: Ticket, now: float, usage: PromptUsage) -> Observation:
    """Return what an answer teaches that begins now and tells this of its prompt."""
    choice, prompt, cached = ticket.choice, ticket.prompt, usage.cached
    return Observation(
        behind=choice.candidate.outstanding + choice.computed(cached),
        decoding=ticket.decoding,
        took=_took(ticket, now, usage),
        size=prompt.size,
        prompt=usage.prompt,
        age=choice.candidate.age if choice.matched and cached is not None else None,
        right=choice.was_right(cached or 0),
    )


def _took(ticket: Ticket, now: float, usage: PromptUsage) -> float | None:
    """Return the seconds to the first token, where they teach what computing the prompt takes."""
    if ticket.pulled or ticket.resumed:
        return None
    return now - ticket.sent if ticket.prompt.streamed else usage.first_token
