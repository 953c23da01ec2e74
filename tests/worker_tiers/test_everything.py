"""Everything at once: whatever else an engine does, a request gets the tokens it would get alone.

Tiers, hand-off between two engines, a sliding window or none, guesses, adapters, tenants' salts,
choices of one prompt, resumed outputs, priorities, and clients that leave. The runner reads its KV
back for every token it draws, so a wrong or missing block fails.
"""

import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from engines import collect, drain
from handoffs import source
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory_runner import MemoryRunner
from tiered import BLOCK, SlotMemory, Tiered

from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.lora.shelf import Shelf
from penstock_worker.messages import AddRequest, Sampling, Source
from penstock_worker.request import Request
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.transfer.handoff import Handoff, Identity

WINDOW = 20
ADAPTERS = ("", "one")


def spread(tokens: Sequence[int], request: Request) -> int:
    """Draw what depends on choice, adapter, and everything that is seen."""
    own = request.sampling.choice * 31 + len(request.adapter)
    return (sum(tokens[-WINDOW:]) * 7 + len(tokens) // 8 + own) % 9


def alone(message: AddRequest) -> list[int]:
    """Return the tokens of a request in an engine of its own that keeps everything."""
    engine = Engine(
        MemoryRunner(BLOCK, 64, spread),
        BlockPool(200, BLOCK),
        vocab_size=10_000,
        max_model_len=800,
        max_num_seqs=1,
        max_num_batched_tokens=64,
        adapters=Shelf.of(ADAPTERS),
    )
    engine.add(msgspec.structs.replace(message, beside="", source=None, keep=False))
    (tokens,) = collect([message.id], [o for batch in drain(engine) for o in batch.outputs])
    return tokens


class EngineMachine(RuleBasedStateMachine):
    """Two engines that share a tier and hand over to each other, in pools that are nearly full."""

    @initialize(window=st.sampled_from([0, WINDOW]), guesses=st.integers(0, 4))
    def begin(self, window: int, guesses: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.nodes = [self.node(number, window, guesses) for number in range(2)]
        self.asked: dict[str, tuple[int, AddRequest]] = {}
        self.gone: set[str] = set()
        self.sources: dict[tuple[str, bytes, int], tuple[int, Source]] = {}

    def node(self, number: int, window: int, guesses: int) -> Tiered:
        found = Tiered(
            Path(self.folder.name),
            blocks=40,
            window=window,
            draw=spread,
            proposer=NgramProposer(guesses) if guesses else None,
            adapters=ADAPTERS,
        )
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        identity = Identity(f"worker-{number}", "epoch", b"f" * 32, "127.0.0.1")
        memory = SlotMemory(found.runner.slots)
        found.engine.handoff = Handoff(found.pool, memory, identity, listener, 60.0)
        found.__enter__()
        return found

    def teardown(self) -> None:
        for node in self.nodes:
            at = self.nodes.index(node)
            mine = {name for name, (there, _) in self.asked.items() if there == at} - self.gone
            while not all(map(node.ended, mine)):
                self.release(at)
                self.step(at, 1)
            self.release(at)
            while node.pool.counts().used:
                self.step(at, 1)
            assert node.engine.handoff is not None
            node.engine.handoff.close()
            node.__exit__()
        self.folder.cleanup()
        for name, (at, message) in self.asked.items():
            drawn = [t for output in self.nodes[at].outputs.get(name, []) for t in output.tokens]
            expected = alone(message)
            assert drawn == (expected[: len(drawn)] if name in self.gone else expected)

    def ask(self, at: int, message: AddRequest) -> None:
        self.asked[message.id] = at, message
        self.gone.discard(message.id)
        assert self.nodes[at].engine.add(message) is None

    @rule(
        at=st.integers(0, 1),
        length=st.integers(1, 100) | st.sampled_from([30, 61, 100]),
        tokens=st.integers(1, 40),
        choices=st.integers(1, 3),
        resumed=st.integers(0, 30),
        priority=st.integers(-1, 1),
        adapter=st.sampled_from(ADAPTERS),
        salt=st.sampled_from([b"", b"tenant"]),
    )
    def add(
        self, at: int, length: int, tokens: int, choices: int, resumed: int, **options: Any
    ) -> None:
        first = ""
        for choice in range(choices):
            message = AddRequest(
                id=str(len(self.asked)),
                prompt=[place % 7 for place in range(length)],
                max_tokens=tokens,
                sampling=Sampling(choice=choice, seed=5),
                beside=first,
                **options,
            )
            if choice == 0 and 0 < resumed < tokens:
                message = msgspec.structs.replace(message, output=alone(message)[:resumed])
            first = first or message.id
            self.ask(at, message)

    @rule(tokens=st.integers(1, 40), which=st.integers(0, 5))
    def take_over(self, tokens: int, which: int) -> None:
        """Ask one engine for what the other has kept the prompt of."""
        known = list(self.sources.items())
        if which < len(known):
            (adapter, salt, length), (at, kept) = known[which]
            prompt = [place % 7 for place in range(length)]
            message = AddRequest(
                str(len(self.asked)), prompt, tokens, adapter=adapter, salt=salt, source=kept
            )
            self.ask(1 - at, message)

    @rule(
        at=st.integers(0, 1),
        length=st.sampled_from([30, 61, 100]),
        adapter=st.sampled_from(ADAPTERS),
        salt=st.sampled_from([b"", b"tenant"]),
    )
    def prefill(self, at: int, length: int, adapter: str, salt: bytes) -> None:
        name, prompt = str(len(self.asked)), [place % 7 for place in range(length)]
        message = AddRequest(name, prompt, 1, keep=True, adapter=adapter, salt=salt)
        self.ask(at, message)

    @rule(at=st.integers(0, 1))
    def release(self, at: int) -> None:
        """Leases keep blocks from requests until somebody releases them, or a minute later."""
        handoff = self.nodes[at].engine.handoff
        assert handoff is not None
        self.nodes[at].engine.release(list(handoff.leases._leases))

    @rule(at=st.integers(0, 1), number=st.integers(0, 20))
    def cancel(self, at: int, number: int) -> None:
        name = str(number)
        if name in self.asked and self.asked[name][0] == at:
            self.gone.add(name)
            self.nodes[at].engine.abort([name])

    @rule(at=st.integers(0, 1), count=st.integers(1, 6))
    def step(self, at: int, count: int) -> None:
        node = self.nodes[at]
        for _ in range(count):
            node.step()
        for name, outputs in node.outputs.items():
            message = self.asked[name][1]
            if outputs[-1].kept is not None:
                place = message.adapter, message.salt, len(message.prompt)
                self.sources.setdefault(place, (at, source(outputs[-1].kept)))

    @invariant()
    def states_add_up(self) -> None:
        for node in getattr(self, "nodes", []):
            node.pool.check()


EngineMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
test_a_request_gets_the_tokens_that_it_would_get_alone = EngineMachine.TestCase
