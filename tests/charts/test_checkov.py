"""checkov finds nothing in what the chart renders, the pods that the planner makes, or the images.

It comes with some hundred packages of its own, so `make tools` keeps it in a separate environment.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_values import CASES
from helm import ROOT, render

from penstock_contract.api import InferenceDeployment
from penstock_operator.manifests import Settings, deployment_objects, pool_objects, workload
from penstock_operator.plan import plan

CHECKOV = Path(os.environ.get("CHECKOV", ROOT / ".cache" / "checkov" / "bin" / "checkov"))
pytestmark = pytest.mark.skipif(
    not CHECKOV.is_file(), reason="no checkov: run `make tools`, or name a binary in CHECKOV"
)

SKIPPED = {
    "CKV_K8S_15": "images have release tags, which never change: pods start without a registry",
    "CKV_K8S_38": "operator and gateway watch the API server: theirs are the only tokens",
    "CKV_K8S_43": "the default is a tag that people can read; values and specs take digests too",
    "CKV_K8S_35": "only the init container that downloads a model sees its source's credentials",
    "CKV_DOCKER_2": "Kubernetes has probes, and ignores HEALTHCHECK",
    "CKV_DOCKER_7": "the base image is an argument, with a tag as its default",
}


def failures(*arguments: str) -> list[str]:
    """Return what checkov objects to."""
    done = subprocess.run(
        [CHECKOV, *arguments, "--skip-check", ",".join(SKIPPED), "--output", "json", "--compact",
         "--skip-download"],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    summary = report["summary"]
    assert summary["passed"] > 50, "too few checks for a check of everything"
    assert not summary["parsing_errors"]
    found = report["results"]["failed_checks"]
    return [f"{check['resource']}: {check['check_id']} {check['check_name']}" for check in found]


def planned(path: Path) -> list[dict[str, Any]]:
    """Return every object that the operator makes of an example."""
    settings = Settings()
    found: list[dict[str, Any]] = []
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] != "InferenceDeployment":
            continue
        document["metadata"]["namespace"] = "models"
        deployment = InferenceDeployment.model_validate(document)
        found += deployment_objects(deployment, settings).values()
        for pool in plan(deployment, {}).pools:
            found += pool_objects(pool, settings).values()
            found.append(workload(deployment, pool, settings, 1))
    return found


@pytest.mark.parametrize("case", ["defaults", "everything", "two namespaces"])
def test_checkov_passes_what_the_chart_renders(case: str, tmp_path: Path) -> None:
    (tmp_path / "rendered.yaml").write_text(yaml.safe_dump_all(render(CASES[case])))
    assert failures("--framework", "kubernetes", "--directory", str(tmp_path)) == []


def test_checkov_passes_every_pod_that_the_examples_lead_to(tmp_path: Path) -> None:
    paths = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
    assert paths
    for path in paths:
        (tmp_path / path.name).write_text(yaml.safe_dump_all(planned(path)))
    assert failures("--framework", "kubernetes", "--directory", str(tmp_path)) == []


def test_checkov_passes_the_dockerfile() -> None:
    assert failures("--framework", "dockerfile", "--file", str(ROOT / "Dockerfile")) == []
