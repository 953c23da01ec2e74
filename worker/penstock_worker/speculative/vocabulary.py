"""Whether two checkpoints mean the same by a token. No torch here."""

import json
from pathlib import Path
from typing import Any

TOKENIZER = "tokenizer.json"


class UnsupportedDraft(ValueError):
    """The draft does not fit the model, or is not one that is computed here."""


def check_vocabulary(target: Path, draft: Path) -> None:
    """Check that a draft's tokens are its target's.

    Padding behind the vocabulary may differ: checkpoints of one family are padded as their size
    wants it.

    Raises:
        UnsupportedDraft: a tokenizer is missing or damaged, or they differ; with the first token
            that does.
    """
    texts = [_read(target), _read(draft)]
    if texts[0] == texts[1]:
        return
    ours, theirs = map(_tokens, texts)
    differing = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])
    if differing:
        token, number = differing[0]
        raise UnsupportedDraft(
            f"its tokenizer is not the model's: they differ in {len(differing)} entries, the first "
            f"is {token!r} ({number}). Take a draft of the same family"
        )


def _read(folder: Path) -> bytes:
    try:
        return (folder / TOKENIZER).read_bytes()
    except OSError as error:
        raise UnsupportedDraft(f"{folder / TOKENIZER} cannot be read: {error.strerror}") from error


def _tokens(text: bytes) -> dict[str, int]:
    try:
        found: Any = json.loads(text)
        tokens = found["model"]["vocab"]
        pairs = tokens.items() if isinstance(tokens, dict) else enumerate(tokens)
        plain = dict(pairs) if isinstance(tokens, dict) else {one[0]: i for i, one in pairs}
        added = {one["content"]: one["id"] for one in found.get("added_tokens", [])}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UnsupportedDraft(f"{TOKENIZER} is damaged: {error}") from error
    return plain | added
