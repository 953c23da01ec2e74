"""Opens an engine's hand-off from its settings."""

import socket

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine_config import TransferConfig
from penstock_worker.transfer.handoff import Handoff, Identity
from penstock_worker.transfer.memory import BlockMemory


def open_handoff(
    config: TransferConfig,
    pool: BlockPool,
    memory: BlockMemory,
    *,
    epoch: str,
    fingerprint: bytes,
    tokens: WorkerTokens | None = None,
) -> Handoff:
    """Return a hand-off that listens once it is started.

    Raises:
        ValueError: a setting makes no sense; the message names it.
    """
    if not pool.caching:
        raise ValueError(
            "--kv-transfer needs --enable-prefix-caching: blocks are found by their names"
        )
    identity = Identity(config.worker, epoch, fingerprint, config.advertised_host)
    return Handoff(pool, memory, identity, _listen(config), config.lease_seconds, tokens)


def _listen(config: TransferConfig) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        address = f"{config.host}:{config.port}"
        raise ValueError(f"--kv-transfer: cannot listen on {address}: {error.strerror}") from error
    return listener
