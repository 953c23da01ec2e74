"""Adapters that come and go while an engine computes.

Covered, for PyTorch's kernels and the native ones: what is loaded beside running requests computes
as if it had been there from the start, and changes none of their tokens; one that is unloaded or
replaced is there until its last request has ended, and no longer; an adapter under a used name
finds none of the former's blocks. What is refused, by its name, and changes nothing.
"""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_adapters
import tiny_models
from engines import GREEDY, collect, generate, torch_engine
from kernels import native_library
from waiting import PATIENCE

from penstock_worker.engine import Engine
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.lora.config import UnsupportedAdapter, adapter_digest
from penstock_worker.lora.reading import reader
from penstock_worker.lora.shelf import Shelf
from penstock_worker.messages import AddRequest, LoadAdapter, Output, UnloadAdapter
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig

PROMPT = [(7 * place) % 300 for place in range(40)]
COUNT = 24


class Tiny:
    """A model and three adapters for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "model"
        base = tiny_models.make("llama-gqa", self.folder)
        self.at = {name: folder / name for name in ("first", "second", "third")}
        for seed, (name, at) in enumerate(self.at.items()):
            tiny_adapters.make(at, base, seed=seed, rank=4 + seed)
            assert name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=["torch", "native"])
def how(request: pytest.FixtureRequest) -> ExecutionConfig:
    if request.param == "torch":
        return ExecutionConfig()
    return ExecutionConfig(kernels=native_library())


class Running:
    """An engine that is stepped by hand, and what it has said."""

    def __init__(
        self, tiny: Tiny, how: ExecutionConfig, most: int = 8, max_rank: int = 0, **at: Path
    ) -> None:
        self.engine: Engine = torch_engine(
            tiny.folder, how=how, adapters=at, max_adapters=most, max_adapter_rank=max_rank
        )
        self.woken = threading.Event()
        self.engine.start(self.woken.set)
        self.outputs: list[Output] = []

    def ask(self, name: str, adapter: str = "", prompt: list[int] = PROMPT) -> str | None:
        found = self.engine.add(
            AddRequest(name, prompt, max_tokens=COUNT, sampling=GREEDY, adapter=adapter)
        )
        return found.error if found else None

    def step(self) -> None:
        self.outputs += self.engine.step().outputs

    def finish(self) -> None:
        while self.engine.busy:
            self.step()
        assert self.engine.changed_adapters() == []

    def load(self, name: str, folder: Path) -> str:
        """Load an adapter, stepping meanwhile; return what is wrong."""
        self.engine.change_adapters(LoadAdapter("change", name, str(folder)))
        while True:
            if self.engine.busy:
                self.step()
            elif not self.woken.wait(PATIENCE):
                raise AssertionError("nothing was loaded")
            self.woken.clear()
            if found := self.engine.changed_adapters():
                assert [change.id for change in found] == ["change"]
                return found[0].problem

    def unload(self, name: str) -> None:
        self.engine.change_adapters(UnloadAdapter(name))

    def tokens(self, *names: str) -> list[list[int]]:
        return collect(list(names), [one for one in self.outputs if one.id in names])

    def cached(self, name: str) -> int:
        return next(one.cached_tokens for one in self.outputs if one.id == name)


@pytest.fixture
def alone(tiny: Tiny, how: ExecutionConfig) -> Callable[[str], list[int]]:
    """What an engine that had the adapter from its start says."""

    def said(name: str) -> list[int]:
        at = {name: tiny.at[name]} if name else {}
        (found,) = generate(
            torch_engine(tiny.folder, how=how, adapters=at), [PROMPT], COUNT, adapter=name
        )
        return found

    return said


def test_what_is_loaded_beside_requests_computes_and_changes_none_of_them(
    tiny: Tiny, how: ExecutionConfig, alone: Callable[[str], list[int]]
) -> None:
    running = Running(tiny, how, first=tiny.at["first"])
    assert running.ask("base") is None
    assert running.ask("early", "first") is None
    running.step()
    assert running.ask("soon", "second") == "adapter 'second' is not loaded"
    assert running.load("second", tiny.at["second"]) == ""
    assert running.ask("late", "second") is None
    running.finish()
    assert running.tokens("base", "early", "late") == [
        alone(name) for name in ("", "first", "second")
    ]


def test_an_adapter_that_was_unloaded_is_there_until_its_last_request_ends(
    tiny: Tiny, how: ExecutionConfig, alone: Callable[[str], list[int]]
) -> None:
    running = Running(tiny, how)
    assert running.load("first", tiny.at["first"]) == ""
    assert running.ask("last", "first") is None
    running.step()
    running.unload("first")
    assert running.ask("none", "first") == "adapter 'first' is not loaded"
    assert running.load("second", tiny.at["second"]) == ""  # gets a place of its own
    assert running.ask("other", "second") is None
    running.finish()
    assert running.tokens("last", "other") == [alone("first"), alone("second")]
    host = running.engine._adapters._host  # nothing else tells what is still in memory
    assert [key.partition("\n")[2] for key in getattr(host, "_numbers", None) or host._layers] == [  # type: ignore[union-attr]
        "second"
    ]


def test_another_adapter_under_a_name_finds_none_of_the_formers_blocks(
    tiny: Tiny, how: ExecutionConfig, alone: Callable[[str], list[int]]
) -> None:
    running = Running(tiny, how)
    assert running.load("it", tiny.at["first"]) == ""
    assert running.ask("before", "it") is None
    running.step()
    assert running.load("it", tiny.at["second"]) == ""
    assert running.ask("after", "it") is None
    running.finish()
    assert running.tokens("before", "after") == [alone("first"), alone("second")]
    assert running.cached("after") == 0
    # The same files once more are the same adapter: what it has computed is found again.
    assert running.load("it", tiny.at["first"]) == ""
    assert running.ask("again", "it") is None
    running.finish()
    assert running.tokens("again") == [alone("first")]
    assert running.cached("again") == 32


def test_a_request_that_waits_keeps_the_adapter_that_it_came_for(
    tiny: Tiny, how: ExecutionConfig, alone: Callable[[str], list[int]]
) -> None:
    running = Running(tiny, how)
    running.engine.scheduler._max_num_seqs = 1
    assert running.load("it", tiny.at["first"]) == ""
    assert running.ask("runs", "it") is None
    assert running.ask("waits", "it") is None
    running.step()
    assert running.load("it", tiny.at["second"]) == ""
    running.finish()
    assert running.tokens("runs", "waits") == [alone("first")] * 2


def test_fifty_adapters_come_and_go(
    tiny: Tiny, how: ExecutionConfig, alone: Callable[[str], list[int]]
) -> None:
    running = Running(tiny, how, most=50)
    kinds = list(tiny.at)
    expected = {kind: alone(kind) for kind in kinds}
    assert running.ask("base") is None
    for number in range(50):
        assert running.load(f"a{number}", tiny.at[kinds[number % 3]]) == ""
    assert "--max-adapters is 50: unload one" in running.load("a50", tiny.at["first"])
    for number in range(0, 50, 2):
        running.unload(f"a{number}")
    for number in range(50, 75):
        assert running.load(f"a{number}", tiny.at[kinds[number % 3]]) == ""
    here = [*range(1, 50, 2), *range(50, 75)]
    for number in here:
        assert running.ask(f"r{number}", f"a{number}") is None
    running.finish()
    assert running.tokens("base") == [alone("")]
    for number in here:
        assert running.tokens(f"r{number}") == [expected[kinds[number % 3]]]


def test_bad_files_are_refused_by_name_and_the_engine_goes_on(
    tiny: Tiny, how: ExecutionConfig, tmp_path: Path, alone: Callable[[str], list[int]]
) -> None:
    running = Running(tiny, how, max_rank=5)
    assert running.load("it", tiny.at["first"]) == ""
    assert running.ask("beside", "it") is None
    other = tiny_models.make("llama-mha", tmp_path / "other")
    tiny_adapters.make(tmp_path / "foreign", other)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    tiny_adapters.config(tmp_path / "torn")
    (tmp_path / "torn" / "adapter_model.safetensors").write_bytes(b"\x07\0\0\0\0\0\0\0{")
    for folder, complaint in (
        (tmp_path / "nowhere", "adapter_config.json: No such file or directory"),
        (tmp_path / "empty", "a folder that PEFT saved is expected"),
        (tmp_path / "torn", "is not a safetensors file"),
        (tmp_path / "foreign", "use the adapter with the model that it was trained on"),
        (tiny.at["third"], "r is 6, and --max-adapter-rank is 5: raise it"),
    ):
        assert complaint in running.load("it", folder)
    running.finish()
    assert running.ask("after", "it") is None
    running.finish()
    assert running.tokens("beside", "after") == [alone("first")] * 2


def test_an_adapter_that_memory_has_no_room_for_is_not_read(tiny: Tiny) -> None:
    class Host:
        def prepare(self, adapter: object) -> object:
            raise AssertionError(f"{adapter} was read")

        def add(self, name: str, prepared: object) -> None: ...

        def drop(self, name: str) -> None: ...

    read = reader(Host(), read_config(tiny.folder), 0, lambda: 1 << 10)
    with pytest.raises(UnsupportedAdapter, match="of memory, and 0 MiB are left"):
        read("it", tiny.at["first"])


def test_an_engine_without_room_for_adapters_says_how_to_get_it(tiny: Tiny) -> None:
    shelf, woken = Shelf(), threading.Event()
    shelf.start(woken.set)
    shelf.load(LoadAdapter("change", "it", str(tiny.at["first"])))
    assert woken.wait(PATIENCE)
    (found,) = shelf.settle(set)
    assert "start with --max-adapters" in found.problem


def test_what_an_adapter_computes_decides_its_digest(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny_models.make("llama-gqa", tmp_path / "model")
    for name, options in (
        ("a", {}),
        ("same", {}),
        ("louder", {"alpha": 80}),
        ("other", {"seed": 2}),
    ):
        tiny_adapters.make(tmp_path / name, base, **options)  # type: ignore[arg-type]
    digests = [adapter_digest(tmp_path / name) for name in ("a", "same", "louder", "other")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert load_adapter("a", tmp_path / "a", read_config(tmp_path / "model")).name == "a"
