"""When silence means that a worker hangs."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.routing.silence import LONGEST_PREFILL, Tempo, Verdict

PAUSES = st.floats(0, 1e4)


@given(st.lists(PAUSES), st.booleans())
def test_whatever_was_learned_the_bounds_hold(pauses: list[float], decoding: bool) -> None:
    tempo = Tempo()
    for pause in pauses:
        tempo = tempo.ended(pause)
    assert tempo.judge(0.49, decoding=decoding) is Verdict.WELL
    assert tempo.judge(5.0, decoding=decoding) is not Verdict.WELL
    assert tempo.judge(120.0, decoding=True) is Verdict.HUNG


def test_a_worker_that_usually_pauses_long_is_given_longer() -> None:
    quick, slow = Tempo(), Tempo()
    for _ in range(50):
        quick, slow = quick.ended(0.02), slow.ended(1.0)
    assert quick.judge(0.6, decoding=True) is Verdict.SUSPICIOUS
    assert quick.judge(10.0, decoding=True) is Verdict.HUNG
    assert slow.judge(3.0, decoding=True) is Verdict.WELL
    assert slow.judge(19.0, decoding=True) is Verdict.SUSPICIOUS
    assert slow.judge(21.0, decoding=True) is Verdict.HUNG


def test_one_long_pause_is_believed_at_once_and_forgotten_slowly() -> None:
    tempo = Tempo(0.02).ended(2.0)
    assert tempo.pause > 1
    assert tempo.ended(0.02).pause > 0.9


def test_a_prompt_may_take_long() -> None:
    assert Tempo().judge(LONGEST_PREFILL - 1, decoding=False) is Verdict.SUSPICIOUS
    assert Tempo().judge(LONGEST_PREFILL, decoding=False) is Verdict.HUNG
