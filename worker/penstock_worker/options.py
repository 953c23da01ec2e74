"""The flags of `penstock-worker`, and what the engine is told of them."""

import argparse
import socket
from dataclasses import asdict
from math import inf, nan
from pathlib import Path

from penstock_contract.api.engine import Task
from penstock_contract.flags import duration_flag, quantity_flag
from penstock_contract.handoff import PORT
from penstock_contract.headers import REQUEST_ID_PATTERN
from penstock_contract.step_cost import StepCost
from penstock_worker.engine_config import (
    EngineConfig,
    KVEventsConfig,
    SimulationConfig,
    TierConfig,
    TransferConfig,
)


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """Return what the engine is to know of the options."""
    return EngineConfig(
        model=str(Path(options.model).resolve()),
        task=options.task,
        dtype=options.dtype,
        quantization=options.quantization,
        device=options.device,
        kernels=options.kernels,
        max_model_len=options.max_model_len,
        block_size=options.block_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        prefix_caching=options.enable_prefix_caching,
        adapters={name: str(folder.resolve()) for name, folder in options.adapter},
        kv_cache_bytes=options.kv_cache_memory,
        gpu_memory_utilization=options.gpu_memory_utilization,
        speculative=options.speculative,
        speculative_tokens=options.speculative_tokens,
        threads=options.threads,
        kv_events=_kv_events(options),
        transfer=_transfer(options),
        tier=_tier(options),
        self_benchmark=options.self_benchmark,
        simulation=_simulation(options),
    )


def _simulation(options: argparse.Namespace) -> SimulationConfig | None:
    if options.runner != "sim":
        return None
    return SimulationConfig(options.sim_cost, options.sim_kv_tokens, options.sim_kv_bandwidth)


def _kv_events(options: argparse.Namespace) -> KVEventsConfig | None:
    if options.kv_events is None:
        return None
    return KVEventsConfig(
        endpoint=options.kv_events,
        replay_endpoint=options.kv_events_replay or "",
        encoding=options.kv_events_encoding,
        worker=options.worker_id,
        model=(options.served_model_name or [Path(options.model).resolve().name])[0],
    )


def _transfer(options: argparse.Namespace) -> TransferConfig | None:
    if options.kv_transfer is None:
        return None
    host, port = options.kv_transfer
    return TransferConfig(
        host=host,
        port=port,
        advertised_host=options.kv_transfer_advertise or _reachable(host),
        lease_seconds=options.kv_transfer_lease,
        worker=options.worker_id,
    )


def _tier(options: argparse.Namespace) -> TierConfig | None:
    if options.kv_tier_disk is None:
        return None
    return TierConfig(str(options.kv_tier_disk.resolve()), options.kv_tier_disk_capacity)


def _reachable(host: str) -> str:
    """Return the address to tell others: a pod's own where it listens on all."""
    if host not in ("0.0.0.0", "::"):
        return host
    return str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(prog="penstock-worker", description="Serve a model.")
    add = parser.add_argument
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
        type=_adapter,
        metavar="NAME=FOLDER",
        help="a LoRA adapter that PEFT saved, served as a model of this name; repeat it for more",
    )
    add(
        "--task",
        type=_task,
        default=Task.AUTO,
        metavar="auto|generate|embed|score",
        help="what the model is for (default: auto, as its files tell)",
    )
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    add(
        "--quantization",
        choices=["none", "int8", "int4"],
        default="none",
        help="of the weights, made while they are loaded: int8 is W8A8, int4 is weight-only",
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
    add("--max-model-len", type=_positive, help="prompt + output (default: the model's limit)")
    add("--block-size", type=_positive, default=16, help="tokens per KV block")
    add("--max-num-seqs", type=_positive, default=256, help="sequences that run at once")
    add("--max-num-batched-tokens", type=_positive, default=8192, help="token budget of a step")
    add("--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True)
    add(
        "--kv-cache-memory",
        type=quantity_flag,
        help="like 512Mi (default: at most 1Gi; on a GPU what --gpu-memory-utilization leaves)",
    )
    add(
        "--gpu-memory-utilization",
        type=_share,
        default=0.9,
        help="share of a GPU's memory that weights, steps and KV take together (default: 0.9)",
    )
    add(
        "--speculative",
        choices=["none", "ngram"],
        default="none",
        help="ngram guesses that a text goes on as it did before; the output stays the same",
    )
    add("--speculative-tokens", type=_positive, default=4, help="guessed in a step, at most")
    add("--threads", type=_positive, help="compute threads (default: OMP_NUM_THREADS or cores)")
    add(
        "--worker-id",
        type=_worker_id,
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
    add(
        "--kv-transfer",
        type=_address,
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
        type=_cost,
        default=SimulationConfig().cost,
        metavar="TERM=SECONDS,…",
        help="terms: step, prefill_token, sequence, kv_token (default: 10 ms, 0.1 ms, 0.2 ms, 0)",
    )
    add("--sim-kv-tokens", type=_positive, default=100_000, help="what its KV cache would hold")
    add(
        "--sim-kv-bandwidth",
        type=quantity_flag,
        default=SimulationConfig().kv_bandwidth,
        help="bytes per second at which KV of other workers would arrive, like 1Gi",
    )
    add("--drain-timeout", type=duration_flag, default=120.0, help="like 120s")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser


def _task(text: str) -> Task:
    return Task(text.capitalize())


def _cost(text: str) -> StepCost:
    cost = asdict(StepCost(0.0, 0.0, 0.0, 0.0))
    for part in text.split(","):
        term, _, seconds = part.partition("=")
        if term not in cost:
            raise argparse.ArgumentTypeError(f"{term!r} is none of {', '.join(cost)}")
        cost[term] = _seconds(seconds)
    return StepCost(**cost)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 <= value < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, like 0.01")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1, like 0.9")
    return value


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: send HOST:PORT")
    return host.strip("[]"), int(port)


def _adapter(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is no adapter: send NAME=FOLDER")
    return name, Path(folder)


def _worker_id(text: str) -> str:
    if not REQUEST_ID_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError("use letters, digits and . _ - only")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
