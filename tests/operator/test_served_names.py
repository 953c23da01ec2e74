"""Who has a name that two deployments ask for, and what the other one is told."""

from typing import Any

from deployments import deployment

from penstock_contract.served_names import Asked, holders
from penstock_operator.cluster.cache import Key
from penstock_operator.cluster.served_names import ServedNames, is_nameless, names_taken

OLD, NEW = Key("team-a", "chat"), Key("team-b", "chat")
MODEL = {"uri": "hf://org/m", "aliases": ["m2"], "adapters": [{"name": "sql", "uri": "hf://o/sql"}]}


def stored(key: Key, created: str, **model: Any) -> dict[str, Any]:
    meta = {"name": key.name, "namespace": key.namespace, "creationTimestamp": created}
    return {"metadata": meta, "spec": {"model": model}}


def test_the_older_keeps_a_name_wherever_it_is() -> None:
    names = ServedNames()
    assert names.note(NEW, stored(NEW, "2026-01-02T00:00:00Z")) == set()
    assert names.lost(NEW) == {}
    assert names.note(OLD, stored(OLD, "2026-01-01T00:00:00Z")) == {NEW}, "looked at again"
    assert names.lost(OLD) == {}
    assert names.lost(NEW) == {"chat": "team-a/chat"}


def test_a_name_that_is_given_up_concerns_those_that_wait_for_it() -> None:
    names = ServedNames()
    names.note(OLD, stored(OLD, "2026-01-01T00:00:00Z"))
    names.note(NEW, stored(NEW, "2026-01-02T00:00:00Z"))
    assert names.note(OLD, stored(OLD, "2026-01-01T00:00:00Z")) == set(), "nothing changed"
    assert names.note(OLD, stored(OLD, "2026-01-01T00:00:00Z", name="other")) == {NEW}
    assert names.lost(NEW) == {}
    assert names.note(OLD, stored(OLD, "2026-01-01T00:00:00Z")) == {NEW}
    assert names.forget(OLD) == {NEW}
    assert names.lost(NEW) == {}
    assert names.forget(OLD) == set()


def test_without_a_name_for_its_model_one_has_none_for_its_adapters() -> None:
    old, new = Asked("n/old", ("m",), 1), Asked("n/new", ("m",), 2, adapters=("sql",))
    last = Asked("n/last", ("sql",), 3)
    assert holders([last, new, old]) == {"m": "n/old", "sql": "n/last"}


def test_what_is_taken_is_told_by_field_with_the_way_out() -> None:
    found = deployment(model=MODEL)
    name = found.served_name
    assert names_taken(found, {}) == ""
    assert names_taken(found, {"m2": "a/x", "sql": "a/y"}) == (
        "spec.model.aliases[0]: 'm2' is served for a/x, which is older; "
        "spec.model.adapters[0].name: 'sql' is served for a/y, which is older; choose another name"
    )
    assert not is_nameless(found, {name: "a/x"})
    assert is_nameless(found, {name: "a/x", "m2": "a/x"})
