"""What guessing gains, by look-up, a draft model and a head: tokens per second with and without.

The example model goes on with three texts, from new (prose it never saw, of which a small model
soon repeats itself) to a list that is the same over and over; one request at a time, four, eight.
Decoding only, greedy; the run fails unless all give the same tokens. The draft has a
fourteenth of the example model's parameters: `examples/model/distil.py` trained it; the EAGLE-3
head a seventh: `eagle.py` did. `length` is how many tokens a step with guesses brings.

    python benchmarks/speculation.py [--quick]
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from report import ROOT, line, tell
from tokenizers import Tokenizer

from penstock_worker.engine import Engine
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Batch, Sampling

EXAMPLE = ROOT / "examples" / "model"
TOKENS = 256
GREEDY = Sampling(temperature=0.0)

METHODS = {"ngram": "", "draft": str(EXAMPLE / "draft"), "eagle3": str(EXAMPLE / "eagle")}

TEXTS: dict[str, str | Path] = {
    "prose": EXAMPLE / "heldout.txt",
    "code": Path(__file__),
    "list": "name: a\nvalue: 1\nunit: m\n\n" * 12,
}


def main() -> None:
    """Print a line for each text and concurrency."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    quick = parser.parse_args().quick
    tokenizer = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    engines = {method: _engine(method) for method in ("none", *METHODS)}
    for name, source in TEXTS.items():
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        prompt = tokenizer.encode(text[:1600]).ids
        for concurrency in (1, 4, 8):
            _compare(engines, f"{name}, {concurrency}", prompt, concurrency, 1 if quick else 5)


def _engine(method: str) -> Engine:
    settings = EngineConfig(
        model=str(EXAMPLE),
        speculative=method,
        speculative_model=METHODS.get(method, ""),
        self_benchmark=True,
    )
    return build_engine(settings)[0]


def _compare(
    engines: dict[str, Engine], case: str, prompt: list[int], concurrency: int, rounds: int
) -> None:
    """Interleave all, so that what else the machine does falls on all."""
    best = dict.fromkeys(engines, 0.0)
    tokens: dict[str, dict[str, list[int]]] = {}
    times, guessed, right = Counter[str](), Counter[str](), Counter[str]()
    for _ in range(rounds):
        for method, engine in engines.items():
            speed, batches = _run(engine, prompt, concurrency)
            best[method] = max(best[method], speed)
            tokens[method] = _tokens(batches)
            drafted = [batch.stats.drafted for batch in batches if batch.stats.drafted]
            times[method] += sum(one.drafts for one in drafted)
            guessed[method] += sum(one.tokens for one in drafted)
            right[method] += sum(sum(one.accepted) for one in drafted)
    for method in METHODS:
        if tokens["none"] != tokens[method]:
            sys.exit(f"{case}: guessing by {method} changed the output")
        figure = line(
            "speculation",
            "decoded_tokens_per_second",
            f"{method}, {case}",
            "tokens/s",
            best[method],
            peer="none",
            peer_value=best["none"],
            length=round(1 + right[method] / max(1, times[method]), 2),
            accepted=round(right[method] / max(1, guessed[method]), 3),
            guessed=guessed[method],
        )
        tell(figure, keep=rounds > 1)


def _run(engine: Engine, prompt: list[int], concurrency: int) -> tuple[float, list[Batch]]:
    """Return decoded tokens per second, and all that the engine told."""
    for number in range(concurrency):
        # Different ends, or the choices would walk in step.
        engine.add(AddRequest(str(number), prompt[: len(prompt) - number], TOKENS, GREEDY))
    batches = [engine.step()]
    began = time.perf_counter()
    while engine.busy:
        batches.append(engine.step())
    seconds = time.perf_counter() - began
    decoded = sum(len(output.tokens) for batch in batches[1:] for output in batch.outputs)
    return decoded / seconds, batches


def _tokens(batches: list[Batch]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for batch in batches:
        for output in batch.outputs:
            found.setdefault(output.id, []).extend(output.tokens)
    return found


if __name__ == "__main__":
    main()
