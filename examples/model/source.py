"""Find the training text: the reStructuredText sources of the Python documentation.

Debian ships them, freely licensed, in one package of 12 MB, so that the model can be trained again
from any machine that reaches a Debian mirror, without a model hub or a data set service.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

PACKAGE = "python3.11-doc"
SUFFIX = ".rst.txt"

# Asked about by name in every demonstration, so they always belong to the training part.
ALWAYS_TRAINED = (
    "glossary",
    "about",
    "contents",
    "tutorial/",
    "faq/",
    "library/functions",
    "library/stdtypes",
    "library/os.path",
    "library/index",
    "library/intro",
)

# About three files in a hundred by name; the measure below says how much text that is.
HELD_OUT_SHARE = 0.03


def default_cache() -> Path:
    """Return where the unpacked package is kept between runs."""
    return Path.home() / ".cache" / "penstock-example-model"


def _documentation_below(folder: Path) -> Path | None:
    """Return the folder of sources below `folder`: it is the one that has the glossary."""
    for glossary in sorted(folder.rglob("glossary" + SUFFIX)):
        return glossary.parent
    return None


def find_sources(source: Path | None, cache: Path, package: str = PACKAGE) -> Path:
    """Return the folder of `.rst.txt` files, downloading Debian's package where it is missing."""
    if source is not None:
        found = _documentation_below(source)
        if found is None:
            raise SystemExit(f"{source} holds no Python documentation sources (glossary{SUFFIX})")
        return found
    unpacked = cache / package
    found = _documentation_below(unpacked) if unpacked.is_dir() else None
    if found is None:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise SystemExit(f"{tool} is not here: unpack {package} yourself, give --source")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True)
        archive = max(cache.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
        found = _documentation_below(unpacked)
    if found is None:
        raise SystemExit(f"{package} carries no documentation sources any more; give --source")
    return found


def is_held_out(name: str) -> bool:
    """Decide from the file's name alone, so that every run keeps the same files apart."""
    if name.startswith(ALWAYS_TRAINED):
        return False
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def read_sources(folder: Path) -> dict[str, str]:
    """Return every document by its name, such as `library/os.path`, in a fixed order."""
    documents = {}
    for path in sorted(folder.rglob("*" + SUFFIX)):
        name = path.relative_to(folder).as_posix().removesuffix(SUFFIX)
        documents[name] = _include(path.read_text(encoding="utf-8"), folder, name)
    return documents


def _include(text: str, folder: Path, name: str) -> str:
    """Expand `.. include::` of a neighbouring source; drop those that the package leaves out."""

    def replace(match: re.Match[str]) -> str:
        target = match.group(1)
        base = folder if target.startswith("/") else (folder / name).parent
        path = Path(str(base / target.lstrip("/")) + ".txt")
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    return re.sub(r"^\.\. include:: +(\S+\.rst)$", replace, text, flags=re.MULTILINE)
