"""Compiles the kernels and finds them again: `python -m penstock_worker.native.build [--all]`.

`make install` and the container image run it, so that no server waits for a compiler. Where neither
did, the engine starts it in the background for its next start and serves with PyTorch meanwhile.

A library's name contains a hash of its sources and flags, so a stale one is never loaded. It is
written under another name and renamed, so half of one is never loaded either. Libraries beside the
package come first (the image's file system is read-only), then those in the user's cache folder.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from penstock_worker.native.levels import LEVELS, Level, this_machine

SOURCES = Path(__file__).with_name("kernels")
BESIDE = Path(__file__).with_name("built")

# No -ffast-math: it would let the compiler reorder sums, and turn off denormals for the process.
_FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math")
_FLAGS_SHARED = ("-fPIC", "-shared", "-pthread")


class BuildFailed(Exception):
    """There is no compiler, or it refused; the message says which and why."""


def cache_folder() -> Path:
    """Return where this user's own libraries are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "penstock" / "native"


def find(levels: list[Level] | None = None) -> Path | None:
    """Return the best library that was built and that this machine can run."""
    for level in this_machine() if levels is None else levels:
        for folder in (BESIDE, cache_folder()):
            path = folder / library_name(level)
            if path.is_file() and _trustworthy(path):
                return path
    return None


def library_name(level: Level) -> str:
    """Return the file name of a level's library, which changes with sources and flags."""
    digest = hashlib.sha256(" ".join((*_FLAGS, *level.flags)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(hashlib.sha256(source.name.encode() + b"\0" + source.read_bytes()).digest())
    return f"kernels-{level.name}-{digest.hexdigest()[:16]}.so"


def build(level: Level, folder: Path) -> Path:
    """Compile a level's library into `folder`, unless it is there.

    Raises:
        BuildFailed: there is no compiler, or it refused.
    """
    target = folder / library_name(level)
    if target.is_file():
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise BuildFailed("no C++ compiler: install g++, or set CXX")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        source = SOURCES / "kernels.cpp"  # which includes the others
        command = [compiler, *_FLAGS, *level.flags, *_FLAGS_SHARED, str(source), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            raise BuildFailed(f"{compiler} refused the kernels: {said[-2000:]}") from error
        made.replace(target)
    return target


def build_in_background() -> None:
    """Start to compile for this machine, at low priority; whoever starts next finds the result."""
    subprocess.Popen(
        [sys.executable, "-m", "penstock_worker.native.build", "--cache", "--nice"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _trustworthy(path: Path) -> bool:
    """Whether nobody but the owner or root could have put the library there."""
    state = path.stat()
    return state.st_uid in (os.getuid(), 0) and not state.st_mode & 0o022


def main() -> None:
    """Compile for this machine, or for every machine of its architecture."""
    parser = argparse.ArgumentParser(prog="python -m penstock_worker.native.build")
    parser.add_argument("--all", action="store_true", help="every level of this architecture")
    parser.add_argument("--cache", action="store_true", help="into the user's cache folder")
    parser.add_argument("--nice", action="store_true", help="at the lowest priority")
    options = parser.parse_args()
    if options.nice:
        os.nice(19)
    able = this_machine()
    if not able:
        sys.exit("no native kernels for this machine: PyTorch's are used")
    wanted = [level for level in LEVELS if level.machine == able[0].machine]
    folder = cache_folder() if options.cache else BESIDE
    try:
        for level in wanted if options.all else able[:1]:
            sys.stderr.write(f"{build(level, folder)}\n")
    except BuildFailed as error:
        sys.exit(f"{error}\nThe engine works without, at a fraction of the speed.")


if __name__ == "__main__":
    main()
