"""What pages tell a reader to type, to write and to look for is there."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from penstock_contract.api import InferenceDeployment
from penstock_contract.crd import RESOURCES, schema
from penstock_contract.labels import API_VERSION
from penstock_operator.cli import commands
from penstock_operator.manifests import Settings, workload
from penstock_operator.plan import plan
from penstock_operator.validation import parse

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs/", "benchmarks/", "examples/**/")
HISTORY = ROOT / "CHANGELOG.md"  # tells what there was, too
PAGES = sorted({page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md")} - {HISTORY})
PROGRAM = r"(?:make|penstock|python|kubectl|helm)"
TYPED = re.compile(rf"^(?:\$ |    )({PROGRAM} (?:.*\\\n)*.*)$|`({PROGRAM} [^`\n]+)`", re.MULTILINE)

VLLM = ROOT / "docs" / "vllm.md"  # has flags that are vLLM's
OTHERS = ("--set",)
PARTS = ("initContainers", "containers")
SOURCES = "".join(
    path.read_text()
    for folder in ("contract", "operator", "gateway", "worker", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def every(pattern: str) -> list[Any]:
    """Return all that a pattern finds on the pages, as test parameters."""
    return [
        pytest.param(found, id=f"{page.relative_to(ROOT)}:{found[:60]}")
        for page in PAGES
        for found in sorted({m[1] for m in re.finditer(pattern, page.read_text(), re.MULTILINE)})
    ]


def typed(program: str) -> list[Any]:
    """Return the words behind a program's name, wherever a page has somebody type it."""
    lines = [
        (page, (match[1] or match[2]).replace("\\\n", " "))
        for page in PAGES
        for match in TYPED.finditer(page.read_text())
    ]
    return [
        pytest.param(words[1:], id=f"{page.relative_to(ROOT)}:{line[:60]}")
        for page, line in lines
        if (words := shlex.split(line, comments=True))[0] == program and words[1:]
    ]


@pytest.mark.parametrize("words", typed("make"))
def test_make_has_the_target(words: list[str]) -> None:
    assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("words", typed("penstock"))
def test_penstock_has_the_command_and_its_options(words: list[str]) -> None:
    command: click.Command = commands
    while isinstance(command, click.Group):
        name, *words = words
        assert name in command.commands
        command = command.commands[name]
    command.make_parser(click.Context(command)).parse_args([w for w in words if w != "…"])


@pytest.mark.parametrize("words", typed("python"))
def test_the_script_is_there_and_knows_the_flags(words: list[str]) -> None:
    if words[0] == "-m":
        folder, *rest = words[1].split(".")
        script = ROOT / folder.removeprefix("penstock_") / folder / "/".join(rest)
        script = script / "__main__.py" if script.is_dir() else script.with_suffix(".py")
    else:
        script = ROOT / words[0]
    source = script.read_text()
    assert [w for w in words if w.startswith("--") and f'"{w}"' not in source] == []


@pytest.mark.parametrize("flag", every(r"`(?:penstock-\w+ )?(--[a-z][a-z0-9-]+)[ `]"))
def test_a_flag_that_is_named_exists(flag: str) -> None:
    assert f'"{flag}"' in SOURCES or f"`{flag}`" in VLLM.read_text() or flag in OTHERS


@pytest.mark.parametrize("words", typed("kubectl"))
def test_what_is_applied_is_there(words: list[str]) -> None:
    files = [after for word, after in pairwise(words) if word == "-f"]
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("words", typed("helm"))
def test_what_is_set_is_a_value_of_the_chart(words: list[str]) -> None:
    values = yaml.safe_load((ROOT / "charts" / "penstock" / "values.yaml").read_text())
    settings = [after for word, after in pairwise(words) if word == "--set"]
    for setting in ",".join(settings).split(",") if settings else ():
        value = values
        for key in setting.partition("=")[0].split("."):
            assert key in value
            value = value[key]


@pytest.mark.parametrize("text", every(r"^```yaml\n((?:.*\n)*?)```"))
def test_manifests_are_valid(text: str) -> None:
    document = yaml.safe_load(re.sub(r"[0-9a-f]+…", "f" * 64, text))
    if "kind" not in document:  # a part of one
        assert list(document) == ["spec"]
        some = {"model": {"uri": "hf://some/model"}, "pools": [{"name": "default", "replicas": 1}]}
        document = {
            "apiVersion": API_VERSION,
            "kind": "InferenceDeployment",
            "metadata": {"name": "some"},
            "spec": some | document["spec"],
        }
    parse(document)


@pytest.mark.parametrize(
    "words", every(r'^\$ TARGETS="(.+" hack/images\.sh(?:(?!```).*\n)+?.*apply -f examples/\S+)')
)
def test_what_is_applied_finds_the_images_that_were_built(words: str) -> None:
    targets, file = words.partition('"')[0].split(), words.rpartition(" ")[2]
    for document in yaml.safe_load_all((ROOT / file).read_text()):
        assert own_images(document) <= set(targets)


def own_images(document: dict[str, Any]) -> set[str]:
    """Return the images of Penstock's that the pods of an InferenceDeployment are made of."""
    infd = parse(document)
    assert isinstance(infd, InferenceDeployment)
    specs = [
        workload(infd, pool, Settings(), 1)["spec"]["template"]["spec"]
        for pool in plan(infd, {}).pools
    ]
    containers = [one for spec in specs for part in PARTS for one in spec.get(part, [])]
    names = (re.search(r"/penstock-([a-z-]+):", one["image"]) for one in containers)
    return {name[1] for name in names if name}


@pytest.mark.parametrize("text", every(r"^```python\n((?:.*\n)*?)```"))
def test_programs_are_whole(text: str) -> None:
    assert compile(text, "page", "exec")


@pytest.mark.parametrize(
    "path", every(r"`((?:tests|benchmarks|examples|hack|charts|worker|crds)/[\w./-]+\.\w+)`")
)
def test_a_file_that_is_named_exists(path: str) -> None:
    short = path.removeprefix("worker/")  # the map leaves the package out
    assert (ROOT / path).exists() or (ROOT / "worker" / "penstock_worker" / short).exists()


@pytest.mark.parametrize("path", every(r"`(spec(?:\.[a-zA-Z]+)+)`"))
def test_a_field_that_is_named_exists(path: str) -> None:
    assert any(has(schema(resource), path.split(".")) for resource in RESOURCES)


def has(found: dict[str, Any], path: list[str]) -> bool:
    """Whether a schema has a field; lists are entered without a word."""
    while "items" in found:
        found = found["items"]
    if not path:
        return True
    inside = found.get("properties", {})
    return path[0] in inside and has(inside[path[0]], path[1:])


@pytest.mark.parametrize("name", every(r"`(penstock_(?:gateway|worker|operator)_[a-z_]+[a-z])[`{]"))
def test_a_metric_that_is_named_exists(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "reference" / "metrics.md").read_text()
