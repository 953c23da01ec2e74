"""What one of several processes may have of a gateway's limits. Pure."""

from collections.abc import Mapping
from typing import NamedTuple


class Level(NamedTuple):
    """What a process has of one model's requests."""

    running: int
    waiting: int


class ProcessIndex(NamedTuple):
    """One of a gateway's processes."""

    number: int
    """From 0."""
    total: int


def per_process(whole: int, processes: int) -> int:
    """Return what each process may have of a limit; all together at most `processes - 1` more."""
    return -(-whole // processes)


def has_room(
    process: ProcessIndex, capacity: int, running: int, others: Mapping[int, Level], turn: int
) -> bool:
    """Return whether a process may let one more request through to a model's workers.

    Room that nobody waits for is anyone's. When it is short each process gets an equal part: who
    has less than that goes before who has more.

    Args:
        process: which one it is.
        capacity: requests that the workers can run, of all processes.
        running: those of this process.
        others: what the other processes told last, by number.
        turn: grows with time, so that what cannot be divided is everyone's for a while.
    """
    if running + sum(level.running for level in others.values()) >= capacity:
        return False
    if running < _equal_share(process, capacity, turn):
        return True
    return not any(
        level.waiting
        and level.running < _equal_share(ProcessIndex(number, process.total), capacity, turn)
        for number, level in others.items()
    )


def _equal_share(process: ProcessIndex, capacity: int, turn: int) -> int:
    """Return an equal part; over all processes they add up to the capacity."""
    each, over = divmod(capacity, process.total)
    return each + ((process.number + turn) % process.total < over)
