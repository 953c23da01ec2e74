"""A request's permission to run: at once, or when it is its turn (`gate` gives it)."""

import asyncio
from typing import Protocol

from penstock_contract.errors import ApiError
from penstock_contract.fleet import FleetModel


class Gatekeeper(Protocol):
    """What permits are given by, and go back to."""

    def left(self, model: FleetModel) -> None:
        """A request that had its turn goes to a worker before anything else happens."""

    def release(self, model: FleetModel, number: int, *, ran: bool) -> None:
        """A request is over, or does not want to wait any longer."""

    def refusal(self, model: FleetModel, why: str) -> ApiError:
        """Return a refusal that says when to come again."""


class Permit:
    """A request's permission to run, now or when it is its turn.

    Args:
        gates: by which it was given.
        model: whose gate it is.
        number: of the request.
        turn: comes when there is room; None: there was at once.
        patience: seconds to wait for that.
        waits_for: what the workers are called that it waits for; empty: it does not.
    """

    def __init__(
        self,
        gates: Gatekeeper,
        model: FleetModel,
        number: int,
        turn: "asyncio.Future[None] | None" = None,
        patience: float = 0.0,
        waits_for: str = "",
    ) -> None:
        self.waits_for = waits_for
        self._gates = gates
        self._model = model
        self._number = number
        self._turn = turn
        self._patience = patience
        self._leaving = turn is not None

    async def granted(self) -> None:
        """Return when it is the request's turn.

        Raises:
            ApiError: it was shed, or waited for too long.
        """
        if self._turn is None:
            return
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.shield(self._turn)
        except TimeoutError as error:
            if not self._turn.done():
                why = f"No worker of {self._model.name!r} had room within {self._patience:g} s."
                raise self._gates.refusal(self._model, why) from error
            self._turn.result()  # it came in the same moment
        self._leave()

    def _leave(self) -> None:
        if self._leaving:
            self._leaving = False
            self._gates.left(self._model)

    def release(self) -> None:
        """Give it back, whatever became of the request."""
        turn = self._turn
        ran = turn is None or (turn.done() and turn.exception() is None)
        if ran:
            self._leave()
        self._gates.release(self._model, self._number, ran=ran)
