"""The planned container as a local command: another address, another model path, nothing else."""

from typing import Any

from penstock_operator.local.command import with_flag, worker_command

CONTAINER: dict[str, Any] = {
    "command": ["penstock-worker"],
    "args": ["--model", "/models", "--host", "0.0.0.0", "--port", "8000", "--dtype", "auto"],
    "env": [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "SECRET", "valueFrom": {}}],
}


def test_only_address_and_model_differ_from_the_pod() -> None:
    command = worker_command(CONTAINER, port=41234, model="/home/me/model")
    assert command.argv == (
        *("penstock-worker", "--model", "/home/me/model", "--host", "127.0.0.1"),
        *("--port", "41234", "--dtype", "auto"),
    )
    assert command.environment == {"OMP_NUM_THREADS": "2"}


def test_vllm_comes_from_the_environment_that_was_named() -> None:
    container = {
        "command": ["vllm", "serve"],
        "args": ["/models", "--host", "0.0.0.0", "--port", "8000"],
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "HF_HUB_OFFLINE", "value": "1"}],
    }
    programs = {"vllm": "/venv/bin/vllm"}
    command = worker_command(container, port=41234, model="/home/me/model", programs=programs)
    assert command.argv == (
        *("/venv/bin/vllm", "serve", "/home/me/model"),
        *("--host", "127.0.0.1", "--port", "41234"),
    )
    assert command.environment == {"HF_HUB_OFFLINE": "1"}  # at home there is a HOME


def test_a_flag_is_replaced_in_either_spelling_or_appended() -> None:
    assert with_flag(["a", "--x", "1", "b"], "--x", "2") == ["a", "--x", "2", "b"]
    assert with_flag(["a", "--x=1"], "--x", "2") == ["a", "--x=2"]
    assert with_flag(["a"], "--x", "2") == ["a", "--x", "2"]


def test_kv_is_handed_over_on_this_machine_and_on_any_port() -> None:
    container = {**CONTAINER, "args": [*CONTAINER["args"], "--kv-transfer", "0.0.0.0:5600"]}
    argv = worker_command(container, port=41234, model="/home/me/model").argv
    assert argv[-2:] == ("--kv-transfer", "127.0.0.1:0")


def test_vllms_that_hand_kv_over_meet_on_this_machine() -> None:
    port = {"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": "5600"}
    host = {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": {"fieldRef": {}}}
    container = {**CONTAINER, "env": [port, host]}
    command = worker_command(container, port=41234, model="/m", side_channel=41235)
    assert command.environment == {
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": "41235",
    }


def test_kv_is_kept_in_a_folder_of_this_machine() -> None:
    container = {**CONTAINER, "args": [*CONTAINER["args"], "--kv-tier-disk", "/kv"]}
    command = worker_command(container, port=41234, model="/home/me/model", tier="/state/kv/chat")
    assert command.argv[-2:] == ("--kv-tier-disk", "/state/kv/chat")
