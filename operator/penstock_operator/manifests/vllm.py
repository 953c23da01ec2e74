"""The command line of vLLM. Pure."""

import inspect
import json
import math
from collections.abc import Mapping

from penstock_contract import group, handoff, proofs, worker_token
from penstock_contract.api import Engine, EnginePool, InferenceDeployment
from penstock_contract.api.base import seconds
from penstock_contract.api.engine import Lora, SpeculativeMethod, Task
from penstock_contract.api.pool import Parallelism
from penstock_operator.manifests.engine import (
    LEADER_IP,
    NODE_RANK,
    PORT,
    EngineContainer,
    is_split,
    limits,
    own_address,
    place,
    ports,
)
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings

COMMAND = ("vllm", "serve")
HOST_IP = "VLLM_HOST_IP"
"""Where a process of vLLM's is found by others of its replica."""
NIXL_HOST = "VLLM_NIXL_SIDE_CHANNEL_HOST"
NIXL_PORT = "VLLM_NIXL_SIDE_CHANNEL_PORT"
"""Where vLLMs that pull KV ask for what they need to know of each other first."""


def vllm_engine(
    deployment: InferenceDeployment,
    pool: EnginePool,
    path: str,
    settings: Settings,
    adapters: Mapping[str, str],
    draft: str,
) -> EngineContainer:
    """Return the container of a worker that runs vLLM; see `engine_container`."""
    engine = deployment.spec.engine
    names = (deployment.served_name, *deployment.spec.model.aliases)
    return EngineContainer(
        image=engine.image or settings.vllm_image,
        command=COMMAND,
        arguments=(
            path,
            "--host", "0.0.0.0",
            "--port", str(PORT),
            "--served-model-name", *names,
            *_TASKS[engine.task],
            "--dtype", str(engine.dtype),
            *_parallelism(pool.spec.parallelism),
            *_block_size(engine),
            *limits(deployment),
            *_speculation(engine, draft),
            *_lora(adapters, engine.lora, spare=0 if pool.spec.gpus else 1),
            *_nixl(deployment, pool),
            # How much of a prompt was cached is told only on demand; routing goes by it.
            "--enable-prompt-tokens-details",
            # By itself vLLM breaks off what it is answering when it is told to end.
            "--shutdown-timeout", str(math.ceil(seconds(deployment.spec.drain.timeout))),
            *engine.extra_args,
        ),
        # vLLM answers /health before it has computed anything, so a token or a vector is asked for.
        probe={"exec": {"command": ["python3", "-c", _PROOF, names[0]]}, "timeoutSeconds": 30},
        ports=ports(pool),
        environment=_ENVIRONMENT | _lora_environment(engine) | place(pool) | _side_channel(pool),
        own_address=_addresses(pool),
        token_variable=worker_token.VLLM_ENVIRONMENT,
        shared_memory=True,
    )  # fmt: skip


def _nixl(deployment: InferenceDeployment, pool: EnginePool) -> list[str]:
    """vLLM's hand-off; decode workers compute prompts, too. Flags of the user's own win."""
    if not is_split(pool):
        return []
    config = {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_both",
        # By itself it fails a request whose KV does not come.
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "kv_lease_duration": deployment.spec.disaggregation.transfer.lease_seconds
        },
    }
    return ["--kv-transfer-config", json.dumps(config)]


def _side_channel(pool: EnginePool) -> dict[str, str]:
    return {NIXL_PORT: str(handoff.PORT)} if is_split(pool) else {}


def _addresses(pool: EnginePool) -> tuple[str, ...]:
    # By itself it takes the address by which it would reach the internet.
    found = (*own_address(pool), HOST_IP) if own_address(pool) else ()
    return (*found, NIXL_HOST) if is_split(pool) else found


def _parallelism(wanted: Parallelism) -> list[str]:
    arguments = ["--tensor-parallel-size", str(wanted.tensor)]
    if wanted.pipeline > 1:
        arguments += ["--pipeline-parallel-size", str(wanted.pipeline)]
    if wanted.nodes > 1:
        arguments += ["--nnodes", str(wanted.nodes), "--node-rank", f"$({NODE_RANK})"]
        arguments += ["--master-addr", f"$({LEADER_IP})", "--master-port", str(group.PORT)]
        arguments += ["--distributed-executor-backend", "mp"]
    return arguments


def _block_size(engine: Engine) -> list[str]:
    """Some attention back-ends take one size only; vLLM chooses unless another is asked for."""
    if engine.block_size == Engine.model_fields["block_size"].default:
        return []
    return ["--block-size", str(engine.block_size)]


def _speculation(engine: Engine, draft: str) -> list[str]:
    """By itself vLLM goes by the name of the draft's folder; so the method is always said."""
    wanted = engine.speculative
    if wanted.method is SpeculativeMethod.NONE or (wanted.draft is not None and not draft):
        return []
    method = "draft_model" if wanted.method is SpeculativeMethod.DRAFT else str(wanted.method)
    config: Object = {"method": method, "num_speculative_tokens": wanted.num_tokens}
    if draft:
        config["model"] = draft
    return ["--speculative-config", json.dumps(config)]


def _lora(adapters: Mapping[str, str], lora: Lora | None, spare: int) -> list[str]:
    """All that a worker begins with in a batch; vLLM's own default is one.

    On CPUs one place more: in a step with adapters vLLM computes the rows that have none with what
    is in the last place (vllm#48421).
    """
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    named = ["--lora-modules", *modules] if modules else []
    if lora is None:
        places = str(len(modules) + spare)
        return ["--enable-lora", "--max-loras", places, *named] if modules else []
    most = min(lora.max_per_step, lora.max_adapters) + spare
    arguments = ["--enable-lora", "--max-loras", str(most)]
    arguments += ["--max-cpu-loras", str(max(lora.max_adapters, most))]
    if lora.max_rank is not None:
        arguments += ["--max-lora-rank", str(lora.max_rank)]
    return [*arguments, *named]


def _lora_environment(engine: Engine) -> dict[str, str]:
    """Its routes for adapters are there only when they are asked for."""
    return {} if engine.lora is None else {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


_TASKS = {
    Task.AUTO: (),
    Task.GENERATE: ("--runner", "generate"),
    Task.EMBED: ("--runner", "pooling", "--convert", "embed"),
    Task.SCORE: ("--runner", "pooling", "--convert", "classify"),
    Task.TRANSCRIBE: (),
}

_PROOF = (
    inspect.getsource(proofs)
    + f"""
import os, sys, urllib.error, urllib.request
token = os.environ.get("{worker_token.VLLM_ENVIRONMENT}", "")
said = ""
for path, kind, body in proofs(sys.argv[1]):
    sent = {{"content-type": kind, "authorization": "Bearer " + token}}
    request = urllib.request.Request("http://127.0.0.1:{PORT}" + path, body, sent)
    try:
        urllib.request.urlopen(request, timeout=25).read()
        sys.exit()
    except urllib.error.HTTPError as error:
        if error.code not in NOT_THIS:
            raise
        said = said + path + ": " + error.read(200).decode("utf-8", "replace") + "; "
sys.exit(said)
"""
)

# The root file system is read-only and the uid has no entry in /etc/passwd.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",  # noqa: S108
    "USER": "penstock",
    "VLLM_NO_USAGE_STATS": "1",
    "XDG_CACHE_HOME": "/tmp/.cache",  # noqa: S108
}
