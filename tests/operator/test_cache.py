"""The cache: whatever order news comes in, the newest state of every object is what it holds."""

from typing import Any

import pytest
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


def test_what_a_watch_has_missed_is_found_by_comparing() -> None:
    cache = Cache()
    cache.put("Service", service(5))
    assert cache.compare("Service", None, [], "6") == {CHAT}
    assert cache.compare("Service", None, [service(7)], "8") == {CHAT}


def test_a_list_that_is_compared_late_brings_nothing_back() -> None:
    cache = Cache()
    cache.passed("Service", None, "9")
    assert cache.compare("Service", None, [service(7)], "8") == set()
    cache.put("Service", service(10))
    assert cache.compare("Service", None, [], "8") == set()


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
    assert cache.drop("Service", service(2)) == {CHAT}
    assert cache.drop("Service", service(2)) == set()


def test_what_was_deleted_before_it_was_made_anew_is_no_news() -> None:
    cache = Cache()
    cache.answered("Service", service(9, uid="2"))
    assert cache.drop("Service", service(8, uid="1")) == set()
    assert cache.get("Service", "default", "s")


def test_old_news_of_a_predecessor_does_not_replace_what_is_there_now() -> None:
    cache = Cache()
    cache.put("Service", service(9, uid="2"))
    assert cache.put("Service", service(8, uid="1")) == set()


@pytest.mark.parametrize("place", [None, "default"])
def test_an_answer_that_the_watch_has_passed_is_not_taken_for_what_is_there(
    place: str | None,
) -> None:
    cache = Cache()
    cache.put("Service", service(5))
    cache.drop("Service", service(7))
    cache.passed("Service", place, "7")
    assert cache.answered("Service", service(6)) == set()
    assert cache.get("Service", "default", "s") is None
    assert cache.answered("Service", service(8)) == {CHAT}


def test_what_the_watch_of_another_namespace_or_kind_has_passed_does_not_matter() -> None:
    cache = Cache()
    cache.passed("Service", "elsewhere", "7")
    cache.passed("Pod", None, "7")
    assert cache.answered("Service", service(6)) == {CHAT}


def test_what_a_list_lacks_is_gone() -> None:
    cache = Cache()
    cache.put("Service", service(5))
    assert cache.relist("Service", None, [], "6") == {CHAT}
    assert cache.answered("Service", service(6)) == set()


def test_what_was_written_after_a_list_was_made_is_kept() -> None:
    cache = Cache()
    cache.answered("Service", service(7))
    assert cache.relist("Service", None, [], "6") == set()
    assert cache.get("Service", "default", "s")


def test_a_list_of_one_namespace_says_nothing_about_the_others() -> None:
    cache = Cache()
    cache.put("Service", service(5))
    assert cache.relist("Service", "elsewhere", [], "9") == set()


def test_a_store_that_was_restored_from_a_backup_is_believed() -> None:
    cache = Cache()
    cache.relist("Service", None, [service(50)], "60")
    assert cache.relist("Service", None, [service(20)], "30") == {CHAT}
    found = cache.get("Service", "default", "s")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "20"
    assert cache.answered("Service", service(31)) == {CHAT}


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
