"""The token that workers are shown."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.worker_token import ENVIRONMENT, LEAST, WorkerTokens

OLD, NEW = "old-token-0123456789", "new-token-0123456789"


def of(text: str) -> WorkerTokens:
    return WorkerTokens.of({ENVIRONMENT: text})


def shown(tokens: WorkerTokens) -> str:
    return dict(tokens.headers()).get("authorization", "")


def test_what_is_sent_is_accepted() -> None:
    assert of(OLD).admit(shown(of(OLD)))
    assert not of(OLD).admit(shown(of(NEW)))


def test_a_token_can_be_replaced_without_an_interruption() -> None:
    steps = [of(OLD), of(f"{OLD},{NEW}"), of(f"{NEW}, {OLD}"), of(NEW)]
    for before, after in itertools.pairwise(steps):
        assert before.admit(shown(after))
        assert after.admit(shown(before))


@pytest.mark.parametrize("text", ["", "  "])
def test_without_a_token_everybody_may_ask(text: str) -> None:
    assert of(text).headers() == []
    assert of(text).admit("")


@given(st.text())
def test_nothing_else_is_accepted(text: str) -> None:
    assert not of(OLD).admit(text)
    if text.strip() != OLD:
        assert not of(OLD).admit(f"Bearer {text}")
    assert not of(OLD).admit(f"Basic {OLD}")


@pytest.mark.parametrize("text", ["x" * (LEAST - 1), f"{OLD},", "ü" * LEAST, f"{OLD},a\nb" * LEAST])
def test_a_token_that_cannot_be_one_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=ENVIRONMENT) as found:
        of(text)
    assert OLD not in str(found.value)
