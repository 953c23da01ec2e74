"""The objects on disk: generations, atomic replacement, updates that lose nothing."""

import json
import threading
from pathlib import Path

import pytest

from penstock_contract.api import InferenceDeployment
from penstock_operator.local.errors import UserError
from penstock_operator.local.store import Store
from penstock_operator.validation import parse

NOW = "2026-01-01T00:00:00Z"


def deployment(replicas: int = 2, name: str = "quickstart") -> InferenceDeployment:
    found = parse(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceDeployment",
            "metadata": {"name": name},
            "spec": {
                "model": {"uri": "file:///models/tiny"},
                "pools": [{"name": "default", "replicas": replicas}],
            },
        }
    )
    assert isinstance(found, InferenceDeployment)
    return found


def grow(found: InferenceDeployment) -> InferenceDeployment:
    pool = found.spec.pools[0]
    bigger = pool.model_copy(update={"replicas": (pool.replicas or 0) + 1})
    return found.model_copy(update={"spec": found.spec.model_copy(update={"pools": [bigger]})})


def grow_often(folder: Path, times: int) -> None:
    for _ in range(times):
        Store(folder).update(InferenceDeployment, "quickstart", grow)


def test_what_was_put_is_read_back(tmp_path: Path) -> None:
    stored = Store(tmp_path).put(deployment(), NOW)
    assert Store(tmp_path).get(InferenceDeployment, "quickstart") == stored
    assert Store(tmp_path).list(InferenceDeployment) == [stored]
    assert stored.metadata.creation_timestamp == NOW


def test_the_generation_grows_with_the_spec_and_with_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.put(deployment(2), NOW).metadata.generation == 1
    assert store.put(deployment(2), "2027-01-01T00:00:00Z").metadata.generation == 1
    changed = store.put(deployment(3), "2027-01-01T00:00:00Z")
    assert changed.metadata.generation == 2
    assert changed.metadata.creation_timestamp == NOW


def test_an_unchanged_object_is_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(deployment(), NOW)
    before = store.version()
    store.put(deployment(), NOW)
    assert store.version() == before
    store.put(deployment(5), NOW)
    assert store.version() != before


def test_updates_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    Store(tmp_path).put(deployment(0), NOW)
    writers = [threading.Thread(target=grow_often, args=(tmp_path, 25)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = Store(tmp_path).get(InferenceDeployment, "quickstart")
    assert found is not None
    assert found.spec.pools[0].replicas == 75


def test_a_reader_never_sees_half_an_object(tmp_path: Path) -> None:
    Store(tmp_path).put(deployment(0), NOW)
    enough = threading.Event()

    def grow_until_enough() -> None:
        while not enough.is_set():
            grow_often(tmp_path, 1)

    writer = threading.Thread(target=grow_until_enough)
    writer.start()
    seen: set[int | None] = set()
    try:
        while len(seen) < 50:
            found = Store(tmp_path).get(InferenceDeployment, "quickstart")
            assert found is not None
            seen.add(found.spec.pools[0].replicas)
    finally:
        enough.set()
        writer.join()


def test_updating_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Store(tmp_path).update(InferenceDeployment, "nobody", grow)


def test_deleting_twice_is_fine(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(deployment(), NOW)
    store.delete(InferenceDeployment, "quickstart")
    store.delete(InferenceDeployment, "quickstart")
    assert store.list(InferenceDeployment) == []


def test_a_damaged_object_is_named_and_mended_by_the_next_put(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(deployment(), NOW)
    path = tmp_path / "InferenceDeployment" / "quickstart.json"
    path.write_text("{")
    with pytest.raises(UserError, match=str(path)):
        store.list(InferenceDeployment)
    stored = store.put(deployment(), NOW)
    assert store.list(InferenceDeployment) == [stored]


def test_an_object_of_another_version_is_read_without_the_fields_that_this_one_lacks(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    stored = store.put(deployment(), NOW)
    path = tmp_path / "InferenceDeployment" / "quickstart.json"
    body = json.loads(path.read_text())
    body["spec"]["routing"]["prefixIndex"] = "Auto"
    path.write_text(json.dumps(body))
    assert store.list(InferenceDeployment) == [stored]
