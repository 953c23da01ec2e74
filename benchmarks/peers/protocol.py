"""What every engine under test speaks: JSON lines over standard input and output.

First the engine says `{"ready": seconds}`; then it answers each `{"prompts": [[token, …], …],
"max_tokens": n}` with `{"seconds": s, "tokens": [[token, …], …]}`, and ends when its input does.
Prompts are token ids and decoding is greedy and never ends early, so every engine does the same
work. Nothing here needs more than the standard library: peers run it in environments of their own.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Generate = Callable[[list[list[int]], int], list[list[int]]]
Answer = Callable[[dict[str, Any]], dict[str, object]]
"""What is asked and answered, by field."""


def serve(load: Callable[[], Generate]) -> None:
    """Answer until the input ends."""

    def started() -> Answer:
        generate = load()
        return lambda asked: {"tokens": generate(asked["prompts"], asked["max_tokens"])}

    answer_lines(started)


def answer_lines(start: Callable[[], Answer]) -> None:
    """Start, and answer every line. Whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    began = time.perf_counter()
    answer = start()
    tell(ready=time.perf_counter() - began)
    for text in sys.stdin:
        asked = json.loads(text)
        began = time.perf_counter()
        found = answer(asked)
        tell(seconds=time.perf_counter() - began, **found)
