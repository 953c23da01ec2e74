"""The chart carries the CRDs as they are generated, behind its flags."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_contract.crd import RESOURCES, crd

TEMPLATE = Path(__file__).parents[2] / "charts" / "penstock" / "templates" / "crds.yaml"


def rendered(*, keep: bool) -> list[dict[str, Any]]:
    """Render the template's few actions as Helm does with crds.install."""
    lines: list[str] = []
    inside_keep = False
    for line in TEMPLATE.read_text().splitlines():
        if line.startswith("{{-"):
            inside_keep = "keep" in line or (inside_keep and "end" not in line)
        elif keep or not inside_keep:
            lines.append(line)
    return list(yaml.safe_load_all("\n".join(lines)))


@pytest.mark.parametrize("keep", [True, False])
def test_the_chart_installs_exactly_the_generated_crds(keep: bool) -> None:
    found = rendered(keep=keep)
    for document in found:
        annotations = document["metadata"].pop("annotations", {})
        assert annotations == ({"helm.sh/resource-policy": "keep"} if keep else {})
    assert found == [crd(resource) for resource in RESOURCES]
