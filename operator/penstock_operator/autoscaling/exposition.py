"""Parses the text format of `/metrics` into a scrape; keeps only what is asked for. Pure."""

from collections.abc import Container

from prometheus_client.parser import text_string_to_metric_families

from penstock_operator.autoscaling.scrape import Scrape, Series

SUFFIXES = ("_bucket", "_sum", "_count", "_total")


def parse(text: str, names: Container[str], time: float) -> Scrape:
    """Return the samples whose family is one of `names`.

    Raises:
        ValueError: this is no exposition.
    """
    values: dict[Series, float] = {}
    wanted = "\n".join(line for line in text.splitlines() if _family(line) in names)
    for family in text_string_to_metric_families(wanted + "\n"):
        for sample in family.samples:
            values[sample.name, frozenset(sample.labels.items())] = float(sample.value)
    return Scrape(time, values)


def _family(line: str) -> str:
    """Return the name that a sample's line is about, without the suffix of its kind."""
    if not line or line[0] == "#":
        return ""
    name = line.partition("{")[0].partition(" ")[0]
    return base(name)


def base(name: str) -> str:
    """Return a series' name without what its kind adds."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
