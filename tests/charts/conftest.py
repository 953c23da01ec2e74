"""The chart's tests need the real Helm; where it can't be had they are skipped, and say so."""

from pathlib import Path

import helm
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if helm.binary() is not None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=helm.MISSING))
