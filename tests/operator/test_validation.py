"""Manifests are refused by path, with the fix, before anything acts on them."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deployments import deployment, deployments, manifest
from hypothesis import given

from penstock_contract.api import InferenceDeployment
from penstock_contract.api.patterns import DNS_LABEL, IN_WORDS
from penstock_contract.crd import RESOURCES, schema
from penstock_operator.validation import MAX_BYTES, InvalidManifest, load_manifests

POOL: dict[str, Any] = {"name": "default", "replicas": 1}


def problems(text: str) -> dict[str, str]:
    """Return what is wrong, by path."""
    with pytest.raises(InvalidManifest) as caught:
        load_manifests(text, "test.yaml")
    assert str(caught.value).startswith("test.yaml is not valid:\n")
    return {problem.path: problem.message for problem in caught.value.problems}


def wrong(*pools: dict[str, Any], **spec: Any) -> dict[str, str]:
    return problems(yaml.safe_dump(manifest(*pools, **spec)))


@given(deployments())
def test_what_is_written_is_read_back(infd: InferenceDeployment) -> None:
    assert load_manifests(yaml.safe_dump(infd.to_json()), "test.yaml").objects == [infd]


def test_several_documents_give_several_objects() -> None:
    text = yaml.safe_dump_all([manifest(), None, manifest()])
    assert load_manifests(text, "test.yaml").objects == [deployment(), deployment()]


def test_problems_name_the_field_as_the_user_wrote_it() -> None:
    pool = {"name": "default", "scaling": {"minReplicas": 0, "maxReplicas": 0}}
    assert list(wrong(pool)) == ["spec.pools[0].scaling.maxReplicas"]


def test_every_problem_is_told_at_once() -> None:
    found = wrong({**POOL, "role": "Both"}, engine={"blockSize": 7}, model={"uri": "ftp://x"})
    assert set(found) == {"spec.pools[0].role", "spec.engine.blockSize", "spec.model.uri"}


@pytest.mark.parametrize(
    ("path", "spec", "meant"),
    [
        ("spec.engine.maxNumSeq", {"engine": {"maxNumSeq": 1}}, "maxNumSeqs"),
        ("spec.routing.retries", {"routing": {"retries": 1}}, "retry"),
        ("spec.que", {"que": {}}, "queue"),
    ],
)
def test_a_misspelt_field_gets_a_suggestion(path: str, spec: dict[str, Any], meant: str) -> None:
    assert wrong(**spec)[path] == f"unknown field; did you mean {meant}?"


def test_a_misspelt_field_inside_a_list_gets_one_too() -> None:
    found = wrong({"name": "default", "replica": 1})
    assert "did you mean replicas?" in found["spec.pools[0].replica"]


def test_a_field_that_is_like_none_is_told_which_there_are() -> None:
    found = wrong(routing={"policy": "LeastLoad", "prefixIndex": "Auto"})
    assert found == {"spec.routing.prefixIndex": "unknown field; known here: policy, retry"}


def test_a_missing_field_is_required() -> None:
    assert wrong(model={"revision": "main"}) == {"spec.model.uri": "is required"}


@pytest.mark.parametrize(
    ("path", "pool", "message"),
    [
        ("replicas", {"replicas": "2"}, "must be a number: write it without quotes, 2"),
        (
            "template.env",
            {"template": {"env": [{"name": "A", "value": "b"}]}},
            "must be fields, name: value, not [{'name': 'A', 'value': 'b'}]",
        ),
        (
            "resources.limits.memory",
            {"resources": {"limits": {"memory": "4GB"}}},
            "'4GB' is not a quantity like 500m, 8Gi or 2",
        ),
    ],
)
def test_a_value_of_the_wrong_form_is_told_once_in_words(
    path: str, pool: dict[str, Any], message: str
) -> None:
    assert wrong({**POOL, **pool}) == {f"spec.pools[0].{path}": message}


def test_more_adapters_than_workers_keep_are_refused() -> None:
    adapters = [{"name": name, "uri": "hf://a/b"} for name in ("one", "two")]
    model = {"uri": "hf://a/b", "adapters": adapters}
    found = wrong(model=model, engine={"lora": {"maxAdapters": 1}})
    assert "raise it" in found["spec"]
    kept = manifest(model=model, engine={"lora": {"maxAdapters": 2}})
    assert load_manifests(yaml.safe_dump(kept), "test.yaml").objects


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ([{"name": "a"}], "set exactly one of replicas and scaling"),
        ([{**POOL, "scaling": {"maxReplicas": 2}}], "set exactly one of replicas and scaling"),
    ],
)
def test_rules_are_checked_where_they_stand(pools: list[dict[str, Any]], message: str) -> None:
    assert wrong(*pools) == {"spec.pools[0]": message}


def scheduled(*schedules: dict[str, Any]) -> dict[str, Any]:
    """Return a pool with schedules, each of which differs in something from a good one."""
    good = {"name": "office", "start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 3}
    found = [{k: v for k, v in {**good, **one}.items() if v is not None} for one in schedules]
    return {"name": "a", "scaling": {"minReplicas": 2, "maxReplicas": 8, "schedules": found}}


@pytest.mark.parametrize(
    ("schedules", "path", "message"),
    [
        ([{}, {}], "spec.pools[0].scaling", "schedule names must be unique"),
        ([{"end": "0 8 * * *"}], "spec.pools[0].scaling.schedules[0]", "the same minutes"),
        ([{"end": "0 8 * * 0-7"}], "spec.pools[0].scaling.schedules[0]", "the same minutes"),
        ([{"minReplicas": None}], "spec.pools[0].scaling.schedules[0]", "set minReplicas"),
        ([{"minReplicas": 9}], "spec.pools[0].scaling", "a schedule only narrows"),
        ([{"minReplicas": 1}], "spec.pools[0].scaling", "a schedule only narrows"),
        ([{"minReplicas": None, "maxReplicas": 1}], "spec.pools[0].scaling", "only narrows"),
        ([{"maxReplicas": 2}], "spec.pools[0].scaling.schedules[0]", "must not exceed"),
        ([{"maxReplicas": 0}], "spec.pools[0].scaling.schedules[0].maxReplicas", "1"),
        ([{"start": "0 8 31 6 *"}], "spec.pools[0].scaling.schedules[0].start", "never comes"),
        ([{"start": "8 Uhr"}], "spec.pools[0].scaling.schedules[0].start", ""),
        ([{"end": "0 8 * * mo"}], "spec.pools[0].scaling.schedules[0].end", "sun to sat"),
        ([{"timeZone": "Berlin"}], "spec.pools[0].scaling.schedules[0].timeZone", "Europe/Berlin"),
        ([{"timeZone": "Europe"}], "spec.pools[0].scaling.schedules[0].timeZone", "IANA"),
        ([{"timeZone": "../UTC"}], "spec.pools[0].scaling.schedules[0].timeZone", "IANA"),
    ],
)
def test_schedules_are_checked_where_they_stand(
    schedules: list[dict[str, Any]], path: str, message: str
) -> None:
    (found,) = wrong(scheduled(*schedules)).items()
    assert found[0] == path
    assert message in found[1]


def test_schedules_that_are_right_are_taken() -> None:
    night = {"name": "night", "start": "0 22 * * sun-thu", "timeZone": "Asia/Kolkata"}
    text = yaml.safe_dump(manifest(scheduled({}, night)))
    assert len(load_manifests(text, "test.yaml").objects) == 1


def test_rules_over_pools_are_checked() -> None:
    assert "unique" in wrong(POOL, POOL)["spec"]
    assert "at least one Prefill" in wrong({**POOL, "role": "Prefill"})["spec"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no object"),
        ("a: [", "not YAML: line"),
        ("kind: A\nkind: B", "key 'kind' is given twice"),
        ("- 1", "not an object with apiVersion and kind"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
        ("x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_manifest_is_refused_in_words(text: str, says: str) -> None:
    assert says in problems(text)[""]


def test_unknown_kinds_and_versions_name_the_known_ones() -> None:
    other = yaml.safe_dump({**manifest(), "kind": "InferenceDeploymnt"})
    assert problems(other)["kind"].endswith("known: InferenceDeployment, EnginePool, Tenant")
    old = yaml.safe_dump({**manifest(), "apiVersion": "v1"})
    assert problems(old) == {"apiVersion": "must be penstock.dev/v1alpha1"}


def test_what_belongs_to_other_groups_is_named_and_left_alone() -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}}
    found = load_manifests(yaml.safe_dump_all([claim, manifest()]), "test.yaml")
    assert found.objects == [deployment()]
    assert found.others == ["PersistentVolumeClaim models"]
    assert load_manifests(yaml.safe_dump(claim), "test.yaml").objects == []


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Tenants"},
        {"apiVersion": "v1"},
        {"apiVersion": 1, "kind": [2]},
        {"apiVersion": "v1", "kind": "Tenant"},
    ],
)
def test_what_names_no_other_group_is_a_slip(document: dict[str, Any]) -> None:
    assert problems(yaml.safe_dump_all([document, manifest()]))


def test_problems_of_several_documents_say_which() -> None:
    text = yaml.safe_dump_all([manifest(), manifest(model={"uri": "ftp://x"})])
    assert list(problems(text)) == ["document 2: spec.model.uri"]


@pytest.mark.parametrize(
    "spec", [{"pools": [{"name": "p", "replicas": "3"}]}, {"engine": {"prefixCaching": "no"}}]
)
def test_values_of_another_type_are_refused_as_in_a_cluster(spec: dict[str, Any]) -> None:
    assert wrong(**spec)


def test_a_number_where_a_string_belongs_is_to_be_quoted() -> None:
    assert "quotes" in wrong({**POOL, "costPerHour": 2.1})["spec.pools[0].costPerHour"]


def test_what_is_no_quantity_is_refused_with_an_example() -> None:
    found = wrong({**POOL, "resources": {"limits": {"cpu": "banana"}}})
    assert "500m, 8Gi or 2" in found["spec.pools[0].resources.limits.cpu"]


@pytest.mark.parametrize(
    "text",
    ["apiVersion: penstock.dev/v1alpha1\nkind: [a]", "? [a]\n: b", "[" * 3000],
    ids=["kind is a list", "key is a list", "deeply nested"],
)
def test_hostile_yaml_is_refused_without_a_traceback(text: str) -> None:
    assert problems(text)


def test_a_bad_quantity_is_one_problem() -> None:
    text = yaml.safe_dump(manifest({**POOL, "resources": {"limits": {"cpu": 0.5}}}))
    with pytest.raises(InvalidManifest) as caught:
        load_manifests(text, "test.yaml")
    assert [p.path for p in caught.value.problems] == ["spec.pools[0].resources.limits.cpu"]


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        (
            {"model": {"uri": "ftp://x"}},
            "spec.model.uri",
            "hf://, pvc://, s3://, gs://, oci:// or file://, and what lies there, not 'ftp://x'",
        ),
        (
            {"drain": {"timeout": "30"}},
            "spec.drain.timeout",
            "a duration like 30s, 1m30s or 250ms, not '30'",
        ),
        (
            {"pools": [{**POOL, "name": "A_b"}]},
            "spec.pools[0].name",
            f"{IN_WORDS[DNS_LABEL]}, not 'A_b'",
        ),
    ],
)
def test_what_a_text_must_be_is_told_in_words(spec: dict[str, Any], path: str, words: str) -> None:
    assert wrong(**spec)[path] == f"must be {words}"


def test_no_field_of_a_user_s_answers_with_a_pattern() -> None:
    def patterns(part: Any) -> Iterator[str]:
        """Quantities are checked by a function, which has words of its own."""
        if isinstance(part, dict) and not part.get("x-kubernetes-int-or-string"):
            if isinstance(part.get("pattern"), str):
                yield part["pattern"]
            for inner in part.values():
                yield from patterns(inner)

    specs = [schema(resource)["properties"]["spec"] for resource in RESOURCES]
    found = {pattern for spec in specs for pattern in patterns(spec)}
    assert len(found) > 5
    assert found <= IN_WORDS.keys()
    assert not any(sign in words for words in IN_WORDS.values() for sign in "^$[*+\\")
