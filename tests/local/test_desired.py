"""What is wanted on this machine, where one of several objects cannot be used."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock_contract.api import EnginePool, InferenceDeployment, Tenant
from penstock_contract.api.engine import Dtype
from penstock_contract.api_keys import hash_of
from penstock_operator.local.desired import reconcile
from penstock_operator.local.errors import UserError
from penstock_operator.local.store import Store
from penstock_operator.local.table import render
from penstock_operator.manifests import Unsupported
from penstock_operator.validation import load_manifests

NOW = "2026-01-01T00:00:00Z"


def manifest(name: str, **engine: str) -> str:
    return (
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceDeployment\n"
        f"metadata: {{name: {name}}}\nspec:\n  model: {{uri: 'file:///models/{name}'}}\n"
        f"  engine: {engine}\n"
        "  pools: [{name: default, replicas: 1, resources: {limits: {cpu: 1}}}]\n"
    )


def put(store: Store, name: str, dtype: Dtype = Dtype.AUTO) -> None:
    (found,) = load_manifests(manifest(name), "m.yaml").objects
    assert isinstance(found, InferenceDeployment)
    engine = found.spec.engine.model_copy(update={"dtype": dtype})
    spec = found.spec.model_copy(update={"engine": engine})
    store.put(found.model_copy(update={"spec": spec}), NOW)


def damage(folder: Path, kind: str, name: str) -> None:
    (folder / kind / f"{name}.json").write_text("{")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path)
    for name in ("first", "second", "third"):
        put(found, name)
    return found


def test_what_cannot_be_planned_stays_and_the_others_go_on(store: Store, tmp_path: Path) -> None:
    before = reconcile(store, NOW)
    assert not before.troubles
    put(store, "second", Dtype.FLOAT16)
    damage(tmp_path, "InferenceDeployment", "third")
    put(store, "fourth")
    now = reconcile(store, NOW, before)
    assert {key.deployment for key in now.pools} == {"first", "second", "third", "fourth"}
    old = {key.deployment: pool for key, pool in before.pools.items()}
    found = {key.deployment: pool for key, pool in now.pools.items()}
    assert found["second"] == old["second"]
    assert found["third"] == old["third"]
    assert [d.metadata.name for d in now.deployments] == ["first", "fourth", "second", "third"]
    assert isinstance(now.troubles["second"], Unsupported)
    assert "spec.engine.dtype" in str(now.troubles["second"])
    assert "is damaged" in str(now.troubles["third"])
    assert len(store.list(EnginePool)) == 4


def test_after_an_upgrade_only_what_is_unsupported_does_not_run(store: Store) -> None:
    put(store, "second", Dtype.FLOAT16)
    now = reconcile(store, NOW)
    assert {key.deployment for key in now.pools} == {"first", "third"}
    assert list(now.troubles) == ["second"]
    put(store, "second")
    assert not reconcile(store, NOW, now).troubles


def test_a_damaged_pool_is_made_anew(store: Store, tmp_path: Path) -> None:
    reconcile(store, NOW)
    damage(tmp_path, "EnginePool", "first-default")
    assert len(reconcile(store, NOW).pools) == 3
    assert len(store.list(EnginePool)) == 3


def test_without_a_damaged_tenant_nothing_is_planned(store: Store, tmp_path: Path) -> None:
    key = hash_of("sk-any")
    text = "apiVersion: penstock.dev/v1alpha1\nkind: Tenant\nmetadata: {name: team}\n"
    (tenant,) = load_manifests(f"{text}spec: {{apiKeys: [{{sha256: {key}}}]}}\n", "t").objects
    assert isinstance(tenant, Tenant)
    store.put(tenant, NOW)
    damage(tmp_path, "Tenant", "team")
    with pytest.raises(UserError, match="is damaged"):
        reconcile(store, NOW)


def test_the_user_is_told() -> None:
    status: dict[str, Any] = {
        "endpoint": "http://x", "items": [], "leaving": [], "troubles": {"second": "no float16"},
    }  # fmt: skip
    told = render(status, datetime.now(UTC))
    assert told.split() == ["NOT", "USED", "WHY", "second", "no", "float16"]
