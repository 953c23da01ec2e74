"""What is made for whom: the API server's word counts, not what the watches told."""

from typing import Any, cast

import pytest

from penstock_contract.labels import DEPLOYMENT, MANAGED_BY
from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.kinds import Kind
from penstock_operator.cluster.preconditions import in_the_way, owner_stays
from penstock_operator.manifests import Object

pytestmark = pytest.mark.anyio
KEY = Key("models", "chat")
SERVICE = Kind("Service", "v1", "services")
OURS = {MANAGED_BY: "penstock", DEPLOYMENT: "chat"}
OWNER = {"kind": "EnginePool", "name": "chat-default", "uid": "1"}
BODY: Object = {"metadata": {"name": "chat", "ownerReferences": [OWNER]}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """Has these objects, by their metadata."""

    def __init__(self, *found: Object) -> None:
        self._found = found

    async def list(self, *_: Any, fields: str) -> Object:
        name = fields.removeprefix("metadata.name=")
        return {"items": [{"metadata": {"name": name, **meta}} for meta in self._found]}


@pytest.mark.parametrize("there", [[], [{"uid": "2"}], [{"uid": "1", "deletionTimestamp": "now"}]])
async def test_nothing_is_made_for_an_owner_that_is_gone_or_going(there: list[Object]) -> None:
    with pytest.raises(ApiError, match="EnginePool chat-default is going"):
        await owner_stays(cast("Api", Server(*there)), "models", OWNER)
    await owner_stays(cast("Api", Server({"uid": "1"})), "models", OWNER)


@pytest.mark.parametrize(
    ("there", "free"),
    [
        ([], True),
        ([{"labels": OURS}], True),
        ([{"ownerReferences": [OWNER]}], True),
        ([{}], False),
        ([{"labels": {**OURS, DEPLOYMENT: "code"}}], False),
        ([{"ownerReferences": [{**OWNER, "uid": "2"}]}], False),
    ],
)
async def test_a_name_is_free_or_ours_or_taken(there: list[Object], free: bool) -> None:
    found = await in_the_way(cast("Api", Server(*there)), Cache(), KEY, SERVICE, BODY)
    assert (found is None) == free


async def test_what_belongs_to_another_deployment_is_known_without_asking() -> None:
    cache = Cache()
    meta = {"namespace": "models", "name": "chat", "uid": "1", "resourceVersion": "1"}
    cache.put("Service", {"metadata": {**meta, "labels": {DEPLOYMENT: "code"}}})
    found = await in_the_way(cast("Api", None), cache, KEY, SERVICE, BODY)
    assert found is not None
    assert found.message == "Service chat belongs to InferenceDeployment code; rename one of them"
