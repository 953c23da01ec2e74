"""Whatever the CRD accepts converges, or a condition says why it does not."""

import pytest
from kube import Object
from operated import Site
from waiting import eventually

ONE: Object = {"name": "default", "replicas": 1}
BY_TEMPLATE: dict[str, Object] = {
    "a label that is none": {"labels": {"team": "not a label!"}},
    "a label key that is none": {"labels": {"/": "x"}},
    "an annotation key that is none": {"annotations": {"a b": "x"}},
    "a variable name that is none": {"env": {"1=2": "x"}},
    "a toleration of nonsense": {"tolerations": [{"operator": "Sometimes"}]},
    "an unknown field of a toleration": {"tolerations": [{"color": "blue"}]},
    "an affinity of nonsense": {"affinity": {"nodeAffinity": {"required": 3}}},
    "a priority class that is not there": {"priorityClassName": "nobody-knows"},
    "a node selector that is none": {"nodeSelector": {"zone": "a b"}},
    "a label of ours": {"labels": {"penstock.dev/pool": "other"}},
}
BY_POOL: dict[str, Object] = {
    "more requested than allowed": {
        "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}
    },
    "a resource name that is none": {"resources": {"limits": {"no such thing": "1"}}},
    "half a GPU": {"resources": {"limits": {"nvidia.com/gpu": "500m"}}},
}


@pytest.mark.parametrize("template", BY_TEMPLATE.values(), ids=BY_TEMPLATE)
def test_a_template_converges_or_is_refused_in_a_condition(site: Site, template: Object) -> None:
    spec = site.manifest(ONE)
    found = spec["spec"]["pools"][0]["template"]
    spec["spec"]["pools"][0]["template"] = {**found, **template}
    site.kube.apply(spec)
    eventually(lambda: site.settled() or told(site), "served or told")


@pytest.mark.parametrize("pool", BY_POOL.values(), ids=BY_POOL)
def test_a_pool_converges_or_is_refused_in_a_condition(site: Site, pool: Object) -> None:
    site.apply({**ONE, **pool})
    eventually(lambda: site.settled() or told(site), "served or told")


@pytest.mark.parametrize("length", [53, 63])
def test_the_longest_names_converge(site: Site, length: int) -> None:
    name = "n" * length
    site.kube.apply(site.manifest({"name": "p" * 63, "replicas": 1}, name=name))
    eventually(lambda: site.settled(name), "served")


def test_a_refused_value_is_asked_for_no_more_than_now_and_then(site: Site) -> None:
    spec = site.manifest(ONE)
    spec["spec"]["pools"][0]["template"] = BY_TEMPLATE["a toleration of nonsense"]
    site.kube.apply(spec)
    eventually(lambda: told(site), "told")
    site.quiet_for(3)
    assert len(site.proxy.writes) < 40


def told(site: Site) -> bool:
    """Return whether a condition says what is wrong, for the spec as it is now."""
    found = site.condition("PoolsReady")
    return found.get("status") == "False" and found["reason"] in REASONS and bool(found["message"])


REASONS = {"InvalidSpec", "UnsupportedSpec", "InsufficientCapacity", "PodsFailing"}
