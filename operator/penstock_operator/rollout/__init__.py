"""Moving a pool's workers from one revision to another, one safe step at a time. Pure.

Every revision of a pool is a Deployment of its own (see `manifests.workload`); this package decides
their sizes. It may be asked at any moment, in any state, and answers with the next step; when the
answer changes nothing, the pool is as wanted.

A worker leaves in three steps, so that no request is lost: it is *drained* (marked, so that every
gateway sends it nothing new), the gateways *confirm*, and only then does its Deployment shrink by
one. Drained workers are unready and cheapest to delete, so a ReplicaSet takes those.
"""

from penstock_operator.rollout.state import Advance, Phase, RolloutState, Worker
from penstock_operator.rollout.step import advance

__all__ = ["Advance", "Phase", "RolloutState", "Worker", "advance"]
