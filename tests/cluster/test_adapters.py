"""Adapters come and go without a rollout: operator, API server, agent and engine are real.

The played node has no kubelet that would run the pod's containers: its worker and its agent are
processes of the test, the agent at the pod's own address. The pod is ready when the agent says so,
as its probe would find.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import plain_http
import pytest
import tiny_adapters
from adapter_agent import agent
from fake_node import Fate
from kube import Object
from model_hub import COMMIT, Remote, serve
from operated import NAME, Site
from waiting import eventually
from worker_process import worker

from penstock_contract.adapters import PORT
from penstock_contract.labels import ADAPTERS

pytestmark = pytest.mark.timeout(900)
POOL = {"name": "default", "replicas": 1}
SQL = {"name": "sql", "uri": "hf://org/model"}
LAW = {"name": "org/Law:v1.0", "uri": "hf://org/model"}
LOST = {"name": "lost", "uri": "hf://org/elsewhere"}


class Adapted:
    """A site with one worker, whose engine and agent run beside it."""

    def __init__(self, site: Site, folder: Path, stack: ExitStack) -> None:
        self.site = site
        self._folder = folder
        self._stack = stack
        tiny_adapters.config(folder)
        files = {"adapter_config.json": (folder / "adapter_config.json").read_bytes()}
        files["adapter_model.safetensors"] = b"weights that a simulated engine does not read"
        self._hub = stack.enter_context(serve(Remote(files=files)))

    def start(self, *adapters: Object) -> None:
        """Make a deployment, and run its worker until it serves with its adapters."""
        self.site.node.decide(self.site.kube.namespace, Fate.NEVER_READY)
        self.apply(*adapters)
        address = eventually(lambda: self.pod.get("status", {}).get("podIP"), "the pod runs")
        flags = ("--runner", "sim", "--max-adapters", "4")
        self.engine = self._stack.enter_context(worker(self._folder / "log", *flags))
        eventually(lambda: self.engine.health() == (200, "ok"), "the engine is ready")
        beside = partial(agent, self.engine.url, self._folder / "kept", self._hub.url)
        self.agent = self._stack.enter_context(beside(host=address, port=PORT, token=""))
        eventually(self.agent.ready, "its adapters are there, and gateways know them")
        self.site.node.decide(self.site.kube.namespace, Fate.READY)
        self.site.settle()

    def apply(self, *adapters: Object) -> None:
        """Have these adapters, and no others."""
        model = {"uri": "file:///model", "adapters": list(adapters)}
        engine = {"image": "worker:1", "lora": {"maxAdapters": 4}}
        self.site.apply(POOL, model=model, engine=engine)

    @property
    def pod(self) -> Object:
        """The one pod; empty: there is none."""
        found = self.site.kube.list("Pod", "penstock.dev/pool=default")
        return found[0] if len(found) == 1 else {}

    def loaded(self) -> dict[str, str]:
        """Return the revisions of what the engine has, by name."""
        models = plain_http.get(f"{self.engine.url}/v1/models").json()["data"]
        return {one["id"]: one["root"].partition("@")[2] for one in models if one["parent"]}

    def told(self) -> dict[str, tuple[str, int]]:
        """Return the state of each adapter, and how many workers have it, as the status says."""
        found = self.site.kube.get("InferenceDeployment", NAME) or {}
        states = found.get("status", {}).get("adapters") or []
        return {one["name"]: (one["state"], one.get("ready", 0)) for one in states}

    def wait(self, status: str, adapters: dict[str, tuple[str, int]]) -> Object:
        """Return AdaptersReady, once it and the states are these for the spec as it is."""

        def reached() -> Object:
            found = self.site.condition("AdaptersReady")
            return found if found.get("status") == status and self.told() == adapters else {}

        return eventually(reached, f"AdaptersReady {status} with {adapters}")

    def began(self) -> tuple[Any, ...]:
        """Return what a rollout would change."""
        pools = self.site.kube.list("EnginePool")
        workloads = self.site.kube.list("Deployment")
        return (
            [pod["metadata"]["uid"] for pod in self.site.kube.list("Pod")],
            [pool["spec"]["rolloutHash"] for pool in pools],
            [(one["metadata"]["uid"], one["metadata"]["generation"]) for one in workloads],
        )


@pytest.fixture
def adapted(site: Site, tmp_path: Path) -> Iterator[Adapted]:
    with ExitStack() as stack:
        yield Adapted(site, tmp_path, stack)


def test_adapters_come_and_go_and_no_pod_is_replaced(adapted: Adapted) -> None:
    adapted.start(SQL)
    adapted.wait("True", {"sql": ("Ready", 1)})
    began = adapted.began()

    adapted.apply(SQL, LAW)
    adapted.wait("True", {"sql": ("Ready", 1), LAW["name"]: ("Ready", 1)})
    assert adapted.loaded() == {"sql": "main", LAW["name"]: "main"}
    known = "org/Law:v1.0,sql"
    eventually(lambda: adapted.pod["metadata"]["annotations"][ADAPTERS] == known, "gateways know")

    adapted.apply({**SQL, "revision": COMMIT}, LAW)
    adapted.wait("True", {"sql": ("Ready", 1), LAW["name"]: ("Ready", 1)})
    assert adapted.loaded() == {"sql": COMMIT, LAW["name"]: "main"}

    adapted.apply(LAW, LOST)
    condition = adapted.wait("False", {LAW["name"]: ("Ready", 1), "lost": ("Failed", 0)})
    eventually(lambda: adapted.loaded() == {LAW["name"]: "main"}, "the other one's memory is free")
    assert condition["reason"] == "AdapterFailed"
    assert condition["message"].startswith(f"lost: {adapted.pod['metadata']['name']}: ")
    assert "org/elsewhere" in condition["message"]
    assert adapted.site.condition("Ready")["status"] == "True"

    adapted.apply()
    eventually(lambda: adapted.loaded() == {}, "none is left")
    eventually(lambda: not adapted.site.condition("AdaptersReady"), "there is nothing to tell")
    assert adapted.began() == began
    assert adapted.site.condition("RolloutComplete")["status"] == "True"


def test_an_operator_that_starts_anew_tells_what_has_changed_meanwhile(adapted: Adapted) -> None:
    adapted.start(SQL)
    began = adapted.began()
    adapted.site.operator.kill()
    adapted.apply(SQL, LAW)
    assert adapted.agent.ready(), "what is there is served without an operator"
    adapted.site.restart()
    adapted.wait("True", {"sql": ("Ready", 1), LAW["name"]: ("Ready", 1)})
    assert adapted.began() == began
