"""Which workers serve whole requests, and which compute prompts for others."""

from penstock_contract.api import Role
from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.roles import prefill_workers, whole_request_workers


def worker(role: Role) -> FleetWorker:
    return FleetWorker(id=role, url=f"http://{role}", deployment="d", pool="p", role=role)


PREFILL, DECODE, UNIFIED = worker(Role.PREFILL), worker(Role.DECODE), worker(Role.UNIFIED)


def test_prefill_workers_get_no_whole_requests_while_others_can() -> None:
    assert whole_request_workers([PREFILL, DECODE]) == [DECODE]
    assert whole_request_workers([PREFILL, UNIFIED]) == [UNIFIED]
    assert whole_request_workers([PREFILL]) == [PREFILL]


def test_prompts_are_computed_for_others_only_where_there_are_others() -> None:
    assert prefill_workers([PREFILL, DECODE]) == [PREFILL]
    assert prefill_workers([DECODE, UNIFIED]) == []
    assert prefill_workers([PREFILL]) == []
