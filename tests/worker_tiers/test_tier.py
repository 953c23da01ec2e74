"""Blocks that leave the prefix cache come back as they were, or are computed: nobody can tell.

The runner of these tests reads its KV back for every token it draws, so a wrong block fails.
"""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tiered import BLOCK, Tiered, files

from penstock_contract.kv_events.wire import MEDIUM, STORAGE, BlockRemoved, BlockStored
from penstock_contract.step_cost import StepCost
from penstock_contract.tiers import LoadOutcome
from penstock_worker.messages import FinishReason
from penstock_worker.tiers.tier import STALL_SECONDS


def prompt(number: int, length: int = 41) -> list[int]:
    return [number * 100 + place for place in range(length)]


def overflow(node: Tiered, numbers: range) -> None:
    """Ask for more than the pool holds."""
    for number in numbers:
        node.ask(f"first {number}", prompt(number))
    node.written()


def test_what_was_evicted_is_loaded_and_not_computed(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        computed = node.runner.computed
        assert node.ask("again", prompt(0)).cached_tokens == 40
        assert node.runner.computed - computed == 2  # the prompt's last token, and one of output
        assert node.stats.hits == 40
        assert node.stats.loads == {LoadOutcome.COMPLETE: 1}


def test_the_prefix_cache_comes_first_and_the_tier_goes_on_from_it(tmp_path: Path) -> None:
    with Tiered(tmp_path, blocks=40) as node:
        overflow(node, range(8))
        node.ask("head", prompt(0, 21))
        queries, hits = node.stats.queries, node.stats.hits
        assert node.ask("whole", prompt(0)).cached_tokens == 40
        assert node.stats.hits - hits == 20
        assert node.stats.queries - queries == 21


def test_a_restart_finds_the_blocks(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(3))
    with Tiered(tmp_path) as node:
        node.until(lambda: node.stats.used_bytes > 0)
        assert node.ask("again", prompt(2)).cached_tokens == 40  # closing had kept it


def test_another_model_finds_nothing(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(3))
    with Tiered(tmp_path, fingerprint=b"g" * 32) as node:
        node.until(lambda: node.stats.used_bytes > 0)
        assert node.ask("again", prompt(0)).cached_tokens == 0


def test_another_tenant_finds_nothing(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        for number in range(8):
            node.ask(str(number), prompt(number), salt=b"one")
        node.written()
        assert node.ask("other", prompt(0), salt=b"two").cached_tokens == 0
        assert node.ask("same", prompt(0), salt=b"one").cached_tokens == 40


def test_damaged_and_missing_blocks_are_computed(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        for count, path in enumerate(sorted(files(tmp_path))):
            content = bytearray(path.read_bytes())
            content[count % len(content)] ^= 1
            path.write_bytes(content)
        assert node.ask("again", prompt(0)).cached_tokens == 0
        assert node.stats.corrupt >= 1
        assert node.stats.loads[LoadOutcome.SHORT] == 1


def test_where_computing_is_sooner_nothing_is_loaded(tmp_path: Path) -> None:
    free = StepCost(step=0.0, prefill_token=0.0, sequence=0.0, kv_token=0.0)
    with Tiered(tmp_path, cost=free) as node:
        overflow(node, range(8))
        node.ask("tried", prompt(0))  # nothing is known of the disk yet
        assert node.ask("again", prompt(1)).cached_tokens == 0
        assert node.stats.loads == {LoadOutcome.COMPLETE: 1, LoadOutcome.SLOWER: 1}


def test_a_request_whose_prompt_is_scored_computes_all_of_it(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        assert node.ask("scored", prompt(0), prompt_logprobs=0).cached_tokens == 0
        assert node.stats.loads == {}


def test_others_go_on_while_one_is_loaded(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        node.add("loaded", prompt(0))
        node.add("beside", prompt(50))
        outputs = node.engine.step().outputs
        assert [output.id for output in outputs] == ["beside"]
        assert node.engine.stats().waiting == 1


def test_who_leaves_while_loading_leaks_nothing(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        node.add("gone", prompt(0))
        node.engine.step()
        assert node.pool.counts().used == 10
        node.engine.abort(["gone"])
        node.until(lambda: node.pool.counts().used == 0)
        assert not node.engine.busy
        assert node.stats.loads == {LoadOutcome.CANCELLED: 1}
        assert node.stats.hits == 0


@contextlib.contextmanager
def hanging(node: Tiered) -> Iterator[None]:
    """Let nothing be read meanwhile."""
    go, read = threading.Event(), node.disk.read

    def hang(name: bytes, into: bytearray) -> memoryview | bytes | None:
        go.wait()
        return read(name, into)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.disk, "read", hang)
        try:
            yield
        finally:
            go.set()


def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    now = 0.0
    with Tiered(tmp_path, clock=lambda: now) as node:
        overflow(node, range(8))
        with hanging(node):
            node.add("waits", prompt(0))
            node.add("follows", prompt(0))
            node.engine.step()
            assert node.engine.patience() == STALL_SECONDS
            now = STALL_SECONDS
            node.until(lambda: node.ended("waits") and node.ended("follows"))
            assert node.outputs["waits"][0].cached_tokens == 0
            assert node.ask("another", prompt(1)).cached_tokens == 0  # nobody asks it meanwhile
            assert node.stats.loads == {LoadOutcome.LATE: 1}
            assert node.engine.patience() is None
        node.until(lambda: not node.pool.counts().used)
        assert node.ask("again", prompt(2)).cached_tokens == 40


def test_a_deadline_holds_while_a_request_is_loaded(tmp_path: Path) -> None:
    now = 0.0
    with Tiered(tmp_path, clock=lambda: now) as node:
        overflow(node, range(8))
        with hanging(node):
            node.add("waits", prompt(0), deadline=0.2)
            node.engine.step()
            assert node.engine.patience() == 0.2
            now = 0.2
            node.until(lambda: node.ended("waits"))
            assert node.outputs["waits"][0].finish_reason is FinishReason.DEADLINE
        node.until(lambda: not node.pool.counts().used)


def test_requests_for_the_same_blocks_share_a_load(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        with hanging(node):
            for name in "abc":
                node.add(name, [*prompt(0), ord(name)])
            node.engine.step()
            assert node.pool.counts().used == 10
        node.until(lambda: all(map(node.ended, "abc")))
        assert [node.outputs[name][0].cached_tokens for name in "abc"] == [40, 40, 40]
        assert node.stats.loads == {LoadOutcome.COMPLETE: 1}


@pytest.mark.parametrize("gone", ["a", "b", "ab", "ba", "abc"])
def test_whoever_leaves_a_shared_load_others_get_their_blocks(tmp_path: Path, gone: str) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        with hanging(node):
            for name in "abc":
                node.add(name, prompt(0))
            node.engine.step()
            for name in gone:
                node.engine.abort([name])
        staying = set("abc") - set(gone)
        node.until(lambda: all(map(node.ended, staying)))
        node.until(lambda: not node.pool.counts().used)
        assert {name for name in "abc" if name in node.outputs} == staying
        assert all(node.outputs[name][0].cached_tokens == 40 for name in staying)
        assert not node.engine.busy


def test_behind_a_window_only_what_is_seen_is_loaded(tmp_path: Path) -> None:
    with Tiered(tmp_path, blocks=64, window=8) as node:
        for number in range(6):
            node.ask(str(number), prompt(number, 161))
        node.written()
        assert node.ask("again", prompt(0, 161)).cached_tokens == 160
        assert node.stats.loaded_bytes < 40 * BLOCK * 4 / 2


def test_events_tell_where_blocks_are(tmp_path: Path) -> None:
    with Tiered(tmp_path) as node:
        overflow(node, range(8))
        node.engine.settle()
        assert node.pool.log is not None
        memory: set[object] = set()
        storage: set[object] = set()
        for event in node.pool.log.take():
            assert isinstance(event, BlockStored | BlockRemoved)
            tier = {MEDIUM: memory, STORAGE: storage}[event.medium or ""]
            if isinstance(event, BlockStored):
                tier.update(event.block_hashes)
            else:
                tier.difference_update(event.block_hashes)
        assert len(storage) == len(list(files(tmp_path)))
        assert len(memory) == node.pool.counts().cached
        assert storage.isdisjoint(memory)


class TierMachine(RuleBasedStateMachine):
    """Adds, cancels, steps and damages at random, with a pool that is always nearly full."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.node = Tiered(Path(self.folder.name), blocks=18)
        self.node.__enter__()
        overflow(self.node, range(6))
        self.prompts: dict[str, tuple[list[int], int]] = {}
        self.gone: set[str] = set()

    def teardown(self) -> None:
        self.node.until(lambda: all(map(self.node.ended, self.prompts.keys() - self.gone)))
        self.node.until(lambda: not self.node.pool.counts().used)
        self.node.__exit__()
        self.folder.cleanup()
        for name, (asked, count) in self.prompts.items():
            drawn = [t for output in self.node.outputs.get(name, []) for t in output.tokens]
            expected = list(range(len(asked), len(asked) + count))
            assert drawn == (expected[: len(drawn)] if name in self.gone else expected)

    @rule(number=st.integers(0, 5), length=st.integers(1, 60), tokens=st.integers(1, 12))
    def add(self, number: int, length: int, tokens: int) -> None:
        name = str(len(self.prompts))
        self.gone.discard(name)
        self.prompts[name] = prompt(number, length), tokens
        self.node.add(name, *self.prompts[name])

    @rule(number=st.integers(0, 20))
    def cancel(self, number: int) -> None:
        self.gone.add(str(number))
        self.node.engine.abort([str(number)])

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.node.step()

    @rule(every=st.integers(1, 3), place=st.integers(0, 1000))
    def damage(self, every: int, place: int) -> None:
        for path in sorted(files(Path(self.folder.name)))[::every]:
            # It may have been removed meanwhile, or hold nothing yet.
            with contextlib.suppress(FileNotFoundError, ZeroDivisionError):
                content = bytearray(path.read_bytes())
                content[place % len(content)] ^= 1
                path.write_bytes(content)

    @invariant()
    def states_add_up(self) -> None:
        self.node.pool.check()


TierMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
test_nobody_can_tell_that_there_is_a_tier = TierMachine.TestCase
