"""What a user sees after a mistake: what is wrong, where, what to do; code 2, no traceback."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
HELP = """
import sys
from penstock_operator.cli import commands
commands(["--help"], standalone_mode=False)
print(*sys.modules)
"""


def test_help_is_instant_as_it_loads_nothing_that_takes_long() -> None:
    found = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "chat" in found.stdout
    loaded = set(found.stdout.splitlines()[-1].split())
    assert {"click", "penstock_operator"} < loaded
    assert not loaded & {"pydantic", "yaml", "httpx", "asyncio", "penstock_contract"}


def test_help_cuts_no_sentence_short(machine: Any) -> None:
    assert "..." not in machine.run("--help").replace("COMMAND [ARGS]...", "")


def test_a_missing_file_is_named(machine: Any) -> None:
    assert "cannot read nowhere.yaml" in machine.run("up", "nowhere.yaml", code=2)


def test_a_folder_is_no_manifest(machine: Any, tmp_path: Path) -> None:
    assert "Is a directory" in machine.run("validate", tmp_path, code=2)


def test_broken_yaml_is_named_by_line(machine: Any, manifest: Write) -> None:
    assert "line 2" in machine.run("validate", manifest("a: b\nc: d: e\n"), code=2)


def test_a_wrong_field_is_named_by_path_with_the_fix(machine: Any, manifest: Write) -> None:
    path = manifest()
    path.write_text(path.read_text().replace("replicas", "replica"))
    said = machine.run("up", path, code=2)
    assert "spec.pools[0].replica" in said
    assert "did you mean replicas?" in said


def test_a_broken_rule_is_told_in_words(machine: Any, manifest: Write) -> None:
    path = manifest()
    path.write_text(path.read_text().replace("replicas: 1, ", ""))
    assert "set exactly one of replicas and scaling" in machine.run("validate", path, code=2)


def test_a_missing_model_folder_is_named(machine: Any, manifest: Write) -> None:
    path = manifest()
    text = path.read_text()
    path.write_text(
        text[: text.index("file://")] + "file://./nothing" + text[text.index('", name') :]
    )
    said = machine.run("up", path, code=2)
    assert "spec.model.uri" in said
    assert str(path.parent / "nothing") in said


def test_a_model_folder_that_lacks_a_file_is_told_which(
    machine: Any, manifest: Write, tmp_path: Path
) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    path = manifest()
    text = path.read_text()
    half = f"file://{tmp_path / 'half'}"
    path.write_text(text[: text.index("file://")] + half + text[text.index('", name') :])
    assert "missing: tokenizer.json, *.safetensors" in machine.run("up", path, code=2)


def test_one_name_twice_in_a_file_is_refused(machine: Any, manifest: Write) -> None:
    path = manifest()
    text = path.read_text()
    path.write_text(f"{text}\n---\n{text}")
    assert "is there twice" in machine.run("up", path, code=2)


def test_two_deployments_cannot_answer_to_one_name(machine: Any, manifest: Write) -> None:
    path = manifest()
    text = path.read_text()
    path.write_text(f"{text}\n---\n{text.replace('metadata: {name: ', 'metadata: {name: other-')}")
    said = machine.run("up", path, code=2)
    assert "set spec.model.name" in said


def test_a_file_without_a_kind_is_told_which_there_are(machine: Any, manifest: Write) -> None:
    said = machine.run("validate", manifest("a: b\n"), code=2)
    assert "kind: missing; known: InferenceDeployment" in said


def test_a_model_on_a_claim_is_refused(machine: Any, manifest: Write) -> None:
    path = manifest()
    text = path.read_text()
    path.write_text(text[: text.index("file://")] + "pvc://a/b" + text[text.index('", name') :])
    assert "is not used locally" in machine.run("up", path, code=2)


def test_vllm_needs_an_environment_that_has_it(
    machine: Any, manifest: Write, tmp_path: Path
) -> None:
    path = manifest(engine="{type: VLLM}")
    assert "needs --vllm-venv" in machine.run("up", path, code=2)
    said = machine.run("up", path, "--vllm-venv", tmp_path, code=2)
    assert "there is no bin/vllm" in said


@pytest.mark.parametrize("command", ["validate", "up"])
def test_what_no_worker_can_do_is_refused_at_once(
    machine: Any, manifest: Write, command: str
) -> None:
    said = machine.run(command, manifest(engine="{dtype: float16}"), code=2)
    assert "InferenceDeployment small: spec.engine.dtype: not available" in said
    assert "use auto or bfloat16" in said
    assert not machine.state.objects.exists()


@pytest.mark.parametrize("command", ["validate", "up"])
def test_what_penstock_has_itself_is_refused_at_once(
    machine: Any, manifest: Write, command: str
) -> None:
    path = manifest()
    added = "replicas: 1, template: {volumes: [{name: tmp, emptyDir: {}}]}, "
    path.write_text(path.read_text().replace("replicas: 1, ", added))
    said = machine.run(command, path, code=2)
    assert "spec.pools[default].template.volumes[0].name: tmp is a volume of Penstock's" in said
    assert not machine.state.objects.exists()


def test_a_bucket_without_a_name_is_refused_at_once(machine: Any, manifest: Write) -> None:
    path = manifest()
    text = path.read_text()
    path.write_text(text[: text.index("file://")] + "gs:///model" + text[text.index('", name') :])
    said = machine.run("validate", path, code=2)
    assert "spec.model.uri: must name a bucket: gs://BUCKET/PREFIX" in said


def test_a_pool_of_its_own_is_refused(machine: Any, manifest: Write) -> None:
    pool = (
        "apiVersion: penstock.dev/v1alpha1\nkind: EnginePool\nmetadata: {name: p}\n"
        "spec: {deployment: d, pool: p, role: Unified, replicas: 1, rolloutHash: x}\n"
    )
    assert "EnginePool p" in machine.run("up", manifest(pool), code=2)


def test_a_tenant_whose_key_is_in_a_secret_is_refused(machine: Any, manifest: Write) -> None:
    tenant = (
        "apiVersion: penstock.dev/v1alpha1\nkind: Tenant\nmetadata: {name: team}\n"
        "spec: {apiKeys: [{name: team}]}\n"
    )
    said = machine.run("up", manifest(tenant), code=2)
    assert "Tenant team: spec.apiKeys[0].name: there are no Secrets on this machine" in said


def test_a_taken_port_names_who_has_it(machine: Any, manifest: Write) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = machine.run("up", manifest(), "--detach", "--port", port, code=2)
    assert f"port {port} is taken by" in said
    assert "(pid " in said
    assert "--port" in said


def test_a_bad_timeout_is_refused(machine: Any, manifest: Write) -> None:
    said = machine.run("up", manifest(), "--timeout", "soon", code=2)
    assert "'soon' is not a duration" in said


@pytest.mark.parametrize(
    "command", [["get"], ["chat", "hello"], ["scale", "small/default", "2"], ["down"]]
)
def test_commands_that_need_a_runtime_say_so(machine: Any, command: list[str]) -> None:
    assert "nothing is running" in machine.run(*command, code=2)


def test_explaining_with_neither_a_runtime_nor_a_cluster_names_both_ways_out(
    machine: Any, tmp_path: Path
) -> None:
    machine.environment["KUBECONFIG"] = str(tmp_path / "none")
    said = machine.run("explain", "chat", code=2)
    assert "no cluster" in said
    assert "KUBECONFIG" in said
    assert "penstock up FILE" in said


@pytest.mark.parametrize(
    "text", ["words", "a: [", "clusters: 1\ncontexts: []\n", "- a\n", "\x00"], ids=repr
)
def test_a_file_that_is_no_kubeconfig_is_called_that(
    machine: Any, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    machine.environment["KUBECONFIG"] = str(path)
    said = machine.run("explain", "chat", code=2)
    assert f"error: no cluster: {path} is no kubeconfig: " in said


def test_logs_without_a_run_say_so(machine: Any) -> None:
    assert "there is no log" in machine.run("logs", code=2)


def test_validate_accepts_the_examples(machine: Any) -> None:
    example = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
    assert "InferenceDeployment quickstart is valid" in machine.run("validate", example)


def test_validate_takes_many_files_and_tells_of_all_that_are_wrong(
    machine: Any, manifest: Write, tmp_path: Path
) -> None:
    wrong = manifest(engine="{dtype: float16}")
    said = machine.run("validate", tmp_path / "nowhere.yaml", wrong, code=2)
    assert "nowhere.yaml: No such file" in said
    assert f"{wrong}: InferenceDeployment small: spec.engine.dtype: not available" in said


def test_a_file_that_is_wrong_fails_those_before_and_after_it(
    machine: Any, manifest: Write, tmp_path: Path
) -> None:
    example = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
    machine.run("validate", example, tmp_path / "nowhere.yaml", example, code=2)
    said = machine.run("validate", example, manifest())
    assert "quickstart.yaml: InferenceDeployment quickstart is valid" in said
    assert "InferenceDeployment small is valid" in said


def test_a_folder_may_hold_what_is_for_others(machine: Any, tmp_path: Path) -> None:
    """A file alone that holds nothing of ours is a mistake; beside others it is not."""
    space = tmp_path / "space.yaml"
    space.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: models}\n")
    nothing = f"{space} holds nothing of penstock.dev/v1alpha1: Namespace models"
    for command in ("validate", "up"):
        assert nothing in machine.run(command, space, code=2)
    example = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
    said = machine.run("validate", space, example)
    assert f"{space}: Namespace models is not Penstock's, and was not checked" in said
    assert "InferenceDeployment quickstart is valid" in said


def test_validate_wants_a_file(machine: Any) -> None:
    assert "Missing argument 'FILE...'" in machine.run("validate", code=2)


def test_version_is_told(machine: Any) -> None:
    assert machine.run("version").startswith("penstock 0.")


def test_an_unwritable_state_folder_is_named(machine: Any, manifest: Write) -> None:
    machine.home.write_text("in the way")
    said = machine.run("up", manifest(), "--detach", code=2)
    assert str(machine.home) in said
    machine.home.unlink()
