"""Scrapes read from real processes: by scraping them, and through a real Prometheus."""

import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx
import plain_http
import pytest
from gateway_process import GatewayProcess
from http_threads import serving
from prometheus_process import MISSING, PrometheusProcess, binary
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetWorker, WorkerState
from penstock_operator.autoscaling import names, prometheus
from penstock_operator.autoscaling.evaluation import Memory, evaluate
from penstock_operator.autoscaling.prometheus import Prometheus
from penstock_operator.autoscaling.scrape import Scrape, label
from penstock_operator.autoscaling.sources import Scraper, Source, SourceError, Target
from penstock_operator.autoscaling.topology import PoolTopology, Topology
from penstock_operator.scaling.spec import Objective, PoolBounds, ScalingSpec

pytestmark = pytest.mark.anyio
SPEC = ScalingSpec(
    pools=(PoolBounds("default", Role.UNIFIED, 1, 4),),
    ttft=Objective(0.9, 1.0),
    tpot=Objective(0.9, 0.1),
)
TOPOLOGY = Topology(
    NAME, ("gateway",), (PoolTopology("default", Role.UNIFIED, 1, workers=("worker",), ready=1),)
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    with worker(folder / "worker.log") as served:
        eventually(lambda: served.health() == (200, "ok"), "the worker is ready")
        _fleet(served).write(folder / "fleet.json")
        found = GatewayProcess(folder, "--fleet", folder / "fleet.json")
        found.worker = served  # type: ignore[attr-defined]
        await found.start()
        yield found
        found.stop()


def _fleet(served: WorkerProcess) -> Fleet:
    model = FleetModel(name=NAME, deployment="pydoc", created=0)
    one = FleetWorker(
        id="worker",
        url=served.url,
        deployment="pydoc",
        pool="default",
        role=Role.UNIFIED,
        revision="1",
        state=WorkerState.READY,
    )
    return Fleet(generation=1, models=(model,), workers=(one,))


@pytest.fixture
def targets(gateway: GatewayProcess) -> list[Target]:
    served: WorkerProcess = gateway.worker  # type: ignore[attr-defined]
    return [
        Target("gateway", gateway.url, names.GATEWAY_FAMILIES, "system"),
        Target("worker", served.url, names.WORKER_FAMILIES, "models"),
    ]


@pytest.fixture(scope="module")
def server(
    gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusProcess]:
    if binary() is None:
        pytest.skip(MISSING)
    served: WorkerProcess = gateway.worker  # type: ignore[attr-defined]
    pods = [
        ({"namespace": "system", "pod": "gateway"}, urlsplit(gateway.url).netloc),
        ({"namespace": "models", "pod": "worker"}, urlsplit(served.url).netloc),
    ]
    twice = {"podmonitor": pods, "annotations": pods}
    found = PrometheusProcess(tmp_path_factory.mktemp("prometheus"), twice)
    found.knows("vllm:num_requests_running", 2)
    found.knows("penstock_gateway_arrivals_total", 2)
    yield found
    found.stop()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with plain_http.client() as client:
        yield client


async def ask(gateway: GatewayProcess, times: int) -> None:
    body = {"model": NAME, "prompt": "A list is", "max_tokens": 8}
    async with plain_http.client(gateway.url) as client:
        for _ in range(times):
            (await client.post("/v1/completions", json=body)).raise_for_status()


async def test_what_is_scraped_becomes_an_observation(
    gateway: GatewayProcess, targets: list[Target], http: httpx.AsyncClient
) -> None:
    source, memory = Scraper(http), Memory()
    for requests in (1, 6):
        await ask(gateway, requests)
        scrapes = await source.read(targets)
        assert scrapes.keys() == {"gateway", "worker"}
        now = max(scrape.time for scrape in scrapes.values())
        memory, evaluation = evaluate(memory, TOPOLOGY, scrapes, SPEC, now)
    seen = evaluation.record.seen
    assert seen.traffic.arrivals.value is not None
    assert seen.traffic.arrivals.value > 0
    assert seen.traffic.output_tokens.value == 8
    curve = seen.pools["default"].curve
    assert curve is not None
    assert curve.kv_tokens > 1000
    assert not evaluation.problems


async def test_a_model_without_requests_has_counters_that_stand_at_zero(
    targets: list[Target], http: httpx.AsyncClient, gateway: GatewayProcess
) -> None:
    """Idleness needs evidence: a counter that is there, and does not move."""
    await ask(gateway, 1)
    scrape = (await Scraper(http).read(targets))["gateway"]
    for family in (names.ARRIVALS, names.QUEUED, names.IN_FLIGHT):
        assert scrape.total(family, label(model=NAME)) is not None


async def test_who_cannot_be_scraped_is_left_out(
    targets: list[Target], http: httpx.AsyncClient
) -> None:
    gone = Target("gone", "http://127.0.0.1:9", names.WORKER_FAMILIES)
    assert (await Scraper(http).read([*targets, gone])).keys() == {"gateway", "worker"}


async def test_prometheus_says_the_same_as_the_processes(
    gateway: GatewayProcess,
    targets: list[Target],
    server: PrometheusProcess,
    http: httpx.AsyncClient,
) -> None:
    """Also where two jobs scrape every pod: nothing is counted twice."""
    await ask(gateway, 3)
    source = Prometheus(http, server.url)

    async def says_the_same() -> bool:
        """Whether the last scrape was after the last request, and that is over."""
        scrapes, direct = await source.read(targets), await Scraper(http).read(targets)
        return direct.keys() == scrapes.keys() == {"gateway", "worker"} and all(
            scrapes[target].values.get(series) == value
            for target in direct
            for series, value in direct[target].values.items()
            if "step" not in series[0]  # the engine may take one more, empty step
        )

    await GatewayProcess.until(says_the_same)


async def test_decisions_through_prometheus_are_those_of_a_scrape(
    gateway: GatewayProcess,
    targets: list[Target],
    server: PrometheusProcess,
    http: httpx.AsyncClient,
) -> None:
    source: Source = Prometheus(http, server.url)
    memory = Memory()
    for _ in range(4):
        await ask(gateway, 3)
        scrapes = await _scraped_since(time.time(), source, targets)
        now = max(scrape.time for scrape in scrapes.values())
        memory, evaluation = evaluate(memory, TOPOLOGY, scrapes, SPEC, now)
    arrivals = evaluation.record.seen.traffic.arrivals
    assert arrivals.fresh
    assert arrivals.value is not None
    assert arrivals.value > 0
    assert evaluation.record.decisions.pools["default"].replicas == 1


async def _scraped_since(
    begun: float, source: Source, targets: list[Target]
) -> Mapping[str, Scrape]:
    """Return scrapes of all targets that are of later than a time."""
    found: Mapping[str, Scrape] = {}

    async def later() -> bool:
        nonlocal found
        found = await source.read(targets)
        return len(found) == len(targets) and all(one.time > begun for one in found.values())

    await GatewayProcess.until(later)
    return found


async def test_pods_of_another_namespace_are_not_taken(
    targets: list[Target], server: PrometheusProcess, http: httpx.AsyncClient
) -> None:
    elsewhere = Target("worker", targets[1].url, names.WORKER_FAMILIES, "system")
    assert await Prometheus(http, server.url).read([elsewhere]) == {}


async def test_a_prometheus_that_hangs_or_is_gone_is_a_source_that_fails(
    targets: list[Target],
    server: PrometheusProcess,
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prometheus, "TIMEOUT", 2.0)
    source = Prometheus(http, server.url)
    server.process.send_signal(signal.SIGSTOP)
    # The signal is on its way still, and one of its threads might answer.
    assert os.WIFSTOPPED(os.waitpid(server.process.pid, os.WUNTRACED)[1])
    with pytest.raises(SourceError, match="ReadTimeout"):
        await source.read(targets)
    server.process.send_signal(signal.SIGCONT)
    with pytest.raises(SourceError, match="connect"):
        await Prometheus(http, "http://127.0.0.1:9").read(targets)


ANSWERS = {
    "an error status": (500, b"no"),
    "half of a document": (200, b'{"status": "success", "data": {"resu'),
    "no success": (200, json.dumps({"status": "error", "error": "bad"}).encode()),
    "another type": (
        200,
        json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}).encode(),
    ),
    "nothing of use": (200, b"[]"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_is_none_is_a_source_that_fails(
    answer: tuple[int, bytes], targets: list[Target], http: httpx.AsyncClient
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as stub:
        url = f"http://127.0.0.1:{stub.server_port}"
        with pytest.raises(SourceError, match="Prometheus"):
            await Prometheus(http, url).read(targets)
