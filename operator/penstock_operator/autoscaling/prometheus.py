"""Reads scrapes from a Prometheus server, over its HTTP API.

One query asks for the raw samples of the last minutes of all targets: their own times tell how old
they are, whatever the server's evaluation says, and counters are differenced here as they are for a
direct scrape. Only labels that the contract declares are kept, so a target that two jobs scrape is
counted once.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import httpx

from penstock_contract import metrics as declared
from penstock_contract.metrics import Kind
from penstock_operator.autoscaling.exposition import base
from penstock_operator.autoscaling.names import series_of
from penstock_operator.autoscaling.scrape import Scrape, Series
from penstock_operator.autoscaling.sources import SourceError, Target
from penstock_operator.scaling.signal import MAX_AGE

TIMEOUT = 10.0
WINDOW = f"{MAX_AGE * 2:.0f}s"
"""Samples that are older are of no use."""
LABELS: Final = {
    metric.name: {*metric.labels, *(["le"] if metric.kind is Kind.HISTOGRAM else [])}
    for metric in declared.ALL
}


class Prometheus:
    """One server, which scrapes the targets as pods: labels `namespace` and `pod` name them.

    Args:
        http: a client.
        url: base URL of the server.
    """

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def read(self, targets: list[Target]) -> Mapping[str, Scrape]:
        """See `Source.read`."""
        if not targets:
            return {}
        known = {(target.namespace, target.id) for target in targets}
        samples: dict[str, dict[Series, tuple[float, float]]] = {}
        for result in await self._ask(_query(targets)):
            labels, values = result["metric"], result["values"]
            pod = labels.get("pod", "")
            if (labels.get("namespace", ""), pod) in known and values:
                series = _series(labels)
                time, value = float(values[-1][0]), float(values[-1][1])
                found = samples.setdefault(pod, {})
                if series not in found or found[series][0] < time:
                    found[series] = time, value
        return {pod: _scrape(found) for pod, found in samples.items()}

    async def _ask(self, query: str) -> list[dict[str, Any]]:
        try:
            answer = await self._http.post(
                f"{self._url}/api/v1/query", data={"query": query}, timeout=TIMEOUT
            )
            answer.raise_for_status()
            body = json.loads(answer.content)
            if body["status"] != "success":
                raise SourceError(f"Prometheus: {body.get('error', 'no success')}")
            found: list[dict[str, Any]] = body["data"]["result"]
            if body["data"]["resultType"] != "matrix" or not isinstance(found, list):
                raise SourceError("Prometheus answered with something else than samples")
            return found
        except httpx.HTTPError as error:
            raise SourceError(f"Prometheus: {str(error) or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"Prometheus: its answer cannot be read: {error}") from error


def _query(targets: list[Target]) -> str:
    families = [name for name in LABELS if any(name in target.families for target in targets)]
    where = {
        "__name__": series_of(frozenset(families)),
        "namespace": {target.namespace for target in targets},
        "pod": {target.id for target in targets},
    }
    matches = (f'{label}=~"{"|".join(sorted(values))}"' for label, values in where.items())
    return f"{{{','.join(matches)}}}[{WINDOW}]"


def _series(labels: Mapping[str, str]) -> Series:
    name = labels["__name__"]
    known = LABELS.get(base(name), LABELS.get(name, set()))
    return name, frozenset((key, value) for key, value in labels.items() if key in known)


def _scrape(samples: Mapping[Series, tuple[float, float]]) -> Scrape:
    newest = max(time for time, _ in samples.values())
    return Scrape(newest, {series: value for series, (_, value) in samples.items()})
