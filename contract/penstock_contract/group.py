"""Where the pods of a replica that spans nodes meet.

The operator starts the worker of the first pod, which serves, and those of the others with the same
flags but for `--node-rank` and `--group-address`:

    --nodes N --node-rank 0 --group-address OWN_IP:PORT        the leader: it listens there
    --nodes N --node-rank R --group-address LEADER_IP:PORT     a follower, R from 1: it connects

What follows the last colon is the port; an IPv6 address before it may stand in brackets or not.
A leader whose group breaks ends its process, and is started again; followers wait for it. Followers
of vLLM may have to be ended by others.
"""

from typing import Final

NODES: Final = "--nodes"
"""How many there are."""
NODE_RANK: Final = "--node-rank"
"""Which one this is, from 0."""
GROUP_ADDRESS: Final = "--group-address"
"""HOST:PORT at which node 0 waits for the others; for all of them the same."""

HEALTH_PATH: Final = "/health"
"""Of a follower, on its --host and --port: 200 for as long as it lives."""
READY_PATH: Final = "/ready"
"""Of a follower: 200 in a group, 503 while it waits for a leader."""

PORT: Final = 29500
"""Of the meeting, at the leader; vLLM's default, too. Others are agreed on there."""
