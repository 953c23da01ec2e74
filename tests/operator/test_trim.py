"""The cache keeps what is read of an object, and nothing twice."""

import copy
import json
from typing import Any

from penstock_operator.cluster.trim import LAST_APPLIED, trimmed

POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {
        "name": "w",
        "uid": "8a9f",
        "managedFields": [{"manager": "kubelet"}],
        "annotations": {LAST_APPLIED: "{}", "penstock.dev/draining": "true"},
    },
    "spec": {"containers": [{"name": "worker"}]},
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}


def test_what_is_never_read_of_a_pod_is_left_out() -> None:
    before = copy.deepcopy(POD)
    kept = trimmed("Pod", POD)
    assert before == POD
    assert kept == {
        "kind": "Pod",
        "metadata": {"name": "w", "uid": "8a9f", "annotations": {"penstock.dev/draining": "true"}},
        "status": POD["status"],
    }


def test_a_workload_keeps_its_size_and_loses_its_template() -> None:
    found = {"metadata": {"name": "d"}, "spec": {"replicas": 2, "template": {"spec": {}}}}
    assert trimmed("Deployment", found)["spec"] == {"replicas": 2}


def test_other_kinds_keep_all_that_they_are_compared_by() -> None:
    found = {"metadata": {"name": "s"}, "spec": {"template": 1, "ports": [{"port": 80}]}}
    assert trimmed("Service", found) == found


def test_equal_words_of_two_objects_are_one() -> None:
    one, other = (trimmed("Pod", json.loads(json.dumps(POD))) for _ in range(2))
    (first, _), *_ = one.items()
    (second, _), *_ = other.items()
    assert first is second
    assert one["status"]["phase"] is other["status"]["phase"]
