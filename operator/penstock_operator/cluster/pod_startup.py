"""Why pods do not start, where only Events tell: volumes that cannot be mounted, and the like.

A pod's status says `ContainerCreating` for minutes, be it that an image is pulled or that a Secret
is missing. Events are not watched, as there are many and few matter: the API server is asked about
a pod that has been starting for a while, and then again now and then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.cache import Key
from penstock_operator.cluster.kinds import EVENT
from penstock_operator.cluster.observed import Pod
from penstock_operator.manifests import Object

PATIENCE = 10.0
"""Seconds for which any pod may be starting."""
AGAIN = 30.0
"""Seconds between two questions about one pod."""
NAMING_A_CAUSE = {"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"}
SUMMARY = "Unable to attach or mount volumes"
"""How kubelet sums up after two minutes, in ever new words; what it said before has the cause."""


@dataclass(frozen=True)
class Wait:
    """A pod that is starting."""

    ask_at: float
    words: str = ""
    """What it waits for; empty: not known."""


class PodStartup:
    """Knows which pods are starting, by InferenceDeployment, and what they wait for."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waits: dict[Key, dict[str, Wait]] = {}

    async def explained(self, key: Key, pods: Iterable[Pod], now: float) -> tuple[Pod, ...]:
        """Return the pods of an InferenceDeployment, with what is known of those that start."""
        found = tuple(pods)
        known = self._waits.pop(key, {})
        waits = {p.uid: known.get(p.uid, Wait(now + PATIENCE)) for p in found if p.starting}
        if not waits:
            return found
        self._waits[key] = waits
        for uid, wait in waits.items():
            if now >= wait.ask_at:
                waits[uid] = Wait(now + AGAIN, await self._ask(key.namespace, uid))
        return tuple(
            replace(p, waiting=waits[p.uid].words) if p.uid in waits and not p.waiting else p
            for p in found
        )

    def again_in(self, key: Key, now: float) -> float | None:
        """Return the seconds until there is something to ask; None: nothing starts."""
        due = [wait.ask_at for wait in self._waits.get(key, {}).values()]
        return max(0.1, min(due) - now) if due else None

    def forget(self, key: Key) -> None:
        """The InferenceDeployment is gone."""
        self._waits.pop(key, None)

    async def _ask(self, namespace: str, uid: str) -> str:
        try:
            found = await self._api.list(EVENT, namespace, fields=f"involvedObject.uid={uid}")
        except ApiError:
            return ""  # it is for people only
        return words(found["items"])


def words(events: Iterable[Object]) -> str:
    """Return what the latest Event that names a cause says; empty: there is none."""
    naming = [event for event in events if event.get("reason") in NAMING_A_CAUSE]
    naming.sort(key=lambda event: (_cause(event), event.get("lastTimestamp") or ""))
    return f"{naming[-1]['reason']}: {naming[-1].get('message', '')}" if naming else ""


def _cause(event: Object) -> bool:
    return not event.get("message", "").startswith(SUMMARY)
