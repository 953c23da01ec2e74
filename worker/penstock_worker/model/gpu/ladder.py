"""The sizes to which a step of decoding is padded. Pure.

A CUDA graph is recorded for a size. Powers of two, and from 8 on what lies halfway between two: at
most a third of a step is padding, and a dozen graphs do for hundreds of sequences.
"""

LARGEST = 256
"""Sequences; beyond, a step keeps a GPU so busy that launching it costs nothing by comparison."""


def ladder(max_num_seqs: int) -> tuple[int, ...]:
    """Return the sizes, ascending; the last one has room for all sequences, or for LARGEST."""
    sizes = [1]
    while sizes[-1] < min(max_num_seqs, LARGEST):
        last = sizes[-1]
        halfway = last >= 8 and last & (last - 1) == 0
        sizes.append(last * 3 // 2 if halfway else 1 << last.bit_length())
    return tuple(sizes)


def padded_size(count: int, sizes: tuple[int, ...]) -> int | None:
    """Return the smallest size that has room for `count` sequences; None where none has."""
    return next((size for size in sizes if size >= count), None)
