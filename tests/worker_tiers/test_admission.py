"""Which blocks are worth a write, and which loads worth their time."""

from penstock_contract.step_cost import StepCost
from penstock_worker.tiers.admission import TURNOVER_SECONDS, Admission, Sightings
from penstock_worker.tiers.estimate import RETRY_SECONDS, LoadTime

COST = StepCost(step=0.0, prefill_token=0.001, sequence=0.0, kv_token=0.0)


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_while_there_is_room_everything_is_kept() -> None:
    admission = Admission(1 << 20, 4096)
    assert all(admission.admits(name(n), room=True, now=0.0) for n in range(1000))


def test_what_was_asked_for_twice_is_kept_when_the_tier_is_full() -> None:
    admission = Admission(1 << 20, 4096)
    for _ in range(2):
        admission.sightings.see([name(1)])
    assert all(admission.admits(name(1), room=False, now=0.0) for _ in range(100))


def test_what_was_asked_for_once_comes_in_no_faster_than_the_tier_turns_over() -> None:
    capacity, block = 900 * 4096, 4096  # a block each second
    assert TURNOVER_SECONDS == 900
    admission = Admission(capacity, block)
    moments = [step / 10 for step in range(1001)]  # 100 s
    admitted = sum(admission.admits(name(n), room=False, now=t) for n, t in enumerate(moments))
    assert 99 <= admitted <= 102


def test_sightings_are_forgotten_in_time_and_memory_is_bounded() -> None:
    sightings = Sightings(10)
    sightings.see([name(1)])
    assert not sightings.again(name(1))
    sightings.see([name(1)])
    assert sightings.again(name(1))
    sightings.see(name(n) for n in range(100, 109))
    assert sightings.again(name(1))
    sightings.see(name(n) for n in range(200, 230))
    assert not sightings.again(name(1))


def test_an_unknown_medium_is_tried() -> None:
    assert LoadTime().pays(10, 0, 160, COST, now=0.0)


def test_loading_pays_only_where_it_is_sooner_than_computing() -> None:
    time = LoadTime()
    time.learn(10, 0.1, now=0.0)  # 10 ms for each block; computing it takes 16 ms
    assert time.pays(10, 0, 160, COST, now=1.0)
    assert not time.pays(10, 10, 160, COST, now=1.0)  # others are loaded first
    time.learn(10, 1.0, now=1.0)
    assert not time.pays(10, 0, 160, COST, now=2.0)


def test_without_a_measured_step_every_load_pays() -> None:
    time = LoadTime()
    time.learn(1, 100.0, now=0.0)
    assert time.pays(1, 0, 16, None, now=1.0)


def test_a_slow_medium_is_tried_again_after_a_while() -> None:
    time = LoadTime()
    time.learn(1, 100.0, now=0.0)
    assert not time.pays(1, 0, 16, COST, now=RETRY_SECONDS - 1)
    assert time.pays(1, 0, 16, COST, now=RETRY_SECONDS)
