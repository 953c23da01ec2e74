"""What those who run the gateway are told of requests that wait."""

import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetClass, FleetModel, FleetQueue, FleetWorker
from penstock_contract.metrics import gateway as declared
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.gate import Room, room_for_all
from penstock_gateway.relay.hold import Asked
from penstock_gateway.relay.relay import Relay
from penstock_gateway.relay.settings import RelaySettings
from penstock_gateway.relay.waits import Reason, tell_held, waits
from penstock_gateway.routing.destination import ANYWHERE, TRIAL
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.speed import Speed
from penstock_gateway.routing.ticket import Prompt
from penstock_gateway.tenants.tenancy import Tenancy

pytestmark = pytest.mark.anyio

CLASS = FleetClass(name="standard")
QUEUE = FleetQueue(per_worker=9, max_requests=9, timeout=30.0, classes=(CLASS,), default=CLASS)
MODEL = FleetModel(name="m", deployment="d", queue=QUEUE, ttft=2.0)
WORKER = FleetWorker(
    id="a", url="http://a", deployment="d", pool="p", role=Role.UNIFIED, revision="r"
)


@pytest.fixture
def relay_of() -> Callable[[Room], Relay]:
    """Return what makes a gateway of one worker that has enough prompts."""

    def made(room: Room) -> Relay:
        router = Router(PrefixIndex())
        router.profile("a", Speed(token=1.0), None)
        prompt, now = Prompt(size=8000), time.monotonic()
        for _ in range(2):
            router.take(router.rank([WORKER], prompt, tie=0, now=now)[0], prompt, now)
        directory = Directory(Fleet(generation=1, models=(MODEL,), workers=(WORKER,)))
        return Relay(
            RelaySettings(1 << 20), GatewayMetrics(CollectorRegistry()), router, ConnectionPool(),
            lambda: directory, Tenancy(time.monotonic), room=room,
        )  # fmt: skip

    return made


async def test_what_other_processes_run_takes_places_too(
    relay_of: Callable[[Room], Relay],
) -> None:
    for room, reason in ((room_for_all, Reason.PROMPTS), (lambda *_: False, Reason.PLACE)):
        relay = relay_of(room)
        permit = relay.gates.offer(MODEL, CLASS, Asked(10))
        assert [found.reason for found in waits(relay)] == [reason]
        permit.release()


async def test_those_left_of_a_canary_that_has_ended_count_beside_the_others(
    relay_of: Callable[[Room], Relay],
) -> None:
    relay = relay_of(room_for_all)
    lanes = (ANYWHERE, ANYWHERE, TRIAL)
    permits = [relay.gates.offer(MODEL, CLASS, Asked(10, destination=lane)) for lane in lanes]
    tell_held(relay)
    assert relay.metrics.series()[declared.GATEWAY_HELD.name] == [(["m", "workers"], [3.0])]
    assert relay.metrics.series()[declared.GATEWAY_PROMPT_TOKEN.name] == [(["m"], [1.0])]
    for permit in permits:
        permit.release()
