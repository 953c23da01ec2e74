"""What the batch service exports."""

from typing import Final

from penstock_contract.metrics.declaration import (
    counter,
    gauge,
)

BATCHES: Final = gauge(
    "penstock_batch_batches", "Batches that have not ended, by status.", "status"
)
BATCH_ENDED: Final = counter("penstock_batch_ended", "Batches that ended, by status.", "status")
BATCH_REQUESTS: Final = counter(
    "penstock_batch_requests",
    "Requests of batches that have their line in an output or error file, by what became of them.",
    "outcome",
)
BATCH_IN_FLIGHT: Final = gauge(
    "penstock_batch_in_flight", "Requests of batches that wait for the gateway's answer."
)
BATCH_WINDOW: Final = gauge(
    "penstock_batch_window", "Requests that all batches together would have in flight now."
)
BATCH_BACKOFFS: Final = counter(
    "penstock_batch_backoffs",
    "Times that a batch halved what it has in flight, by the status of the answer; 0 is no answer.",
    "status",
)
BATCH_FILES: Final = gauge("penstock_batch_files", "Files that are stored.")
BATCH_STORED: Final = gauge("penstock_batch_stored_bytes", "Bytes of these files.")

BATCH: Final = (
    BATCHES, BATCH_ENDED, BATCH_REQUESTS, BATCH_IN_FLIGHT, BATCH_WINDOW, BATCH_BACKOFFS,
    BATCH_FILES, BATCH_STORED,
)  # fmt: skip
