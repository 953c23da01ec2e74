"""Workers come from private registries, too."""

from typing import Any

from deployments import deployment

from penstock_operator.manifests import Settings, pool_objects
from penstock_operator.manifests.pods import pod_template
from penstock_operator.plan import plan

REGISTRY = Settings(image_pull_secrets=("registry",))
OWN = {"name": "default", "replicas": 1, "template": {"imagePullSecrets": [{"name": "mine"}]}}


def account(settings: Settings) -> dict[str, Any]:
    return pool_objects(plan(deployment(), {}).pools[0], settings)["ServiceAccount"]


def test_the_installations_secrets_are_those_of_each_pools_account() -> None:
    assert account(REGISTRY)["imagePullSecrets"] == [{"name": "registry"}]


def test_without_any_what_others_added_to_an_account_stays() -> None:
    assert "imagePullSecrets" not in account(Settings())


def test_a_pool_can_name_its_own() -> None:
    own = deployment(OWN)
    spec = pod_template(own, plan(own, {}).pools[0], REGISTRY)["spec"]
    assert spec["imagePullSecrets"] == [{"name": "mine"}]
    plain = deployment()
    assert "imagePullSecrets" not in pod_template(plain, plan(plain, {}).pools[0], REGISTRY)["spec"]
