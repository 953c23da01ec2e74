"""Decisions on record: a JSON line each, from which the same decision can be made again. Pure.

What is written is what `decide` was given (memory, observation, spec, time) and what it answered.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import msgspec

from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.decision import Decisions
from penstock_operator.scaling.observation import Observation
from penstock_operator.scaling.spec import ScalingSpec
from penstock_operator.scaling.state import ScalingState


@dataclass(frozen=True)
class Record:
    """One decision with everything that went into it."""

    now: float
    state: ScalingState
    seen: Observation
    spec: ScalingSpec
    decisions: Decisions

    def again(self) -> Decisions:
        """Decide once more."""
        return decide(self.state, self.seen, self.spec, self.now)[1]


def write(record: Record) -> str:
    """Return a record as one line. NaN and Infinity, which JSON has not, are Python's."""
    return json.dumps(asdict(record), separators=(",", ":"))


def read(text: str) -> Iterator[Record]:
    """Yield the records of a log.

    Raises:
        ValueError: a line is none.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield msgspec.convert(json.loads(line), Record)
            except (ValueError, msgspec.ValidationError) as error:
                raise ValueError(f"line {number}: {error}") from None
