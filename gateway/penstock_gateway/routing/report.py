"""What the beginning of an answer tells of its prompt, without parsing it as JSON.

A stream with the resume journal (penstock_contract.journal) says in its first event how many
prompt tokens the prefix cache gave; an answer that is not streamed has both numbers in `usage`.
Inside a JSON string a quote is escaped, so nothing that a model writes can look like the latter.
"""

import re
from typing import Final, NamedTuple

_JOURNAL: Final = re.compile(rb"^: tokens \d+ [\d,]*(?: cached=(\d+))?", re.MULTILINE)
_PROMPT: Final = re.compile(rb'"prompt_tokens": ?(\d{1,9})')
_CACHED: Final = re.compile(rb'"cached_tokens": ?(\d{1,9})')


class Report(NamedTuple):
    """Tokens of a prompt; None where the answer does not tell."""

    prompt: int | None = None
    cached: int | None = None


def report(first: bytes) -> Report:
    """Return what the first piece of an answer's body tells."""
    if first.startswith(b": "):
        found = _JOURNAL.search(first)
        return Report(None, int(found[1] or 0) if found else None)
    if first.startswith(b"{"):
        prompt, cached = _PROMPT.search(first), _CACHED.search(first)
        return Report(int(prompt[1]) if prompt else None, int(cached[1]) if cached else None)
    return Report()
