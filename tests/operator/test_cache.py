"""The cache: whatever order news comes in, the newest state of every object is what it holds."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.labels import DEPLOYMENT
from penstock_operator.cluster.cache import Cache, Key

CHAT, CODE = Key("default", "chat"), Key("default", "code")


def service(version: int, owner: str = "chat", uid: str = "1", **more: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {
            "name": "s",
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {DEPLOYMENT: owner},
            **more,
        },
    }


@given(st.permutations([9, 10, 11, 99, 100]))
def test_old_news_never_replaces_newer(order: list[int]) -> None:
    cache = Cache()
    for version in order:
        cache.put("Service", service(version))
    found = cache.get("Service", "default", "s")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "100"


def test_what_is_known_already_concerns_nobody() -> None:
    cache = Cache()
    assert cache.put("Service", service(5)) == {CHAT}
    assert cache.put("Service", service(5)) == set()


def test_an_object_made_anew_replaces_the_one_before_it() -> None:
    cache = Cache()
    cache.put("Service", service(50))
    assert cache.put("Service", service(51, uid="2")) == {CHAT}


def test_an_object_that_changes_hands_concerns_both() -> None:
    cache = Cache()
    cache.put("Service", service(1, "chat"))
    assert cache.put("Service", service(2, "code")) == {CHAT, CODE}
    assert cache.of("Service", CHAT) == []
    assert len(cache.of("Service", CODE)) == 1


def test_what_is_gone_concerns_its_owner_once() -> None:
    cache = Cache()
    cache.put("Service", service(1))
    assert cache.drop("Service", "default", "s") == {CHAT}
    assert cache.drop("Service", "default", "s") == set()


def test_what_is_never_read_is_not_kept() -> None:
    cache = Cache()
    cache.put("Service", service(1, managedFields=[{"manager": "kubectl"}]))
    found = cache.get("Service", "default", "s")
    assert found is not None
    assert "managedFields" not in found["metadata"]


def test_an_engine_pool_without_its_label_still_belongs_to_its_deployment() -> None:
    cache = Cache()
    pool = {**service(1), "spec": {"deployment": "code"}}
    assert cache.put("EnginePool", pool) == {CODE}
