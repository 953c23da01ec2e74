"""Any JSON, made of words that a parser knows, for tests that nothing sent breaks it."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


def json_values(keys: Sequence[str], words: Sequence[str]) -> st.SearchStrategy[Any]:
    """Return JSON values whose objects have some of these keys and words in them."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys), inner | st.sampled_from(words), max_size=4)
        ),
        max_leaves=12,
    )
