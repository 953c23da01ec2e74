"""LoRA adapters that come and go at a real vLLM while it serves: what docs/adapters.md promises.

Two starts behind `penstock up`, the second after its engine was killed, and two beside an agent,
with the arguments and variables of its pod. Answers are held against `transformers` with the
adapter merged in, so that one that comes from another adapter, or from its cached KV, is wrong.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import model_hub
import plain_http
import pytest
import tiny_adapters
from adapter_agent import TOKEN, Agent, agent
from deployments import deployment
from openai import NotFoundError, OpenAI
from ports import free_port
from tests.e2e import greedy
from tests.e2e.conftest import ROOT, Stack
from tests.e2e.vllm_stack import PATIENCE, engines, vllm_client, vllm_stack
from vllm_program import NEEDS_VLLM, environment
from waiting import eventually

from penstock_contract.adapter_routes import NAME_HAD
from penstock_operator.manifests import Settings, workload
from penstock_operator.plan import plan

pytestmark = NEEDS_VLLM

MANIFEST = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: pydoc}}
spec:
  model: {{uri: "file://{root}/examples/model", name: pydoc, adapters: {adapters}}}
  engine:
    type: VLLM
    dtype: float32
    maxModelLen: 512
    maxNumSeqs: 8
    lora: {{maxAdapters: 3, maxPerStep: 2}}
  pools:
  - {{name: default, replicas: 1}}
"""
PIRATE = ROOT / "examples" / "adapter"
CAPTAIN, WIDE = "captain", "wide"
"""Another adapter, on all layers, and one of a rank that vLLM has no room for."""

Answers = dict[str, list[str]]


class Serving:
    """A vLLM behind `penstock up`, whose adapters are those that the file was last given."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self._folder = folder

    def give(self, *, check: bool = True, **adapters: Path) -> str:
        """Have `penstock up` see to it that there are these; return what it says."""
        listed = json.dumps([{"name": n, "uri": f"file://{at}"} for n, at in adapters.items()])
        file = self._folder / "manifest.yaml"
        file.write_text(MANIFEST.format(root=ROOT, adapters=listed))
        done = self.stack.run("up", str(file), check=check, timeout=PATIENCE)
        return done.stdout + done.stderr

    def says(self, model: str) -> list[str]:
        with vllm_client(self.stack.url) as client:
            return [greedy.says(client, model, prompt) for prompt in greedy.PROMPTS]

    def status(self) -> dict[str, dict[str, Any]]:
        """Return how far each adapter is."""
        (item,) = json.loads(self.stack.run("get", "-o", "json").stdout)["items"]
        return {adapter["name"]: adapter for adapter in item["status"].get("adapters", ())}

    def worker(self) -> dict[str, Any]:
        (found,) = self.stack.workers()
        return found

    def loaded(self) -> set[str]:
        """Return the adapters that vLLM itself answers to."""
        return adapters_of(self.worker()["url"])


def adapters_of(url: str, **headers: str) -> set[str]:
    listed = plain_http.get(f"{url}/v1/models", headers=headers).json()["data"]
    return {model["id"] for model in listed if model.get("parent")}


@contextlib.contextmanager
def asked_again_and_again(url: str, model: str) -> Iterator[list[str]]:
    """Ask for one stream after the other until the block ends, or there is no such model (404)."""
    over, answers = Event(), list[str]()

    def ask() -> None:
        with vllm_client(url) as client, contextlib.suppress(NotFoundError):
            while not over.is_set():
                answers.append(greedy.says(client, model, greedy.PROMPTS[0]))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            eventually(lambda: answers or asking.done(), "a first answer")
            yield answers
        finally:
            over.set()
        asking.result()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def expected(folder: Path) -> Answers:
    """What the base model and each adapter say; writes the adapters that are not an example."""
    base = greedy.base()
    captain = tiny_adapters.make(folder / CAPTAIN, base, size=0.05)
    tiny_adapters.make(folder / WIDE, base, rank=32)
    models = {"pydoc": base, "pirate": greedy.merged(base, PIRATE), CAPTAIN: captain}
    found = {name: greedy.answers(model) for name, model in models.items()}
    assert not any(a in found["pydoc"] + found[CAPTAIN] for a in found["pirate"])
    return found


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[Serving]:
    with vllm_stack(folder, MANIFEST.format(root=ROOT, adapters="[]")) as found:
        yield Serving(found, folder)


class Pod:
    """What the operator makes a pod of, with its engine as a process of this machine."""

    def __init__(self, folder: Path) -> None:
        adapters = [{"name": "pirate", "uri": "hf://org/pirate"}]
        wanted = deployment(
            {"name": "default", "replicas": 1},
            model={"uri": "pvc://models", "name": "pydoc", "adapters": adapters},
            engine={"type": "VLLM", "dtype": "float32", "maxModelLen": 512, "maxNumSeqs": 4},
        )
        (pool,) = plan(wanted, {}).pools
        spec = workload(wanted, pool, Settings(), 1)["spec"]["template"]["spec"]
        self._engine, _ = spec["containers"]
        self._folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def engine(self) -> Iterator[None]:
        """Run vLLM as the engine's container does, from its first answer on; then kill it."""
        variables = {one["name"]: one.get("value", TOKEN) for one in self._engine["env"]}
        arguments = [str(greedy.MODEL), *self._engine["args"][1:]]
        arguments[arguments.index("--port") + 1] = str(self.port)
        own = {"HOME": str(self._folder), "XDG_CACHE_HOME": str(self._folder)}
        process = subprocess.Popen(
            [str(self._folder / "bin" / "vllm"), "serve", *arguments],
            env={**os.environ, **variables, "VLLM_API_KEY": TOKEN, **own},
            start_new_session=True,
        )

        def answers() -> bool:
            assert process.poll() is None, "vLLM has ended"
            with contextlib.suppress(httpx.TransportError):
                return plain_http.get(f"{self.url}/health").status_code == 200
            return False

        try:
            eventually(answers, "vLLM answers", PATIENCE, every=1)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def says(self, model: str) -> list[str]:
        with OpenAI(base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=0) as client:
            return [greedy.says(client, model, prompt) for prompt in greedy.PROMPTS]

    def loaded(self) -> set[str]:
        return adapters_of(self.url, authorization=f"Bearer {TOKEN}")


def test_an_agent_brings_adapters_and_takes_them_away(tmp_path: Path, expected: Answers) -> None:
    files = {at.name: at.read_bytes() for at in PIRATE.iterdir()}
    pod = Pod(environment(tmp_path))
    with (
        model_hub.serve(model_hub.Remote(files)) as hub,
        agent(pod.url, tmp_path / "kept", hub.url, "--by-name") as beside,
    ):
        with pod.engine():
            assert not beside.ready()
            beside.tell("pirate", announced=["pirate"])
            is_ready(beside)
            assert pod.says("pirate") == expected["pirate"]
            assert pod.says("pydoc") == expected["pydoc"]
        eventually(lambda: not beside.ready(), "it sees that vLLM has ended")
        with pod.engine():
            is_ready(beside)
            assert pod.says("pirate") == expected["pirate"]
            beside.tell(announced=[])
            eventually(lambda: pod.loaded() == set(), "vLLM has it no more")


def is_ready(beside: Agent) -> None:
    ready: Callable[[], bool] = beside.ready
    eventually(ready, "the agent has brought all")
    assert beside.states() == {"pirate": "Ready"}


def test_those_that_come_while_it_serves_answer_as_if_merged(
    serving: Serving, expected: Answers, folder: Path
) -> None:
    before = serving.worker()
    assert serving.says("pydoc") == expected["pydoc"]
    with asked_again_and_again(serving.stack.url, "pydoc") as answers:
        serving.give(pirate=PIRATE, captain=folder / CAPTAIN)
    assert set(answers) == {expected["pydoc"][0]}
    assert serving.worker()["id"] == before["id"]
    for found in serving.status().values():
        assert (found["state"], found["ready"], found["workers"]) == ("Ready", 1, 1)
    with ThreadPoolExecutor(len(expected)) as pool:  # mixed in one batch
        for _ in range(2):  # and from the prefix cache
            assert dict(zip(expected, pool.map(serving.says, expected), strict=True)) == expected


def test_one_that_vllm_cannot_load_says_why(serving: Serving, folder: Path) -> None:
    said = serving.give(pirate=PIRATE, captain=folder / CAPTAIN, wide=folder / WIDE, check=False)
    assert "rank 32 is greater than max_lora_rank 16" in said
    found = serving.status()
    assert found[WIDE]["state"] == "Failed"
    assert "rank 32 is greater than max_lora_rank 16" in found[WIDE]["message"]
    assert found["pirate"]["state"] == "Ready"
    answer = plain_http.post(
        f"{serving.stack.url}/v1/completions", json={"model": WIDE, "prompt": "a"}
    )
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_one_that_is_taken_away_ends_what_it_has(
    serving: Serving, expected: Answers, folder: Path
) -> None:
    with asked_again_and_again(serving.stack.url, CAPTAIN) as answers:
        serving.give(pirate=PIRATE)
        serving.stack.eventually(lambda: serving.loaded() == {"pirate"}, "vLLM has it no more")
    assert set(answers) == {expected[CAPTAIN][0]}
    with pytest.raises(NotFoundError):
        serving.says(CAPTAIN)
    assert serving.says("pirate") == expected["pirate"]


def test_a_name_is_not_given_to_another(serving: Serving, expected: Answers, folder: Path) -> None:
    assert NAME_HAD in serving.give(pirate=folder / CAPTAIN, check=False)
    assert serving.status()["pirate"]["message"].endswith(NAME_HAD)
    assert serving.says("pirate") == expected["pirate"]
    serving.give(pirate=PIRATE, captain=folder / CAPTAIN)
    assert serving.says(CAPTAIN) == expected[CAPTAIN]


def test_all_come_back_when_the_engine_dies(serving: Serving, expected: Answers) -> None:
    before = serving.worker()
    (engine,) = engines(before["pid"])
    os.kill(engine, signal.SIGKILL)

    def is_back() -> bool:
        found = serving.stack.workers()
        return any(one["state"] == "Ready" and one["id"] != before["id"] for one in found)

    serving.stack.eventually(is_back, "another vLLM is ready", patience=PATIENCE)
    assert serving.loaded() == {"pirate", CAPTAIN}
    assert {name: serving.says(name) for name in expected} == expected
