"""Which files a checkpoint consists of. No torch: the server looks before it starts the engine."""

import json
from pathlib import Path

from penstock_worker.model.config import UnsupportedModel


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, single or sharded.

    Raises:
        UnsupportedModel: there are none, or the index is damaged or points outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise UnsupportedModel(
                f"{folder} has no model.safetensors (other formats are not read: they can run code)"
            )
        return [folder / "model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UnsupportedModel(f"{index.name} is damaged: {error!r}") from error
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UnsupportedModel(f"{index.name} names {name!r}, which is outside the folder")
    return [folder / name for name in names]
