"""Latency objectives."""

from penstock_contract.api.base import ApiModel, Duration, Quantile, seconds


class Objective(ApiModel):
    """A latency objective: `quantile` of requests within `target`."""

    quantile: Quantile = "0.9"
    """Share of requests that must meet the target, like `'0.9'`."""
    target: Duration
    """Time that they may take, like `500ms` or `2s`."""


class Slo(ApiModel):
    """What the autoscaler holds; workers hold the time per output token in every step."""

    ttft: Objective | None = None
    """Time from a request's arrival to its first token."""
    tpot: Objective | None = None
    """Time from one token of an answer to the next."""

    @property
    def ttft_seconds(self) -> float | None:
        """Return the bound on the time to the first token, if there is one."""
        return None if self.ttft is None else seconds(self.ttft.target)

    @property
    def tpot_seconds(self) -> float | None:
        """Return the bound on the time per output token, if there is one."""
        return None if self.tpot is None else seconds(self.tpot.target)
