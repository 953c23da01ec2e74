"""The command line of a worker process, taken from the pod template that the planner made.

Pure. A process differs from a pod in its address and in where the model lies, and in nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock_operator.manifests.sources import MODELS
from penstock_operator.manifests.vllm import NIXL_HOST, NIXL_PORT

HOST = "127.0.0.1"
KV_TRANSFER = "--kv-transfer"
KV_TIER = "--kv-tier-disk"
CONTAINERS_OWN = frozenset({"HOME", "USER", "XDG_CACHE_HOME"})
"""Variables that make up for what a container lacks and a machine has."""


@dataclass(frozen=True)
class Command:
    """A program's arguments and what is added to its environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def worker_command(
    container: Mapping[str, Any],
    *,
    port: int,
    model: str,
    tier: str = "",
    side_channel: int = 0,
    programs: Mapping[str, str] | None = None,
) -> Command:
    """Return how to run a planned container as a process.

    Args:
        container: the engine's container in the planned pod template.
        port: where it listens, on 127.0.0.1.
        model: folder of the model on this machine; it stands where the container has /models.
        tier: folder for KV that leaves the prefix cache, where it is to be kept.
        side_channel: port at which a vLLM that hands KV over answers others.
        programs: paths of programs that are not Penstock's own, by name.
    """
    argv = [*container.get("command", []), *container.get("args", [])]
    argv[argv.index(MODELS)] = model
    for flag, value in (("--host", HOST), ("--port", str(port))):
        argv = with_flag(argv, flag, value)
    if KV_TRANSFER in argv:
        argv = with_flag(argv, KV_TRANSFER, f"{HOST}:0")  # it tells others which port it got
    if KV_TIER in argv:
        argv = with_flag(argv, KV_TIER, tier)
    argv[0] = (programs or {}).get(argv[0], argv[0])
    fixed = {
        variable["name"]: variable["value"]
        for variable in container.get("env", [])
        if "value" in variable and variable["name"] not in CONTAINERS_OWN
    }
    if NIXL_PORT in fixed:
        fixed |= {NIXL_HOST: HOST, NIXL_PORT: str(side_channel)}
    return Command(tuple(argv), fixed)


def with_flag(argv: list[str], flag: str, value: str) -> list[str]:
    """Return arguments in which a flag has a value: replaced where it stands, else appended."""
    for place, argument in enumerate(argv):
        if argument == flag:
            return [*argv[: place + 1], value, *argv[place + 2 :]]
        if argument.startswith(f"{flag}="):
            return [*argv[:place], f"{flag}={value}", *argv[place + 1 :]]
    return [*argv, flag, value]
