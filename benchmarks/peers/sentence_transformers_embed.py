"""sentence-transformers on a CPU, as its documentation shows it."""

import json
import sys

from vectors import Embed, serve


def load() -> Embed:
    """Load the model, with as many threads as were asked for."""
    import torch
    from sentence_transformers import SentenceTransformer

    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    model = SentenceTransformer(asked["model"], device="cpu")
    model.max_seq_length = asked["max_tokens"]
    return lambda texts: model.encode(texts, batch_size=32, show_progress_bar=False).tolist()


if __name__ == "__main__":
    serve(load)
