"""One installation for all tests here. `make e2e` brings the images and says which cluster."""

import json
import os
from collections.abc import Iterator

import pytest
from installation import Installation, reached

TIMINGS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def installation(request: pytest.FixtureRequest) -> Iterator[Installation]:
    """A release that serves the quickstart."""
    if not os.environ.get("PENSTOCK_E2E"):
        pytest.skip("needs images in a cluster: run `make e2e`")
    found = Installation()
    request.config.stash[TIMINGS] = found.timings
    try:
        found.install()
        found.apply()
        with reached(found):
            yield found
    finally:
        found.remove()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    timings = config.stash.get(TIMINGS, None)
    if timings:
        terminalreporter.write_line(json.dumps({"benchmark": "e2e_cluster", **timings}))
