"""The service curve: what one engine step costs, and what a request costs in steps.

One step of continuous batching takes

    T = a + b_p·prefill_tokens + b_d·sequences + c·kv_tokens

seconds: `a` is what every step costs (weights are read, kernels launched), `b_p` a prompt token,
`b_d` a decoding sequence, `c` a token of context that attention reads. From it follow a request's
work, in seconds of one replica, and the share of a replica that may be busy under an objective.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class ServiceCurve:
    """Step-time coefficients of one replica in seconds, and the KV tokens that it holds."""

    a: float
    b_p: float
    b_d: float
    c: float
    kv_tokens: float = inf

    def step_seconds(self, prefill_tokens: float, sequences: float, kv_tokens: float) -> float:
        """Return the duration of a step."""
        return self.a + self.b_p * prefill_tokens + self.b_d * sequences + self.c * kv_tokens

    def prefill_work(self, uncached_tokens: float) -> float:
        """Return the replica-seconds of computing a prompt, apart from what every step costs."""
        return self.b_p * uncached_tokens

    def decode_work(self, input_tokens: float, output_tokens: float) -> float:
        """Return the replica-seconds of generating: the context grows from `input` to the end."""
        return output_tokens * (self.b_d + self.c * (input_tokens + output_tokens / 2))

    def busy_share(self, step_seconds: float) -> float:
        """Return ρ, the share of a replica's time that is work, when steps take so long.

        With every step costing `a`, T = a / (1 − ρ), so ρ = 1 − a/T. Zero or less means that no
        number of replicas brings steps down to this time.
        """
        return 1 - self.a / step_seconds
