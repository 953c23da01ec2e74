"""How ranks find each other before they compute: a TCPStore that rank 0 keeps.

Nothing of it is authenticated: it listens on the address by which the ranks' nodes reach rank 0,
loopback where there is one node only, on a port that the system picks. Only ranks that rank 0 has
admitted (`joining`) are told of it.
"""

import os
import socket
from datetime import timedelta

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from penstock_worker.interfaces import interface_of, is_loopback
from penstock_worker.tensor_parallel.group import LOADING, SILENCE, RankLost
from penstock_worker.tensor_parallel.rank_config import Meeting

BACKLOG = 64
"""Connections that may wait to be taken."""


class Place:
    """Where rank 0 lets the others find each other.

    Args:
        host: this node's address, by which all of them reach it.
        patience, silence, loading: see `Meeting`.
    """

    def __init__(
        self, host: str, patience: float, silence: float = SILENCE, loading: float = LOADING
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Bound here, for torch would take the port on all addresses.
        self._listener = socket.create_server((host, 0), family=family, backlog=BACKLOG)
        port = self._listener.getsockname()[1]
        self.meeting = Meeting(host, port, patience, silence, loading)

    def store(self) -> Store:
        """Return rank 0's store, which it keeps for the others as well; once.

        Raises:
            ValueError: no interface has the host's address.
        """
        _choose(self.meeting.host)
        return _store(self.meeting, self._listener.detach())


def joined_store(meeting: Meeting, address: str) -> Store:
    """Return the store as another rank sees it.

    Args:
        meeting: where it is.
        address: of this node, by which the ranks are to connect.

    Raises:
        RankLost: rank 0 does not answer.
        ValueError: no interface has the address.
    """
    _choose(address)
    return _store(meeting)


def _store(meeting: Meeting, listener: int | None = None) -> Store:
    try:
        return TCPStore(
            meeting.host,
            meeting.port,
            is_master=listener is not None,
            timeout=timedelta(seconds=meeting.patience),
            wait_for_workers=False,
            master_listen_fd=listener,
        )
    except RuntimeError as error:
        raise RankLost(str(error)) from error


def _choose(address: str) -> None:
    """Have gloo and NCCL connect by the interface that has an address.

    Between nodes, who has chosen another one knows why; within one, nothing is to leave it.
    """
    for name, form in (
        ("GLOO_SOCKET_IFNAME", "{}"),
        ("NCCL_SOCKET_IFNAME", "={}"),  # without the sign it were a prefix
    ):
        if is_loopback(address) or not os.environ.get(name):
            os.environ[name] = form.format(interface_of(address))
