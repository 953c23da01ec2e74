"""Tickets of gateway and batch service."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.on_behalf import ENVIRONMENT, VALID_SECONDS, Seals, Ticket, Towards, work

NOW = 1_763_700_000.0
SEALS = Seals(("a-token-of-sixteen",))
ANN = Ticket("ann", work("POST", "/v1/completions", b"{}"))


@given(
    st.text(max_size=60).filter(lambda text: text.isprintable()),
    st.sampled_from(Towards),
    st.binary(max_size=60),
)
def test_a_ticket_tells_whom_and_what_it_was_made_for(
    tenant: str, towards: Towards, body: bytes
) -> None:
    made = Ticket(tenant, work("POST", "/v1/files", body))
    found = SEALS.open(towards, SEALS.seal(towards, made, NOW), NOW)
    assert found == made
    assert found.covers("POST", "/v1/files", body)


@pytest.mark.parametrize(
    "other",
    [("POST", "/v1/completions", b"{ }"), ("POST", "/v1/embeddings", b"{}"), ("GET", "/v1/files")],
)
def test_a_ticket_covers_one_request_and_no_other(other: tuple[str, str, bytes]) -> None:
    assert ANN.covers("POST", "/v1/completions", b"{}")
    assert not ANN.covers(*other)


def test_a_ticket_of_the_version_before_opens_nothing() -> None:
    said = f"{Towards.GATEWAY}.{int(NOW)}.YW5u"
    mac = hmac.new(SEALS.values[0].encode(), said.encode(), hashlib.sha256).hexdigest()
    assert SEALS.open(Towards.GATEWAY, f"{said}.{mac}", NOW) is None


def test_a_ticket_opens_one_direction_for_a_while_with_the_right_token() -> None:
    ticket = SEALS.seal(Towards.GATEWAY, ANN, NOW)
    assert SEALS.open(Towards.BATCHES, ticket, NOW) is None
    assert SEALS.open(Towards.GATEWAY, ticket, NOW + VALID_SECONDS + 1) is None
    assert SEALS.open(Towards.GATEWAY, ticket, NOW - VALID_SECONDS - 1) is None
    assert Seals(("another-token-here",)).open(Towards.GATEWAY, ticket, NOW) is None
    assert Seals().open(Towards.GATEWAY, ticket, NOW) is None


@given(st.integers(0, 200), st.characters(codec="latin-1"))
def test_no_changed_ticket_opens_anything(place: int, character: str) -> None:
    ticket = SEALS.seal(Towards.GATEWAY, ANN, NOW)
    changed = ticket[:place] + character + ticket[place + 1 :]
    if changed != ticket:
        assert SEALS.open(Towards.GATEWAY, changed, NOW) is None


@given(st.text(max_size=100))
def test_whatever_is_sent_is_no_ticket(text: str) -> None:
    assert SEALS.open(Towards.GATEWAY, text, NOW) is None


def test_a_token_can_be_replaced_without_a_gap() -> None:
    both = Seals.of({ENVIRONMENT: "the-new-token-of-ours, a-token-of-sixteen"})
    old = SEALS.seal(Towards.GATEWAY, ANN, NOW)
    assert both.open(Towards.GATEWAY, old, NOW) == ANN
    new = both.seal(Towards.GATEWAY, ANN, NOW)
    assert SEALS.open(Towards.GATEWAY, new, NOW) is None
    assert Seals(both.values[:1]).open(Towards.GATEWAY, new, NOW) == ANN


def test_a_token_that_is_too_short_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="16 characters") as refused:
        Seals.of({ENVIRONMENT: "short"})
    assert "short" not in str(refused.value)
    with pytest.raises(ValueError, match=ENVIRONMENT):
        Seals.of({}).seal(Towards.GATEWAY, ANN, NOW)
