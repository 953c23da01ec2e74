"""What an engine publishes of its prefix cache, over real sockets and from a real process."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import zmq
from child_engine import Process
from engines import drain
from memory_runner import MemoryRunner

from penstock_contract.blocks import block_hashes
from penstock_contract.kv_events.wire import (
    END,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    Encoding,
    Topic,
    decode,
)
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig, KVEventsConfig
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.kv_events.publisher import Publisher
from penstock_worker.messages import AddRequest, Ready, Sampling, Stop

BLOCK = 4
PATIENCE_MS = 180_000


def engine(num_blocks: int) -> Engine:
    return Engine(
        MemoryRunner(BLOCK),
        BlockPool(num_blocks, BLOCK, log=CacheLog(BLOCK)),
        vocab_size=1000,
        max_model_len=num_blocks * BLOCK,
        max_num_seqs=4,
        max_num_batched_tokens=64,
    )


def take(found: Engine) -> list[BlockStored | BlockRemoved | AllBlocksCleared]:
    assert found.pool.log is not None
    return found.pool.log.take()


def test_full_blocks_are_told_with_tokens_and_parent() -> None:
    found = engine(16)
    prompt = list(range(100, 110))
    found.add(AddRequest("a", prompt, max_tokens=3))
    drain(found)
    names = block_hashes([*prompt, 10, 11], BLOCK)
    # Two blocks of the prompt, then one that the output filled.
    assert take(found) == [BlockStored([*names], None, [*prompt, 10, 11], BLOCK)]
    assert take(found) == []


def test_a_block_that_is_found_is_not_told_again() -> None:
    found = engine(16)
    prompt = list(range(100, 110))
    for name in ("a", "b"):
        found.add(AddRequest(name, prompt, max_tokens=1))
        drain(found)
    assert len(take(found)) == 1
    found.add(AddRequest("c", [*prompt[:8], 7, 7, 7, 7], max_tokens=1))
    drain(found)
    names = block_hashes([*prompt[:8], 7, 7, 7, 7], BLOCK)
    assert take(found) == [BlockStored([*names[2:]], names[1], [7, 7, 7, 7], BLOCK)]


def test_another_salt_gives_other_names() -> None:
    found = engine(16)
    found.add(AddRequest("a", [1] * 5, max_tokens=1, salt=b"tenant"))
    drain(found)
    names = block_hashes([1] * 4, BLOCK, b"tenant")
    assert take(found) == [BlockStored([*names], None, [1] * 4, 4)]


def test_what_was_told_is_what_can_be_found() -> None:
    found, known = engine(12), set[bytes | int]()
    chance = random.Random(3)
    for number in range(60):
        prompt = [chance.randrange(3)] * chance.randrange(1, 20)
        found.add(AddRequest(str(number), prompt, max_tokens=chance.randrange(1, 9)))
        drain(found)
        for event in take(found):
            match event:
                case BlockStored(hashes):
                    assert not known & set(hashes)
                    known |= set(hashes)
                case BlockRemoved(hashes):
                    assert known >= set(hashes)
                    known -= set(hashes)
    assert known == set(found.pool._by_name)


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    with zmq.Context() as found:
        yield found


def config(tmp_path: Path, **options: object) -> KVEventsConfig:
    settings = {
        "endpoint": f"ipc://{tmp_path}/pub",
        "replay_endpoint": f"ipc://{tmp_path}/replay",
        "encoding": "maps",
        "worker": "pod",
        "model": "m",
    }
    return KVEventsConfig(**{**settings, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_replay_gives_what_is_still_known(
    tmp_path: Path, context: "zmq.Context[zmq.Socket[bytes]]", encoding: Encoding
) -> None:
    where = config(tmp_path, encoding=encoding.value, buffer=3)
    publisher = Publisher(where, Topic("pod", "e1", "m"), clock=lambda: 1.5)
    for number in range(1, 6):
        publisher.publish([BlockRemoved([bytes([number])])])
    publisher.publish([])
    with context.socket(zmq.DEALER) as asking:
        asking.setsockopt(zmq.LINGER, 0)
        asking.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        asking.connect(where.replay_endpoint)
        asking.send_multipart([b"nonsense"])
        asking.send_multipart([b"", (4).to_bytes(8, "big")])
        asking.send_multipart([b"", (0).to_bytes(8, "big")])
        answers = [asking.recv_multipart() for _ in range(2 + 1 + 3 + 1)]
    publisher.close()
    numbers = [int.from_bytes(answer[2], "big", signed=True) for answer in answers]
    assert numbers == [4, 5, -1, 3, 4, 5, -1]
    assert answers[0][:2] == [b"", b"kv@pod/e1@m"]
    assert decode(answers[0][3]).events == [BlockRemoved([b"\x04"])]
    assert answers[2] == [b"", b"", END, b""]


def replayed(asking: "zmq.Socket[bytes]", since: bytes) -> list[list[bytes]]:
    """Return what was published from a number on."""
    asking.send_multipart([b"", since])
    return list(iter(asking.recv_multipart, [b"", b"", END, b""]))


def test_an_engine_process_publishes_what_it_caches(
    tmp_path: Path, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    tiny_models.make("llama-gqa", tmp_path)
    where = config(tmp_path)
    process = Process(
        EngineConfig(model=str(tmp_path), threads=1, kernels="torch", kv_events=where)
    )
    ready = process.event()
    assert isinstance(ready, Ready)
    topic, prompt = Topic("pod", ready.epoch, "m").encode(), list(range(40))
    greedy = Sampling(temperature=0.0)
    with context.socket(zmq.SUB) as subscriber, context.socket(zmq.DEALER) as asking:
        for one in (subscriber, asking):
            one.setsockopt(zmq.LINGER, 0)
            one.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        subscriber.subscribe(topic)
        subscriber.connect(where.endpoint)
        asking.connect(where.replay_endpoint)
        # ZMQ drops what is sent before a subscription has arrived: ask until one message comes.
        for number in range(200):
            process.send(AddRequest(str(number), [number, *prompt], 1, sampling=greedy))
            process.until_idle(1)
            if subscriber.poll(50):
                break
        live = subscriber.recv_multipart()
        assert replayed(asking, live[1])[0] == [b"", *live]
        first = replayed(asking, bytes(8))[0]
    number = int.from_bytes(live[1], "big")
    tokens = [number - 1, *prompt]
    assert live[0] == topic
    assert decode(first[3]).events == [AllBlocksCleared()]
    assert decode(live[2]).events == [
        BlockStored(list(block_hashes(tokens, 16)), None, tokens[:32], 16)
    ]
    process.send(Stop())
    assert process.close() == 0
