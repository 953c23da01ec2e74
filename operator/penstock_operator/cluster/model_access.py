"""Whether the pods of a deployment get at its model, from what kubelet and scheduler say. Pure.

The operator reads neither Secrets nor claims: a cluster-wide right to do so is worth more to an
attacker than a message is to a user. A pod that cannot start names what it lacks.
"""

from collections.abc import Iterable

from penstock_contract.api import InferenceDeployment
from penstock_operator.cluster.world import Pod
from penstock_operator.manifests.sources import DOWNLOAD


def model_missing(deployment: InferenceDeployment, pods: Iterable[Pod]) -> str:
    """Return why the model cannot be had, in the words of a pod that says so, or nothing."""
    words = (word for pod in pods if not pod.ready for word in _troubles(deployment, pod) if word)
    return next(words, "")


def _troubles(deployment: InferenceDeployment, pod: Pod) -> tuple[str, ...]:
    claim, secret = _claim(deployment), deployment.spec.model.secret_ref
    lacks_claim = bool(claim) and f'persistentvolumeclaim "{claim}"' in pod.unschedulable
    lacks_secret = secret is not None and f'secret "{secret.name}"' in pod.waiting.lower()
    return (
        f"spec.model: {pod.unschedulable}" if lacks_claim else "",
        f"spec.model.secretRef: {pod.waiting}" if lacks_secret else "",
        f"spec.model.uri: {pod.failing}" if pod.failing.startswith(f"{DOWNLOAD} ") else "",
    )


def _claim(deployment: InferenceDeployment) -> str:
    model = deployment.spec.model
    scheme, _, rest = model.uri.partition("://")
    if scheme == "pvc":
        return rest.partition("/")[0]
    return model.cache.claim_name if model.cache else ""
