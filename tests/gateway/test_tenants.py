"""Who a key belongs to, what a tenant may ask for, and where tenants come from."""

import ast
import base64
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_contract.api import Tenant as Manifest
from penstock_contract.api_keys import hash_of, new_key
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue
from penstock_gateway.tenants import registry
from penstock_gateway.tenants.cluster import NotUnderstood, hashes_in, manifest_of
from penstock_gateway.tenants.registry import TenantRegistry, registry_of
from penstock_gateway.tenants.source import TenantFile
from penstock_gateway.tenants.tenancy import LONGEST_KEY, Tenancy, sent_key
from penstock_gateway.tenants.tenant import ANYONE, SHARED_SALT, Tenant
from penstock_gateway.tenants.usage import Usage

KEY, OTHER = new_key(b"a" * 24), new_key(b"b" * 24)
LOW, MIDDLE, HIGH = (
    FleetClass(name=name, priority=priority, weight=weight)
    for name, priority, weight in (("batch", -10, 1), ("standard", 0, 2), ("interactive", 100, 4))
)
QUEUE = FleetQueue(classes=(LOW, MIDDLE, HIGH), default=MIDDLE)


def manifest(name: str = "team", *keys: str, **spec: Any) -> Manifest:
    listed = spec.pop("apiKeys", [{"sha256": hash_of(key)} for key in keys or (KEY,)])
    return Manifest.model_validate(
        {"metadata": {"name": name}, "spec": {"apiKeys": listed, **spec}}
    )


def tenant(**spec: Any) -> Tenant:
    return Tenant.of("team", manifest(**spec).spec)


def test_each_of_two_live_keys_opens_and_no_other_does() -> None:
    found = registry_of([manifest("team", KEY, OTHER)], {})
    for key in (KEY, OTHER):
        owner = found.find(key)
        assert owner is not None
        assert owner.id == "team"
    for wrong in (KEY[:-1], KEY + "0", KEY.upper(), "", hash_of(KEY)):
        assert found.find(wrong) is None


def test_keys_are_compared_in_constant_time_only() -> None:
    """No `==` on anything but lengths and names in the module that compares hashes."""
    tree = ast.parse(inspect.getsource(registry))
    compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare)]
    names = {"owner.id != tenant.id", "tenant.id == tenant_id"}
    assert {ast.unparse(n) for n in compared} == names
    assert "hmac.compare_digest" in ast.unparse(tree)


def test_a_key_of_two_tenants_stays_with_the_first_and_is_told() -> None:
    found = registry_of([manifest("b"), manifest("a")], {})
    owner = found.find(KEY)
    assert owner is not None
    assert owner.id == "a"
    assert found.problems == ("Tenant b: Tenant a has the same key, and keeps it",)


def test_keys_come_from_secrets() -> None:
    asked = manifest(apiKeys=[{"name": "s"}, {"name": "s", "key": "old"}])
    found = registry_of([asked], {"s": {"key": hash_of(KEY), "old": hash_of(OTHER)}})
    assert found.find(KEY) is found.find(OTHER) is not None
    assert not found.problems


@pytest.mark.parametrize(
    ("secrets", "said"),
    [
        ({}, "the key 'key' of the Secret 's' is not there"),
        ({"s": {"other": hash_of(KEY)}}, "the key 'key' of the Secret 's' is not there"),
        ({"s": {"key": KEY}}, "the key 'key' of the Secret 's' is no hash"),
    ],
)
def test_a_key_that_cannot_be_read_opens_nothing_and_the_gateway_stays_closed(
    secrets: dict[str, dict[str, str]], said: str
) -> None:
    found = registry_of([manifest(apiKeys=[{"name": "s"}])], secrets)
    assert found.find(KEY) is None
    assert not found.is_empty
    assert said in found.problems[0]
    assert KEY not in found.problems[0]


def test_a_tenant_of_another_version_opens_nothing_but_is_there() -> None:
    found = manifest_of({"metadata": {"name": "new"}, "spec": {"apiKeys": [], "quota": 3}})
    assert isinstance(found, NotUnderstood)
    assert found.problem.startswith("Tenant new: spec.")
    assert not registry_of([], {}, [found.problem]).is_empty


def test_of_a_secret_only_hashes_are_kept() -> None:
    def secret(**data: str) -> dict[str, Any]:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
        return {"metadata": {"name": "s"}, "data": encoded}

    found = hashes_in(secret(key=hash_of(KEY) + "\n", password="hunter2", binary="\xff"))
    assert found is not None
    assert found.hashes == {"key": hash_of(KEY)}
    assert hashes_in(secret(password="hunter2")) is None
    assert hashes_in({"metadata": {"name": "s"}}) is None


def test_a_model_is_allowed_by_its_own_name_or_by_its_main_one() -> None:
    model = FleetModel(name="m", aliases=("alias",), deployment="d")
    assert tenant().may_use("alias", model)
    assert tenant(models=["m"]).may_use("alias", model)
    assert tenant(models=["alias"]).may_use("alias", model)
    assert not tenant(models=["alias"]).may_use("m", model)
    assert not tenant(models=["x"]).may_use("m", model)


def test_an_adapter_is_allowed_by_its_own_name_only() -> None:
    model = FleetModel(name="m", aliases=("alias",), adapters=("sql",), deployment="d")
    assert tenant().may_use("sql", model)
    assert tenant(models=["sql"]).may_use("sql", model)
    assert not tenant(models=["m", "alias"]).may_use("sql", model)
    assert not tenant(models=["sql"]).may_use("m", model)


@pytest.mark.parametrize(
    ("allowed", "wanted", "found"),
    [
        ([], "", "standard"),
        ([], "auto", "standard"),
        (["interactive", "standard"], "interactive", "interactive"),
        (["interactive", "standard"], "", "standard"),
        (["batch"], "", "batch"),
        (["interactive"], "", "interactive"),
        (["interactive", "batch"], "default", "batch"),
        (["gone"], "", "standard"),
    ],
)
def test_priority_is_clamped_to_the_classes_of_the_tenant(
    allowed: list[str], wanted: str, found: str
) -> None:
    assert tenant(requestClasses=allowed).request_class(QUEUE, wanted).name == f"{found}/team"


@pytest.mark.parametrize("allowed", [[], ["batch"], ["gone"]])
def test_a_class_that_is_not_open_is_refused(allowed: list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        tenant(requestClasses=allowed).request_class(QUEUE, "interactive")
    assert refused.value.code is ErrorCode.PERMISSION_DENIED
    assert refused.value.param == "service_tier"


def test_the_weight_of_a_tenant_multiplies_that_of_its_class() -> None:
    found = tenant(weight=3, requestClasses=["interactive"]).request_class(QUEUE, "interactive")
    assert (found.weight, found.priority) == (12, 100)
    assert ANYONE.request_class(QUEUE, "interactive") is HIGH


def test_salts_differ_between_tenants_and_stay_over_restarts() -> None:
    one, same, other = (Tenant.of(name, manifest().spec).salt for name in ("team", "team", "other"))
    assert one == same != other
    assert SHARED_SALT not in (one, other)
    assert tenant(cacheIsolation=False).salt == SHARED_SALT


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer k", None, "k"),
        ("bearer  k ", None, "k"),
        ("Basic k", None, ""),
        (None, "k", "k"),
        ("Bearer a", "b", "a"),
        (None, None, ""),
    ],
)
def test_a_key_is_sent_as_openai_or_as_anthropic_does(
    authorization: str | None, x_api_key: str | None, key: str
) -> None:
    assert sent_key(authorization, x_api_key) == key


def tenancy(*manifests: Manifest, **options: bool) -> Tenancy:
    found = Tenancy(lambda: 0.0, **options)
    found.change(registry_of(manifests, {}))
    return found


def test_a_gateway_that_does_not_know_its_tenants_yet_lets_nobody_in() -> None:
    with pytest.raises(ApiError) as refused:
        Tenancy(lambda: 0.0).identify(KEY)
    assert refused.value.code is ErrorCode.NO_CAPACITY


def test_without_tenants_everybody_comes_in_unless_keys_are_required() -> None:
    assert tenancy().identify("") is ANYONE
    with pytest.raises(ApiError):
        tenancy(keys_required=True).identify("")


@pytest.mark.parametrize("key", ["", "wrong", "x" * (LONGEST_KEY + 1), "ü\udcff"])
def test_with_tenants_only_their_keys_open(key: str) -> None:
    closed = tenancy(manifest())
    assert closed.identify(KEY).id == "team"
    with pytest.raises(ApiError) as refused:
        closed.identify(key)
    assert refused.value.code is ErrorCode.INVALID_API_KEY
    assert key not in refused.value.message or not key


def test_a_removed_key_opens_nothing_from_then_on() -> None:
    found = tenancy(manifest("team", KEY, OTHER))
    found.change(registry_of([manifest("team", OTHER)], {}))
    assert found.identify(OTHER).id == "team"
    with pytest.raises(ApiError):
        found.identify(KEY)


def test_what_was_used_outlives_a_change_of_the_tenants() -> None:
    limits = {"requestsPerMinute": 1}
    found = tenancy(manifest(limits=limits))
    found.request(KEY).begin()
    found.change(registry_of([manifest(limits=limits), manifest("other", OTHER)], {}))
    with pytest.raises(ApiError):
        found.request(KEY).begin()


def test_when_the_last_tenant_is_gone_no_key_is_needed() -> None:
    found = tenancy(manifest())
    found.change(TenantRegistry())
    assert found.is_open


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        ([b'{"choices":[],"usage":{"prompt_tokens":3,"total_tokens":12}}'], 12),
        ([b'{"usage":{"total', b'_tokens": 34}}'], 34),
        ([b'data: {"a":1}\n\n', b'data: {"a":2}\n\ndata: [DONE]\n\n'], 7),
        ([b'data: {"t":"\\"total_tokens\\":9"}\n\n'], 6),
        ([b'data: {"x":1}\n\n', b'data: {"usage":{"total_tokens":50}}\n\ndata: [DONE]\n\n'], 50),
        ([], 0),
    ],
)
def test_usage_is_read_from_the_bytes_that_pass_by(pieces: list[bytes], tokens: int) -> None:
    usage = Usage(5)
    for piece in pieces:
        usage.saw(piece)
    assert usage.tokens == tokens


def test_ids_that_went_by_count_more_than_events_and_less_than_usage() -> None:
    usage = Usage(5)
    usage.seen = 20
    usage.saw(b'data: {"a":1}\n\n')
    assert usage.tokens == 20
    usage.saw(b'data: {"usage":{"total_tokens":50}}\n\n')
    assert usage.tokens == 50


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tenants.yaml"


def write(file: Path, *manifests: Manifest) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(yaml.safe_dump_all(found.to_json() for found in manifests))
    temporary.replace(file)


def test_a_file_is_read_whenever_it_is_replaced(file: Path) -> None:
    source = TenantFile(file)
    assert source.poll() is None
    for key in (KEY, OTHER):
        write(file, manifest("team", key))
        found = source.poll()
        assert found is not None
        assert found.find(key) is not None
        assert source.poll() is None


def test_a_file_without_tenants_is_an_open_gateway(file: Path) -> None:
    file.touch()
    found = TenantFile(file).poll()
    assert found is not None
    assert found.is_empty


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("{"),
        lambda file: file.write_text("kind: Pod\nmetadata: {name: x}\nspec: {}\n"),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text("[" * 10_000),
        lambda file: file.unlink(),
    ],
)
def test_a_damaged_file_never_opens_the_gateway(file: Path, damage: Callable[[Path], None]) -> None:
    write(file, manifest())
    source = TenantFile(file)
    assert source.poll() is not None
    damage(file)
    assert source.poll() is None
