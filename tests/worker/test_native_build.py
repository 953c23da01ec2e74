"""How the kernels are compiled and found, and that the engine works without them."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import tiny_models
from waiting import PATIENCE

from penstock_worker.engine_config import EngineConfig
from penstock_worker.native import build
from penstock_worker.native.levels import LEVELS, levels_of, this_machine
from penstock_worker.wire import event_decoder

AVX2 = frozenset({"avx2", "fma", "bmi2", "f16c", "sse2"})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder; nothing lies beside the package either."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "BESIDE", tmp_path / "nothing")
    # The real compiler is tried in test_native; here it only matters what becomes of its output.
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho library > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return tmp_path / "penstock" / "native"


def test_a_processor_runs_every_level_up_to_its_own() -> None:
    assert [level.name for level in levels_of("x86_64", AVX2)] == ["avx2", "x86-64"]
    assert [level.name for level in levels_of("x86_64", frozenset())] == ["x86-64"]
    assert [level.name for level in levels_of("aarch64", frozenset({"neon"}))] == ["aarch64"]
    assert levels_of("riscv64", frozenset()) == []


def test_every_level_has_a_library_of_its_own() -> None:
    assert len({build.library_name(level) for level in LEVELS}) == len(LEVELS)


def test_what_was_built_is_found_and_not_built_again(cache: Path) -> None:
    assert build.find() is None
    made = build.build(this_machine()[0], cache)
    written = made.stat().st_mtime_ns
    assert build.find() == made
    assert build.build(this_machine()[0], cache) == made
    assert made.stat().st_mtime_ns == written
    assert list(cache.iterdir()) == [made]  # no half-written leftovers


@pytest.mark.parametrize("name", sorted(path.name for path in build.SOURCES.iterdir()))
def test_a_library_of_another_source_is_not_loaded(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build.build(this_machine()[0], cache)
    changed = tmp_path / "kernels"
    shutil.copytree(build.SOURCES, changed)
    monkeypatch.setattr(build, "SOURCES", changed)
    assert build.find() is not None
    with (changed / name).open("a", encoding="utf-8") as source:
        source.write("\n// changed\n")
    assert build.find() is None


def test_a_library_that_others_could_have_written_is_not_loaded(cache: Path) -> None:
    made = build.build(this_machine()[0], cache)
    made.chmod(0o777)
    assert build.find() is None


def test_a_compiler_that_fails_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", shutil.which("false") or "/bin/false")
    with pytest.raises(build.BuildFailed, match="refused the kernels"):
        build.build(LEVELS[0], cache)
    assert list(cache.iterdir()) == []


def test_no_compiler_is_said_with_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(build.BuildFailed, match=r"install g\+\+"):
        build.build(LEVELS[0], cache)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_sources_compile_without_the_rest_of_the_project(tmp_path: Path) -> None:
    """As the image does it, where there is neither torch nor the contract yet."""
    package = tmp_path / "penstock_worker"
    ignored = shutil.ignore_patterns("built", "__pycache__")
    shutil.copytree(build.SOURCES.parent, package / "native", ignore=ignored)
    (package / "__init__.py").touch()
    subprocess.run(
        [sys.executable, "-S", "-m", "penstock_worker.native.build"],
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        check=True,
        timeout=400,
    )
    (made,) = (package / "native" / "built").iterdir()
    assert made.name == build.library_name(this_machine()[0])


@pytest.mark.parametrize("kernels", ["auto", "torch", "native"])
def test_an_engine_without_a_compiler_computes_with_torch(kernels: str, tmp_path: Path) -> None:
    tiny_models.make("llama-gqa", tmp_path / "model")
    first = _first_event(
        EngineConfig(model=str(tmp_path / "model"), threads=1, kernels=kernels), tmp_path
    )
    if kernels == "native":
        assert first["type"] == "failed"
        assert "penstock_worker.native.build" in str(first["message"])
    else:
        assert first["type"] == "ready"


def _first_event(config: EngineConfig, empty: Path) -> dict[str, object]:
    """Return what an engine process says first where there is neither library nor compiler."""
    program = (
        "import sys, pathlib\n"
        "from penstock_worker.native import build\n"
        "build.BESIDE = pathlib.Path('/nonexistent')\n"
        "from penstock_worker.engine_process import main\n"
        "main()\n"
    )
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "XDG_CACHE_HOME": str(empty), "PATH": "/nonexistent"}
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                str(theirs.fileno()),
                msgspec.json.encode(config).decode(),
            ],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
    with ours:
        ours.settimeout(PATIENCE)
        decoder = event_decoder()
        events = decoder.feed(ours.recv(1 << 16))
    process.wait(timeout=PATIENCE)
    found: dict[str, object] = msgspec.to_builtins(events[0])
    return found
