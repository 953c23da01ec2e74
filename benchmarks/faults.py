"""What clients lose when workers and gateways fail: real processes, every stream audited.

Open-loop load (Poisson, 60 % of what the fleet managed undisturbed) on four workers behind two
gateways; each answer is compared with that of an undisturbed run. The faults are those of
docs/faults.md. With --peers the same load, faults and judge run against other routers.

    python benchmarks/faults.py [--scenario F1 …] [--peers vllm-router,litellm] [--quick]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from report import ROOT, line, tell

sys.path.insert(0, str(ROOT / "tests" / "support"))

from fault_load import Judgement, Load, questions
from fault_overload import OVERLOAD, overload
from fault_scenarios import DRAIN_SECONDS, SCENARIOS, Report, Stage, Tally, tally
from live_fleet import LiveFleet, live_fleet
from router_peers import PEERS, PLAIN, Router, router

GATEWAYS: Final = 2
SHARE: Final = 0.6
"""Of the measured capacity."""
STREAMS: Final = 800
"""At least so many for a figure that is kept."""
TOKENS: Final = 160
PEERS_SHOWN_WITH: Final = ("F1", "F3")


def main() -> None:
    """Run the scenarios that were asked for and print their lines."""
    options = _parser().parse_args()
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    names = options.scenario or [*SCENARIOS, OVERLOAD]
    for name in names:
        if name == OVERLOAD:
            await _overload(options)
            continue
        ours = await _measure(name, options, None)
        _tell(name, options, ours)
        for peer in options.peers if name in PEERS_SHOWN_WITH else []:
            _tell(name, options, ours, peer, await _measure(name, options, peer))


async def _measure(name: str, options: argparse.Namespace, peer: str | None) -> Tally:
    """Run one scenario, ours or a peer's in front of the same workers."""
    flags = ("--dtype", "float32", "--drain-timeout", f"{DRAIN_SECONDS:g}s")
    with tempfile.TemporaryDirectory() as folder:
        fleet = LiveFleet(Path(folder), flags)
        gateways = GATEWAYS if peer is None else 0
        async with live_fleet(fleet, options.workers, gateways):
            if peer is None:
                urls = [gateway.url for gateway in fleet.gateways]
                return await _disturbed(name, options, fleet, urls)
            backends = [worker.proxy.url for worker in fleet.workers]
            with router(peer, backends, Path(folder)) as found:
                await _ready(found)
                plain = peer in PLAIN
                return await _disturbed(name, options, fleet, [found.url], plain=plain)


async def _disturbed(
    name: str,
    options: argparse.Namespace,
    fleet: LiveFleet,
    urls: list[str],
    *,
    plain: bool = False,
) -> Tally:
    asked = questions(12 if options.quick else 24, TOKENS, plain=plain)
    load = Load(urls, asked, seed=1)
    await load.learn()
    rate = SHARE * await load.learn()
    seconds = options.seconds or (10.0 if options.quick else STREAMS / rate)
    sys.stderr.write(f"{name}: {rate:.1f} streams a second for {seconds:.0f} s\n")
    stage = Stage(fleet, random.Random(2), time.monotonic() + seconds, Report())
    samples, _ = await asyncio.gather(load.run(rate, seconds), SCENARIOS[name](stage))
    return tally(load, samples, stage.report)


async def _ready(found: Router) -> None:
    deadline = time.monotonic() + 180
    while not await found.listening():
        if time.monotonic() > deadline:
            raise SystemExit(f"{found.name} does not listen")
        await asyncio.sleep(0.2)


async def _overload(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for metric, unit, limit, value in await overload(Path(folder), quick=options.quick):
            figure = line("faults", metric, OVERLOAD, unit, value, limit=limit)
            tell(figure, keep=not options.quick)


def _tell(
    name: str,
    options: argparse.Namespace,
    ours: Tally,
    peer: str | None = None,
    theirs: Tally | None = None,
) -> None:
    """Print the lines of a scenario, ours alone or beside a peer's."""
    found = theirs or ours
    said = {judgement.value: count for judgement, count in found.counts.items()}
    problems = "; ".join(found.report.problems) or "none"
    sys.stderr.write(
        f"{name} {peer or 'penstock'}: {found.streams} streams, {len(found.gaps)} hit, {said}, "
        f"gap p99 {found.gap_p99:.2f} s, {found.report.figures}, problems: {problems}\n"
    )
    more: dict[str, Any] = {
        "streams": ours.streams,
        "hit": len(ours.gaps),
        "accidents": len(ours.report.accidents),
        "problems": ours.report.problems,
        **ours.report.figures,
    }
    if theirs is not None:
        more["peer_streams"] = theirs.streams
    figures = [
        (judgement.value, "streams", float(ours.counts[judgement]), 0.0, judgement)
        for judgement in (
            Judgement.LOST,
            Judgement.TRUNCATED,
            Judgement.DUPLICATED,
            Judgement.MISMATCHED,
        )
    ]
    for metric, unit, value, limit, judgement in figures:
        other = None if theirs is None else float(theirs.counts[judgement])
        figure = line(
            "faults", metric, name, unit, value, peer=peer, peer_value=other, limit=limit, **more
        )
        tell(figure, keep=not options.quick)
    if theirs is None:
        metric = "migration_gap_p99_seconds"
        figure = line("faults", metric, name, "s", ours.gap_p99, limit=2.0, **more)
        tell(figure, keep=not options.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    known = [*SCENARIOS, OVERLOAD]
    parser.add_argument("--scenario", action="append", choices=known, help="default: all")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[], help=str(PEERS))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="of load for each scenario")
    parser.add_argument("--quick", action="store_true", help="ten seconds each, nothing is kept")
    return parser


if __name__ == "__main__":
    main()
