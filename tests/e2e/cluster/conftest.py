"""One installation for all tests here. `make e2e` brings the images and says which cluster."""

import os
from collections.abc import Iterator

import figures
import pytest
from installation import Installation, reached, server_version

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
        found.took("ready")
        with reached(found):
            yield found
    finally:
        found.remove()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Tell the timings; those of a whole run without a failure are kept."""
    timings = config.stash.get(TIMINGS, {})
    for metric, seconds in timings.items():
        terminalreporter.write_line(f"{metric}: {seconds} s")
    if timings and exitstatus == 0 and not config.option.keyword:
        case = f"quickstart, Kubernetes {server_version()}"
        for metric, seconds in timings.items():
            figures.keep("e2e", f"{metric}_seconds", case, "s", seconds)
