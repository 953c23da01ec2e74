"""Where scrapes come from. A target that cannot be read is left out: its last scrape grows old."""

import asyncio
import logging
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from penstock_operator.autoscaling.exposition import parse
from penstock_operator.autoscaling.scrape import Scrape

log = logging.getLogger("penstock.autoscaler")

TIMEOUT = 3.0
LARGEST = 16 << 20
"""Bytes of one target's exposition."""


@dataclass(frozen=True)
class Target:
    """One process that exports metrics."""

    id: str
    """As in the topology: a pod's name in a cluster."""
    url: str
    """Its base URL."""
    families: Container[str]
    """What is read of it."""
    namespace: str = ""
    """Of its pod."""


class SourceError(Exception):
    """Nothing could be read, and why."""


class Source(Protocol):
    """Reads targets."""

    async def read(self, targets: list[Target]) -> Mapping[str, Scrape]:
        """Return the scrapes of those that could be read, by target.

        Raises:
            SourceError: none could, because the source itself fails.
        """


class Scraper:
    """Asks every target itself."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def read(self, targets: list[Target]) -> Mapping[str, Scrape]:
        """See `Source.read`."""
        scrapes = await asyncio.gather(*(self._one(target) for target in targets))
        return {t.id: found for t, found in zip(targets, scrapes, strict=True) if found is not None}

    async def _one(self, target: Target) -> Scrape | None:
        try:
            async with asyncio.timeout(TIMEOUT):
                text = await self._get(f"{target.url}/metrics")
            return parse(text, target.families, time.time())
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            log.debug("%s: %s", target.id, error)
            return None

    async def _get(self, url: str) -> str:
        body = bytearray()
        async with self._http.stream("GET", url) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LARGEST:
                    raise ValueError(f"more than {LARGEST} bytes of metrics")
        return body.decode()
