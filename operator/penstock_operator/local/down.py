"""Ending a runtime from outside, and what a killed one left behind."""

import signal
import time
from collections.abc import Callable

from penstock_operator.local.errors import UserError
from penstock_operator.local.follow import Follower
from penstock_operator.local.home import Home
from penstock_operator.local.ownership import owner
from penstock_operator.local.spawn import end_stale

PAUSE = 0.1


def stop(home: Home, show: Callable[[str], None]) -> None:
    """Tell the runtime to drain and end, and wait until it has.

    How long that takes is bounded by the drain timeouts of the deployments.

    Raises:
        UserError: none is running.
    """
    runtime = owner(home)
    if runtime is None:
        if stale := end_stale(home):
            show(f"ended {stale} processes that a killed runtime had left behind")
            return
        raise UserError(f"nothing is running in {home.root}")
    follower = Follower(home, show)
    runtime.signal(signal.SIGTERM)
    while runtime.alive:
        follower.show_new_events()
        time.sleep(PAUSE)
    follower.show_new_events()
    show("everything has ended")
