"""The Kubernetes objects of an InferenceDeployment. Pure: API objects in, dicts out.

Pods meet the `restricted` Pod Security Standard. The local runtime runs the very command line that
is planned here, so a pod and a local process never differ in more than their address.
"""

from penstock_operator.manifests.children import deployment_objects, pool_objects
from penstock_operator.manifests.followers import (
    Place,
    follower,
    group_name,
    group_objects,
    rejoins,
)
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.pods import worker_container
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.unsupported import Unsupported
from penstock_operator.manifests.versions import PODS_NEED, Unserved, for_cluster, pods_for_cluster
from penstock_operator.manifests.workload import workload, workload_name

__all__ = [
    "PODS_NEED",
    "Object",
    "Place",
    "Settings",
    "Unserved",
    "Unsupported",
    "deployment_objects",
    "follower",
    "for_cluster",
    "group_name",
    "group_objects",
    "pods_for_cluster",
    "pool_objects",
    "rejoins",
    "worker_container",
    "workload",
    "workload_name",
]
