"""Fixtures of the tests that need a control plane; without one they are skipped, and it is said."""

from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest
from api_proxy import ApiProxy
from fake_node import FakeNode
from kube import Access, Kube

HERE = Path(__file__).parent
SKIPPED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if cluster.available():
        return
    ours = [item for item in items if HERE in item.path.parents]
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
def kubeconfig() -> Iterator[Path]:
    with cluster.control_plane() as path:
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
