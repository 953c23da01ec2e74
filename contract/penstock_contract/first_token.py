"""How first tokens are kept in time: how far ahead a worker is fed, and who goes before whom. Pure.

The gateway goes by these rules, and the autoscaler's simulation plays by them. A worker computes
its prompts in the order in which it got them, so an order can only be kept over those that it has
not got yet: with an objective for first tokens, it gets no more than it needs to stay busy.
Among those that wait, who can still be in time goes before who cannot, until half of the time is
over that one may wait at all: nobody is refused for having been overtaken. First come, first served
makes everybody late once there is a queue; this way only as many are late as there is too much
work. (For the same reason servers under overload answer the newest first: Maurer, "Fail at scale",
ACM Queue 13(8), 2015.)
"""

from typing import Final

LONGEST_BACKLOG: Final = 0.25
"""Seconds of prompts that a worker is given ahead: enough to stay busy between two messages."""
BACKLOG_SHARE: Final = 1 / 8
"""Of a strict objective, that is."""
FEWEST_PROMPTS: Final = 2
"""Prompts that a worker is always given, however long they seem to take."""
OLDEST_EVERY: Final = 8
"""One turn in so many goes to who has waited longest, so that nobody waits for ever."""
OVERDUE: Final = 0.5
"""Share of the time that a request may wait, after which nobody overtakes it any more."""
SLOWED: Final = 2.0
"""A prompt, and those that the worker has already, take longer than by themselves: what others
decode lies in between."""


def backlog(objective: float) -> float:
    """Return the seconds of prompts that a worker is given ahead, by its TTFT objective."""
    return min(LONGEST_BACKLOG, BACKLOG_SHARE * objective)


def overdue(arrival: float, patience: float) -> float:
    """Return from when a request is not overtaken, having come at `arrival`.

    patience: seconds that it may wait.
    """
    return arrival + OVERDUE * patience


def latest_start(arrival: float, objective: float, own: float) -> float:
    """Return until when a request must go so that its first token can still be in time.

    Args:
        arrival: of the request.
        objective: seconds from then to the first token.
        own: seconds that its prompt takes by itself.
    """
    return arrival + objective - SLOWED * (own + backlog(objective))
