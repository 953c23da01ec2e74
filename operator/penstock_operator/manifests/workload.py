"""The Deployment that runs one revision of a pool's workers.

One Deployment per revision, never changed but in size: a new spec is a new Deployment beside the
old one, the operator moves the workers over, and what ran before is there to go back to. A newer
operator, which would render another template, restarts nothing.
"""

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.labels import NODES, ROLLOUT_HASH
from penstock_operator.manifests.objects import Object, pool_object, pool_selector
from penstock_operator.manifests.pods import pod_template
from penstock_operator.manifests.settings import Settings


def workload_name(pool: str, revision: str) -> str:
    """Return the name of the Deployment of a pool's revision."""
    return f"{pool}-{revision[:8]}"


def workload(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings, replicas: int
) -> Object:
    """Return the Deployment of a pool's wanted revision.

    Raises:
        Unsupported: the spec asks for what this version does not build.
    """
    revision = pool.spec.rollout_hash
    spec: Object = {
        "replicas": replicas,
        "revisionHistoryLimit": 0,
        "progressDeadlineSeconds": 3600,
        "selector": {"matchLabels": {**pool_selector(pool), ROLLOUT_HASH: revision}},
        # The template never changes; were somebody to change it, nothing is down at once.
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "template": pod_template(deployment, pool, settings),
    }
    found = pool_object("apps/v1", "Deployment", pool, spec=spec)
    found["metadata"]["name"] = workload_name(pool.metadata.name, revision)
    found["metadata"]["labels"] = {**found["metadata"]["labels"], ROLLOUT_HASH: revision}
    if pool.spec.parallelism.nodes > 1:
        found["metadata"]["labels"][NODES] = str(pool.spec.parallelism.nodes)
    return found
