"""What a pod that cannot start says about the model, against what kubelet and scheduler write."""

from typing import Any

import pytest
from deployments import deployment

from penstock_operator.cluster.model_access import model_missing
from penstock_operator.cluster.observed import Pod, pod

CLAIMED = deployment(model={"uri": "pvc://models/llama"})
FETCHED = deployment(
    model={"uri": "hf://org/m", "secretRef": {"name": "hf-token"}, "cache": {"claimName": "cache"}}
)
BESIDE = deployment(
    model={"uri": "hf://org/m", "adapters": [{"name": "sql", "uri": "pvc://loras/sql"}]},
    engine={"speculative": {"method": "draft", "draft": {"uri": "pvc://drafts/small"}}},
)


def seen(ready: str = "False", **status: Any) -> Pod:
    conditions = [{"type": "Ready", "status": ready}, *status.pop("conditions", [])]
    metadata = {"uid": "1", "name": "w", "resourceVersion": "1"}
    return pod({"metadata": metadata, "status": {"conditions": conditions, **status}})


def unscheduled(message: str) -> Pod:
    reason = {"status": "False", "reason": "Unschedulable", "message": message}
    return seen(conditions=[{"type": "PodScheduled", **reason}])


def stuck(words: str, name: str = "download") -> Pod:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": words}}
    return seen(initContainerStatuses=[{"name": name, "ready": False, "state": waiting}])


@pytest.mark.parametrize("words", ["{}", "0/3 nodes are available: {}."])
@pytest.mark.parametrize(
    ("wanted", "claim", "field"),
    [
        (CLAIMED, "models", "spec.model.uri"),
        (FETCHED, "cache", "spec.model.cache.claimName"),
        (BESIDE, "loras", "spec.model.adapters[0].uri"),
        (BESIDE, "drafts", "spec.engine.speculative.draft.uri"),
    ],
)
def test_a_claim_that_is_not_there_is_told_with_its_field(
    wanted: Any, claim: str, field: str, words: str
) -> None:
    message = words.format(f'persistentvolumeclaim "{claim}" not found')
    assert model_missing(wanted, [unscheduled(message)]) == f"{field}: {message}"


def test_a_secret_that_is_not_there_is_told_with_its_field() -> None:
    found = model_missing(FETCHED, [stuck('secret "hf-token" not found')])
    assert found.startswith("spec.model.secretRef: ")
    assert "hf-token" in found


def test_a_download_that_keeps_failing_is_told() -> None:
    ended = {"terminated": {"exitCode": 1, "message": "hf://org/m: 404"}}
    state = {"name": "download", "restartCount": 3, "state": ended, "lastState": ended}
    found = model_missing(FETCHED, [seen(initContainerStatuses=[state])])
    assert found.startswith("spec.model.uri: download exited with code 1")
    assert found.endswith("hf://org/m: 404")


@pytest.mark.parametrize(
    ("container", "field"),
    [
        ("download-adapter-1", "spec.model.adapters[1].uri"),
        ("download-draft", "spec.engine.speculative.draft.uri"),
        ("worker", ""),
    ],
)
def test_a_download_beside_the_models_that_keeps_failing_is_told(
    container: str, field: str
) -> None:
    ended = {"terminated": {"exitCode": 1, "message": "hf://org/sql: 404"}}
    state = {"name": container, "restartCount": 3, "state": ended, "lastState": ended}
    found = model_missing(FETCHED, [seen(initContainerStatuses=[state])])
    assert found.partition(": ")[0] == field


def test_other_troubles_are_not_the_models() -> None:
    other = [
        unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        unscheduled('persistentvolumeclaim "scratch" not found'),
        stuck('secret "pull" not found'),
        seen(ready="True"),
    ]
    assert model_missing(FETCHED, other) == ""
