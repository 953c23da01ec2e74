"""Fixtures of the tests that need a control plane; without one they are skipped, and it is said."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import pytest
from api_proxy import ApiProxy
from fake_node import FakeNode
from kube import Access, Kube, Object
from operated import Site
from operated import site as open_site

HERE = Path(__file__).parent
SKIPPED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if cluster.available():
        # The control plane may have to be built for the first one, of files that run side by side.
        for item in {item.path: item for item in reversed(ours)}.values():
            item.add_marker(pytest.mark.timeout(1800))
        return
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=cluster.MISSING))
    config.stash[SKIPPED] = len(ours)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if count := config.stash.get(SKIPPED, 0):
        terminalreporter.write_line(
            f"{count} cluster tests skipped: {cluster.MISSING}", yellow=True
        )


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the one of all processes
    with cluster.control_plane(folder) as path:
        yield path


@pytest.fixture(scope="session")
def access(kubeconfig: Path) -> Access:
    return Access.read(kubeconfig)


@pytest.fixture(scope="session")
def node(access: Access) -> Iterator[FakeNode]:
    with FakeNode(access) as node:
        yield node


@pytest.fixture
def kube(access: Access) -> Iterator[Kube]:
    """A client of a fresh namespace, which goes away with its content afterwards."""
    with cluster.namespace(access) as kube:
        yield kube


@pytest.fixture
def proxy(access: Access) -> Iterator[ApiProxy]:
    with ApiProxy(access) as proxy:
        yield proxy


@pytest.fixture
def site(access: Access, node: FakeNode, tmp_path: Path) -> Iterator[Site]:
    """A fresh namespace with a running operator."""
    with open_site(access, node, tmp_path) as site:
        yield site


@pytest.fixture
def watchful(access: Access, node: FakeNode, tmp_path: Path) -> Iterator[Site]:
    """The same with an operator that looks at everything again every two seconds."""
    with open_site(access, node, tmp_path, "--resync", "2s") as site:
        yield site


@pytest.fixture(scope="session")
def clean(
    access: Access, node: FakeNode, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Object], dict[str, Any]]:
    """What a clean install of a spec comes to; each is made once."""
    known: dict[str, dict[str, Any]] = {}

    def install(manifest: Object) -> dict[str, Any]:
        key = json.dumps(manifest, sort_keys=True)
        if key not in known:
            with open_site(access, node, tmp_path_factory.mktemp("clean")) as site:
                site.kube.apply(manifest)
                known[key] = site.settle()
        return known[key]

    return install
