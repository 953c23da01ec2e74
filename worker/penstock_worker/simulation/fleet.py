"""Many simulated workers: `python -m penstock_worker.simulation.fleet COUNT PORT [WORKER FLAGS]`.

Each is a process of its own, forked after everything is imported, so that they share most of their
memory. They listen on PORT, PORT + 1, … and end when this process is told to.
"""

import argparse
import gc
import os
import signal
import sys
from types import FrameType

import penstock_worker.simulation.client  # noqa: F401  children need it: load it once
from penstock_worker import cli


def main() -> None:
    """Run a fleet until a signal; the exit status is 0 when every worker's is."""
    parser = argparse.ArgumentParser(prog="penstock_worker.simulation.fleet", description=__doc__)
    parser.add_argument("count", type=int, help="workers")
    parser.add_argument("port", type=int, help="of the first")
    options, flags = parser.parse_known_args()
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, everything that is shared
    workers = [_fork(flags, options.port + number) for number in range(options.count)]

    def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for worker in workers:
            os.kill(worker, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    failed = [worker for worker in workers if os.waitpid(worker, 0)[1]]
    sys.exit(1 if failed else 0)


def _fork(flags: list[str], port: int) -> int:
    pid = os.fork()
    if not pid:
        own = ["--runner", "sim", "--port", str(port), "--worker-id", f"sim-{port}"]
        sys.argv = ["penstock-worker", *flags, *own]
        cli.main()
    return pid


if __name__ == "__main__":
    main()
