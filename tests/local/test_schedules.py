"""Schedules in the local runtime, with real workers."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

MODEL = Path(__file__).parents[2] / "examples" / "model"


def test_an_open_schedule_gets_its_workers_and_says_so(machine: Any, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    start, end = (
        f"{when.minute} {when.hour} * * *"
        for when in (now - timedelta(hours=1), now + timedelta(hours=2))
    )
    path = tmp_path / "manifest.yaml"
    path.write_text(f"""\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: office}}
spec:
  model: {{uri: "file://{MODEL}", name: office}}
  engine: {{maxModelLen: 512, extraArgs: ["--threads", "1"]}}
  pools:
  - name: default
    scaling:
      maxReplicas: 3
      schedules: [{{name: hours, start: "{start}", end: "{end}", minReplicas: 2}}]
""")
    machine.up(path)
    machine.eventually(lambda: len(machine.ready()) == 2, "two workers serve")
    change = machine.pool()["lastScale"]
    assert (change["from"], change["to"]) == (1, 2)
    assert change["reason"].startswith("schedule hours: at least 2; ")
    explained = machine.run("explain", "office")
    assert "2 to 3 workers now" in explained
    assert "at least 2, until" in explained
