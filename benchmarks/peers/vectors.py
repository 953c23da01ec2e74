"""What engines that embed speak: JSON lines over standard input and output, as in `protocol.py`.

First the engine says `{"ready": seconds}`; then it answers each `{"texts": [text, …]}` with
`{"seconds": s, "vectors": [[number, …], …]}`. Reading the texts (tokenising) is part of the time.
"""

from collections.abc import Callable

from protocol import Answer, answer_lines

Embed = Callable[[list[str]], list[list[float]]]


def serve(load: Callable[[], Embed]) -> None:
    """Answer until the input ends."""

    def started() -> Answer:
        embed = load()
        return lambda asked: {"vectors": embed(asked["texts"])}

    answer_lines(started)
