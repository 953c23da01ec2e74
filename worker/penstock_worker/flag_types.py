"""What a flag of the worker holds (argparse types): a value, or a complaint that says the fix."""

import argparse
from dataclasses import asdict
from math import inf, nan
from pathlib import Path

from penstock_contract.api.engine import Task
from penstock_contract.headers import REQUEST_ID_PATTERN
from penstock_contract.step_cost import StepCost


def task(text: str) -> Task:
    """Return what a model is for, in the API's words but for their capital."""
    known = [each.lower() for each in Task]
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
    return Task(text.capitalize())


def cost(text: str) -> StepCost:
    """Return a cost like `step=0.01,sequence=1e-4`; terms that are not named cost nothing."""
    terms = asdict(StepCost(0.0, 0.0, 0.0, 0.0))
    for part in text.split(","):
        term, _, seconds = part.partition("=")
        if term not in terms:
            raise argparse.ArgumentTypeError(f"{term!r} is none of {', '.join(terms)}")
        terms[term] = _seconds(seconds)
    return StepCost(**terms)


def share(text: str) -> float:
    """Return a share like `0.9`."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1, like 0.9")
    return value


def address(text: str) -> tuple[str, int]:
    """Return host and port; an IPv6 address may stand in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: send HOST:PORT")
    return host.strip("[]"), int(port)


def adapter(text: str) -> tuple[str, Path]:
    """Return an adapter's name and its folder."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is no adapter: send NAME=FOLDER")
    return name, Path(folder)


def worker_id(text: str) -> str:
    """Return a name that can be part of headers and topics."""
    if not REQUEST_ID_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError("use letters, digits and . _ - only")
    return text


def positive(text: str) -> int:
    """Return a whole number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """Return a whole number that may be nothing."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, like 0.01")
    return value


def _number(text: str) -> float:
    """Return a number; one that fails every comparison where there is none."""
    try:
        return float(text)
    except ValueError:
        return nan
