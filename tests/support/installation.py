"""Penstock in a real cluster, installed as a user installs it: Helm, kubectl, and the gateway."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from helm import CHART, NAMESPACE, RELEASE, ROOT, helm
from ports import free_port
from waiting import eventually

QUICKSTART = ROOT / "examples" / "kubernetes" / "quickstart.yaml"
SECURED = ROOT / "examples" / "kubernetes" / "namespace.yaml"
MODELS = "penstock-e2e"
"""Namespace of the models."""


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed."""
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def objects(kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    """Return the objects of a kind."""
    text = kubectl("--namespace", namespace, "get", kind, "--selector", selector, "-o", "json")
    return list(json.loads(text)["items"])


def pod_metric(pod: dict[str, Any], line: str, port: int = 8000) -> float:
    """Return a figure of a release's pod, by the beginning of its line; zero: there is none."""
    name = pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:{port}/proxy/metrics"
    text = kubectl("get", "--raw", path)
    return sum(float(found.split()[-1]) for found in text.splitlines() if found.startswith(line))


def server_version() -> str:
    """Return the version of the API server."""
    return str(json.loads(kubectl("get", "--raw", "/version"))["gitVersion"])


class Installation:
    """A release of the chart, and the quickstart that it serves."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        """Seconds, by what took them."""
        self.url = ""
        self._began = 0.0

    def install(self) -> None:
        """`helm install`, until operator and gateway are available."""
        kubectl("apply", "--filename", str(SECURED))
        kubectl("create", "namespace", MODELS)
        self._began = time.monotonic()
        self.upgrade()
        self.took("available")

    def upgrade(self, **values: Any) -> None:
        """`helm upgrade --install`, until operator and gateway are available."""
        done = helm(
            "upgrade", RELEASE, str(CHART), "--install", "--namespace", NAMESPACE, "--wait",
            "--timeout", "5m", values={**_values(), **values},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{done.stderr}\n{self.state()}")

    def apply(self) -> None:
        """`kubectl apply` of the quickstart, until its condition Ready."""
        kubectl("--namespace", MODELS, "apply", "--filename", str(QUICKSTART))
        self.wait("Ready", "300s")

    def condition(self, name: str, kind: str, namespace: str = MODELS) -> dict[str, Any]:
        """Return a condition of an InferenceDeployment; empty: it has none."""
        text = kubectl("--namespace", namespace, "get", "infd", name, "-o", "json")
        conditions = json.loads(text).get("status", {}).get("conditions", [])
        return next((dict(found) for found in conditions if found["type"] == kind), {})

    def wait(self, condition: str, timeout: str) -> None:
        """`kubectl wait` for a condition of the quickstart."""
        try:
            kubectl(
                "--namespace", MODELS, "wait", f"--for=condition={condition}",
                "inferencedeployment/quickstart", f"--timeout={timeout}",
            )  # fmt: skip
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.state()}") from error

    def settled(self) -> None:
        """Wait until the quickstart as it is now has been rolled out."""

        def rolled_out() -> bool:
            found = self.deployment()
            status = found.get("status", {})
            conditions = {c["type"]: c for c in status.get("conditions", [])}
            return (
                status.get("observedGeneration") == found["metadata"]["generation"]
                and all(conditions.get(n, {}).get("status") == "True" for n in _SETTLED)
                and {p["metadata"].get("deletionTimestamp") for p in self.workers()} == {None}
            )

        try:
            eventually(rolled_out, "the quickstart is rolled out", within=300, every=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.state()}") from error

    def deployment(self) -> dict[str, Any]:
        """Return the quickstart as the API server has it."""
        text = kubectl("--namespace", MODELS, "get", "infd", "quickstart", "-o", "json")
        found: dict[str, Any] = json.loads(text)
        return found

    def patch(self, spec: dict[str, Any]) -> None:
        """Merge into the quickstart's spec."""
        body = json.dumps({"spec": spec})
        kubectl(
            "--namespace", MODELS, "patch", "infd", "quickstart", "--type=merge", "--patch", body
        )  # fmt: skip

    def workers(self) -> list[dict[str, Any]]:
        """Return the quickstart's pods."""
        return objects("pods", MODELS, "penstock.dev/deployment=quickstart")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how long something takes."""
        began = time.monotonic()
        yield
        self.timings[what] = round(time.monotonic() - began, 1)

    def took(self, what: str) -> None:
        """Note how long it has been since `helm install`."""
        self.timings[f"install_to_{what}"] = round(time.monotonic() - self._began, 1)

    def state(self) -> str:
        """Return what a person would look at when something hangs."""
        looks = [
            ("--namespace", MODELS, "get", "infd,enginepools,deployments,pods", "-o", "wide"),
            ("--namespace", MODELS, "get", "infd", "-o", "yaml"),
            ("--namespace", NAMESPACE, "get", "pods", "-o", "wide"),
            ("--namespace", NAMESPACE, "logs", "deployment/penstock-operator", "--tail=60"),
            ("--namespace", NAMESPACE, "logs", "deployment/penstock-gateway", "--tail=30"),
            ("--namespace", MODELS, "get", "events", "--sort-by=.lastTimestamp"),
        ]
        return "\n".join(_try(*look) for look in looks)

    def delete(self) -> None:
        """`kubectl delete` of the quickstart."""
        kubectl("--namespace", MODELS, "delete", "--filename", str(QUICKSTART))

    def uninstall(self) -> None:
        """`helm uninstall`."""
        done = helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
        if done.returncode:
            raise RuntimeError(done.stderr)

    def remove(self) -> None:
        """Take everything away that may be left of a failed test."""
        _try("--namespace", MODELS, "delete", "infd", "--all", "--timeout=60s")
        helm("uninstall", RELEASE, "--namespace", NAMESPACE)
        _try("delete", "namespace", MODELS, NAMESPACE, "--timeout=120s")


_SETTLED = ("Ready", "PoolsReady", "RolloutComplete")


@contextmanager
def serving(installation: Installation) -> Iterator[Installation]:
    """Let the release that is there serve the quickstart; in the end neither is left."""
    try:
        installation.apply()
        installation.settled()
        with reached(installation):
            yield installation
    finally:
        installation.delete()
        installation.uninstall()


@contextmanager
def reached(installation: Installation) -> Iterator[None]:
    """Set the URL of the gateway's Service: its own address, else a port that is forwarded."""
    text = kubectl("--namespace", NAMESPACE, "get", "service", f"{RELEASE}-gateway", "-o", "json")
    spec = json.loads(text)["spec"]
    address = (spec["clusterIP"], spec["ports"][0]["port"])
    if _connects(address):
        installation.url = f"http://{address[0]}:{address[1]}"
        yield
        return
    port = free_port()
    forward = subprocess.Popen(
        ["kubectl", "--namespace", NAMESPACE, "port-forward", f"service/{RELEASE}-gateway",
         f"{port}:{address[1]}"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually(lambda: _connects(("127.0.0.1", port)), "the port is forwarded")
        installation.url = f"http://127.0.0.1:{port}"
        yield
    finally:
        forward.terminate()
        forward.wait()


def _values() -> dict[str, Any]:
    """Return what PENSTOCK_E2E_VALUES, the name of a file, has beside the defaults."""
    named = os.environ.get("PENSTOCK_E2E_VALUES")
    return dict(yaml.safe_load(Path(named).read_text())) if named else {}


def _connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError:
        return False
    return True


def _try(*arguments: str) -> str:
    try:
        return f"$ kubectl {' '.join(arguments)}\n{kubectl(*arguments)}"
    except RuntimeError as error:
        return str(error)
