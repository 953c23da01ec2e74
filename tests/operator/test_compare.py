"""Comparing what is there with what is wanted, as the API server's own rules would have it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock_operator.cluster.compare import contains, merge_patch, missing

scalars = st.one_of(st.booleans(), st.integers(0, 3), st.text("ab", max_size=2))
keys = st.text("xyz", min_size=1, max_size=1)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=3)


def patched(there: Any, patch: Any) -> Any:
    """RFC 7386, as the RFC writes it down."""
    if not isinstance(patch, dict):
        return patch
    result = dict(there) if isinstance(there, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), value)
    return result


@given(objects, objects)
def test_a_merge_patch_turns_one_object_into_the_other(there: Any, wanted: Any) -> None:
    assert patched(there, merge_patch(there, wanted)) == wanted


@given(objects, objects)
def test_there_is_a_patch_only_where_something_differs(there: Any, wanted: Any) -> None:
    assert (merge_patch(there, wanted) == {}) == (there == wanted)


@given(objects, objects)
def test_what_is_not_contained_is_named(there: Any, wanted: Any) -> None:
    assert contains(there, wanted) == (missing(there, wanted) == [])


@given(objects, st.dictionaries(st.text("def", min_size=1), values, max_size=3))
def test_what_others_add_is_no_difference(wanted: Any, added: Any) -> None:
    assert contains({**added, **wanted}, wanted)


def test_lists_count_as_a_whole() -> None:
    assert not contains({"ports": [1, 2]}, {"ports": [1]})
    assert missing({"spec": {"ports": [2, 1]}}, {"spec": {"ports": [1, 2]}}) == ["spec.ports"]
