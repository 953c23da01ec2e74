"""`penstock-operator`: settings in, a running operator out."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys

import httpx
import uvloop
from kubernetes.config import ConfigException
from prometheus_client import CollectorRegistry

from penstock_contract.flags import duration_flag, port_flag
from penstock_contract.labels import FIELD_MANAGER_AUTOSCALER
from penstock_contract.worker_token import WorkerTokens
from penstock_operator.autoscaling.metrics import AutoscalerMetrics
from penstock_operator.autoscaling.names import GATEWAY_FAMILIES
from penstock_operator.autoscaling.prometheus import Prometheus
from penstock_operator.autoscaling.sources import Scraper, Source, Target
from penstock_operator.cluster import handlers, health
from penstock_operator.cluster.act import Actor
from penstock_operator.cluster.adapter_watch import AdapterWatch
from penstock_operator.cluster.api import Api, ApiError, configuration
from penstock_operator.cluster.autoscaler import INTERVAL, Autoscaler
from penstock_operator.cluster.cache import Cache
from penstock_operator.cluster.controller import Controller
from penstock_operator.cluster.events import Events
from penstock_operator.cluster.gateways import GatewayWatch, pod_targets
from penstock_operator.cluster.informer import Informer
from penstock_operator.cluster.kinds import POD, Kind, asked_for, served_children
from penstock_operator.cluster.lease import Lease
from penstock_operator.cluster.metrics import OperatorMetrics
from penstock_operator.cluster.pod_startup import PodStartup
from penstock_operator.cluster.watches import Watches
from penstock_operator.manifests import Settings

log = logging.getLogger("penstock.operator")

GATEWAY_POD = Kind("GatewayPod", "v1", "pods", "")
"""The gateway's pods, kept apart from the workers'."""
PICKER_POD = Kind("PickerPod", "v1", "pods", "")
"""Of endpoint pickers, which tell what gateways tell; they are where the models are."""
RETRY = 3.0


def main() -> None:
    """Reconcile until told to stop."""
    options = _parser().parse_args()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for noisy in ("httpx", "httpcore", "kopf", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It has a thread of its own, so that signals are ours, and says so at every start.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    try:
        tokens = WorkerTokens.of(os.environ)
    except ValueError as error:
        sys.exit(f"penstock-operator: {error}")
    try:
        uvloop.run(_Operator(options, tokens).run())
    except ConfigException as error:
        sys.exit(f"penstock-operator: no cluster: {error}; set KUBECONFIG, or run it in a pod")


class _Operator:
    """All parts of the process."""

    def __init__(self, options: argparse.Namespace, tokens: WorkerTokens) -> None:
        self._options = options
        self._tokens = tokens
        self._registry = CollectorRegistry()
        self._metrics = OperatorMetrics(self._registry)
        self._cache = Cache()
        self._scaling: Autoscaler | None = None
        self._watches: Watches | None = None
        self._lease: Lease | None = None
        self._relisted = asyncio.Event()
        self._settings = Settings(
            system_namespace=options.system_namespace,
            metrics_namespaces=tuple(options.metrics_namespace),
            gateway_service=options.gateway_service,
            cluster_domain=options.cluster_domain,
            worker_image=options.worker_image,
            worker_gpu_image=options.worker_gpu_image,
            vllm_image=options.vllm_image,
            image_pull_secrets=tuple(options.image_pull_secret),
            worker_token_secret=options.worker_token_secret,
        )

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        api = Api(configuration(), self._metrics)
        space, name = self._options.system_namespace, self._options.lease_name
        lease = self._lease = Lease(api, space, name, _identity())
        host, port = self._options.metrics_host, self._options.metrics_port
        try:
            server = await health.serve(host, port, self._registry, self._ready, self._explain)
        except OSError as error:
            await api.close()
            sys.exit(f"penstock-operator: --metrics-port: {error.strerror}")
        work = asyncio.create_task(self._work(api, lease))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, work.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await work
        finally:  # also where it failed: nobody acts any more, so another one may at once
            await lease.release()
            await server.cleanup()
            await api.close()

    async def _work(self, api: Api, lease: Lease) -> None:
        writer = Api(configuration(), self._metrics, FIELD_MANAGER_AUTOSCALER)
        async with httpx.AsyncClient(trust_env=False) as http, contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(writer.close)
            gateways = GatewayWatch(http, self._gateways, self._options.gateway_url)
            adapters = AdapterWatch(http, self._tokens, lambda: lease.held)
            actor = Actor(api, self._cache, Events(api), http, self._tokens)
            controller = Controller(
                self._cache, actor, gateways, lease, PodStartup(api), self._metrics, self._settings,
                self._options.resync, adapters,
            )  # fmt: skip
            adapters.on_change(controller.changed)
            gateways.on_change(controller.gateways_changed)
            scaling = self._scaling = Autoscaler(
                writer,
                self._cache,
                self._source(http),
                self._gateway_targets,
                controller.changed,
                AutoscalerMetrics(self._registry),
                self._options.scaling_interval,
            )
            controller.scaled_by(scaling.report)
            watches = self._watches = Watches(
                lambda kind, place: Informer(
                    api, kind, place, self._cache, controller.changed, relisted=self._relisted.set
                ),
                self._options.namespace,
                self._cache,
            )
            async with asyncio.TaskGroup() as tasks:
                for watch in self._gateway_pods(api):
                    tasks.create_task(watch.run())
                space = self._options.namespace
                tasks.create_task(
                    handlers.follow(self._cache, controller.changed, self._relisted, space)
                )
                await self._discover(api, controller, watches, tasks)
                tasks.create_task(self._discover_again(api, controller, watches, tasks))
                tasks.create_task(self._lead(controller, gateways, scaling, adapters, lease))

    async def _discover(
        self, api: Api, controller: Controller, watches: Watches, tasks: asyncio.TaskGroup
    ) -> None:
        """Learn which kinds the cluster serves, and plan for them once they are watched."""
        space = self._options.namespace
        while True:
            try:
                served = await api.served(asked_for())
                await handlers.compare(api, self._cache, controller.changed, space)
                break
            except ApiError as error:
                log.warning("%s; trying again", error)
                await asyncio.sleep(RETRY)
        await watches.follow([POD, *served_children(served)], tasks)
        controller.serve(served)

    async def _discover_again(
        self, api: Api, controller: Controller, watches: Watches, tasks: asyncio.TaskGroup
    ) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.resync):
                    await self._relisted.wait()
                    await asyncio.sleep(RETRY)  # until all of the list was told
            self._relisted.clear()
            await self._discover(api, controller, watches, tasks)

    async def _lead(
        self,
        controller: Controller,
        gateways: GatewayWatch,
        scaling: Autoscaler,
        adapters: AdapterWatch,
        lease: Lease,
    ) -> None:
        """Act while the lease is held, and not a moment longer."""
        while True:
            await lease.acquire()
            self._metrics.leads(leading=True)
            acting = asyncio.create_task(_act(controller, gateways, scaling, adapters))
            keeping = asyncio.create_task(lease.keep())
            try:
                await asyncio.wait([acting, keeping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (acting, keeping):
                    task.cancel()
                await asyncio.gather(acting, keeping, return_exceptions=True)
                self._metrics.leads(leading=False)
            if not acting.cancelled() and (error := acting.exception()):
                log.error("the loop ended and starts again", exc_info=error)

    def _gateway_pods(self, api: Api) -> list[Informer]:
        def informer(kind: Kind, space: str | None, selector: str) -> Informer:
            return Informer(api, kind, space, self._cache, lambda _: None, selector)

        gateways, pickers = self._options.gateway_selector, self._options.picker_selector
        found = (
            [informer(GATEWAY_POD, self._options.system_namespace, gateways)] if gateways else []
        )
        places = (self._options.namespace or [None]) if pickers else []
        return [*found, *(informer(PICKER_POD, place, pickers) for place in places)]

    def _gateways(self) -> list[str]:
        return [target.url for target in self._gateway_targets()]

    def _gateway_targets(self) -> list[Target]:
        space, url = self._options.system_namespace, self._options.gateway_url
        kinds = (GATEWAY_POD.name, PICKER_POD.name)
        pods = [self._cache.get(kind, *p) for kind in kinds for p in self._cache.names(kind)]
        found = pod_targets([pod for pod in pods if pod is not None])
        if not self._options.gateway_selector and url:
            found.append(Target("gateway", url, GATEWAY_FAMILIES, space))
        return found

    def _source(self, http: httpx.AsyncClient) -> Source:
        url = self._options.prometheus_url
        return Prometheus(http, url) if url else Scraper(http)

    def _explain(self, namespace: str, name: str) -> str | None:
        """Only who leads knows; what another knew before it lost the lease is out of date."""
        leads = self._lease is not None and self._lease.held
        return self._scaling.explanation(namespace, name) if self._scaling and leads else None

    def _ready(self) -> bool:
        """All is seen; also a replica that stands by is ready."""
        return self._watches is not None and self._watches.listed


async def _act(
    controller: Controller, gateways: GatewayWatch, scaling: Autoscaler, adapters: AdapterWatch
) -> None:
    """Reconcile until cancelled, but nobody before the gateways were asked."""
    await gateways.begin()
    async with asyncio.TaskGroup() as tasks:
        for work in (controller.run(), gateways.run(), scaling.run(), adapters.run()):
            tasks.create_task(work)


def _identity() -> str:
    """A name that no other process has, nor this one after a restart."""
    return f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{secrets.token_hex(4)}"


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="penstock-operator", description=__doc__)
    add = parser.add_argument
    add("--namespace", action="append", default=[], help="watch only this one; may be repeated")
    add("--system-namespace", default=defaults.system_namespace, help="where the gateway runs")
    add("--metrics-namespace", action="append", default=[], help="where Prometheus runs")
    add("--gateway-url", help="base URL of the gateway's Service, as told in status.url")
    add("--gateway-selector", default="", help="labels of the gateway's pods: a=b,c=d")
    add(
        "--picker-selector",
        default="",
        help="labels of endpoint pickers' pods, wherever models are",
    )
    add("--gateway-service", default=defaults.gateway_service, help="its Service's name")
    add("--cluster-domain", default=defaults.cluster_domain)
    add("--worker-image", default=defaults.worker_image, help="for new revisions")
    add("--worker-gpu-image", default=defaults.worker_gpu_image, help="for pools with GPUs")
    add("--image-pull-secret", action="append", default=[], help="of workers; may be repeated")
    add("--worker-token-secret", default="", help="with the token that new revisions ask for")
    add("--vllm-image", default=defaults.vllm_image, help="for new revisions with engine VLLM")
    add("--lease-name", default="penstock-operator")
    add("--scaling-interval", type=duration_flag, default=INTERVAL, help="like 15s")
    add("--prometheus-url", help="read metrics there (default: from every pod itself)")
    add("--metrics-host", default="0.0.0.0")
    add("--metrics-port", type=port_flag, default=8080)
    add("--resync", type=duration_flag, default=300.0, help="like 5m; between looks at everything")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser
