"""Whether a prompt is computed by a prefill worker or where it is decoded. Pure.

    here(d)      = ttft(d) + uncached(d) · token(d), where d has streams: they stand still meanwhile
    elsewhere(p) = ttft(p) + HAND_OVER + uncached(d) · PULL

with the predictions that routing makes for each worker. A prompt that is short, or that the decode
worker has cached, is never sent elsewhere.
"""

from typing import Final, NamedTuple

from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import FleetDisaggregation
from penstock_contract.metrics import Prefill
from penstock_gateway.routing.policy import Choice

HAND_OVER: Final = 0.005
"""Seconds for one more request and answer, and for the lease."""
PULL: Final = 2e-6
"""Seconds for the KV of a token: 128 KiB at some 60 GB/s. Slower networks want a higher
`minUncachedTokens`."""


class PrefillDecision(NamedTuple):
    """A decision, with what it rests on."""

    outcome: Prefill
    """HANDED_OVER, or why not."""
    here: float
    """Predicted seconds to the first token."""
    elsewhere: float


def decide_prefill(rule: FleetDisaggregation, decode: Choice, prefill: Choice) -> PrefillDecision:
    """Return where a prompt is computed: by the prefill worker, or by the one that decodes."""
    uncached, busy = decode.uncached, decode.candidate.resident > 0
    here = decode.ttft + busy * uncached * decode.candidate.speed.token
    elsewhere = prefill.ttft + HAND_OVER + uncached * PULL
    return PrefillDecision(_outcome(rule, uncached, here, elsewhere), here, elsewhere)


def _outcome(rule: FleetDisaggregation, uncached: int, here: float, elsewhere: float) -> Prefill:
    if rule.mode is DisaggregationMode.NEVER:
        return Prefill.OFF
    if rule.mode is DisaggregationMode.ALWAYS:
        return Prefill.HANDED_OVER
    if uncached < rule.min_uncached_tokens:
        return Prefill.SHORT
    return Prefill.HANDED_OVER if elsewhere < here else Prefill.SOONER
