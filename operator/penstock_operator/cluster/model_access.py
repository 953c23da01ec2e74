"""Whether the pods of a deployment get at its model, from what kubelet and scheduler say. Pure.

The operator reads neither Secrets nor claims: a cluster-wide right to do so is worth more to an
attacker than a message is to a user. A pod that cannot start names what it lacks.
"""

from collections.abc import Iterable

from penstock_contract.api import InferenceDeployment
from penstock_operator.cluster.observed import Pod
from penstock_operator.manifests.adapters import ADAPTER_DOWNLOAD, wanted_adapters
from penstock_operator.manifests.draft import DRAFT_DOWNLOAD, FIELD, wanted_draft
from penstock_operator.manifests.sources import DOWNLOAD, wanted_model


def model_missing(deployment: InferenceDeployment, pods: Iterable[Pod]) -> str:
    """Return why the model cannot be had, in the words of a pod that says so, or nothing."""
    words = (word for pod in pods if not pod.ready for word in _troubles(deployment, pod) if word)
    return next(words, "")


def _troubles(deployment: InferenceDeployment, pod: Pod) -> tuple[str, ...]:
    secret = deployment.spec.model.secret_ref
    lacking = (
        f"{field}: {pod.unschedulable}"
        for claim, field in _claims(deployment)
        if f'persistentvolumeclaim "{claim}"' in pod.unschedulable
    )
    lacks_secret = secret is not None and f'secret "{secret.name}"' in pod.waiting.lower()
    return (
        next(lacking, ""),
        f"spec.model.secretRef: {pod.waiting}" if lacks_secret else "",
        _failed_download(pod.failing),
    )


def _failed_download(failing: str) -> str:
    container = failing.partition(" ")[0]
    if container == DOWNLOAD:
        return f"spec.model.uri: {failing}"
    if container == DRAFT_DOWNLOAD:
        return f"{FIELD}.uri: {failing}"
    if container.startswith(ADAPTER_DOWNLOAD):
        index = container.removeprefix(ADAPTER_DOWNLOAD)
        return f"spec.model.adapters[{index}].uri: {failing}"
    return ""


def _claims(deployment: InferenceDeployment) -> list[tuple[str, str]]:
    """Return each claim with the field that names it."""
    cache = deployment.spec.model.cache
    claims = [(cache.claim_name, "spec.model.cache.claimName")] if cache else []
    beside = (*wanted_adapters(deployment).values(), *wanted_draft(deployment))
    files = (wanted_model(deployment), *beside)
    return claims + [
        (one.rest.partition("/")[0], f"{one.field}.uri") for one in files if one.scheme == "pvc"
    ]
