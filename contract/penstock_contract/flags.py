"""Command-line values of several processes: ports; durations and quantities, as in the API."""

import argparse

from penstock_contract.api.base import quantity, seconds


def duration_flag(text: str) -> float:
    """Return a duration like `30s` in seconds (an argparse type)."""
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def quantity_flag(text: str) -> int:
    """Return a quantity like `512Mi` as a whole number (an argparse type)."""
    try:
        return int(quantity(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def port_flag(text: str) -> int:
    """Return a port; 0 leaves the choice to the system (an argparse type)."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: send a number up to 65535")
    return int(text)
