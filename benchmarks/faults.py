"""What clients lose when workers and gateways fail: real processes, every stream audited.

Open-loop load (Poisson, 60 % of what the fleet managed undisturbed) on four workers behind two
gateways; each answer is compared with that of an undisturbed run. The faults are those of
docs/faults.md. With --peers the same load, faults and judge run against other routers.

    python benchmarks/faults.py [--scenario F1 F3 …] [--peers vllm-router,litellm] [--quick]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uvloop
from report import ROOT, line, tell

sys.path.insert(0, str(ROOT / "tests" / "support"))

import fault_gateways
import fault_soak
import fault_workers
from fault_load import Load, questions
from fault_overload import OVERLOAD, RUNNER, overload
from fault_stage import Disturb, Stage
from fault_tally import SUFFERED, Tally, balance, completed, suffering, tally
from live_fleet import LiveFleet, live_fleet
from router_peers import PEERS, PLAIN, Router, router

SOAK: Final = "F22"
SCENARIOS: Final[dict[str, Disturb]] = {
    "F1": fault_workers.kill_workers,
    "F2": fault_workers.hang_workers,
    "F3": fault_workers.retire_workers,
    "F5": fault_gateways.retire_a_gateway,
    "F6": fault_gateways.kill_a_gateway,
    "F11": fault_workers.partition_workers,
    "F13": fault_workers.slow_a_worker,
    "F14": fault_workers.garble_a_worker,
    "F19": fault_gateways.abandon_streams,
    SOAK: fault_soak.soak,
}
PEERS_SHOWN_WITH: Final = ("F1", "F3")
MANY: Final = ("F1", "F2", "F3", "F11", "F13")
"""Scenarios whose accidents come again and again, or are only found out with time."""
STREAMS: Final = {True: 800, False: 400}
"""At least so many for a figure that is kept; more for those above, if they are ours."""
GATEWAYS: Final = 2
SHARE: Final = 0.6
"""Of the measured capacity."""
SOAK_SHARE: Final = 0.4
"""Of it for F22, in which half of the workers may be away."""
SOAK_SECONDS: Final = 300.0
SOAK_ATTEMPTS: Final = 8
"""Workers that a stream may be given to: with so many accidents one may meet three."""
SOAK_KV_MEMORY: Final = "32Mi"
"""Of a worker: little, so that each block has soon been used once, and memory can be judged."""
SOAK_STREAMS: Final = 32
"""At a time: how overload is borne is shown by another."""
TOKENS: Final = 128


def main() -> None:
    """Run the scenarios that were asked for, print their lines, and fail with any of ours."""
    failures = uvloop.run(_run(_parser().parse_args()))
    if failures:
        raise SystemExit("\n".join(failures))


async def _run(options: argparse.Namespace) -> list[str]:
    failures: list[str] = []
    for name in options.scenario or [*SCENARIOS, OVERLOAD]:
        if name == OVERLOAD:
            failures += await _overload(options)
            continue
        ours = await _measure(name, options, None)
        failures += [f"{name}: {failure}" for failure in ours.failures]
        _tell(name, options, ours)
        for peer in options.peers if name in PEERS_SHOWN_WITH else []:
            _tell(name, options, ours, peer, await _measure(name, options, peer))
    return failures


async def _measure(name: str, options: argparse.Namespace, peer: str | None) -> Tally:
    """Run one scenario, ours or a peer's in front of the same workers."""
    flags = ["--dtype", "float32", "--drain-timeout", f"{fault_workers.DRAIN_SECONDS:g}s"]
    if name == SOAK:
        flags += ["--kv-cache-memory", SOAK_KV_MEMORY]
    with tempfile.TemporaryDirectory() as folder:
        fleet = LiveFleet(Path(folder), flags)
        if name == SOAK:
            fleet.attempts = SOAK_ATTEMPTS
        async with live_fleet(fleet, options.workers, GATEWAYS if peer is None else 0):
            if peer is None:
                return await _disturbed(name, options, fleet, None)
            backends = [worker.proxy.url for worker in fleet.workers]
            with router(peer, backends, Path(folder)) as found:
                await _ready(found)
                return await _disturbed(name, options, fleet, found)


async def _disturbed(
    name: str, options: argparse.Namespace, fleet: LiveFleet, peer: Router | None
) -> Tally:
    urls = [peer.url] if peer else [gateway.url for gateway in fleet.gateways]
    plain = peer is not None and peer.name in PLAIN
    seed = options.seed
    load = Load(urls, questions(12 if options.quick else 24, TOKENS, plain=plain), seed)
    await load.learn()
    rate = (SOAK_SHARE if name == SOAK else SHARE) * await load.learn()
    streams = STREAMS[name in MANY and peer is None]
    full = SOAK_SECONDS if name == SOAK else streams / rate
    seconds = options.seconds or (10.0 if options.quick else full)
    who = peer.name if peer else "penstock"
    sys.stderr.write(
        f"{name} {who}: {rate:.1f} streams a second for {seconds:.0f} s, seed {seed}\n"
    )
    before = await completed(fleet.gateways, set())
    stage = Stage(fleet, load, random.Random(seed + 1), time.monotonic() + seconds, peer)
    most = SOAK_STREAMS if name == SOAK else sys.maxsize
    samples, _ = await asyncio.gather(load.run(rate, seconds, most), SCENARIOS[name](stage))
    await balance(fleet.gateways, before, samples, stage.report)
    for text in suffering(load, samples, stage.until - seconds):
        sys.stderr.write(f"{text}\n")
    return tally(load, samples, stage.report)


async def _ready(found: Router) -> None:
    deadline = time.monotonic() + 180
    while not await found.listening():
        if time.monotonic() > deadline:
            raise SystemExit(f"{found.name} does not listen")
        await asyncio.sleep(0.2)


async def _overload(options: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        found = await overload(Path(folder), quick=options.quick)
    for metric, unit, limit, value in found.figures:
        figure = line(
            *("faults", metric, OVERLOAD, unit, value),
            limit=limit,
            runner=RUNNER,
            refused=found.refused,
            requests=found.requests,
        )
        tell(figure, keep=not options.quick)
    return [f"{OVERLOAD}: {failure}" for failure in found.failures]


def _tell(
    name: str,
    options: argparse.Namespace,
    ours: Tally,
    peer: str | None = None,
    theirs: Tally | None = None,
) -> None:
    """Print the lines of a scenario, ours alone or beside a peer's."""
    _say(f"{name} {peer or 'penstock'}", theirs or ours)
    more: dict[str, Any] = {"runner": "model", **_described(ours, "")}
    if theirs is not None:
        more |= _described(theirs, "peer_")
    for judgement in SUFFERED:
        other = None if theirs is None else float(theirs.counts[judgement])
        value = float(ours.counts[judgement])
        figure = line(
            *("faults", judgement.value, name, "streams", value),
            **{"peer": peer, "peer_value": other, "limit": 0.0, **more},
        )
        tell(figure, keep=not options.quick)
    if theirs is None and ours.gaps and name != SOAK:  # in which some workers crawl
        metric = "migration_gap_p99_seconds"
        figure = line("faults", metric, name, "s", ours.gap_p99, limit=2.0, **more)
        tell(figure, keep=not options.quick)


def _described(found: Tally, prefix: str) -> dict[str, Any]:
    """Return what explains figures: how many streams there were, and what happened to them."""
    told = {
        "streams": found.streams,
        "hit": found.report.hit,
        "accidents": len(found.report.accidents),
        "problems": found.report.problems,
        **found.report.figures,
    }
    return {prefix + key: value for key, value in told.items()}


def _say(title: str, found: Tally) -> None:
    """Print a scenario for people."""
    counts = ", ".join(f"{count} {one.value}" for one, count in found.counts.items())
    sys.stderr.write(
        f"{title}: {found.streams} streams, {len(found.report.accidents)} accidents hit "
        f"{found.report.hit}; {counts}; gap p99 {found.gap_p99:.2f} s; {found.report.figures}; "
        f"problems: {'; '.join(found.report.problems) or 'none'}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*SCENARIOS, OVERLOAD]
    parser.add_argument(
        "--scenario", nargs="+", action="extend", choices=known, help="default: all"
    )
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[], help=str(PEERS))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="of load for each scenario")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--quick", action="store_true", help="ten seconds each, nothing is kept")
    return parser


if __name__ == "__main__":
    main()
