"""Which files of a model are fetched. Pure.

An allow-list: weights as safetensors, and the text files that describe them. Nothing that can run
code (pickles, Python) ever reaches the volume, and no name leads out of the folder.
"""

import re
from collections.abc import Callable, Iterable

from penstock_worker.fetch.remote import FetchError

Select = Callable[[Iterable[str]], list[str]]
"""Chooses the files to fetch from all there are."""

SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".tiktoken")
AGAIN = ("consolidated", "model.fp32")
NAMES = frozenset({"merges.txt", "vocab.txt"})
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
POOLING = re.compile(r"\d{1,2}_Pooling/config\.json")
"""How sentence-transformers tells what makes a vector of a model's states."""


def selected(names: Iterable[str]) -> list[str]:
    """Return the names to fetch, in order.

    Raises:
        FetchError: a name leads out of the folder, or there is no model among them.
    """
    found = sorted(name for name in names if _allowed(name))
    if "config.json" not in found:
        if "adapter_config.json" in found:
            raise FetchError("it is an adapter, no model: name it in spec.model.adapters")
        raise FetchError("there is no config.json: not a model in Hugging Face's layout")
    if "model.safetensors" in found or "model.safetensors.index.json" in found:
        # Some models carry the same weights a second time, in Mistral's own layout, or in float32.
        found = [name for name in found if not name.startswith(AGAIN)]
    if not any(name.endswith(".safetensors") for name in found):
        raise FetchError(
            "there are no *.safetensors files; weights in other formats are not read, since "
            "they can run code"
        )
    return found


def selected_of_adapter(names: Iterable[str]) -> list[str]:
    """Return the names to fetch of an adapter that PEFT saved: a tokenizer is the base model's.

    Raises:
        FetchError: there is no adapter among them.
    """
    known = set(names)
    for name in ADAPTER:
        if name not in known:
            raise FetchError(f"there is no {name}: not an adapter that PEFT saved as safetensors")
    return list(ADAPTER)


def _allowed(name: str) -> bool:
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise FetchError(f"the file name {name!r} leads out of the model's folder")
    if POOLING.fullmatch(name):
        return True
    if PLAIN.fullmatch(name) is None:  # other folders hold other formats of the same model
        return False
    return name.endswith(SUFFIXES) or name in NAMES
