"""How a draft model or head gets into a pod: as the model does, into a folder of its own.

Workers that only compute prompts guess nothing, and have none.
"""

from collections.abc import Callable

from penstock_contract.api import EnginePool, InferenceDeployment, Role
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.sources import (
    CREDENTIALS,
    Source,
    Wanted,
    credentials,
    downloading,
    placed,
)

DRAFT = "/draft"
DRAFT_DOWNLOAD = "download-draft"
"""Name of the container that fetches a draft."""
FIELD = "spec.engine.speculative.draft"


def wanted_draft(deployment: InferenceDeployment) -> list[Wanted]:
    """Return the files of a deployment's draft, if it has one."""
    draft = deployment.spec.engine.speculative.draft
    return [] if draft is None else [Wanted(draft.uri, draft.revision, FIELD, "draft", DRAFT)]


def draft_source(deployment: InferenceDeployment, pool: EnginePool) -> Source | None:
    """Return how a deployment's draft gets into the pods of a pool; None where there is none.

    Raises:
        Unsupported: not from there, in a cluster.
    """
    if pool.spec.role is Role.PREFILL:
        return None
    found = [placed(files, deployment, pool) for files in wanted_draft(deployment)]
    return next(iter(found), None)


def draft_download(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings
) -> Object | None:
    """Return the init container that downloads a draft; None where none is needed."""
    source = draft_source(deployment, pool)
    if source is None or not source.arguments:
        return None
    (files,) = wanted_draft(deployment)
    # The Secret is the model's first of all: what a draft lacks, its download says.
    keys = sum(CREDENTIALS[files.scheme], ())
    secret = credentials(deployment.spec.model.secret_ref, (), keys)
    return downloading(DRAFT_DOWNLOAD, source, pool, settings, secret)


def local_draft(deployment: InferenceDeployment, pool: EnginePool) -> str:
    """Return the folder of a draft that is on this machine already; empty without one."""
    draft = deployment.spec.engine.speculative.draft
    if draft is None or pool.spec.role is Role.PREFILL:
        return ""
    return draft.uri.removeprefix("file://")


def with_draft_at(
    deployment: InferenceDeployment, place: Callable[[Wanted], str]
) -> InferenceDeployment:
    """Return the deployment with its draft, if it has one, at the URI that `place` says."""
    spec = deployment.spec
    guessing = spec.engine.speculative
    for wanted in wanted_draft(deployment):
        draft = guessing.draft and guessing.draft.model_copy(update={"uri": place(wanted)})
        guessing = guessing.model_copy(update={"draft": draft})
    engine = spec.engine.model_copy(update={"speculative": guessing})
    return deployment.model_copy(update={"spec": spec.model_copy(update={"engine": engine})})
