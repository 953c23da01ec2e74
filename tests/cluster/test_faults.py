"""An API server that loses, doubles, delays, refuses and forgets changes nothing in the end."""

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from api_proxy import Call, Fault
from kube import Object
from operated import NAME, Site
from waiting import PATIENCE, eventually

Clean = Callable[[Object], dict[str, Any]]
POOL = f"{NAME}-default"


def test_every_delete_names_the_very_object_that_was_seen(site: Site) -> None:
    site.apply({"name": "default", "replicas": 1}, {"name": "more", "replicas": 1})
    site.settle()
    site.apply(image="worker:2")
    site.settle()
    deletes = [call for call in site.proxy.calls if call.verb == "delete"]
    assert deletes
    for call in deletes:
        preconditions = (call.body or {}).get("preconditions", {})
        assert preconditions.keys() == {"uid", "resourceVersion"}, str(call)
    assert not [call for call in site.proxy.calls if call.verb == "deletecollection"]


def test_what_changed_since_it_was_seen_is_not_deleted(site: Site, clean: Clean) -> None:
    site.apply({"name": "default", "replicas": 1}, {"name": "more", "replicas": 1})
    site.settle()

    def touch(call: Call) -> None:
        site.kube.merge("EnginePool", call.name, {"metadata": {"labels": {"touched": "yes"}}})

    def deletes(call: Call) -> bool:
        return call.verb == "delete" and call.resource == "enginepools"

    site.proxy.inject(Fault(deletes, first=touch))
    last = site.manifest({"name": "default", "replicas": 1})
    site.kube.apply(last)
    site.reach(clean(last))
    refused = [status for call, status in site.proxy.answers if deletes(call)]
    assert refused[0] == 409


def lossy(seed: int) -> Callable[[Call, bytes], list[bytes]]:
    """Lose, double and swap watch events by chance."""
    chance, held = random.Random(seed), dict[str, list[bytes]]()

    def edit(call: Call, line: bytes) -> list[bytes]:
        waiting = held.setdefault(call.resource, [])
        fall = chance.random()
        if fall < 0.25:
            return []
        if fall < 0.5:
            return [line, line]
        if fall < 0.75:
            waiting.append(line)
            return []
        out = [line, *waiting]
        waiting.clear()
        return out

    return edit


@pytest.mark.parametrize("seed", range(2))
def test_lost_doubled_and_swapped_events_change_nothing(
    watchful: Site, clean: Clean, seed: int
) -> None:
    """An API server that loses events says so sooner or later: with 410."""
    watchful.proxy.edit = lossy(seed)
    watchful.apply()
    time.sleep(3)
    watchful.apply(image="worker:2")
    time.sleep(3)
    last = watchful.manifest({"name": "default", "replicas": 1}, image="worker:3")
    watchful.kube.apply(last)
    time.sleep(3)
    watchful.proxy.edit = lambda _call, line: [line]
    watchful.proxy.expire_watches()
    watchful.reach(clean(last))


def test_watches_that_end_and_expire_change_nothing(site: Site, clean: Clean) -> None:
    site.apply()
    for image in ("worker:2", "worker:3", "worker:4"):
        time.sleep(1)
        site.proxy.cut_watches()
        site.apply(image=image)
        time.sleep(1)
        site.proxy.expire_watches()
    site.reach(clean(site.manifest(image="worker:4")))


@pytest.mark.parametrize("status", [409, 429, 500])
def test_refused_writes_are_tried_again_with_patience(
    site: Site, clean: Clean, status: int
) -> None:
    wanted = clean(site.manifest())
    fault = site.proxy.inject(Fault(lambda call: call.is_write, times=6, status=status))
    site.apply()
    site.reach(wanted)
    assert len(fault.hits) == 6
    assert len(site.proxy.writes) < 100


def test_writes_without_an_answer_leave_no_duplicates(site: Site, clean: Clean) -> None:
    wanted = clean(site.manifest())
    site.proxy.inject(Fault(lambda call: call.is_write, times=15, answer=False))
    site.apply()
    site.reach(wanted)
    assert len(site.proxy.writes) < 120


def test_it_catches_up_when_the_api_server_is_back(site: Site, clean: Clean) -> None:
    site.apply()
    site.settle()
    site.proxy.go_away()
    time.sleep(8)
    site.apply(image="worker:2")
    assert site.operator.alive
    site.proxy.come_back()
    site.reach(clean(site.manifest(image="worker:2")))


def test_what_was_deleted_while_the_api_server_was_away_is_noticed(
    site: Site, clean: Clean
) -> None:
    gone = site.manifest(name="gone")
    site.kube.apply(gone)
    site.apply()
    site.settle()
    eventually(lambda: site.settled("gone"), "both serve")
    site.proxy.go_away()
    time.sleep(1)
    site.kube.delete("InferenceDeployment", "gone")
    site.kube.delete("EnginePool", POOL)
    eventually(lambda: not site.kube.list("Pod"), "collected")
    site.proxy.come_back()
    site.reach(clean(site.manifest()))
    site.quiet_for(3)


def test_an_answer_that_comes_after_the_news_of_the_deletion_is_no_news(
    site: Site, clean: Clean
) -> None:
    """As when the cluster collects at once what was made for an owner that is gone."""
    site.apply()
    site.settle()
    told = threading.Event()

    def listen(call: Call, line: bytes) -> list[bytes]:
        if call.resource == "services" and json.loads(line)["type"] == "DELETED":
            told.set()
        return [line]

    def collect(call: Call) -> None:
        told.clear()
        site.kube.delete("Service", call.name)
        assert told.wait(PATIENCE)
        time.sleep(0.5)  # the news travels by another connection than the answer

    def makes(call: Call) -> bool:
        return (call.verb, call.resource, call.name) == ("patch", "services", POOL)

    site.proxy.edit = listen
    late = site.proxy.inject(Fault(makes, then=collect))
    site.kube.delete("Service", POOL)
    site.reach(clean(site.manifest()))
    assert late.hits


def unseen(site: Site, *gone: tuple[str, str]) -> None:
    """Delete objects in a part of history that the API server has lost when it is asked for it."""

    def lose(_: Call, line: bytes) -> list[bytes]:
        return [] if json.loads(line)["type"] == "DELETED" else [line]

    site.proxy.edit = lose
    for kind, name in gone:
        site.kube.delete(kind, name)
    eventually(lambda: not site.kube.list("Pod"), "collected")
    site.proxy.edit = lambda _, line: [line]
    site.proxy.expire_watches()


def test_what_was_deleted_in_history_that_is_lost_is_noticed(site: Site, clean: Clean) -> None:
    site.kube.apply(site.manifest(name="gone"))
    site.apply()
    site.settle()
    eventually(lambda: site.settled("gone"), "both serve")
    unseen(site, ("InferenceDeployment", "gone"), ("EnginePool", POOL))
    site.reach(clean(site.manifest()))
    site.quiet_for(3)


def test_that_the_last_one_was_deleted_in_history_that_is_lost_is_noticed(site: Site) -> None:
    site.apply()
    site.settle()
    unseen(site, ("InferenceDeployment", NAME))
    eventually(site.empty, "nothing left")
    site.quiet_for(3)


def test_a_slow_api_server_is_waited_for(site: Site, clean: Clean) -> None:
    wanted = clean(site.manifest())
    site.proxy.delay = 1.0
    site.apply()
    site.reach(wanted)
