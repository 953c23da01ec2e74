"""One namespace with all that is in it: operator, fault proxy, played node, stub gateway."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cluster
from api_proxy import ApiProxy
from cluster_state import difference, state
from fake_node import FakeNode
from kube import Access, Kube, Object
from operator_process import OperatorProcess
from stub_gateway import StubGateway
from waiting import PATIENCE, eventually

NAME = "chat"


class Site:
    """A namespace and the operator that serves it; the operator's calls go through the proxy."""

    def __init__(
        self,
        kube: Kube,
        node: FakeNode,
        proxy: ApiProxy,
        gateway: StubGateway,
        operator: OperatorProcess,
    ) -> None:
        self.kube = kube
        self.node = node
        self.proxy = proxy
        self.gateway = gateway
        self.operator = operator

    def manifest(self, *pools: Object, image: str = "worker:1", **spec: Any) -> Object:
        """Return an InferenceDeployment whose pods come to the played node."""
        return manifest(self.node, *pools, image=image, **spec)

    def apply(self, *pools: Object, image: str = "worker:1", **spec: Any) -> Object:
        """Apply a spec as a user does."""
        return self.kube.apply(self.manifest(*pools, image=image, **spec))

    def restart(self) -> None:
        """Start the operator anew after it was killed; its lease is taken for run out."""
        self.kube.delete("Lease", "penstock-operator")
        self.operator.start()

    def condition(self, kind: str, name: str = NAME) -> Object:
        """Return a condition of the InferenceDeployment as its spec is now; empty: it has none."""
        found = self.kube.get("InferenceDeployment", name)
        if found is None or not _seen(found):
            return {}
        return next((c for c in found["status"].get("conditions", []) if c["type"] == kind), {})

    def settled(self, name: str = NAME) -> bool:
        """Return whether the status says that the current spec is what runs."""
        found = self.kube.get("InferenceDeployment", name)
        if found is None or not _seen(found):
            return False
        conditions = {c["type"]: c["status"] for c in found["status"].get("conditions", [])}
        done = conditions.get("PoolsReady") == conditions.get("RolloutComplete") == "True"
        return done and not any(" " in p and "leav" in p for p in self.pods())

    def pods(self) -> dict[str, int]:
        found: dict[str, int] = state(self.kube)["pods"]
        return found

    def settle(self, within: float = PATIENCE) -> dict[str, Any]:
        """Wait until the current spec is what runs; return the state of the namespace."""
        eventually(self.settled, self._trouble("it did not settle"), within)
        return state(self.kube)

    def reach(self, wanted: dict[str, Any], within: float = PATIENCE) -> None:
        """Wait until the namespace's state is the wanted one."""
        seen: list[str] = []

        def same() -> bool:
            seen[:] = difference(state(self.kube), wanted)
            return not seen

        try:
            eventually(same, "the wanted state", within)
        except AssertionError as error:
            log = self.operator.tail(25)
            raise AssertionError("\n".join(["the state differs", *seen, log])) from error

    def empty(self) -> bool:
        """Return whether nothing of ours is left."""
        return state(self.kube) == {"pods": {}}

    def quiet_for(self, seconds: float, within: float = PATIENCE) -> None:
        """Wait until the operator has written nothing for some seconds."""
        seen, since = len(self.proxy.writes), time.monotonic()
        deadline = since + within
        while time.monotonic() < since + seconds:
            assert time.monotonic() < deadline, [str(c) for c in self.proxy.writes[-20:]]
            if len(self.proxy.writes) != seen:
                seen, since = len(self.proxy.writes), time.monotonic()
            time.sleep(0.1)

    def _trouble(self, what: str) -> str:
        return f"{what}; log at {self.operator.log}"


def _seen(found: Object) -> bool:
    """Return whether the operator has looked at the spec as it is now."""
    seen = found.get("status", {}).get("observedGeneration")
    return bool(seen == found["metadata"]["generation"])


@contextmanager
def site(
    access: Access,
    node: FakeNode,
    folder: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    token: Callable[[Kube], str | None] = lambda _kube: None,
) -> Iterator[Site]:
    """Yield a fresh namespace with a running operator, which calls with the `token`, if any."""
    with ExitStack() as stack:
        kube = stack.enter_context(cluster.namespace(access))
        proxy = stack.enter_context(ApiProxy(access, token(kube)))
        gateway = stack.enter_context(StubGateway(kube))
        operator = OperatorProcess(
            proxy.kubeconfig(folder / f"{kube.namespace}.kubeconfig"),
            kube.namespace,
            folder / f"{kube.namespace}.log",
            *("--gateway-url", gateway.url, *options),
            environment=environment,
        )
        stack.enter_context(operator)
        try:
            yield Site(kube, node, proxy, gateway, operator)
        except BaseException as error:
            error.add_note(f"operator's log:\n{operator.tail()}")
            raise


def manifest(
    node: FakeNode, *pools: Object, image: str = "worker:1", name: str = NAME, **spec: Any
) -> Object:
    """Return an InferenceDeployment whose pods come to the played node."""
    chosen = [dict(pool) for pool in pools] or [{"name": "default", "replicas": 2}]
    body = {
        "model": {"uri": "file:///model"},
        "engine": {"image": image},
        "drain": {"timeout": "5s"},
        "pools": [{**p, "template": {**p.get("template", {}), **node.template}} for p in chosen],
    }
    found: Object = json.loads(
        json.dumps(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "InferenceDeployment",
                "metadata": {"name": name},
                "spec": {**body, **spec},
            }
        )
    )
    return found
