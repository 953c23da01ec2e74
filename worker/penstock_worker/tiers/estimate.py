"""How long loading takes, learned from loads, to be held against computing. Pure."""

from typing import Final

from penstock_contract.step_cost import StepCost

WEIGHT: Final = 0.3
"""Of the latest load in the estimate."""
RETRY_SECONDS: Final = 30.0
"""After so long without a load a slow medium is tried again: it may have recovered."""


class LoadTime:
    """The seconds that a block takes to load."""

    def __init__(self) -> None:
        self.per_block: float | None = None
        self._learned_at = 0.0

    def learn(self, blocks: int, seconds: float, now: float) -> None:
        """So many blocks took so long, until now (monotonic seconds)."""
        found = seconds / blocks
        known = found if self.per_block is None else self.per_block
        self.per_block = known + WEIGHT * (found - known)
        self._learned_at = now

    def pays(self, blocks: int, ahead: int, tokens: int, cost: StepCost | None, now: float) -> bool:
        """Return whether to load blocks, rather than compute their tokens.

        Args:
            blocks: wanted.
            ahead: others that are loaded first.
            tokens: of the wanted ones together.
            cost: of steps; without it every load pays.
            now: monotonic seconds.
        """
        if cost is None or self.per_block is None or now - self._learned_at >= RETRY_SECONDS:
            return True
        return self.per_block * (blocks + ahead) < cost.prefill_token * tokens
