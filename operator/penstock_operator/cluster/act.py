"""Doing what was decided, in order; whatever fails ends the turn, and the next one decides anew."""

import logging
from collections.abc import Mapping
from typing import Any

import httpx

from penstock_contract.conditions import Reason
from penstock_contract.worker_token import WorkerTokens
from penstock_operator.cluster.actions import (
    Action,
    Apply,
    Create,
    Delete,
    Mark,
    Merge,
    RecordEvent,
    WriteStatus,
)
from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.compare import merge_patch
from penstock_operator.cluster.events import Events
from penstock_operator.cluster.kinds import (
    DEPLOYMENTS,
    ENGINE_POOL,
    INFERENCE_DEPLOYMENT,
    POD,
    Kind,
)
from penstock_operator.cluster.preconditions import in_the_way, owner_stays
from penstock_operator.manifests import Object
from penstock_operator.manifests.engine import PORT
from penstock_operator.snapshot import Obstacle

log = logging.getLogger("penstock.operator")

WORKER_TIMEOUT = 2.0
INVALID = (400, 422)
"""Answers of an API server that will not take an object as it is."""


class Refused(Exception):
    """An object could not be made, and trying again will not help."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle.message)
        self.obstacle = obstacle


class Actor:
    """Writes to the API server, and speaks to workers that drain.

    Args:
        api: the API server.
        cache: takes over what is written.
        events: for people.
        http: for workers.
        tokens: shown to workers.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        events: Events,
        http: httpx.AsyncClient,
        tokens: WorkerTokens | None = None,
    ) -> None:
        self._api = api
        self._cache = cache
        self._events = events
        self._http = http
        self._token_headers = dict((tokens or WorkerTokens()).headers())
        self.kinds: Mapping[str, Kind] = {}
        """How the cluster serves each kind of child."""

    async def act(self, key: Key, raw: Object, action: Action, lasting: set[str]) -> bool:
        """Do one action; return whether it changed what is stored, as a watch would tell.

        Args:
            key: of the InferenceDeployment.
            raw: it, as stored.
            action: to do.
            lasting: uids of owners that were seen to stay, in this turn; it grows.

        Raises:
            ApiError: it failed; what is seen will say what is left to do.
            Refused: an object cannot be made before somebody has put something right.
        """
        for reference in _references(action):
            if reference["uid"] not in lasting:
                await owner_stays(self._api, key.namespace, reference)
                lasting.add(reference["uid"])
        if isinstance(action, Create) or (isinstance(action, Apply) and action.new):
            kind = self._kind(action.body["kind"])
            if obstacle := await in_the_way(self._api, self._cache, key, kind, action.body):
                raise Refused(obstacle)
        try:
            return await self._act(key, raw, action)
        except ApiError as error:
            if error.status in INVALID and isinstance(action, Create | Apply):
                raise Refused(Obstacle(Reason.INVALID_SPEC, str(error))) from error
            if error.status == httpx.codes.FORBIDDEN and _makes_a_pod(action):  # a quota, mostly
                raise Refused(Obstacle(Reason.PODS_FAILING, str(error))) from error
            raise

    async def _act(self, key: Key, raw: Object, action: Action) -> bool:
        space = key.namespace
        match action:
            case Create(body, reason):
                kind = self._kind(body["kind"])
                # A volume whose source is misspelt would become an empty one.
                strict = kind.name == DEPLOYMENTS.name
                answer = await self._api.create(kind, space, body, strict=strict)
                changed = self._seen(kind, answer)
            case Apply(body, reason):
                kind, name = self._kind(body["kind"]), body["metadata"]["name"]
                changed = self._seen(kind, await self._api.apply(kind, space, name, body))
            case Merge(kind_name, name, patch, reason):
                kind = self._kind(kind_name)
                changed = self._seen(kind, await self._api.merge(kind, space, name, patch))
            case Mark(name, address, draining, patch, reason):
                changed = self._seen(POD, await self._api.merge(POD, space, name, patch))
                await self._tell_worker(address, draining=draining)
            case Delete(kind_name, name, uid, version, reason):
                await self._api.delete(self._kind(kind_name), space, name, uid, version)
                changed = False  # until it is gone, which the watch tells
            case WriteStatus(kind_name, name, status):
                return await self._write_status(self._kind(kind_name), space, name, status)
            case RecordEvent(reason, message, warning):
                await self._events.tell(raw, reason, message, warning=warning)
                return False
        log.info("%s: %s: %s", key, type(action).__name__.lower(), reason)
        return changed

    async def _write_status(self, kind: Kind, namespace: str, name: str, status: Object) -> bool:
        there = self._cache.get(kind.name, namespace, name)
        if there is None:  # it went meanwhile
            return False
        patch = {
            "metadata": {"resourceVersion": there["metadata"]["resourceVersion"]},
            "status": merge_patch(there.get("status", {}), _without_empty(status)),
        }
        try:
            return self._seen(kind, await self._api.merge(kind, namespace, name, patch, "status"))
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return False

    async def _tell_worker(self, address: str, *, draining: bool) -> None:
        """Let the worker itself refuse what is new; that it cannot be told changes nothing."""
        if not address:
            return
        host = f"[{address}]" if ":" in address else address
        method = "POST" if draining else "DELETE"
        try:
            await self._http.request(
                method,
                f"http://{host}:{PORT}/drain",
                headers=self._token_headers,
                timeout=WORKER_TIMEOUT,
            )
        except httpx.HTTPError as error:
            log.debug("telling %s: %s", address, error)

    def _seen(self, kind: Kind, answer: Object) -> bool:
        """Take an answer over; return whether it is news, as the watch will then have none.

        What changed nothing, like a field that an older CRD does not keep, is no news.
        """
        return bool(self._cache.answered(kind.name, answer))

    def _kind(self, name: str) -> Kind:
        own = {k.name: k for k in (INFERENCE_DEPLOYMENT, ENGINE_POOL, POD)}
        return own.get(name) or self.kinds[name]


def _makes_a_pod(action: Action) -> bool:
    return isinstance(action, Create) and action.body["kind"] == POD.name


def _references(action: Action) -> list[Object]:
    """Return the owners that an object gets by an action."""
    match action:
        case Create(body) | Apply(body):
            found = body["metadata"].get("ownerReferences")
        case Merge(_, _, patch):
            found = patch.get("metadata", {}).get("ownerReferences")
        case _:
            found = None
    return found or []


def _without_empty(value: Any) -> Any:
    """Leave empty strings out, which mean the same: some builds of 1.20 take them for null."""
    if isinstance(value, dict):
        return {k: _without_empty(v) for k, v in value.items() if v != ""}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value
