"""Flags that the gateway and the endpoint picker share."""

import argparse
from pathlib import Path

from penstock_contract.flags import quantity_flag
from penstock_gateway.relay.bodies import bytes_of_all


def add_fleet(parser: argparse.ArgumentParser) -> None:
    """Add where models and workers are known from: `fleet` or `kubernetes`, and `namespace`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--fleet", type=Path, help="file that lists models and workers")
    source.add_argument(
        "--kubernetes",
        action="store_true",
        help="watch the cluster that this runs in, or the one that KUBECONFIG names",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        help="watch only this namespace; may be repeated (default: all)",
    )


def add_bodies(parser: argparse.ArgumentParser) -> None:
    """Add the bounds of request bodies: `max_body` and `max_bodies`, in bytes."""
    parser.add_argument(
        "--max-body",
        type=quantity_flag,
        default=32 << 20,
        help="like 32Mi; largest request body",
    )
    parser.add_argument(
        "--max-bodies",
        type=quantity_flag,
        help="like 256Mi; all request bodies together (default: 128Mi, or more where the largest "
        "body of each process needs it)",
    )


def fill_bodies(
    parser: argparse.ArgumentParser, options: argparse.Namespace, processes: int = 1
) -> None:
    """Set `max_bodies` where nobody has; end where no body would have room."""
    try:
        options.max_bodies = bytes_of_all(options.max_bodies, options.max_body, processes)
    except ValueError as error:
        parser.error(f"--max-bodies: {error}")
