"""Penstock's engine for models that embed, without HTTP."""

import json
import sys
from pathlib import Path

from vectors import Embed, serve


def load() -> Embed:
    """Load the model as a worker does."""
    import os

    from penstock_worker.openmp import wait_asleep

    wait_asleep(os.environ)
    import numpy

    from penstock_worker.engine_config import EngineConfig
    from penstock_worker.messages import AddInputs
    from penstock_worker.pooling.builder import build_pooling_engine
    from penstock_worker.text.tokenizer import Tokenizer

    asked = json.loads(sys.argv[1])
    engine, _ = build_pooling_engine(
        EngineConfig(
            model=asked["model"],
            task="Embed",
            dtype=asked["dtype"],
            threads=asked["threads"],
            kernels=asked.get("kernels", "auto"),
        )
    )
    tokenizer = Tokenizer(Path(asked["model"]))

    def embed(texts: list[str]) -> list[list[float]]:
        ids = tokenizer.encode_texts(texts, add_special_tokens=True, most=asked["max_tokens"])
        engine.add(AddInputs("all", list(ids)))
        found: dict[int, bytes] = {}
        while engine.busy:
            for output in engine.step().outputs:
                found |= output.vectors
        return [numpy.frombuffer(found[n], "<f4").tolist() for n in range(len(texts))]

    def one_by_one(texts: list[str]) -> list[list[float]]:
        return [vector for text in texts for vector in embed([text])]

    return one_by_one if asked.get("one_by_one") else embed


if __name__ == "__main__":
    serve(load)
