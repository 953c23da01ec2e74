"""KV events: vLLM's bytes, read in every spelling, and what a follower believes of them."""

import base64
import contextlib
from collections import deque
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.kv_events.follower import Follower, Update
from penstock_contract.kv_events.wire import (
    STORAGE,
    AllBlocksCleared,
    Batch,
    BlockRemoved,
    BlockStored,
    Encoding,
    Event,
    NotKVEvents,
    Topic,
    decode,
    encode,
)

FIRST, SECOND = bytes(range(16)), b"\xff" * 16
BATCH = Batch(
    1763700000.5,
    [
        AllBlocksCleared(),
        BlockStored([FIRST, SECOND], None, [0, 1, 2, 3], 2),
        BlockRemoved([FIRST]),
    ],
    0,
)
# One block of an adapter's, as a running vLLM 0.32.0 published it.
RECORDED = base64.b64decode(
    "k8tB2sCEsBT9JpGLpHR5cGWrQmxvY2tTdG9yZWSsYmxvY2tfaGFzaGVzkc+7JVHKQsD4lrFwYXJlbnRfYmxvY2tf"
    "aGFzaMCpdG9rZW5faWRz3ACACgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8wMTIzNDU2Nzg5"
    "Ojs8PT4/QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9gYWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7"
    "fH1+f8yAzIHMgsyDzITMhcyGzIfMiMyJqmJsb2NrX3NpemXMgKdsb3JhX2lkAaZtZWRpdW2jR1BVqWxvcmFfbmFt"
    "ZaRsb3JhqmV4dHJhX2tleXORkaRsb3JhqWdyb3VwX2lkeACya3ZfY2FjaGVfc3BlY19raW5krmZ1bGxfYXR0ZW50"
    "aW9uAA=="
)
# What vLLM 0.32.0's own KVEventBatch encodes to.
MAPS = bytes.fromhex(
    "93cb41da47fb482000009381a474797065b0416c6c426c6f636b73436c656172656488a474797065ab426c6f636b53"
    "746f726564ac626c6f636b5f68617368657392c410000102030405060708090a0b0c0d0e0fc410ffffffffffffffff"
    "ffffffffffffffffb1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f6964739400010203aa626c6f63"
    "6b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c083a474797065ac426c"
    "6f636b52656d6f766564ac626c6f636b5f68617368657391c410000102030405060708090a0b0c0d0e0fa66d656469"
    "756da347505500"
)
ARRAYS = bytes.fromhex(
    "93cb41da47fb482000009391b0416c6c426c6f636b73436c656172656498ab426c6f636b53746f72656492c4100001"
    "02030405060708090a0b0c0d0e0fc410ffffffffffffffffffffffffffffffffc0940001020302c0a3475055c093ac"
    "426c6f636b52656d6f76656491c410000102030405060708090a0b0c0d0e0fa347505500"
)


@pytest.mark.parametrize(("encoding", "golden"), [(Encoding.MAPS, MAPS), (Encoding.ARRAYS, ARRAYS)])
def test_a_batch_is_what_it_always_was_on_the_wire(encoding: Encoding, golden: bytes) -> None:
    assert encode(BATCH, encoding) == golden
    assert decode(golden) == BATCH


@pytest.mark.parametrize("encoding", Encoding)
def test_blocks_of_another_tier_are_told_apart_from_those_in_memory(encoding: Encoding) -> None:
    """vLLM's own placeholder: of what its tiers hold, it may know no more than the hash."""
    events: list[Event] = [
        BlockStored([FIRST], None, [], 0, medium=STORAGE),
        BlockRemoved([FIRST]),
        BlockRemoved([SECOND], STORAGE),
    ]
    found = decode(encode(Batch(0.5, events, 0), encoding))
    assert found.events == events
    follower = Follower()
    assert follower.live("epoch", 0, found.events).events == events


@pytest.mark.parametrize(
    ("written", "events"),
    [
        ([1, [["BlockRemoved", [7, -7]]]], [BlockRemoved([7, -7])]),  # integer hashes, no rank
        ([1.0, [["BlockStored", [7], 6, [1, 2], 2, None]], 1], [BlockStored([7], 6, [1, 2], 2)]),
        ({"ts": 1.0, "events": [{"type": "AllBlocksCleared"}]}, [AllBlocksCleared()]),
        (
            [1.0, [{"type": "BlockRemoved", "block_hashes": [b"x"], "medium": None, "new": 1}], 0],
            [BlockRemoved([b"x"], None)],
        ),
        ([1.0, [["BlockRemoved", [1], "CPU", "new"]], 0], [BlockRemoved([1], "CPU")]),
    ],
)
def test_other_engines_spellings_are_understood(written: object, events: list[Event]) -> None:
    assert decode(msgspec.msgpack.encode(written)).events == events


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", MAPS[:-9], b"\x90"]
    + [
        msgspec.msgpack.encode(wrong)
        for wrong in (
            7,
            [],
            [1.0],
            [1.0, 5],
            [1.0, [["Unheard", []]]],
            [1.0, [["BlockStored"]]],
            [1.0, [{"type": "BlockRemoved", "block_hashes": [1.5]}]],
            [1.0, [[]]],
            ["now", []],
        )
    ],
)
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(NotKVEvents):
        decode(payload)


@given(st.binary(max_size=64))
def test_no_bytes_do_harm(payload: bytes) -> None:
    with contextlib.suppress(NotKVEvents):
        decode(payload)


def test_what_a_running_vllm_published_is_read() -> None:
    found = decode(RECORDED)
    (event,) = found.events
    assert isinstance(event, BlockStored)
    assert (event.token_ids, event.block_size) == (list(range(10, 138)), 128)
    assert (event.block_hashes, event.parent_block_hash) == ([13485274588376004758], None)
    assert (event.medium, event.lora_name, found.data_parallel_rank) == ("GPU", "lora", 0)


def test_a_topic_tells_worker_epoch_and_model() -> None:
    topic = Topic("pod-uid", "9f", "org/model")
    assert topic.encode() == b"kv@pod-uid/9f@org/model"
    assert Topic.decode(topic.encode()) == topic
    assert Topic.decode(b"kv@pod@model") == Topic("pod", "", "model")
    with pytest.raises(NotKVEvents):
        Topic.decode(b"kv-events")


def apply(index: set[int], update: Update) -> None:
    if update.reset:
        index.clear()
    for event in update.events:
        match event:
            case BlockStored(hashes):
                index.update(h for h in hashes if isinstance(h, int))
            case BlockRemoved(hashes):
                index.difference_update(h for h in hashes if isinstance(h, int))
            case AllBlocksCleared():
                index.clear()


def test_a_follower_from_the_start_needs_no_replay() -> None:
    follower, index = Follower(), set[int]()
    for number, event in enumerate([BlockStored([1], None, [], 0), BlockStored([2], 1, [], 0)]):
        update = follower.live("a", number, [event])
        assert not update.replay
        assert not update.reset
        apply(index, update)
    assert index == {1, 2}


def test_who_joins_late_asks_for_a_replay_and_keeps_what_comes_meanwhile() -> None:
    follower, index = Follower(), set[int]()
    assert follower.live("a", 5, [BlockStored([5], None, [], 0)]).replay
    assert not follower.live("a", 6, [BlockRemoved([3])]).events
    for number in range(3, 5):  # the worker no longer knows 0 to 2
        apply(index, follower.replayed("a", number, [BlockStored([number], None, [], 0)]))
    apply(index, follower.replay_ended())
    assert index == {4, 5}


def test_a_gap_drops_everything() -> None:
    follower, index = Follower(), set[int]()
    apply(index, follower.live("a", 0, [BlockStored([1], None, [], 0)]))
    update = follower.live("a", 2, [])
    assert (update.reset, update.replay, update.events) == (True, True, [])


def test_a_new_epoch_drops_everything() -> None:
    follower, index = Follower(), set[int]()
    apply(index, follower.live("a", 0, [BlockStored([1], None, [], 0)]))
    update = follower.live("b", 0, [BlockStored([2], None, [], 0)])
    assert update.reset
    assert not update.replay
    apply(index, update)
    assert index == {2}


def test_a_replay_of_an_earlier_epoch_is_passed_over() -> None:
    follower = Follower()
    follower.live("a", 3, [])
    follower.live("b", 0, [])
    assert follower.replayed("a", 0, [BlockStored([1], None, [], 0)]) == Update()
    assert follower.replay_ended() == Update()


def test_a_doubled_message_is_taken_once() -> None:
    follower = Follower()
    event: list[Event] = [BlockStored([1], None, [], 0)]
    assert follower.live("a", 0, event).events == event
    assert follower.live("a", 0, event) == Update()


@dataclass
class Worker:
    """A worker with a cache, restarts, and a short memory."""

    epoch: int = 0
    number: int = 0
    cached: set[int] = field(default_factory=set)
    sent: deque[tuple[int, list[Event]]] = field(default_factory=lambda: deque(maxlen=6))

    def change(self, block: int) -> tuple[str, int, list[Event]]:
        event: Event
        if block in self.cached:
            self.cached.discard(block)
            event = BlockRemoved([block])
        else:
            self.cached.add(block)
            event = BlockStored([block], None, [], 0)
        sent: tuple[int, list[Event]] = (self.number, [event])
        self.sent.append(sent)
        self.number += 1
        return str(self.epoch), *sent


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(0, 9)),
        st.tuples(st.just("lost"), st.integers(0, 9)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("answer"), st.just(0)),
        st.tuples(st.just("reconnect"), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_a_follower_that_is_up_to_date_believes_nothing_false(
    actions: list[tuple[str, int]],
) -> None:
    worker, follower, index = Worker(), Follower(), set[int]()
    answering: list[tuple[str, int, list[Event]]] | None = None
    heard = False  # the latest message was heard, so that the follower can be up to date

    def obey(update: Update) -> None:
        nonlocal answering
        apply(index, update)
        if update.replay:
            answering = [(str(worker.epoch), *message) for message in worker.sent]

    for action, block in actions:
        match action:
            case "change":
                obey(follower.live(*worker.change(block)))
                heard = True
            case "lost":
                worker.change(block)
                heard = False
            case "restart":
                worker = Worker(worker.epoch + 1)
                heard = False
            case "reconnect":
                obey(follower.lost())
            case "answer" if answering is not None:
                replay, answering = answering, None
                for message in replay:
                    apply(index, follower.replayed(*message))
                obey(follower.replay_ended())
        if heard and not follower.catching_up:
            assert index <= worker.cached
