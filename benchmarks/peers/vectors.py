"""What engines that embed speak: JSON lines over standard input and output, as in `protocol.py`.

First the engine says `{"ready": seconds}`; then it answers each `{"texts": [text, …]}` with
`{"seconds": s, "vectors": [[number, …], …]}`. Reading the texts (tokenising) is part of the time.
"""

import json
import os
import sys
import time
from collections.abc import Callable

Embed = Callable[[list[str]], list[list[float]]]


def serve(load: Callable[[], Embed]) -> None:
    """Answer until the input ends. Whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    began = time.perf_counter()
    embed = load()
    answer(ready=time.perf_counter() - began)
    for text in sys.stdin:
        asked = json.loads(text)
        began = time.perf_counter()
        vectors = embed(asked["texts"])
        answer(seconds=time.perf_counter() - began, vectors=vectors)
