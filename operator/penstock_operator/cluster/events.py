"""Events: what `kubectl describe` tells of an InferenceDeployment.

One Event per thing that is told; told again, its count grows. Each object has a budget, as one may
flap. They are for people, so a failure to write one is logged and forgotten.
"""

import hashlib
import logging
import os
import socket
import time
from collections import OrderedDict
from datetime import UTC, datetime

from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.event_budget import EventBudget
from penstock_operator.cluster.kinds import EVENT
from penstock_operator.manifests import Object

log = logging.getLogger("penstock.operator.events")

REMEMBERED = 4096
COMPONENT = "penstock-operator"


class Events:
    """Writes Events, each text once in its own object."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._budget = EventBudget()
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def tell(self, about: Object, reason: str, message: str, *, warning: bool) -> None:
        """Tell something of an InferenceDeployment."""
        meta = about["metadata"]
        if not self._budget.spend(meta["uid"], time.monotonic()):
            log.info("%s/%s: %s: %s", meta["namespace"], meta["name"], reason, message)
            return
        digest = hashlib.sha256(f"{meta['uid']} {reason} {message}".encode()).hexdigest()[:16]
        event = _event(about, reason, message, warning=warning)
        event["metadata"]["name"] = f"{meta['name']}.{digest}"
        event["count"] = self._count(digest)
        try:
            await self._api.apply(EVENT, meta["namespace"], event["metadata"]["name"], event)
        except ApiError as error:
            log.warning("an Event could not be written: %s", error)

    def _count(self, digest: str) -> int:
        """Return how often this has been told, with this time."""
        count = self._counts.pop(digest, 0) + 1
        self._counts[digest] = count
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        return count


def _event(about: Object, reason: str, message: str, *, warning: bool) -> Object:
    """Return an Event of this moment, but for its name and count."""
    meta = about["metadata"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            **{name: meta[name] for name in ("name", "namespace", "uid", "resourceVersion")},
        },
        "reason": reason,
        "message": message,
        "type": "Warning" if warning else "Normal",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": os.environ.get("HOSTNAME") or socket.gethostname(),
        "firstTimestamp": now,
        "lastTimestamp": now,
    }
