"""A real control plane for tests: the one that KUBECONFIG names, or one started for the session.

`PENSTOCK_TEST_CLUSTER` names a script whose `up` starts a control plane and prints the path of its
kubeconfig, and whose `down` ends it. Old state is dropped first; what was started is ended. Test
processes that run side by side share it: the first one starts it, and the last one ends it.
"""

import fcntl
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

import httpx
import yaml
from kube import Access, Kube, Object
from waiting import eventually

ROOT = Path(__file__).parents[2]
MISSING = "no cluster: set KUBECONFIG, or PENSTOCK_TEST_CLUSTER to a script that starts one"


def available() -> bool:
    """Return whether a control plane can be had."""
    return bool(os.environ.get("KUBECONFIG") or os.environ.get("PENSTOCK_TEST_CLUSTER"))


@contextmanager
def control_plane(folder: Path) -> Iterator[Path]:
    """Yield the kubeconfig of a running control plane that knows Penstock's API types.

    Args:
        folder: the same for all who share it.
    """
    if kubeconfig := os.environ.get("KUBECONFIG"):
        _prepare(Path(kubeconfig))
        yield Path(kubeconfig)
    else:
        with _started(os.environ["PENSTOCK_TEST_CLUSTER"], folder / "kubeconfig.path") as path:
            yield path


@contextmanager
def _started(script: str, note: Path) -> Iterator[Path]:
    """Start a control plane, or join the one that was started already.

    Who uses it has a shared lock on the note, in which its kubeconfig's path is written. Who starts
    or ends it has all others wait meanwhile.
    """
    with note.open("a+") as users, note.with_suffix(".lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            if not note.read_text():
                _call(script, "down")
                kubeconfig = _call(script, "up")
                _prepare(Path(kubeconfig))
                note.write_text(kubeconfig)
            fcntl.flock(turn, fcntl.LOCK_UN)
            yield Path(note.read_text())
        finally:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if _is_last(users):
                note.write_text("")
                _call(script, "down")


def _is_last(users: TextIO) -> bool:
    """Return whether nobody else uses the control plane."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _prepare(kubeconfig: Path) -> None:
    with Kube(Access.read(kubeconfig)) as kube:
        eventually(partial(_answers, kube, "/readyz"), "the API server is ready", within=400)
        install_types(kube)


def install_types(kube: Kube) -> None:
    """Apply the CRDs and wait until their objects are served."""
    crds = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    for crd in crds:
        kube.put(crd)
    for crd in crds:
        eventually(partial(_answers, kube, _objects(crd)), f"{crd['metadata']['name']} served")


def _objects(crd: Object) -> str:
    """Return where the objects of a type are listed."""
    spec = crd["spec"]
    version = next(found["name"] for found in spec["versions"] if found["served"])
    return f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"


def _answers(kube: Kube, path: str) -> bool:
    try:
        return kube.http.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _call(script: str, verb: str) -> str:
    done = subprocess.run([script, verb], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@contextmanager
def namespace(access: Access) -> Iterator[Kube]:
    """Yield a client of a fresh namespace, deleted afterwards without waiting for it."""
    name = f"test-{random.getrandbits(40):010x}"
    with Kube(access, name) as kube:
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        eventually(lambda: kube.get("ServiceAccount", "default"), "default service account")
        try:
            yield kube
        finally:
            kube.delete("Namespace", name)
