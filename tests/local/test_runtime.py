"""The real thing: real workers on the example model, a real gateway, the commands in between."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock_operator.local.ownership import Identity, owner

pytestmark = pytest.mark.e2e

Write = Callable[..., Path]
ROOT = Path(__file__).parents[2]


def test_a_whole_life_from_up_to_down(machine: Any) -> None:
    progress = machine.up(ROOT / "examples" / "quickstart.yaml")
    assert f"Ready: http://127.0.0.1:{machine.port}/v1" in progress
    assert machine.run("chat", "What is a list?", "--max-tokens", "16").strip()
    assert "no-such-model" in machine.run("chat", "Hi", "--model", "no-such-model", code=1)

    before = machine.status()
    (item,) = before["items"]
    assert item["status"]["poolsSummary"] == "2/2"
    assert "quickstart" in machine.run("get")
    assert "PID" in machine.run("get", "-o", "wide")
    assert "known pools: quickstart/default" in machine.run("scale", "quickstart/x", "1", code=2)
    assert "not -1" in machine.run("scale", "quickstart/default", "-1", code=2)

    machine.run("scale", "quickstart/default", "1")
    machine.eventually(lambda: len(machine.workers()) == 1, "one worker is left")
    (left,) = machine.workers()
    events = [event["message"] for event in machine.status()["events"]]
    assert "stopped: it exited with code 0" in events  # it was drained, not killed

    os.kill(left["pid"], signal.SIGKILL)
    machine.eventually(
        lambda: machine.ready() not in ([], [left["id"]]), "the killed worker is replaced"
    )
    (pool,) = machine.status()["items"][0]["failures"]
    assert (pool["lastEnd"], pool["restarts"]) == ("was killed by SIGKILL", 1)
    assert machine.run("chat", "What is a list?", "--max-tokens", "4").strip()
    assert "ready after" in machine.run("logs", "runtime")

    runtime = owner_of(machine)
    machine.run("down")
    assert not runtime.alive
    assert not [identity for identity in machine.seen if identity.alive]
    assert "nothing is running" in machine.run("get", code=2)


def test_a_worker_that_cannot_start_is_reported_and_nothing_is_left(
    machine: Any, manifest: Write
) -> None:
    broken = manifest(engine='{extraArgs: ["--no-such-flag"]}')
    said = machine.run("up", broken, "--detach", "--port", machine.port, code=1)
    assert "exited with code 2, 3 times in a row" in said
    assert "unrecognized arguments: --no-such-flag" in said
    assert "nothing is running" in machine.run("get", code=2)


def test_bad_changes_leave_what_serves_alone(machine: Any, manifest: Write) -> None:
    machine.up(manifest())
    (serving,) = machine.ready()
    broken = manifest(engine='{extraArgs: ["--no-such-flag"]}')
    assert "3 times in a row" in machine.run("up", broken, code=1)
    assert machine.ready() == [serving]
    assert machine.run("chat", "Hi", "--max-tokens", "2").strip()
    (failure,) = machine.status()["items"][0]["failures"]
    assert failure["failuresInARow"] >= 3

    healed = manifest(engine="{maxNumSeqs: 8}")
    machine.run("up", healed)
    assert len(machine.ready()) == 1
    assert machine.ready() != [serving]

    # What cannot be read changes nothing either.
    serving = machine.ready()[0]
    (machine.state.objects / "InferenceDeployment" / "small.json").write_text("{")
    machine.eventually(lambda: "is damaged" in machine.run("logs", "runtime"), "the damage is told")
    assert machine.run("chat", "Hi", "--max-tokens", "2").strip()
    machine.run("up", healed)
    assert machine.ready() == [serving]


def test_in_the_foreground_an_interrupt_drains_everything(machine: Any, manifest: Write) -> None:
    process = subprocess.Popen(
        [machine.command, "up", str(manifest()), "--port", str(machine.port)],
        env=machine.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    machine.eventually(lambda: owner(machine.state) is not None, "the runtime runs")
    machine.eventually(lambda: machine.state.status.exists(), "a status is written")
    machine.eventually(lambda: machine.ready() != [], "a worker is ready")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    assert "stopping" in said
    assert not [identity for identity in machine.seen if identity.alive]


def test_nothing_outlives_a_runtime_that_is_killed(machine: Any, manifest: Write) -> None:
    machine.up(manifest())
    machine.status()
    owner_of(machine).signal(signal.SIGKILL)
    machine.eventually(
        lambda: not any(identity.alive for identity in machine.seen), "its processes end"
    )
    machine.up(manifest())  # and the folder can be used again
    assert len(machine.ready()) == 1


def owner_of(machine: Any) -> Identity:
    found = owner(machine.state)
    assert found is not None
    return found
