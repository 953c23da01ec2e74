"""From `kv_transfer_params` to what the engine does for a hand-off of KV. Pure."""

import msgspec

from penstock_contract.handoff import TransferParams
from penstock_worker.messages import AddRequest, Source
from penstock_worker.server.protocol import GenerationRequest


def handed_over(requests: list[AddRequest], request: GenerationRequest) -> list[AddRequest]:
    """Return the engine requests with what the hand-off asks of them.

    Blocks are kept only for a single answer that is not streamed: no other one could say where
    they are. They are pulled for one prompt, of which the first choice brings them; the others wait
    for it anyway.
    """
    params = request.kv_transfer_params
    if params is None:
        return requests
    if params.do_remote_prefill and len(requests) == request.n:
        return [msgspec.structs.replace(requests[0], source=_source(params)), *requests[1:]]
    if params.do_remote_decode and len(requests) == 1 and not request.stream:
        return [msgspec.structs.replace(requests[0], keep=True)]
    return requests


def _source(params: TransferParams) -> Source:
    """Return where the blocks are; without a lease where they are not a Penstock worker's."""
    if (
        params.remote_request_id is None
        or params.penstock_epoch is None
        or params.remote_host is None
        or params.remote_port is None
        or params.penstock_lease_seconds is None
    ):
        return Source()
    return Source(
        lease=params.remote_request_id,
        epoch=params.penstock_epoch,
        host=params.remote_host,
        port=params.remote_port,
        seconds=params.penstock_lease_seconds,
        tokens=params.remote_num_tokens,
        cached_tokens=params.penstock_cached_tokens,
    )
