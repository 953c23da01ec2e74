"""Notes what becomes findable in the prefix cache and what is given away. Pure."""

from collections.abc import Iterable, Sequence

from penstock_contract.kv_events.wire import MEDIUM, STORAGE, BlockRemoved, BlockStored, Event


class CacheLog:
    """The changes since they were last taken, in order; neighbours become one event.

    Args:
        block_size: tokens per block.
        adapters: those of the start, in the order of their numbers, from 1.
    """

    def __init__(self, block_size: int, adapters: Iterable[str] = ()) -> None:
        self._block_size = block_size
        self._numbers = {name: number for number, name in enumerate(adapters, 1)}
        self._events: list[Event] = []

    def stored(
        self, names: Sequence[bytes], tokens: Sequence[int], index: int, adapter: str = ""
    ) -> None:
        """Block `index` of a request with these names and tokens became findable."""
        start = index * self._block_size
        block = tokens[start : start + self._block_size]
        parent = names[index - 1] if index else None
        last = self._events[-1] if self._events else None
        if (
            isinstance(last, BlockStored)
            and last.medium == MEDIUM
            and last.block_hashes[-1] == parent
        ):
            last.block_hashes.append(names[index])
            last.token_ids.extend(block)
        else:
            event = BlockStored(
                [names[index]],
                parent,
                list(block),
                self._block_size,
                lora_id=self._number(adapter),
                lora_name=adapter or None,
            )
            self._events.append(event)

    def _number(self, adapter: str) -> int | None:
        """Adapters that come later get the next numbers."""
        return self._numbers.setdefault(adapter, len(self._numbers) + 1) if adapter else None

    def removed(self, name: bytes) -> None:
        """A block was given away for other content."""
        self._removed(name, MEDIUM)

    def tier(self, name: bytes, *, here: bool) -> None:
        """A block came to a disk tier, or left it.

        As vLLM does where it knows no more than a block's hash, without its tokens.
        """
        last = self._events[-1] if self._events else None
        if not here:
            self._removed(name, STORAGE)
        elif isinstance(last, BlockStored) and last.medium == STORAGE:
            last.block_hashes.append(name)
        else:
            self._events.append(BlockStored([name], None, [], 0, medium=STORAGE))

    def take(self) -> list[Event]:
        """Return the changes and forget them."""
        taken, self._events = self._events, []
        return taken

    def _removed(self, name: bytes, medium: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, BlockRemoved) and last.medium == medium:
            last.block_hashes.append(name)
        else:
            self._events.append(BlockRemoved([name], medium))
