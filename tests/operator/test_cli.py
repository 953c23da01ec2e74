"""What `penstock-operator` says when it cannot start."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

START = [sys.executable, "-c", "from penstock_operator.cluster.cli import main; main()"]


def kubeconfig(folder: Path) -> Path:
    """Write one that names a cluster which nobody asks."""
    path = folder / "kubeconfig"
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [context],
        "current-context": "c",
    }
    path.write_text(json.dumps(content))
    return path


def started(config: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*START, *flags],
        env={**os.environ, "KUBECONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_a_metrics_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--metrics-host", "127.0.0.1", "--metrics-port", port)
        found = started(kubeconfig(tmp_path), *flags)
    assert found.returncode == 1
    assert found.stderr.strip().startswith("penstock-operator: --metrics-port: ")
    assert "in use" in found.stderr


def test_without_a_cluster_it_says_how_to_name_one(tmp_path: Path) -> None:
    found = started(tmp_path / "absent")
    assert found.returncode == 1
    assert "set KUBECONFIG" in found.stderr
