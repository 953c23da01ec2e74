"""Which guesses stand. Pure.

Draws are a function of (seed, choice, position) and the model's prediction, so a draft token is
right exactly when it is what would have been drawn at its place: the output is the same token for
token, with and without. Where a draft's guess was drawn, and only the distribution is to be kept,
the draw behind it is the guess unless that is rejected (`random_sampling.accept_or_draw`).
"""

from collections.abc import Sequence


def agreed(drafts: Sequence[int], drawn: Sequence[int]) -> int:
    """Return how many leading draft tokens are what was drawn at their place.

    Args:
        drafts: guessed tokens.
        drawn: the token drawn in front of each of them, had those before it been right.
    """
    for count, (draft, token) in enumerate(zip(drafts, drawn, strict=False)):
        if draft != token:
            return count
    return min(len(drafts), len(drawn))
