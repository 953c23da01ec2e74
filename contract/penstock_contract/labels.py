"""Kubernetes group, labels, annotations and field managers."""

from typing import Final

GROUP: Final = "penstock.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"

DEPLOYMENT: Final = f"{GROUP}/deployment"
"""Name of the InferenceDeployment that an object belongs to."""
POOL: Final = f"{GROUP}/pool"
"""Name of the pool inside the InferenceDeployment."""
ROLE: Final = f"{GROUP}/role"
"""Unified, Prefill or Decode."""
ROLLOUT_HASH: Final = f"{GROUP}/rollout-hash"
"""Hash of model, engine and pool template: pods with another hash are an older revision."""
SERVED_MODEL: Final = f"{GROUP}/served-model"
"""Annotation: the model name that clients use (a label value could not hold a `/`)."""
DRAINING: Final = f"{GROUP}/draining"
"""Annotation on a pod: no new requests; set before it is deleted."""
ADAPTERS: Final = f"{GROUP}/adapters"
"""Annotation on a pod: names of the adapters that it has, with commas between; gateways send their
requests to no others. Without it, a worker has all of its model's."""

NODES: Final = f"{GROUP}/nodes"
"""On a Deployment: nodes that one replica spans, where it is more than one."""
LEADER: Final = f"{GROUP}/leader"
"""On a follower: name of the pod that it computes for. A follower bears neither `DEPLOYMENT` nor
`POOL`, by which gateways, Services and disruption budgets find pods that serve."""
FOLLOWER_OF: Final = f"{GROUP}/follower-of"
"""On a follower: name of the EnginePool that its leader belongs to."""
NODE_RANK: Final = f"{GROUP}/node-rank"
"""On a follower: its place in the replica, from 1; the leader's is 0."""
LEADER_ADDRESS: Final = f"{GROUP}/leader-address"
"""Annotation on a follower: the leader's IP that it was made with."""

DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation on a pod, Kubernetes' own: pods of the lowest cost leave a ReplicaSet first."""

FIELD_MANAGER_OPERATOR: Final = "penstock-operator"
FIELD_MANAGER_AUTOSCALER: Final = "penstock-autoscaler"
SCALING_MEMORY: Final = f"{GROUP}/scaling-memory"
"""Annotation on an EnginePool: what the autoscaler knew when it sized the pool, for a restart."""
SPEC_REPLICAS: Final = f"{GROUP}/spec-replicas"
"""Annotation on an EnginePool: the parent's fixed `replicas` that was applied last. Only a change
of it overrides the pool's size, so that `kubectl scale` is not undone by the next reconcile."""
