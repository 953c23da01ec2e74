"""vLLM's pods: its documented flags, and the script that runs inside its container."""

import io
import json
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from deployments import deployment
from http_threads import serving

from penstock_operator.manifests import Settings, Unsupported, worker_container, workload
from penstock_operator.plan import plan


def container(**engine: Any) -> dict[str, Any]:
    infd = deployment(engine={"type": "VLLM", **engine}, drain={"timeout": "30s"})
    return worker_container(infd, plan(infd, {}).pools[0])


def test_a_block_size_is_left_to_vllm_unless_another_is_asked_for() -> None:
    assert "--block-size" not in container()["args"]
    arguments = container(blockSize=64)["args"]
    assert arguments[arguments.index("--block-size") + 1] == "64"


def test_speculation_is_asked_for_as_vllm_spells_it() -> None:
    arguments = container(speculative={"method": "ngram", "numTokens": 6})["args"]
    config = json.loads(arguments[arguments.index("--speculative-config") + 1])
    assert config == {"method": "ngram", "num_speculative_tokens": 6}
    assert "--speculative-config" not in container()["args"]


@pytest.mark.parametrize(
    ("method", "spelled"),
    [("draft", "draft_model"), ("eagle", "eagle"), ("eagle3", "eagle3"), ("mtp", "mtp")],
)
def test_models_and_heads_that_guess_are_named_as_vllm_spells_it(method: str, spelled: str) -> None:
    draft = {} if method == "mtp" else {"draft": {"uri": "hf://org/head"}}
    speculative = {"method": method, "numTokens": 3, **draft}
    infd = deployment(engine={"type": "VLLM", "speculative": speculative})
    pod = workload(infd, plan(infd, {}).pools[0], Settings(), 1)["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    config = json.loads(arguments[arguments.index("--speculative-config") + 1])
    folder = {"model": "/draft/hf/org/head@main"} if draft else {}
    assert config == {"method": spelled, "num_speculative_tokens": 3, **folder}
    fetched = [one["args"][0] for one in pod.get("initContainers", [])]
    assert ("hf://org/head" in fetched) == bool(draft)


def test_a_draft_that_is_to_be_quantised_is_refused() -> None:
    draft = {"uri": "hf://org/small", "weights": "int8"}
    with pytest.raises(Unsupported, match=r"speculative\.draft\.weights: .*use none"):
        container(speculative={"method": "draft", "draft": draft})


def arguments_with_adapters(limits: dict[str, Any]) -> list[str]:
    adapters = [{"name": n, "uri": f"pvc://adapters/{n}"} for n in ("sql", "org/law")]
    pool = {"name": "default", "replicas": 1, "resources": {"limits": limits}}
    infd = deployment(pool, engine={"type": "VLLM"}, model={"uri": "pvc://m", "adapters": adapters})
    found = workload(infd, plan(infd, {}).pools[0], Settings(), 1)
    arguments: list[str] = found["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments


def test_adapters_are_named_as_vllm_spells_it_and_mixed_in_a_batch() -> None:
    arguments = arguments_with_adapters({"nvidia.com/gpu": 1})
    begin = arguments.index("--enable-lora")
    assert arguments[begin : begin + 6] == [
        "--enable-lora",
        "--max-loras",
        "2",
        "--lora-modules",
        "sql=/adapters/0/sql",
        "org/law=/adapters/1/org/law",
    ]
    assert "--enable-lora" not in container()["args"]


def test_on_cpus_one_place_for_adapters_stays_empty() -> None:
    """vLLM computes rows without an adapter with what is in the last one."""
    arguments = arguments_with_adapters({"cpu": "4"})
    assert arguments[arguments.index("--max-loras") + 1] == "3"
    arguments = container(lora={"maxAdapters": 4, "maxPerStep": 8})["args"]
    assert arguments[arguments.index("--max-loras") + 1] == "5"
    assert arguments[arguments.index("--max-cpu-loras") + 1] == "5"


def test_the_first_probe_succeeds_only_with_a_generated_token() -> None:
    command = container()["startupProbe"]["exec"]["command"]
    with engine(status=503) as server:
        assert run(command, server).returncode != 0
    with engine(status=200) as server:
        assert run(command, server).returncode == 0
    assert server.asked == [{"model": "chat", "prompt": "1", "max_tokens": 1, "temperature": 0}]


def test_a_model_that_embeds_is_asked_for_a_vector() -> None:
    with engine(routes=("/v1/embeddings",)) as server:
        command = container(task="Embed")["startupProbe"]["exec"]["command"]
        assert run(command, server).returncode == 0
    assert server.asked[-1] == {"model": "chat", "input": "1"}
    with engine(routes=("/v1/score",)) as server:
        assert run(command, server).returncode == 0
    with engine(routes=()) as server:
        assert run(command, server).returncode != 0


def split(role: str, **engine: Any) -> dict[str, Any]:
    pools = [{"name": n.lower(), "role": n, "replicas": 1} for n in ("Prefill", "Decode")]
    transfer = {"transfer": {"leaseSeconds": 12}}
    infd = deployment(pools=pools, engine={"type": "VLLM", **engine}, disaggregation=transfer)
    pool = next(one for one in plan(infd, {}).pools if one.spec.role == role)
    return worker_container(infd, pool)


@pytest.mark.parametrize("role", ["Prefill", "Decode"])
def test_pools_of_both_roles_hand_kv_over_by_nixl(role: str) -> None:
    found = split(role)
    config = json.loads(found["args"][found["args"].index("--kv-transfer-config") + 1])
    assert config == {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"kv_lease_duration": 12},
    }
    variables = {one["name"]: one for one in found["env"]}
    assert variables["VLLM_NIXL_SIDE_CHANNEL_PORT"]["value"] == "5600"
    address = variables["VLLM_NIXL_SIDE_CHANNEL_HOST"]["valueFrom"]
    assert address == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert {port["containerPort"] for port in found["ports"]} == {8000, 5600}
    assert "--kv-transfer-config" not in container()["args"]


def test_another_connector_may_be_asked_for() -> None:
    arguments = split("Prefill", extraArgs=['--kv-transfer-config={"kv_connector": "x"}'])["args"]
    assert arguments[-1].startswith("--kv-transfer-config=")  # vLLM takes the last


def test_a_model_that_hears_is_asked_for_what_is_said_in_a_second_of_silence() -> None:
    command = container(task="Transcribe")["startupProbe"]["exec"]["command"]
    with engine(routes=("/v1/audio/transcriptions",)) as server:
        assert run(command, server).returncode == 0
    form = server.asked[-1]["form"]
    assert b'name="model"\r\n\r\nchat\r\n' in form
    with wave.open(io.BytesIO(form[form.index(b"RIFF") :])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (16_000, 16_000)
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)


def test_a_probe_that_fails_says_what_was_answered() -> None:
    with engine(status=400) as server:
        failed = run(container()["startupProbe"]["exec"]["command"], server)
    assert failed.returncode == 1
    assert "/v1/audio/transcriptions: no" in failed.stderr


@pytest.mark.parametrize(
    ("engine_type", "role", "fix"),
    [
        ("Penstock", "Unified", r"spec\.engine\.task: .*use engine\.type VLLM"),
        ("VLLM", "Prefill", r"role: .*use Unified"),
    ],
)
def test_models_that_hear_are_vllms_and_are_not_divided(
    engine_type: str, role: str, fix: str
) -> None:
    roles = ("Prefill", "Decode") if role == "Prefill" else (role,)
    pools = [{"name": one.lower(), "replicas": 1, "role": one} for one in roles]
    infd = deployment(*pools, engine={"type": engine_type, "task": "Transcribe"})
    with pytest.raises(Unsupported, match=fix):
        worker_container(infd, plan(infd, {}).pools[0])
    fine = deployment(engine={"type": "VLLM", "task": "Transcribe"})
    assert "--runner" not in worker_container(fine, plan(fine, {}).pools[0])["args"]


@pytest.mark.parametrize(
    ("task", "flags"),
    [
        ("Generate", ["--runner", "generate"]),
        ("Embed", ["--runner", "pooling", "--convert", "embed"]),
        ("Score", ["--runner", "pooling", "--convert", "classify"]),
    ],
)
def test_what_a_model_is_for_is_said_as_vllm_spells_it(task: str, flags: list[str]) -> None:
    arguments = container(task=task)["args"]
    begin = arguments.index("--runner")
    assert arguments[begin : begin + len(flags)] == flags
    assert "--runner" not in container()["args"]


def test_the_first_probe_shows_the_token_that_the_engine_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with engine() as server:
        run(container()["startupProbe"]["exec"]["command"], server)
    assert server.shown == ["Bearer secret"]


def test_it_finishes_what_it_has_when_it_is_told_to_end() -> None:
    arguments = container()["args"]
    assert arguments[arguments.index("--shutdown-timeout") + 1] == "30"


def test_it_tells_how_much_of_a_prompt_was_cached() -> None:
    assert "--enable-prompt-tokens-details" in container()["args"]


def spread(tensor: int, pipeline: int, gpus: int, **engine: Any) -> list[str]:
    pool = {
        "name": "default",
        "replicas": 1,
        "parallelism": {"tensor": tensor, "pipeline": pipeline},
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
    }
    infd = deployment(pool, engine={"type": "VLLM", **engine})
    found = workload(infd, plan(infd, {}).pools[0], Settings(), 1)
    arguments: list[str] = found["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments


def test_layers_are_spread_over_gpus_as_vllm_spells_it() -> None:
    arguments = spread(2, 3, gpus=6)
    assert arguments[arguments.index("--tensor-parallel-size") + 1] == "2"
    assert arguments[arguments.index("--pipeline-parallel-size") + 1] == "3"
    assert "--pipeline-parallel-size" not in spread(2, 1, gpus=2)


@pytest.mark.parametrize(("tensor", "pipeline", "gpus"), [(2, 2, 2), (2, 1, 4), (1, 1, 2)])
def test_a_pod_has_as_many_gpus_as_its_model_is_spread_over(
    tensor: int, pipeline: int, gpus: int
) -> None:
    with pytest.raises(Unsupported, match=r"parallelism: .*tensor × pipeline: .* has \d"):
        spread(tensor, pipeline, gpus)


def test_copies_inside_a_pod_take_gpus_of_their_own() -> None:
    assert spread(2, 1, gpus=4, extraArgs=["--data-parallel-size=2"])
    with pytest.raises(Unsupported):
        spread(2, 1, gpus=3, extraArgs=["--data-parallel-size=2"])


@pytest.mark.parametrize(
    "flags",
    [["--tensor-parallel-size", "4"], ["-tp=4"], ["--pipeline_parallel_size=4"], ["-dp", "4"]],
)
def test_flags_of_the_users_own_may_say_how_it_is_spread(flags: list[str]) -> None:
    assert spread(1, 1, gpus=4, extraArgs=flags)[-len(flags) :] == flags


class Engine(ThreadingHTTPServer):
    status = 200
    routes: tuple[str, ...] | None = None
    """None: all."""
    asked: list[dict[str, Any]]
    shown: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        is_json = self.headers["content-type"] == "application/json"
        self.server.asked.append(json.loads(body) if is_json else {"form": body})
        self.server.shown.append(self.headers["authorization"])
        known = self.server.routes is None or self.path in self.server.routes
        self.send_response(self.server.status if known else 404)
        self.end_headers()
        self.wfile.write(b"no" if self.server.status != 200 else b"yes")


@contextmanager
def engine(status: int = 200, routes: tuple[str, ...] | None = None) -> Iterator[Engine]:
    server = Engine(("127.0.0.1", 0), Handler)
    server.status, server.asked, server.shown = status, [], []
    server.routes = routes
    with serving(server):
        yield server


def run(command: list[str], server: Engine) -> subprocess.CompletedProcess[str]:
    """Run a script of the container, with the port of the server in place of the pod's."""
    here = [part.replace(":8000", f":{server.server_port}") for part in command[1:]]
    return subprocess.run(
        [sys.executable, *here], capture_output=True, text=True, timeout=150, check=False
    )
