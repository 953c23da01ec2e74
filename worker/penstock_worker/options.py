"""The flags of `penstock-worker`."""

import argparse
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock_contract import group
from penstock_contract.api.engine import Task
from penstock_contract.flags import duration_flag, port_flag, quantity_flag
from penstock_contract.handoff import PORT
from penstock_worker.engine_config import SimulationConfig
from penstock_worker.flag_types import (
    adapter,
    address,
    cost,
    natural,
    positive,
    share,
    task,
    worker_id,
)

Add = Callable[..., Any]
"""`ArgumentParser.add_argument`."""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    found = argparse.ArgumentParser(prog="penstock-worker", description="Serve a model.")
    for add_flags in (
        _naming,
        _execution,
        _capacity,
        _speculation,
        _division,
        _kv_events,
        _kv_elsewhere,
        _simulation,
        _operation,
    ):
        add_flags(found.add_argument)
    return found


def _naming(add: Add) -> None:
    """Of what is served, and where."""
    add("--model", required=True, help="folder of a checkpoint in Hugging Face layout")
    add(
        "--served-model-name",
        action="append",
        help="name that clients use; repeat it for aliases (default: the folder's name)",
    )
    add(
        "--adapter",
        action="append",
        default=[],
        type=adapter,
        metavar="NAME=FOLDER",
        help="a LoRA adapter that PEFT saved, served as a model of this name; repeat it for more",
    )
    add(
        "--max-adapters",
        type=int,
        default=0,
        help="adapters at a time, where more come by /v1/load_lora_adapter (default: 0, none do)",
    )
    add(
        "--max-adapter-rank",
        type=int,
        default=0,
        help="of those that come while it serves (default: 0, any)",
    )
    add(
        "--task",
        type=task,
        default=Task.AUTO,
        metavar="auto|generate|embed|score",
        help="what the model is for (default: auto, as its files tell)",
    )
    add("--host", default="127.0.0.1")
    add("--port", type=port_flag, default=8000)


def _execution(add: Add) -> None:
    """Of how it is computed."""
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    add(
        "--quantization",
        choices=["none", "int8", "int4"],
        default="none",
        help="of the weights, made while they are loaded: int8 is W8A8, int4 is weight-only",
    )
    add(
        "--kv-cache-dtype",
        choices=["auto", "bfloat16", "int8_per_token_head"],
        default="auto",
        help="what KV is stored in (default: auto, what is computed in); int8_per_token_head: "
        "bytes, with a scale for each token and head",
    )
    add(
        "--sparse-attention-tokens",
        type=natural,
        default=0,
        metavar="TOKENS",
        help="of a context, those that a token of an answer reads in most layers: the blocks that "
        "can matter (default: 0, all)",
    )
    add(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="auto: a GPU where PyTorch finds one; cuda: fail where it finds none",
    )
    add(
        "--kernels",
        choices=["auto", "native", "torch", "triton"],
        default="auto",
        help="auto: triton on a GPU; on a CPU native where they were compiled "
        "(python -m penstock_worker.native.build), else torch",
    )


def _capacity(add: Add) -> None:
    """Of what runs at once, and the memory for it."""
    add("--max-model-len", type=positive, help="prompt + output (default: the model's limit)")
    add("--block-size", type=positive, default=16, help="tokens per KV block")
    add("--max-num-seqs", type=positive, default=256, help="sequences that run at once")
    add("--max-num-batched-tokens", type=positive, default=8192, help="token budget of a step")
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    add(
        "--kv-cache-memory",
        type=quantity_flag,
        help="of each rank, like 512Mi (default: 1Gi in all, or one context's, as far as memory "
        "goes; on a GPU what --gpu-memory-utilization leaves)",
    )
    add(
        "--gpu-memory-utilization",
        type=share,
        default=0.9,
        help="share of a GPU's memory that weights, steps and KV take together (default: 0.9)",
    )


def _speculation(add: Add) -> None:
    """Of who guesses tokens."""
    add(
        "--speculative",
        choices=["none", "ngram", "draft", "eagle3"],
        default="none",
        help="ngram guesses that a text goes on as it did before, draft what a smaller model "
        "says, eagle3 what a head does that sees the model's states; the output stays the same, "
        "or as likely",
    )
    add("--speculative-model", type=Path, metavar="FOLDER", help="checkpoint of the draft or head")
    add("--speculative-quantization", choices=["none", "int8", "int4"], default="none")
    add("--speculative-tokens", type=positive, default=4, help="guessed in a step, at most")


def _division(add: Add) -> None:
    """Of the processors that share the work."""
    add("--threads", type=positive, help="compute threads (default: OMP_NUM_THREADS or cores)")
    add(
        "--tensor-parallel-size",
        type=positive,
        default=1,
        metavar="RANKS",
        help="processes that divide the model, each with a GPU, or a share of the CPU's threads",
    )
    add(group.NODES, type=positive, default=1, help="workers that share those processes")
    add(
        group.NODE_RANK,
        type=int,
        default=0,
        metavar="NODE",
        help="which of them this one is: 0 serves, the others follow it",
    )
    add(
        group.GROUP_ADDRESS,
        type=address,
        metavar="HOST:PORT",
        help=f"where node 0 waits for the others; like leader.example:{group.PORT}",
    )


def _kv_events(add: Add) -> None:
    """Of what is published of the prefix cache."""
    add(
        "--worker-id",
        type=worker_id,
        default=socket.gethostname(),
        help="unique over time, such as the pod's uid (default: the host's name)",
    )
    add("--kv-events", metavar="ENDPOINT", help="publish KV events, like tcp://0.0.0.0:5557")
    add("--kv-events-replay", metavar="ENDPOINT", help="answer replays, like tcp://0.0.0.0:5558")
    add(
        "--kv-events-encoding",
        choices=["maps", "arrays"],
        default="maps",
        help="maps as vLLM writes them, arrays as older vLLM, SGLang and llm-d do",
    )


def _kv_elsewhere(add: Add) -> None:
    """Of KV on other workers and on disks."""
    add(
        "--kv-transfer",
        type=address,
        metavar="HOST:PORT",
        help=f"hand KV over to other workers, and take theirs; like 0.0.0.0:{PORT}",
    )
    add(
        "--kv-transfer-advertise",
        metavar="HOST",
        help="where other workers reach this one (default: the address that it listens on)",
    )
    add(
        "--kv-transfer-lease",
        type=duration_flag,
        default=30.0,
        help="how long blocks are kept for another worker, like 30s",
    )
    add(
        "--kv-tier-disk",
        type=Path,
        metavar="FOLDER",
        help="keep KV that leaves the prefix cache in a folder, which workers may share",
    )
    add(
        "--kv-tier-disk-capacity",
        type=quantity_flag,
        default=10 << 30,
        help="what its files may take together, like 20Gi (default: 10Gi)",
    )


def _simulation(add: Add) -> None:
    """Of what steps cost, and of workers that only pretend."""
    add(
        "--self-benchmark",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure at start, within half a second, what a step costs",
    )
    add(
        "--runner",
        choices=["model", "sim"],
        default="model",
        help="sim computes nothing: steps take what --sim-cost says, tokens come from a hash",
    )
    add(
        "--sim-cost",
        type=cost,
        default=SimulationConfig().cost,
        metavar="TERM=SECONDS,…",
        help="terms: step, prefill_token, sequence, kv_token (default: 10 ms, 0.1 ms, 0.2 ms, 0)",
    )
    add("--sim-kv-tokens", type=positive, default=100_000, help="what its KV cache would hold")
    add(
        "--sim-kv-bandwidth",
        type=quantity_flag,
        default=SimulationConfig().kv_bandwidth,
        help="bytes per second at which KV of other workers would arrive, like 1Gi",
    )


def _operation(add: Add) -> None:
    """Of how it runs."""
    add("--drain-timeout", type=duration_flag, default=120.0, help="like 120s")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
