"""What a pool's template adds is in the pods that an API server stores, and the rest is told."""

from typing import Any

import pytest
from fake_node import Fate
from kube import Object
from operated import Site
from waiting import eventually

TEMPLATE: dict[str, Any] = {
    "env": {"NCCL_DEBUG": "INFO"},
    "envValueFrom": {
        "KEY": {"secretKeyRef": {"name": "keys", "key": "one", "optional": True}},
        "NODE": {"fieldRef": {"fieldPath": "spec.nodeName"}},
    },
    "envFrom": [{"configMapRef": {"name": "settings", "optional": True}}],
    "volumes": [{"name": "kernels", "emptyDir": {"sizeLimit": "1Gi"}, "configMap": None}],
    "volumeMounts": [{"name": "kernels", "mountPath": "/tmp/.cache"}],
    "initContainers": [{"name": "prepare", "image": "tool:1", "command": ["true"]}],
    "sidecars": [
        {
            "name": "log",
            "image": "log:1",
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            "ports": [{"containerPort": 9000, "name": "metrics"}],
        }
    ],
    "securityContext": {"fsGroup": 4242, "supplementalGroups": [7], "seLinuxOptions": None},
    "containerSecurityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
        }
    ],
}
POOL = {"name": "default", "replicas": 1, "template": TEMPLATE}


def pod_of(site: Site) -> Object:
    (found,) = site.kube.list("Pod", "penstock.dev/pool=default")
    return found


def test_pods_have_what_the_template_adds_and_their_state_is_the_workers(site: Site) -> None:
    site.apply(POOL)
    site.settle()
    found = pod_of(site)
    spec = found["spec"]
    worker, log = spec["containers"]  # this Kubernetes knows no init containers that stay
    assert [one["name"] for one in spec["initContainers"]] == ["prepare"]
    assert (worker["name"], log["name"]) == ("worker", "log")
    env = {one["name"]: one for one in worker["env"]}
    assert env["NCCL_DEBUG"]["value"] == "INFO"
    assert env["KEY"]["valueFrom"]["secretKeyRef"]["optional"] is True
    assert env["NODE"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    assert worker["envFrom"] == [{"configMapRef": {"name": "settings", "optional": True}}]
    assert {"name": "kernels", "mountPath": "/tmp/.cache"} in worker["volumeMounts"]
    assert {"name": "kernels", "emptyDir": {"sizeLimit": "1Gi"}} in spec["volumes"]
    assert worker["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["NET_BIND_SERVICE"],
    }
    assert (spec["securityContext"]["fsGroup"], spec["securityContext"]["runAsUser"]) == (
        4242,
        10001,
    )
    (spread,) = spec["topologySpreadConstraints"]
    labels = found["metadata"]["labels"].items()
    assert spread["labelSelector"]["matchLabels"].items() <= labels
    site.quiet_for(2)  # what the API server made of it is what was planned

    site.node.decide(site.kube.namespace, Fate.ALONE)
    eventually(
        lambda: "log" in site.condition("PoolsReady").get("message", ""), "the crash is told"
    )
    assert site.condition("PoolsReady")["status"] == "True"
    assert site.condition("Ready")["status"] == "True"
    assert pod_of(site)["metadata"]["uid"] == found["metadata"]["uid"]

    site.node.decide(site.kube.namespace, Fate.NEVER_READY)
    eventually(lambda: site.condition("Ready").get("status") == "False", "its worker loads")
    assert site.condition("Ready")["reason"] == "NoReadyWorkers"


@pytest.mark.parametrize(
    ("pool", "field"),
    [
        (
            {"template": {"volumes": [{"name": "model", "emptyDir": {}}]}},
            "spec.pools[default].template.volumes[0].name",
        ),
        (
            {
                "template": {
                    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
                },
                "resources": {"claims": [{"name": "gpu"}]},
            },
            "spec.pools[default].template.resourceClaims",
        ),
    ],
    ids=["a name of Penstock's", "claims that this Kubernetes does not serve"],
)
def test_what_pods_cannot_have_is_told_with_its_field(site: Site, pool: Object, field: str) -> None:
    site.apply()
    before = site.settle()
    site.apply({"name": "default", "replicas": 2, **pool}, engine={"image": "i:1", "type": "VLLM"})
    eventually(lambda: site.condition("PoolsReady").get("reason") == "UnsupportedSpec", "told")
    assert site.condition("PoolsReady")["message"].startswith(f"{field}: ")
    assert site.condition("Ready")["status"] == "True"
    assert site.pods() == before["pods"]
